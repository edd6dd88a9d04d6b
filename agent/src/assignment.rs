//! What the operator assigned, as far as this node accepts it: signatures are checked, lower epochs refused.
//!
//! The highest epoch per model and the last accepted envelopes are on disk before anything acts on them, so that neither a
//! restart nor an operator that is out of date can take the node back.

use crate::shard::observed::Fault;
use crate::shard::step::DesiredShards;
use crate::shard::{Desired, Slice, Slot};
use crate::source::Access;
use identity::PlacementVerifier;
use prost::Message;
use proto::control::v1::{AcceptedEpoch, Assignment, Assignments, Route, ShardPhase, ShardStatus};
use proto::placement::v1::{Envelope, Placement, Runtime, Source, Stage};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The reason of an envelope that none of the known keys signed.
pub const BAD_SIGNATURE: &str = "BadSignature";

const EPOCHS_FILE: &str = "epochs.json";
const ASSIGNMENTS_FILE: &str = "assignments.pb";
/// Models whose epochs are remembered; the operator reads as many.
const EPOCHS_MAX: usize = 4096;
/// Shards of one node: far above its devices.
const SHARDS_MAX: usize = 1024;
/// Peers of one model that are remembered; a fetch asks fewer.
const PEERS_MAX: usize = 64;
/// Files larger than this were not written by us: a thousand envelopes of 64 KiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why the ledger cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file cannot be written.
    #[error("accepted placements cannot be kept: {0}; make room in the state directory")]
    Store(#[from] identity::store::StoreError),
    /// A file cannot be read. It is never ignored: it fences against older placements.
    #[error("{path} cannot be read: {cause}; restore it, or remove it if no older placement can be around", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// What came of a set of assignments.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Everything this node shall hold.
    pub desired: DesiredShards,
    /// What it does not accept, for the operator to read.
    pub refused: Vec<ShardStatus>,
}

/// What this node has accepted so far.
pub struct Ledger {
    node: String,
    directory: PathBuf,
    epochs: BTreeMap<String, u64>,
    accepted: Assignments,
}

