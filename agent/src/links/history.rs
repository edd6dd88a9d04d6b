//! What was measured of one link, and what it comes to. Pure.
//!
//! Figures are of the last rounds together: rates are medians of rounds, so that one disturbed round moves nothing; latencies
//! are percentiles of all echoes, so that the tail shows.

use std::collections::VecDeque;

/// Rounds that figures are made of. With eight the median stands against three bad ones, and the tail has 256 echoes.
pub const ROUNDS_MAX: usize = 8;
/// A round that is older says nothing of the link as it is. As long as whoever reads the figures believes them at all.
pub const FORGOTTEN_S: i64 = 24 * 3600;
/// Failures in a row after which a link counts as gone: one may be a peer's restart.
pub const GONE_AFTER: u32 = 3;
/// Bytes of an echo: the activations of one token of a model with 4096 dimensions.
pub const ECHO_BYTES: usize = 16 << 10;

/// What one round found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// When it ended.
    pub unix_s: i64,
    /// There and back, of [`ECHO_BYTES`].
    pub round_trips_us: Vec<u64>,
    /// To the peer.
    pub send_bytes_per_second: u64,
    /// From the peer.
    pub receive_bytes_per_second: u64,
}

/// What the last rounds come to. Nothing in it is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// One way, the median.
    pub latency_p50_us: u64,
    /// One way, 99 of 100 are faster.
    pub latency_p99_us: u64,
    /// To the peer.
    pub send_bytes_per_second: u64,
    /// From the peer.
    pub receive_bytes_per_second: u64,
    /// Rounds behind it.
    pub samples: u32,
    /// When the last of them ended.
    pub unix_s: i64,
}

/// The last rounds of one link.
#[derive(Clone, Debug, Default)]
pub struct History {
    rounds: VecDeque<Round>,
}

impl History {
    /// Adds a round. One without echoes or without a rate is none.
    pub fn add(&mut self, round: Round) {
        if round.round_trips_us.is_empty() || round.send_bytes_per_second == 0 || round.receive_bytes_per_second == 0 {
            return;
        }
        let now = round.unix_s;
        self.rounds.push_back(round);
        self.rounds
            .retain(|round| now.saturating_sub(round.unix_s) <= FORGOTTEN_S);
        while self.rounds.len() > ROUNDS_MAX {
            self.rounds.pop_front();
        }
    }

    /// How many rounds count.
    pub fn len(&self) -> usize {
        self.rounds.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// What they come to.
    pub fn figures(&self) -> Option<Figures> {
        let last = self.rounds.back()?;
        let mut one_way: Vec<u64> = self.rounds.iter().flat_map(one_way_us).collect();
        one_way.sort_unstable();
        let rate = |of: fn(&Round) -> u64| {
            let mut rates: Vec<u64> = self.rounds.iter().map(of).collect();
            rates.sort_unstable();
            percentile(&rates, 50)
        };
        Some(Figures {
            latency_p50_us: percentile(&one_way, 50)?,
            latency_p99_us: percentile(&one_way, 99)?,
            send_bytes_per_second: rate(|round| round.send_bytes_per_second)?,
            receive_bytes_per_second: rate(|round| round.receive_bytes_per_second)?,
            samples: u32::try_from(self.rounds.len()).unwrap_or(u32::MAX),
            unix_s: last.unix_s,
        })
    }
}

/// Half of each round trip, less the time that the echo itself takes at the round's rates: whoever counts with the figures adds
/// bytes over bandwidth to the latency, and must not count that twice. Never zero.
fn one_way_us(round: &Round) -> impl Iterator<Item = u64> + '_ {
    let carried_us = |rate: u64| ECHO_BYTES as u64 * 1_000_000 / rate.max(1);
    let carried_us = carried_us(round.send_bytes_per_second) + carried_us(round.receive_bytes_per_second);
    let trips = round.round_trips_us.iter();
    trips.map(move |trip_us| (trip_us.saturating_sub(carried_us) / 2).max(1))
}

/// The nearest rank of sorted values.
pub fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests;
