//! How fast is a device? Medians of short timed runs, off any hot path. What could not be measured is absent.

use crate::driver::{Driver, Precision, Product, Span};
use crate::held::Held;
use crate::verify::random;
use crate::{Backend, Figure, GpuDevice, Measured, PeerCopy};
use std::time::{Duration, Instant};

/// What [`measure`] takes for a device, about: a run that has begun is finished.
pub const DEVICE_BUDGET: Duration = Duration::from_millis(500);

/// Larger than most cards' caches: the largest have 256 MiB, most 32 MiB or less. Two blocks of this size are used.
const COPY_BYTES: u64 = 128 << 20;
/// Of processors, for each of them: larger than its share of the last-level cache.
const COPY_BYTES_PER_CORE: u64 = 16 << 20;
/// Of processors, all together: pages of main memory have to be touched first, which takes longer than the copies.
const COPY_BYTES_CORES: std::ops::RangeInclusive<u64> = (32 << 20)..=(512 << 20);
/// Of free memory, what one of two blocks may take.
const FREE_SHARE: u64 = 16;
/// Below this, caches are measured and not memory.
const COPY_BYTES_MIN: u64 = 4 << 20;
/// Of main memory, what a copy to or from a device takes.
const HOST_BYTES: u64 = 16 << 20;
/// A median of more says nothing new.
const SAMPLES_MAX: usize = 64;
const LAUNCHES: usize = 32;
const PRODUCT_SIZE_MIN: usize = 128;
/// A product of this size has 17 billion operations: long enough for any card, and its inputs are 16 MiB each.
const PRODUCT_SIZE_MAX: usize = 2048;
const PRODUCT_SAMPLES: usize = 5;

/// Measures everything within [`DEVICE_BUDGET`].
pub fn measure(driver: &mut dyn Driver, device: u32, now_unix_s: u64) -> Measured {
    measure_within(driver, device, DEVICE_BUDGET, now_unix_s)
}

/// Measures what `budget` lasts for, what placement needs most first. All memory is given back. A figure is never zero.
pub fn measure_within(driver: &mut dyn Driver, device: u32, budget: Duration, now_unix_s: u64) -> Measured {
    let mut clock = Clock::new(budget, 6, now_unix_s);
    Measured {
        bandwidth_bytes_per_second: clock.part(|until| bandwidth(driver, device, until)),
        launch_ns: clock.part(|until| launch(driver, device, until)),
        f32_flops_per_second: clock.part(|until| flops(driver, device, Precision::F32, until)),
        to_device_bytes_per_second: clock.part(|until| to_device(driver, device, until)),
        from_device_bytes_per_second: clock.part(|until| from_device(driver, device, until)),
        f16_flops_per_second: clock.part(|until| flops(driver, device, Precision::F16, until)),
        peers: Vec::new(),
    }
}

/// Measures copies from one device to each of the others within `budget`. Devices that cannot be reached are left out.
pub fn peers(
    driver: &mut dyn Driver,
    device: u32,
    others: &[GpuDevice],
    budget: Duration,
    now_unix_s: u64,
) -> Vec<PeerCopy> {
    let others: Vec<&GpuDevice> = others.iter().filter(|other| other.index != device).collect();
    let mut clock = Clock::new(budget, others.len() as u32, now_unix_s);
    let mut peers = Vec::new();
    for other in others {
        let figure = clock.part(|until| between(driver, device, other.index, until));
        if let Some(bytes_per_second) = figure {
            peers.push(PeerCopy {
                to: other.identity(),
                direct: driver.copies_directly(device, other.index),
                bytes_per_second,
            });
        }
    }
    peers
}

/// A budget that parts are measured within, one after the other. What one leaves the next ones have, and what one takes
/// too much they all lack.
struct Clock {
    end: Instant,
    parts: u32,
    now_unix_s: u64,
}

/// Values of the timed runs of one part.
type Samples = Option<Vec<f64>>;

impl Clock {
    fn new(budget: Duration, parts: u32, now_unix_s: u64) -> Self {
        Self {
            end: Instant::now() + budget,
            parts,
            now_unix_s,
        }
    }

    /// The median of what `run` measures within its part of what is left; nothing where nothing is.
    fn part(&mut self, run: impl FnOnce(Instant) -> Samples) -> Option<Figure> {
        let now = Instant::now();
        let left = self.end.saturating_duration_since(now);
        let share = left / self.parts.max(1);
        self.parts = self.parts.saturating_sub(1);
        if left.is_zero() {
            return None;
        }
        figure(run(now + share)?, self.now_unix_s)
    }
}

/// The median, where it is a number that can be believed.
fn figure(mut samples: Vec<f64>, now_unix_s: u64) -> Option<Figure> {
    samples.sort_unstable_by(f64::total_cmp);
    let median = samples.get(samples.len() / 2).copied()?;
    let value = median as u64;
    (median.is_finite() && value > 0).then_some(Figure {
        value,
        samples: samples.len() as u32,
        measured_unix_s: now_unix_s,
    })
}

/// Times `run` again and again, at least once: amounts per second.
fn rates(amount: f64, until: Instant, mut run: impl FnMut() -> Option<()>) -> Samples {
    let mut samples = Vec::new();
    while samples.len() < SAMPLES_MAX && (samples.is_empty() || Instant::now() < until) {
        let one = Instant::now();
        run()?;
        // A clock that did not move gives an infinite rate, which is no figure.
        samples.push(amount / one.elapsed().as_secs_f64());
    }
    Some(samples)
}

