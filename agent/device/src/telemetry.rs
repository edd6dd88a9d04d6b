//! What a device says of itself while it works. A value that the device does not have is absent, never a sentinel.

use crate::{Backend, Selection};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Readings of one device at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sample {
    /// [`crate::GpuDevice::identity`] of the device.
    pub device: String,
    /// Where the device is plugged in, when the reader knows: readings of a card also belong to the entry of another
    /// backend that reaches the same card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// What the device has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// What anybody uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Share of the last sampling period in which the device computed, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilisation_ratio: Option<f32>,
    /// Share of the last sampling period in which its memory was read or written, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_utilisation_ratio: Option<f32>,
    /// Of the hottest part of the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<f32>,
    /// Of the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_temperature_celsius: Option<f32>,
    /// Why a temperature that the device gave was not believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor_fault: Option<String>,
    /// What the device draws.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f32>,
    /// What it may draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<f32>,
    /// Since the driver was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
    /// Of the processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<u32>,
    /// Of the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<u32>,
    /// Why the device runs slower than it could; empty when it does not, absent when it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_by: Option<Vec<Throttle>>,
    /// Memory errors that were mended, since the driver was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc_corrected: Option<u64>,
    /// Memory errors that were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    /// Packets that the bus had to send again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_replays: Option<u64>,
    /// Who uses the device's memory, where the driver tells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessMemory>,
    /// The device could not be read at all, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// Memory of a device that one process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessMemory {
    /// In the host's numbering.
    pub pid: u32,
    /// Absent where the driver counts processes but not their memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// Why a device runs slower than it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Throttle {
    /// It is too hot, and its software slows it.
    Thermal,
    /// It is too hot, and its hardware slows it at once.
    ThermalHardware,
    /// It has reached its power limit.
    Power,
    /// The supply asks for less.
    PowerBrake,
    /// Somebody set a lower clock.
    Setting,
    /// Another reason.
    Other,
}

/// Something the kernel or the driver told of a device, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceEvent {
    /// Bus address, where the message has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// NVIDIA's number of the event.
    pub xid: u32,
    /// What the message says beside those; may be empty.
    pub text: String,
}

/// Something that the kernel's driver told of a device that has no numbers for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFault {
    /// Bus address, where the message has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// What happened.
    pub kind: KernelFaultKind,
    /// The message, as found.
    pub text: String,
}

/// Kinds of [`KernelFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KernelFaultKind {
    /// Work did not end and was thrown away; the device may go on.
    Hang,
    /// The driver resets the device.
    Reset,
    /// A reset was in vain, or the driver gave the device up.
    Dead,
    /// Memory lost what was in it.
    UncorrectedMemory,
}

/// A reader of samples. It lives in a child process, because a driver may hang.
pub trait Sampler: Send {
    /// Which devices it reads.
    fn backend(&self) -> Backend;

    /// Reads every device once. A device that cannot be read is a sample that says so, not an error.
    ///
    /// # Errors
    /// The driver is gone or another than was loaded: a sentence.
    fn sample(&mut self) -> Result<Vec<Sample>, String>;

    /// Events since the last call.
    fn events(&mut self) -> Vec<DeviceEvent> {
        Vec::new()
    }
}

/// The reader for a backend; nothing where it reads nothing, or another backend's reader reads the same devices.
/// `root` is "/" but in tests and where a recorded tree is shown; of the devices those of `only` are read.
///
/// # Errors
/// What is missing, as a sentence.
pub fn sampler(backend: Backend, root: &Path, only: &Selection) -> Result<Option<Box<dyn Sampler>>, String> {
    match backend {
        Backend::Cpu => Ok(Some(crate::cpu::sampler(root))),
        Backend::Cuda => crate::cuda::sampler(only).map(Some),
        Backend::Rocm => Ok(Some(Box::new(crate::rocm::RocmSampler::new(root).only(only)))),
        Backend::Intel => Ok(Some(Box::new(crate::intel::IntelSampler::new(root).only(only)))),
        Backend::Vulkan => Ok(None),
    }
}

/// A line of the `watch` child: everything read at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// Who was asked.
    pub backend: Backend,
    /// One per device that exists now.
    pub samples: Vec<Sample>,
    /// Since the last reading.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<DeviceEvent>,
    /// Since the last reading, of drivers that do not number their events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_faults: Vec<KernelFault>,
    /// Lines in the kernel's log, since the last reading, that read like a driver's and were written by a process.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spoofed: u64,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A temperature that can be believed: sensors that fail say 0, -40, 255, or nothing that is a number
/// (DCGM and NVML report such values for parts without sensor).
///
/// # Errors
/// Why it is not believed.
pub fn believable_celsius(celsius: f32) -> Result<f32, String> {
    if celsius.is_finite() && celsius > 0.0 && celsius < 150.0 {
        Ok(celsius)
    } else {
        Err(format!("the sensor says {celsius} °C"))
    }
}
