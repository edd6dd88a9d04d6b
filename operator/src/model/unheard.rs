//! Agents that the operator hears no more, most of them at once: are they lost, or is the operator cut off?
//!
//! An agent whose stream broke says so in its node's Lease, through the API server, and goes on saying it ([`crds::names::APART`]). A node
//! that was lost says nothing. So where most agents fall silent at once, their Leases are read: what such an agent last reported counts
//! for as long as its Lease tells that it is there, and for [`GRACE`] before that. What it serves is not placed elsewhere, and gateways
//! keep the way to it; nothing new goes there. Where fewer fall silent they count as lost at once: others take their layers, and a
//! mistake costs a move. So do those whose connections are reset, for their hosts are heard. Nobody is given up for what could not be
//! read: an operator that was cut off from the API server as well reads first.
//!
//! They come back one after the other. Those that said that they are there are not lost because the others are back already: they have
//! [`RETURN`] for it.
//!
//! Connections are not given up at the same moment. When the first one is, the others have been silent for longer than any sound
//! one is: [`OVERDUE`] tells them.
//!
//! A leader that has just begun goes by the same rule with agents that never attached to it ([`never`]): what they last told is in the
//! statuses of models.

mod never;

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
use never::Never;
pub(super) use never::last_told;

/// From the end of its stream until an agent must have said that it is there. It knows within two seconds, and says it at once.
const GRACE: Duration = Duration::from_secs(5);
/// It says it anew every ten seconds: two may be lost. And for so long Leases may be unreadable.
const SAID: Duration = Duration::from_secs(30);
/// Agents attach again within ten seconds of the end of what kept them apart.
const RETURN: Duration = Duration::from_secs(30);
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
    /// `read`: when Leases were read last.
    fn counts(&self, read: Option<Instant>, now: Instant) -> bool {
        let within = |at: Instant| now.saturating_duration_since(at) < SAID;
        let silence = read.map(|read| read.saturating_duration_since(self.since));
        let may_say = within(self.since) && silence.is_none_or(|silence| silence < GRACE);
        may_say || self.said.as_ref().is_some_and(|(_, at)| within(*at))
    }

    /// It said that it is there, or nobody read since.
    fn may_have_said(&self, read: Option<Instant>) -> bool {
        self.said.is_some() || read.is_none_or(|read| read < self.since)
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
    /// When most were not heard last, while any of those is waited for.
    most: Option<Instant>,
    asked: Option<Instant>,
    /// When Leases were read last.
    read: Option<Instant>,
    /// How many people are told of, and of how many: the most that there were. It does not change with each that comes back.
    told: Option<(usize, usize)>,
    /// Those that never attached to this leader.
    never: Never,
}

impl Unheard {
    /// Takes over who is attached, and whose streams ended in silence since.
    pub fn look(&mut self, agents: &BTreeMap<String, AgentView>, silenced: Vec<(String, AgentView)>, now: Instant) {
        let is_waited_for = self.most.is_some();
        self.gone
            .retain(|node, gone| !agents.contains_key(node) && (is_waited_for || gone.counts(Some(now), now)));
        // Who asked to leave is gone by its own word, and who is back is not gone.
        let silenced = silenced.into_iter();
        let silenced = silenced.filter(|(node, view)| !view.leaving && !agents.contains_key(node));
        let gone = silenced.map(|(node, view)| {
            let gone = Gone {
                view,
                since: now,
                said: None,
            };
            (node, gone)
        });
        self.gone.extend(gone);
        let overdue = agents.iter().filter(|(_, view)| view.heard.silence(now) >= OVERDUE);
        self.overdue = overdue.map(|(node, _)| node.clone()).collect();
        self.heard = agents.len() - self.overdue.len();
        self.judge(now);
    }

    /// Takes over, by node, what those last told who have not attached to this leader, which began then.
    pub fn miss(&mut self, missing: BTreeMap<String, AgentView>, began: Instant) {
        self.never.take(missing, began);
    }

    /// Whether it is known what those are that have not attached to this leader.
    #[must_use]
    pub fn has_concluded(&self) -> bool {
        self.never.is_over()
    }

    /// Whether a node's agent may be there though it has not attached in time, so that nothing is concluded of it yet.
    #[must_use]
    pub fn awaits(&self, node: &str) -> bool {
        self.never.is_open(node)
    }