impl Ledger {
    /// Reads what an earlier life accepted.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn open(node: &str, directory: &Path) -> Result<Self, LedgerError> {
        let epochs = match read(&directory.join(EPOCHS_FILE))? {
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| unreadable(&directory.join(EPOCHS_FILE), &error))?
            }
            None => BTreeMap::new(),
        };
        let accepted = match read(&directory.join(ASSIGNMENTS_FILE))? {
            Some(bytes) => Assignments::decode(bytes.as_slice())
                .map_err(|error| unreadable(&directory.join(ASSIGNMENTS_FILE), &error))?,
            None => Assignments::default(),
        };
        Ok(Self {
            node: node.to_owned(),
            directory: directory.to_owned(),
            epochs,
            accepted,
        })
    }

    /// The highest epoch accepted, per model.
    pub fn epochs(&self) -> Vec<AcceptedEpoch> {
        let entry = |(model_uid, epoch): (&String, &u64)| AcceptedEpoch {
            model_uid: model_uid.clone(),
            epoch: *epoch,
        };
        self.epochs.iter().map(entry).collect()
    }

    /// What an earlier life held, for a node that starts while the operator is away.
    pub fn resume(&self, verifier: &PlacementVerifier) -> DesiredShards {
        self.judge(&self.accepted.clone(), verifier).desired.desired
    }

    /// Takes a new set of assignments: each that stands replaces the one before, each that does not leaves it in force, and
    /// what is not named is no longer desired.
    ///
    /// # Errors
    /// The decision cannot be written down; nothing has changed then.
    pub fn accept(&mut self, offered: &Assignments, verifier: &PlacementVerifier) -> Result<Outcome, LedgerError> {
        let judged = self.judge(offered, verifier);
        let mut epochs = self.epochs.clone();
        for (model_uid, epoch) in &judged.epochs {
            epochs.insert(model_uid.clone(), *epoch);
        }
        while epochs.len() > EPOCHS_MAX {
            // Models of which nothing is desired here; a removed model's uid never comes back.
            let Some(oldest) = epochs.keys().find(|uid| !judged.epochs.contains_key(*uid)).cloned() else {
                break;
            };
            epochs.remove(&oldest);
        }
        if epochs != self.epochs {
            let text = serde_json::to_vec(&epochs).map_err(|error| unreadable(&self.directory, &error))?;
            identity::store::write_private(&self.directory.join(EPOCHS_FILE), &text)?;
            self.epochs = epochs;
        }
        if judged.kept != self.accepted {
            let bytes = judged.kept.encode_to_vec();
            identity::store::write_private(&self.directory.join(ASSIGNMENTS_FILE), &bytes)?;
            self.accepted = judged.kept;
        }
        Ok(judged.desired)
    }

    fn judge(&self, offered: &Assignments, verifier: &PlacementVerifier) -> Judged {
        let mut judged = Judged::default();
        for assignment in &offered.assignments {
            match self.stands(assignment, verifier) {
                Ok(placement) => self.take(&mut judged, assignment, &placement),
                Err(fault) => self.refuse(&mut judged, assignment, &fault, verifier),
            }
        }
        judged
    }

    fn stands(&self, assignment: &Assignment, verifier: &PlacementVerifier) -> Result<Placement, Fault> {
        let envelope = assignment
            .envelope
            .as_ref()
            .ok_or_else(|| Fault::new(BAD_SIGNATURE, "no envelope"))?;
        let placement = verifier
            .verify(envelope)
            .map_err(|error| Fault::new(BAD_SIGNATURE, error.to_string()))?;
        let highest = self.epochs.get(&placement.model_uid).copied().unwrap_or(0);
        if placement.epoch < highest {
            return Err(Fault::new(
                "StaleEpoch",
                format!(
                    "epoch {} is lower than {highest}, which this node accepted before",
                    placement.epoch
                ),
            ));
        }
        Ok(placement)
    }

    fn take(&self, judged: &mut Judged, assignment: &Assignment, placement: &Placement) {
        if judged
            .epochs
            .get(&placement.model_uid)
            .is_some_and(|epoch| *epoch > placement.epoch)
        {
            return;
        }
        // Two placements of one model in a message: the higher one counts.
        judged
            .desired
            .desired
            .retain(|slot, _| slot.model_uid != placement.model_uid);
        judged
            .kept
            .assignments
            .retain(|kept| uid_of(kept) != Some(placement.model_uid.clone()));
        judged.epochs.insert(placement.model_uid.clone(), placement.epoch);
        // Secrets stay in memory; who holds pieces is told anew.
        judged.kept.assignments.push(Assignment {
            access: None,
            peers: Vec::new(),
            ..assignment.clone()
        });
        let envelope = Arc::new(
            assignment
                .envelope
                .as_ref()
                .map(Message::encode_to_vec)
                .unwrap_or_default(),
        );
        let access = Access::from(assignment.access.clone().unwrap_or_default());
        let peers: Vec<String> = assignment.peers.iter().take(PEERS_MAX).cloned().collect();
        for (slot, stage, pipeline) in self.own_stages(placement) {
            if judged.desired.desired.len() >= SHARDS_MAX {
                tracing::warn!(%slot, "more than {SHARDS_MAX} shards are assigned to this node; the rest is left out");
                return;
            }
            let next = assignment.routes.iter().find(|route| follows(route, &slot));
            match desired(placement, pipeline, &stage, &envelope, next) {
                Ok(mut desired) => {
                    desired.access = access.clone();
                    desired.peers.clone_from(&peers);
                    judged.desired.desired.insert(slot, desired);
                }
                Err(fault) => judged.desired.refused.push(refusal(&slot, placement.epoch, &fault)),
            }
        }
    }

    /// A refused assignment changes nothing: what was accepted for the model stays in force.
    fn refuse(&self, judged: &mut Judged, assignment: &Assignment, fault: &Fault, verifier: &PlacementVerifier) {
        // Only for the report; nothing else is believed of a payload that does not stand.
        let claimed = assignment
            .envelope
            .as_ref()
            .and_then(|envelope| Placement::decode(envelope.payload.as_slice()).ok());
        let Some(claimed) = claimed else {
            tracing::warn!(
                reason = fault.reason,
                message = fault.message,
                "an assignment is refused"
            );
            return;
        };
        tracing::warn!(
            model_uid = claimed.model_uid,
            epoch = claimed.epoch,
            reason = fault.reason,
            message = fault.message,
            "an assignment is refused"
        );
        let own = self.own_stages(&claimed);
        judged.desired.refused.extend(
            own.iter()
                .take(SHARDS_MAX)
                .map(|(slot, ..)| refusal(slot, claimed.epoch, fault)),
        );
        let kept = self
            .accepted
            .assignments
            .iter()
            .find(|kept| uid_of(kept).as_ref() == Some(&claimed.model_uid));
        if let Some(kept) = kept.filter(|_| !judged.epochs.contains_key(&claimed.model_uid))
            && let Ok(placement) = self.stands(kept, verifier)
        {
            self.take(judged, kept, &placement);
        }
    }

    fn own_stages(&self, placement: &Placement) -> Vec<(Slot, Stage, usize)> {
        let mut own = Vec::new();
        for (pipeline, stages) in placement.pipelines.iter().enumerate() {
            for (stage, body) in stages
                .stages
                .iter()
                .enumerate()
                .filter(|(_, body)| body.node == self.node)
            {
                let slot = Slot {
                    model_uid: placement.model_uid.clone(),
                    pipeline: pipeline as u32,
                    stage: stage as u32,
                };
                own.push((slot, body.clone(), pipeline));
            }
        }
        own
    }
}

