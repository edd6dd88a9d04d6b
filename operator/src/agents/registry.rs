//! Which agents are attached and what they last said: the operator's only knowledge of shards, kept in memory.
//!
//! Sessions write, the control loop reads a snapshot and hands out assignments. Everything is level-triggered: a report
//! replaces the one before, an assignment the one before, and whoever is slow sees only the latest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::Heard;
use proto::control::v1::{Assignments, Hello, Inspect, Inspection, LinkPeers, Purpose, ShardReport, ShardStatus};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::by_digest::ByDigest;

/// Agents attached at once; ten times the largest cluster that this version is measured on.
pub const AGENTS_MAX: usize = 10_000;
/// Shards one node may report: far above the devices of any node.
pub const SHARDS_MAX: usize = 1024;
/// Accepted epochs one node may report: models that were ever placed there.
pub const EPOCHS_MAX: usize = 4096;
/// The highest epoch that an agent is believed. Epochs count up by one, so that none comes near; one agent must not use up
/// all that are left, as nothing could be placed after that.
pub const EPOCH_MAX: u64 = 1 << 48;
/// Bytes of a model's uid, as in a SPIFFE id.
const MODEL_UID_MAX: usize = 253;
/// Inspections one agent has to do at once.
pub const INSPECTIONS_MAX: usize = 4;
/// Text from an agent that ends in a condition is cut here.
const MESSAGE_MAX: usize = 1024;
/// Silence after which an agent is suspected: a ping goes out after half a second and was not answered within another. The connection
/// is given up a second later, and others that fell silent with it half a second after that at most.
pub const OVERDUE: Duration = Duration::from_secs(1);
/// A CamelCase word.
const REASON_MAX: usize = 64;
/// All weight indexes together: that of a model of 1000 tensors has a fifth of a mebibyte.
const INDEXES_BYTES_MAX: usize = 128 * 1024 * 1024;
/// A DNS name, a colon and a port.
const ENDPOINT_MAX: usize = 260;

/// What one attached agent last said.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// Differs between two streams of the same node.
    pub session: u64,
    /// When its stream said Hello.
    pub attached: Instant,
    /// The highest epoch it accepted, by model uid.
    pub epochs: HashMap<String, u64>,
    /// Its port for other agents, which read pieces of models there and measure links; empty where it has none.
    pub weights_endpoint: String,
    /// It prepares what is not in force yet.
    pub takes_purposes: bool,
    /// It is about to end, and serves until its shards are elsewhere.
    pub leaving: bool,
    /// Whether it has reported its shards yet.
    pub reported: bool,
    /// Its shards.
    pub shards: Arc<[ShardStatus]>,
    /// When anything last came over its connection.
    pub heard: Heard,
}

/// The answer to an inspection, and who gave it.
#[derive(Debug)]
pub struct Inspected {
    /// Node of the agent.
    pub node: String,
    /// What it said.
    pub inspection: Inspection,
}

/// All agents at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By node.
    pub nodes: BTreeMap<String, AgentView>,
    /// Answers since the last snapshot.
    pub inspected: Vec<Inspected>,
    /// What those last said whose streams ended in silence since the last snapshot, by node.
    pub silenced: Vec<(String, AgentView)>,
}

/// What one node must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeAssignments {
    /// As the agent receives it.
    pub message: Assignments,
    /// Uids of the models in it.
    pub models: BTreeSet<String>,
}

/// What a session needs to serve its agent.
#[derive(Debug)]
pub struct Attachment {
    /// Number of this session.
    pub session: u64,
    /// What the node must hold; `None` until the control loop has decided.
    pub assignments: watch::Receiver<Option<Arc<Assignments>>>,
    /// To whom the node measures links; `None` until the control loop has looked around.
    pub peers: watch::Receiver<Option<Arc<LinkPeers>>>,
    /// Sources to look at.
    pub inspect: mpsc::Receiver<Inspect>,
    /// Cancelled when a newer stream of the same node takes over.
    pub replaced: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    view: AgentView,
    assignments: watch::Sender<Option<Arc<Assignments>>>,
    peers: watch::Sender<Option<Arc<LinkPeers>>>,
    inspect: mpsc::Sender<Inspect>,
    asked: Vec<(String, i64)>,
    models: BTreeSet<String>,
    replaced: CancellationToken,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: u64,
    nodes: BTreeMap<String, Entry>,
    inspected: Vec<Inspected>,
    silenced: Vec<(String, AgentView)>,
}

/// Why an agent is not let in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// [`AGENTS_MAX`] are attached.
    #[error("{AGENTS_MAX} agents are attached already")]
    Full,
    /// The Hello is larger than any node's.
    #[error("the Hello names {0} epochs; at most {EPOCHS_MAX} are accepted")]
    TooManyEpochs(usize),
}

