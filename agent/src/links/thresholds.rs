//! What of the links is worth a write to the API server, in one table.
//!
//! Links jitter all the time. A figure is written when it is further from what was written last than the table allows, and not
//! sooner than [`CALM`] after the last write. That links are gone or back, became slow or are well again, or that the last of them had
//! its first round, is told sooner, and so is that devices can work as one, or cannot: placement waits for that.
//! Figures that did not change are written again when what was written has aged by half of what it counts for: four times a
//! day at most. Every figure is in the metrics.

use crate::groups;
use crds::conditions::links as condition;
use crds::{LinkState, NodeLinkStateStatus, PeerLink};
use std::time::Duration;

/// Between two writes: half a write a minute, beside one and a half for the Lease.
pub const CALM: Duration = Duration::from_secs(120);
/// What placement waits for gathers for so long: a cluster that starts writes each object once or twice.
pub const GATHER: Duration = Duration::from_secs(15);
/// Half of the time for which a reader believes a figure in full.
pub const STALE_S: i64 = 6 * 3600;

/// One figure, and how far it may drift from what was written: by less than so many hundredths of that, and in any case by
/// less than so many units.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As the API names it.
    pub name: &'static str,
    /// Of what was written.
    pub percent: u64,
    /// Of the field's own.
    pub units: u64,
    read: fn(&PeerLink) -> Option<i64>,
    take: fn(&mut PeerLink, &PeerLink),
}

/// Every figure that drifts. The tail does so more than the median. Others are news whenever they change.
pub const FIELDS: [Field; 4] = [
    Field {
        name: "latencyP50Us",
        percent: 30,
        units: 100,
        read: |peer| peer.latency_p50_us,
        take: |to, from| to.latency_p50_us = from.latency_p50_us,
    },
    Field {
        name: "latencyP99Us",
        percent: 100,
        units: 2000,
        read: |peer| peer.latency_p99_us,
        take: |to, from| to.latency_p99_us = from.latency_p99_us,
    },
    Field {
        name: "sendBytesPerSecond",
        percent: 20,
        units: 100_000,
        read: |peer| peer.send_bytes_per_second,
        take: |to, from| to.send_bytes_per_second = from.send_bytes_per_second,
    },
    Field {
        name: "receiveBytesPerSecond",
        percent: 20,
        units: 100_000,
        read: |peer| peer.receive_bytes_per_second,
        take: |to, from| to.receive_bytes_per_second = from.receive_bytes_per_second,
    },
];

/// Rounds until a figure is believed; that they are there is news.
const CONFIDENT_SAMPLES: i32 = 3;

/// How much a status is worth a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Nothing that anybody would act on.
    None,
    /// Once [`CALM`] has passed since the last write.
    CanWait,
    /// Once [`GATHER`] has.
    Urgent,
}

/// Compares a status with the one that was written last. In a large cluster links have their first round one by one over half
/// an hour: only the last of them is urgent.
pub fn news(written: &NodeLinkStateStatus, now: &NodeLinkStateStatus) -> News {
    if !is_news(written, now) {
        return News::None;
    }
    let standing = |status: &'_ NodeLinkStateStatus| -> Vec<(String, LinkState, [bool; 2])> {
        let slow = |peer: &PeerLink| [peer.slow_to_peer().is_some(), peer.slow_from_peer().is_some()];
        let peers = status.peers.iter();
        peers.map(|peer| (peer.node.clone(), peer.state, slow(peer))).collect()
    };
    let turned = groups::report::standing(&written.groups) != groups::report::standing(&now.groups);
    if turned || !may_gather(now) && standing(written) != standing(now) {
        News::Urgent
    } else {
        News::CanWait
    }
}

/// Whether a status says something that somebody would act on.
fn is_news(written: &NodeLinkStateStatus, now: &NodeLinkStateStatus) -> bool {
    let mut calm = now.clone();
    for peer in &mut calm.peers {
        let Some(before) = written.peers.iter().find(|before| before.node == peer.node) else {
            return true;
        };
        if FIELDS.iter().any(|field| is_far(field, before, peer)) || is_stale(before, peer) {
            return true;
        }
        if samples(before) < CONFIDENT_SAMPLES && samples(peer) >= CONFIDENT_SAMPLES {
            return true;
        }
        FIELDS.iter().for_each(|field| (field.take)(peer, before));
        peer.samples = before.samples;
        peer.measured_at.clone_from(&before.measured_at);
        peer.message.clone_from(&before.message);
    }
    groups::report::calm(&mut calm.groups, &written.groups);
    // Words that follow from the figures, and figures of devices, which are measured once.
    calm.worst_latency.clone_from(&written.worst_latency);
    calm.worst_bandwidth.clone_from(&written.worst_bandwidth);
    for condition in calm
        .conditions
        .iter_mut()
        .filter(|new| [condition::MEASURED, condition::SLOW].contains(&new.type_.as_str()))
    {
        let before = written.conditions.iter().find(|before| before.type_ == condition.type_);
        if let Some(before) = before.filter(|before| before.reason == condition.reason) {
            condition.message.clone_from(&before.message);
        }
    }
    calm != *written
}

/// Whether a first status may wait: links are measured one after the other, and most have their turn within seconds, as nodes
/// come one after the other.
pub fn may_gather(now: &NodeLinkStateStatus) -> bool {
    now.peers.is_empty() || now.peers.iter().any(|peer| peer.state == LinkState::Pending)
}

fn samples(peer: &PeerLink) -> i32 {
    peer.samples.unwrap_or(0)
}

fn is_stale(before: &PeerLink, now: &PeerLink) -> bool {
    let second = |peer: &PeerLink| peer.measured_at.as_ref().map(|at| at.0.as_second());
    second(before)
        .zip(second(now))
        .is_some_and(|(before, now)| now.saturating_sub(before) >= STALE_S)
}

fn is_far(field: &Field, before: &PeerLink, now: &PeerLink) -> bool {
    let (before, now) = match ((field.read)(before), (field.read)(now)) {
        (Some(before), Some(now)) => (before, now),
        (before, now) => return before.is_some() != now.is_some(),
    };
    let least = (u128::from(before.unsigned_abs()) * u128::from(field.percent) / 100).max(u128::from(field.units));
    u128::from(before.abs_diff(now)) >= least
}

#[cfg(test)]
mod tests;
