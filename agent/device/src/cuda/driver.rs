//! NVIDIA's cards as a [`Driver`]: CUDA does the work, NVML describes the cards where it is present.

use super::gather::gather;
use super::nvml::parse::{celsius, megahertz, watts};
use super::open::Open;
use crate::driver::{Block, Driver, Multiplied, Product, Span};
use crate::{Backend, BackendError, GpuDevice, MemoryInfo, Selection};

/// NVIDIA's libraries; loaded by [`Driver::open`], let go by [`Driver::close`] or when dropped.
#[derive(Default)]
pub struct CudaDriver {
    only: Selection,
    open: Option<Open>,
}

impl CudaDriver {
    /// Not yet loaded.
    pub fn new() -> Self {
        Self::default()
    }

    fn open_mut(&mut self) -> Result<&mut Open, BackendError> {
        self.open
            .as_mut()
            .ok_or(BackendError::NotInitialised { backend: Backend::Cuda })
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.close();
    }
}

impl Driver for CudaDriver {
    fn backend(&self) -> Backend {
        Backend::Cuda
    }

    fn restrict(&mut self, to: &Selection) {
        self.only.clone_from(to);
    }

    fn open(&mut self) -> Result<(), BackendError> {
        if self.open.is_none() {
            let open = gather(&self.only).map_err(|reason| BackendError::Unavailable {
                backend: Backend::Cuda,
                reason,
            })?;
            self.open = Some(open);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        open.let_all_go()
    }

    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError> {
        Ok(self.open_mut()?.devices())
    }

    fn allocate(&mut self, device: u32, bytes: u64) -> Result<Block, BackendError> {
        self.open_mut()?.allocate(device, bytes)
    }

    fn free(&mut self, device: u32, block: Block) -> Result<(), BackendError> {
        self.open_mut()?.free(device, block)
    }

    fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError> {
        self.open_mut()?.write(to, bytes)
    }

    fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.open_mut()?.read(from, bytes)
    }

    fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        self.open_mut()?.copy(from, to, bytes)
    }

    fn copies_directly(&mut self, from: u32, to: u32) -> bool {
        from == to || self.open_mut().and_then(|open| open.direct(from, to)).unwrap_or(false)
    }

    fn synchronize(&mut self, device: u32) -> Result<(), BackendError> {
        let open = self.open_mut()?;
        let context = open.context(device)?;
        open.library()?
            .synchronize(context)
            .map_err(|code| open.fault("cuCtxSynchronize", code, device))
    }

    fn launch(&mut self, device: u32) -> Result<(), BackendError> {
        self.open_mut()?.launch(device)
    }

    fn multiply(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        self.open_mut()?.multiply(device, product)
    }

    fn memory(&mut self, device: u32) -> Result<MemoryInfo, BackendError> {
        let open = self.open_mut()?;
        let context = open.context(device)?;
        let (free_bytes, total_bytes) = open
            .library()?
            .memory(context)
            .map_err(|code| open.fault("cuMemGetInfo", code, device))?;
        Ok(MemoryInfo {
            total_bytes,
            free_bytes,
        })
    }

    fn temperature(&mut self, device: u32) -> Result<Option<f32>, BackendError> {
        let readings = self.open_mut()?.readings(device)?;
        Ok(readings
            .and_then(|raw| raw.temperature)
            .and_then(|value| celsius(value).ok()))
    }

    fn power(&mut self, device: u32) -> Result<Option<f32>, BackendError> {
        Ok(watts(self.open_mut()?.readings(device)?.and_then(|raw| raw.power_mw)))
    }

    fn clock(&mut self, device: u32) -> Result<Option<u32>, BackendError> {
        Ok(megahertz(
            self.open_mut()?.readings(device)?.and_then(|raw| raw.clock_mhz),
        ))
    }
}
