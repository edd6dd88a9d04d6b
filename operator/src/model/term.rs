//! What the control loop remembers while this replica leads. All of it is found again by the next leader: placements and
//! epochs in status, facts by inspection, shards and accepted epochs from the agents.

mod attaching;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::conditions::reason;
use crds::{
    DeviceGPUState, InferenceModel, InferenceModelStatus, LearnedMemory, LearnedPace, ModelSource, ResolvedModel,
    Yielded,
};
use identity::PlacementVerifier;
use placement::Problem;
use proto::control::v1::{Inspect, inspection::Result as Answer};

use super::access::Access;
use super::away::Away;
use super::facts::{self, Attached, Facts};
use super::failures::Failures;
use super::in_force::{self, InForce};
use super::inspect::{Failure, Inspection, Resolution};
use super::links;
use super::moving::Moving;
use super::observed_pace::Shown;
use super::progress::Progress;
use super::quarantine::Quarantine;
use super::reports::Reports;
use super::secrets::Secrets;
use super::standby::Standby;
use super::status::{self, Why};
use super::unheard::Unheard;
use super::vanished::Vanished;
use crate::agents::AgentView;
use crate::agents::registry::Inspected;
use crate::by_digest::ByDigest;
use crate::metrics::Metrics;

/// After a change of leader, agents that hold placements are given this long to attach: longer than their own pauses
/// between two attempts.
pub const ATTACH_GRACE: Duration = Duration::from_secs(10);
/// An agent that has attached reports its shards at once, if it has any.
const REPORT_GRACE: Duration = Duration::from_secs(1);
/// A status that was just written may not be in the store yet; it is not written again so soon.
const ECHO: Duration = Duration::from_secs(10);

/// Inspections under way, of sources that are read within seconds: each answer brings a vocabulary, and all of them at once would be
/// hundreds of mebibytes. Those that take an hour do not end together, and are not waited for.
const INSPECTIONS_AT_ONCE: usize = 8;

/// Doubtful claims that are told of: more say nothing new.
const DOUBTED_MAX: usize = 256;

/// What is remembered of one model.
#[derive(Debug)]
pub struct ModelState {
    /// The placement that is in status, if it is one of ours.
    pub in_force: Option<InForce>,
    /// The highest epoch ever seen in status.
    pub status_epoch: u64,
    /// What is known of its source.
    pub inspection: Inspection,
    /// What the source is known to be; kept while a source is inspected again.
    pub resolved: Option<ResolvedModel>,
    /// Devices that its shards keep failing on.
    pub failures: Failures,
    /// The last problem that had no solution: not solved again unless it changes.
    pub refused: Option<(Problem, Why)>,
    /// The last problem that had no solution even without what lower models hold.
    pub hopeless: Option<Problem>,
    /// What it gave up to a model of higher priority, as its status says.
    pub yielded: Option<Yielded>,
    /// How its source is reached, or why that is not known.
    pub access: Result<Access, Why>,
    /// What its loaded stages taught about memory.
    pub learned: Option<LearnedMemory>,
    /// What its serving stages taught about the speed of their devices.
    pub learned_pace: Vec<LearnedPace>,
    /// What people are shown of how fast its stages are.
    pub paces: Shown,
    /// What people are shown of what its stages fetch.
    pub progress: Progress,
    /// What replaces the placement in force, once it is loaded.
    pub moving: Moving,
    /// What takes its place when a node is lost.
    pub standby: Standby,
    /// Its stages whose agents are away.
    pub away: Away,
    written: Option<(InferenceModelStatus, Instant)>,
    /// The version that was observed when a status was last written, and the one that the write made of it.
    made: Option<(String, String)>,
}

