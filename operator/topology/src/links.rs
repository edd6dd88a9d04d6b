//! Links as they were measured: which report counts, for how long, and how much it is worth.
//!
//! A figure is believed while it is fresh, then only where it is worse than what would be assumed, then not at all. The age
//! itself is no part of the graph: nothing would ever equal what it was a moment ago.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{LinkState, NodeLinkState, PeerLink};
use serde::{Deserialize, Serialize};

use crate::{Link, Origin, Rate, prior};

pub use crds::LinkKind;

/// A measurement counts in full for so long. Agents look at every link several times within it, and tell again what did not
/// change after half of it.
pub const FRESH_S: u64 = 12 * 3600;
/// And not at all after so long.
pub const FORGOTTEN_S: u64 = 24 * 3600;
/// Rounds behind a figure that one disturbed round cannot move: the median of three.
pub const CONFIDENT_SAMPLES: u32 = 3;

/// A measured link, one direction, as one of its ends reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkReport {
    pub from_node: String,
    pub to_node: String,
    /// The median.
    pub latency_us: u64,
    pub bandwidth_bytes_per_second: u64,
    /// 99 of 100 are faster; absent when nobody says.
    #[serde(default)]
    pub latency_p99_us: Option<u64>,
    /// Rounds behind the figures; 0 when nobody says.
    #[serde(default)]
    pub samples: u32,
    /// Since the last of them.
    #[serde(default)]
    pub age_s: u64,
    #[serde(default)]
    pub kind: LinkKind,
    /// The agent of `from_node` no longer gets through to the other; figures are of before and do not count.
    #[serde(default)]
    pub unreachable: bool,
}

/// Copies between two devices of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePair {
    pub from_device: String,
    pub to_device: String,
    /// From card to card; else through main memory.
    pub peer_to_peer: bool,
    pub bytes_per_second: u64,
}

/// How much a link's figures are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// Few rounds, or old ones.
    Low,
    /// Fresh, and by [`CONFIDENT_SAMPLES`] rounds.
    High,
}

/// A link of which something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownLink {
    /// What placement counts with.
    pub link: Link,
    pub latency_p99_us: Option<u64>,
    pub samples: u32,
    pub kind: LinkKind,
    pub confidence: Confidence,
    /// Its agents do not get through at present.
    pub unreachable: bool,
}

/// All links of which something is known. Cheap to clone: one cluster has many graphs, and they share this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(Arc<Known>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    /// By the node that sends, then by the one that receives.
    by_node: BTreeMap<String, BTreeMap<String, KnownLink>>,
    device_pairs: Vec<DevicePair>,
}

impl LinkReport {
    /// Both directions of every link that an object tells of.
    pub fn from_state(state: &NodeLinkState, now_unix_s: i64) -> Vec<Self> {
        let Some(status) = &state.status else { return Vec::new() };
        let named = status.peers.iter().filter(|peer| peer.node != status.node);
        named
            .flat_map(|peer| Self::both_directions(&status.node, peer, now_unix_s))
            .collect()
    }

    fn both_directions(node: &str, peer: &PeerLink, now_unix_s: i64) -> Vec<Self> {
        let whole = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
        let age_s = peer.measured_at.as_ref().map_or(u64::MAX, |at| {
            // A clock that is ahead of ours measured just now.
            u64::try_from(now_unix_s.saturating_sub(at.0.as_second())).unwrap_or(0)
        });
        let unreachable = peer.state == LinkState::Unreachable;
        let report = |from: &str, to: &str, rate: Option<i64>, unreachable| Self {
            from_node: from.to_owned(),
            to_node: to.to_owned(),
            latency_us: whole(peer.latency_p50_us),
            bandwidth_bytes_per_second: whole(rate),
            latency_p99_us: peer.latency_p99_us.and_then(|us| u64::try_from(us).ok()),
            samples: u32::try_from(peer.samples.unwrap_or(0)).unwrap_or(0),
            age_s,
            kind: peer.kind,
            unreachable,
        };
        if peer.state == LinkState::Pending {
            return Vec::new();
        }
        // Who cannot dial says nothing of whether it can be dialled.
        vec![
            report(node, &peer.node, peer.send_bytes_per_second, unreachable),
            report(&peer.node, node, peer.receive_bytes_per_second, false),
        ]
    }

