//! `InferenceModel`: a model that people want served. They own `spec`, the operator owns `status`.

// Printer columns are attributes, and most have the same type.
#![allow(clippy::duplicated_attributes)]

mod pace;
mod source;
mod status;
mod toleration;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use pace::{LearnedPace, ObservedPace};
pub use source::{MemoryPressure, ModelSource, PrefixCache, SourceSecret};
pub use status::{
    InferenceModelStatus, LearnedMemory, MemoryUsed, PlacementStatus, ResolvedModel, StagePhase, StageStatus, Verdict,
    Yielded, YieldedLink,
};
pub use toleration::{Toleration, TolerationOperator};

/// Which model to serve, how, and where it may run.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "shardwright.dev",
    version = "v1alpha1",
    kind = "InferenceModel",
    plural = "inferencemodels",
    namespaced,
    shortname = "im",
    category = "shardwright",
    status = "InferenceModelStatus",
    derive = "PartialEq",
    cel,
    doc = "A language model served by one or more pipelines over the devices of the cluster.",
    printcolumn(name = "Model", type_ = "string", json_path = ".status.model.summary"),
    printcolumn(name = "Layers", type_ = "integer", json_path = ".status.model.layers"),
    printcolumn(name = "Stages", type_ = "string", json_path = ".status.stagesReady"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.placement.epoch"),
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
        name = "Replicas",
        type_ = "string",
        json_path = ".status.replicasReady",
        priority = 1
    ),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(
        name = "Verdict",
        type_ = "string",
        json_path = ".status.placement.verdict",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.contextLength * self.parallelSequences <= 16777216").message("spec.contextLength times spec.parallelSequences must be at most 16777216 tokens").field_path(".parallelSequences"),
    validation = Rule::new("self.parallelSequences + (has(self.prefixCache) ? self.prefixCache.maxPrefixes : 8) <= 254").message("spec.parallelSequences plus spec.prefixCache.maxPrefixes must be at most 254: one cache tells no more apart").field_path(".parallelSequences"),
    validation = Rule::new("!has(self.kvCacheTokens) || self.kvCacheTokens >= self.contextLength").message("spec.kvCacheTokens must be at least spec.contextLength, or one full sequence would not fit").field_path(".kvCacheTokens"),
    validation = Rule::new("!has(self.kvCacheTokens) || self.kvCacheTokens <= self.contextLength * self.parallelSequences").message("spec.kvCacheTokens must be at most spec.contextLength times spec.parallelSequences: more can never be used").field_path(".kvCacheTokens")
)]
pub struct InferenceModelSpec {
    /// Where the weights come from.
    pub source: ModelSource,
    /// Tokens of context of each sequence: prompt and answer together.
    #[serde(default = "default_context_length")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub context_length: i32,
    /// Sequences that can be in flight together; more wait in a queue.
    #[serde(default = "default_parallel_sequences")]
    #[schemars(range(min = 1, max = 254))]
    pub parallel_sequences: i32,
    /// Tokens that the cache of every stage holds, over all sequences and kept prefixes. Without it, all sequences can be full at
    /// once (contextLength times parallelSequences); with less, more sequences share less memory, and one that finds no room waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 16_777_216))]
    pub kv_cache_tokens: Option<i32>,
    /// Prefixes kept for reuse.
    #[serde(default)]
    pub prefix_cache: PrefixCache,
    /// What a stage may give up where its device has less memory than it was placed with, before it refuses.
    #[serde(default)]
    pub memory_pressure: MemoryPressure,
    /// Type of the cached keys and values.
    #[serde(default)]
    pub kv_type: KvType,
    /// How much a token may depend on what else is computed at the same time.
    #[serde(default)]
    pub determinism: Determinism,
    /// What a good placement is.
    #[serde(default)]
    pub objective: Objective,
    /// Whole pipelines, none of which has a device of another: each holds a copy of the weights and answers by itself. Where fewer
    /// fit, those serve, and the status says what the next one lacks.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 16))]
    pub replicas: i32,
    /// Who gives way where memory or links are short: a model that fits nowhere beside the others may take devices and links of
    /// models of lower priority, never of equal. Models are placed in this order, the highest first.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// Where the model may run. Every replica keeps these constraints by itself.
    #[serde(default)]
    pub placement: PlacementConstraints,
}

fn default_replicas() -> i32 {
    1
}

fn default_context_length() -> i32 {
    2048
}

