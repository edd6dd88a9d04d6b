//! Devices of one node that work as one: each layer is computed by all of them at once, each with its share of the weights.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::device_gpu_state::StepRates;

/// Devices of the node that may work as one. Without stepRates nothing is placed on them together.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.stepRates) || !has(self.error)").message("status.groups[].error must be absent where status.groups[].stepRates is set").field_path(".error")
)]
pub struct DeviceGroup {
    /// Names of their DeviceGPUStates, in ascending order.
    #[schemars(length(min = 2, max = 8), inner(length(min = 1, max = 253)))]
    pub devices: Vec<String>,
    /// Backend family that drives them: cuda, rocm, vulkan.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z][a-z0-9]*$"))]
    pub backend: String,
    /// How fast steps of a model are on them together, as a worker measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_rates: Option<StepRates>,
    /// Why they cannot work as one, for a person; measured again when the node's agent is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub error: Option<String>,
    /// When they were last measured, or that was last tried; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Time>,
}
