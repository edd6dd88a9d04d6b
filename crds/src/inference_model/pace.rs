//! How fast stages were found to be, beside how fast they were predicted to be.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Medians of what a stage's worker measured, where it measured enough.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObservedPace {
    /// Computing of one token of one stream, microseconds; compare with expectedUsPerToken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub us_per_token: Option<i64>,
    /// Tokens behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub tokens: Option<i64>,
    /// Positions of context that these tokens met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub context: Option<i64>,
    /// What was predicted for a token that meets so many: predictedUsPerToken is of status.placement.predictedContext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub expected_us_per_token: Option<i64>,
    /// Computing of 1,000 tokens of a prompt, microseconds; compare with predictedPrefillUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub prefill_us: Option<i64>,
    /// Of the first stage: all hops of one token together, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub hops_us: Option<i64>,
}

/// How a device's real pace compares with what was predicted of it, for weights of one quantisation. The next placement of any
/// model reckons with it; one that serves is not moved for it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LearnedPace {
    /// Name of the DeviceGPUState; of several that work as one their names in ascending order, joined by "+".
    #[schemars(length(max = 2031))]
    pub device: String,
    #[schemars(length(max = 32))]
    pub backend: String,
    /// Of the model, such as "Q4_1".
    #[schemars(length(max = 64))]
    pub quantisation: String,
    /// Measured time in percent of what the device's own measurements let expect: 130 is 1.3 times slower.
    #[schemars(range(min = 25, max = 400))]
    pub factor_percent: i32,
    /// Tokens behind it.
    #[schemars(range(min = 0))]
    pub tokens: i64,
}
