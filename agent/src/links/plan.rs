//! Whom to measure to, and when. Pure: the same situation always gives the same answer.
//!
//! The operator says to whom (all of a small cluster, ⌈4·log₂ n⌉ of a large one); here it is decided which of them is next. A
//! link is looked at [`ROUNDS_FIRST`] times soon, so that its figures are worth something, and then every quarter of an hour.
//! The allowance, not this, keeps the whole within its share of the link: with forty peers a round on a gigabit link comes
//! round in half an hour.

use super::Wishes;
use super::history::GONE_AFTER;
use std::collections::BTreeMap;

/// Rounds until figures can be believed: the median of three.
pub const ROUNDS_FIRST: u32 = 3;
/// Between those.
const SOON_MS: u64 = 20_000;
/// Between later rounds.
const STEADY_MS: u64 = 15 * 60_000;
/// A peer that has just been told of is measured within this: a cluster that starts together does not measure in step.
const SPREAD_MS: u64 = 2000;
/// A peer that puts us off measures itself, or serves.
const PUT_OFF_MS: u64 = 2000;
/// After so many times in a row it serves, and not for a moment.
const PUT_OFF_MANY: u32 = 8;
/// And is asked again after this.
const PUT_OFF_LONG_MS: u64 = 60_000;
/// After a failure, doubled with each one more.
const FAILED_MS: u64 = 15_000;
/// At most.
const FAILED_MAX_MS: u64 = 30 * 60_000;
/// While nothing may be measured it is looked again after this.
const LOOK_AGAIN_MS: u64 = 5000;

/// How far the measuring of one link has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When the operator told of it.
    pub since_ms: u64,
    /// When the last attempt ended.
    pub tried_ms: Option<u64>,
    /// Rounds that gave figures.
    pub rounds: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Times in a row that the peer put us off.
    pub put_off: u32,
}

impl Progress {
    /// Whether the link counts as gone.
    pub fn is_gone(&self) -> bool {
        self.failures >= GONE_AFTER
    }

    /// When it is looked at next.
    fn due_ms(&self, node: &str, seed: u64) -> u64 {
        let Some(tried_ms) = self.tried_ms else {
            return self.since_ms + spread(seed, node, 0, SPREAD_MS);
        };
        let attempt = u64::from(self.rounds) << 32 | u64::from(self.failures) << 16 | u64::from(self.put_off);
        let wait_ms = match self {
            Self {
                put_off: 0,
                failures: 0,
                rounds,
                ..
            } if *rounds < ROUNDS_FIRST => SOON_MS,
            Self {
                put_off: 0,
                failures: 0,
                ..
            } => STEADY_MS,
            Self {
                put_off: 0, failures, ..
            } => {
                let doublings = failures.saturating_sub(1).min(10);
                (FAILED_MS << doublings).min(FAILED_MAX_MS)
            }
            Self { put_off, .. } if *put_off < PUT_OFF_MANY => PUT_OFF_MS,
            Self { .. } => PUT_OFF_LONG_MS,
        };
        // Twice the wait at most: two that ask each other at the same moment do not meet again for ever.
        tried_ms + wait_ms + spread(seed, node, attempt, wait_ms)
    }
}

/// Everything that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Since the agent's start.
    pub now_ms: u64,
    /// Differs between nodes.
    pub seed: u64,
    /// The peers that the operator told of.
    pub peers: &'a BTreeMap<String, Progress>,
    /// What the administrator says.
    pub wishes: &'a Wishes,
    /// A shard of this node computes.
    pub serves: bool,
    /// When the allowance lets a round begin.
    pub allowed_ms: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A round to this peer.
    Measure(String),
    /// Nothing, until then.
    Wait {
        /// Since the agent's start.
        until_ms: u64,
    },
}

/// Of the links that are due, the one that is known least and was looked at longest ago.
pub fn decide(situation: &Situation<'_>) -> Next {
    let Situation {
        now_ms,
        seed,
        peers,
        wishes,
        serves,
        allowed_ms,
    } = *situation;
    let measured = |node: &str| !wishes.excluded.iter().any(|excluded| excluded == node);
    let links = peers.iter().filter(|(node, _)| measured(node));
    let due = links.map(|(node, progress)| (progress.due_ms(node, seed), progress, node));
    let Some(soonest_ms) = due.clone().map(|(due_ms, ..)| due_ms).min() else {
        return Next::Wait { until_ms: u64::MAX };
    };
    if wishes.paused || (serves && soonest_ms <= now_ms) {
        return Next::Wait {
            until_ms: now_ms + LOOK_AGAIN_MS,
        };
    }
    let earliest_ms = soonest_ms.max(allowed_ms);
    if earliest_ms > now_ms {
        return Next::Wait { until_ms: earliest_ms };
    }
    let first = due
        .filter(|(due_ms, ..)| *due_ms <= now_ms)
        .min_by_key(|(due_ms, progress, node)| (progress.rounds.min(ROUNDS_FIRST), *due_ms, *node));
    match first {
        Some((_, _, node)) => Next::Measure(node.clone()),
        None => Next::Wait { until_ms: soonest_ms },
    }
}

/// A number below `most`, another one for every seed, node and attempt.
fn spread(seed: u64, node: &str, attempt: u64, most: u64) -> u64 {
    mixed(seed ^ attempt.rotate_left(17), node.as_bytes()) % most.max(1)
}

/// FNV-1a over `bytes`, stirred once more: a seed that differs in one bit gives another order.
pub fn mixed(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
