//! Everything but the model itself that a decision depends on, and the graph that it is decided on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use topology::{DeviceReport, HeldMemory, Input, Links, Topology, support};

use crate::agents::AgentView;
use crate::model::gain::Threshold;
use crate::model::holders::Holders;
use crate::model::learned_pace::Corrections;
use crate::model::observe::Observed;

/// Everything but the model itself that a decision depends on.
#[derive(Debug)]
pub struct World<'a> {
    reports: Vec<DeviceReport>,
    node_labels: &'a BTreeMap<String, BTreeMap<String, String>>,
    pub(super) agents: &'a BTreeMap<String, AgentView>,
    pub(super) awaited: &'a BTreeSet<String>,
    links: Links,
    /// Nodes that get nothing new, and whose shards go elsewhere if they can: cordoned, or with an agent that is about to end.
    pub(super) leaving: BTreeSet<String>,
    pub(super) threshold: Threshold,
    /// What serving stages taught about the speed of devices.
    pub paces: Corrections,
    /// Who holds what, and who gives way to whom.
    pub holders: Holders,
    pub(super) now: Instant,
    pub(super) now_unix_s: i64,
}

impl<'a> World<'a> {
    /// As observed; nothing is held yet.
    #[must_use]
    pub fn new(
        observed: &'a Observed,
        agents: &'a BTreeMap<String, AgentView>,
        awaited: &'a BTreeSet<String>,
        now: Instant,
        now_unix_s: i64,
    ) -> Self {
        let reports = observed
            .devices
            .iter()
            .filter_map(|device| DeviceReport::from_state(device))
            .collect::<Vec<_>>();
        let node_labels = &observed.node_labels;
        let holders = Holders::new(observed.models.iter().map(AsRef::as_ref), &reports);
        Self {
            reports,
            node_labels,
            agents,
            awaited,
            links: Links::default(),
            leaving: agents
                .iter()
                .filter(|(_, agent)| agent.leaving)
                .map(|(node, _)| node.clone())
                .chain(observed.cordoned.iter().cloned())
                .collect(),
            threshold: Threshold::default(),
            paces: Corrections::default(),
            holders,
            now,
            now_unix_s,
        }
    }

    /// With links as they were measured; without, all are assumed.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
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
            failing,
            freed,
            own,
            quantisation,
            in_force,
        } = *question;
        let mut devices = self.reports.clone();
        if in_force {
            devices = devices.into_iter().map(DeviceReport::for_what_it_holds).collect();
        }
        for device in &mut devices {
            if failing.contains(&device.name) {
                device.fault = Some("shards of this model keep failing on it".to_owned());
            }
            if let Some(why) = support::refuses(&device.backend, quantisation) {
                device.barred = Some(why);
            }
            if own.iter().any(|held| held.device == device.name) {
                device.barred = Some("holds another replica".to_owned());
            }
        }
        let awaited = self.awaited.iter().filter(|_| in_force);
        let attached = self
            .agents
            .keys()
            .filter(|node| in_force || !self.leaving.contains(*node));
        let mut held = self.holders.beside(uid, freed);
        held.extend(own.iter().cloned());
        let built = topology::build(&Input {
            devices,
            attached_nodes: attached.chain(awaited).cloned().collect(),
            node_labels: self.node_labels.clone(),
            held,
            ..Input::default()
        });
        // Judged once for all graphs of a pass: a large cluster has tens of thousands.
        Topology {
            links: self.links.clone(),
            ..built
        }
    }

    /// What the agents report.
    pub(in crate::model) fn agents(&self) -> &BTreeMap<String, AgentView> {
        self.agents
    }
}

/// For whom a graph is.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Question<'q> {
    pub uid: &'q str,
    /// Devices on which its shards keep failing.
    pub failing: &'q BTreeSet<String>,
    /// Other models whose memory is taken to be free.
    pub freed: &'q [&'q str],
    /// What replicas take that go on as they are: no other has a part in their devices.
    pub own: &'q [HeldMemory],
    /// Of its weights; empty where it is not asked for: what is loaded has shown that it can be.
    pub quantisation: &'q str,
    /// Whether it is for layers that are held already.
    pub in_force: bool,
}
