//! What is known of each device, as series that name the device in every way that other tools do.

use super::family::{Family, Type};
use crate::devices::{DeviceState, Devices};
use crate::discovery::report::{object_name, throttle_name};
use device::Verification;
use device::health::Standing;
use device::telemetry::{Sample, Throttle};
use prometheus::Registry;

/// Of every family here; further ones follow.
const LABELS: [&str; 7] = ["node", "device", "gpu_uuid", "pci_bus_id", "vendor", "model", "backend"];
/// Causes that a device which tells any of them could tell.
const THROTTLES: [Throttle; 6] = [
    Throttle::Thermal,
    Throttle::ThermalHardware,
    Throttle::Power,
    Throttle::PowerBrake,
    Throttle::Setting,
    Throttle::Other,
];

/// A reading that is one number.
struct Reading {
    name: &'static str,
    help: &'static str,
    kind: Type,
    of: fn(&DeviceState) -> Option<f64>,
}

impl Reading {
    const fn gauge(name: &'static str, help: &'static str, of: fn(&DeviceState) -> Option<f64>) -> Self {
        let kind = Type::Gauge;
        Self { name, help, kind, of }
    }

    const fn counter(name: &'static str, help: &'static str, of: fn(&DeviceState) -> Option<f64>) -> Self {
        let kind = Type::Counter;
        Self { name, help, kind, of }
    }
}

/// What the last sample says, where it says it.
fn sampled<T>(state: &DeviceState, of: impl Fn(&Sample) -> Option<T>) -> Option<T> {
    state.sample.as_ref().and_then(of)
}

/// Bytes and counts are exact up to 2^53.
fn number(count: u64) -> f64 {
    count as f64
}

/// Every family with one series for each device.
const READINGS: [Reading; 16] = [
    Reading::gauge(
        "utilization_ratio",
        "Share of time in which the device computed.",
        |state| sampled(state, |sample| sample.utilisation_ratio).map(f64::from),
    ),
    Reading::gauge(
        "memory_utilization_ratio",
        "Share of time in which the device's memory was read or written.",
        |state| sampled(state, |sample| sample.memory_utilisation_ratio).map(f64::from),
    ),
    Reading::gauge(
        "memory_used_bytes",
        "Memory of the device that anybody uses.",
        |state| sampled(state, |sample| sample.memory_used_bytes).map(number),
    ),
    Reading::gauge("memory_total_bytes", "Memory that the device has.", |state| {
        let sampled = sampled(state, |sample| sample.memory_total_bytes);
        Some(number(sampled.unwrap_or(state.device.memory_total_bytes)))
    }),
    Reading::gauge("memory_usable_bytes", "Memory that shards may use in all.", |state| {
        Some(number(state.device.memory_usable_bytes))
    }),
    Reading::gauge(
        "bandwidth_bytes_per_second",
        "Measured rate of copies within the memory.",
        |state| {
            let measured = state.device.measured.bandwidth_bytes_per_second;
            measured.map(|figure| number(figure.value))
        },
    ),
    Reading::gauge("temperature_celsius", "Hottest part of the processor.", |state| {
        sampled(state, |sample| sample.temperature_celsius).map(f64::from)
    }),
    Reading::gauge("memory_temperature_celsius", "The device's memory.", |state| {
        sampled(state, |sample| sample.memory_temperature_celsius).map(f64::from)
    }),
    Reading::gauge("power_watts", "What the device draws.", |state| {
        sampled(state, |sample| sample.power_watts).map(f64::from)
    }),
    Reading::gauge("power_limit_watts", "What the device may draw.", |state| {
        let sampled = sampled(state, |sample| sample.power_limit_watts).map(f64::from);
        sampled.or_else(|| state.device.power_limit_watts.map(f64::from))
    }),
    Reading::counter(
        "energy_joules_total",
        "What the device drew since its driver was loaded.",
        |state| sampled(state, |sample| sample.energy_joules),
    ),
    Reading::counter(
        "pcie_replays_total",
        "Packets that the bus had to send again.",
        |state| sampled(state, |sample| sample.pcie_replays).map(number),
    ),
    Reading::counter(
        "shard_restarts_total",
        "How often what computes on the device was started again for a fault of the device.",
        |state| Some(f64::from(state.restart_shards)),
    ),
    Reading::gauge("healthy", "1 when the device is in no trouble.", |state| {
        let trouble = matches!(
            state.standing,
            Standing::Failed { .. } | Standing::Recovering { .. } | Standing::HeldDown { .. }
        );
        Some(f64::from(u8::from(!trouble)))
    }),
    Reading::gauge("verified", "1 when the device's last test was passed.", |state| {
        Some(f64::from(u8::from(state.device.verification == Verification::Verified)))
    }),
    Reading::gauge("ready", "1 when the device takes layers.", |state| {
        let ready = state.takes_layers() && state.device.verification == Verification::Verified;
        Some(f64::from(u8::from(ready)))
    }),
];

