//! What is a GPU, on this node: probing, verification, measurement.
//!
//! ```text
//!            child process, one per backend                    this process
//!  the machine ──call──▶ raw answers ──parse──▶ Answer ══JSON══▶ merge ──▶ Vec<Device>
//!               (unsafe, tiny)        (pure)                     (pure)
//! ```
//!
//! A missing driver is an answer ([`Answer::note`]), never an error of the node. A driver that hangs or crashes takes
//! down the child process it was asked in, and costs a note as well ([`child::probe_in_child`]).
//! A device may hold layers only when [`Verification::Verified`]: a mebibyte was copied in and out and came back whole.

pub mod child;
pub mod cpu;
pub mod merge;
pub mod vulkan;

use serde::{Deserialize, Serialize};

/// A way to reach devices, named as ggml names its backend families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processors of the node, as one device.
    Cpu,
    /// Any driver that the Vulkan loader finds.
    Vulkan,
}

impl Backend {
    /// In the order in which they are probed and shown.
    pub const ALL: [Backend; 2] = [Backend::Cpu, Backend::Vulkan];

    /// The name used in flags, object names and placements.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Vulkan => "vulkan",
        }
    }
}

impl std::str::FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

/// A backend name that this build does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("backend {0:?} is not known; known are cpu and vulkan")]
pub struct UnknownBackend(String);

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
    /// One mebibyte was allocated, copied in, copied back and compared.
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

/// Measured memory bandwidth, reads and writes counted both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Bytes moved per second.
    pub bytes_per_second: u64,
    /// How many timed copies the figure rests on.
    pub samples: u32,
    /// Seconds since the Unix epoch.
    pub measured_unix_s: u64,
}

/// Where a device's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The node's main memory, shared with the CPU and every other device that says so.
    Host,
    /// Its own.
    Own,
}

/// One device as one backend sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Which backend reaches it.
    pub backend: Backend,
    /// The backend's own raw enumeration index.
    pub index: u32,
    /// Who made it, in lower case.
    pub vendor: String,
    /// As its maker names it.
    pub model: String,
    /// Instruction-set level or GPU generation, when known.
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
    /// Cores of a CPU; nothing where the API does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_units: Option<u32>,
    /// Discrete, integrated, software or CPU.
    pub kind: Kind,
    /// Where its memory is.
    pub pool: Pool,
    /// What there is.
    pub memory_total_bytes: u64,
    /// What nobody used when probed.
    pub memory_free_bytes: u64,
    /// What shards may take: free, less a reserve, at most the limit that the node's owner set.
    pub memory_usable_bytes: u64,
    /// Whether it may hold layers.
    pub verification: Verification,
    /// Nothing when it was not measured; never zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// From submitting nothing to its completion, microseconds, the median of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_us: Option<u64>,
}

impl Device {
    /// `cpu0`, `vulkan1`: unique within a node.
    pub fn short_name(&self) -> String {
        format!("{}{}", self.backend.name(), self.index)
    }
}

/// What one backend answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Who answered.
    pub backend: Backend,
    /// May be empty.
    pub devices: Vec<Device>,
    /// Why there is nothing, or less than expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Answer {
    /// No devices, and why.
    pub fn nothing(backend: Backend, note: impl Into<String>) -> Self {
        Self {
            backend,
            devices: Vec::new(),
            note: Some(note.into()),
        }
    }
}

/// Asks one backend in this process: verifies and measures what it finds. Takes up to a second per device, and as long
/// as a wedged driver likes; use [`child::probe_in_child`] where that matters.
pub fn probe(backend: Backend, now_unix_s: u64) -> Answer {
    match backend {
        Backend::Cpu => cpu::probe(std::path::Path::new("/"), now_unix_s),
        Backend::Vulkan => vulkan::probe(now_unix_s),
    }
}

/// The bytes that a verification copies: long enough to cross pages and caches, short enough for any device.
pub const VERIFICATION_BYTES: usize = 1 << 20;

/// The content of a verification copy: differs in every position that a stuck address line could confuse.
pub fn verification_pattern() -> Vec<u8> {
    (0..VERIFICATION_BYTES as u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect()
}
