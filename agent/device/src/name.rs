//! The ways to reach devices, by the names used in flags, placements and messages.

use serde::{Deserialize, Serialize};

/// A way to reach devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processors of the node, as one device.
    Cpu,
    /// Any driver that the Vulkan loader finds.
    Vulkan,
    /// NVIDIA's driver.
    Cuda,
    /// AMD's compute stack.
    Rocm,
    /// Intel's cards, by the kernel's files and Level Zero. What is found here is reached for layers by Vulkan.
    Intel,
}

/// Operating systems with an order of backends of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Servers, and what this project runs on.
    Linux,
    /// Everything that has none of the vendors' drivers here.
    Other,
}

impl Platform {
    /// Of this very build.
    pub fn current() -> Self {
        if cfg!(target_os = "linux") {
            Self::Linux
        } else {
            Self::Other
        }
    }

    /// The backends that are tried, the best first; the CPU is always the last.
    pub fn order(self) -> &'static [Backend] {
        match self {
            Self::Linux => &[
                Backend::Cuda,
                Backend::Rocm,
                Backend::Intel,
                Backend::Vulkan,
                Backend::Cpu,
            ],
            Self::Other => &[Backend::Cpu],
        }
    }
}

impl Backend {
    /// In the order in which objects are shown.
    pub const ALL: [Backend; 5] = [
        Backend::Cpu,
        Backend::Vulkan,
        Backend::Cuda,
        Backend::Rocm,
        Backend::Intel,
    ];

    /// The name used in flags, object names and placements.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Vulkan => "vulkan",
            Backend::Cuda => "cuda",
            Backend::Rocm => "rocm",
            Backend::Intel => "intel",
        }
    }

    /// The name of the engine's module that computes on its devices.
    pub fn engine_name(self) -> &'static str {
        match self {
            Backend::Rocm => "hip",
            Backend::Intel => "vulkan",
            other => other.name(),
        }
    }

    /// Whether layers can be computed by it. What only describes a card needs another backend that reaches the card.
    pub fn holds_layers(self) -> bool {
        self != Backend::Intel
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
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
#[error("backend {0:?} is not known; known are cpu, vulkan, cuda, rocm and intel")]
pub struct UnknownBackend(String);
