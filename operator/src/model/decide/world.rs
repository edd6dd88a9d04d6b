//! Everything but the model itself that a decision depends on, and the graph that it is decided on.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crds::names::{group_name, members};
use topology::{DeviceReport, GroupReport, HeldMemory, Links, NodeLabels, Topology, View, build_view, support};

use crate::agents::AgentView;
use crate::model::facts::Facts;
use crate::model::gain::Threshold;
use crate::model::groups::Groups;
use crate::model::holders::Holders;
use crate::model::learned_pace::Corrections;
use crate::model::leaving::{Leaving, leaving};
use crate::model::observe::Observed;
use crate::model::quarantine::sight::{Kept, as_if_fit};
use crate::model::reports::Reports;
use crate::model::traffic::Load;

/// Everything but the model itself that a decision depends on.
#[derive(Debug)]
pub struct World<'a> {
    reports: Arc<Reports>,
    node_labels: &'a BTreeMap<String, NodeLabels>,
    pub(super) agents: &'a BTreeMap<String, AgentView>,
    pub(super) awaited: &'a BTreeSet<String>,
    links: Links,
    /// Devices that work as one.
    groups: Arc<Groups>,
    /// Nodes that get nothing new, and whose shards go elsewhere if they can.
    pub(super) leaving: BTreeMap<String, Leaving>,
    /// Nodes that get nothing new, for their agents would not hear of it.
    pub unheard: BTreeSet<String>,
    pub(super) threshold: Threshold,
    /// What serving stages taught about the speed of devices.
    pub paces: Corrections,
    /// Who holds what, and who gives way to whom.
    pub holders: Holders,
    /// By uid, what stays on devices that are held though their agents say that they are unfit.
    pub kept: HashMap<String, Kept>,
    /// There is time for looks ahead.
    pub leisure: bool,
    pub(super) now: Instant,
    pub(super) now_unix_s: i64,
}

impl<'a> World<'a> {
    /// As observed, with what the devices report; nothing is held yet.
    #[must_use]
    pub fn new(
        (observed, reports): (&'a Observed, Arc<Reports>),
        agents: &'a BTreeMap<String, AgentView>,
        awaited: &'a BTreeSet<String>,
        now: Instant,
        now_unix_s: i64,
    ) -> Self {
        let node_labels = &observed.node_labels;
        let holders = Holders::new(observed.models.iter().map(AsRef::as_ref), Arc::clone(&reports));
        Self {
            reports,
            node_labels,
            agents,
            awaited,
            links: Links::default(),
            groups: Arc::default(),
            leaving: leaving(observed, agents),
            unheard: BTreeSet::new(),
            threshold: Threshold::default(),
            paces: Corrections::default(),
            holders,
            kept: HashMap::new(),
            leisure: true,
            now,
            now_unix_s,
        }
    }

    /// With links as they were measured; without, all are assumed.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
    }

    /// With devices that work as one; without, each works by itself.
    #[must_use]
    pub fn with_groups(self, groups: Arc<Groups>) -> Self {
        Self { groups, ..self }
    }

    /// With another measure of what is worth a move.
    #[must_use]
    pub fn with_threshold(self, threshold: Threshold) -> Self {
        Self { threshold, ..self }
    }

    /// The graph for one model: what others hold is taken, and what it holds itself is free for it. For a placement in
    /// force more counts than for a new one: agents that are awaited, and devices that get nothing new.
    pub(in crate::model) fn topology(&self, question: &Question<'_>) -> Topology {
        let Question {
            uid,
            among,
            freed,
            own,
            in_force,
            ..
        } = *question;
        let reports = match among {
            Some(names) => self.reports.around(names),
            None => self.reports.all().collect(),
        };
        let counts = |node: &&str| self.agents.contains_key(*node) || (in_force && self.awaited.contains(*node));
        let left = |node: &str| {
            let leaving = self.leaving.get(node).map(ToString::to_string);
            let unheard = || self.unheard.contains(node).then(|| "is not heard".to_owned());
            leaving.or_else(unheard).filter(|_| !in_force)
        };
        let mut nodes: Vec<&str> = reports.iter().map(|report| report.node.as_str()).collect();
        // Those of one node stand together.
        nodes.dedup();
        let kept = self.kept.get(uid).filter(|_| in_force);
        let mut held = self.holders.beside(uid, freed);
        held.extend(own.iter().flat_map(|own| own.memory.iter().cloned()));
        let built = build_view(&View {
            devices: reports
                .into_iter()
                .map(|report| as_it_counts(report, question, kept, left(&report.node)))
                .collect(),
            attached_nodes: nodes.into_iter().filter(counts).collect(),
            node_labels: self.node_labels,
            groups: self.groups(question),
            held,
        });
        // Links are judged once for all graphs of a pass: a large cluster has tens of thousands.
        let mut topology = Topology {
            links: self.links.clone(),
            ..built
        };
        // What is placed is not moved for what came later over its links.
        if !in_force {
            let rate = |from: &str, to: &str| topology.link(from, to).rate.bytes_per_second;
            topology.traffic = self.holders.traffic_beside(uid, freed, rate);
            for (own, beyond) in own.iter().flat_map(|own| &own.loads).map(Load::of_replica) {
                topology.put(own, beyond);
            }
        }
        topology
    }

