//! What amdgpu's and KFD's files mean. Pure.
//!
//! Formats: the kernel's Documentation/gpu/amdgpu/{driver-misc,thermal,ras}.rst, `kfd_topology.c` (node properties),
//! `kgd_pp_interface.h` (gpu_metrics) and `amdgpu_smu.h` (bits of the throttle status).

use crate::telemetry::Throttle;

/// What the compute driver says of a node of its topology. Processors are nodes too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The compute driver's own number of the card, by which it counts processes' memory; 0 is a processor.
    pub gpu_id: u64,
    /// `domain:bus:device.function`.
    pub pci_address: String,
    /// `gfx1100`; nothing for a processor.
    pub architecture: Option<String>,
    /// Compute units, over all dies.
    pub compute_units: Option<u32>,
    /// The highest clock of its processors.
    pub clock_mhz: Option<u32>,
    /// Cards of one hive are joined by xGMI; nothing for a card alone.
    pub hive: Option<u64>,
}

/// Reads a node's `properties`, lines of a name and a decimal number, and its `gpu_id`.
pub fn node(properties: &str, gpu_id: u64) -> Option<Node> {
    let value = |key: &str| -> Option<u64> {
        properties.lines().find_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            (name == key).then(|| value.trim().parse().ok())?
        })
    };
    // Bus in the upper byte, device and function in the lower, as PCI packs them.
    let location = value("location_id")?;
    let domain = value("domain").unwrap_or(0);
    if location > 0xFFFF {
        return None;
    }
    let per_unit = value("simd_per_cu").filter(|count| *count > 0);
    let small = |number: u64| u32::try_from(number).ok().filter(|number| *number > 0);
    Some(Node {
        gpu_id,
        pci_address: format!(
            "{domain:04x}:{:02x}:{:02x}.{:x}",
            location >> 8,
            (location >> 3) & 0x1F,
            location & 7
        ),
        architecture: value("gfx_target_version").and_then(architecture),
        compute_units: value("simd_count")
            .zip(per_unit)
            .and_then(|(simds, per_unit)| small(simds / per_unit)),
        clock_mhz: value("max_engine_clk_fcompute").and_then(small),
        hive: value("hive_id").filter(|hive| *hive != 0),
    })
}

/// `90010` is gfx90a: two decimal places each for minor and stepping, which the name writes as one hexadecimal digit.
pub fn architecture(target_version: u64) -> Option<String> {
    let (major, minor, stepping) = (
        target_version / 10_000,
        target_version / 100 % 100,
        target_version % 100,
    );
    ((1..=99).contains(&major) && minor < 16 && stepping < 16).then(|| format!("gfx{major}{minor:x}{stepping:x}"))
}

/// HIP's name of an architecture, features left out: `gfx90a:sramecc+:xnack-` is `gfx90a`.
pub fn architecture_name(name: &str) -> Option<String> {
    let base = name.split([':', '\0']).next()?.trim();
    let digits = base.strip_prefix("gfx")?;
    let plain = (3..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| base.to_owned())
}

/// The clock with the star in `pp_dpm_sclk`: `1: 1200Mhz *`.
pub fn present_clock_mhz(levels: &str) -> Option<u32> {
    let line = levels.lines().find(|line| line.trim_end().ends_with('*'))?;
    clock_of(line)
}

/// The highest clock of `pp_dpm_sclk`.
pub fn highest_clock_mhz(levels: &str) -> Option<u32> {
    levels.lines().filter_map(clock_of).max()
}

fn clock_of(level: &str) -> Option<u32> {
    let (_, rest) = level.split_once(':')?;
    let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
    // A sleeping engine says 0, which is no clock; 100 GHz is none either.
    digits.parse().ok().filter(|clock| (1..100_000).contains(clock))
}

/// Memory errors since the driver was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errors {
    /// Mended.
    pub corrected: u64,
    /// Not.
    pub uncorrected: u64,
}

/// `ras/umc_err_count`: `ue: 0` and `ce: 12` on two lines.
pub fn errors(text: &str) -> Option<Errors> {
    let count = |key: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(key)?.trim().parse().ok())
    };
    Some(Errors {
        corrected: count("ce:")?,
        uncorrected: count("ue:")?,
    })
}

/// Why the card runs slower than it could, from `gpu_metrics`. Only tables 1.3 (RDNA2 and RDNA3 cards, MI200) say so in
/// bits that mean the same on every card; others are absent, not guessed.
pub fn throttles(table: &[u8]) -> Option<Vec<Throttle>> {
    const SIZE: usize = 120;
    const STATUS: usize = 112;
    let [size_low, size_high, format, content, ..] = *table else {
        return None;
    };
    let size = usize::from(u16::from_le_bytes([size_low, size_high]));
    if (format, content) != (1, 3) || size < SIZE || table.len() < SIZE {
        return None;
    }
    let bytes: [u8; 8] = table[STATUS..SIZE].try_into().ok()?;
    let status = u64::from_le_bytes(bytes);
    // All bits set is what the driver fills a table with that its firmware does not write.
    (status != u64::MAX).then(|| reasons(status))
}

fn reasons(status: u64) -> Vec<Throttle> {
    let any = |from: u32, to: u32| (from..=to).any(|bit| status >> bit & 1 == 1);
    let mut reasons = Vec::new();
    // Bits 32 to 43 are temperatures that firmware holds down; 44 to 47 the regulators' and the board's hot lines.
    for (set, reason) in [
        (any(32, 43), Throttle::Thermal),
        (any(44, 47), Throttle::ThermalHardware),
        (any(0, 7), Throttle::Power),
        (any(16, 23), Throttle::PowerBrake),
        (any(48, 63), Throttle::Other),
    ] {
        if set {
            reasons.push(reason);
        }
    }
    reasons
}

#[cfg(test)]
mod tests;
