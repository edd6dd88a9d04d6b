//! What is known of one device: who made it, what it has, what it proved, how fast it is.

use crate::Backend;
use serde::{Deserialize, Serialize};

/// What a device is made of, as far as placement cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A card with memory of its own.
    Discrete,
    /// A GPU that uses the host's memory.
    Integrated,
    /// A graphics driver that computes on the processors. Correct, slow, and placed only when a model allows it.
    Software,
    /// The processors themselves.
    Cpu,
}

/// Whether the device did what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Verification {
    /// One mebibyte came back whole, and the golden kernel's result agrees with the processor's.
    Verified,
    /// It answered, and wrongly. It must hold no layers.
    Failed {
        /// For a person.
        reason: String,
    },
    /// It could not be asked. Unknown, therefore it holds no layers.
    CouldNotMeasure {
        /// For a person.
        reason: String,
    },
}

/// A number that was measured on the device itself, in the unit that the field's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    /// Never zero.
    pub value: u64,
    /// How many timed runs stand behind it.
    pub samples: u32,
    /// Seconds since the Unix epoch.
    pub measured_unix_s: u64,
}

/// What was measured; nothing where it was not, never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Measured {
    /// Copies within the device's memory, reads and writes counted both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<Figure>,
    /// A square matrix product in single precision, two operations per multiplication and addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f32_flops_per_second: Option<Figure>,
    /// The same with half-precision inputs and single-precision sums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f16_flops_per_second: Option<Figure>,
    /// From main memory to the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device_bytes_per_second: Option<Figure>,
    /// From the device to main memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_device_bytes_per_second: Option<Figure>,
    /// From submitting nothing to its completion, the median, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_ns: Option<Figure>,
    /// To other devices that the same backend reaches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerCopy>,
}

/// How fast bytes go from this device to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerCopy {
    /// [`GpuDevice::identity`] of the other device.
    pub to: String,
    /// Whether the bytes go directly; else through main memory.
    pub direct: bool,
    /// Bytes per second.
    pub bytes_per_second: Figure,
}

/// What a table says of a model of card, before anything was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prior {
    /// The maker's figure.
    pub bandwidth_bytes_per_second: u64,
    /// Where the figure is from.
    pub source: String,
}

/// Where a device's memory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The node's main memory, shared with the CPU and every other device that says so.
    Host,
    /// Its own.
    Own,
    /// Shared with the devices of this node that give the same name, such as the slices of one card.
    Named(String),
}

/// How much this project knows of running layers on such a device. The compatibility table has the reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SupportLevel {
    /// Known not to work.
    Unsupported,
    /// Never tried on the real thing; the driver's answers are understood from documents or recordings.
    #[default]
    Untried,
    /// Layers were computed on such a device and agreed with the processor.
    Tried,
}

/// Another way to reach the same device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// By what.
    pub backend: Backend,
    /// The backend's own raw enumeration index.
    pub index: u32,
}

/// A backend that reaches a device and cannot be used for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unverified {
    /// By what.
    pub backend: Backend,
    /// Why not.
    pub verification: Verification,
}

/// One device as one backend sees it; after merging, as the node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuDevice {
    /// Which backend reaches it.
    pub backend: Backend,
    /// The backend's own raw enumeration index. May be another after a restart.
    pub index: u32,
    /// The number in the device's name: the registry keeps it for the same [`GpuDevice::identity`] for good.
    pub ordinal: u32,
    /// Other backends that reach the same card.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Reach>,
    /// Those of them that could compute on it and did not prove it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unverified: Vec<Unverified>,
    /// Who made it, in lower case.
    pub vendor: String,
    /// As its maker names it.
    pub model: String,
    /// Instruction-set level, compute capability (`sm_90`) or graphics level (`gfx1100`), when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Driver name and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// `domain:bus:device.function`, when the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// Stable across restarts, when the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Cores of a CPU, multiprocessors of a GPU; nothing where the API does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_units: Option<u32>,
    /// The highest clock of its processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<u32>,
    /// The limit that its measurements hold for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<u32>,
    /// Discrete, integrated, software or CPU.
    pub kind: Kind,
    /// Where its memory is.
    pub pool: Pool,
    /// How much is known of such devices.
    #[serde(default)]
    pub support: SupportLevel,
    /// What there is.
    pub memory_total_bytes: u64,
    /// What nobody used when probed.
    pub memory_free_bytes: u64,
    /// What shards may take: free, less a reserve, at most the limit that the node's owner set.
    pub memory_usable_bytes: u64,
    /// Whether it may hold layers.
    pub verification: Verification,
    /// The maker's bandwidth, where a table has the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Prior>,
    /// What it did when it was timed.
    #[serde(default)]
    pub measured: Measured,
}

impl GpuDevice {
    /// A device of which nothing is known yet but how it is reached and what stands behind it. It is not verified.
    pub fn new(backend: Backend, index: u32, kind: Kind) -> Self {
        Self {
            backend,
            index,
            ordinal: index,
            also: Vec::new(),
            unverified: Vec::new(),
            vendor: "unknown".to_owned(),
            model: "unknown".to_owned(),
            architecture: None,
            driver: None,
            pci_address: None,
            uuid: None,
            compute_units: None,
            clock_mhz: None,
            power_limit_watts: None,
            kind,
            pool: if kind == Kind::Discrete { Pool::Own } else { Pool::Host },
            support: SupportLevel::Untried,
            memory_total_bytes: 0,
            memory_free_bytes: 0,
            memory_usable_bytes: 0,
            verification: Verification::CouldNotMeasure {
                reason: "it was not asked".to_owned(),
            },
            prior: None,
            measured: Measured::default(),
        }
    }

    /// `cpu0`, `vulkan1`: unique within a node, and the same after a restart.
    pub fn short_name(&self) -> String {
        format!("{}{}", self.backend.name(), self.ordinal)
    }

    /// What tells this device from every other of the node across restarts: its own identity, else where it is plugged
    /// in, and only where it has neither the order of its backend.
    pub fn identity(&self) -> String {
        match (&self.uuid, &self.pci_address) {
            (Some(uuid), _) if self.kind != Kind::Software => format!("uuid:{uuid}"),
            (_, Some(address)) => format!("pci:{address}"),
            _ => format!("{}:{}", self.backend.name(), self.index),
        }
    }
}
