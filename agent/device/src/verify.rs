//! Does a device do what it is asked? One mebibyte in, within and out; then a product that the processor computes as well.

use crate::driver::{Driver, Precision, Product};
use crate::held::Held;
use crate::{BackendError, VERIFICATION_BYTES, Verification, verification_pattern};

/// Rows and columns of the golden product.
pub const GOLDEN_SIZE: usize = 128;

/// Verifies one device. All memory is given back, whatever the outcome. Takes milliseconds, and as long as a wedged
/// driver likes. A driver that answers wrongly gives [`Verification::Failed`], one that refuses or breaks off
/// [`Verification::CouldNotMeasure`].
pub fn verify(driver: &mut dyn Driver, device: u32) -> Verification {
    let copied = round_trip(&mut Held::new(driver), device);
    let outcome = copied.and_then(|()| golden(driver, device));
    match outcome {
        Ok(()) => Verification::Verified,
        Err(Flaw::Wrong(reason)) => Verification::Failed { reason },
        Err(Flaw::Unasked(reason)) => Verification::CouldNotMeasure { reason },
    }
}

/// What kept a device from being verified.
#[derive(Debug, PartialEq)]
enum Flaw {
    /// It answered, and wrongly.
    Wrong(String),
    /// It did not answer.
    Unasked(String),
}

fn during(step: &'static str) -> impl Fn(BackendError) -> Flaw {
    move |error| Flaw::Unasked(format!("{step}: {error}"))
}

fn round_trip(held: &mut Held<'_>, device: u32) -> Result<(), Flaw> {
    let bytes = VERIFICATION_BYTES as u64;
    let pattern = verification_pattern();
    let first = held
        .allocate(device, bytes)
        .map_err(during("allocating the first mebibyte"))?;
    let second = held
        .allocate(device, bytes)
        .map_err(during("allocating the second mebibyte"))?;
    // Memory may still hold what an earlier verification left there, which would hide a copy that does nothing.
    let opposite: Vec<u8> = pattern.iter().map(|byte| !byte).collect();
    held.driver
        .write(second, &opposite)
        .map_err(during("copying 1 MiB in"))?;
    held.driver.write(first, &pattern).map_err(during("copying 1 MiB in"))?;
    held.driver
        .copy(first, second, bytes)
        .map_err(during("copying 1 MiB within"))?;
    held.driver
        .synchronize(device)
        .map_err(during("waiting for the device"))?;
    let mut back = vec![0; VERIFICATION_BYTES];
    held.driver
        .read(second, &mut back)
        .map_err(during("copying 1 MiB out"))?;
    match difference(&pattern, &back) {
        Some(reason) => Err(Flaw::Wrong(reason)),
        None => held.free().map_err(during("giving memory back")),
    }
}

/// The first byte that differs, and how many do.
fn difference(expected: &[u8], got: &[u8]) -> Option<String> {
    let differs = || expected.iter().zip(got).enumerate().filter(|(_, (x, y))| x != y);
    let (position, (want, have)) = differs().next()?;
    Some(format!(
        "1 MiB copied in, within and out came back with {} bytes changed; byte {position}: expected {want:#04x}, got {have:#04x}",
        differs().count()
    ))
}

fn golden(driver: &mut dyn Driver, device: u32) -> Result<(), Flaw> {
    let (a, b) = (numbers(1), numbers(2));
    let product = Product {
        precision: Precision::F32,
        size: GOLDEN_SIZE,
        a: &a,
        b: &b,
        repeats: 1,
    };
    let multiplied = driver
        .multiply(device, &product)
        .map_err(during("multiplying 128x128"))?;
    judge(&a, &b, &multiplied.c).map_err(Flaw::Wrong)
}

/// Numbers in [-1, 1) without pattern, the same on every machine; rows and columns differ, so that a transposed
/// or shifted result is wrong.
pub(crate) fn numbers(seed: u32) -> Vec<f32> {
    random(seed, GOLDEN_SIZE * GOLDEN_SIZE)
}

/// As many such numbers as wanted.
pub(crate) fn random(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B1) | 1;
    let next = || {
        // xorshift (Marsaglia, Journal of Statistical Software 8-14, 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Compares with the processor's product in double precision.
///
/// The tolerance of an element is n·u·Σ|aᵢ·bᵢ|, the a-priori bound of a sum of n products in any order, fused or not
/// (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1), with u = 2⁻²³: a device may round either
/// way, as Vulkan allows. Inputs cut to 10 or fewer bits, such as TF32's or a half's, exceed it.
fn judge(a: &[f32], b: &[f32], c: &[f32]) -> Result<(), String> {
    let n = GOLDEN_SIZE;
    if c.len() != n * n {
        return Err(format!("a product of {n}x{n} came back with {} numbers", c.len()));
    }
    let mut wrong = 0_usize;
    let mut first = None;
    for row in 0..n {
        for column in 0..n {
            let terms = (0..n).map(|k| f64::from(a[row * n + k]) * f64::from(b[k * n + column]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size): (f64, f64), term| {
                (sum + term, size + term.abs())
            });
            let allowed = n as f64 * f64::from(f32::EPSILON) * size;
            let got = c[row * n + column];
            // Not written as "is beyond": a difference that is not a number is wrong as well.
            let within = (f64::from(got) - sum).abs() <= allowed;
            if !within {
                wrong += 1;
                first.get_or_insert((row, column, sum, got, allowed));
            }
        }
    }
    match first {
        None => Ok(()),
        Some((row, column, expected, got, allowed)) => Err(format!(
            "{wrong} of {} numbers of a 128x128 product are wrong; row {row}, column {column}: expected {expected:.6} \
             within {allowed:.6}, got {got:.6}",
            n * n
        )),
    }
}

#[cfg(test)]
mod tests;
