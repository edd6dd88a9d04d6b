//! NVIDIA's cards once more, under the names, units and labels of NVIDIA's own exporter, for dashboards and alerts that were
//! made for it. Not both on one node: the series would be there twice.
//!
//! Names and units: <https://github.com/NVIDIA/dcgm-exporter/blob/main/etc/default-counters.csv>. Its sentinels for what a
//! card does not have are not copied: such a series is absent.

use super::family::{Family, Type};
use crate::devices::{DeviceState, Devices};
use device::telemetry::Sample;
use prometheus::Registry;

const LABELS: [&str; 8] = [
    "gpu",
    "UUID",
    "pci_bus_id",
    "device",
    "modelName",
    "Hostname",
    "GPU_I_PROFILE",
    "GPU_I_ID",
];
const MIB: f64 = 1_048_576.0;

/// One family: name, help as there, type, and the value in the exporter's unit.
type Row = (&'static str, &'static str, Type, fn(&Sample) -> Option<f64>);

fn number(count: u64) -> f64 {
    count as f64
}

const ROWS: [Row; 12] = [
    ("GPU_UTIL", "GPU utilization (in %).", Type::Gauge, |sample| {
        sample.utilisation_ratio.map(|ratio| (f64::from(ratio) * 100.0).round())
    }),
    ("FB_USED", "Framebuffer memory used (in MiB).", Type::Gauge, |sample| {
        sample.memory_used_bytes.map(|bytes| (number(bytes) / MIB).round())
    }),
    ("FB_FREE", "Framebuffer memory free (in MiB).", Type::Gauge, |sample| {
        let free = sample.memory_total_bytes?.checked_sub(sample.memory_used_bytes?)?;
        Some((number(free) / MIB).round())
    }),
    ("GPU_TEMP", "GPU temperature (in C).", Type::Gauge, |sample| {
        sample.temperature_celsius.map(f64::from)
    }),
    ("MEMORY_TEMP", "Memory temperature (in C).", Type::Gauge, |sample| {
        sample.memory_temperature_celsius.map(f64::from)
    }),
    ("POWER_USAGE", "Power draw (in W).", Type::Gauge, |sample| {
        sample.power_watts.map(f64::from)
    }),
    (
        "TOTAL_ENERGY_CONSUMPTION",
        "Total energy consumption since boot (in mJ).",
        Type::Counter,
        |sample| sample.energy_joules.map(|joules| (joules * 1000.0).round()),
    ),
    ("SM_CLOCK", "SM clock frequency (in MHz).", Type::Gauge, |sample| {
        sample.clock_mhz.map(f64::from)
    }),
    ("MEM_CLOCK", "Memory clock frequency (in MHz).", Type::Gauge, |sample| {
        sample.memory_clock_mhz.map(f64::from)
    }),
    (
        "PCIE_REPLAY_COUNTER",
        "Total number of PCIe retries.",
        Type::Counter,
        |sample| sample.pcie_replays.map(number),
    ),
    (
        "ECC_SBE_VOL_TOTAL",
        "Total number of single-bit volatile ECC errors.",
        Type::Counter,
        |sample| sample.ecc_corrected.map(number),
    ),
    (
        "ECC_DBE_VOL_TOTAL",
        "Total number of double-bit volatile ECC errors.",
        Type::Counter,
        |sample| sample.ecc_uncorrected.map(number),
    ),
];

/// All families of NVIDIA's cards.
///
/// # Errors
/// A family could not be registered.
pub(super) fn collect(registry: &Registry, node: &str, devices: &Devices) -> Result<(), prometheus::Error> {
    let cards: Vec<(&DeviceState, [String; 8])> = devices
        .states
        .iter()
        .filter(|state| state.device.vendor == "nvidia")
        .map(|state| (state, labels(node, state)))
        .collect();
    for (name, help, kind, of) in ROWS {
        let family = register(registry, kind, name, help)?;
        for (state, labels) in &cards {
            family.set(
                &labels.each_ref().map(String::as_str),
                state.sample.as_ref().and_then(of),
            );
        }
    }
    let family = register(
        registry,
        Type::Gauge,
        "XID_ERRORS",
        "Value of the last XID error encountered.",
    )?;
    for (state, labels) in &cards {
        family.set(&labels.each_ref().map(String::as_str), Some(last_xid(devices, state)));
    }
    Ok(())
}

fn register(registry: &Registry, kind: Type, name: &str, help: &str) -> Result<Family, prometheus::Error> {
    Family::register(registry, kind, &format!("DCGM_FI_DEV_{name}"), help, &LABELS)
}

/// The number of the last event, 0 where there was none: that is what the exporter says of a card in order.
fn last_xid(devices: &Devices, state: &DeviceState) -> f64 {
    let identity = state.device.identity();
    let fault = state.last_fault.as_ref().and_then(|fault| fault.xid);
    let counted = || {
        let own = devices.counters.xids.keys().filter(|(of, _)| *of == identity);
        own.map(|(_, xid)| *xid).max()
    };
    f64::from(fault.or_else(counted).unwrap_or(0))
}

fn labels(node: &str, state: &DeviceState) -> [String; 8] {
    let device = &state.device;
    let uuid = device.uuid.clone().unwrap_or_default();
    let gpu = device.index.to_string();
    let profile = slice_profile(&device.model).unwrap_or_default().to_owned();
    [
        gpu.clone(),
        uuid,
        device.pci_address.as_deref().map(bus_id).unwrap_or_default(),
        format!("nvidia{gpu}"),
        device.model.clone(),
        node.to_owned(),
        profile,
        // The number of the slice within its card is not known here.
        String::new(),
    ]
}

/// Of a slice of a card, whose name ends in its size: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
fn slice_profile(model: &str) -> Option<&str> {
    model.rsplit_once(" MIG ").map(|(_, profile)| profile)
}

/// The library that the exporter reads writes a domain of eight digits, in upper case.
fn bus_id(pci_address: &str) -> String {
    match pci_address.split_once(':') {
        Some((domain, rest)) => format!("{domain:0>8}:{rest}").to_ascii_uppercase(),
        None => pci_address.to_owned(),
    }
}

#[cfg(test)]
mod tests;
