//! What the agent reports of its node's links.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::group::DeviceGroup;

/// What the agent measured. Written when a link changed by more than it jitters, never on a timer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeLinkStateStatus {
    /// metadata.generation that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the Node whose links these are.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// For people: how many of the peers were measured, such as "2/3".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub peers_measured: Option<String>,
    /// For people: the longest latency at the median, such as "1.4 ms node-c".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub worst_latency: Option<String>,
    /// For people: the lowest rate of either direction, such as "112.4 MB/s node-c".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub worst_bandwidth: Option<String>,
    /// One entry for each node that the agent is to measure to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["node".into()]))]
    pub peers: Vec<PeerLink>,
    /// Copies between the devices of this node, as its drivers make them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["from".into(), "to".into()]))]
    pub device_pairs: Vec<DevicePair>,
    /// Equal devices of this node that may work as one on each layer, and how fast they are so. One entry for each set of devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub groups: Vec<DeviceGroup>,
    /// Measured, Slow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The link to one peer, both directions. What was not measured is absent, never zero.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.latencyP50Us) || !has(self.latencyP99Us) || self.latencyP50Us <= self.latencyP99Us").message("status.peers[].latencyP99Us must be at least status.peers[].latencyP50Us").field_path(".latencyP99Us"),
    validation = Rule::new("self.state != 'Measured' || (has(self.latencyP50Us) && has(self.sendBytesPerSecond) && has(self.receiveBytesPerSecond) && has(self.measuredAt) && has(self.samples))").message("status.peers[].state may be Measured only with latencyP50Us, sendBytesPerSecond, receiveBytesPerSecond, measuredAt and samples").field_path(".state")
)]
pub struct PeerLink {
    /// Name of the peer's Node.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// What carries the bytes on this node's side.
    pub kind: LinkKind,
    /// Whether the figures below hold.
    pub state: LinkState,
    /// Time from this node to the peer, half of there and back: the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub latency_p50_us: Option<i64>,
    /// The same: 99 of 100 are faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub latency_p99_us: Option<i64>,
    /// Rate from this node to the peer over one stream under TLS, the median of the last rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub send_bytes_per_second: Option<i64>,
    /// The same from the peer to this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub receive_bytes_per_second: Option<i64>,
    /// What sendBytesPerSecond was before it became far less, until that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub send_bytes_per_second_before: Option<i64>,
    /// What receiveBytesPerSecond was before it became far less, until that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub receive_bytes_per_second_before: Option<i64>,
    /// Rounds behind the figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub samples: Option<i32>,
    /// When the last of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Time>,
    /// Why there is nothing, or nothing new, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// Rounds until a rate that is far less than it was is believed: one may have been disturbed.
const SLOW_SAMPLES: i32 = 3;

/// A direction of a link that carries far less than it did, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlowRate {
    /// What it carries.
    pub now: i64,
    /// What it carried before.
    pub before: i64,
}

/// As people write it: "9.4 Mbit/s (was 940)".
impl fmt::Display for SlowRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Mbit/s (was {})", mbit(self.now), mbit(self.before))
    }
}

fn mbit(bytes_per_second: i64) -> String {
    let mbit = bytes_per_second as f64 * 8.0 / 1e6;
    if mbit >= 100.0 {
        format!("{mbit:.0}")
    } else if mbit >= 1.0 {
        format!("{mbit:.1}")
    } else {
        format!("{mbit:.3}")
    }
}

impl PeerLink {
    /// What it sends to the peer, where that is far less than it was.
    pub fn slow_to_peer(&self) -> Option<SlowRate> {
        self.slow(self.send_bytes_per_second, self.send_bytes_per_second_before)
    }

    /// What it receives from the peer, where that is far less than it was.
    pub fn slow_from_peer(&self) -> Option<SlowRate> {
        self.slow(self.receive_bytes_per_second, self.receive_bytes_per_second_before)
    }

    fn slow(&self, now: Option<i64>, before: Option<i64>) -> Option<SlowRate> {
        let (now, before) = now.zip(before)?;
        let is_told = self.state == LinkState::Measured && self.samples.unwrap_or(0) >= SLOW_SAMPLES;
        is_told.then_some(SlowRate { now, before })
    }
}

/// Whether the figures of a link hold.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not measured yet.
    Pending,
    /// As measured.
    Measured,
    /// The last attempts all failed; figures are of before.
    Unreachable,
}

/// What carries the bytes of a link, on the side of the node that reports it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// Both ends are on one machine.
    Loopback,
    /// A card of the node itself.
    Ethernet,
    Wireless,
    InfiniBand,
    /// A pair of virtual cards, a bridge or a tunnel: what lies below is not seen from here.
    Virtual,
    /// The system does not say.
    #[default]
    Unknown,
}

impl LinkKind {
    /// As written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "Loopback",
            Self::Ethernet => "Ethernet",
            Self::Wireless => "Wireless",
            Self::InfiniBand => "InfiniBand",
            Self::Virtual => "Virtual",
            Self::Unknown => "Unknown",
        }
    }
}

/// Copies from one device of the node to another.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.from != self.to").message("status.devicePairs[].to must be another device than status.devicePairs[].from").field_path(".to")
)]
pub struct DevicePair {
    /// Name of a DeviceGPUState.
    #[schemars(length(min = 1, max = 253))]
    pub from: String,
    /// Name of a DeviceGPUState.
    #[schemars(length(min = 1, max = 253))]
    pub to: String,
    /// Whether the bytes go from card to card; else through main memory.
    pub peer_to_peer: bool,
    /// Measured rate.
    #[schemars(range(min = 1))]
    pub bytes_per_second: i64,
    /// Timed copies behind it.
    #[schemars(range(min = 1))]
    pub samples: i32,
    /// When the last of them was.
    pub measured_at: Time,
}
