//! A driver for tests: main memory, a processor, and whatever goes wrong.

use crate::driver::{Block, Driver, Multiplied, Precision, Product, Span};
use crate::half::{from_half, to_half};
use crate::{Backend, BackendError, GpuDevice, Kind, MemoryInfo};
use std::collections::HashMap;
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    None,
    /// In every read, the lowest bit of that byte.
    FlipsBit(usize),
    CopiesNothing,
    AddsToFirst(f32),
    Transposes,
    RoundsToHalf,
    SumsBackwards,
    GivesNoNumbers,
    /// The call of that number.
    FailsAt(u32),
    FailsToList,
    /// When it is asked to wait.
    Panics,
}

pub(crate) struct Fake {
    pub(crate) fault: Fault,
    pub(crate) blocks: HashMap<Block, Vec<u8>>,
    pub(crate) found: Vec<GpuDevice>,
    pub(crate) memory: MemoryInfo,
    pub(crate) products: u32,
    calls: u32,
    next: Block,
}

impl Fake {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            fault: Fault::None,
            blocks: HashMap::new(),
            found: (0..count)
                .map(|index| GpuDevice {
                    uuid: Some(format!("card-{index}")),
                    driver: Some("1.0".to_owned()),
                    ..GpuDevice::new(Backend::Cuda, index, Kind::Discrete)
                })
                .collect(),
            memory: MemoryInfo {
                total_bytes: 128 << 20,
                free_bytes: 128 << 20,
            },
            products: 0,
            calls: 0,
            next: 0,
        }
    }

    fn call(&mut self) -> Result<(), BackendError> {
        self.calls += 1;
        match self.fault {
            Fault::FailsAt(call) if call + 1 == self.calls => Err(gone()),
            _ => Ok(()),
        }
    }

    fn part(&mut self, span: Span, bytes: usize) -> &mut [u8] {
        &mut self.blocks.get_mut(&span.block).expect("a block that lives")[span.offset as usize..][..bytes]
    }
}

fn gone() -> BackendError {
    BackendError::Lost {
        device: "cuda0".to_owned(),
        reason: "the card is gone".to_owned(),
    }
}

impl Driver for Fake {
    fn backend(&self) -> Backend {
        Backend::Cuda
    }

    fn open(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError> {
        match self.fault {
            Fault::FailsToList => Err(gone()),
            _ => Ok(self.found.clone()),
        }
    }

    fn allocate(&mut self, _device: u32, bytes: u64) -> Result<Block, BackendError> {
        self.call()?;
        self.next += 1;
        self.blocks.insert(self.next, vec![0; bytes as usize]);
        Ok(self.next)
    }

    fn free(&mut self, _device: u32, block: Block) -> Result<(), BackendError> {
        self.blocks.remove(&block).expect("a block is freed once");
        Ok(())
    }

    fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError> {
        self.call()?;
        self.part(to, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.call()?;
        bytes.copy_from_slice(self.part(from, bytes.len()));
        if let Fault::FlipsBit(place) = self.fault {
            bytes[place] ^= 1;
        }
        Ok(())
    }

    fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        self.call()?;
        if !matches!(self.fault, Fault::CopiesNothing) {
            let content = self.part(from, bytes as usize).to_vec();
            self.part(to, bytes as usize).copy_from_slice(&content);
        }
        Ok(())
    }

    fn copies_directly(&mut self, from: u32, to: u32) -> bool {
        from.abs_diff(to) < 2
    }

    fn synchronize(&mut self, _device: u32) -> Result<(), BackendError> {
        assert!(!matches!(self.fault, Fault::Panics), "a fault of the driver");
        self.call()
    }

    fn launch(&mut self, _device: u32) -> Result<(), BackendError> {
        self.call()
    }

    fn multiply(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        self.call()?;
        self.products += 1;
        if product.precision == Precision::F16 {
            return Err(BackendError::Unsupported {
                what: "half precision",
                device: format!("cuda{device}"),
            });
        }
        let n = product.size;
        let round = |number: f32| match self.fault {
            Fault::RoundsToHalf => from_half(to_half(number)),
            _ => number,
        };
        let number = |row: usize, column: usize| -> f32 {
            let term = |k: usize| round(product.a[row * n + k]) * round(product.b[k * n + column]);
            match self.fault {
                Fault::SumsBackwards => (0..n).rev().map(term).sum(),
                _ => (0..n).map(term).sum(),
            }
        };
        let mut c: Vec<f32> = (0..n * n)
            .map(|place| match self.fault {
                Fault::Transposes => number(place % n, place / n),
                _ => number(place / n, place % n),
            })
            .collect();
        match self.fault {
            Fault::AddsToFirst(more) => c[0] += more,
            Fault::GivesNoNumbers => c.clear(),
            _ => {}
        }
        Ok(Multiplied {
            c,
            // As if every product took as long, however large: figures can be told exactly.
            elapsed: Duration::from_millis(100) * product.repeats,
        })
    }

    fn memory(&mut self, _device: u32) -> Result<MemoryInfo, BackendError> {
        Ok(self.memory)
    }

    fn temperature(&mut self, _device: u32) -> Result<Option<f32>, BackendError> {
        Ok(None)
    }

    fn power(&mut self, _device: u32) -> Result<Option<f32>, BackendError> {
        Ok(None)
    }

    fn clock(&mut self, _device: u32) -> Result<Option<u32>, BackendError> {
        Ok(None)
    }
}