impl ModelState {
    fn new(model: &InferenceModel, verifier: &PlacementVerifier) -> Self {
        let in_force = in_force::recall(model, verifier).unwrap_or_else(|error| {
            tracing::warn!(model = model.metadata.name, %error, "the placement in status is not taken over; a new one will be made");
            None
        });
        let status = model.status.as_ref();
        Self {
            // Facts in status are believed only beside a placement that was signed for them.
            resolved: status
                .and_then(|status| status.model.clone())
                .filter(|_| in_force.is_some()),
            learned: status.and_then(|status| status.learned).filter(|_| in_force.is_some()),
            learned_pace: status.map(|status| status.learned_pace.clone()).unwrap_or_default(),
            paces: Shown::default(),
            in_force,
            status_epoch: epoch_in_status(model),
            inspection: Inspection::new(
                model.spec.source.clone(),
                model.metadata.uid.as_deref().unwrap_or_default(),
            ),
            failures: Failures::default(),
            refused: None,
            hopeless: None,
            yielded: status.and_then(|status| status.yielded.clone()),
            access: Ok(Access::default()),
            progress: Progress::default(),
            moving: Moving::default(),
            standby: Standby::default(),
            away: Away::default(),
            written: None,
            made: None,
        }
    }

    /// What an inspection in this term found.
    #[must_use]
    pub fn facts(&self) -> Option<Arc<Facts>> {
        match self.inspection.resolution() {
            Resolution::Resolved(facts) => Some(facts),
            _ => None,
        }
    }

    /// The status that lends its transition times to the next.
    #[must_use]
    pub fn previous<'a>(&'a self, model: &'a InferenceModel) -> Option<&'a InferenceModelStatus> {
        self.written
            .as_ref()
            .map(|(status, _)| status)
            .or(model.status.as_ref())
    }

    /// Whether a status must be written.
    #[must_use]
    pub fn must_write(&self, model: &InferenceModel, wanted: &InferenceModelStatus, now: Instant) -> bool {
        if model
            .status
            .as_ref()
            .is_some_and(|stored| !status::differ(stored, wanted))
        {
            return false;
        }
        let just_written = |(written, at): &(InferenceModelStatus, Instant)| {
            !status::differ(written, wanted) && now.saturating_duration_since(*at) < ECHO
        };
        !self.written.as_ref().is_some_and(just_written)
    }

    /// The status was written, and with it the placement took effect.
    pub fn wrote(&mut self, status: InferenceModelStatus, in_force: Option<InForce>, now: Instant) {
        if let Some(in_force) = in_force {
            self.status_epoch = self.status_epoch.max(in_force.placement.epoch);
            if self
                .in_force
                .as_ref()
                .is_none_or(|last| last.stages() != in_force.stages())
            {
                self.moving.moved();
            }
            self.in_force = Some(in_force);
        }
        self.written = Some((status, now));
    }

    /// A write that seemed to fail may have been carried out: what it put into status is in force, and nothing is placed twice;
    /// what it gave up is given up.
    fn heed(&mut self, model: &InferenceModel, verifier: &PlacementVerifier) {
        let found = epoch_in_status(model);
        let present = self.in_force.as_ref().map_or(0, |in_force| in_force.placement.epoch);
        let status = model.status.as_ref().filter(|status| status.placement.is_none());
        let given_up = status.and_then(|status| status.yielded.clone());
        if let Some(given_up) = given_up.filter(|record| self.yielded.is_none() && covers(record, present)) {
            self.has_yielded(Some(given_up), true);
        }
        if found <= self.status_epoch {
            return;
        }
        self.status_epoch = found;
        if let Ok(Some(in_force)) = in_force::recall(model, verifier) {
            self.in_force = Some(in_force);
            self.yielded = model.status.as_ref().and_then(|status| status.yielded.clone());
            self.moving.moved();
        }
    }

    /// The version of the object that a status is decided on: as observed, or as our last write left it where the store has not
    /// heard of that yet.
    #[must_use]
    pub fn version<'a>(&'a self, model: &'a InferenceModel) -> Option<&'a str> {
        let observed = model.metadata.resource_version.as_deref();
        match &self.made {
            Some((from, to)) if observed == Some(from) => Some(to),
            _ => observed,
        }
    }

    /// A write made this version of the object.
    pub fn made(&mut self, model: &InferenceModel, version: Option<String>) {
        self.made = model.metadata.resource_version.clone().zip(version);
    }

    /// A write failed: the object may be in another version than the last write left, even in an older one where the store was set
    /// back. What is observed is believed again.
    pub fn doubts_version(&mut self) {
        self.made = None;
    }

    /// What it gave up is in status; with `withdrawn`, that it has no placement any more.
    pub fn has_yielded(&mut self, yielded: Option<Yielded>, withdrawn: bool) {
        self.yielded = yielded;
        if withdrawn {
            self.in_force = None;
        }
    }

