//! HIP as a [`Driver`].

use super::call::{Allocation, Attribute, Hip, Module, Refusal};
use super::card::{self, VENDOR};
use super::parse::{Node, architecture_name};
use super::rtc::{Code, Rtc};
use super::{bandwidth, failure, names, sample};
use crate::driver::{Block, Driver, Multiplied, Product, Span};
use crate::sysfs::card_at;
use crate::{Backend, BackendError, GpuDevice, Kind, MemoryInfo, Pool, Selection, UNPLUGGED, Verification};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a copy through main memory takes at a time.
const STAGE_BYTES: u64 = 4 << 20;

/// Cards by HIP; what HIP does not tell of them is read from the kernel's files below a root.
pub struct RocmDriver {
    root: PathBuf,
    only: Selection,
    pub(super) hip: Option<Hip>,
    pub(super) devices: Vec<GpuDevice>,
    /// Where the kernel's files have each device; nothing for one that they do not show.
    plugged: Vec<Option<String>>,
    blocks: HashMap<Block, Allocation>,
    next: Block,
    pub(super) rtc: Option<Result<Rtc, String>>,
    pub(super) code: HashMap<String, Code>,
    pub(super) modules: HashMap<u32, Module>,
    reach: HashMap<(u32, u32), bool>,
}

