//! From what is seen of the links to the node's `NodeLinkState`. Pure.

use super::slow::{self, Way};
use super::{PEERS_MAX, Seen, SeenLink, Standing, Wishes};
use crate::devices::DeviceState;
use crate::discovery::report::object_name;
use crds::conditions::{ConditionStatus, NewCondition, links as condition, reason, set_condition};
use crds::{DevicePair, LinkState, NodeLinkStateSpec, NodeLinkStateStatus, PeerLink};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The schema's own limit.
const DEVICE_PAIRS_MAX: usize = 256;
/// Peers that a message names.
const NAMED_MAX: usize = 3;

/// What the administrator wants.
pub fn wishes(spec: &NodeLinkStateSpec) -> Wishes {
    let excluded = spec.excluded_peers.iter().flatten();
    Wishes {
        paused: spec.paused.unwrap_or(false),
        excluded: excluded.map(|peer| peer.node.clone()).collect(),
    }
}

/// The status to write. Conditions keep their transition times from `before`.
pub fn status(
    node: &str,
    seen: &Seen,
    devices: &[DeviceState],
    wishes: &Wishes,
    before: Option<&NodeLinkStateStatus>,
    generation: Option<i64>,
    now: Timestamp,
) -> NodeLinkStateStatus {
    let measured = seen.links.iter().filter(|(node, _)| !wishes.excluded.contains(node));
    let peers: Vec<PeerLink> = measured
        .take(PEERS_MAX)
        .map(|(node, link)| {
            let known = before.and_then(|before| before.peers.iter().find(|peer| peer.node == *node));
            kept(link, known).unwrap_or_else(|| peer(node, link, known))
        })
        .collect();
    let mut conditions = before.map(|before| before.conditions.clone()).unwrap_or_default();
    let judged = [
        (condition::MEASURED, judge(&peers, wishes)),
        (condition::SLOW, slow::judge(&peers)),
    ];
    for (kind, (status, reason, message)) in judged {
        let new = NewCondition {
            kind,
            status,
            reason,
            message: &message,
        };
        set_condition(&mut conditions, new, generation, &Time(now));
    }
    NodeLinkStateStatus {
        observed_generation: generation,
        node: node.to_owned(),
        peers_measured: Some(format!("{}/{}", count(&peers, LinkState::Measured), peers.len())),
        worst_latency: worst_latency(&peers),
        worst_bandwidth: worst_bandwidth(&peers),
        device_pairs: device_pairs(node, devices),
        // Whoever knows of them adds them.
        groups: Vec::new(),
        peers,
        conditions,
    }
}

fn peer(node: &str, link: &SeenLink, known: Option<&PeerLink>) -> PeerLink {
    let figures = link.figures.as_ref();
    let positive = |value: u64| i64::try_from(value).unwrap_or(i64::MAX).max(1);
    let send_bytes_per_second = figures.map(|figures| positive(figures.send_bytes_per_second));
    let receive_bytes_per_second = figures.map(|figures| positive(figures.receive_bytes_per_second));
    PeerLink {
        node: node.to_owned(),
        kind: link.kind,
        state: match link.standing {
            Standing::Pending => LinkState::Pending,
            Standing::Measured => LinkState::Measured,
            Standing::Unreachable => LinkState::Unreachable,
        },
        latency_p50_us: figures.map(|figures| positive(figures.latency_p50_us)),
        latency_p99_us: figures.map(|figures| positive(figures.latency_p99_us.max(figures.latency_p50_us))),
        send_bytes_per_second,
        receive_bytes_per_second,
        send_bytes_per_second_before: slow::before(known, Way::To, send_bytes_per_second),
        receive_bytes_per_second_before: slow::before(known, Way::From, receive_bytes_per_second),
        samples: figures.map(|figures| i32::try_from(figures.samples).unwrap_or(i32::MAX)),
        measured_at: figures
            .and_then(|figures| Timestamp::from_second(figures.unix_s).ok())
            .map(Time),
        message: link.message.clone(),
    }
}

