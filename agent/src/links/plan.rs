//! Whom to measure to, and when. Pure: the same situation always gives the same answer.
//!
//! The operator says to whom (all of a small cluster, ⌈4·log₂ n⌉ of a large one); here it is decided which of them is next. A
//! link is looked at [`ROUNDS_FIRST`] times soon, so that its figures are worth something, and then every quarter of an hour.
//! The allowance, not this, keeps the whole within its share of the link: with forty peers a round on a gigabit link comes
//! round in half an hour.
//!
//! While a shard computes, here or at the peer, a link that is known gets a glance where it would have got a round. So does the link
//! to a neighbour in a pipeline, twice a minute, and one that may have become another one, at once. Where a glance could not tell, that
//! one gets rounds.

use super::Wishes;
use super::history::{GONE_AFTER, History};
use std::collections::BTreeMap;

/// Rounds until figures can be believed: the median of three. What an earlier life of the agent knew counts as so many.
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
/// After so many times in a row it does more than answer somebody else: it is glanced at.
const PUT_OFF_GLANCE: u32 = 3;
/// Between two glances at a neighbour.
const NEIGHBOUR_MS: u64 = 30_000;
/// And, of many neighbours, between one and the next: they leave half of the allowance to the others.
const NEIGHBOUR_GAP_MS: u64 = 8000;
/// Between two looks at a link that may have become another one.
const DOUBT_MS: u64 = 10_000;
/// A glance at a neighbour, and whatever settles a doubt, comes before a round to somebody else, unless that is overdue by as much.
const BEFORE_OTHERS_MS: u64 = 30 * 60_000;
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
    /// When the last attempt ended, but for glances that were not in a round's place.
    pub tried_ms: Option<u64>,
    /// When the link was last seen, by a round or a glance.
    pub seen_ms: u64,
    /// Rounds that gave figures.
    pub rounds: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Times in a row that the peer put us off.
    pub put_off: u32,
    /// It may have become another one.
    pub is_in_doubt: bool,
    /// And only a round can tell.
    pub needs_round: bool,
    /// A pipeline goes over it.
    pub is_neighbour: bool,
}

/// When a link is looked at next, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    at_ms: u64,
    is_glance: bool,
}

/// What else decides when a link is due.
#[derive(Clone, Copy, Debug)]
struct Around {
    now_ms: u64,
    seed: u64,
    /// A shard of this node computes.
    serves: bool,
    /// Links that pipelines use.
    neighbours: u64,
}

impl Progress {
    /// Whether the link counts as gone.
    pub fn is_gone(&self) -> bool {
        self.failures >= GONE_AFTER
    }

    /// A round or a glance found something. `node`, `seed`: of [`decide`].
    pub fn found(&mut self, was_glance: bool, (node, seed): (&str, u64), now_ms: u64) {
        // While nobody has the time for a round, a glance takes its place.
        if !was_glance || self.attempt_due_ms(node, seed) <= now_ms {
            self.tried_ms = Some(now_ms);
        }
        if !was_glance {
            self.rounds = self.rounds.saturating_add(1);
        }
        self.seen_ms = now_ms;
        (self.failures, self.put_off) = (0, 0);
    }

    /// Whether the link may have become another one, by what is known with what was found last. A glance in the place of a round that
    /// alone could tell settles nothing: somebody computes, and the round has its turn as that of any other link.
    pub fn doubt(&mut self, history: &History, was_glance: bool) {
        let needs_round = history.needs_round();
        self.is_in_doubt = history.is_in_doubt() && !(was_glance && needs_round);
        self.needs_round = self.is_in_doubt && needs_round;
    }

    /// The peer put us off: it is there.
    pub fn was_put_off(&mut self, now_ms: u64) {
        self.tried_ms = Some(now_ms);
        self.failures = 0;
        self.put_off = self.put_off.saturating_add(1);
    }

    /// An attempt failed.
    pub fn failed(&mut self, now_ms: u64) {
        self.tried_ms = Some(now_ms);
        self.put_off = 0;
        self.failures = self.failures.saturating_add(1);
    }

    /// `None`: not while a shard computes.
    fn due(&self, node: &str, around: Around) -> Option<Due> {
        let Around {
            now_ms,
            seed,
            serves,
            neighbours,
        } = around;
        let is_known = self.rounds >= ROUNDS_FIRST;
        let attempt = Due {
            at_ms: self.attempt_due_ms(node, seed),
            is_glance: is_known
                && (serves || (self.is_in_doubt && !self.needs_round) || self.put_off >= PUT_OFF_GLANCE),
        };
        let every_ms = if self.is_in_doubt {
            DOUBT_MS
        } else {
            NEIGHBOUR_MS.max(neighbours.saturating_mul(NEIGHBOUR_GAP_MS))
        };
        let look = Due {
            at_ms: self.seen_ms + every_ms + spread(seed, node, self.seen_ms, every_ms),
            is_glance: serves || !self.needs_round,
        };
        // Whoever failed or put us off is asked again by and by, whatever it is to us.
        let answers = self.failures == 0 && self.put_off == 0;
        let is_watched = is_known && answers && (self.is_in_doubt || self.is_neighbour);
        if is_watched && look.at_ms < attempt.at_ms && now_ms < attempt.at_ms {
            Some(look)
        } else {
            (is_known || !serves).then_some(attempt)
        }
    }

    /// When an attempt is made at a round.
    fn attempt_due_ms(&self, node: &str, seed: u64) -> u64 {
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

    /// Before which other links it comes: less is sooner.
    fn turn(&self, due: Due) -> (u32, u64) {
        let is_urgent = self.is_in_doubt || (due.is_glance && self.is_neighbour);
        let ahead_ms = if is_urgent { BEFORE_OTHERS_MS } else { 0 };
        (self.rounds.min(ROUNDS_FIRST), due.at_ms.saturating_sub(ahead_ms))
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
    /// A glance at the link to this peer.
    Glance(String),
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
    let neighbours = peers.values().filter(|progress| progress.is_neighbour).count() as u64;
    let around = Around {
        now_ms,
        seed,
        serves,
        neighbours,
    };
    let measured = |node: &str| !wishes.excluded.iter().any(|excluded| excluded == node);
    let links = peers.iter().filter(|(node, _)| measured(node));
    let due = links.filter_map(|(node, progress)| Some((progress.due(node, around)?, progress, node)));
    let Some(soonest_ms) = due.clone().map(|(due, ..)| due.at_ms).min() else {
        return Next::Wait { until_ms: u64::MAX };
    };
    if wishes.paused {
        return Next::Wait {
            until_ms: now_ms + LOOK_AGAIN_MS,
        };
    }
    let earliest_ms = soonest_ms.max(allowed_ms);
    if earliest_ms > now_ms {
        return Next::Wait { until_ms: earliest_ms };
    }
    let first = due
        .filter(|(due, ..)| due.at_ms <= now_ms)
        .min_by_key(|(due, progress, node)| (progress.turn(*due), *node));
    match first {
        Some((due, _, node)) if due.is_glance => Next::Glance(node.clone()),
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