    /// What the report is worth; `None` where it says nothing that counts.
    fn judge(&self) -> Option<KnownLink> {
        let about = |link, confidence| KnownLink {
            link,
            latency_p99_us: self.latency_p99_us,
            samples: self.samples,
            kind: self.kind,
            confidence,
            unreachable: self.unreachable,
        };
        if self.unreachable {
            return Some(about(prior::UNREACHABLE, Confidence::Low));
        }
        // Measurements that make no sense are left out: the assumption then holds.
        if self.age_s > FORGOTTEN_S || self.bandwidth_bytes_per_second < prior::LEAST_LINK_BYTES_PER_SECOND {
            return None;
        }
        let measured = Link {
            latency_us: self.latency_us,
            rate: Rate {
                bytes_per_second: self.bandwidth_bytes_per_second,
                origin: Origin::Measured,
            },
        };
        if self.age_s > FRESH_S {
            return Some(about(worse(measured, prior::UNKNOWN), Confidence::Low));
        }
        let confidence = if self.samples >= CONFIDENT_SAMPLES {
            Confidence::High
        } else {
            Confidence::Low
        };
        Some(about(measured, confidence))
    }
}

impl DevicePair {
    /// What an object tells of the node's own devices.
    pub fn from_state(state: &NodeLinkState) -> Vec<Self> {
        let pairs = state.status.iter().flat_map(|status| &status.device_pairs);
        pairs
            .map(|pair| Self {
                from_device: pair.from.clone(),
                to_device: pair.to.clone(),
                peer_to_peer: pair.peer_to_peer,
                bytes_per_second: u64::try_from(pair.bytes_per_second).unwrap_or(0),
            })
            .filter(|pair| pair.bytes_per_second > 0)
            .collect()
    }
}

impl Links {
    /// What counts of all reports, whatever their order. Both ends report both directions: of two that are worth the same the
    /// worse figures hold.
    pub fn build(reports: &[LinkReport], device_pairs: &[DevicePair]) -> Self {
        let mut known = Known::default();
        for report in reports {
            let Some(judged) = report.judge() else { continue };
            let ends = known.by_node.entry(report.from_node.clone()).or_default();
            ends.entry(report.to_node.clone())
                .and_modify(|held| *held = combined(*held, judged))
                .or_insert(judged);
        }
        known.device_pairs = device_pairs.to_vec();
        known.device_pairs.sort();
        known
            .device_pairs
            .dedup_by(|a, b| (&a.from_device, &a.to_device) == (&b.from_device, &b.to_device));
        Self(Arc::new(known))
    }

    /// What is known of the way from a node to a node.
    pub fn get(&self, from_node: &str, to_node: &str) -> Option<&KnownLink> {
        self.0.by_node.get(from_node)?.get(to_node)
    }

    /// Every known link with its ends, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &KnownLink)> {
        let from = self.0.by_node.iter();
        from.flat_map(|(from, ends)| ends.iter().map(move |(to, known)| (from.as_str(), to.as_str(), known)))
    }

    /// Copies between devices of one node, in the order of their names.
    pub fn device_pairs(&self) -> &[DevicePair] {
        &self.0.device_pairs
    }
}

impl FromIterator<((String, String), Link)> for Links {
    /// Links that are simply given.
    fn from_iter<I: IntoIterator<Item = ((String, String), Link)>>(links: I) -> Self {
        let mut known = Known::default();
        for ((from, to), link) in links {
            let given = KnownLink {
                link,
                latency_p99_us: None,
                samples: 0,
                kind: LinkKind::Unknown,
                confidence: Confidence::Low,
                unreachable: false,
            };
            known.by_node.entry(from).or_default().insert(to, given);
        }
        Self(Arc::new(known))
    }
}

/// Of two ways to see one link. That its sender does not get through outweighs what the other end once received.
fn combined(a: KnownLink, b: KnownLink) -> KnownLink {
    let rank = |known: &KnownLink| (known.unreachable, known.confidence);
    match rank(&a).cmp(&rank(&b)) {
        std::cmp::Ordering::Greater => a,
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Equal => KnownLink {
            link: worse(a.link, b.link),
            latency_p99_us: a.latency_p99_us.max(b.latency_p99_us),
            samples: a.samples.min(b.samples),
            // Each end sees its own card; the order of the words is as good as any and always the same.
            kind: if a.kind.as_str() <= b.kind.as_str() {
                a.kind
            } else {
                b.kind
            },
            ..a
        },
    }
}

/// The longer latency and the lower rate.
fn worse(a: Link, b: Link) -> Link {
    let slower = |link: &Link| (link.rate.bytes_per_second, link.rate.origin == Origin::Assumed);
    Link {
        latency_us: a.latency_us.max(b.latency_us),
        rate: if slower(&a) <= slower(&b) { a.rate } else { b.rate },
    }
}

#[cfg(test)]
mod tests;
