//! From the management library's numbers to a sample. Pure. What NVML cannot tell it refuses, answers with all bits set,
//! or with the blanks of its tools (`DCGM_INT64_BLANK` and above); all three are absent here.

use crate::telemetry::{ProcessMemory, Sample, Throttle, believable_celsius};
use serde::{Deserialize, Serialize};

/// No card draws as much; larger is no power.
const POWER_LIMIT_MW: u32 = 10_000_000;
/// No card runs as fast; larger is no clock.
const CLOCK_LIMIT_MHZ: u32 = 10_000;
/// Blanks of NVIDIA's tools begin here: 0x7ffffffffffffff0 (dcgm_structs.h). Counters never get there.
const COUNT_LIMIT: u64 = 0x7fff_ffff_ffff_fff0;

/// What does not change while the driver is loaded, as answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cuda) struct RawFacts {
    pub(in crate::cuda) name: Option<String>,
    pub(in crate::cuda) uuid: Option<String>,
    pub(in crate::cuda) pci_address: Option<String>,
    /// Total and free bytes.
    pub(in crate::cuda) memory: Option<(u64, u64)>,
    pub(in crate::cuda) power_limit_mw: Option<u32>,
    /// The highest.
    pub(in crate::cuda) clock_mhz: Option<u32>,
    /// The GPU instance that a slice belongs to; absent for a whole card.
    pub(in crate::cuda) slice: Option<u32>,
}

/// What changes, as answered; absent where the library refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::cuda) struct Raw {
    /// Total and free bytes.
    pub(in crate::cuda) memory: Option<(u64, u64)>,
    /// Percent of time: processors, memory.
    pub(in crate::cuda) utilisation: Option<(u32, u32)>,
    /// Whole degrees; negative ones come as large numbers.
    pub(in crate::cuda) temperature: Option<u32>,
    pub(in crate::cuda) memory_temperature: Option<u32>,
    pub(in crate::cuda) power_mw: Option<u32>,
    pub(in crate::cuda) power_limit_mw: Option<u32>,
    pub(in crate::cuda) energy_mj: Option<u64>,
    pub(in crate::cuda) clock_mhz: Option<u32>,
    pub(in crate::cuda) memory_clock_mhz: Option<u32>,
    /// `nvmlClocksThrottleReason…` bits.
    pub(in crate::cuda) throttle: Option<u64>,
    pub(in crate::cuda) ecc_corrected: Option<u64>,
    pub(in crate::cuda) ecc_uncorrected: Option<u64>,
    pub(in crate::cuda) pcie_replays: Option<u32>,
    pub(in crate::cuda) processes: Vec<RawProcess>,
}

/// A process, as answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cuda) struct RawProcess {
    pub(super) pid: u32,
    /// All bits set where it is not told.
    pub(super) memory_bytes: u64,
}

impl Raw {
    /// A slice's own memory and processes, with what only its card can tell. Power and energy are left out: they are of
    /// all slices together, and a sum over devices would count them once for each.
    pub(super) fn with_sensors_of(self, card: &Raw) -> Raw {
        Raw {
            memory: self.memory,
            utilisation: self.utilisation,
            processes: self.processes,
            power_mw: None,
            power_limit_mw: None,
            energy_mj: None,
            ..card.clone()
        }
    }
}

/// Bytes that can be: some, and no more free than there are.
pub(in crate::cuda) fn believable_memory(memory: Option<(u64, u64)>) -> Option<(u64, u64)> {
    memory.filter(|(total, free)| *total > 0 && *total < COUNT_LIMIT && free <= total)
}

/// A power in milliwatts as watts; zero is no power of a card that answers.
pub(in crate::cuda) fn watts(milliwatts: Option<u32>) -> Option<f32> {
    let believed = milliwatts.filter(|power| *power > 0 && *power < POWER_LIMIT_MW)?;
    Some((f64::from(believed) / 1000.0) as f32)
}

