//! Does main memory keep what it is given, and how fast is it?

use crate::{Figure, VERIFICATION_BYTES, Verification, verification_pattern};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Long enough to average over scheduling, short enough that a node is ready at once.
const MEASURE_FOR: Duration = Duration::from_millis(150);
/// Larger than any core's share of the last-level cache.
const BLOCK_BYTES: usize = 16 << 20;
/// All threads' blocks together, so that a machine of many cores is not filled by a measurement.
const ALL_BLOCKS_BYTES: u64 = 1 << 30;
/// Of free memory, what a measurement may take.
const FREE_SHARE: u64 = 8;
/// Below this, caches are measured and not memory.
const SMALLEST_BLOCK_BYTES: usize = 4 << 20;

/// Allocates, copies in, copies back on another thread, and compares.
pub fn verify() -> Verification {
    let pattern = verification_pattern();
    let mut inside = Vec::new();
    if inside.try_reserve_exact(VERIFICATION_BYTES).is_err() {
        return Verification::CouldNotMeasure {
            reason: "1 MiB of main memory could not be allocated".to_owned(),
        };
    }
    inside.extend_from_slice(std::hint::black_box(&pattern));
    let back = std::thread::spawn(move || std::hint::black_box(inside).clone()).join();
    match back {
        Ok(back) if back == pattern => Verification::Verified,
        Ok(_) => Verification::Failed {
            reason: "1 MiB copied through main memory came back changed".to_owned(),
        },
        Err(_) => Verification::CouldNotMeasure {
            reason: "the copying thread ended early".to_owned(),
        },
    }
}

/// Copies with every core at once, and adds up what they moved. Nothing when memory is too short to tell.
pub fn bandwidth(cores: u32, free_bytes: u64, now_unix_s: u64) -> Option<Figure> {
    let threads = cores.clamp(1, 256) as usize;
    let budget = ALL_BLOCKS_BYTES.min(free_bytes / FREE_SHARE) as usize;
    let block = BLOCK_BYTES.min(budget / (2 * threads));
    if block < SMALLEST_BLOCK_BYTES {
        return None;
    }
    let barrier = Barrier::new(threads);
    let parts: Vec<Option<(f64, u32)>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| copy_for(block, &barrier)))
            .collect();
        running.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    });
    let mut sum = (0.0, 0);
    for part in parts {
        let (bytes_per_second, samples) = part?;
        sum = (sum.0 + bytes_per_second, sum.1 + samples);
    }
    Some(Figure {
        value: sum.0 as u64,
        samples: sum.1,
        measured_unix_s: now_unix_s,
    })
    .filter(|figure| figure.value > 0)
}

/// Bytes read and written per second by this thread, and the number of copies.
fn copy_for(block: usize, barrier: &Barrier) -> Option<(f64, u32)> {
    let buffers = || {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        from.try_reserve_exact(block).ok()?;
        to.try_reserve_exact(block).ok()?;
        from.resize(block, 1_u8);
        to.resize(block, 2_u8);
        Some((from, to))
    };
    let buffers = buffers();
    // Every thread reaches the barrier, or the others would wait for ever.
    barrier.wait();
    let (from, mut to) = buffers?;
    let start = Instant::now();
    let mut copies = 0_u32;
    while start.elapsed() < MEASURE_FOR {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
        copies += 1;
    }
    let moved = 2.0 * block as f64 * f64::from(copies);
    Some((moved / start.elapsed().as_secs_f64(), copies))
}