impl RocmDriver {
    /// A driver that is not open yet.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            only: Selection::All,
            hip: None,
            devices: Vec::new(),
            plugged: Vec::new(),
            blocks: HashMap::new(),
            next: 0,
            rtc: None,
            code: HashMap::new(),
            modules: HashMap::new(),
            reach: HashMap::new(),
        }
    }

    pub(super) fn hip(&self) -> Result<&Hip, BackendError> {
        self.hip
            .as_ref()
            .ok_or(BackendError::NotInitialised { backend: Backend::Rocm })
    }

    /// What a refusal means, with the words of the library.
    pub(super) fn means(&self, device: u32, refusal: Refusal) -> BackendError {
        let words = self
            .hip
            .as_ref()
            .map_or_else(String::new, |hip| hip.words(refusal.code));
        failure::meaning(refusal, &words, name(device), self.unplugged(device))
    }

    /// Whether the card was in the kernel's files when the driver was opened, and is not any more.
    fn unplugged(&self, device: u32) -> bool {
        let was = self.plugged.get(device as usize).and_then(Option::as_deref);
        was.is_some_and(|address| card_at(&self.root, VENDOR, address).is_none())
    }

    fn block(&self, span: Span) -> Result<&Allocation, BackendError> {
        self.blocks.get(&span.block).ok_or(BackendError::Failed {
            call: "hipMemcpy",
            reason: format!("block {} of {} was never allocated", span.block, name(span.device)),
        })
    }

    pub(super) fn take(&self, device: u32, bytes: u64) -> Result<Allocation, BackendError> {
        let hip = self.hip()?;
        hip.allocate(device, bytes).map_err(|refusal| match refusal.code {
            failure::OUT_OF_MEMORY => BackendError::OutOfMemory {
                device: name(device),
                wanted_bytes: bytes,
                free_bytes: hip.memory(device).map_or(0, |(free, _)| free),
            },
            _ => self.means(device, refusal),
        })
    }

    pub(super) fn give(&self, allocation: Allocation) -> Result<(), BackendError> {
        let device = allocation.device();
        self.hip()?
            .free(allocation)
            .map_err(|refusal| self.means(device, refusal))
    }

    fn copy_blocks(&self, from: (&Allocation, u64), to: (&Allocation, u64), bytes: u64) -> Result<(), BackendError> {
        let device = from.0.device();
        let copied = self.hip()?.copy(from, to, bytes);
        copied.map_err(|refusal| self.means(device, refusal))
    }

    /// Piece by piece, for devices that do not reach each other. Blocks of two devices never overlap.
    fn copy_staged(&self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        let mut stage = vec![0u8; STAGE_BYTES.min(bytes) as usize];
        let mut done = 0;
        while done < bytes {
            let piece = &mut stage[..STAGE_BYTES.min(bytes - done) as usize];
            self.read_at(from, done, piece)?;
            self.write_at(to, done, piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, from: Span, further: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        let read = self.hip()?.read(self.block(from)?, from.offset + further, bytes);
        read.map_err(|refusal| self.means(from.device, refusal))
    }

    fn write_at(&self, to: Span, further: u64, bytes: &[u8]) -> Result<(), BackendError> {
        let written = self.hip()?.write(self.block(to)?, to.offset + further, bytes);
        written.map_err(|refusal| self.means(to.device, refusal))
    }

    fn reading(&self, device: u32) -> Option<crate::telemetry::Sample> {
        let address = self.plugged.get(device as usize)?.as_ref()?;
        sample::of_card(&self.root, address)
    }
}

impl Driver for RocmDriver {
    fn backend(&self) -> Backend {
        Backend::Rocm
    }

    fn restrict(&mut self, to: &Selection) {
        self.only.clone_from(to);
    }

    fn open(&mut self) -> Result<(), BackendError> {
        if self.hip.is_some() {
            return Ok(());
        }
        let unavailable = |reason: String| BackendError::Unavailable {
            backend: Backend::Rocm,
            reason,
        };
        let hip = Hip::open().map_err(unavailable)?;
        let count = match hip.count() {
            Ok(0) => return Err(unavailable(failure::no_card(&self.root))),
            Ok(count) => count,
            Err(refusal) if failure::NO_DEVICES.contains(&refusal.code) => {
                return Err(unavailable(failure::no_card(&self.root)));
            }
            Err(refusal) => {
                let words = hip.words(refusal.code);
                return Err(unavailable(failure::not_started(refusal.call, &words)));
            }
        };
        let nodes = card::nodes(&self.root);
        self.devices = (0..count)
            .map(|index| {
                let pci_address = hip.pci_address(index);
                if self.only.picks(pci_address.as_deref().unwrap_or(UNPLUGGED)) {
                    listed(&hip, &self.root, &nodes, (index, pci_address))
                } else {
                    GpuDevice {
                        pci_address,
                        ..GpuDevice::new(Backend::Rocm, index, Kind::Discrete)
                    }
                }
            })
            .collect();
        let files = |device: &GpuDevice| {
            let address = device.pci_address.clone()?;
            card_at(&self.root, VENDOR, &address).map(|_| address)
        };
        self.plugged = self.devices.iter().map(files).collect();
        tell_partitions_apart(&mut self.devices);
        self.hip = Some(hip);
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let mut outcome = Ok(());
        for (device, module) in std::mem::take(&mut self.modules) {
            if let Some(hip) = &self.hip {
                outcome = outcome.and(hip.unload(&module).map_err(|refusal| self.means(device, refusal)));
            }
        }
        for (_, allocation) in std::mem::take(&mut self.blocks) {
            outcome = outcome.and(self.give(allocation));
        }
        self.hip = None;
        self.devices.clear();
        self.reach.clear();
        outcome
    }

    /// One that does not answer is listed with nothing free, so that its neighbours stay usable.
    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError> {
        let hip = self.hip()?;
        let mut devices = self.devices.clone();
        for device in devices.iter_mut().filter(|device| self.only.picks(device.place())) {
            match hip.memory(device.index) {
                Ok((free, total)) => {
                    device.memory_total_bytes = total;
                    device.memory_free_bytes = free.min(total);
                }
                Err(refusal) => {
                    device.memory_free_bytes = 0;
                    device.verification = Verification::CouldNotMeasure {
                        reason: self.means(device.index, refusal).to_string(),
                    };
                }
            }
            device.memory_usable_bytes = device.memory_free_bytes;
        }
        Ok(devices)
    }

    fn allocate(&mut self, device: u32, bytes: u64) -> Result<Block, BackendError> {
        let allocation = self.take(device, bytes)?;
        self.next += 1;
        self.blocks.insert(self.next, allocation);
        Ok(self.next)
    }

    fn free(&mut self, device: u32, block: Block) -> Result<(), BackendError> {
        match self.blocks.remove(&block) {
            Some(allocation) => self.give(allocation),
            None => Err(BackendError::Failed {
                call: "hipFree",
                reason: format!("block {block} of {} was never allocated", name(device)),
            }),
        }
    }

    fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError> {
        self.write_at(to, 0, bytes)
    }

    fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.read_at(from, 0, bytes)
    }

    fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        if from.device != to.device && !self.copies_directly(from.device, to.device) {
            return self.copy_staged(from, to, bytes);
        }
        let (source, target) = (self.block(from)?, self.block(to)?);
        let overlap = from.block == to.block && from.offset.abs_diff(to.offset) < bytes;
        if !overlap {
            return self.copy_blocks((source, from.offset), (target, to.offset), bytes);
        }
        let between = self.take(from.device, bytes)?;
        let copied = self
            .copy_blocks((source, from.offset), (&between, 0), bytes)
            .and_then(|()| self.copy_blocks((&between, 0), (target, to.offset), bytes));
        copied.and(self.give(between))
    }

    fn copies_directly(&mut self, from: u32, to: u32) -> bool {
        if from == to {
            return true;
        }
        if let Some(known) = self.reach.get(&(from, to)) {
            return *known;
        }
        // A refusal is an answer: the bytes go through main memory.
        let direct = self
            .hip
            .as_ref()
            .is_some_and(|hip| hip.reaches(from, to).unwrap_or(false) && hip.reaches(to, from).unwrap_or(false));
        self.reach.insert((from, to), direct);
        direct
    }

    fn synchronize(&mut self, device: u32) -> Result<(), BackendError> {
        let waited = self.hip()?.synchronize(device);
        waited.map_err(|refusal| self.means(device, refusal))
    }

    fn launch(&mut self, device: u32) -> Result<(), BackendError> {
        self.load_kernels(device, "a kernel")?;
        self.start(device, c"nothing", [1, 1], &[])?;
        self.synchronize(device)
    }

    fn multiply(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        self.product(device, product)
    }

    fn memory(&mut self, device: u32) -> Result<MemoryInfo, BackendError> {
        let asked = self.hip()?.memory(device);
        let (free, total) = asked.map_err(|refusal| self.means(device, refusal))?;
        Ok(MemoryInfo {
            total_bytes: total,
            free_bytes: free.min(total),
        })
    }

    fn temperature(&mut self, device: u32) -> Result<Option<f32>, BackendError> {
        Ok(self.reading(device).and_then(|sample| sample.temperature_celsius))
    }

    fn power(&mut self, device: u32) -> Result<Option<f32>, BackendError> {
        Ok(self.reading(device).and_then(|sample| sample.power_watts))
    }

    fn clock(&mut self, device: u32) -> Result<Option<u32>, BackendError> {
        Ok(self.reading(device).and_then(|sample| sample.clock_mhz))
    }
}