/// A clock that can be.
pub(in crate::cuda) fn megahertz(clock: Option<u32>) -> Option<u32> {
    clock.filter(|clock| *clock > 0 && *clock < CLOCK_LIMIT_MHZ)
}

/// A temperature that can be believed, or why it is not.
pub(in crate::cuda) fn celsius(temperature: u32) -> Result<f32, String> {
    // Degrees below zero come as a number with a sign in one without.
    believable_celsius(temperature as i32 as f32)
}

/// What a device says at this moment, under its identity.
pub(in crate::cuda) fn sample(identity: &str, raw: &Raw) -> Sample {
    let memory = believable_memory(raw.memory);
    let ratio = |percent: u32| (percent <= 100).then(|| percent as f32 / 100.0);
    let count = |value: Option<u64>| value.filter(|count| *count < COUNT_LIMIT);
    let (temperature, fault) = match raw.temperature.map(celsius) {
        Some(Ok(believed)) => (Some(believed), None),
        Some(Err(fault)) => (None, Some(fault)),
        None => (None, None),
    };
    Sample {
        device: identity.to_owned(),
        pci_address: None,
        memory_total_bytes: memory.map(|(total, _)| total),
        memory_used_bytes: memory.map(|(total, free)| total - free),
        utilisation_ratio: raw.utilisation.and_then(|(processors, _)| ratio(processors)),
        memory_utilisation_ratio: raw.utilisation.and_then(|(_, memory)| ratio(memory)),
        temperature_celsius: temperature,
        // A card without that sensor says 0: absence, no fault.
        memory_temperature_celsius: raw.memory_temperature.and_then(|value| celsius(value).ok()),
        sensor_fault: fault,
        power_watts: watts(raw.power_mw),
        power_limit_watts: watts(raw.power_limit_mw),
        energy_joules: count(raw.energy_mj).map(|energy| energy as f64 / 1000.0),
        clock_mhz: megahertz(raw.clock_mhz),
        memory_clock_mhz: megahertz(raw.memory_clock_mhz),
        throttled_by: raw.throttle.map(throttles),
        ecc_corrected: count(raw.ecc_corrected),
        ecc_uncorrected: count(raw.ecc_uncorrected),
        pcie_replays: raw.pcie_replays.filter(|count| *count != u32::MAX).map(u64::from),
        processes: raw.processes.iter().map(process).collect(),
        lost: None,
    }
}

fn process(raw: &RawProcess) -> ProcessMemory {
    ProcessMemory {
        pid: raw.pid,
        memory_bytes: Some(raw.memory_bytes).filter(|bytes| *bytes < COUNT_LIMIT),
    }
}

/// The reasons by their bits in nvml.h. That the device idles (1) is no reason; a bit that is not known is another.
fn throttles(bits: u64) -> Vec<Throttle> {
    const IDLE: u64 = 0x1;
    let known = [
        (0x002, Throttle::Setting),
        (0x004, Throttle::Power),
        (0x010, Throttle::Other),
        (0x020, Throttle::Thermal),
        (0x040, Throttle::ThermalHardware),
        (0x080, Throttle::PowerBrake),
        (0x100, Throttle::Setting),
    ];
    let mut reasons: Vec<Throttle> = known
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, reason)| *reason)
        .collect();
    // The hardware's slowdown is told once more by its cause, where the cause is told.
    const SLOWDOWN: u64 = 0x8;
    const SLOWDOWN_CAUSES: u64 = 0x040 | 0x080;
    if bits & SLOWDOWN != 0 && bits & SLOWDOWN_CAUSES == 0 {
        reasons.push(Throttle::Other);
    }
    let understood = known.iter().fold(IDLE | SLOWDOWN, |sum, (bit, _)| sum | bit);
    if bits & !understood != 0 {
        reasons.push(Throttle::Other);
    }
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

#[cfg(test)]
mod tests;
