//! The product's inner loops, compiled once for each instruction set that it pays for.

/// Columns of a panel of the right matrix: a line of the cache.
pub(crate) const PANEL: usize = 16;
/// Rows of a panel that stay in the first cache: 16 KiB.
const DEPTH: usize = 256;

/// Instruction sets that differ for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Simd {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// Of this processor, all that there are.
    pub(crate) fn here() -> Vec<Simd> {
        let mut here = vec![Simd::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                here.push(Simd::Avx2);
            }
            if std::arch::is_x86_feature_detected!("avx512f") {
                here.push(Simd::Avx512);
            }
        }
        here
    }
}

/// Adds to nothing: `c` becomes the product of some rows of the left matrix (`n` numbers each, as many rows as `c` has,
/// a multiple of 8) and the right one, packed in panels of [`PANEL`] columns. `simd` is one of [`Simd::here`].
pub(crate) fn rows(simd: Simd, a: &[f32], packed: &[f32], c: &mut [f32], n: usize) {
    match simd {
        Simd::Portable => band::<4, false>(a, packed, c, n),
        // SAFETY: `Simd::here` names it only where the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { band_avx2(a, packed, c, n) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { band_avx512(a, packed, c, n) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn band_avx2(a: &[f32], packed: &[f32], c: &mut [f32], n: usize) {
    band::<4, true>(a, packed, c, n);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn band_avx512(a: &[f32], packed: &[f32], c: &mut [f32], n: usize) {
    band::<8, true>(a, packed, c, n);
}

#[inline(always)]
fn band<const ROWS: usize, const FUSED: bool>(a: &[f32], packed: &[f32], c: &mut [f32], n: usize) {
    c.fill(0.0);
    for from in (0..n).step_by(DEPTH) {
        let depth = DEPTH.min(n - from);
        for (panel, column) in packed.chunks_exact(n * PANEL).zip((0..n).step_by(PANEL)) {
            let panel = &panel[from * PANEL..(from + depth) * PANEL];
            for (a, c) in a.chunks_exact(ROWS * n).zip(c.chunks_exact_mut(ROWS * n)) {
                let left: [&[f32]; ROWS] = std::array::from_fn(|row| &a[row * n + from..][..depth]);
                let sums = tile::<ROWS, FUSED>(left, panel);
                for (row, sums) in sums.iter().enumerate() {
                    let c = &mut c[row * n + column..][..PANEL];
                    c.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
                }
            }
        }
    }
}

#[inline(always)]
fn tile<const ROWS: usize, const FUSED: bool>(left: [&[f32]; ROWS], panel: &[f32]) -> [[f32; PANEL]; ROWS] {
    let mut sums = [[0.0_f32; PANEL]; ROWS];
    let (lines, _) = panel.as_chunks::<PANEL>();
    for (k, line) in lines.iter().enumerate() {
        for row in 0..ROWS {
            let x = left[row][k];
            for (sum, y) in sums[row].iter_mut().zip(line) {
                // Without the instruction, fusing is a call of a function per number.
                *sum = if FUSED { x.mul_add(*y, *sum) } else { *sum + x * y };
            }
        }
    }
    sums
}
