//! What is assumed where nothing was measured. Every number errs on the slow side: unknown is not zero, and not free.

use crate::{Kind, Link, Origin, Rate};

/// Rate at which a device of this kind reads its memory, bytes per second.
///
/// Dual-channel DDR4 with ordinary efficiency for a CPU; a little more for an integrated GPU; an older card for a discrete
/// one; a software renderer is bound by emulated arithmetic, two orders below its memory.
pub fn bandwidth_bytes_per_second(kind: Kind) -> u64 {
    match kind {
        Kind::Cpu => 15_000_000_000,
        Kind::Integrated => 25_000_000_000,
        Kind::Discrete => 150_000_000_000,
        Kind::Software => 500_000_000,
    }
}

/// Of the bandwidth that a maker promises, what reading weights is taken to reach: no card reaches all of it.
pub const REACHED_PERCENT: u64 = 70;

/// Of its bandwidth, what a device is taken to reach while it is throttled for heat. Its clocks may be anywhere below that;
/// no more than the order of devices depends on it, and layers are not moved for it.
pub const THROTTLED_PERCENT: u64 = 60;

/// Where devices commonly begin to throttle, degrees Celsius: makers' limits lie between 83 and 100.
pub const THROTTLE_CELSIUS: u32 = 85;
/// A device at rest. What is cooler has no more headroom.
pub const COOL_CELSIUS: u32 = 35;

/// Fixed cost of one step on a device of this kind, microseconds.
pub fn launch_us(kind: Kind) -> u64 {
    match kind {
        Kind::Cpu => 100,
        Kind::Integrated | Kind::Discrete => 300,
        Kind::Software => 3_000,
    }
}

/// Memory that a worker takes on a device before it holds anything: contexts, pipelines, staging buffers; for a CPU the process.
pub fn fixed_bytes(backend: &str) -> u64 {
    const MIB: u64 = 1 << 20;
    match backend {
        "cpu" => 48 * MIB,
        "vulkan" => 96 * MIB,
        // A CUDA or HIP context with the kernels of one library.
        _ => 512 * MIB,
    }
}

/// From one process to another on the same node: loopback, TLS and two wake-ups.
pub const SAME_NODE: Link = assumed(300, 1_000_000_000);
/// Between two nodes of which nothing is known: gigabit Ethernet less its overhead, through a busy switch, TLS and two wake-ups.
pub const UNKNOWN: Link = assumed(1_000, 100_000_000);
/// Between two nodes whose agents do not get through to each other. Their workers may: they speak on other ports. So the pair
/// comes last and is not forbidden.
pub const UNREACHABLE: Link = assumed(100_000, 1_000_000);

const fn assumed(latency_us: u64, bytes_per_second: u64) -> Link {
    Link {
        latency_us,
        rate: Rate {
            bytes_per_second,
            origin: Origin::Assumed,
        },
    }
}

/// A device that seems to read its memory more slowly was measured wrongly: bytes per second.
pub const LEAST_DEVICE_BYTES_PER_SECOND: u64 = 1_000_000;
/// A link that seems slower was measured wrongly: bytes per second.
pub const LEAST_LINK_BYTES_PER_SECOND: u64 = 1_000;
