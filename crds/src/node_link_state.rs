//! `NodeLinkState`: the links of one node. The administrator owns `spec`, the node's agent owns `status`.

// Printer columns are attributes, and most have the same type.
#![allow(clippy::duplicated_attributes)]

mod group;
mod status;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use group::DeviceGroup;
pub use status::{DevicePair, LinkKind, LinkState, NodeLinkStateStatus, PeerLink, SlowRate};

/// What the administrator decides about a node's links. Every field is optional: the agent applies an empty spec.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "shardwright.dev",
    version = "v1alpha1",
    kind = "NodeLinkState",
    plural = "nodelinkstates",
    shortname = "links",
    category = "shardwright",
    status = "NodeLinkStateStatus",
    derive = "PartialEq",
    cel,
    doc = "What a node's agent measured of the links to other nodes, and between the devices of the node.",
    printcolumn(name = "Peers", type_ = "string", json_path = ".status.peersMeasured"),
    printcolumn(name = "Latency", type_ = "string", json_path = ".status.worstLatency"),
    printcolumn(name = "Bandwidth", type_ = "string", json_path = ".status.worstBandwidth"),
    printcolumn(
        name = "Measured",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Measured")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Measured")].reason"#
    ),
    printcolumn(
        name = "Slow",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Slow")].status"#
    ),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Measured")].message"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeLinkStateSpec {
    /// The node's agent measures nothing, and lets nobody measure. What was measured stays until it is too old to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Nodes to which the node's agent never measures, such as those behind a line that is paid by the byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["node".into()]))]
    pub excluded_peers: Option<Vec<ExcludedPeer>>,
}

/// A node to which nothing is measured.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.node.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("spec.excludedPeers[].node must be the name of a Node").field_path(".node")
)]
pub struct ExcludedPeer {
    /// Name of the Node.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
}

#[cfg(test)]
mod tests;
