//! Whether a link carries far less than it did, by what was written of it last, and what people are told of that. Pure.
//!
//! What was written outlives the agent: a link that became slow while its node was started again is told of as well. A rate is slow
//! from a quarter of what it was down, and no more so from half of that up: whatever jitters in between changes nothing.

use super::history::FAR;
use apiclient::events::Note;
use crds::conditions::{ConditionStatus, reason};
use crds::{NodeLinkStateStatus, PeerLink, SlowRate};

/// Rounds until what was written is believed.
const KNOWN_SAMPLES: i32 = 3;
/// Of what a rate was, what it has to be again: one part in so many.
const WELL_AGAIN: i64 = 2;
/// Directions of links that a condition names.
const NAMED_MAX: usize = 3;

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the peer.
    To,
    /// From the peer.
    From,
}

/// What the rate of one direction was before it became far less; `None` where it did not. `known`: what was written of the link last.
pub fn before(known: Option<&PeerLink>, way: Way, now: Option<i64>) -> Option<i64> {
    let (known, now) = (known?, now?);
    let (written, before) = match way {
        Way::To => (known.send_bytes_per_second, known.send_bytes_per_second_before),
        Way::From => (known.receive_bytes_per_second, known.receive_bytes_per_second_before),
    };
    if before.is_some() {
        return before.filter(|before| now < before / WELL_AGAIN);
    }
    let far = i64::try_from(FAR).unwrap_or(i64::MAX);
    written.filter(|written| known.samples.unwrap_or(0) >= KNOWN_SAMPLES && now < written / far)
}

/// A direction that is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slow<'a> {
    peer: &'a str,
    way: Way,
    rate: SlowRate,
}

impl Slow<'_> {
    /// "9.4 Mbit/s (was 940) to node-b".
    fn told(&self) -> String {
        let way = match self.way {
            Way::To => "to",
            Way::From => "from",
        };
        format!("{} {way} {}", self.rate, self.peer)
    }
}

fn all(peers: &[PeerLink]) -> Vec<Slow<'_>> {
    let mut all = Vec::new();
    for peer in peers {
        let ways = [(Way::To, peer.slow_to_peer()), (Way::From, peer.slow_from_peer())];
        let slow = ways.into_iter().filter_map(|(way, rate)| {
            Some(Slow {
                peer: &peer.node,
                way,
                rate: rate?,
            })
        });
        all.extend(slow);
    }
    all
}

/// The condition.
pub fn judge(peers: &[PeerLink]) -> (ConditionStatus, &'static str, String) {
    let slow = all(peers);
    if slow.is_empty() {
        let message = "no link carries far less than it did".to_owned();
        return (ConditionStatus::False, reason::AS_EXPECTED, message);
    }
    let named: Vec<String> = slow.iter().take(NAMED_MAX).map(Slow::told).collect();
    let more = match slow.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let message = format!("{}{more}", named.join(", "));
    (ConditionStatus::True, reason::LINK_SLOW, message)
}

/// Events of what became slow from one status to the next that was written.
pub fn news(before: Option<&NodeLinkStateStatus>, after: &NodeLinkStateStatus) -> Vec<Note> {
    let known = before.map_or_else(Vec::new, |before| all(&before.peers));
    let mut new = all(&after.peers);
    new.retain(|slow| {
        let same = |known: &Slow<'_>| (known.peer, known.way) == (slow.peer, slow.way);
        !known.iter().any(same)
    });
    let note = |slow: &Slow<'_>| Note::new(true, reason::LINK_SLOW, "Measure", &slow.told());
    new.iter().map(note).collect()
}

#[cfg(test)]
mod tests;
