//! The device's own arithmetic: the empty kernel, and square products of which the processor knows the result.

use super::open::Open;
use crate::BackendError;
use crate::driver::{Block, Multiplied, Precision, Product, Span};
use crate::half::to_half;
use std::ffi::CStr;
use std::time::Instant;

const KERNELS: &CStr = terminated(concat!(include_str!("kernels.ptx"), "\0"));
const TENSOR: &CStr = terminated(concat!(include_str!("tensor.ptx"), "\0"));

/// Rows and columns that a block of threads makes, by either module.
const BLOCK_ROWS: usize = 64;
/// Tensor cores came with compute capability 7.0.
const TENSOR_SINCE: u32 = 70;

/// A kernel and where it is written.
pub(super) struct Source {
    /// For the book of compiled kernels.
    pub(super) name: &'static str,
    pub(super) symbol: &'static CStr,
    /// For the book of compiled modules.
    pub(super) module: &'static str,
    pub(super) ptx: &'static CStr,
    threads: (u32, u32),
}

const EMPTY: Source = Source {
    name: "empty",
    symbol: c"empty",
    module: "kernels",
    ptx: KERNELS,
    threads: (1, 1),
};
const PRODUCT_F32: Source = Source {
    name: "product_f32",
    symbol: c"product_f32",
    module: "kernels",
    ptx: KERNELS,
    threads: (16, 16),
};
const PRODUCT_F16: Source = Source {
    name: "product_f16",
    symbol: c"product_f16",
    module: "kernels",
    ptx: KERNELS,
    threads: (16, 16),
};
const PRODUCT_F16_TENSOR: Source = Source {
    name: "product_f16_tensor",
    symbol: c"product_f16_tensor",
    module: "tensor",
    ptx: TENSOR,
    threads: (128, 1),
};

const fn terminated(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a kernel's text holds a zero"),
    }
}

impl Open {
    pub(super) fn launch(&mut self, device: u32) -> Result<(), BackendError> {
        let kernel = self.kernel(device, &EMPTY)?;
        let context = self.context(device)?;
        let library = self.library()?;
        library
            .launch_empty(context, kernel)
            .and_then(|()| library.synchronize(context))
            .map_err(|code| self.fault("cuLaunchKernel", code, device))
    }

    pub(super) fn multiply(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        let source = self.source(device, product.precision);
        let inputs = [
            encoded(product.precision, product.a),
            encoded(product.precision, product.b),
        ];
        let result_bytes = (product.size * product.size * size_of::<f32>()) as u64;
        let sizes = [inputs[0].len() as u64, inputs[1].len() as u64, result_bytes];
        let mut matrices: [Block; 3] = [0; 3];
        let mut multiplied = Ok(());
        let mut given = 0;
        for (matrix, size) in matrices.iter_mut().zip(sizes) {
            match self.allocate(device, size) {
                Ok(block) => *matrix = block,
                Err(error) => {
                    multiplied = Err(error);
                    break;
                }
            }
            given += 1;
        }
        let multiplied = multiplied.and_then(|()| self.multiply_in(device, source, product, &inputs, matrices));
        let mut freed = Ok(());
        for block in &matrices[..given] {
            freed = freed.and(self.free(device, *block));
        }
        // What went wrong first says more.
        multiplied.and_then(|result| freed.map(|()| result))
    }

    /// The fastest kernel that the card has. One that its driver cannot compile is as good as none.
    fn source(&mut self, device: u32, precision: Precision) -> &'static Source {
        match precision {
            Precision::F32 => &PRODUCT_F32,
            Precision::F16 => {
                let has_cores = self.architecture(device).is_some_and(|level| level >= TENSOR_SINCE);
                if has_cores && self.kernel(device, &PRODUCT_F16_TENSOR).is_ok() {
                    &PRODUCT_F16_TENSOR
                } else {
                    &PRODUCT_F16
                }
            }
        }
    }

    fn multiply_in(
        &mut self,
        device: u32,
        source: &Source,
        product: &Product<'_>,
        inputs: &[Vec<u8>; 2],
        matrices: [Block; 3],
    ) -> Result<Multiplied, BackendError> {
        let kernel = self.kernel(device, source)?;
        let context = self.context(device)?;
        let whole = |block| Span {
            device,
            block,
            offset: 0,
        };
        self.write(whole(matrices[0]), &inputs[0])?;
        self.write(whole(matrices[1]), &inputs[1])?;
        let library = self.library()?;
        let blocks = product.size.div_ceil(BLOCK_ROWS) as u32;
        let started = Instant::now();
        for _ in 0..product.repeats {
            library
                .launch_product(context, kernel, blocks, source.threads, matrices, product.size as u32)
                .map_err(|code| self.fault("cuLaunchKernel", code, device))?;
        }
        library
            .synchronize(context)
            .map_err(|code| self.fault("cuCtxSynchronize", code, device))?;
        let elapsed = started.elapsed();
        let mut bytes = vec![0u8; product.size * product.size * size_of::<f32>()];
        self.read(whole(matrices[2]), &mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(Multiplied {
            c: numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            elapsed,
        })
    }
}

/// Numbers as the device keeps them; all that NVIDIA's cards work with have the lowest byte first.
fn encoded(precision: Precision, numbers: &[f32]) -> Vec<u8> {
    match precision {
        Precision::F32 => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        Precision::F16 => numbers
            .iter()
            .flat_map(|number| to_half(*number).to_le_bytes())
            .collect(),
    }
}