    /// Devices that work as one, as far as they are asked for. A group on which shards keep failing is left by itself: its devices may be
    /// sound, each alone.
    fn groups(&self, question: &Question<'_>) -> Vec<&GroupReport> {
        if !self.has_groups() {
            return Vec::new();
        }
        let mut groups = match question.among {
            Some(names) => self.groups.named(names, &self.reports),
            None if question.may_group => self.groups.all(&self.reports),
            None => Vec::new(),
        };
        if !question.failing.is_empty() {
            let name = |group: &GroupReport| group_name(group.devices.iter().map(String::as_str));
            groups.retain(|group| !question.failing.contains(&name(group)));
        }
        groups
    }

    /// Whether any agent tells of devices that work as one.
    pub(in crate::model) fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Whether a device's object tells of it, or told of it before. Of several that work as one: whether the objects of all of them do,
    /// and their agent tells whether they can.
    pub(in crate::model) fn is_told_of(&self, device: &str) -> bool {
        let is_group = members(device).nth(1).is_some();
        members(device).all(|member| self.reports.get(member).is_some())
            && (!is_group || self.groups.is_told_of(device, &self.reports))
    }

    /// What the agents report.
    pub(in crate::model) fn agents(&self) -> &BTreeMap<String, AgentView> {
        self.agents
    }
}

/// A device for one model: its own report, but for what keeps this model away, or is not believed for what it has there.
fn as_it_counts<'r>(
    report: &'r DeviceReport,
    question: &Question<'_>,
    kept: Option<&Kept>,
    left: Option<String>,
) -> Cow<'r, DeviceReport> {
    let mut device = Cow::Borrowed(report);
    if let Some(why) = left {
        device.to_mut().barred = Some(format!("is on node {}, which {why}", report.node));
    }
    if kept.is_some_and(|kept| kept.devices.contains(&report.name)) {
        device = Cow::Owned(as_if_fit(report));
    }
    if question.in_force {
        device = Cow::Owned(device.into_owned().for_what_it_holds());
    }
    if question.failing.contains(&device.name) {
        device.to_mut().fault = Some("shards of this model keep failing on it".to_owned());
    }
    let unfit = question.facts.and_then(|facts| {
        let operators = device.missing_operators.as_deref();
        support::refuses(&device.backend, &facts.quantisation)
            .or_else(|| support::lacks(&device.backend, operators, &facts.architecture))
    });
    if unfit.is_some() {
        device.to_mut().barred = unfit;
    }
    let is_own = |own: &Own| {
        let mut held = own.memory.iter().flat_map(|held| members(&held.device));
        held.any(|member| member == device.name)
    };
    if question.own.is_some_and(is_own) {
        device.to_mut().barred = Some("holds another replica".to_owned());
    }
    device
}

/// What replicas of a model take that go on as they are.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct Own {
    pub memory: Vec<HeldMemory>,
    pub loads: Vec<Load>,
}

/// For whom a graph is.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Question<'q> {
    pub uid: &'q str,
    /// The devices that matter: only these are in the graph, and those that share memory with them. Several that work as one are, if they
    /// are named so. `None`: all.
    pub among: Option<&'q [&'q str]>,
    /// Devices on which its shards keep failing.
    pub failing: &'q BTreeSet<String>,
    /// Other models whose memory and links are taken to be free.
    pub freed: &'q [&'q str],
    /// What replicas take that go on as they are: no other has a part in their devices.
    pub own: Option<&'q Own>,
    /// Of the model that is to be loaded; absent where that is not asked: what is loaded has shown that it can be.
    pub facts: Option<&'q Facts>,
    /// Whether any devices may work as one; those that are named do.
    pub may_group: bool,
    /// Whether it is for layers that are held already.
    pub in_force: bool,
}