/// All families of the devices.
///
/// # Errors
/// A family could not be registered.
pub(super) fn collect(registry: &Registry, node: &str, devices: &Devices) -> Result<(), prometheus::Error> {
    let labelled: Vec<([String; 7], &DeviceState)> = devices
        .states
        .iter()
        .map(|state| (labels(node, state), state))
        .collect();
    for reading in &READINGS {
        let family = family(registry, reading.kind, reading.name, reading.help, &[])?;
        for (labels, state) in &labelled {
            family.set(&with(labels, &[]), (reading.of)(state));
        }
    }
    let clocks = family(registry, Type::Gauge, "clock_hertz", "Clocks at present.", &["clock"])?;
    let throttled = family(
        registry,
        Type::Gauge,
        "throttled",
        "1 for each cause for which the device runs slower than it could.",
        &["reason"],
    )?;
    let ecc = family(
        registry,
        Type::Counter,
        "ecc_errors_total",
        "Memory errors since the driver was loaded.",
        &["kind"],
    )?;
    let xids = family(
        registry,
        Type::Counter,
        "xid_events_total",
        "Events that NVIDIA's driver told of, since the agent's start.",
        &["xid"],
    )?;
    for (labels, state) in &labelled {
        let hertz = |mhz: u32| f64::from(mhz) * 1e6;
        clocks.set(
            &with(labels, &["sm"]),
            sampled(state, |sample| sample.clock_mhz).map(hertz),
        );
        clocks.set(
            &with(labels, &["memory"]),
            sampled(state, |sample| sample.memory_clock_mhz).map(hertz),
        );
        if let Some(causes) = sampled(state, |sample| sample.throttled_by.clone()) {
            for cause in THROTTLES {
                let is = f64::from(u8::from(causes.contains(&cause)));
                throttled.set(&with(labels, &[throttle_name(cause)]), Some(is));
            }
        }
        for (kind, count) in [
            ("corrected", sampled(state, |sample| sample.ecc_corrected)),
            ("uncorrected", sampled(state, |sample| sample.ecc_uncorrected)),
        ] {
            ecc.set(&with(labels, &[kind]), count.map(number));
        }
        let identity = state.device.identity();
        for ((_, xid), count) in devices.counters.xids.iter().filter(|((of, _), _)| *of == identity) {
            xids.set(&with(labels, &[&xid.to_string()]), Some(number(*count)));
        }
    }
    Ok(())
}

fn family(
    registry: &Registry,
    kind: Type,
    name: &str,
    help: &str,
    further_labels: &[&str],
) -> Result<Family, prometheus::Error> {
    let labels: Vec<&str> = LABELS.iter().chain(further_labels).copied().collect();
    Family::register(registry, kind, &format!("shardwright_gpu_{name}"), help, &labels)
}

fn labels(node: &str, state: &DeviceState) -> [String; 7] {
    let device = &state.device;
    [
        node.to_owned(),
        object_name(node, device),
        device.uuid.clone().unwrap_or_default(),
        device.pci_address.clone().unwrap_or_default(),
        device.vendor.clone(),
        device.model.clone(),
        device.backend.name().to_owned(),
    ]
}

fn with<'a>(labels: &'a [String; 7], further: &[&'a str]) -> Vec<&'a str> {
    labels
        .iter()
        .map(String::as_str)
        .chain(further.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests;