    /// Reads the Leases, if most agents are not heard and it is time to.
    pub async fn ask(&mut self, context: &Context, now: Instant) {
        let is_due = self
            .asked
            .is_none_or(|at| now.saturating_duration_since(at) >= ASK_EVERY);
        let missing = self.never.count();
        let are_missing = missing > 0 && is_most(missing + self.count(), self.heard);
        if (self.most.is_none() && !are_missing) || !is_due {
            return;
        }
        self.asked = Some(now);
        let api: Api<Lease> = Api::namespaced(context.client.0.clone(), &context.names.namespace);
        match call("list Leases", api.list(&ListParams::default())).await {
            Ok(leases) => self.learn(&leases.items, now),
            Err(error) => {
                // Whoever may not read them will not learn more by waiting.
                if error.is_forbidden() {
                    self.read = Some(now);
                }
                context.metrics.errors.with_label_values(&[error.category()]).inc();
                tracing::warn!(%error, "whether agents that are not heard are there cannot be known");
            }
        }
    }

    fn learn(&mut self, leases: &[Lease], now: Instant) {
        self.read = Some(now);
        let named = leases
            .iter()
            .filter_map(|lease| Some((lease.metadata.name.as_deref()?, lease)));
        let by_name: BTreeMap<&str, &Lease> = named.collect();
        let says = |node: &str| {
            let lease = by_name.get(agent_lease(node).as_str())?;
            let noted = lease.metadata.annotations.as_ref();
            let renewed = lease.spec.as_ref()?.renew_time.as_ref()?;
            noted
                .is_some_and(|noted| noted.contains_key(APART))
                .then(|| renewed.0.to_string())
        };
        self.never.learn(says, now);
        for (node, gone) in &mut self.gone {
            let Some(renewed) = says(node) else { continue };
            if gone.said.as_ref().is_none_or(|(before, _)| *before != renewed) {
                gone.said = Some((renewed, now));
            }
        }
    }

    /// Puts what those last said whose streams ended among what the others say, and tells how many are not heard.
    pub fn fill(&mut self, agents: &mut BTreeMap<String, AgentView>, now: Instant) -> usize {
        self.conclude(now);
        if self.most.is_some() {
            let read = self.read;
            self.gone.retain(|_, gone| gone.counts(read, now));
            let are_most = self.are_most();
            self.gone.retain(|_, gone| are_most || gone.may_have_said(read));
            self.judge(now);
        }
        if self.most.is_none() {
            if self.told.take().is_some() {
                tracing::info!("most agents are heard again, or are lost");
            }
            return 0;
        }
        agents.extend(self.gone.iter().map(|(node, gone)| (node.clone(), gone.view.clone())));
        let (unheard, heard) = (self.count(), self.heard);
        if self.told.is_none() {
            tracing::warn!(
                heard,
                unheard,
                "most agents are not heard any more; what they hold stays for as long as their Leases tell that they are there"
            );
        }
        if self.told.is_none_or(|(most, _)| unheard > most) {
            self.told = Some((unheard, heard + unheard));
        }
        unheard
    }

    /// Whether the node's agent is counted though it is not heard.
    #[must_use]
    pub fn is(&self, node: &str) -> bool {
        self.most.is_some() && (self.gone.contains_key(node) || self.overdue.contains(node))
    }

    /// What people are told of a model that has stages there.
    #[must_use]
    pub fn note(&self, in_force: &InForce) -> Option<String> {
        let node = in_force.nodes().find(|node| self.is(node))?;
        let (unheard, all) = self.told?;
        Some(format!(
            "the operator hears {unheard} of {all} agents no more, that of {node} among them; what they serve stays for as long as their \
             Leases tell that they are there: look for what is between them and the operator"
        ))
    }

    /// When to look again.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.asked.filter(|_| self.most.is_some()).map(|at| at + ASK_EVERY)
    }

    /// Those that never attached to this leader and are there are like those that fell silent now.
    fn conclude(&mut self, now: Instant) {
        let unheard = (self.count(), self.heard);
        let found = self.never.conclude(unheard, self.read, now);
        if found.is_empty() {
            return;
        }
        for (node, view, said) in found {
            let gone = Gone {
                view,
                since: now,
                said: Some(said),
            };
            self.gone.insert(node, gone);
        }
        self.judge(now);
    }

    fn count(&self) -> usize {
        self.gone.len() + self.overdue.len()
    }

    fn are_most(&self) -> bool {
        !self.gone.is_empty() && is_most(self.count(), self.heard)
    }

    fn judge(&mut self, now: Instant) {
        let returning = |at: &Instant| now.saturating_duration_since(*at) < RETURN;
        self.most = match self.are_most() {
            true => Some(now),
            false => self.most.filter(|at| !self.gone.is_empty() && returning(at)),
        };
    }
}

/// One that is not heard is lost like any other, however few there are.
fn is_most(unheard: usize, heard: usize) -> bool {
    unheard >= 2 && unheard > heard
}

#[cfg(test)]
mod tests;