pub(super) fn name(device: u32) -> String {
    format!("rocm{device}")
}

/// What HIP says of a device, completed by the kernel's files of the card at the same address.
fn listed(hip: &Hip, root: &Path, nodes: &[Node], (index, pci_address): (u32, Option<String>)) -> GpuDevice {
    let card = pci_address
        .as_deref()
        .and_then(|address| card_at(root, VENDOR, address));
    let named = hip.name(index);
    let mut device = match &card {
        Some(card) => {
            let node = nodes.iter().find(|node| node.pci_address == card.pci_address);
            card::device(root, card, node, index)
        }
        None => {
            let shares = hip.attribute(index, Attribute::Integrated).is_some();
            let kind = if shares { Kind::Integrated } else { Kind::Discrete };
            GpuDevice {
                vendor: "amd".to_owned(),
                uuid: hip.uuid(index),
                pool: if shares { Pool::Host } else { Pool::Own },
                pci_address,
                ..GpuDevice::new(Backend::Rocm, index, kind)
            }
        }
    };
    // The kernel's files name a card exactly or only by its number; HIP may say no more than "AMD Radeon Graphics".
    let numbered = card
        .as_ref()
        .is_none_or(|card| names::known(card.device_id, card.revision).is_none());
    if let (true, None, Some(named)) = (numbered, &device.prior, named) {
        device.prior = bandwidth::prior(&named);
        device.model = named;
    }
    device.architecture = device
        .architecture
        .or_else(|| hip.architecture(index).and_then(|name| architecture_name(&name)));
    device.compute_units = hip.attribute(index, Attribute::Units).or(device.compute_units);
    device.clock_mhz = device.clock_mhz.or_else(|| {
        hip.attribute(index, Attribute::Clock)
            .map(|khz| khz / 1000)
            .filter(|mhz| *mhz > 0)
    });
    device.memory_total_bytes = hip.total_bytes(index).unwrap_or(device.memory_total_bytes);
    device
}

/// A card in partitions is several devices at one address, with one id and one memory. Each becomes a device of its own;
/// what they share is named, so that nobody counts it twice.
fn tell_partitions_apart(devices: &mut [GpuDevice]) {
    let addresses: Vec<Option<String>> = devices.iter().map(|device| device.pci_address.clone()).collect();
    for (index, device) in devices.iter_mut().enumerate() {
        let Some(address) = &addresses[index] else { continue };
        let same = |other: &&Option<String>| other.as_ref() == Some(address);
        if addresses.iter().filter(same).count() < 2 {
            continue;
        }
        let number = addresses[..index].iter().filter(same).count();
        let card = device.uuid.take().unwrap_or_else(|| address.clone());
        device.uuid = Some(format!("{card}/partition-{number}"));
        device.pci_address = None;
        device.pool = Pool::Named(address.clone());
    }
}
