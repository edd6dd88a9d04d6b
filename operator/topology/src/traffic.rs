//! What pipelines that are placed already put on the links between nodes.

use serde::{Deserialize, Serialize};

use crate::Topology;

/// Activations of one pipeline on one link, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    pub from_node: String,
    pub to_node: String,
    /// All its hops over this link together.
    pub bytes_per_second: u64,
    /// Whose: the model's name, for people.
    pub by: String,
}

impl Topology {
    /// What others put on a link.
    pub fn traffic_on<'t>(&'t self, from_node: &'t str, to_node: &'t str) -> impl Iterator<Item = &'t Traffic> {
        let is_on = move |traffic: &&Traffic| traffic.from_node == from_node && traffic.to_node == to_node;
        self.traffic.iter().filter(is_on)
    }
}