#[derive(Default)]
struct Judged {
    desired: Outcome,
    epochs: BTreeMap<String, u64>,
    kept: Assignments,
}

/// The model that a kept, hence verified, assignment is for.
fn uid_of(assignment: &Assignment) -> Option<String> {
    let Envelope { payload, .. } = assignment.envelope.as_ref()?;
    Some(Placement::decode(payload.as_slice()).ok()?.model_uid)
}

fn follows(route: &Route, slot: &Slot) -> bool {
    route.pipeline == slot.pipeline && route.stage == slot.stage + 1 && !route.endpoint.is_empty()
}

fn refusal(slot: &Slot, epoch: u64, fault: &Fault) -> ShardStatus {
    ShardStatus {
        model_uid: slot.model_uid.clone(),
        epoch,
        pipeline: slot.pipeline,
        stage: slot.stage,
        phase: ShardPhase::Failed.into(),
        reason: fault.reason.clone(),
        message: fault.message.clone(),
        ..ShardStatus::default()
    }
}

/// A signed placement may still be one that this version cannot carry out.
fn desired(
    placement: &Placement,
    pipeline: usize,
    stage: &Stage,
    envelope: &Arc<Vec<u8>>,
    next: Option<&Route>,
) -> Result<Desired, Fault> {
    let malformed = |what: &str| {
        Fault::new(
            "BadPlacement",
            format!("the placement of epoch {} {what}", placement.epoch),
        )
    };
    let Source { uri, index_sha256, .. } = placement.source.clone().ok_or_else(|| malformed("names no source"))?;
    let runtime: Runtime = placement.runtime.ok_or_else(|| malformed("has no runtime"))?;
    let stages = placement
        .pipelines
        .get(pipeline)
        .map(|pipeline| &pipeline.stages)
        .ok_or_else(|| malformed("has no stages"))?;
    let total_layers = stages.last().map_or(0, |last| last.end_layer);
    if stage.first_layer >= stage.end_layer || stage.end_layer > total_layers {
        return Err(malformed("has a stage without layers"));
    }
    let digest = |bytes: &[u8], what: &str| <[u8; 32]>::try_from(bytes).map_err(|_| malformed(what));
    let slice = Slice {
        index: gguf::Digest(digest(&index_sha256, "has an index digest that is no SHA-256")?),
        first_layer: stage.first_layer,
        end_layer: stage.end_layer,
        total_layers,
        stages: stages.len() as u32,
        device: stage.device.clone(),
        backend: stage.backend.clone(),
        runtime,
        weight_root: digest(&stage.weight_root, "has a weight root that is no SHA-256")?,
    };
    let next = next.filter(|_| !slice.is_tail()).map(|route| route.endpoint.clone());
    Ok(Desired {
        slice,
        epoch: placement.epoch,
        envelope: Arc::clone(envelope),
        uri,
        access: Access::default(),
        peers: Vec::new(),
        model: (placement.namespace.clone(), placement.name.clone()),
        memory_budget_bytes: stage.memory_budget_bytes,
        next,
    })
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, LedgerError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
        Ok(found) if found.len() > FILE_BYTES_MAX => Err(unreadable(path, &"it is too large to be ours")),
        Ok(_) => std::fs::read(path).map(Some).map_err(|error| unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, cause: &dyn std::fmt::Display) -> LedgerError {
    LedgerError::Unreadable {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

#[cfg(test)]
mod tests;
