//! From a device to its `DeviceGPUState`. Pure.

use crate::probe::gibibytes;
use crate::shard::report::Holding;
use crds::conditions::{self, ConditionStatus, NewCondition, reason};
use crds::{DeviceGPUStateStatus, DeviceKind, HeldShard, Measurement};
use device::{Backend, GpuDevice, Kind, Pool, Verification};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Free memory is worth a write when it has changed by this share of the total. Everything else is, whenever it changes.
const FREE_MEMORY_THRESHOLD_PERCENT: i64 = 10;
/// The schema's own limit.
const SHARDS_MAX: usize = 256;

/// What is reported of one device.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The device.
    pub device: &'a GpuDevice,
    /// Its free memory at present.
    pub free_bytes: u64,
    /// What this node holds, on all devices.
    pub holdings: &'a [Holding],
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
    let device = seen.device;
    let name = object_name(node, device);
    let own = seen.holdings.iter().filter(|holding| holding.device == name);
    DeviceGPUStateStatus {
        observed_generation: generation,
        node: node.to_owned(),
        vendor: cut(&device.vendor, 64),
        model: cut(&device.model, 256),
        backend: device.backend.name().to_owned(),
        backend_index: i32::try_from(device.index).unwrap_or(i32::MAX),
        architecture: device.architecture.as_deref().map(|text| cut(text, 64)),
        driver: device.driver.as_deref().map(|text| cut(text, 256)),
        pci_address: device.pci_address.clone(),
        uuid: device.uuid.clone(),
        compute_units: device.compute_units.and_then(|count| i32::try_from(count).ok()),
        kind: kind(device.kind),
        memory_pool: memory_pool(node, device),
        memory: Some(gibibytes(device.memory_total_bytes)),
        memory_total_bytes: signed(device.memory_total_bytes),
        memory_free_bytes: signed(seen.free_bytes),
        memory_usable_bytes: signed(device.memory_usable_bytes),
        bandwidth_bytes_per_second: device.measured.bandwidth_bytes_per_second.and_then(|measured| {
            Some(Measurement {
                value: signed(measured.value).max(1),
                measured_at: Time(Timestamp::from_second(signed(measured.measured_unix_s)).ok()?),
                samples: i32::try_from(measured.samples).unwrap_or(i32::MAX).max(1),
            })
        }),
        launch_us: device
            .measured
            .launch_ns
            .map(|launch| signed(launch.value.div_ceil(1000))),
        shards: own.take(SHARDS_MAX).map(held).collect(),
        conditions: device_conditions(device, before, generation, now),
    }
}

fn device_conditions(
    device: &GpuDevice,
    before: Option<&DeviceGPUStateStatus>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let mut list = before.map(|before| before.conditions.clone()).unwrap_or_default();
    let mut set = |kind, status, reason, message: &str| {
        conditions::set_condition(
            &mut list,
            NewCondition {
                kind,
                status,
                reason,
                message,
            },
            generation,
            &Time(now),
        );
    };
    let (verified, why, message) = match &device.verification {
        Verification::Verified => (
            ConditionStatus::True,
            reason::ROUND_TRIP_MATCHED,
            "1 MiB was copied in and out and came back unchanged",
        ),
        Verification::Failed { reason: cause } => (ConditionStatus::False, reason::ROUND_TRIP_DIFFERED, cause.as_str()),
        Verification::CouldNotMeasure { reason: cause } => {
            (ConditionStatus::Unknown, reason::COULD_NOT_MEASURE, cause.as_str())
        }
    };
    set(conditions::device::VERIFIED, verified, why, message);
    let failed = matches!(device.verification, Verification::Failed { .. });
    if failed {
        set(
            conditions::device::HEALTHY,
            ConditionStatus::False,
            reason::ROUND_TRIP_DIFFERED,
            message,
        );
    } else {
        set(
            conditions::device::HEALTHY,
            ConditionStatus::True,
            reason::NO_FAULT,
            "no fault is known",
        );
    }
    if verified == ConditionStatus::True {
        set(
            conditions::device::READY,
            ConditionStatus::True,
            reason::AVAILABLE,
            "the device takes layers",
        );
    } else {
        set(
            conditions::device::READY,
            ConditionStatus::False,
            reason::NOT_VERIFIED,
            message,
        );
    }
    list
}

/// Whether a status is worth a write over the one that was written last.
pub fn is_news(written: &DeviceGPUStateStatus, now: &DeviceGPUStateStatus) -> bool {
    let moved = (written.memory_free_bytes - now.memory_free_bytes).abs();
    let far = moved.saturating_mul(100) >= now.memory_total_bytes.saturating_mul(FREE_MEMORY_THRESHOLD_PERCENT);
    let alike = DeviceGPUStateStatus {
        memory_free_bytes: now.memory_free_bytes,
        ..written.clone()
    };
    far || alike != *now
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

/// Raw indices for the drive, by object name.
pub fn indices(node: &str, devices: &[GpuDevice]) -> std::collections::BTreeMap<String, (Backend, u32)> {
    devices
        .iter()
        .map(|device| (object_name(node, device), (device.backend, device.index)))
        .collect()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// At most so many characters, as the schema counts.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests;