/// The agents attached to this replica.
#[derive(Debug)]
pub struct Agents {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    /// Weight indexes of the models, which agents fetch.
    pub indexes: ByDigest,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
            indexes: ByDigest::new(INDEXES_BYTES_MAX),
        }
    }
}

impl Agents {
    /// Wakes on every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Lets an agent in. A stream that the node had before is replaced.
    pub fn attach(&self, node: &str, hello: Hello, now: Instant) -> Result<Attachment, AttachError> {
        if hello.epochs.len() > EPOCHS_MAX {
            return Err(AttachError::TooManyEpochs(hello.epochs.len()));
        }
        let attachment = {
            let mut inner = self.lock();
            if inner.nodes.len() >= AGENTS_MAX && !inner.nodes.contains_key(node) {
                return Err(AttachError::Full);
            }
            inner.sessions += 1;
            let session = inner.sessions;
            let (assignments, assignments_seen) = watch::channel(None);
            let (peers, peers_seen) = watch::channel(None);
            let (inspect, inspect_seen) = mpsc::channel(INSPECTIONS_MAX);
            let replaced = CancellationToken::new();
            let view = AgentView {
                session,
                attached: now,
                epochs: hello
                    .epochs
                    .into_iter()
                    .filter(|accepted| is_credible(node, &accepted.model_uid, accepted.epoch))
                    .map(|accepted| (accepted.model_uid, accepted.epoch))
                    .collect(),
                weights_endpoint: endpoint(hello.weights_endpoint),
                takes_purposes: hello.takes_purposes,
                leaving: false,
                reported: false,
                shards: Arc::default(),
                heard: Heard::default(),
            };
            let entry = Entry {
                view,
                assignments,
                peers,
                inspect,
                asked: Vec::new(),
                models: BTreeSet::new(),
                replaced: replaced.clone(),
            };
            if let Some(older) = inner.nodes.insert(node.to_owned(), entry) {
                older.replaced.cancel();
            }
            Attachment {
                session,
                assignments: assignments_seen,
                peers: peers_seen,
                inspect: inspect_seen,
                replaced,
            }
        };
        self.touch();
        Ok(attachment)
    }

    /// Over which connection the stream comes; ignored from a stream that was replaced.
    pub fn hears(&self, node: &str, session: u64, heard: Heard) {
        self.with(node, session, |entry| entry.view.heard = heard);
    }

    /// Takes over what the node says of its shards; ignored from a stream that was replaced.
    pub fn report(&self, node: &str, session: u64, report: ShardReport) {
        let mut shards = report.shards;
        if shards.len() > SHARDS_MAX {
            tracing::warn!(
                node,
                shards = shards.len(),
                "the agent reports more than {SHARDS_MAX} shards; the rest is ignored"
            );
            shards.truncate(SHARDS_MAX);
        }
        shards.retain(|shard| shard.model_uid.len() <= MODEL_UID_MAX);
        for shard in &mut shards {
            cut(&mut shard.message, MESSAGE_MAX);
            cut(&mut shard.reason, REASON_MAX);
            cut(&mut shard.pressure, REASON_MAX);
            shard.endpoint = endpoint(std::mem::take(&mut shard.endpoint));
        }
        let changed = self.with(node, session, |entry| {
            let changed = !entry.view.reported || *entry.view.shards != *shards;
            let epochs = &mut entry.view.epochs;
            for shard in shards.iter().filter(|shard| shard.purpose() == Purpose::Serve) {
                let room = epochs.len() < EPOCHS_MAX || epochs.contains_key(&shard.model_uid);
                if room && is_credible(node, &shard.model_uid, shard.epoch) {
                    let epoch = epochs.entry(shard.model_uid.clone()).or_default();
                    *epoch = (*epoch).max(shard.epoch);
                }
            }
            entry.view.reported = true;
            entry.view.shards = shards.into();
            changed
        });
        if changed == Some(true) {
            self.touch();
        }
    }

    /// The node wants to leave; ignored from a stream that was replaced.
    pub fn leaving(&self, node: &str, session: u64) {
        let changed = self.with(node, session, |entry| !std::mem::replace(&mut entry.view.leaving, true));
        if changed == Some(true) {
            tracing::info!(node, "the agent is about to end; what it serves is moved");
            self.touch();
        }
    }

    /// Takes the answer to an inspection; dropped unless it was asked for.
    pub fn inspected(&self, node: &str, session: u64, inspection: Inspection) {
        let key = (inspection.model_uid.clone(), inspection.generation);
        let asked = self.with(node, session, |entry| {
            let found = entry.asked.iter().position(|asked| *asked == key);
            found.map(|at| entry.asked.swap_remove(at)).is_some()
        });
        if asked != Some(true) {
            tracing::warn!(node, model_uid = %key.0, "an inspection that nobody asked for is dropped");
            return;
        }
        self.lock().inspected.push(Inspected {
            node: node.to_owned(),
            inspection,
        });
        self.touch();
    }