fn default_parallel_sequences() -> i32 {
    4
}

/// Type of the cached keys and values.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    #[default]
    F16,
    F32,
    #[serde(rename = "Q8_0")]
    Q8_0,
}

/// How much a token may depend on what else is computed at the same time.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Determinism {
    /// Prompts are computed at full speed; the last bits of a number may depend on how many rows are computed with it.
    #[default]
    Relaxed,
    /// On CPUs, numbers depend on the tokens before and on nothing else that is computed, so that an answer goes on as it would
    /// have when its tokens are computed anew after a fault. Prompts take about a fifth longer, a stream that runs alone
    /// computes two rows for each token, and of models that keep a recurrent state beside attention some are refused.
    Strict,
}

/// What a good placement is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The least time for one token of one stream.
    #[default]
    Latency,
    /// The most tokens over many streams.
    Throughput,
}

/// Where a model may run.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxDevices) || self.minDevices <= self.maxDevices").message("spec.placement.minDevices must not exceed spec.placement.maxDevices").field_path(".minDevices"),
    validation = Rule::new("!has(self.maxLinkPercent) || has(self.minTokensPerSecond)").message("spec.placement.maxLinkPercent is a share at spec.placement.minTokensPerSecond, which must be set with it").field_path(".maxLinkPercent")
)]
pub struct PlacementConstraints {
    /// Devices to use at least, each with one layer or more.
    #[serde(default = "default_min_devices")]
    #[schemars(range(min = 1, max = 64))]
    pub min_devices: i32,
    /// Devices to use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_devices: Option<i32>,
    /// How many equal devices of one node may work as one at most: each layer is computed by all of them at once, each with its part.
    /// They count as one device in minDevices and maxDevices. Absent: 1, every device works by itself. llama.cpp calls this mode
    /// experimental; nothing is placed so under determinism Strict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub max_group_devices: Option<i32>,
    /// Whether software renderers may hold layers: they are slow.
    #[serde(default)]
    pub allow_software_devices: bool,
    /// Only devices of these vendors. Empty: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub vendors: Option<Vec<String>>,
    /// Only devices of nodes with all these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Only nodes with all these labels hold the first and the last layers, where prompts and answers are seen; the stages between see
    /// activations only. A model in one stage is on such a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub token_node_selector: Option<BTreeMap<String, String>>,
    /// Tokens per second that the pipeline must reach over many streams, counted with one stream in each step; streams that share a
    /// step give more. With it, objective Latency means the least latency at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_tokens_per_second: Option<i32>,
    /// At minTokensPerSecond, no link between two nodes is used more than this share of its bandwidth, in per cent, by all hops over it in
    /// one direction together: those of this model, of all its replicas, and what pipelines that are placed already put there. Absent:
    /// the whole link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_link_percent: Option<i32>,
    /// How many layers go to which devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub pinned_layers: Option<Vec<PinnedLayers>>,
    /// Taints of devices that do not keep the model away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub tolerations: Option<Vec<Toleration>>,
}

impl Default for PlacementConstraints {
    fn default() -> Self {
        Self {
            min_devices: default_min_devices(),
            max_devices: None,
            max_group_devices: None,
            allow_software_devices: false,
            vendors: None,
            node_selector: None,
            token_node_selector: None,
            max_link_percent: None,
            min_tokens_per_second: None,
            pinned_layers: None,
            tolerations: None,
        }
    }
}

fn default_min_devices() -> i32 {
    1
}

/// The devices that match every field given here hold this many layers between them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.backend) || has(self.node) || has(self.device)").message("spec.placement.pinnedLayers must name a backend, a node or a device").field_path(".backend").reason(Reason::FieldValueRequired),
    validation = Rule::new("!has(self.maxLayers) || self.minLayers <= self.maxLayers").message("spec.placement.pinnedLayers: minLayers must not exceed maxLayers").field_path(".minLayers")
)]
pub struct PinnedLayers {
    /// Backend family, such as vulkan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub backend: Option<String>,
    /// Name of a Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// Name of a DeviceGPUState.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub device: Option<String>,
    /// Layers they hold at least.
    #[serde(default = "default_min_layers")]
    #[schemars(range(min = 0, max = 1024))]
    pub min_layers: i32,
    /// Layers they hold at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1024))]
    pub max_layers: Option<i32>,
}

fn default_min_layers() -> i32 {
    1
}

#[cfg(test)]
mod tests;
