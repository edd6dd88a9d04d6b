//! The graph: devices that can take layers, the memory behind them, the links between them.

use std::{collections::BTreeMap, fmt};

use crate::{Kind, Links, Member, NodeLabels, Steps, Taint, Traffic, prior};

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Measured,
    /// A table's, for want of a measurement: what the maker promises of such devices, less what is never reached.
    Prior,
    /// Assumed for want of both; see [`prior`].
    Assumed,
}

/// A rate and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Never zero.
    pub bytes_per_second: u64,
    pub origin: Origin,
}

/// A device that can take layers, or several that work as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub node: String,
    pub node_labels: NodeLabels,
    pub vendor: String,
    pub model: String,
    pub backend: String,
    pub kind: Kind,
    /// Index into [`Topology::pools`]; of a group, that of its first member.
    pub pool: usize,
    /// What a new shard may use on this device alone; its pool may allow less once others are counted. Of a group, on all members
    /// together, of which none can have more than another.
    pub usable_bytes: u64,
    /// What a worker takes on it, and on each member of a group, before it holds anything (an estimate).
    pub fixed_bytes: u64,
    pub bandwidth: Rate,
    /// Fixed cost of one step.
    pub launch_us: u64,
    /// How fast steps of a model are, where that was measured; see [`Topology::for_model`].
    pub steps: Option<Steps>,
    /// Measured matrix products of half-precision inputs, else of single precision; absent when neither was.
    pub flops_per_second: Option<u64>,
    /// How far from throttling, by its last reading: 100 where cool, 0 where it throttles; absent without a sensor.
    pub thermal_headroom_percent: Option<u8>,
    /// What a model must tolerate to be here.
    pub taints: Vec<Taint>,
    /// The devices that work as one, in the order of their names; empty for a single device.
    pub members: Vec<Member>,
}

/// Physical memory, with one budget and one bandwidth for every device on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    /// What is left for new shards on all its devices together.
    pub usable_bytes: u64,
    /// What other placements hold in it.
    pub held_bytes: u64,
    /// Of its fastest device: the memory itself is at least that fast.
    pub bandwidth: Rate,
}

/// A device that takes no layers, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded {
    pub device: String,
    pub node: String,
    pub backend: String,
    pub kind: Kind,
    pub why: Exclusion,
}

/// Why a device takes no layers. Reads on after the device's name: "node-c-cpu0 is cordoned".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    Cordoned,
    /// The node's agent is not connected.
    AgentGone {
        node: String,
    },
    NotVerified,
    Faulty {
        fault: String,
    },
    /// It must be left, or gets nothing new: reads on after the device's name.
    Barred {
        why: String,
    },
    NoMemory {
        held_bytes: u64,
    },
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("is cordoned"),
            Self::AgentGone { node } => write!(f, "is on node {node}, whose agent is not connected"),
            Self::NotVerified => f.write_str("is not verified"),
            Self::Faulty { fault } => write!(f, "is not healthy ({fault})"),
            Self::Barred { why } => f.write_str(why),
            Self::NoMemory { held_bytes: 0 } => f.write_str("has no usable memory"),
            Self::NoMemory { .. } => f.write_str("has no memory left beside other models"),
        }
    }
}

/// The way from one device to another, one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub latency_us: u64,
    pub rate: Rate,
}

/// Everything placement knows of the cluster. Lists are in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Single devices, then the groups of them.
    pub devices: Vec<Device>,
    pub excluded: Vec<Excluded>,
    pub pools: Vec<Pool>,
    /// What is known of the links between nodes, and between the devices of one.
    pub links: Links,
    /// One token's way from the gateways to a node and back, by node. A node that is absent was not measured: its way counts as
    /// nothing, which favours nobody as long as no node has one.
    pub entry_us: BTreeMap<String, u64>,
    /// What pipelines that are placed already put on links, as far as it is known.
    pub traffic: Vec<Traffic>,
}

impl Topology {
    /// The way from a node to a node: as measured, or a conservative assumption that says so.
    pub fn link(&self, from_node: &str, to_node: &str) -> Link {
        if let Some(known) = self.links.get(from_node, to_node) {
            return known.link;
        }
        if from_node == to_node {
            prior::SAME_NODE
        } else {
            prior::UNKNOWN
        }
    }

    /// The device or the group with a name, if it can take layers.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|d| d.name == name)
    }
}
