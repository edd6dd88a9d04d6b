//! `DeviceGPUState`: one device of one node. The administrator owns `spec`, the node's agent owns `status`.

// Printer columns are attributes, and most have the same type.
#![allow(clippy::duplicated_attributes)]

mod status;
mod step_rates;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use status::{BandwidthPrior, DeviceGPUStateStatus, DeviceKind, HeldShard, Measurement, SupportLevel};
pub use step_rates::{ReadingRate, StepRates};

/// What the administrator decides about a device. Every field is optional: the agent applies an empty spec.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "shardwright.dev",
    version = "v1alpha1",
    kind = "DeviceGPUState",
    plural = "devicegpustates",
    shortname = "gpu",
    category = "shardwright",
    status = "DeviceGPUStateStatus",
    derive = "PartialEq",
    cel,
    doc = "A device that can hold layers of a model: a GPU, a software renderer or the CPU of a node. Written by the node's agent.",
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.model"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".status.kind"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.memory"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".status.memoryPool", priority = 1),
    printcolumn(name = "Support", type_ = "string", json_path = ".status.supportLevel", priority = 1),
    printcolumn(
        name = "Temp",
        type_ = "integer",
        json_path = ".status.temperatureCelsius",
        description = "Degrees Celsius"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGPUStateSpec {
    /// Takes the device out of placement. What runs on it is moved away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// Percentage of the device's memory that placement may use, of what the agent found usable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_memory_percent: Option<i32>,
    /// The most the device should draw, watts. `status.powerLimitWatts` has the limit in force; where that is higher, condition
    /// Ready says so. The agent has no right to set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub power_limit_watts: Option<i32>,
    /// What keeps layers away from the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into(), "effect".into()]))]
    pub taints: Option<Vec<DeviceTaint>>,
}

/// A reason to keep layers away from a device, set by a person or by what that person runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')").message("spec.taints[].key must be a name such as repair or example.com/repair").field_path(".key"),
    validation = Rule::new("!has(self.value) || self.value.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')").message("spec.taints[].value must be letters, digits, '-', '_' and '.', and begin and end with a letter or digit").field_path(".value")
)]
pub struct DeviceTaint {
    /// What the matter is: `repair`, `example.com/repair`.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// More of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub value: Option<String>,
    /// What follows.
    pub effect: TaintEffect,
}

/// What a taint does to layers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaintEffect {
    /// No further layers are put on the device; those that it has stay.
    NoPlace,
    /// No layers are put on the device, and those that it has are moved away.
    Evict,
}

#[cfg(test)]
mod tests;
