//! Copies of main memory on all cores.

use super::driver::Main;
use crate::BackendError;
use crate::driver::{Driver, Span};
use std::path::Path;
use std::time::Instant;

/// Less than this is copied by the time that a thread has started.
const PART_BYTES_MIN: usize = 4 << 20;
/// More threads than this do not make any machine's memory faster.
const THREADS_MAX: usize = 64;

/// Copies `from` to `to`, which are equally long.
pub fn copy(from: &[u8], to: &mut [u8], cores: usize) {
    let threads = (from.len() / PART_BYTES_MIN).clamp(1, cores.clamp(1, THREADS_MAX));
    if threads == 1 {
        return to.copy_from_slice(from);
    }
    // Whole pages, so that no two threads write the same one.
    let part = from.len().div_ceil(threads).next_multiple_of(4096);
    std::thread::scope(|scope| {
        let mut parts = from.chunks(part).zip(to.chunks_mut(part));
        let own = parts.next();
        for (from, to) in parts {
            scope.spawn(|| to.copy_from_slice(from));
        }
        if let Some((from, to)) = own {
            to.copy_from_slice(from);
        }
    });
}

/// How often each kind of copy is timed.
const ROUNDS: usize = 15;
/// Beyond the caches of most processors.
const BENCH_BYTES: usize = 128 << 20;

/// Bytes per second that this driver copies between two of its blocks, and that `memcpy` copies between two buffers of
/// the same size, turn by turn; medians.
///
/// # Errors
/// Half a gibibyte of main memory is not to be had.
pub fn copy_vs_memcpy(root: &Path) -> Result<(u64, u64), BackendError> {
    let mut driver = Main::new(root);
    driver.open()?;
    let block = |driver: &mut Main| -> Result<Span, BackendError> {
        let span = Span {
            device: 0,
            block: driver.allocate(0, BENCH_BYTES as u64)?,
            offset: 0,
        };
        driver.write(span, &vec![1; BENCH_BYTES])?;
        Ok(span)
    };
    let (from, to) = (block(&mut driver)?, block(&mut driver)?);
    let (plain_from, mut plain_to) = (vec![1_u8; BENCH_BYTES], vec![2_u8; BENCH_BYTES]);
    let (mut ours, mut memcpy) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let one = Instant::now();
        driver.copy(from, to, BENCH_BYTES as u64)?;
        ours.push(one.elapsed());
        let one = Instant::now();
        plain_to.copy_from_slice(std::hint::black_box(&plain_from));
        std::hint::black_box(&plain_to);
        memcpy.push(one.elapsed());
    }
    driver.close()?;
    let median = |mut taken: Vec<std::time::Duration>| {
        taken.sort_unstable();
        (BENCH_BYTES as f64 / taken[ROUNDS / 2].as_secs_f64()) as u64
    };
    Ok((median(ours), median(memcpy)))
}
