//! A matrix product by the kernel: inputs padded to whole tiles, copied in, and the result copied out.

use super::super::call::session::{Buffer, Limits};
use super::super::kernels::TILE;
use super::{Devices, NO_SESSION, failed, name};
use crate::BackendError;
use crate::driver::{Block, Driver, Multiplied, Precision, Product, Span};
use crate::half::to_half;
use std::time::Instant;

impl Devices {
    /// A product of whole tiles by the kernel.
    pub(super) fn product(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        let session = self.device(device)?.session();
        let limits = session.map_err(|error| failed(device, error))?.limits();
        let padded = product.size.next_multiple_of(TILE);
        if let Some(what) = beyond(limits, product.precision, padded) {
            return Err(BackendError::Unsupported {
                what,
                device: name(device),
            });
        }
        let mut blocks = Vec::new();
        let outcome = self.computed(device, product, padded, &mut blocks);
        let mut freed = Ok(());
        for block in blocks {
            freed = freed.and(self.free(device, block));
        }
        let multiplied = outcome?;
        freed.map(|()| multiplied)
    }

    fn computed(
        &mut self,
        device: u32,
        product: &Product<'_>,
        padded: usize,
        blocks: &mut Vec<Block>,
    ) -> Result<Multiplied, BackendError> {
        let size = product.size;
        let inputs = [product.a, product.b].map(|numbers| bytes_of(numbers, size, padded, product.precision));
        for bytes in [inputs[0].len(), inputs[1].len(), padded * padded * 4] {
            blocks.push(self.allocate(device, bytes as u64)?);
        }
        let span = |block: Block| Span {
            device,
            block,
            offset: 0,
        };
        for (block, bytes) in blocks.iter().zip(&inputs) {
            self.write(span(*block), bytes)?;
        }
        let result = blocks[2];
        self.touch(span(result), (padded * padded * 4) as u64);
        let known = self.devices.get_mut(device as usize);
        let buffers: Vec<&Buffer> = blocks
            .iter()
            .filter_map(|block| self.blocks.get(block)?.iter().next())
            .collect();
        let (Some(known), [a, b, c]) = (known, &buffers[..]) else {
            return Err(failed(device, NO_SESSION));
        };
        let start = Instant::now();
        known
            .session()
            .and_then(|session| {
                session.multiply(
                    product.precision,
                    [a, b, c],
                    (padded / TILE) as u32,
                    product.repeats.max(1),
                )
            })
            .map_err(|error| failed(device, error))?;
        let elapsed = start.elapsed();
        let mut bytes = vec![0; padded * padded * 4];
        self.read(span(result), &mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        let rows = numbers.chunks_exact(padded).take(size);
        Ok(Multiplied {
            c: rows
                .flat_map(|row| row.iter().take(size))
                .map(|number| f32::from_le_bytes(*number))
                .collect(),
            elapsed,
        })
    }
}

/// Why a product is not to be had.
pub(super) fn beyond(limits: Limits, precision: Precision, padded: usize) -> Option<&'static str> {
    let bytes = (padded * padded * 4) as u64;
    match precision {
        _ if !limits.kernels => Some("a kernel (Vulkan 1.1)"),
        Precision::F16 if !limits.halves => Some("a product in half precision"),
        _ if bytes > limits.storage_bytes.min(limits.allocation_bytes) => Some("a product of that size"),
        _ => None,
    }
}

/// A matrix as the kernel reads it: zeros to whole tiles, rounded to the precision.
pub(super) fn bytes_of(numbers: &[f32], size: usize, padded: usize, precision: Precision) -> Vec<u8> {
    let width = match precision {
        Precision::F32 => 4,
        Precision::F16 => 2,
    };
    let mut bytes = vec![0; padded * padded * width];
    for (row, line) in numbers.chunks_exact(size).zip(bytes.chunks_exact_mut(padded * width)) {
        for (number, place) in row.iter().zip(line.chunks_exact_mut(width)) {
            match precision {
                Precision::F32 => place.copy_from_slice(&number.to_le_bytes()),
                Precision::F16 => place.copy_from_slice(&to_half(*number).to_le_bytes()),
            }
        }
    }
    bytes
}
