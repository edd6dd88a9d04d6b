//! PURE: agents that have never attached to a new leader: are they lost, or has it no way to them?
//!
//! An agent that loses one leader says in its Lease that it is apart, and says it anew until it is attached to the next. So a new leader
//! reads what a standing one would. But what is said already when it begins may be of an agent that died since: it counts once it is
//! said anew under the leader's eyes. Where agents that have said it, or may yet, are most of all, nothing is concluded before the
//! others of them have had the time for it. A node that was lost with the last leader says nothing, and is waited for no longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crds::StagePhase;
use identity::Heard;
use proto::control::v1::{ShardPhase, ShardStatus};

use super::{SAID, is_most};
use crate::agents::AgentView;
use crate::model::in_force::InForce;
use crate::model::term::ATTACH_GRACE;

/// It is said anew every ten seconds, and read within a few more.
const ANEW: Duration = Duration::from_secs(14);

/// What an agent that is found to be there last told, and what its Lease said and when that was seen.
pub(super) type Found = (String, AgentView, (String, Instant));

/// An agent that has not attached to this leader.
#[derive(Debug)]
struct Missing {
    /// What it last told, as far as statuses of models say.
    view: AgentView,
    /// When its Lease was renewed, by its own clock, if that said that it is apart: as it was read first, and when.
    first: Option<(Option<String>, Instant)>,
    /// The same since that is something else.
    anew: Option<(String, Instant)>,
}

impl Missing {
    fn is_there(&self, now: Instant) -> bool {
        let within = |at: Instant| now.saturating_duration_since(at) < SAID;
        self.anew.as_ref().is_some_and(|(_, at)| within(*at))
    }

    /// Whether it may still say that it is there. `read`: when Leases were read last; `since`: for how long the leader leads. The time
    /// that it has counts as far as was read: nobody is given up for what could not be.
    fn may_say(&self, read: Option<Instant>, since: Duration, now: Instant) -> bool {
        match (&self.first, &self.anew) {
            (_, Some(_)) => false,
            (Some((said, at)), None) => {
                let looked = read.map_or(Duration::ZERO, |read| read.saturating_duration_since(*at));
                said.is_some() && looked < ANEW && now.saturating_duration_since(*at) < SAID
            }
            (None, None) => read.is_none() && since < SAID,
        }
    }
}

/// What a new leader knows of them.
#[derive(Debug, Default)]
pub(super) struct Never {
    /// When it began to lead.
    began: Option<Instant>,
    missing: BTreeMap<String, Missing>,
    /// Of these nothing is concluded yet, though agents have had the time to attach.
    open: BTreeSet<String>,
    is_over: bool,
}

impl Never {
    /// Takes over who is missing, by node, with what they last told.
    pub fn take(&mut self, missing: BTreeMap<String, AgentView>, began: Instant) {
        self.began = Some(began);
        let mut known = std::mem::take(&mut self.missing);
        for (node, view) in missing {
            let (first, anew) = known
                .remove(&node)
                .map_or((None, None), |known| (known.first, known.anew));
            self.missing.insert(node, Missing { view, first, anew });
        }
    }

    /// Takes over what Leases say. `renewed`: of a node, when its Lease was renewed, if that says that its agent is apart.
    pub fn learn(&mut self, renewed: impl Fn(&str) -> Option<String>, now: Instant) {
        for (node, missing) in &mut self.missing {
            let said = renewed(node);
            match &missing.first {
                None => missing.first = Some((said, now)),
                Some((first, _)) => {
                    let before = missing.anew.as_ref().map(|(before, _)| before).or(first.as_ref());
                    if let Some(said) = said.filter(|said| before != Some(said)) {
                        missing.anew = Some((said, now));
                    }
                }
            }
        }
    }

    /// How many are missing, until it is concluded what that means.
    pub fn count(&self) -> usize {
        self.missing.len()
    }

    /// It is concluded, once for each leader.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether nothing is concluded yet of a node's agent, though it has had the time to attach.
    pub fn is_open(&self, node: &str) -> bool {
        self.open.contains(node)
    }

    /// Once agents have had the time to attach: those that are there though they have not, where that can be said and they are most.
    /// `others`: how many were heard and are not any more; `heard`: how many are; `read`: when Leases were read last.
    pub fn conclude(&mut self, (others, heard): (usize, usize), read: Option<Instant>, now: Instant) -> Vec<Found> {
        let since = self.began.map(|began| now.saturating_duration_since(began));
        let Some(since) = since.filter(|since| !self.is_over && *since >= ATTACH_GRACE) else {
            return Vec::new();
        };
        let may_say = |missing: &Missing| missing.may_say(read, since, now);
        let counted = self
            .missing
            .iter()
            .filter(|(_, missing)| missing.is_there(now) || may_say(missing));
        let open: BTreeSet<String> = counted.map(|(node, _)| node.clone()).collect();
        let are_most = is_most(open.len() + others, heard);
        if are_most && self.missing.values().any(may_say) {
            self.open = open;
            return Vec::new();
        }
        self.is_over = true;
        self.open.clear();
        let missing = std::mem::take(&mut self.missing).into_iter();
        let found = missing.filter(|(_, missing)| are_most && missing.is_there(now));
        found
            .filter_map(|(node, missing)| Some((node, missing.view, missing.anew?)))
            .collect()
    }
}

/// What a node's agent last told, as the placements say that are found in statuses.
pub(in crate::model) fn last_told(node: &str, placed: &[&InForce], now: Instant) -> AgentView {
    let own = placed
        .iter()
        .filter(|in_force| in_force.nodes().any(|holder| holder == node));
    AgentView {
        session: 0,
        attached: now,
        epochs: own
            .clone()
            .map(|in_force| (in_force.model_uid().to_owned(), in_force.placement.epoch))
            .collect(),
        weights_endpoint: String::new(),
        takes_purposes: false,
        leaving: false,
        reported: true,
        shards: own.flat_map(|in_force| serving(node, in_force)).collect(),
        heard: Heard::default(),
    }
}

/// The stages that served on a node.
fn serving(node: &str, in_force: &InForce) -> Vec<ShardStatus> {
    let pipelines = (0..).zip(in_force.pipelines());
    let stages = pipelines.flat_map(|(pipeline, of)| (0..).zip(&of.stages).map(move |(stage, _)| (pipeline, stage)));
    let told = stages.zip(&in_force.view.stages);
    let served = told.filter(|(_, told)| told.node == node && told.phase == StagePhase::Serving);
    served
        .map(|((pipeline, stage), told)| ShardStatus {
            model_uid: in_force.model_uid().to_owned(),
            epoch: in_force.placement.epoch,
            pipeline,
            stage,
            phase: ShardPhase::Serving.into(),
            endpoint: told.endpoint.clone().unwrap_or_default(),
            ..ShardStatus::default()
        })
        .collect()
}
