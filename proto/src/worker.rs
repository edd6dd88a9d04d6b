//! What an agent starts a worker with: one file of JSON that says which shard, on which device, who the worker is and where it listens.
//! The agent writes it, and compares with it when it takes a worker over; the worker reads it once, and judges it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::placement::v1;

/// The whole configuration. Unknown fields are refused: a misspelt one would silently mean its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// `metadata.uid` of the `InferenceModel`.
    pub model_uid: String,
    /// Name of the Kubernetes node.
    pub node: String,
    /// Name of the `DeviceGPUState`, or of the device group. With the node and the layers it says which stage of a placement this
    /// worker is.
    pub device: String,
    /// First layer of the shard.
    pub first_layer: u32,
    /// The layer after the shard's last.
    pub end_layer: u32,
    /// Layers of the model.
    pub total_layers: u32,
    /// Where it computes.
    pub backend: Backend,
    /// Raw enumeration index of the device; ignored for the CPU. Of a device group: of its first member.
    pub device_index: u32,
    /// Raw enumeration indices of the group's other members, in the order of their names; empty for a single device.
    #[serde(default)]
    pub group_indices: Vec<u32>,
    /// Compute threads.
    pub threads: u32,
    /// What the placement allows on the device, or on all members of a group together, each an equal part; 0 sets no limit.
    pub memory_budget_bytes: u64,
    /// The weights.
    pub slice: SliceFiles,
    /// GGUF with the token embedding; on the head only, and not where the slice is a whole model that looks its tokens up
    /// itself.
    pub embedding: Option<PathBuf>,
    /// Width of the residual stream; must be what the slice says.
    pub embedding_length: u32,
    /// What all stages agree on.
    pub runtime: RuntimeConfig,
    /// `ip:port` of the data plane; port 0 takes a free one.
    pub listen: String,
    /// The address that others dial.
    pub advertise_ip: String,
    /// Unix socket for the agent.
    pub control_socket: PathBuf,
    /// Directory with `leaf.pem`, `key.pem`, `bundle.pem` and `placement.keys`.
    pub identity_dir: PathBuf,
    /// Authority that names this installation's processes.
    pub trust_domain: String,
    /// Seconds without an agent after which the worker drains and ends.
    pub orphan_grace_s: u64,
    /// What may be given up when memory is short; nothing where unset.
    #[serde(default)]
    pub pressure: PressureConfig,
    /// While a stream is decoded, the cores that wait for the other stages are kept from sleeping: faster, for more power. Has
    /// no effect where a CPU quota limits the process, nor on a stage that is a whole pipeline.
    #[serde(default = "yes")]
    pub keep_awake: bool,
    /// Tokens are drafted from the text before them and computed by stages that would idle: faster where texts repeat themselves,
    /// for more power. What a stream says does not depend on it.
    #[serde(default = "yes")]
    pub speculate: bool,
}

fn yes() -> bool {
    true
}

impl WorkerConfig {
    /// Embeds tokens and owns the schedule.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.first_layer == 0
    }

    /// Samples.
    #[must_use]
    pub fn is_tail(&self) -> bool {
        self.end_layer == self.total_layers
    }

    /// A pipeline by itself.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_head() && self.is_tail()
    }

    /// How long the worker lives without an agent.
    #[must_use]
    pub fn orphan_grace(&self) -> Duration {
        Duration::from_secs(self.orphan_grace_s)
    }

    /// Where the highest accepted epoch is kept: beside the control socket.
    #[must_use]
    pub fn epoch_file(&self) -> PathBuf {
        self.control_socket.with_extension("epoch")
    }
}

/// A GGUF split set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceFiles {
    /// Split 0: metadata alone.
    pub header: PathBuf,
    /// The other splits, in order.
    pub parts: Vec<PathBuf>,
}

/// What every stage of a pipeline has alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Positions of one sequence.
    pub context_length: u32,
    /// Sequence slots.
    pub parallel_sequences: u32,
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// Rows of one step.
    pub max_step_rows: u32,
    /// Positions that the cache holds over all slots; 0: `context_length * parallel_sequences`.
    #[serde(default)]
    pub kv_cells: u32,
    /// Slots for kept prefixes, after those of the sequences.
    #[serde(default)]
    pub prefix_sequences: u32,
}

/// What may be given up when memory is short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PressureConfig {
    /// The KV cache may be loaded in 8 bits; that changes tokens.
    pub allow_kv_quantisation: bool,
    /// The shard's first layers may be left in host memory, where the processor computes them slowly.
    pub allow_host_layers: bool,
    /// Folder of the control group whose limit holds; the process's own where unset.
    pub cgroup_dir: Option<PathBuf>,
}

/// Families of ggml backends that a worker can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processor.
    Cpu,
    /// Any Vulkan device.
    Vulkan,
    /// NVIDIA's.
    Cuda,
    /// AMD's.
    Hip,
    /// Intel's.
    Sycl,
    /// Adreno and others.
    OpenCl,
}

impl Backend {
    /// Every one.
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Vulkan, Self::Cuda, Self::Hip, Self::Sycl, Self::OpenCl];

    /// The name of its module, in configurations and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Vulkan => "vulkan",
            Self::Cuda => "cuda",
            Self::Hip => "hip",
            Self::Sycl => "sycl",
            Self::OpenCl => "opencl",
        }
    }

    /// The one that has this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }
}

/// Element types of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// Half precision.
    F16,
    /// Single precision.
    F32,
    /// Eight bits in blocks.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl From<v1::KvType> for KvType {
    fn from(signed: v1::KvType) -> Self {
        match signed {
            v1::KvType::F16 | v1::KvType::Unspecified => Self::F16,
            v1::KvType::F32 => Self::F32,
            v1::KvType::Q80 => Self::Q8_0,
        }
    }
}

impl From<KvType> for v1::KvType {
    fn from(configured: KvType) -> Self {
        match configured {
            KvType::F16 => Self::F16,
            KvType::F32 => Self::F32,
            KvType::Q8_0 => Self::Q80,
        }
    }
}
