//! PURE: which agents are on their way to a new leader, and which of those that do not come may be there all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crds::DeviceGPUState;

use super::{ATTACH_GRACE, REPORT_GRACE, Term};
use crate::agents::AgentView;
use crate::model::in_force::InForce;
use crate::model::unheard::last_told;

impl Term {
    /// Has it known which agents have not attached to this leader, until it is known why. Those without stages are missed for the count
    /// alone, and only beside others.
    pub fn miss(&mut self, agents: &BTreeMap<String, AgentView>, devices: &[Arc<DeviceGPUState>], now: Instant) {
        if self.unheard.has_concluded() {
            return;
        }
        let never_came = |node: &&str| !agents.contains_key(*node) && !self.settled_nodes.contains(*node);
        let placed = self.models.values().filter_map(|state| state.in_force.as_ref());
        let placed: Vec<&InForce> = placed.collect();
        let holders: BTreeSet<&str> = placed.iter().flat_map(|in_force| in_force.nodes()).collect();
        let mut missing: BTreeMap<String, AgentView> = holders
            .into_iter()
            .filter(never_came)
            .map(|node| (node.to_owned(), last_told(node, &placed, now)))
            .collect();
        if !missing.is_empty() {
            let nodes = devices.iter().filter_map(|device| device.status.as_ref());
            let nodes: BTreeSet<&str> = nodes.map(|status| status.node.as_str()).collect();
            for node in nodes.into_iter().filter(never_came) {
                missing
                    .entry(node.to_owned())
                    .or_insert_with(|| last_told(node, &[], now));
            }
        }
        self.unheard.miss(missing, self.began);
    }

    /// Nodes whose agents hold placements and may still be on their way to this leader, or are perhaps kept from it.
    pub fn awaited(&mut self, agents: &BTreeMap<String, AgentView>, now: Instant) -> BTreeSet<String> {
        for (node, agent) in agents {
            if agent.reported || now.saturating_duration_since(agent.attached) >= REPORT_GRACE {
                self.settled_nodes.insert(node.clone());
            }
        }
        let is_over = now.saturating_duration_since(self.began) >= ATTACH_GRACE;
        let named = self
            .models
            .values()
            .filter_map(|state| state.in_force.as_ref())
            .flat_map(InForce::stages);
        named
            .map(|stage| &stage.node)
            .filter(|node| !self.settled_nodes.contains(*node))
            .filter(|node| !is_over || self.unheard.awaits(node))
            .cloned()
            .collect()
    }

    /// When to look again while agents are awaited.
    pub(super) fn settles_at(&self, now: Instant) -> Instant {
        let (again, over) = (now + REPORT_GRACE, self.began + ATTACH_GRACE);
        if now < over { again.min(over) } else { again }
    }
}
