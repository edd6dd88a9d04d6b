//! `DeviceGPUState`: one device of one node. The administrator owns `spec`, the node's agent owns `status`.

// Printer columns are attributes, and most have the same type.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
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
}

/// What the agent found. Written when something changes, never on a timer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGPUStateStatus {
    /// metadata.generation that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the Node that has the device.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// Who made it: nvidia, amd, intel, mesa. Lower case.
    #[schemars(length(max = 64))]
    pub vendor: String,
    /// As the driver names it.
    #[schemars(length(max = 256))]
    pub model: String,
    /// Backend family that drives it: cpu, vulkan, cuda, rocm.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z][a-z0-9]*$"))]
    pub backend: String,
    /// Index of the device in its backend's own enumeration.
    #[schemars(range(min = 0))]
    pub backend_index: i32,
    /// Architecture or compute capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub architecture: Option<String>,
    /// Driver and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub driver: Option<String>,
    /// Bus address, such as 0000:01:00.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub pci_address: Option<String>,
    /// The device's own identity, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uuid: Option<String>,
    /// Compute units, multiprocessors or cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub compute_units: Option<i32>,
    /// What kind of hardware stands behind it.
    pub kind: DeviceKind,
    /// Name of the physical memory, unique in the cluster. Devices with the same name share one budget.
    #[schemars(length(min = 1, max = 253))]
    pub memory_pool: String,
    /// Memory for people, such as "15.6 GiB".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub memory: Option<String>,
    /// Bytes the device has.
    #[schemars(range(min = 0))]
    pub memory_total_bytes: i64,
    /// Bytes that nobody uses at present.
    #[schemars(range(min = 0))]
    pub memory_free_bytes: i64,
    /// Bytes that shards may use in all, those they hold already included.
    #[schemars(range(min = 0))]
    pub memory_usable_bytes: i64,
    /// Measured rate at which the device reads its memory, bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<Measurement>,
    /// Measured fixed cost of starting one piece of work, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub launch_us: Option<i64>,
    /// What the device holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub shards: Vec<HeldShard>,
    /// Ready, Healthy and Verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What kind of hardware a device is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Discrete,
    Integrated,
    Software,
    Cpu,
}

impl DeviceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discrete => "Discrete",
            Self::Integrated => "Integrated",
            Self::Software => "Software",
            Self::Cpu => "Cpu",
        }
    }
}

/// A number that was measured on the device itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Measurement {
    #[schemars(range(min = 1))]
    pub value: i64,
    /// When the last sample was taken.
    pub measured_at: Time,
    /// How many samples stand behind the value.
    #[schemars(range(min = 1))]
    pub samples: i32,
}

/// A shard that the device holds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HeldShard {
    /// Name of the InferenceModel.
    #[schemars(length(max = 253))]
    pub model: String,
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// First and last layer, such as "0-9".
    #[schemars(length(max = 16))]
    pub layers: String,
    /// Bytes the shard may use on the device.
    #[schemars(range(min = 0))]
    pub memory_bytes: i64,
}

#[cfg(test)]
mod tests;