/// What an earlier life of this agent measured of a link that has yet to have its turn: readers see how old it is.
fn kept(link: &SeenLink, known: Option<&PeerLink>) -> Option<PeerLink> {
    let is_pending = link.standing == Standing::Pending;
    let known = known.filter(|known| is_pending && known.state == LinkState::Measured)?;
    Some(PeerLink {
        kind: link.kind,
        ..known.clone()
    })
}

fn count(peers: &[PeerLink], state: LinkState) -> usize {
    peers.iter().filter(|peer| peer.state == state).count()
}

fn judge(peers: &[PeerLink], wishes: &Wishes) -> (ConditionStatus, &'static str, String) {
    use ConditionStatus::{False, True, Unknown};
    let gone: Vec<&PeerLink> = peers
        .iter()
        .filter(|peer| peer.state == LinkState::Unreachable)
        .collect();
    let pending = count(peers, LinkState::Pending);
    if wishes.paused {
        (
            Unknown,
            reason::PAUSED,
            "spec.paused is set: figures only grow older".to_owned(),
        )
    } else if peers.is_empty() {
        (
            True,
            reason::NO_PEERS,
            "there is no other node to measure to".to_owned(),
        )
    } else if let Some(first) = gone.first() {
        let named: Vec<&str> = gone.iter().take(NAMED_MAX).map(|peer| peer.node.as_str()).collect();
        let more = gone.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let why = first.message.as_deref().unwrap_or_default();
        let message = format!(
            "{}{more} cannot be reached ({why}); agents must reach each other's port for weights, 9445 in the chart",
            named.join(", ")
        );
        (False, reason::PEER_UNREACHABLE, message)
    } else if pending > 0 {
        let message = format!("{pending} of {} links are still to be measured", peers.len());
        (Unknown, reason::MEASURING, message)
    } else {
        (
            True,
            reason::ALL_MEASURED,
            format!("{} links were measured", peers.len()),
        )
    }
}

fn worst_latency(peers: &[PeerLink]) -> Option<String> {
    let known = peers.iter().filter_map(|peer| Some((peer.latency_p50_us?, peer)));
    let (latency_us, peer) = known.max_by_key(|(latency_us, _)| *latency_us)?;
    let latency = if latency_us < 1000 {
        format!("{latency_us} µs")
    } else {
        format!("{:.1} ms", latency_us as f64 / 1000.0)
    };
    Some(format!("{latency} {}", peer.node))
}

fn worst_bandwidth(peers: &[PeerLink]) -> Option<String> {
    let slower = |peer: &PeerLink| Some(peer.send_bytes_per_second?.min(peer.receive_bytes_per_second?));
    let known = peers.iter().filter_map(|peer| Some((slower(peer)?, peer)));
    let (rate, peer) = known.min_by_key(|(rate, _)| *rate)?;
    Some(format!("{:.1} MB/s {}", rate as f64 / 1e6, peer.node))
}

/// What drivers measured between the devices of this node. A device that is gone, or cannot be told from another, is in none.
fn device_pairs(node: &str, devices: &[DeviceState]) -> Vec<DevicePair> {
    let named = |identity: &str| {
        let mut found = devices.iter().filter(|state| state.device.identity() == identity);
        let first = found.next()?;
        found.next().is_none().then(|| object_name(node, &first.device))
    };
    let mut pairs: Vec<DevicePair> = Vec::new();
    for state in devices {
        let from = object_name(node, &state.device);
        for copy in &state.device.measured.peers {
            let figure = copy.bytes_per_second;
            let (Some(to), Ok(measured_at)) = (
                named(&copy.to),
                Timestamp::from_second(i64::try_from(figure.measured_unix_s).unwrap_or(i64::MAX)),
            ) else {
                continue;
            };
            let twice = pairs.iter().any(|pair| pair.from == from && pair.to == to);
            if to != from && !twice {
                pairs.push(DevicePair {
                    from: from.clone(),
                    to,
                    peer_to_peer: copy.direct,
                    bytes_per_second: i64::try_from(figure.value).unwrap_or(i64::MAX).max(1),
                    samples: i32::try_from(figure.samples).unwrap_or(i32::MAX).max(1),
                    measured_at: Time(measured_at),
                });
            }
        }
    }
    pairs.truncate(DEVICE_PAIRS_MAX);
    pairs
}

#[cfg(test)]
mod tests;
