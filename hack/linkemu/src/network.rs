//! Hosts in namespaces of their own and this one, each joined with each by a link whose two directions can be set apart.

mod carry;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::Notify;

use crate::line::{Line, Quality};
use crate::namespace::{Namespace, remove_stale};
use crate::{Error, Result};

/// The name of the namespace that the network is made in: that of tests, control plane and gateways.
pub const HERE: &str = "here";
/// Hosts beside our own; every pair has a line in each direction.
const HOSTS_MAX: usize = 100;

/// Counts the networks of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running network. All links are perfect at first. Dropping it ends it and removes the namespaces; what runs in them must have ended.
#[derive(Debug)]
pub struct Network {
    names: Vec<String>,
    addresses: Vec<Ipv4Addr>,
    /// Of all hosts but [`HERE`], which is the first one.
    namespaces: Vec<Namespace>,
    links: Arc<Links>,
    thread: Option<JoinHandle<()>>,
}

/// What has become of the packets of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Handed over, or under way.
    pub carried: u64,
    /// Lost as the quality says, or because too many were under way.
    pub lost: u64,
}

/// The lines between all hosts, and how the carrier is told of a change.
#[derive(Debug)]
struct Links {
    lines: Mutex<Vec<Direction>>,
    hosts: usize,
    changed: Notify,
    ended: Notify,
}

#[derive(Debug)]
struct Direction {
    line: Line,
    counts: Counts,
}

/// Whether this machine lets us have a network: its error says why not.
///
/// # Errors
/// Those of [`Network::new`].
pub fn possible() -> Result<()> {
    Network::new(&["probe"], 0).map(drop)
}

impl Network {
    /// Makes namespaces, a device with an address in each, and starts to carry. Everything random follows from the seed.
    ///
    /// # Errors
    /// Without root, or where the kernel has no namespaces or no TUN devices; nothing is left behind then.
    pub fn new(hosts: &[&str], seed: u64) -> Result<Self> {
        if hosts.len() > HOSTS_MAX || hosts.contains(&HERE) {
            return Err(Error::Hosts(format!(
                "{} hosts, or one of the name {HERE}",
                hosts.len()
            )));
        }
        remove_stale();
        let namespaces: Vec<Namespace> = hosts.iter().map(|host| Namespace::new(host)).collect::<Result<_>>()?;
        let names: Vec<String> = [HERE].iter().chain(hosts).map(ToString::to_string).collect();
        // 198.18.0.0/15 is reserved for measurements.
        let number = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 254;
        let third = u8::try_from(number).unwrap_or_default();
        let addresses: Vec<Ipv4Addr> = (1..)
            .take(names.len())
            .map(|last| Ipv4Addr::new(198, 19, third, last))
            .collect();
        let links = Arc::new(Links::new(names.len(), seed));
        let devices = carry::Plan {
            addresses: addresses.clone(),
            paths: namespaces.iter().map(Namespace::path).collect(),
        };
        let (sender, started) = mpsc::channel();
        let carried = Arc::clone(&links);
        let thread = std::thread::spawn(move || carry::run(&devices, &carried, &sender));
        let ended = || Error::Hosts("the emulator ended at once".to_owned());
        started.recv().map_err(|_| ended())??;
        Ok(Self {
            names,
            addresses,
            namespaces,
            links,
            thread: Some(thread),
        })
    }

    /// Address of a host; `None` for a name that there is not.
    pub fn address(&self, host: &str) -> Option<Ipv4Addr> {
        self.addresses.get(self.index(host).ok()?).copied()
    }

    /// Where the processes of a host belong; `None` for [`HERE`].
    pub fn namespace(&self, host: &str) -> Option<&Namespace> {
        self.namespaces.get(self.index(host).ok()?.checked_sub(1)?)
    }

    /// What one direction of a link is like from now on.
    ///
    /// # Errors
    /// A host that there is not.
    pub fn set(&self, from: &str, to: &str, quality: Quality) -> Result<()> {
        let (from, to) = (self.index(from)?, self.index(to)?);
        self.links.set(|pair| pair == (from, to), quality);
        Ok(())
    }

    /// The same for both directions of all links of a host.
    ///
    /// # Errors
    /// A host that there is not.
    pub fn set_all_of(&self, host: &str, quality: Quality) -> Result<()> {
        let host = self.index(host)?;
        self.links.set(|(from, to)| from == host || to == host, quality);
        Ok(())
    }

    /// The same for every link.
    pub fn set_all(&self, quality: Quality) {
        self.links.set(|_| true, quality);
    }

    /// Every link is perfect again.
    pub fn mend(&self) {
        self.set_all(Quality::PERFECT);
    }

    /// What has become of the packets of one direction; nothing where there is no such host.
    pub fn counts(&self, from: &str, to: &str) -> Counts {
        match (self.index(from), self.index(to)) {
            (Ok(from), Ok(to)) => self.links.counts(from, to),
            _ => Counts::default(),
        }
    }

    fn index(&self, host: &str) -> Result<usize> {
        let found = self.names.iter().position(|name| name == host);
        found.ok_or_else(|| Error::Hosts(format!("no host {host:?} among {:?}", self.names)))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.links.ended.notify_one();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked over anything that matters now.
            let _ = thread.join();
        }
    }
}

impl Links {
    fn new(hosts: usize, seed: u64) -> Self {
        let now = Instant::now();
        let direction = |number: u64| Direction {
            line: Line::new(Quality::PERFECT, seed.wrapping_mul(1 << 16).wrapping_add(number), now),
            counts: Counts::default(),
        };
        Self {
            lines: Mutex::new((0..).take(hosts * hosts).map(direction).collect()),
            hosts,
            changed: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// Runs a function on all directions; that from one host to another is at `from * hosts + to`.
    fn with<T>(&self, work: impl FnOnce(&mut Vec<Direction>) -> T) -> T {
        work(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, wanted: impl Fn((usize, usize)) -> bool, quality: Quality) {
        self.with(|directions| {
            for (number, direction) in directions.iter_mut().enumerate() {
                if wanted((number / self.hosts, number % self.hosts)) {
                    direction.line.set(quality);
                }
            }
        });
        self.changed.notify_one();
    }

    fn counts(&self, from: usize, to: usize) -> Counts {
        self.with(|directions| {
            let direction = directions.get(from * self.hosts + to);
            direction.map_or_else(Counts::default, |direction| direction.counts)
        })
    }
}
