//! Products on AMD's cards: kernels compiled by hipRTC, the matrices in memory that is given back in any case.

use super::call::{Allocation, Argument};
use super::driver::{RocmDriver, name};
use super::rtc::Rtc;
use crate::BackendError;
use crate::driver::{Multiplied, Precision, Product};
use std::ffi::CStr;
use std::time::Instant;

/// Rows and columns that one block of the product's kernel makes.
const TILE: u32 = 64;

impl RocmDriver {
    /// See [`crate::driver::Driver::multiply`].
    pub(super) fn product(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
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

    /// The kernels in the device's memory: compiled once per architecture, loaded once per device.
    pub(super) fn load_kernels(&mut self, device: u32, what: &'static str) -> Result<(), BackendError> {
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
            let major = self.hip()?.major;
            let rtc = self.rtc.get_or_insert_with(|| Rtc::open(major));
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

    pub(super) fn start(
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
            blocks.push(self.take(device, count as u64 * 4)?);
            let block = &blocks[blocks.len() - 1];
            hip.write(block, 0, &bytes_of(input)).map_err(failed)?;
        }
        blocks.push(self.take(device, count as u64 * 4)?);
        if product.precision == Precision::F16 {
            for input in 0..2 {
                blocks.push(self.take(device, count as u64 * 2)?);
                let arguments = [
                    Argument::Memory(&blocks[input]),
                    Argument::Memory(&blocks[blocks.len() - 1]),
                    Argument::Number(count as i32),
                ];
                self.start(device, c"narrow", [count.div_ceil(256) as u32, 1], &arguments)?;
            }
        }
        // In the order in which they were taken: A, B, C, and A and B of half precision.
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
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
