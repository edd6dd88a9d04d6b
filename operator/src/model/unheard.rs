//! Agents that the operator hears no more, most of them at once: are they lost, or is the operator cut off?
//!
//! An agent whose stream broke says so in its node's Lease, through the API server, and goes on saying it ([`crds::names::APART`]). A node
//! that was lost says nothing. So where most agents go at once, their Leases are read: what such an agent last reported counts for as long
//! as its Lease tells that it is there, and for [`GRACE`] before that. What it serves is not placed elsewhere, and gateways keep
//! the way to it; nothing new goes there. Where fewer go they count as lost at once: others take their layers, and a mistake costs a move.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crds::names::{APART, agent_lease};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::ListParams;

use super::in_force::InForce;
use crate::agents::AgentView;
use crate::context::Context;
use crate::error::call;

/// From the end of its stream until an agent must have said that it is there. It knows within two seconds, and says it at once.
const GRACE: Duration = Duration::from_secs(5);
/// It says it anew every ten seconds: two may be lost.
const SAID: Duration = Duration::from_secs(30);
/// Leases are listed so often while most agents are not heard.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// An agent whose stream ended.
#[derive(Debug)]
struct Gone {
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
    /// What each last said, by node, at the end of the last pass.
    last: BTreeMap<String, AgentView>,
    gone: BTreeMap<String, Gone>,
    /// Agents that are heard.
    heard: usize,
    asked: Option<Instant>,
    told: bool,
}

impl Unheard {
    /// Takes over who is heard.
    pub fn look(&mut self, agents: &BTreeMap<String, AgentView>, now: Instant) {
        // Who asked to leave is gone by its own word.
        let missing = self.last.iter().filter(|(node, view)| {
            let is_news = !agents.contains_key(*node) && !self.gone.contains_key(*node);
            is_news && !view.leaving
        });
        let missing: Vec<String> = missing.map(|(node, _)| node.clone()).collect();
        let gone = missing.into_iter().map(|node| {
            let gone = Gone { since: now, said: None };
            (node, gone)
        });
        self.gone.extend(gone);
        self.gone
            .retain(|node, gone| !agents.contains_key(node) && gone.counts(now));
        self.last
            .retain(|node, _| agents.contains_key(node) || self.gone.contains_key(node));
        self.heard = agents.len();
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

    /// Puts what those last said among what the others say, and tells how many there are.
    pub fn fill(&mut self, agents: &mut BTreeMap<String, AgentView>) -> usize {
        if !self.are_most() {
            if std::mem::take(&mut self.told) {
                tracing::info!("most agents are heard again, or are lost");
            }
            return 0;
        }
        let views = self
            .gone
            .keys()
            .filter_map(|node| Some((node.clone(), self.last.get(node)?.clone())));
        agents.extend(views);
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                heard = self.heard,
                unheard = self.gone.len(),
                "most agents are not heard any more; what they hold stays for as long as their Leases tell that they are there"
            );
        }
        self.gone.len()
    }

    /// Remembers what all said in this pass.
    pub fn remember(&mut self, agents: BTreeMap<String, AgentView>) {
        self.last = agents;
    }

    /// Whether the node's agent is counted though it is not heard.
    #[must_use]
    pub fn is(&self, node: &str) -> bool {
        self.are_most() && self.gone.contains_key(node)
    }

    /// What people are told of a model that has stages there.
    #[must_use]
    pub fn note(&self, in_force: &InForce) -> Option<String> {
        let node = in_force.nodes().find(|node| self.is(node))?;
        let (unheard, all) = (self.gone.len(), self.heard + self.gone.len());
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

    fn are_most(&self) -> bool {
        self.gone.len() >= 2 && self.gone.len() > self.heard
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::model::fixture;

    /// As an agent writes it at a second of its own clock.
    fn lease(node: &str, second: i64, is_apart: bool) -> Lease {
        let noted = is_apart.then(|| BTreeMap::from([(APART.to_owned(), "true".to_owned())]));
        Lease {
            metadata: ObjectMeta {
                name: Some(agent_lease(node)),
                annotations: noted,
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                renew_time: Some(MicroTime(Timestamp::from_second(second).unwrap())),
                ..Default::default()
            }),
        }
    }

    /// Three agents, of which these are heard after `seconds`; the nodes that count then.
    fn after(unheard: &mut Unheard, heard: &[&str], start: Instant, seconds: u64) -> Vec<String> {
        let mut agents = fixture::agents(heard);
        unheard.look(&agents, start + Duration::from_secs(seconds));
        unheard.fill(&mut agents);
        let nodes = agents.keys().cloned().collect();
        unheard.remember(agents);
        nodes
    }

    #[test]
    fn most_that_go_at_once_count_while_they_say_that_they_are_there_and_for_a_moment_before() {
        let (mut unheard, start) = (Unheard::default(), Instant::now());
        assert_eq!(after(&mut unheard, &["a", "b", "c"], start, 0).len(), 3);
        assert_eq!(after(&mut unheard, &["a"], start, 1), ["a", "b", "c"]);
        // The one is there, the other says nothing since.
        let leases = [lease("b", 100, true), lease("c", 90, false)];
        unheard.learn(&leases, start + Duration::from_secs(2));
        assert_eq!(after(&mut unheard, &["a"], start, 5), ["a", "b", "c"]);
        assert_eq!(after(&mut unheard, &["a"], start, 7), ["a"], "one of two is not most");
        let mut unheard = Unheard::default();
        after(&mut unheard, &["a", "b", "c"], start, 0);
        after(&mut unheard, &["a"], start, 1);
        for second in [2, 20, 40] {
            let leases = ["b", "c"].map(|node| lease(node, second, true));
            unheard.learn(&leases, start + Duration::from_secs(second.unsigned_abs()));
            assert_eq!(
                after(&mut unheard, &["a"], start, second.unsigned_abs()),
                ["a", "b", "c"]
            );
        }
        let note = unheard.note(&fixture::in_force(1, &["a", "b"])).expect("a note");
        assert!(note.contains("2 of 3 agents") && note.contains("that of b"), "{note}");
        assert_eq!(
            after(&mut unheard, &["a"], start, 71),
            ["a"],
            "nothing was said for long"
        );
        assert_eq!(unheard.note(&fixture::in_force(1, &["a", "b"])), None);
    }

    #[test]
    fn few_that_go_and_those_that_asked_to_are_lost_at_once() {
        let (mut unheard, start) = (Unheard::default(), Instant::now());
        after(&mut unheard, &["a", "b", "c"], start, 0);
        assert_eq!(after(&mut unheard, &["a", "b"], start, 1), ["a", "b"]);
        let mut unheard = Unheard::default();
        let mut agents = fixture::agents(&["a", "b", "c"]);
        unheard.look(&agents, start);
        for node in ["b", "c"] {
            agents.get_mut(node).expect("attached").leaving = true;
        }
        unheard.remember(agents);
        assert_eq!(after(&mut unheard, &["a"], start, 1), ["a"]);
    }
}