    /// The epoch of the next placement, on these nodes: above every one that was ever published, or accepted by a node that
    /// holds or shall hold a part of the model.
    #[must_use]
    pub fn next_epoch<'n>(
        &self,
        uid: &str,
        agents: &BTreeMap<String, AgentView>,
        nodes: impl IntoIterator<Item = &'n str>,
    ) -> u64 {
        let in_force = self.in_force.as_ref().map_or(0, |in_force| in_force.placement.epoch);
        let holders = self.in_force.iter().flat_map(InForce::nodes);
        in_force
            .max(self.status_epoch)
            .max(accepted(uid, agents, holders))
            .max(accepted(uid, agents, nodes))
            .saturating_add(1)
    }
}

/// Whether the placement of an epoch, if there is one, is what was given up.
fn covers(record: &Yielded, epoch: u64) -> bool {
    epoch > 0 && u64::try_from(record.epoch).is_ok_and(|given_up| given_up >= epoch)
}

/// Of the placement, or of the one that was given up.
fn epoch_in_status(model: &InferenceModel) -> u64 {
    let Some(status) = &model.status else { return 0 };
    let placement = status.placement.as_ref().map(|placement| placement.epoch);
    let given_up = status.yielded.as_ref().map(|yielded| yielded.epoch);
    u64::try_from(placement.max(given_up).unwrap_or(0)).unwrap_or(0)
}

/// The highest epoch of a model that these nodes' agents have accepted. What others say of a model that they do not hold is
/// not believed: one agent could use up the epochs of all models.
#[must_use]
pub fn accepted<'n>(uid: &str, agents: &BTreeMap<String, AgentView>, nodes: impl IntoIterator<Item = &'n str>) -> u64 {
    nodes
        .into_iter()
        .filter_map(|node| agents.get(node)?.epochs.get(uid))
        .copied()
        .max()
        .unwrap_or(0)
}

/// One period of leadership.
#[derive(Debug)]
pub struct Term {
    began: Instant,
    /// By uid.
    pub models: HashMap<String, ModelState>,
    /// Links, and who measures them.
    pub links: links::Memory,
    /// Devices that were left of late, and those that are held.
    pub quarantine: Quarantine,
    /// Agents that are not heard though they may be there.
    pub unheard: Unheard,
    /// Devices that hold stages and whose objects are gone.
    pub vanished: Vanished,
    reports: Arc<Reports>,
    settled_nodes: BTreeSet<String>,
    /// Nodes and models that were told of in the log.
    doubted: BTreeSet<(String, String)>,
}

impl Term {
    /// Nothing is remembered.
    #[must_use]
    pub fn begin(now: Instant) -> Self {
        Self {
            began: now,
            models: HashMap::new(),
            links: links::Memory::default(),
            quarantine: Quarantine::default(),
            unheard: Unheard::default(),
            vanished: Vanished::default(),
            reports: Arc::default(),
            settled_nodes: BTreeSet::new(),
            doubted: BTreeSet::new(),
        }
    }

    /// Meets new models, forgets those that are gone, starts over where a source changed.
    pub fn recall(&mut self, models: &[Arc<InferenceModel>], verifier: &PlacementVerifier) {
        let present: BTreeSet<&str> = models
            .iter()
            .filter_map(|model| model.metadata.uid.as_deref())
            .collect();
        self.models.retain(|uid, _| present.contains(uid.as_str()));
        for model in models {
            let Some(uid) = model.metadata.uid.clone() else {
                continue;
            };
            let state = self
                .models
                .entry(uid.clone())
                .or_insert_with(|| ModelState::new(model, verifier));
            state.heed(model, verifier);
            let known = state.inspection.source();
            if !known.same_weights(&model.spec.source) {
                state.inspection = Inspection::new(model.spec.source.clone(), &uid);
                state.refused = None;
                state.hopeless = None;
                state.resolved = None;
                state.learned = None;
            } else if *known != model.spec.source {
                state.inspection.reached_by(model.spec.source.clone());
            }
        }
    }

