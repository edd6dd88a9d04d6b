//! What pipelines that are placed already put on the links between nodes.

use serde::{Deserialize, Serialize};

use crate::Topology;

/// Activations of one pipeline on one link, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    pub from_node: String,
    pub to_node: String,
    /// All its hops over this link together.
    pub bytes_per_second: u64,
    /// Whose: the model's name, for people.
    pub by: String,
    /// What it leaves to all others on this link together, where it comes before the model in question; absent: whatever they like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_bytes_per_second: Option<u64>,
}

impl Topology {
    /// What others put on a link.
    pub fn traffic_on<'t>(&'t self, from_node: &'t str, to_node: &'t str) -> impl Iterator<Item = &'t Traffic> {
        let is_on = move |traffic: &&Traffic| traffic.from_node == from_node && traffic.to_node == to_node;
        self.traffic.iter().filter(is_on)
    }

    /// Adds what other pipelines of the model in question put on a link. `beyond_bytes_per_second`: what models that come before it see
    /// of them above that.
    pub fn put(&mut self, own: Traffic, beyond_bytes_per_second: u64) {
        for other in &mut self.traffic {
            let is_here = other.from_node == own.from_node && other.to_node == own.to_node;
            if let Some(leaves) = other.leaves_bytes_per_second.as_mut().filter(|_| is_here) {
                *leaves = leaves.saturating_sub(beyond_bytes_per_second);
            }
        }
        if own.bytes_per_second > 0 {
            self.traffic.push(own);
        }
    }
}
