//! What the agent tells a worker at its start: which shard, on which device, who it is, where it listens.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use engine::stage::PARALLEL_SEQUENCES_LIMIT;
use identity::{Role, SpiffeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::head::schedule::Limits;
use crate::stage::executor::Place;
use crate::stage::link::{Deadlines, MAX_MESSAGE_BYTES};

/// Bytes of a configuration that are read: hundreds of paths fit, a wrong file is noticed.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Sequences and prefixes of one pipeline together.
const MAX_SEQUENCES: u32 = PARALLEL_SEQUENCES_LIMIT;
/// Activations of one step: with the rows beside them they fit a message of the data plane.
const MAX_STEP_BYTES: u64 = (MAX_MESSAGE_BYTES as u64 / 8) * 7;
/// Rows of one step, however narrow the model: each takes some tens of bytes in a message.
const MAX_STEP_ROWS: u32 = 4096;
/// Longest path of a Unix socket, by the kernel's `sockaddr_un`.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The whole configuration, as JSON. Unknown fields are refused: a misspelt one would silently mean its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// `metadata.uid` of the `InferenceModel`.
    pub model_uid: String,
    /// Name of the Kubernetes node.
    pub node: String,
    /// Name of the `DeviceGPUState`. With the node and the layers it says which stage of a placement this worker is.
    pub device: String,
    /// First layer of the shard.
    pub first_layer: u32,
    /// The layer after the shard's last.
    pub end_layer: u32,
    /// Layers of the model.
    pub total_layers: u32,
    /// Where it computes.
    pub backend: Backend,
    /// Raw enumeration index of the device; ignored for the CPU.
    pub device_index: u32,
    /// Compute threads.
    pub threads: u32,
    /// What the placement allows on the device; 0 sets no limit.
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

/// Families of ggml backends that a worker can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
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
    /// The name of its module and in configurations.
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

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is no such JSON.
    #[error("configuration {path}: {cause}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        cause: serde_json::Error,
    },
    /// A field has a value that cannot work.
    #[error("configuration field {field}: {problem}")]
    Invalid {
        /// Name of the field, dotted.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl WorkerConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, is not this JSON, or has a value that cannot work.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |cause| ConfigError::Unreadable {
            path: path.to_owned(),
            cause,
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_CONFIG_BYTES)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        let config: Self = serde_json::from_str(&text).map_err(|cause| ConfigError::Malformed {
            path: path.to_owned(),
            cause,
        })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first field that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ordered = self.first_layer < self.end_layer && self.end_layer <= self.total_layers;
        require(ordered, "end_layer", || {
            let (first, end, total) = (self.first_layer, self.end_layer, self.total_layers);
            format!("layers [{first}, {end}) are not a range within {total} layers")
        })?;
        // Models that run whole for their architecture's sake look their tokens up themselves.
        let embeds = self.is_head() == self.embedding.is_some() || self.is_whole();
        require(embeds, "embedding", || {
            "must be set on the first of several stages, and only there".to_owned()
        })?;
        require(self.embedding_length > 0, "embedding_length", || {
            "must be above 0".to_owned()
        })?;
        require(self.threads > 0, "threads", || "must be above 0".to_owned())?;
        require(self.orphan_grace_s > 0, "orphan_grace_s", || {
            "must be above 0: the agent needs time to connect".to_owned()
        })?;
        self.validate_runtime()?;
        self.validate_addresses()
    }

    fn validate_runtime(&self) -> Result<(), ConfigError> {
        let runtime = &self.runtime;
        require(runtime.context_length >= 2, "runtime.context_length", || {
            "must be 2 or more: one token of prompt, one of answer".to_owned()
        })?;
        let sequences = 1..=MAX_SEQUENCES;
        let sequences = sequences.contains(&runtime.parallel_sequences);
        require(sequences, "runtime.parallel_sequences", || {
            format!("is {}, must be 1 to {MAX_SEQUENCES}", runtime.parallel_sequences)
        })?;
        let prefixes = runtime.prefix_sequences <= MAX_SEQUENCES - runtime.parallel_sequences;
        require(prefixes, "runtime.prefix_sequences", || {
            format!(
                "is {}, with parallel_sequences at most {MAX_SEQUENCES}",
                runtime.prefix_sequences
            )
        })?;
        let rows = (2..=MAX_STEP_ROWS).contains(&runtime.max_step_rows);
        require(rows, "runtime.max_step_rows", || {
            format!("is {}, must be 2 to {MAX_STEP_ROWS}", runtime.max_step_rows)
        })?;
        let row_bytes = u64::from(self.embedding_length) * size_of::<f32>() as u64;
        let bytes = u64::from(runtime.max_step_rows) * row_bytes;
        require(bytes <= MAX_STEP_BYTES, "runtime.max_step_rows", || {
            let most = MAX_STEP_BYTES / row_bytes;
            format!(
                "is {}, but only {most} rows of activations fit a message",
                runtime.max_step_rows
            )
        })
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let listen = self.listen.parse::<std::net::SocketAddr>();
        require(listen.is_ok(), "listen", || format!("{:?} is not ip:port", self.listen))?;
        let advertised = self.advertise_ip.parse::<std::net::IpAddr>();
        require(advertised.is_ok(), "advertise_ip", || {
            format!("{:?} is not an IP address", self.advertise_ip)
        })?;
        let socket = self.control_socket.as_os_str().len();
        require(socket <= MAX_SOCKET_PATH_BYTES, "control_socket", || {
            format!("has {socket} bytes, the kernel allows {MAX_SOCKET_PATH_BYTES}: use a shorter path")
        })?;
        require(self.control_socket.file_name().is_some(), "control_socket", || {
            "must name a file".to_owned()
        })?;
        SpiffeId::new(self.trust_domain.clone(), self.role())
            .map(|_| ())
            .map_err(|error| ConfigError::Invalid {
                field: "trust_domain, node or model_uid",
                problem: error.to_string(),
            })
    }

    fn role(&self) -> Role {
        Role::Worker {
            node: self.node.clone(),
            model_uid: self.model_uid.clone(),
        }
    }

    /// Who this worker is; `validate` has found it well-formed.
    pub fn spiffe_id(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.trust_domain.clone(),
            role: self.role(),
        }
    }

    /// Embeds tokens and owns the schedule.
    pub fn is_head(&self) -> bool {
        self.first_layer == 0
    }

    /// Samples.
    pub fn is_tail(&self) -> bool {
        self.end_layer == self.total_layers
    }

    /// A pipeline by itself.
    pub fn is_whole(&self) -> bool {
        self.is_head() && self.is_tail()
    }

    /// What the shard is to any pipeline, and the limits that all stages share.
    pub fn place(&self) -> Place {
        let limits = Limits {
            parallel_sequences: self.runtime.parallel_sequences,
            context_length: self.runtime.context_length,
            max_step_rows: self.runtime.max_step_rows,
            kv_cells: self.runtime.kv_cells,
            prefix_sequences: self.runtime.prefix_sequences,
        };
        Place {
            head: self.is_head(),
            tail: self.is_tail(),
            limits,
            deadlines: Deadlines::default(),
        }
    }

    /// How long the worker lives without an agent.
    pub fn orphan_grace(&self) -> Duration {
        Duration::from_secs(self.orphan_grace_s)
    }

    /// Where the highest accepted epoch is kept: beside the control socket.
    pub fn epoch_file(&self) -> PathBuf {
        self.control_socket.with_extension("epoch")
    }
}

fn require(holds: bool, field: &'static str, problem: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Invalid {
        field,
        problem: problem(),
    })
}

#[cfg(test)]
mod tests;