    /// What these devices report, and last reported that hold stages and are not among them any more.
    pub fn reports(&mut self, devices: &[Arc<DeviceGPUState>], agents: &BTreeMap<String, AgentView>) -> Arc<Reports> {
        // Nobody else has it between two passes, so that nothing is copied.
        Arc::make_mut(&mut self.reports).update(devices);
        let placed = self.models.values().filter_map(|state| state.in_force.as_ref());
        let missing = self.vanished.look(&self.reports, placed, agents);
        match missing.is_empty() {
            true => Arc::clone(&self.reports),
            false => Arc::new(self.reports.with(missing)),
        }
    }

    /// Takes over how sources are reached; whoever could not read one is asked again when that changes.
    pub fn reach(&mut self, models: &[Arc<InferenceModel>], secrets: &Secrets) {
        for model in models {
            let uid = model.metadata.uid.as_deref().unwrap_or_default();
            let Some(state) = self.models.get_mut(uid) else {
                continue;
            };
            let access = secrets.access(model);
            if access != state.access {
                state.inspection.retry();
                state.access = access;
            }
        }
    }

    /// Tells of agents that claim a higher epoch of a model than any that was published, and do not hold it. Once for each.
    pub fn doubt(&mut self, agents: &BTreeMap<String, AgentView>) {
        for (node, agent) in agents {
            for (uid, epoch) in &agent.epochs {
                let Some(state) = self.models.get(uid) else { continue };
                let holds = state
                    .in_force
                    .iter()
                    .flat_map(InForce::nodes)
                    .any(|holder| holder == node);
                if holds || *epoch <= state.status_epoch || self.doubted.len() >= DOUBTED_MAX {
                    continue;
                }
                if self.doubted.insert((node.clone(), uid.clone())) {
                    tracing::warn!(
                        node,
                        model_uid = uid,
                        epoch,
                        "the agent reports an epoch of a model that it does not hold; it is ignored"
                    );
                }
            }
        }
    }

    /// Takes the answers of agents over; vocabularies go to the gateways' cache, weight indexes to the agents'.
    pub fn learn(&mut self, answers: Vec<Inspected>, vocabularies: &ByDigest, indexes: &ByDigest, metrics: &Metrics) {
        for Inspected { node, inspection } in answers {
            let Some(state) = self.models.get_mut(&inspection.model_uid) else {
                continue;
            };
            let answer = judge(inspection.result, state.inspection.source());
            metrics
                .inspections
                .with_label_values(&[if answer.is_ok() { "resolved" } else { "failed" }])
                .inc();
            let (answer, attached) = match answer {
                Ok((facts, attached)) => (Ok(Arc::new(facts)), Some(attached)),
                Err(failure) => (Err(failure), None),
            };
            let facts = answer.as_ref().ok().cloned();
            if !state.inspection.answered(&node, inspection.generation, answer) {
                continue;
            }
            if let (Some(facts), Some(Attached { vocabulary, index })) = (facts, attached) {
                let kept = vocabularies.insert(facts.vocabulary_sha256.0, vocabulary);
                let uid = &inspection.model_uid;
                if !kept {
                    tracing::error!("the cache of vocabularies is full; gateways cannot serve model {uid}");
                }
                if facts
                    .index_sha256
                    .is_some_and(|digest| !indexes.insert(digest.0, index))
                {
                    tracing::error!("the cache of weight indexes is full; agents cannot fetch model {uid}");
                }
                state.resolved = Some(status::resolved_model(&facts));
            }
        }
        let facts = || self.models.values().filter_map(ModelState::facts);
        let wanted: BTreeSet<[u8; 32]> = facts().map(|facts| facts.vocabulary_sha256.0).collect();
        vocabularies.retain(|digest| wanted.contains(digest));
        let placed = self.models.values().filter_map(|state| state.in_force.as_ref());
        let placed = placed.filter_map(|in_force| {
            let source = in_force.placement.source.as_ref()?;
            <[u8; 32]>::try_from(source.index_sha256.as_slice()).ok()
        });
        // An older placement may still be fetched by nodes that come back.
        let wanted: BTreeSet<[u8; 32]> = facts()
            .filter_map(|facts| Some(facts.index_sha256?.0))
            .chain(placed)
            .collect();
        indexes.retain(|digest| wanted.contains(digest));
    }

