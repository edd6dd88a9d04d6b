//! How fast a device runs steps of a model.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Measured with made-up layers and the code that serves: a step takes stepNs, layerNs for each layer, its weights' bytes at
/// the rate of their format, rowPs for each of their rows, and attention that grows with the context.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StepRates {
    /// Each step, whatever its layers, nanoseconds.
    #[schemars(range(min = 0))]
    pub step_ns: i64,
    /// Each layer beside reading its weights, nanoseconds.
    #[schemars(range(min = 0))]
    pub layer_ns: i64,
    /// Each row of a matrix beside reading it, picoseconds; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub row_ps: Option<i64>,
    /// Reading weights and multiplying them with one row.
    #[schemars(length(max = 8))]
    pub reading: Vec<ReadingRate>,
    /// Arithmetic of one row's attention, operations per second: 4 x width for each position and layer. Absent where it was not
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attention_flops_per_second: Option<i64>,
    /// A step of one token under determinism: Strict, in percent of one without; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100))]
    pub strict_percent: Option<i32>,
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
