//! What the agent reports of a device.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::step_rates::StepRates;

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
    /// Every backend that reaches the device, that of `backend` first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 32)))]
    pub backends: Vec<String>,
    /// How much is known of running layers on such a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support_level: Option<SupportLevel>,
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
    /// Highest clock of its processors.
    #[serde(default, rename = "clockMHz", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub clock_mhz: Option<i32>,
    /// What it may draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub power_limit_watts: Option<i32>,
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
    /// What the shards of this node use of its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub memory_used_by_us_bytes: Option<i64>,
    /// What everybody else uses of its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub memory_used_by_others_bytes: Option<i64>,
    /// As of the last write; absent where no sensor says, or says what cannot be believed. Metrics have every reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 150))]
    pub temperature_celsius: Option<i32>,
    /// What it drew at the last write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub power_watts: Option<i32>,
    /// Share of time in which it computed, at the last write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub utilisation_percent: Option<i32>,
    /// Why it runs slower than it could, at the last write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 32)))]
    pub throttle_reasons: Vec<String>,
    /// Memory errors that could not be mended, since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ecc_uncorrected: Option<i64>,
    /// Measured rate at which the device copies within its memory, reads and writes counted both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<Measurement>,
    /// What a table says of such devices, before anything was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_prior: Option<BandwidthPrior>,
    /// Measured matrix products in single precision, operations per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f32_flops_per_second: Option<Measurement>,
    /// Measured matrix products of half-precision inputs, operations per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f16_flops_per_second: Option<Measurement>,
    /// Measured rate from main memory to the device, bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_device_bytes_per_second: Option<Measurement>,
    /// Measured rate from the device to main memory, bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_device_bytes_per_second: Option<Measurement>,
    /// Measured fixed cost of starting one piece of work, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_ns: Option<Measurement>,
    /// How fast steps of a model are on the device, as a worker measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_rates: Option<StepRates>,
    /// Operators of unusual architectures that the device has no kernel for, by its backend's own answer, as ggml names them
    /// (SSM_SCAN_MAMBA1 and SSM_SCAN_MAMBA2 are its two forms). Models that need one of them are not placed here. Absent: the
    /// backend was not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    pub missing_operators: Option<Vec<String>>,
    /// What the device holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub shards: Vec<HeldShard>,
    /// Ready, Healthy, Verified and Throttled.
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

/// How much is known of running layers on a device.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupportLevel {
    /// Known not to work.
    Unsupported,
    /// Never tried on the real thing.
    Untried,
    /// Layers were computed on such a device and agreed with the processor.
    Tried,
}

/// A figure from a table. It holds for the model of card, not for this one, and only until this one was measured.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BandwidthPrior {
    /// The maker's figure.
    #[schemars(range(min = 1))]
    pub bytes_per_second: i64,
    /// Where it is from.
    #[schemars(length(min = 1, max = 256))]
    pub source: String,
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
