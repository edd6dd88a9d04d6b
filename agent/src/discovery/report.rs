//! From a device to its `DeviceGPUState`. Pure.

mod conditions;

use crate::devices::DeviceState;
use crate::probe::gibibytes;
use crate::rates::Rates;
use crate::shard::report::Holding;
use crds::{
    BandwidthPrior, DeviceGPUStateSpec, DeviceGPUStateStatus, DeviceKind, HeldShard, Measurement, ReadingRate,
    StepRates, SupportLevel,
};
use device::telemetry::{Sample, Throttle};
use device::{Figure, GpuDevice, Kind, Pool};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The schema's own limits.
const SHARDS_MAX: usize = 256;
const BACKENDS_MAX: usize = 8;
const READINGS_MAX: usize = 8;
/// As many as the schema of `missingOperators` accepts.
const OPERATORS_MAX: usize = 32;
const CELSIUS_MAX: f32 = 150.0;

/// What is reported of one device.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The device.
    pub state: &'a DeviceState,
    /// What the administrator wants of it, where that was read.
    pub spec: Option<&'a DeviceGPUStateSpec>,
    /// Free main memory at present, where the system says.
    pub host_free_bytes: Option<u64>,
    /// What this node holds, on all devices.
    pub holdings: &'a [Holding],
    /// How fast steps are on it, once that was measured.
    pub rates: Option<&'a Rates>,
}

/// Name of the device's object.
pub fn object_name(node: &str, device: &GpuDevice) -> String {
    crds::names::device_name(node, device.backend.name(), device.ordinal)
}

/// The memory that the device draws from: its own, or the host's.
pub fn memory_pool(node: &str, device: &GpuDevice) -> String {
    match &device.pool {
        Pool::Host => format!("{node}-host"),
        Pool::Own => object_name(node, device),
        Pool::Named(name) => format!("{node}-{name}"),
    }
}

/// The status to write. Conditions keep their transition times from `before`.
pub fn status(
    node: &str,
    seen: &Seen<'_>,
    before: Option<&DeviceGPUStateStatus>,
    generation: Option<i64>,
    now: Timestamp,
) -> DeviceGPUStateStatus {
    let device = &seen.state.device;
    let measured = &device.measured;
    let sample = seen.state.sample.as_ref();
    let name = object_name(node, device);
    let own = || seen.holdings.iter().filter_map(|holding| holding.on(&name));
    let memory = Memory::of(seen, own().map(|holding| holding.memory_bytes).sum());
    let power_limit_watts = power_limit_watts(device, sample);
    DeviceGPUStateStatus {
        observed_generation: generation,
        node: node.to_owned(),
        vendor: cut(&device.vendor, 64),
        model: cut(&device.model, 256),
        backend: device.backend.name().to_owned(),
        backend_index: counted(device.index),
        backends: backends(device),
        support_level: Some(support_level(device.support)),
        architecture: device.architecture.as_deref().map(|text| cut(text, 64)),
        driver: device.driver.as_deref().map(|text| cut(text, 256)),
        pci_address: device.pci_address.as_deref().map(|text| cut(text, 32)),
        uuid: device.uuid.as_deref().map(|text| cut(text, 64)),
        compute_units: device.compute_units.map(counted),
        clock_mhz: device.clock_mhz.map(counted),
        power_limit_watts,
        kind: kind(device.kind),
        memory_pool: memory_pool(node, device),
        memory: Some(gibibytes(device.memory_total_bytes)),
        memory_total_bytes: signed(device.memory_total_bytes),
        memory_free_bytes: signed(memory.free_bytes),
        memory_usable_bytes: signed(device.memory_usable_bytes),
        memory_used_by_us_bytes: memory.used.map(|(ours, _)| signed(ours)),
        memory_used_by_others_bytes: memory.used.map(|(_, others)| signed(others)),
        temperature_celsius: sample.and_then(|sample| whole(sample.temperature_celsius, CELSIUS_MAX)),
        power_watts: sample.and_then(|sample| whole(sample.power_watts, f32::MAX)),
        utilisation_percent: sample
            .and_then(|sample| whole(sample.utilisation_ratio.map(|ratio| ratio * 100.0), 100.0)),
        throttle_reasons: throttle_reasons(sample),
        ecc_uncorrected: sample.and_then(|sample| sample.ecc_uncorrected).map(signed),
        bandwidth_bytes_per_second: measurement(measured.bandwidth_bytes_per_second),
        bandwidth_prior: device.prior.as_ref().and_then(|prior| {
            (prior.bandwidth_bytes_per_second > 0).then(|| BandwidthPrior {
                bytes_per_second: signed(prior.bandwidth_bytes_per_second),
                source: cut(&prior.source, 256),
            })
        }),
        f32_flops_per_second: measurement(measured.f32_flops_per_second),
        f16_flops_per_second: measurement(measured.f16_flops_per_second),
        to_device_bytes_per_second: measurement(measured.to_device_bytes_per_second),
        from_device_bytes_per_second: measurement(measured.from_device_bytes_per_second),
        launch_ns: measurement(measured.launch_ns),
        step_rates: seen.rates.and_then(step_rates),
        missing_operators: seen.rates.and_then(missing_operators),
        shards: own().take(SHARDS_MAX).map(|holding| held(&holding)).collect(),
        conditions: conditions::of(seen, power_limit_watts, before, generation, now),
    }
}

