//! Main memory and the processors as a device like any other.

use super::call::zeroed;
use super::copy::copy;
use super::parse::{self, Level, Processor};
use super::sensors::Sensors;
use super::{Memory, isa, memory, product, read};
use crate::driver::{Block, Driver, Multiplied, Product, Span};
use crate::promised::Promised;
use crate::{Backend, BackendError, GpuDevice, Kind, MemoryInfo, SupportLevel, Verification};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The only device's name in errors.
const NAME: &str = "cpu0";

/// Memory below `root` ("/" but in tests).
pub(super) struct Main {
    root: PathBuf,
    cores: usize,
    processor: Option<Processor>,
    blocks: HashMap<Block, Box<[u8]>>,
    promised: Promised,
    next: Block,
    sensors: Sensors,
}

impl Main {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: None,
            blocks: HashMap::new(),
            promised: Promised::default(),
            next: 1,
            sensors: Sensors::new(root),
        }
    }

    /// What the kernel would give, less what it has promised already.
    fn available(&self) -> Result<Memory, BackendError> {
        let memory = memory(&self.root).map_err(|reason| BackendError::Failed {
            call: "reading /proc/meminfo",
            reason,
        })?;
        let free_bytes = memory.free_bytes.saturating_sub(self.promised.untouched_bytes());
        Ok(Memory { free_bytes, ..memory })
    }

    fn block(&mut self, block: Block) -> Result<&mut Box<[u8]>, BackendError> {
        self.blocks.get_mut(&block).ok_or_else(unknown_block)
    }
}

/// Only a caller that breaks [`Driver`]'s rules sees it.
fn unknown_block() -> BackendError {
    BackendError::Failed {
        call: "finding a block",
        reason: "it was freed or never allocated".to_owned(),
    }
}

/// As places in a slice; blocks are no longer than the address space.
fn range(span: Span, bytes: usize) -> std::ops::Range<usize> {
    span.offset as usize..span.offset as usize + bytes
}

impl Driver for Main {
    fn backend(&self) -> Backend {
        Backend::Cpu
    }

    fn open(&mut self) -> Result<(), BackendError> {
        memory(&self.root).map_err(|reason| BackendError::Unavailable {
            backend: Backend::Cpu,
            reason,
        })?;
        let processor = parse::cpuinfo(&read(&self.root, "proc/cpuinfo").unwrap_or_default());
        // A recorded machine's instructions are not this one's.
        let broken = if self.root == Path::new("/") {
            isa::broken(&processor.flags)
        } else {
            Vec::new()
        };
        self.processor = Some(processor.without(&broken));
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.blocks.clear();
        self.promised.clear();
        self.processor = None;
        Ok(())
    }

    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError> {
        let memory = self.available()?;
        let processor = self
            .processor
            .clone()
            .ok_or(BackendError::NotInitialised { backend: Backend::Cpu })?;
        let mut device = GpuDevice::new(Backend::Cpu, 0, Kind::Cpu);
        if let Some(reason) = unfit(&processor) {
            device.verification = Verification::Failed { reason };
            device.support = SupportLevel::Unsupported;
        } else if matches!(processor.level, Level::X86(_)) {
            device.support = SupportLevel::Tried;
        }
        Ok(vec![GpuDevice {
            vendor: processor.vendor,
            model: processor.model,
            architecture: Some(processor.level.to_string()),
            compute_units: Some(self.cores as u32),
            clock_mhz: self.sensors.highest_clock_mhz(),
            power_limit_watts: self.sensors.power_limit_watts(),
            memory_total_bytes: memory.total_bytes,
            memory_free_bytes: memory.free_bytes,
            memory_usable_bytes: memory.free_bytes,
            ..device
        }])
    }

    fn allocate(&mut self, _device: u32, bytes: u64) -> Result<Block, BackendError> {
        let free_bytes = self.available()?.free_bytes;
        let refused = BackendError::OutOfMemory {
            device: NAME.to_owned(),
            wanted_bytes: bytes,
            free_bytes,
        };
        if bytes > free_bytes {
            return Err(refused);
        }
        // Without overcommitment, or under a limit of its own, the kernel may give less than it calls free.
        let memory = usize::try_from(bytes).ok().and_then(zeroed).ok_or(refused)?;
        let block = self.next;
        self.next += 1;
        self.promised.enter(block, bytes);
        self.blocks.insert(block, memory);
        Ok(block)
    }

    fn free(&mut self, _device: u32, block: Block) -> Result<(), BackendError> {
        self.promised.strike(block);
        self.blocks.remove(&block).map(drop).ok_or_else(unknown_block)
    }

    fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError> {
        let cores = self.cores;
        self.promised.touch(to.block, to.offset, bytes.len() as u64);
        copy(bytes, &mut self.block(to.block)?[range(to, bytes.len())], cores);
        Ok(())
    }

    fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError> {
        let cores = self.cores;
        copy(&self.block(from.block)?[range(from, bytes.len())], bytes, cores);
        Ok(())
    }

    fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        let length = bytes as usize;
        self.promised.touch(to.block, to.offset, bytes);
        if from.block == to.block {
            self.block(to.block)?
                .copy_within(range(from, length), range(to, length).start);
            return Ok(());
        }
        let [Some(source), Some(target)] = self.blocks.get_disjoint_mut([&from.block, &to.block]) else {
            return Err(unknown_block());
        };
        copy(&source[range(from, length)], &mut target[range(to, length)], self.cores);
        Ok(())
    }

    fn synchronize(&mut self, _device: u32) -> Result<(), BackendError> {
        Ok(())
    }

    fn launch(&mut self, _device: u32) -> Result<(), BackendError> {
        // The least that gets other cores to work: a thread that begins and ends.
        std::thread::scope(|scope| {
            scope.spawn(|| std::hint::black_box(()));
        });
        Ok(())
    }

    fn multiply(&mut self, _device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        Ok(product::multiply(product, self.cores))
    }

    fn memory(&mut self, _device: u32) -> Result<MemoryInfo, BackendError> {
        self.available().map(|memory| MemoryInfo {
            total_bytes: memory.total_bytes,
            free_bytes: memory.free_bytes,
        })
    }

    fn temperature(&mut self, _device: u32) -> Result<Option<f32>, BackendError> {
        Ok(self.sensors.celsius().and_then(Result::ok))
    }

    fn power(&mut self, _device: u32) -> Result<Option<f32>, BackendError> {
        Ok(self.sensors.power(Instant::now()).watts)
    }

    fn clock(&mut self, _device: u32) -> Result<Option<u32>, BackendError> {
        Ok(self.sensors.clock_mhz())
    }
}

/// Why the engine cannot compute here.
fn unfit(processor: &Processor) -> Option<String> {
    let Level::X86(level) = processor.level else {
        return None;
    };
    (level < parse::BASELINE_LEVEL).then(|| {
        let lies = if processor.broken.is_empty() {
            String::new()
        } else {
            format!("; it claims {} and stops at them", processor.broken.join(", "))
        };
        format!(
            "UnsupportedCPU: {} is x86-64-v{level}; llama.cpp is built for x86-64-v{} (AVX2, FMA, F16C){lies}",
            processor.model,
            parse::BASELINE_LEVEL
        )
    })
}