/// What a copy within a device takes: beyond its caches, and a small part of its memory.
fn copy_bytes(driver: &mut dyn Driver, device: u32) -> Option<u64> {
    let free_bytes = driver.memory(device).ok()?.free_bytes;
    let wanted_bytes = match driver.backend() {
        Backend::Cpu => {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
            (cores * COPY_BYTES_PER_CORE).clamp(*COPY_BYTES_CORES.start(), *COPY_BYTES_CORES.end())
        }
        _ => COPY_BYTES,
    };
    let bytes = wanted_bytes.min(free_bytes / FREE_SHARE) / 4096 * 4096;
    (bytes >= COPY_BYTES_MIN).then_some(bytes)
}

fn bandwidth(driver: &mut dyn Driver, device: u32, until: Instant) -> Samples {
    let bytes = copy_bytes(driver, device)?;
    let mut held = Held::new(driver);
    let (from, to) = (held.allocate(device, bytes).ok()?, held.allocate(device, bytes).ok()?);
    // The first copies touch fresh pages and wake the memory's clock.
    held.driver.copy(from, to, bytes).ok()?;
    held.driver.copy(to, from, bytes).ok()?;
    // Read and written both.
    rates(2.0 * bytes as f64, until, || held.driver.copy(from, to, bytes).ok())
}

fn launch(driver: &mut dyn Driver, device: u32, until: Instant) -> Samples {
    driver.launch(device).ok()?;
    let mut samples = Vec::new();
    while samples.len() < LAUNCHES && (samples.is_empty() || Instant::now() < until) {
        let one = Instant::now();
        driver.launch(device).ok()?;
        // A launch that the clock cannot tell from none took a nanosecond at most.
        samples.push(one.elapsed().as_nanos().max(1) as f64);
    }
    Some(samples)
}

/// A block on the device and as many bytes of main memory, each touched once.
fn host_and_device<'a>(driver: &'a mut dyn Driver, device: u32) -> Option<(Held<'a>, Span, Vec<u8>)> {
    let bytes = copy_bytes(driver, device)?.min(HOST_BYTES);
    let mut held = Held::new(driver);
    let span = held.allocate(device, bytes).ok()?;
    let host = vec![1; bytes as usize];
    held.driver.write(span, &host).ok()?;
    Some((held, span, host))
}

fn to_device(driver: &mut dyn Driver, device: u32, until: Instant) -> Samples {
    let (held, span, host) = host_and_device(driver, device)?;
    rates(host.len() as f64, until, || held.driver.write(span, &host).ok())
}

fn from_device(driver: &mut dyn Driver, device: u32, until: Instant) -> Samples {
    let (held, span, mut host) = host_and_device(driver, device)?;
    rates(host.len() as f64, until, || held.driver.read(span, &mut host).ok())
}

fn between(driver: &mut dyn Driver, from: u32, to: u32, until: Instant) -> Samples {
    let bytes = copy_bytes(driver, from)?
        .min(copy_bytes(driver, to)?)
        .min(2 * HOST_BYTES);
    let mut held = Held::new(driver);
    let (source, target) = (held.allocate(from, bytes).ok()?, held.allocate(to, bytes).ok()?);
    held.driver.copy(source, target, bytes).ok()?;
    rates(bytes as f64, until, || held.driver.copy(source, target, bytes).ok())
}

/// Doubles the product's size until one takes a fair part of the time that is left, then repeats it.
fn flops(driver: &mut dyn Driver, device: u32, precision: Precision, until: Instant) -> Samples {
    let mut size = PRODUCT_SIZE_MIN;
    // The first run compiles the kernel and wakes the clock; its time says nothing.
    multiply(driver, device, precision, size, 1)?;
    loop {
        let start = Instant::now();
        let rate = multiply(driver, device, precision, size, 1)?;
        let left = until.saturating_duration_since(Instant::now());
        // Twice the size is eight times the operations, and four times the bytes that are copied.
        let grown = size < PRODUCT_SIZE_MAX && start.elapsed() * 8 < left / 3;
        if !grown {
            return repeated(driver, device, precision, size, rate, until);
        }
        size *= 2;
    }
}

fn repeated(
    driver: &mut dyn Driver,
    device: u32,
    precision: Precision,
    size: usize,
    rate: f64,
    until: Instant,
) -> Samples {
    let mut samples = vec![rate];
    let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
    let one = operations(size) / rate;
    // Half of the time for copying inputs and result; a submission of its own for each sample.
    let repeats = (left / one / (2 * PRODUCT_SAMPLES) as f64).clamp(1.0, 1000.0) as u32;
    while samples.len() < PRODUCT_SAMPLES && Instant::now() < until {
        samples.push(multiply(driver, device, precision, size, repeats)?);
    }
    if samples.len() > 1 {
        // The first stood alone, and was submitted alone.
        samples.remove(0);
    }
    Some(samples)
}

fn operations(size: usize) -> f64 {
    2.0 * (size as f64).powi(3)
}

/// Operations per second of one call.
fn multiply(driver: &mut dyn Driver, device: u32, precision: Precision, size: usize, repeats: u32) -> Option<f64> {
    let (a, b) = (random(3, size * size), random(4, size * size));
    let product = Product {
        precision,
        size,
        a: &a,
        b: &b,
        repeats,
    };
    let elapsed = driver.multiply(device, &product).ok()?.elapsed;
    Some(operations(size) * f64::from(repeats) / elapsed.as_secs_f64().max(1e-9))
}

#[cfg(test)]
mod tests;