/// Who has the device's memory.
struct Memory {
    free_bytes: u64,
    /// By our shards, by everybody else; nothing where the device does not say.
    used: Option<(u64, u64)>,
}

impl Memory {
    /// `budget_bytes`: what our shards may use. What they do use is not told apart, and is at most that.
    fn of(seen: &Seen<'_>, budget_bytes: u64) -> Self {
        let device = &seen.state.device;
        let total_bytes = device.memory_total_bytes;
        let sampled = seen.state.sample.as_ref().and_then(|sample| sample.memory_used_bytes);
        let free_bytes = match (&device.pool, sampled, seen.host_free_bytes) {
            (Pool::Host, _, Some(free_bytes)) => free_bytes.min(total_bytes),
            (_, Some(used_bytes), _) => total_bytes.saturating_sub(used_bytes),
            _ => device.memory_free_bytes,
        };
        let ours = |used_bytes: u64| {
            let ours = budget_bytes.min(used_bytes);
            (ours, used_bytes - ours)
        };
        Self {
            free_bytes,
            used: sampled.map(ours),
        }
    }
}

fn backends(device: &GpuDevice) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for backend in std::iter::once(device.backend).chain(device.also.iter().map(|reach| reach.backend)) {
        if !names.iter().any(|name| name == backend.name()) {
            names.push(backend.name().to_owned());
        }
    }
    names.truncate(BACKENDS_MAX);
    names
}

/// The limit in force now, else the one that was in force when the device was found.
fn power_limit_watts(device: &GpuDevice, sample: Option<&Sample>) -> Option<i32> {
    let sampled = sample.and_then(|sample| whole(sample.power_limit_watts, f32::MAX));
    sampled.or_else(|| device.power_limit_watts.map(counted))
}

fn throttle_reasons(sample: Option<&Sample>) -> Vec<String> {
    let mut reasons = sample
        .and_then(|sample| sample.throttled_by.clone())
        .unwrap_or_default();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
        .into_iter()
        .map(|reason| throttle_name(reason).to_owned())
        .collect()
}

/// One CamelCase word for each cause, for conditions, events and metrics.
pub fn throttle_name(reason: Throttle) -> &'static str {
    match reason {
        Throttle::Thermal => "Thermal",
        Throttle::ThermalHardware => "ThermalHardware",
        Throttle::Power => "Power",
        Throttle::PowerBrake => "PowerBrake",
        Throttle::Setting => "Setting",
        Throttle::Other => "Other",
    }
}

fn measurement(figure: Option<Figure>) -> Option<Measurement> {
    let figure = figure?;
    Some(Measurement {
        value: signed(figure.value).max(1),
        measured_at: Time(Timestamp::from_second(signed(figure.measured_unix_s)).ok()?),
        samples: counted(figure.samples).max(1),
    })
}

pub(crate) fn step_rates(rates: &Rates) -> Option<StepRates> {
    let reading = rates.reading.iter().take(READINGS_MAX).map(|reading| ReadingRate {
        bits: counted(reading.bits).clamp(1, 64),
        bytes_per_second: signed(reading.bytes_per_second).max(1),
    });
    Some(StepRates {
        step_ns: signed(rates.step_ns),
        layer_ns: signed(rates.layer_ns),
        row_ps: Some(signed(rates.row_ps)),
        reading: reading.collect(),
        attention_flops_per_second: rates.attention_flops_per_second.map(|flops| signed(flops).max(1)),
        strict_percent: rates.strict_percent.map(|percent| counted(percent).max(100)),
        prefill_flops_per_second: rates.flops_per_second.map(|flops| signed(flops).max(1)),
        measured_at: Time(Timestamp::from_second(signed(rates.measured_unix_s)).ok()?),
        samples: counted(rates.samples).max(1),
    })
}

fn missing_operators(rates: &Rates) -> Option<Vec<String>> {
    let missing = rates.missing_operators.as_ref()?.iter();
    Some(missing.take(OPERATORS_MAX).map(|name| cut(name, 64)).collect())
}

fn held(holding: &Holding) -> HeldShard {
    HeldShard {
        model: cut(&holding.model, 253),
        namespace: cut(&holding.namespace, 63),
        layers: cut(&holding.layers, 16),
        memory_bytes: signed(holding.memory_bytes),
    }
}

fn kind(kind: Kind) -> DeviceKind {
    match kind {
        Kind::Discrete => DeviceKind::Discrete,
        Kind::Integrated => DeviceKind::Integrated,
        Kind::Software => DeviceKind::Software,
        Kind::Cpu => DeviceKind::Cpu,
    }
}

fn support_level(support: device::SupportLevel) -> SupportLevel {
    match support {
        device::SupportLevel::Unsupported => SupportLevel::Unsupported,
        device::SupportLevel::Untried => SupportLevel::Untried,
        device::SupportLevel::Tried => SupportLevel::Tried,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn counted(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A reading as a whole number, where it is one that the schema accepts.
fn whole(reading: Option<f32>, most: f32) -> Option<i32> {
    let reading = reading.filter(|reading| reading.is_finite() && (0.0..=most).contains(reading))?;
    // Saturates.
    Some(reading.round() as i32)
}

/// At most so many characters, as the schema counts.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests;
