//! What an agent reports of one device, freed from Kubernetes.

use std::fmt;

use crds::conditions::{self, Condition, ConditionStatus, device as kind, reason};
use crds::{DeviceGPUState, DeviceKind, DeviceTaint, Measurement, TaintEffect};
use serde::{Deserialize, Serialize};

use crate::Steps;

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

/// What keeps layers of models that do not tolerate it away from a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    pub key: String,
    /// Empty where it has none.
    #[serde(default)]
    pub value: String,
    pub effect: Effect,
}

/// What a taint does to layers that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Those that are there stay.
    NoPlace,
    /// Those that are there must leave.
    Evict,
}

impl From<TaintEffect> for Effect {
    fn from(effect: TaintEffect) -> Self {
        match effect {
            TaintEffect::NoPlace => Self::NoPlace,
            TaintEffect::Evict => Self::Evict,
        }
    }
}

impl From<&DeviceTaint> for Taint {
    fn from(taint: &DeviceTaint) -> Self {
        Self {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: taint.effect.into(),
        }
    }
}

/// As people write it: "repair=fan:Evict".
impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{:?}", self.effect)
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
    /// What a table says of such devices; counts where nothing was measured.
    #[serde(default)]
    pub prior_bandwidth_bytes_per_second: Option<u64>,
    /// Measured; absent when it never was.
    #[serde(default)]
    pub launch_us: Option<u64>,
    /// How fast steps of a model are; absent where no worker measured it.
    #[serde(default)]
    pub steps: Option<Steps>,
    /// Operators that its backend says it has no kernel for; absent where it was not asked.
    #[serde(default)]
    pub missing_operators: Option<Vec<String>>,
    /// Measured matrix products of half-precision inputs, else of single precision; absent when neither was.
    #[serde(default)]
    pub flops_per_second: Option<u64>,
    /// At the last reading; absent without a sensor.
    #[serde(default)]
    pub temperature_celsius: Option<u32>,
    /// It runs slower at present than was measured.
    #[serde(default)]
    pub throttled: bool,
    #[serde(default)]
    pub cordoned: bool,
    /// No test of the device failed. One that has yet to be passed is in `no_new_layers`.
    #[serde(default = "yes")]
    pub verified: bool,
    /// Why the device is not healthy; absent when it is.
    #[serde(default)]
    pub fault: Option<String>,
    /// Why neither new layers nor those that it has may be on the device, though it is healthy: reads on after its name.
    #[serde(default)]
    pub barred: Option<String>,
    /// Why it gets no further layers and keeps those that it has: reads on after its name.
    #[serde(default)]
    pub no_new_layers: Option<String>,
    /// What a model must tolerate to be here.
    #[serde(default)]
    pub taints: Vec<Taint>,
}

fn yes() -> bool {
    true
}

impl DeviceReport {
    /// Reads a report out of an object; `None` while its agent has not written a status.
    ///
    /// * Healthy `False` is a fault. A device whose agent says nothing of its health is taken to be healthy.
    /// * Verified must have been said. `False` is a failed test; `Unknown` leaves the device what it has.
    /// * Ready `False` for any other reason keeps new layers away; a device that was given to somebody else must be left.
    /// * The administrator's taints are handed on: whom they keep away is decided for each model.
    pub fn from_state(state: &DeviceGPUState) -> Option<Self> {
        let name = state.metadata.name.clone()?;
        let status = state.status.as_ref()?;
        let found = |kind: &str| conditions::find(&status.conditions, kind);
        let fault = found(kind::HEALTHY).filter(|c| is(c, ConditionStatus::False)).map(said);
        let open = found(kind::VERIFIED).filter(|c| is(c, ConditionStatus::Unknown));
        let unready = found(kind::READY).filter(|c| is(c, ConditionStatus::False));
        let away = unready.filter(|c| [reason::FOREIGN, reason::UNCLAIMED].contains(&c.reason.as_str()));
        let idle = open.or(unready).filter(|_| fault.is_none() && away.is_none());
        let barred = away.map(|c| format!("is not ours to use ({})", said(c)));
        let no_new_layers = idle.map(|c| format!("is not ready ({})", said(c)));
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
            bandwidth_bytes_per_second: value(status.bandwidth_bytes_per_second.as_ref()),
            prior_bandwidth_bytes_per_second: status
                .bandwidth_prior
                .as_ref()
                .and_then(|prior| u64::try_from(prior.bytes_per_second).ok())
                .filter(|rate| *rate > 0),
            launch_us: value(status.launch_ns.as_ref()).map(|ns| ns.div_ceil(1000)),
            steps: status.step_rates.as_ref().and_then(Steps::from_state),
            missing_operators: status.missing_operators.clone(),
            flops_per_second: value(status.f16_flops_per_second.as_ref())
                .or_else(|| value(status.f32_flops_per_second.as_ref())),
            temperature_celsius: status
                .temperature_celsius
                .and_then(|celsius| u32::try_from(celsius).ok()),
            throttled: conditions::is_true(&status.conditions, kind::THROTTLED),
            cordoned: state.spec.cordoned.unwrap_or(false),
            verified: open.is_some() || conditions::is_true(&status.conditions, kind::VERIFIED),
            fault,
            barred,
            no_new_layers,
            taints: state.spec.taints.iter().flatten().map(Taint::from).collect(),
        })
    }

    /// The same device as it counts for layers that it already has.
    pub fn for_what_it_holds(mut self) -> Self {
        self.no_new_layers = None;
        self.taints.retain(|taint| taint.effect == Effect::Evict);
        self
    }
}

fn is(condition: &Condition, status: ConditionStatus) -> bool {
    condition.status == status.as_str()
}

/// What a condition says, for a person.
fn said(condition: &Condition) -> String {
    if condition.message.is_empty() {
        condition.reason.clone()
    } else {
        format!("{}: {}", condition.reason, condition.message)
    }
}

fn value(measurement: Option<&Measurement>) -> Option<u64> {
    let value = measurement.and_then(|measurement| u64::try_from(measurement.value).ok());
    value.filter(|value| *value > 0)
}

#[cfg(test)]
mod tests;
