//! PURE: nodes that get nothing new, and whose shards go elsewhere where there is room, with why.
//!
//! A Node may be deleted while its agent runs on. What it serves is no worse for that, and what the cluster has no more nobody looks
//! after: so its layers are loaded elsewhere first. A list of no Nodes at all says nothing of any one of them.

use std::collections::BTreeMap;
use std::fmt;

use super::observe::Observed;
use crate::agents::AgentView;

/// Why a node is left. Reads on after its name: "node-c is cordoned".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// `kubectl cordon`, or the first step of `kubectl drain`.
    Cordoned,
    /// Its agent was told to end.
    Ending,
    /// There is no Node of its name.
    NoNode,
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cordoned => "is cordoned",
            Self::Ending => "has an agent that is about to end",
            Self::NoNode => "is no Node of the cluster",
        })
    }
}

/// The nodes that are to be left, by name.
#[must_use]
pub fn leaving(observed: &Observed, agents: &BTreeMap<String, AgentView>) -> BTreeMap<String, Leaving> {
    let nodes = &observed.node_labels;
    let is_gone = |node: &str| !nodes.is_empty() && !nodes.contains_key(node);
    let of_agent = |(node, agent): (&String, &AgentView)| {
        let why = match agent.leaving {
            true => Leaving::Ending,
            false => is_gone(node).then_some(Leaving::NoNode)?,
        };
        Some((node.clone(), why))
    };
    let cordoned = observed.cordoned.iter();
    let cordoned = cordoned.map(|node| (node.clone(), Leaving::Cordoned));
    cordoned.chain(agents.iter().filter_map(of_agent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    fn observed(nodes: &[&str]) -> Observed {
        let named = nodes.iter().map(|node| ((*node).to_owned(), Default::default()));
        Observed {
            node_labels: named.collect(),
            ..Observed::default()
        }
    }

    #[test]
    fn a_node_is_left_that_is_cordoned_or_is_none_any_more_or_whose_agent_is_about_to_end() {
        let mut observed = observed(&["a", "b", "c"]);
        observed.cordoned.insert("a".to_owned());
        let mut agents = fixture::agents(&["a", "b", "c", "d"]);
        agents.get_mut("b").expect("attached").leaving = true;
        let found = leaving(&observed, &agents);
        let told: Vec<String> = found.iter().map(|(node, why)| format!("{node} {why}")).collect();
        assert_eq!(
            told,
            [
                "a is cordoned",
                "b has an agent that is about to end",
                "d is no Node of the cluster"
            ]
        );
    }

    #[test]
    fn where_no_node_is_listed_at_all_nobody_is_said_to_be_gone() {
        let agents = fixture::agents(&["a", "b"]);
        assert!(leaving(&observed(&[]), &agents).is_empty());
        assert_eq!(leaving(&observed(&["a"]), &agents).len(), 1);
    }
}
