//! Shards: what this node must hold, what it holds, and how one becomes the other.
//!
//! ```text
//!  Assignments ─▶ assignment ─▶ Desired ─┐
//!                                        ├─▶ step (pure) ─▶ Action ─▶ drive ─▶ weights, worker
//!             ┌────────── Observed ◀─────┘                              │
//!             └──────────────────────────── Event (pure apply) ◀────────┘
//!
//!  fetch ─▶ verify ─▶ prepare ─▶ spawn ─▶ (loading, loaded, serving) ─▶ drain ─▶ unload
//! ```
//!
//! A shard is what it holds, not where it stands: a [`Slot`] is a slice on a device, or on all devices of a group. Placements say where
//! it stands, with what before and after it, and a newer one that names the same slice keeps the worker.

pub mod crashes;
mod crowded;
pub mod departed;
pub mod drive;
mod launch;
pub mod observed;
pub mod occupied;
pub mod report;
pub mod step;
pub mod suspects;
mod take_over;
pub mod weights;

use crate::source::Access;
use prost::Message as _;
use proto::control::v1 as wire;
use proto::placement::v1::Runtime;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// What a worker holds: at most one worker of this node holds it at any time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// `metadata.uid` of the InferenceModel.
    pub model_uid: String,
    /// [`Slice::key`].
    pub slice: String,
}

impl Slot {
    /// The slot of a slice of a model.
    pub fn of(model_uid: &str, slice: &Slice) -> Self {
        Self {
            model_uid: model_uid.to_owned(),
            slice: slice.key(),
        }
    }

    /// A short name for files. Slots are told apart by a hash, since a uid is the operator's text and no file name.
    pub fn key(&self) -> String {
        short_hash(self.to_string())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.model_uid, self.slice)
    }
}

/// What a worker is started for. While it stays the same, a newer placement keeps the worker.
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
    /// Name of the DeviceGPUState, or of the group of devices that compute it as one.
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

    /// The layers for people, and a hash of everything: the same over restarts and versions.
    pub fn key(&self) -> String {
        let numbers = [self.first_layer, self.end_layer, self.total_layers].map(u32::to_le_bytes);
        let mut all = [self.index.0, self.weight_root].concat();
        all.extend(numbers.concat());
        for text in [
            self.device.as_bytes(),
            self.backend.as_bytes(),
            &self.runtime.encode_to_vec(),
        ] {
            all.extend((text.len() as u64).to_le_bytes());
            all.extend(text);
        }
        format!(
            "{}-{}.{}",
            self.first_layer,
            self.end_layer.saturating_sub(1),
            short_hash(all)
        )
    }
}

/// Short enough for a socket's path; 48 bits tell the few slots of a node apart.
fn short_hash(bytes: impl AsRef<[u8]>) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// What a placement wants a slice for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Its weights shall be on the disk: it stands by for the loss of another one.
    Fetch,
    /// Its weights shall be in memory: the placement is proposed.
    Load,
    /// It shall serve: the placement is in force.
    Serve,
}

impl From<Purpose> for wire::Purpose {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Fetch => Self::Fetch,
            Purpose::Load => Self::Load,
            Purpose::Serve => Self::Serve,
        }
    }
}

/// Where a placement has a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Of the placement.
    pub epoch: u64,
    /// Index of the pipeline.
    pub pipeline: u32,
    /// Index of the stage in the pipeline.
    pub stage: u32,
    /// What for.
    pub purpose: Purpose,
}

/// The placement in force, as one of its workers needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// Of the placement.
    pub epoch: u64,
    /// Of the slice's pipeline.
    pub pipeline_epoch: u64,
    /// The serialised envelope, as the worker wants it.
    pub envelope: Arc<Vec<u8>>,
    /// host:port of the next stage's worker, as far as known. Never set for a tail.
    pub next: Option<String>,
}

/// What all accepted placements together ask of one slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// What to hold.
    pub slice: Slice,
    /// Where placements have it; at least one.
    pub places: Vec<Place>,
    /// What its worker is handed; unset while no placement in force has it.
    pub in_force: Option<InForce>,
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
}

impl Desired {
    /// The place that counts where only one can: in force before proposed, and the newest.
    pub fn place(&self) -> Option<Place> {
        self.places
            .iter()
            .copied()
            .max_by_key(|place| (place.purpose, place.epoch))
    }

    /// The most that is wanted of it.
    pub fn purpose(&self) -> Purpose {
        self.place().map_or(Purpose::Fetch, |place| place.purpose)
    }

    /// A worker shall hold it.
    pub fn loads(&self) -> bool {
        self.purpose() >= Purpose::Load
    }

    /// Adds what another placement asks of the slot. How it is done is said by the one that asks for most.
    pub fn join(&mut self, mut other: Self) {
        if other.purpose() > self.purpose() {
            std::mem::swap(self, &mut other);
        }
        for place in other.places {
            let same = |known: &&mut Place| {
                (known.epoch, known.pipeline, known.stage) == (place.epoch, place.pipeline, place.stage)
            };
            match self.places.iter_mut().find(same) {
                Some(known) => known.purpose = known.purpose.max(place.purpose),
                None => self.places.push(place),
            }
        }
        self.places.sort_unstable();
    }
}

#[cfg(test)]
mod tests;
