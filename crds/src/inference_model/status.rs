//! What the operator reports about a model.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pace::{LearnedPace, ObservedPace};

/// What the operator found, decided and sees.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InferenceModelStatus {
    /// metadata.generation that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Resolved, Placed, Loaded, Ready and Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What the source turned out to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ResolvedModel>,
    /// Where every layer runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,
    /// Stages that serve, of all stages: "3/3".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub stages_ready: Option<String>,
    /// Replicas of which every stage serves, of all that are asked for: "2/2".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub replicas_ready: Option<String>,
    /// host:port of the first stage of the first replica that serves; gateways send requests to all that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub endpoint: Option<String>,
    /// What loaded stages taught about the memory of this model; the next placement reckons with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedMemory>,
    /// How much slower or faster than predicted devices proved to be for this model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub learned_pace: Vec<LearnedPace>,
    /// What the model gave up to one of higher priority, until it is placed anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yielded: Option<Yielded>,
}

/// Memory and links that were given up to a model of higher priority.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Yielded {
    /// The model that took them: <namespace>/<name>.
    #[schemars(length(max = 512))]
    pub to: String,
    /// metadata.uid of that model.
    #[schemars(length(max = 64))]
    pub to_uid: String,
    /// spec.priority of that model at the time.
    pub to_priority: i32,
    /// spec.priority of this model at the time.
    pub priority: i32,
    /// Names of the DeviceGPUStates whose memory the other needed; empty where it needed links alone.
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub devices: Vec<String>,
    /// Links that were full for the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub links: Vec<YieldedLink>,
    /// The epoch that was given up: a later placement has a higher one.
    #[schemars(range(min = 0))]
    pub epoch: i64,
}

/// A link, in one direction.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct YieldedLink {
    /// The node that sends.
    #[schemars(length(max = 253))]
    pub from: String,
    /// The node that receives.
    #[schemars(length(max = 253))]
    pub to: String,
}

/// Memory beside weights and cache, where stages took more than was reckoned with. It holds for one size of cache and is
/// forgotten when the spec asks for another.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LearnedMemory {
    /// Tokens of the cache that it was measured with.
    #[schemars(range(min = 0))]
    pub kv_cache_tokens: i64,
    /// The most that any stage took beside weights and cache, its last layers' output left out.
    #[schemars(range(min = 0))]
    pub compute_bytes: i64,
    /// What a last stage took on top of that.
    #[schemars(range(min = 0))]
    pub output_bytes: i64,
    /// The estimate of computeBytes.
    #[schemars(range(min = 0))]
    pub estimated_compute_bytes: i64,
    /// The estimate of outputBytes.
    #[schemars(range(min = 0))]
    pub estimated_output_bytes: i64,
}

/// Bytes of the device's memory that a stage took, as measured after loading.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemoryUsed {
    #[schemars(range(min = 0))]
    pub weights: i64,
    /// Cached keys and values.
    #[schemars(range(min = 0))]
    pub kv: i64,
    /// Working memory of the backend.
    #[schemars(range(min = 0))]
    pub compute: i64,
}

/// What the source turned out to be.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedModel {
    /// Architecture and quantisation in one, such as "llama/Q4_1".
    #[schemars(length(max = 128))]
    pub summary: String,
    #[schemars(length(max = 64))]
    pub architecture: String,
    #[schemars(range(min = 1))]
    pub layers: i32,
    #[schemars(length(max = 64))]
    pub quantisation: String,
    #[schemars(range(min = 0))]
    pub parameters: i64,
    /// Size of the file.
    #[schemars(range(min = 0))]
    pub size_bytes: i64,
    /// SHA-256 of the file, hexadecimal; empty where an index pins the weights and nobody has read the whole file.
    #[schemars(length(max = 64))]
    pub sha256: String,
    /// SHA-256 of the weight index, hexadecimal: what spec.source.indexSha256 may be set to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub index_sha256: Option<String>,
    /// SHA-256 of the vocabulary that gateways fetch, hexadecimal.
    #[schemars(length(max = 64))]
    pub vocabulary_sha256: String,
}

