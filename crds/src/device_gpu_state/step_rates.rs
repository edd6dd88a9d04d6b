//! How fast a device runs steps of a model.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Measured with made-up layers and the code that serves: a step takes stepNs, layerNs for each layer, and its weights' bytes
/// at the rate of their format.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StepRates {
    /// Each step, whatever its layers, nanoseconds.
    #[schemars(range(min = 0))]
    pub step_ns: i64,
    /// Each layer beside reading its weights, nanoseconds.
    #[schemars(range(min = 0))]
    pub layer_ns: i64,
    /// Reading weights and multiplying them with one row.
    #[schemars(length(max = 8))]
    pub reading: Vec<ReadingRate>,
    /// Arithmetic of steps of many rows, operations per second; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub prefill_flops_per_second: Option<i64>,
    /// When.
    pub measured_at: Time,
    /// Steps behind it.
    #[schemars(range(min = 1))]
    pub samples: i32,
}

/// Of weights of about so many bits.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReadingRate {
    /// Bits of each weight, its share of scales too.
    #[schemars(range(min = 1, max = 64))]
    pub bits: i32,
    #[schemars(range(min = 1))]
    pub bytes_per_second: i64,
}