    /// The same for an answer that came by a call of its own, beside the node's stream.
    pub fn inspected_apart(&self, node: &str, inspection: Inspection) {
        let session = self.lock().nodes.get(node).map(|entry| entry.view.session);
        // Without a stream nothing was asked.
        if let Some(session) = session {
            self.inspected(node, session, inspection);
        }
    }

    /// Forgets an agent whose stream ended at `now`; a newer stream of the same node stays.
    pub fn detach(&self, node: &str, session: u64, now: Instant) {
        let removed = {
            let mut inner = self.lock();
            let ours = inner.nodes.get(node).is_some_and(|entry| entry.view.session == session);
            let removed = ours.then(|| inner.nodes.remove(node)).flatten();
            let is_removed = removed.is_some();
            let silenced = removed.filter(|entry| entry.view.heard.silence(now) >= OVERDUE);
            inner
                .silenced
                .extend(silenced.map(|entry| (node.to_owned(), entry.view)));
            is_removed
        };
        if removed {
            self.touch();
        }
    }

    /// Forgets all: this replica leads no longer.
    pub fn clear(&self) {
        let mut inner = self.lock();
        for entry in std::mem::take(&mut inner.nodes).into_values() {
            entry.replaced.cancel();
        }
        inner.inspected.clear();
        inner.silenced.clear();
    }

    /// Everything as it is now; answers to inspections are handed out once.
    pub fn snapshot(&self) -> Snapshot {
        let mut inner = self.lock();
        Snapshot {
            inspected: std::mem::take(&mut inner.inspected),
            silenced: std::mem::take(&mut inner.silenced),
            nodes: inner
                .nodes
                .iter()
                .map(|(node, entry)| (node.clone(), entry.view.clone()))
                .collect(),
        }
    }

    /// Sends every attached agent what it must hold, where that differs from what it was sent before. A node that is not
    /// named holds nothing.
    pub fn assign(&self, by_node: &BTreeMap<String, NodeAssignments>) {
        let nothing = NodeAssignments::default();
        for (node, entry) in &mut self.lock().nodes {
            let wanted = by_node.get(node).unwrap_or(&nothing);
            entry.models.clone_from(&wanted.models);
            entry.assignments.send_if_modified(|current| {
                let differs = current.as_deref() != Some(&wanted.message);
                if differs {
                    *current = Some(Arc::new(wanted.message.clone()));
                }
                differs
            });
        }
    }

    /// Tells every attached agent to whom it measures links, where that differs from what it was told before.
    pub fn name_peers(&self, by_node: &BTreeMap<String, Arc<LinkPeers>>) {
        let nobody = Arc::new(LinkPeers::default());
        for (node, entry) in &self.lock().nodes {
            let named = by_node.get(node).unwrap_or(&nobody);
            entry.peers.send_if_modified(|current| {
                // Most are told what they were told before, and share it.
                let same = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, named));
                let differs = !same && current.as_ref() != Some(named);
                if differs {
                    *current = Some(Arc::clone(named));
                }
                differs
            });
        }
    }

    /// Asks an agent to look at a source. False when it is gone or has enough to do.
    pub fn inspect(&self, node: &str, inspect: Inspect) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.nodes.get_mut(node) else {
            return false;
        };
        let key = (inspect.model_uid.clone(), inspect.generation);
        if entry.asked.len() >= INSPECTIONS_MAX || entry.inspect.try_send(inspect).is_err() {
            return false;
        }
        entry.asked.push(key);
        true
    }

    /// Whether the node is to hold a shard of the model at present.
    #[must_use]
    pub fn is_assigned(&self, node: &str, model_uid: &str) -> bool {
        self.lock()
            .nodes
            .get(node)
            .is_some_and(|entry| entry.models.contains(model_uid))
    }

    /// How many are attached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().nodes.len()
    }

    /// None is attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(&self, node: &str, session: u64, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut inner = self.lock();
        inner
            .nodes
            .get_mut(node)
            .filter(|entry| entry.view.session == session)
            .map(change)
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before anything can panic, so a poisoned map is still a sound one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_credible(node: &str, model_uid: &str, epoch: u64) -> bool {
    let credible = epoch <= EPOCH_MAX && model_uid.len() <= MODEL_UID_MAX;
    if !credible {
        tracing::warn!(
            node,
            epoch,
            "the agent reports an epoch or a model that cannot be; it is ignored"
        );
    }
    credible
}

/// One that no process can have is none.
fn endpoint(text: String) -> String {
    if text.len() > ENDPOINT_MAX { String::new() } else { text }
}

fn cut(text: &mut String, longest: usize) {
    text.truncate(text.floor_char_boundary(longest));
}

#[cfg(test)]
mod tests;