/// Where every layer runs. The envelope holds the authority; all else is a view of it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlacementStatus {
    /// Counts up whenever the stages change. A lower epoch is refused by agents and workers.
    #[schemars(range(min = 1))]
    pub epoch: i64,
    /// metadata.generation that the placement answers.
    pub generation: i64,
    /// The signed placement, base64.
    #[schemars(length(max = 98_304))]
    pub envelope: String,
    /// How good the placement is known to be.
    pub verdict: Verdict,
    /// Of Feasible: percentage by which the cost may exceed the best possible, at most. Absent where some replicas were not decided
    /// anew, but left where they serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub gap_percent: Option<i32>,
    /// Predicted time of one token, microseconds, all stages and hops included; of several replicas the mean.
    #[schemars(range(min = 0))]
    pub predicted_us_per_token: i64,
    /// Positions of context that the token is predicted to meet: half of a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub predicted_context: Option<i32>,
    /// The time of one token as it was measured: all stages and hops, once all of them measured enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_us_per_token: Option<i64>,
    /// What was predicted for the context that those tokens met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub expected_us_per_token: Option<i64>,
    /// Predicted time of 1,000 tokens of a prompt, microseconds, steps of which follow each other through the stages; absent where
    /// a device's arithmetic was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub predicted_prefill_us: Option<i64>,
    /// Replica by replica, in the order of the layers.
    #[schemars(length(max = 256))]
    pub stages: Vec<StageStatus>,
    /// The next best plan, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub runner_up: Option<String>,
    /// What other models gave up for it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub took: Option<String>,
}

/// How good a placement is known to be.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No placement costs less.
    Optimal,
    /// The search ran out of its budget; the gap is an upper bound.
    Feasible,
    /// Found by a rule of thumb; nothing is known about better ones.
    Greedy,
}

/// One stage: consecutive layers on one device, or on several that work as one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Which replica it belongs to. Replicas that are left alone keep their number, so that numbers may be missing.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub pipeline: i32,
    #[schemars(range(min = 0))]
    pub index: i32,
    /// Name of the Node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Name of the DeviceGPUState; of several that work as one their names in ascending order, joined by "+".
    #[schemars(length(max = 2031))]
    pub device: String,
    #[schemars(length(max = 32))]
    pub backend: String,
    /// First and last layer, such as "0-9".
    #[schemars(length(max = 16))]
    pub layers: String,
    /// First layer.
    #[schemars(range(min = 0))]
    pub first_layer: i32,
    /// The layer after the last.
    #[schemars(range(min = 1))]
    pub end_layer: i32,
    #[schemars(range(min = 0))]
    pub weight_bytes: i64,
    /// Weights, cache and buffers together: what the stage may use, of several devices on all of them together.
    #[schemars(range(min = 0))]
    pub memory_bytes: i64,
    /// What it took, once loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<MemoryUsed>,
    /// What the stage does against a shortage of memory, one CamelCase word; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pressure: Option<String>,
    /// Predicted time of this stage for one token, microseconds.
    #[schemars(range(min = 0))]
    pub predicted_us_per_token: i64,
    /// Of it, what grows with the context, microseconds; absent where nobody measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub predicted_context_us: Option<i64>,
    /// What was learned of the device and is in that prediction, in percent of what it would be without; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 25, max = 400))]
    pub correction_percent: Option<i32>,
    /// Predicted computing of 1,000 tokens of a prompt, microseconds; absent where the device's arithmetic was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub predicted_prefill_us: Option<i64>,
    /// What was measured of the stage, once it served for long enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedPace>,
    /// Predicted time to the next stage, microseconds. The last stage has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub hop_us: Option<i64>,
    /// host:port where the stage listens, once it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub endpoint: Option<String>,
    pub phase: StagePhase,
    /// Why the stage waits or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// What a stage does at present, as its agent reports.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StagePhase {
    /// Not reported yet.
    #[default]
    Pending,
    Fetching,
    Verifying,
    Loading,
    Serving,
    Draining,
    Failed,
    /// It holds its weights and waits for its placement to be in force.
    Loaded,
    /// It has its weights on the disk.
    Fetched,
}
