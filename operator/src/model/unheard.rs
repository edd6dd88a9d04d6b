//! Agents that the operator hears no more, most of them at once: are they lost, or is the operator cut off?
//!
//! An agent whose stream broke says so in its node's Lease, through the API server, and goes on saying it ([`crds::names::APART`]). A node
//! that was lost says nothing. So where most agents fall silent at once, their Leases are read: what such an agent last reported counts
//! for as long as its Lease tells that it is there, and for [`GRACE`] before that. What it serves is not placed elsewhere, and gateways
//! keep the way to it; nothing new goes there. Where fewer fall silent they count as lost at once: others take their layers, and a
//! mistake costs a move. So do those whose connections are reset, for their hosts are heard.
//!
//! Connections are not given up at the same moment. When the first one is, the others have been silent for longer than any sound
//! one is: [`OVERDUE`] tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crds::names::{APART, agent_lease};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::ListParams;

use super::in_force::InForce;
use crate::agents::AgentView;
use crate::agents::registry::OVERDUE;
use crate::context::Context;
use crate::error::call;

/// From the end of its stream until an agent must have said that it is there. It knows within two seconds, and says it at once.
const GRACE: Duration = Duration::from_secs(5);
/// It says it anew every ten seconds: two may be lost.
const SAID: Duration = Duration::from_secs(30);
/// Leases are listed so often while most agents are not heard.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// An agent whose stream ended in silence.
#[derive(Debug)]
struct Gone {
    /// What it last said.
    view: AgentView,
    since: Instant,
    /// When its Lease was renewed, by its own clock, and when that was first seen.
    said: Option<(String, Instant)>,
}

impl Gone {
    fn counts(&self, now: Instant) -> bool {
        let within = |at: Instant, limit| now.saturating_duration_since(at) < limit;
        within(self.since, GRACE) || self.said.as_ref().is_some_and(|(_, at)| within(*at, SAID))
    }
}

/// What is remembered of agents.
#[derive(Debug, Default)]
pub struct Unheard {
    gone: BTreeMap<String, Gone>,
    /// Attached, and silent for longer than a sound one is.
    overdue: BTreeSet<String>,
    /// The other agents.
    heard: usize,
    asked: Option<Instant>,
    told: bool,
}

impl Unheard {
    /// Takes over who is attached, and whose streams ended in silence since.
    pub fn look(&mut self, agents: &BTreeMap<String, AgentView>, silenced: Vec<(String, AgentView)>, now: Instant) {
        // Who asked to leave is gone by its own word.
        let silenced = silenced.into_iter().filter(|(_, view)| !view.leaving);
        let gone = silenced.map(|(node, view)| {
            let gone = Gone {
                view,
                since: now,
                said: None,
            };
            (node, gone)
        });
        self.gone.extend(gone);
        self.gone
            .retain(|node, gone| !agents.contains_key(node) && gone.counts(now));
        let overdue = agents.iter().filter(|(_, view)| view.heard.silence(now) >= OVERDUE);
        self.overdue = overdue.map(|(node, _)| node.clone()).collect();
        self.heard = agents.len() - self.overdue.len();
    }

    /// Reads the Leases, if most agents are not heard and it is time to.
    pub async fn ask(&mut self, context: &Context, now: Instant) {
        let is_due = self
            .asked
            .is_none_or(|at| now.saturating_duration_since(at) >= ASK_EVERY);
        if !self.are_most() || !is_due {
            return;
        }
        self.asked = Some(now);
        let api: Api<Lease> = Api::namespaced(context.client.0.clone(), &context.names.namespace);
        match call("list Leases", api.list(&ListParams::default())).await {
            Ok(leases) => self.learn(&leases.items, now),
            Err(error) => {
                context.metrics.errors.with_label_values(&[error.category()]).inc();
                tracing::warn!(%error, "whether agents that are not heard are there cannot be known");
            }
        }
    }

    fn learn(&mut self, leases: &[Lease], now: Instant) {
        for (node, gone) in &mut self.gone {
            let name = agent_lease(node);
            let of_node = |lease: &&Lease| lease.metadata.name.as_deref() == Some(name.as_str());
            let Some(lease) = leases.iter().find(of_node) else {
                continue;
            };
            let says = lease
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|noted| noted.contains_key(APART));
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
            let Some(renewed) = renewed.filter(|_| says).map(|at| at.0.to_string()) else {
                continue;
            };
            if gone.said.as_ref().is_none_or(|(before, _)| *before != renewed) {
                gone.said = Some((renewed, now));
            }
        }
    }

    /// Puts what those last said whose streams ended among what the others say, and tells how many are not heard.
    pub fn fill(&mut self, agents: &mut BTreeMap<String, AgentView>) -> usize {
        if !self.are_most() {
            if std::mem::take(&mut self.told) {
                tracing::info!("most agents are heard again, or are lost");
            }
            return 0;
        }
        agents.extend(self.gone.iter().map(|(node, gone)| (node.clone(), gone.view.clone())));
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                heard = self.heard,
                unheard = self.count(),
                "most agents are not heard any more; what they hold stays for as long as their Leases tell that they are there"
            );
        }
        self.count()
    }

    /// Whether the node's agent is counted though it is not heard.
    #[must_use]
    pub fn is(&self, node: &str) -> bool {
        self.are_most() && (self.gone.contains_key(node) || self.overdue.contains(node))
    }

    /// What people are told of a model that has stages there.
    #[must_use]
    pub fn note(&self, in_force: &InForce) -> Option<String> {
        let node = in_force.nodes().find(|node| self.is(node))?;
        let (unheard, all) = (self.count(), self.heard + self.count());
        Some(format!(
            "the operator hears {unheard} of {all} agents no more, that of {node} among them, and they say that they are there: what they \
             serve stays; look for what is between them and the operator"
        ))
    }

    /// When to look again.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.asked.filter(|_| self.are_most()).map(|at| at + ASK_EVERY)
    }

    fn count(&self) -> usize {
        self.gone.len() + self.overdue.len()
    }

    fn are_most(&self) -> bool {
        !self.gone.is_empty() && self.count() >= 2 && self.count() > self.heard
    }
}

#[cfg(test)]
mod tests;
