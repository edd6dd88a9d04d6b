//! The links to other nodes: measured by this agent over the connections that stages use, and told to everybody.
//!
//! ```text
//!  operator ─ LinkPeers ─▶ drive ─▶ plan (pure: whom, when) ─▶ measure ──mutual TLS──▶ serve (the peer's)
//!  workers' compute time ─▶ load ─▶┘          │ round
//!  NodeLinkState, at the start ─▶ earlier ─▶ history (pure: medians, percentiles)
//!                                      │ Seen
//!                                      ├─▶ report, thresholds (pure) ─▶ publish ─▶ NodeLinkState
//!                                      └─▶ metrics
//! ```
//!
//! What it costs: a round is 36 echoes of 16 KiB and a few tens of milliseconds of bytes in each direction. Whoever begins a
//! round pays for it out of 0.2 % of the node's link, and whoever answers out of another 0.2 % ([`allowance`]); when the node or
//! its peer serves, neither begins nor answers ([`load`]).
//!
//! A link that pipelines use is looked at twice a minute, whoever computes: a glance has 64 KiB in each direction as long as the link
//! is what it was. It improves no figure. Only where several in a row find another link are its figures taken over ([`history`]), and
//! people told if it carries far less than it did ([`slow`]).

pub mod allowance;
pub mod drive;
pub mod earlier;
pub mod gate;
pub mod history;
pub mod kind;
pub mod load;
pub mod measure;
pub mod plan;
pub mod publish;
pub mod report;
pub mod serve;
pub mod slow;
pub mod thresholds;

use crds::LinkKind;
use history::Figures;
use proto::control::v1::LinkPeers;
use std::collections::BTreeMap;

/// Peers that are believed of the operator: it sends fewer, and the object has no room for more.
pub const PEERS_MAX: usize = 128;
/// A DNS name, a colon and a port.
const ENDPOINT_BYTES_MAX: usize = 260;
/// As the API's.
const NODE_BYTES_MAX: usize = 253;

/// Metadata of a round that is a glance. A peer that does not know it takes it for a whole round.
pub const GLANCE: &str = "shardwright-glance";

/// A node to measure to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// host:port of its agent.
    pub endpoint: String,
    /// A pipeline goes over the link.
    pub is_neighbour: bool,
}

/// Whom to measure to, by node.
pub type Peers = BTreeMap<String, Named>;

/// What the operator says, without what cannot be: nothing, ourselves, or more than there is room for.
pub fn peers(own: &str, message: LinkPeers) -> Peers {
    let sound = message.peers.into_iter().filter(|peer| {
        let named = !peer.node.is_empty() && peer.node.len() <= NODE_BYTES_MAX && peer.node != own;
        named && !peer.endpoint.is_empty() && peer.endpoint.len() <= ENDPOINT_BYTES_MAX
    });
    let named = sound.take(PEERS_MAX).map(|peer| {
        let named = Named {
            endpoint: peer.endpoint,
            is_neighbour: peer.neighbour,
        };
        (peer.node, named)
    });
    named.collect()
}

/// What the administrator says of this node's links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Nothing is measured, by us or by others.
    pub paused: bool,
    /// Nodes to which nothing is measured.
    pub excluded: Vec<String>,
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not measured yet.
    Pending,
    /// The last attempts went well.
    Measured,
    /// They failed.
    Unreachable,
}

/// One link as it is seen now.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenLink {
    /// Where it stands.
    pub standing: Standing,
    /// What carries its bytes here.
    pub kind: LinkKind,
    /// What was measured, while that counts.
    pub figures: Option<Figures>,
    /// Why there is nothing, or nothing new.
    pub message: Option<String>,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rounds and glances that found something.
    pub measured: u64,
    /// That the peer put off.
    pub refused: u64,
    /// That did not work.
    pub failed: u64,
    /// Time that our link was filled for rounds that we began.
    pub began_us: u64,
    /// For rounds that others began.
    pub answered_us: u64,
}

/// All links of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The operator has told whom to measure to.
    pub told: bool,
    /// By the peer's node.
    pub links: BTreeMap<String, SeenLink>,
    /// What it took.
    pub tally: Tally,
}

#[cfg(test)]
mod tests;
