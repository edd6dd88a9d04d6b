//! What the operator assigned, as far as this node accepts it: signatures are checked, lower epochs refused.
//!
//! The highest epoch per model and the last accepted envelopes are on disk before anything acts on them, so that neither a
//! restart nor an operator that is out of date can take the node back. What is only proposed, or stands by, is neither accepted
//! nor written: an operator that does not send it any more has given it up.

mod own;

use crate::shard::observed::Fault;
use crate::shard::step::DesiredShards;
use crate::shard::{Purpose, Slot};
use identity::PlacementVerifier;
use own::{Given, Own};
use prost::Message;
use proto::control::v1::{self as wire, AcceptedEpoch, Assignment, Assignments, ShardStatus};
use proto::placement::v1::{Envelope, Placement};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The reason of an envelope that none of the known keys signed.
pub const BAD_SIGNATURE: &str = "BadSignature";

const EPOCHS_FILE: &str = "epochs.json";
const ASSIGNMENTS_FILE: &str = "assignments.pb";
/// Models whose epochs are remembered; the operator reads as many.
const EPOCHS_MAX: usize = 4096;
/// Shards of one node: far above its devices.
const SHARDS_MAX: usize = 1024;
/// Placements of one model beside the one in force: a proposal, one that it replaces, and the losses of a few nodes for which
/// this one stands by. More would fill its disk for losses that do not come together.
const AHEAD_MAX: usize = 8;
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
        // First what is in force, wherever it stands in the message: the others are measured by its epoch.
        for assignment in &offered.assignments {
            if purpose(assignment) == Ok(Purpose::Serve) {
                match self.stands(assignment, verifier) {
                    Ok(placement) => self.take(&mut judged, assignment, &placement),
                    Err(fault) => self.refuse(&mut judged, assignment, &fault, verifier),
                }
            }
        }
        for assignment in &offered.assignments {
            let taken = match purpose(assignment) {
                Ok(Purpose::Serve) => continue,
                Ok(purpose) => self.take_ahead(&mut judged, assignment, purpose, verifier),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = taken {
                // Of what it is for no more is known than that it is not in force.
                let purpose = purpose(assignment).unwrap_or(Purpose::Fetch);
                self.report(&mut judged, assignment, purpose, &fault);
            }
        }
        judged
    }

    /// What is not in force changes nothing of what is.
    fn take_ahead(
        &self,
        judged: &mut Judged,
        assignment: &Assignment,
        purpose: Purpose,
        verifier: &PlacementVerifier,
    ) -> Result<(), Fault> {
        let placement = self.stands(assignment, verifier)?;
        let in_force = judged.epochs.get(&placement.model_uid).copied().unwrap_or(0);
        not_below(in_force, &placement)?;
        let ahead = judged.ahead.entry(placement.model_uid.clone()).or_default();
        if *ahead >= AHEAD_MAX {
            return Err(Fault::new(
                "TooManyProposals",
                format!("{AHEAD_MAX} placements beside the one in force are prepared already; withdraw some of them"),
            ));
        }
        *ahead += 1;
        self.add(judged, assignment, &placement, purpose);
        Ok(())
    }

    fn stands(&self, assignment: &Assignment, verifier: &PlacementVerifier) -> Result<Placement, Fault> {
        let envelope = assignment
            .envelope
            .as_ref()
            .ok_or_else(|| Fault::new(BAD_SIGNATURE, "no envelope"))?;
        let placement = verifier
            .verify(envelope)
            .map_err(|error| Fault::new(BAD_SIGNATURE, error.to_string()))?;
        not_below(self.epochs.get(&placement.model_uid).copied().unwrap_or(0), &placement)?;
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
        self.add(judged, assignment, placement, Purpose::Serve);
    }

    /// Desires this node's stages of a placement.
    fn add(&self, judged: &mut Judged, assignment: &Assignment, placement: &Placement, purpose: Purpose) {
        let given = Given::new(assignment, placement, purpose);
        for own in own::stages(&self.node, placement) {
            let desired = match given.desired(&own) {
                Ok(desired) => desired,
                Err(fault) => {
                    judged.desired.refused.push(own.refusal(placement, purpose, &fault));
                    continue;
                }
            };
            let slot = Slot::of(&placement.model_uid, &desired.slice);
            let shards = &mut judged.desired.desired;
            let full = shards.len() >= SHARDS_MAX;
            match shards.get_mut(&slot) {
                Some(known) if given.is_twice(known, &own) => {
                    let fault = own.twice(placement);
                    judged.desired.refused.push(own.refusal(placement, purpose, &fault));
                }
                Some(known) => known.join(desired),
                None if full => {
                    tracing::warn!(%slot, "more than {SHARDS_MAX} shards are assigned to this node; the rest is left out");
                    return;
                }
                None => {
                    shards.insert(slot, desired);
                }
            }
        }
    }

    /// A refused assignment changes nothing: what was accepted for the model stays in force.
    fn refuse(&self, judged: &mut Judged, assignment: &Assignment, fault: &Fault, verifier: &PlacementVerifier) {
        let Some(claimed) = self.report(judged, assignment, Purpose::Serve, fault) else {
            return;
        };
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

    /// Says of each of our stages why it is refused, and what the assignment claims to be.
    fn report(
        &self,
        judged: &mut Judged,
        assignment: &Assignment,
        purpose: Purpose,
        fault: &Fault,
    ) -> Option<Placement> {
        // Only for the report; nothing else is believed of a payload that does not stand.
        let claimed = assignment
            .envelope
            .as_ref()
            .and_then(|envelope| Placement::decode(envelope.payload.as_slice()).ok());
        tracing::warn!(
            model_uid = claimed.as_ref().map(|claimed| claimed.model_uid.as_str()),
            epoch = claimed.as_ref().map(|claimed| claimed.epoch),
            reason = fault.reason,
            message = fault.message,
            "an assignment is refused"
        );
        let claimed = claimed?;
        let own = own::stages(&self.node, &claimed);
        let refusals = own
            .iter()
            .take(SHARDS_MAX)
            .map(|own: &Own<'_>| own.refusal(&claimed, purpose, fault));
        judged.desired.refused.extend(refusals);
        Some(claimed)
    }
}

#[derive(Default)]
struct Judged {
    desired: Outcome,
    epochs: BTreeMap<String, u64>,
    kept: Assignments,
    /// Placements beside the one in force, by model.
    ahead: BTreeMap<String, usize>,
}

/// What an assignment is for. One that a newer operator knows is not guessed at.
fn purpose(assignment: &Assignment) -> Result<Purpose, Fault> {
    match wire::Purpose::try_from(assignment.purpose) {
        Ok(wire::Purpose::Serve) => Ok(Purpose::Serve),
        Ok(wire::Purpose::Load) => Ok(Purpose::Load),
        Ok(wire::Purpose::Fetch) => Ok(Purpose::Fetch),
        Err(_) => Err(Fault::new(
            "UnknownPurpose",
            format!("purpose {} is not known to this agent; upgrade it", assignment.purpose),
        )),
    }
}

fn not_below(highest: u64, placement: &Placement) -> Result<(), Fault> {
    if placement.epoch >= highest {
        return Ok(());
    }
    let message = format!(
        "epoch {} is lower than {highest}, which this node accepted before",
        placement.epoch
    );
    Err(Fault::new("StaleEpoch", message))
}

/// The model that a kept, hence verified, assignment is for.
fn uid_of(assignment: &Assignment) -> Option<String> {
    let Envelope { payload, .. } = assignment.envelope.as_ref()?;
    Some(Placement::decode(payload.as_slice()).ok()?.model_uid)
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