    /// Whom to ask what, now. `ask` hands the question over and says whether the agent takes it.
    pub fn ask(
        &mut self,
        models: &[Arc<InferenceModel>],
        agents: &BTreeMap<String, AgentView>,
        now: Instant,
        mut ask: impl FnMut(&str, Inspect) -> bool,
    ) {
        let attached: BTreeMap<String, u64> = agents
            .iter()
            .map(|(node, agent)| (node.clone(), agent.session))
            .collect();
        let mut under_way = self
            .models
            .values()
            .filter(|state| state.inspection.ends_soon())
            .count();
        for model in models {
            let Some(uid) = model.metadata.uid.as_deref() else {
                continue;
            };
            let Some(state) = self.models.get_mut(uid) else {
                continue;
            };
            // Without what the source demands nobody can read it.
            let Ok(access) = &state.access else { continue };
            let candidates = state
                .inspection
                .candidates(&attached, now, lifecycle::backoff::jitter());
            let is_pinned = model.spec.source.index_sha256.is_some();
            if candidates.is_empty() || (is_pinned && under_way >= INSPECTIONS_AT_ONCE) {
                continue;
            }
            let generation = model.metadata.generation.unwrap_or_default();
            let source = &model.spec.source;
            let inspect = Inspect {
                model_uid: uid.to_owned(),
                generation,
                uri: source.uri.clone(),
                sha256: digest(source.sha256.as_deref()),
                index_sha256: digest(source.index_sha256.as_deref()),
                access: access.to_message(),
            };
            // One that has enough to do is not waited for.
            let taker = candidates.into_iter().find(|node| ask(node, inspect.clone()));
            if let Some(node) = taker {
                let session = attached[&node];
                state.inspection.asked(node, session, generation, now);
                under_way += usize::from(is_pinned);
            }
        }
    }

    /// When something changes by itself, after a pass at `now`.
    #[must_use]
    pub fn wakes_at(&self, awaited: &BTreeSet<String>, now: Instant) -> Option<Instant> {
        let of_models = self.models.values().flat_map(|state| {
            [
                state.inspection.wakes_at(),
                state.failures.wakes_at(),
                state.progress.wakes_at(),
                state.moving.wakes_at(),
                state.paces.wakes_at(),
            ]
        });
        let settling = (!awaited.is_empty()).then(|| self.settles_at(now));
        // The pass did what was due. What is still due is of a device that was left, or a rest that is over: no change comes of it.
        of_models.flatten().filter(|at| *at > now).chain(settling).min()
    }
}

/// The bytes of a digest in a spec; none where it pins nothing.
fn digest(text: Option<&str>) -> Vec<u8> {
    let digest = text.and_then(|text| text.parse::<gguf::Digest>().ok());
    digest.map(|digest| digest.0.to_vec()).unwrap_or_default()
}

/// The answer to an inspection, checked.
fn judge(answer: Option<Answer>, source: &ModelSource) -> Result<(Facts, Attached), Failure> {
    match answer {
        Some(Answer::Facts(message)) => facts::accept(message, source).map_err(|error| Failure {
            reason: error.reason().to_owned(),
            message: error.to_string(),
        }),
        Some(Answer::Error(error)) => Err(Failure {
            reason: known_reason(&error.reason),
            message: clip(error.message),
        }),
        None => Err(Failure {
            reason: reason::UNREADABLE.into(),
            message: "an answer without content".into(),
        }),
    }
}

/// Reasons end up in conditions and must be words that their readers know.
fn known_reason(word: &str) -> String {
    const KNOWN: [&str; 14] = [
        reason::SOURCE_NOT_FOUND,
        reason::TRUNCATED,
        reason::NOT_GGUF,
        reason::DIGEST_MISMATCH,
        reason::UNSUPPORTED_ARCHITECTURE,
        reason::UNREADABLE,
        reason::ACCESS_DENIED,
        reason::UNSUPPORTED_FORMAT,
        reason::NO_INDEX,
        reason::RANGE_NOT_SUPPORTED,
        reason::SOURCE_CHANGED,
        reason::SOURCE_STALLED,
        reason::SOURCE_UNAVAILABLE,
        reason::DISK_FULL,
    ];
    KNOWN
        .iter()
        .find(|known| **known == word)
        .copied()
        .unwrap_or(reason::UNREADABLE)
        .to_owned()
}

fn clip(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(1024));
    message
}

#[cfg(test)]
mod tests;
