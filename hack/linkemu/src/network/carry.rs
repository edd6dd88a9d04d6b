//! The thread that carries: one task reads each host's device, one hands over what is due.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::LocalSet;
use tokio_tun::{Tun, TunBuilder};

use super::{Direction, Links};
use crate::namespace::within;
use crate::{Error, Result, trying};

/// An Ethernet's: what a pod network without encapsulation has.
const MTU_BYTES: usize = 1500;
/// Bytes under way in one direction before more are lost: a router's buffer at some 100 Mbit/s and 80 ms.
const BUFFER_BYTES: usize = 1 << 20;
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// The devices that are to be made: the first one in our own namespace, the others in those of these paths.
pub(super) struct Plan {
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) paths: Vec<PathBuf>,
}

/// Makes the devices, says how that went, and carries until it is told to end.
pub(super) fn run(plan: &Plan, links: &Arc<Links>, started: &Sender<Result<()>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            let _ = started.send(Err(trying("a runtime")(cause)));
            return;
        }
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        match plan.devices() {
            Ok(devices) => {
                let _ = started.send(Ok(()));
                carry(devices, links).await;
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    });
}

impl Plan {
    fn devices(&self) -> Result<Vec<Tun>> {
        let mut devices = Vec::new();
        for (number, address) in self.addresses.iter().enumerate() {
            let path = number.checked_sub(1).and_then(|number| self.paths.get(number));
            devices.push(match path {
                None => device(*address)?,
                Some(path) => {
                    let runtime = Handle::current();
                    within(path, || {
                        let _entered = runtime.enter();
                        device(*address)
                    })??
                }
            });
        }
        Ok(devices)
    }
}

/// In the namespace of the calling thread; wherever it is, we read and write it from here.
fn device(address: Ipv4Addr) -> Result<Tun> {
    let built = TunBuilder::new()
        .mtu(MTU_BYTES as i32)
        .address(address)
        .netmask(NETMASK)
        .up()
        .build();
    let failed = |cause: String| Error::Tool {
        command: format!("a TUN device with {address}"),
        cause,
    };
    let mut queues = built.map_err(|error| failed(error.to_string()))?;
    queues.pop().ok_or_else(|| failed("the library made none".to_owned()))
}

async fn carry(devices: Vec<Tun>, links: &Arc<Links>) {
    let devices = Rc::new(devices);
    for from in 0..devices.len() {
        let (devices, links) = (Rc::clone(&devices), Arc::clone(links));
        tokio::task::spawn_local(async move { read(from, &devices, &links).await });
    }
    tokio::select! {
        () = hand_over(&devices, links) => {}
        () = links.ended.notified() => {}
    }
}

/// Takes what a host sends.
async fn read(from: usize, devices: &[Tun], links: &Links) {
    let mut buffer = vec![0; MTU_BYTES];
    while let Some(length) = receive(&devices[from], &mut buffer).await {
        let packet = &buffer[..length];
        let Some((to, device)) = destination(packet).and_then(|to| Some((to, devices.get(to)?))) else {
            continue;
        };
        let at_once = links.with(|directions| {
            let direction = directions.get_mut(from * links.hosts + to)?;
            direction.send(packet)
        });
        match at_once {
            Some(true) => give(device, packet),
            Some(false) => links.changed.notify_one(),
            None => {}
        }
    }
}

async fn receive(device: &Tun, buffer: &mut [u8]) -> Option<usize> {
    device.recv(buffer).await.ok()
}

/// A full device loses packets, as any does.
fn give(device: &Tun, packet: &[u8]) {
    let _ = device.try_send(packet);
}

impl Direction {
    /// Whether the packet may be handed over at once; `None` when it is lost.
    fn send(&mut self, packet: &[u8]) -> Option<bool> {
        let at_once = self.line.quality().is_perfect() && self.line.due().is_none();
        let room = self.line.held_bytes() + packet.len() <= BUFFER_BYTES;
        // A perfect line draws no lots: what it would do with the packet is known.
        if at_once || (room && self.line.push(Instant::now(), packet.to_vec())) {
            self.counts.carried += 1;
            return Some(at_once);
        }
        self.counts.lost += 1;
        None
    }
}

/// The last octet of the address counts the hosts from one. Nothing but IPv4 is carried.
fn destination(packet: &[u8]) -> Option<usize> {
    let version = packet.first()? >> 4;
    let last = packet.get(19)?;
    (version == 4).then(|| usize::from(*last).checked_sub(1))?
}

/// Hands over what is due, for ever.
async fn hand_over(devices: &[Tun], links: &Links) {
    loop {
        let now = Instant::now();
        let next = links.with(|directions| {
            for (number, direction) in directions.iter_mut().enumerate() {
                while let Some(packet) = direction.line.pop(now) {
                    give(&devices[number % links.hosts], &packet);
                }
            }
            directions.iter().filter_map(|direction| direction.line.due()).min()
        });
        let wait = async {
            match next {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            () = links.changed.notified() => {}
        }
    }
}
