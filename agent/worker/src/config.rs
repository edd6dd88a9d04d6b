//! What the agent tells a worker at its start, read and judged.

use std::io::Read;
use std::path::{Path, PathBuf};

use engine::GROUP_MEMBERS_MAX;
use engine::stage::PARALLEL_SEQUENCES_LIMIT;
use identity::{Role, SpiffeId};
pub use proto::worker::{Backend, KvType, PressureConfig, RuntimeConfig, SliceFiles, WorkerConfig};
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
/// Devices that work as one.
const MAX_GROUP_MEMBERS: usize = GROUP_MEMBERS_MAX as usize;
/// Longest path of a Unix socket, by the kernel's `sockaddr_un`.
const MAX_SOCKET_PATH_BYTES: usize = 107;

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

/// Reads and checks a file.
///
/// # Errors
/// When it cannot be read, is not this JSON, or has a value that cannot work.
pub fn read(path: &Path) -> Result<WorkerConfig, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_CONFIG_BYTES)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let config: WorkerConfig = serde_json::from_str(&text).map_err(|cause| ConfigError::Malformed {
        path: path.to_owned(),
        cause,
    })?;
    validate(&config)?;
    Ok(config)
}

/// Checks what the types cannot say.
///
/// # Errors
/// The first field that cannot work.
pub fn validate(config: &WorkerConfig) -> Result<(), ConfigError> {
    let ordered = config.first_layer < config.end_layer && config.end_layer <= config.total_layers;
    require(ordered, "end_layer", || {
        let (first, end, total) = (config.first_layer, config.end_layer, config.total_layers);
        format!("layers [{first}, {end}) are not a range within {total} layers")
    })?;
    // Models that run whole for their architecture's sake look their tokens up themselves.
    let embeds = config.is_head() == config.embedding.is_some() || config.is_whole();
    require(embeds, "embedding", || {
        "must be set on the first of several stages, and only there".to_owned()
    })?;
    require(config.embedding_length > 0, "embedding_length", || {
        "must be above 0".to_owned()
    })?;
    validate_group(config)?;
    require(config.threads > 0, "threads", || "must be above 0".to_owned())?;
    require(config.orphan_grace_s > 0, "orphan_grace_s", || {
        "must be above 0: the agent needs time to connect".to_owned()
    })?;
    validate_runtime(config)?;
    validate_addresses(config)
}

fn validate_group(config: &WorkerConfig) -> Result<(), ConfigError> {
    let others = config.group_indices.len();
    require(others == 0 || config.backend != Backend::Cpu, "group_indices", || {
        "must be empty for the CPU: processors do not work as one".to_owned()
    })?;
    require(others < MAX_GROUP_MEMBERS, "group_indices", || {
        let most = MAX_GROUP_MEMBERS - 1;
        format!("has {others}, at most {most} devices work with the first as one")
    })
}

fn validate_runtime(config: &WorkerConfig) -> Result<(), ConfigError> {
    let runtime = &config.runtime;
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
    let row_bytes = u64::from(config.embedding_length) * size_of::<f32>() as u64;
    let bytes = u64::from(runtime.max_step_rows) * row_bytes;
    require(bytes <= MAX_STEP_BYTES, "runtime.max_step_rows", || {
        let most = MAX_STEP_BYTES / row_bytes;
        format!(
            "is {}, but only {most} rows of activations fit a message",
            runtime.max_step_rows
        )
    })
}

fn validate_addresses(config: &WorkerConfig) -> Result<(), ConfigError> {
    let listen = config.listen.parse::<std::net::SocketAddr>();
    require(listen.is_ok(), "listen", || {
        format!("{:?} is not ip:port", config.listen)
    })?;
    let advertised = config.advertise_ip.parse::<std::net::IpAddr>();
    require(advertised.is_ok(), "advertise_ip", || {
        format!("{:?} is not an IP address", config.advertise_ip)
    })?;
    let socket = config.control_socket.as_os_str().len();
    require(socket <= MAX_SOCKET_PATH_BYTES, "control_socket", || {
        format!("has {socket} bytes, the kernel allows {MAX_SOCKET_PATH_BYTES}: use a shorter path")
    })?;
    require(config.control_socket.file_name().is_some(), "control_socket", || {
        "must name a file".to_owned()
    })?;
    SpiffeId::new(config.trust_domain.clone(), role(config))
        .map(|_| ())
        .map_err(|error| ConfigError::Invalid {
            field: "trust_domain, node or model_uid",
            problem: error.to_string(),
        })
}

fn role(config: &WorkerConfig) -> Role {
    Role::Worker {
        node: config.node.clone(),
        model_uid: config.model_uid.clone(),
    }
}

/// Who a worker is; [`validate`] has found it well-formed.
pub fn spiffe_id(config: &WorkerConfig) -> SpiffeId {
    SpiffeId {
        trust_domain: config.trust_domain.clone(),
        role: role(config),
    }
}

/// What the shard is to any pipeline, and the limits that all stages share.
pub fn place(config: &WorkerConfig) -> Place {
    let limits = Limits {
        parallel_sequences: config.runtime.parallel_sequences,
        context_length: config.runtime.context_length,
        max_step_rows: config.runtime.max_step_rows,
        kv_cells: config.runtime.kv_cells,
        prefix_sequences: config.runtime.prefix_sequences,
    };
    Place {
        head: config.is_head(),
        tail: config.is_tail(),
        limits,
        deadlines: Deadlines::default(),
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
