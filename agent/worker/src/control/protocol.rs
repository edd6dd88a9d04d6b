//! What is said over the control socket.

use serde::{Deserialize, Serialize};

/// A line from the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How is it going?
    Status,
    /// Obey this placement.
    Install {
        /// A serialised `Envelope` in base64.
        envelope: String,
        /// `host:port` of the next stage, once known.
        next: Option<String>,
    },
    /// Finish what runs, then end.
    Drain,
    /// The metrics as text.
    Metrics,
    /// Take the identity that lies in the directory now, instead of at the next look.
    Renew,
}

/// A line to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// To `status`.
    Status(Status),
    /// To `metrics`.
    Metrics {
        /// Prometheus text exposition.
        text: String,
    },
    /// To all others.
    Outcome {
        /// Whether it was done.
        ok: bool,
        /// One CamelCase word, when not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// For a person, when not.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

impl Answer {
    /// It was done.
    pub fn done() -> Self {
        Self::Outcome {
            ok: true,
            reason: None,
            message: None,
        }
    }

    /// It was not done.
    pub fn refused(reason: &str, message: String) -> Self {
        Self::Outcome {
            ok: false,
            reason: Some(reason.to_owned()),
            message: Some(message),
        }
    }
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The shard is being loaded.
    Loading,
    /// The data plane listens.
    Serving,
    /// Finishes what runs; takes nothing new.
    Draining,
    /// The process is about to end with an error.
    Failed,
}

/// How a worker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// `ip:port` of the data plane, while it serves or drains.
    pub endpoint: Option<String>,
    /// Epoch of the placement in force.
    pub epoch: Option<u64>,
    /// One CamelCase word when failed.
    pub reason: Option<String>,
    /// For a person, when failed or draining.
    pub message: Option<String>,
    /// On the head: requests that run or wait. On other stages: sequences of which it holds anything.
    pub active_sequences: usize,
    /// What the shard takes on its device, as it was allocated; unset before it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryUse>,
    /// What gives way for lack of memory, one CamelCase word; unset where nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<String>,
    /// How fast its steps really were, once enough of them were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// Why the next stage cannot be reached, for a person; unset where it can, or has been away for a moment only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_unreachable: Option<String>,
}

/// Medians of a stage's latest steps. A figure without samples is zero and says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Computing of a step of one row.
    pub decode_token_ns: u64,
    /// Such steps, ever.
    pub decode_samples: u64,
    /// Positions before such a row.
    #[serde(default)]
    pub decode_context: u64,
    /// Computing of one row of a large step.
    pub prefill_row_ns: u64,
    /// Large steps, ever.
    pub prefill_samples: u64,
    /// On the head: what a step of one row takes beside all stages' computing.
    pub hops_token_ns: u64,
    /// Such steps, ever.
    pub hops_samples: u64,
}

/// Memory of a loaded shard on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Weights.
    pub weights_bytes: u64,
    /// KV cache.
    pub kv_bytes: u64,
    /// What the largest step computes in.
    pub compute_bytes: u64,
}
