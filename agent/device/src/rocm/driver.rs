//! HIP as a [`Driver`].

use super::call::{Allocation, Argument, Attribute, Hip, Module, Refusal};
use super::card::{self, VENDOR};
use super::parse::{Node, architecture_name};
use super::rtc::{Code, Rtc};
use super::{bandwidth, failure, names, sample};
use crate::driver::{Block, Driver, Multiplied, Precision, Product, Span};
use crate::sysfs::{Folder, card_at};
use crate::{Backend, BackendError, GpuDevice, Kind, MemoryInfo, Pool, Verification};
use std::collections::HashMap;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a copy through main memory takes at a time.
const STAGE_BYTES: u64 = 4 << 20;
/// Rows and columns that one block of the product's kernel makes.
const TILE: u32 = 64;

/// Cards by HIP; what HIP does not tell of them is read from the kernel's files below a root.
pub struct RocmDriver {
    root: PathBuf,
    hip: Option<Hip>,
    devices: Vec<GpuDevice>,
    blocks: HashMap<Block, Allocation>,
    next: Block,
    rtc: Option<Result<Rtc, String>>,
    code: HashMap<String, Code>,
    modules: HashMap<u32, Module>,
    reach: HashMap<(u32, u32), bool>,
}

impl RocmDriver {
    /// A driver that is not open yet.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            hip: None,
            devices: Vec::new(),
            blocks: HashMap::new(),
            next: 0,
            rtc: None,
            code: HashMap::new(),
            modules: HashMap::new(),
            reach: HashMap::new(),
        }
    }

    fn hip(&self) -> Result<&Hip, BackendError> {
        self.hip
            .as_ref()
            .ok_or(BackendError::NotInitialised { backend: Backend::Rocm })
    }

    /// What a refusal means, with the words of the library.
    fn means(&self, device: u32, refusal: Refusal) -> BackendError {
        let words = self
            .hip
            .as_ref()
            .map_or_else(String::new, |hip| hip.words(refusal.code));
        failure::meaning(refusal, &words, name(device), self.unplugged(device))
    }

    /// Whether the card was in the kernel's files when the driver was opened, and is not any more.
    fn unplugged(&self, device: u32) -> bool {
        let address = self
            .devices
            .get(device as usize)
            .and_then(|device| device.pci_address.as_ref());
        address.is_some_and(|address| {
            let drm = Folder::new(self.root.join("sys/class/drm"));
            drm.exists() && card_at(&self.root, VENDOR, address).is_none() && self.had_files(device)
        })
    }

    fn had_files(&self, device: u32) -> bool {
        self.devices
            .get(device as usize)
            .is_some_and(|device| device.driver.is_some())
    }

    fn block(&self, span: Span) -> Result<&Allocation, BackendError> {
        self.blocks.get(&span.block).ok_or(BackendError::Failed {
            call: "hipMemcpy",
            reason: format!("block {} of {} was never allocated", span.block, name(span.device)),
        })
    }

    fn take(&self, device: u32, bytes: u64) -> Result<Allocation, BackendError> {
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

    fn give(&self, allocation: Allocation) -> Result<(), BackendError> {
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

    /// The kernels in the device's memory: compiled once per architecture, loaded once per device.
    fn load_kernels(&mut self, device: u32, what: &'static str) -> Result<(), BackendError> {
        self.hip()?;
        if self.modules.contains_key(&device) {
            return Ok(());
        }
        let unsupported = |reason: String| BackendError::Unsupported {
            what,
            device: format!("{} ({reason})", name(device)),
        };
        let architecture = self
            .devices
            .get(device as usize)
            .and_then(|device| device.architecture.clone())
            .ok_or_else(|| unsupported("neither HIP nor the kernel names its architecture".to_owned()))?;
        if !self.code.contains_key(&architecture) {
            let rtc = self.rtc.get_or_insert_with(Rtc::open);
            let rtc = rtc.as_ref().map_err(|reason| unsupported(reason.clone()))?;
            let code = rtc.compile(&architecture).map_err(|reason| BackendError::Failed {
                call: "hiprtcCompileProgram",
                reason: format!("{}, {architecture}: {reason}", name(device)),
            })?;
            self.code.insert(architecture.clone(), code);
        }
        let loaded = self.hip()?.load(device, &self.code[&architecture]);
        let module = loaded.map_err(|refusal| self.means(device, refusal))?;
        self.modules.insert(device, module);
        Ok(())
    }

    fn start(
        &self,
        device: u32,
        kernel: &CStr,
        grid: [u32; 2],
        arguments: &[Argument<'_>],
    ) -> Result<(), BackendError> {
        let module = &self.modules[&device];
        let started = self.hip()?.launch(module, kernel, grid, arguments);
        started.map_err(|refusal| self.means(device, refusal))
    }

    /// Runs the product with blocks that the caller gives back.
    fn multiplied(
        &mut self,
        device: u32,
        product: &Product<'_>,
        blocks: &mut Vec<Allocation>,
    ) -> Result<Multiplied, BackendError> {
        let (size, count) = (product.size as i32, product.size * product.size);
        let failed = |refusal| self.means(device, refusal);
        let hip = self.hip()?;
        for input in [product.a, product.b] {
            let block = self.take(device, count as u64 * 4)?;
            hip.write(&block, 0, &bytes_of(input)).map_err(failed)?;
            blocks.push(block);
        }
        blocks.push(self.take(device, count as u64 * 4)?);
        if product.precision == Precision::F16 {
            for input in 0..2 {
                let half = self.take(device, count as u64 * 2)?;
                let arguments = [
                    Argument::Memory(&blocks[input]),
                    Argument::Memory(&half),
                    Argument::Number(count as i32),
                ];
                self.start(device, c"narrow", [count.div_ceil(256) as u32, 1], &arguments)?;
                blocks.push(half);
            }
        }
        let (kernel, a, b) = match product.precision {
            Precision::F32 => (c"product_f32", 0, 1),
            Precision::F16 => (c"product_f16", 3, 4),
        };
        let tiles = (product.size as u32).div_ceil(TILE);
        let arguments = [
            Argument::Memory(&blocks[a]),
            Argument::Memory(&blocks[b]),
            Argument::Memory(&blocks[2]),
            Argument::Number(size),
        ];
        hip.synchronize(device).map_err(failed)?;
        let began = Instant::now();
        for _ in 0..product.repeats.max(1) {
            self.start(device, kernel, [tiles, tiles], &arguments)?;
        }
        hip.synchronize(device).map_err(failed)?;
        let elapsed = began.elapsed();
        let mut bytes = vec![0u8; count * 4];
        hip.read(&blocks[2], 0, &mut bytes).map_err(failed)?;
        let c = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|number| f32::from_ne_bytes(*number))
            .collect();
        Ok(Multiplied { c, elapsed })
    }

    fn reading(&self, device: u32) -> Option<crate::telemetry::Sample> {
        let address = self.devices.get(device as usize)?.pci_address.as_ref()?;
        sample::of_card(&self.root, address)
    }
}

impl Driver for RocmDriver {
    fn backend(&self) -> Backend {
        Backend::Rocm
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
            Err(refusal) if refusal.code == failure::NO_DEVICE => {
                return Err(unavailable(failure::no_card(&self.root)));
            }
            Err(refusal) => {
                let words = hip.words(refusal.code);
                return Err(unavailable(failure::not_started(refusal.call, &words)));
            }
        };
        let nodes = card::nodes(&self.root);
        self.devices = (0..count)
            .map(|index| listed(&hip, &self.root, &nodes, index))
            .collect();
        tell_partitions_apart(&mut self.devices);
        self.hip = Some(hip);
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let mut outcome = Ok(());
        for (_, module) in std::mem::take(&mut self.modules) {
            if let Some(hip) = &self.hip {
                let device = 0;
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
        for device in &mut devices {
            match hip.memory(device.index) {
                Ok((free, total)) => {
                    device.memory_total_bytes = total.max(device.memory_total_bytes.min(total));
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
        let count = product.size.checked_mul(product.size);
        let fits = count.is_some_and(|count| count == product.a.len() && count == product.b.len() && count < 1 << 30);
        if !fits || product.size == 0 || !product.size.is_multiple_of(16) {
            return Err(BackendError::Failed {
                call: "hipModuleLaunchKernel",
                reason: format!("a product of {} rows has other inputs", product.size),
            });
        }
        self.load_kernels(device, "a matrix product")?;
        let mut blocks = Vec::new();
        let outcome = self.multiplied(device, product, &mut blocks);
        let mut given = Ok(());
        for block in blocks {
            given = given.and(self.give(block));
        }
        outcome.and_then(|multiplied| given.map(|()| multiplied))
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

fn name(device: u32) -> String {
    format!("rocm{device}")
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// What HIP says of a device, completed by the kernel's files of the card at the same address.
fn listed(hip: &Hip, root: &Path, nodes: &[Node], index: u32) -> GpuDevice {
    let pci_address = hip.pci_address(index);
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
