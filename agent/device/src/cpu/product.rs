//! A matrix product on all cores: the reference of everything else, and a measure of the processors.

use super::call::product::{PANEL, Simd, rows};
use crate::driver::{Multiplied, Precision, Product};
use crate::half::{from_half, to_half};
use std::time::Instant;

/// Rows that a thread takes at a time.
const ROWS: usize = 16;

/// The product, its inputs rounded to the precision asked for, its sums in single precision.
pub fn multiply(product: &Product<'_>, cores: usize) -> Multiplied {
    let simd = Simd::here().last().copied().unwrap_or(Simd::Portable);
    multiply_by(simd, product, cores)
}

/// By one of the instruction sets of this processor.
pub(super) fn multiply_by(simd: Simd, product: &Product<'_>, cores: usize) -> Multiplied {
    let n = product.size;
    let a = rounded(product.a, product.precision);
    let packed = pack(&rounded(product.b, product.precision), n);
    let mut c = vec![0.0; n * n];
    let share = (n / ROWS).div_ceil(cores.max(1)).max(1) * ROWS * n;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let mut parts = a.chunks(share).zip(c.chunks_mut(share));
        let own = parts.next();
        let packed = &packed;
        let work = move |a: &[f32], c: &mut [f32]| {
            for _ in 0..product.repeats {
                rows(simd, std::hint::black_box(a), packed, c, n);
            }
        };
        for (a, c) in parts {
            scope.spawn(move || work(a, c));
        }
        if let Some((a, c)) = own {
            work(a, c);
        }
    });
    Multiplied {
        c,
        elapsed: start.elapsed(),
    }
}

fn rounded(numbers: &[f32], precision: Precision) -> Vec<f32> {
    match precision {
        Precision::F32 => numbers.to_vec(),
        Precision::F16 => numbers.iter().map(|number| from_half(to_half(*number))).collect(),
    }
}

/// Panels of [`PANEL`] columns, each row by row, so that the inner loop reads in order.
fn pack(b: &[f32], n: usize) -> Vec<f32> {
    let mut packed = Vec::with_capacity(n * n);
    for column in (0..n).step_by(PANEL) {
        for row in 0..n {
            packed.extend_from_slice(&b[row * n + column..][..PANEL]);
        }
    }
    packed
}
