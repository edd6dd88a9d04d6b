//! What an agent reports of one device, freed from Kubernetes.

use crds::{DeviceGPUState, DeviceKind, conditions};
use serde::{Deserialize, Serialize};

/// What kind of hardware a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    Discrete,
    Integrated,
    /// A software renderer: real arithmetic on the CPU, slow.
    Software,
    Cpu,
}

impl Kind {
    /// Whether the device works in the node's own memory.
    pub fn uses_host_memory(self) -> bool {
        self != Self::Discrete
    }
}

impl From<DeviceKind> for Kind {
    fn from(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Discrete => Self::Discrete,
            DeviceKind::Integrated => Self::Integrated,
            DeviceKind::Software => Self::Software,
            DeviceKind::Cpu => Self::Cpu,
        }
    }
}

/// One device as its agent and the administrator describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceReport {
    /// metadata.name of the DeviceGPUState.
    pub name: String,
    pub node: String,
    #[serde(default)]
    pub vendor: String,
    #[serde(default)]
    pub model: String,
    pub backend: String,
    pub kind: Kind,
    /// Devices with the same name share physical memory.
    pub memory_pool: String,
    /// What shards may use in all, those held already included.
    pub memory_usable_bytes: u64,
    #[serde(default)]
    pub max_memory_percent: Option<u8>,
    /// Measured; absent when it never was.
    #[serde(default)]
    pub bandwidth_bytes_per_second: Option<u64>,
    /// Measured; absent when it never was.
    #[serde(default)]
    pub launch_us: Option<u64>,
    #[serde(default)]
    pub cordoned: bool,
    /// What was copied to the device came back unchanged.
    #[serde(default = "yes")]
    pub verified: bool,
    /// Why the device is not healthy; absent when it is.
    #[serde(default)]
    pub fault: Option<String>,
}

fn yes() -> bool {
    true
}

impl DeviceReport {
    /// Reads a report out of an object; `None` while its agent has not written a status.
    ///
    /// A device counts as verified only where the condition says so; it counts as healthy unless the condition denies it.
    pub fn from_state(state: &DeviceGPUState) -> Option<Self> {
        let name = state.metadata.name.clone()?;
        let status = state.status.as_ref()?;
        let healthy = conditions::find(&status.conditions, conditions::device::HEALTHY);
        Some(Self {
            name,
            node: status.node.clone(),
            vendor: status.vendor.clone(),
            model: status.model.clone(),
            backend: status.backend.clone(),
            kind: status.kind.into(),
            memory_pool: status.memory_pool.clone(),
            memory_usable_bytes: u64::try_from(status.memory_usable_bytes).unwrap_or(0),
            max_memory_percent: state
                .spec
                .max_memory_percent
                .map(|percent| u8::try_from(percent.clamp(0, 100)).unwrap_or(100)),
            bandwidth_bytes_per_second: status
                .bandwidth_bytes_per_second
                .as_ref()
                .and_then(|m| u64::try_from(m.value).ok())
                .filter(|value| *value > 0),
            launch_us: status.launch_us.and_then(|us| u64::try_from(us).ok()),
            cordoned: state.spec.cordoned.unwrap_or(false),
            verified: conditions::is_true(&status.conditions, conditions::device::VERIFIED),
            fault: healthy
                .filter(|c| c.status == conditions::ConditionStatus::False.as_str())
                .map(|c| {
                    if c.message.is_empty() {
                        c.reason.clone()
                    } else {
                        c.message.clone()
                    }
                }),
        })
    }
}

#[cfg(test)]
mod tests;
