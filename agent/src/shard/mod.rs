//! Shards: what this node must hold, what it holds, and how one becomes the other.
//!
//! ```text
//!  Assignments ─▶ assignment ─▶ Desired ─┐
//!                                        ├─▶ step (pure) ─▶ Action ─▶ drive ─▶ weights, worker
//!             ┌────────── Observed ◀─────┘                              │
//!             └──────────────────────────── Event (pure apply) ◀────────┘
//!
//!  fetch ─▶ verify ─▶ prepare ─▶ spawn ─▶ (loading, serving) ─▶ drain ─▶ unload
//! ```

pub mod drive;
mod launch;
pub mod observed;
pub mod report;
pub mod step;
pub mod weights;

use crate::source::Access;
use proto::placement::v1::Runtime;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// One place in a model's pipelines: at most one worker of this node is in it at any time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// `metadata.uid` of the InferenceModel.
    pub model_uid: String,
    /// Index of the pipeline.
    pub pipeline: u32,
    /// Index of the stage in the pipeline.
    pub stage: u32,
}

impl Slot {
    /// A short name for files. Slots are told apart by a hash, since a uid is the operator's text and no file name.
    pub fn key(&self) -> String {
        let hash = Sha256::digest(self.to_string());
        hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.model_uid, self.pipeline, self.stage)
    }
}

/// What a worker was started for. While it stays the same, a newer epoch keeps the worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Digest of the model's weight index.
    pub index: gguf::Digest,
    /// First layer.
    pub first_layer: u32,
    /// One past the last layer.
    pub end_layer: u32,
    /// Layers of the whole model.
    pub total_layers: u32,
    /// Stages of the pipeline.
    pub stages: u32,
    /// Name of the DeviceGPUState.
    pub device: String,
    /// ggml backend family.
    pub backend: String,
    /// What every stage must agree on.
    pub runtime: Runtime,
    /// Merkle root of the stage's weights.
    pub weight_root: [u8; 32],
}

impl Slice {
    /// Looks tokens up in the embedding.
    pub fn is_head(&self) -> bool {
        self.first_layer == 0
    }

    /// Samples.
    pub fn is_tail(&self) -> bool {
        self.end_layer == self.total_layers
    }
}

/// What the newest accepted placement asks of one slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// What to run.
    pub slice: Slice,
    /// Of the placement.
    pub epoch: u64,
    /// The serialised envelope, as the worker wants it.
    pub envelope: Arc<Vec<u8>>,
    /// Where the source is.
    pub uri: String,
    /// How it is reached.
    pub access: Access,
    /// host:port of agents that may hold pieces of the model.
    pub peers: Vec<String>,
    /// Namespace and name of the model, for people.
    pub model: (String, String),
    /// What the stage may use on its device.
    pub memory_budget_bytes: u64,
    /// host:port of the next stage's worker, as far as known. Never set for a tail.
    pub next: Option<String>,
}
