//! The configuration file of a worker, and where a worker's things are on disk.

use crate::shard::Slot;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What a worker reads at its start. The worker refuses fields that it does not know.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerConfig {
    /// `metadata.uid` of the InferenceModel.
    pub model_uid: String,
    /// Name of the node.
    pub node: String,
    /// Name of the DeviceGPUState.
    pub device: String,
    /// First layer.
    pub first_layer: u32,
    /// One past the last layer.
    pub end_layer: u32,
    /// Layers of the model.
    pub total_layers: u32,
    /// `cpu` or `vulkan`.
    pub backend: String,
    /// Raw enumeration index; ignored for the CPU.
    pub device_index: u32,
    /// Compute threads.
    pub threads: u32,
    /// What it may use on its device.
    pub memory_budget_bytes: u64,
    /// The weights.
    pub slice: SliceFiles,
    /// On the head only.
    pub embedding: Option<PathBuf>,
    /// Width of the residual stream.
    pub embedding_length: u32,
    /// What all stages agree on.
    pub runtime: RuntimeConfig,
    /// Where the data plane binds.
    pub listen: String,
    /// The address that others dial.
    pub advertise_ip: String,
    /// Unix socket for this agent.
    pub control_socket: PathBuf,
    /// leaf.pem, key.pem, bundle.pem, placement.keys.
    pub identity_dir: PathBuf,
    /// Trust domain.
    pub trust_domain: String,
    /// Seconds without us after which the worker ends.
    pub orphan_grace_s: u64,
    /// What may be given up when memory is short.
    pub pressure: PressureConfig,
}

/// What may be given up when memory is short.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PressureConfig {
    /// The KV cache may be loaded in 8 bits.
    pub allow_kv_quantisation: bool,
    /// The first layers may be left in host memory.
    pub allow_host_layers: bool,
}

/// A GGUF split set.
#[derive(Clone, Debug, Serialize)]
pub struct SliceFiles {
    /// Split 0.
    pub header: PathBuf,
    /// The other splits, in order.
    pub parts: Vec<PathBuf>,
}

/// What every stage of a pipeline has alike.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeConfig {
    /// Positions of one sequence.
    pub context_length: u32,
    /// Sequence slots.
    pub parallel_sequences: u32,
    /// Element type of the KV cache.
    pub kv_type: &'static str,
    /// Rows of one step.
    pub max_step_rows: u32,
    /// Positions of the KV cache; 0: of all sequences together.
    pub kv_cells: u32,
    /// Slots for kept prefixes beside the sequences.
    pub prefix_sequences: u32,
}

/// The name of a KV type in a worker's configuration.
pub fn kv_type_name(kv_type: proto::placement::v1::KvType) -> &'static str {
    use proto::placement::v1::KvType;
    match kv_type {
        KvType::F16 | KvType::Unspecified => "f16",
        KvType::F32 => "f32",
        KvType::Q80 => "q8_0",
    }
}

/// Where a slot's worker has its things, below the agent's state directory.
#[derive(Clone, Debug)]
pub struct Places {
    /// Configuration, process id and identity.
    pub directory: PathBuf,
    /// leaf.pem and the like.
    pub identity: PathBuf,
    /// Its control socket: short, because socket paths have at most 107 bytes.
    pub socket: PathBuf,
}

impl Places {
    /// The places of a slot.
    pub fn new(state_dir: &Path, slot: &Slot) -> Self {
        let key = slot.key();
        let directory = state_dir.join("workers").join(&key);
        Self {
            identity: directory.join("identity"),
            socket: state_dir.join("run").join(format!("{key}.sock")),
            directory,
        }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.json")
    }

    /// Removes all of it. What is missing is removed already.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_file(self.socket.with_extension("epoch"));
    }
}
