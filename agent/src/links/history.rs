//! What was measured of one link, and what it comes to. Pure.
//!
//! Figures are of the last rounds together: rates are medians of rounds, so that one disturbed round moves nothing; latencies
//! are percentiles of all echoes, so that the tail shows.
//!
//! A rate that is less than a quarter of the known one, or more than four times it, is no jitter: the link may have become another
//! one. Such a round is put aside until [`TURNED_ROUNDS`] of them follow each other that say the same; these then take the place of
//! all before. A median alone would take hours to follow. Where they find it to be what it was before it became slow, that is known
//! again. What a round finds that a glance cannot tell is settled by rounds: glances between them neither confirm nor deny it.

use std::collections::VecDeque;

/// Rounds that figures are made of. With eight the median stands against three bad ones, and the tail has 256 echoes.
pub const ROUNDS_MAX: usize = 8;
/// A round that is older says nothing of the link as it is. As long as whoever reads the figures believes them at all.
pub const FORGOTTEN_S: i64 = 24 * 3600;
/// Failures in a row after which a link counts as gone: one may be a peer's restart.
pub const GONE_AFTER: u32 = 3;
/// Bytes of an echo: the activations of one token of a model with 4096 dimensions.
pub const ECHO_BYTES: usize = 16 << 10;
/// A rate that is so many times less or more than another one is no jitter of it.
pub const FAR: u64 = 4;
/// Rounds in a row that are far from what is known until they are believed.
const TURNED_ROUNDS: usize = 3;
/// And the time that they must span: what passes within seconds is a moment's crowd.
const TURNED_S: i64 = 10;
/// Rounds behind figures that one disturbed round cannot move: before there are so many nothing is far from them.
pub const KNOWN_ROUNDS: usize = 3;
/// Echoes of a round of which only the figures are known: as many as one has, so that its tail is the tail.
const REMEMBERED_ECHOES: usize = 32;
/// What a glance finds below this is the link; above it, at 128 Mbit/s and more, it may be a processor that computes.
const GLANCE_SLOW_BYTES_PER_SECOND: u64 = 16_000_000;

/// What one round found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// When it ended.
    pub unix_s: i64,
    /// It was short, and may have been made while a shard computed: what it found is what the link carries at least.
    pub is_glance: bool,
    /// Of each echo.
    pub echo_bytes: usize,
    /// There and back.
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
    /// The latest rounds, if they are far from what the others say, and all in the same way.
    odd: Vec<Round>,
    /// What was known before the link became slow.
    earlier: VecDeque<Round>,
}

/// How a rate is far from the known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Slower,
    Faster,
}

/// To the peer, and from it.
type Turns = [Option<Turn>; 2];

impl History {
    /// Puts what an earlier life of this agent knew before the rounds of this one, of which there are too few to know the link. It counts
    /// as no more rounds than that takes: soon the link is known by what this life finds. `before`: what it was before it became slow.
    pub fn begin_with(&mut self, known: &Figures, before: Option<&Figures>) {
        let own = std::mem::take(&mut self.rounds);
        self.rounds = remembered(known);
        self.earlier = before.map(remembered).unwrap_or_default();
        own.into_iter().for_each(|round| self.add(round));
    }

    /// Adds a round. One without echoes or without a rate is none.
    pub fn add(&mut self, round: Round) {
        if round.round_trips_us.is_empty() || round.send_bytes_per_second == 0 || round.receive_bytes_per_second == 0 {
            return;
        }
        let now = round.unix_s;
        self.rounds
            .retain(|round| now.saturating_sub(round.unix_s) <= FORGOTTEN_S);
        let known = self.figures().filter(|_| self.rounds.len() >= KNOWN_ROUNDS);
        if let Some(known) = known.filter(|known| is_far(turns(known, &round))) {
            self.put_aside(round, &known);
            return;
        }
        if !(round.is_glance && self.needs_round()) {
            self.odd.clear();
        }
        if !round.is_glance {
            // It says more than a glance.
            let least = self.rounds.iter().position(|round| round.is_glance);
            if least.is_some() || self.rounds.len() == ROUNDS_MAX {
                self.rounds.remove(least.unwrap_or(0));
            }
            self.rounds.push_back(round);
        } else if known.is_some_and(|known| confirms(&known, &round)) {
            // A node that computes for days does not lose what it knows.
            self.rounds.iter_mut().for_each(|round| round.unix_s = now);
        }
    }

    /// Whether the link may have become another one.
    pub fn is_in_doubt(&self) -> bool {
        !self.odd.is_empty()
    }

    /// Whether only a round can settle that: the last one found a rate that is far from the known one, and above what a glance tells.
    pub fn needs_round(&self) -> bool {
        let odd = self.odd.last().filter(|odd| !odd.is_glance);
        let Some((odd, known)) = odd.zip(self.figures()) else {
            return false;
        };
        let rates = [odd.send_bytes_per_second, odd.receive_bytes_per_second];
        let mut found = turns(&known, odd).into_iter().zip(rates);
        found.any(|(turn, rate)| turn.is_some() && rate >= GLANCE_SLOW_BYTES_PER_SECOND)
    }

    fn put_aside(&mut self, round: Round, known: &Figures) {
        let found = turns(known, &round);
        let mut agreed = self
            .odd
            .iter()
            .fold(found, |agreed, before| common(agreed, turns(known, before)));
        if !is_far(agreed) {
            self.odd.clear();
            agreed = found;
        }
        self.odd.push(round);
        if self.odd.len() > ROUNDS_MAX {
            self.odd.remove(0);
        }
        let span_s = match self.odd.as_slice() {
            [first, .., last] => last.unix_s.saturating_sub(first.unix_s),
            _ => 0,
        };
        if self.odd.len() >= TURNED_ROUNDS && span_s >= TURNED_S {
            self.turn(agreed, known);
        }
    }

    /// The odd rounds are what is known from now on. Of a direction that is as it was they say less than the rounds before.
    fn turn(&mut self, [send, receive]: Turns, known: &Figures) {
        let mut found = std::mem::take(&mut self.odd);
        let now = found.last().map_or(known.unix_s, |last| last.unix_s);
        self.earlier
            .retain(|round| now.saturating_sub(round.unix_s) <= FORGOTTEN_S);
        let as_before = |earlier: &Figures| !found.iter().any(|round| is_far(turns(earlier, round)));
        if figures(&self.earlier).as_ref().is_some_and(as_before) {
            self.rounds = std::mem::take(&mut self.earlier);
            self.rounds.iter_mut().for_each(|round| round.unix_s = now);
            return;
        }
        for round in &mut found {
            if send.is_none() {
                round.send_bytes_per_second = known.send_bytes_per_second;
            }
            if receive.is_none() {
                round.receive_bytes_per_second = known.receive_bytes_per_second;
            }
        }
        let before = std::mem::replace(&mut self.rounds, found.into());
        if self.earlier.is_empty() && [send, receive].contains(&Some(Turn::Slower)) {
            self.earlier = before;
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
        figures(&self.rounds)
    }
}

/// Rounds that come to these figures.
fn remembered(figures: &Figures) -> VecDeque<Round> {
    let there_and_back = |one_way_us: u64| one_way_us.saturating_mul(2);
    let mut round_trips_us = vec![there_and_back(figures.latency_p50_us); REMEMBERED_ECHOES];
    round_trips_us[0] = there_and_back(figures.latency_p99_us);
    let round = Round {
        unix_s: figures.unix_s,
        is_glance: false,
        // Its time is in none of the figures.
        echo_bytes: 0,
        round_trips_us,
        send_bytes_per_second: figures.send_bytes_per_second,
        receive_bytes_per_second: figures.receive_bytes_per_second,
    };
    vec![round; KNOWN_ROUNDS].into()
}

fn figures(rounds: &VecDeque<Round>) -> Option<Figures> {
    let last = rounds.back()?;
    let mut one_way: Vec<u64> = rounds.iter().flat_map(one_way_us).collect();
    one_way.sort_unstable();
    let rate = |of: fn(&Round) -> u64| {
        let mut rates: Vec<u64> = rounds.iter().map(of).collect();
        rates.sort_unstable();
        percentile(&rates, 50)
    };
    Some(Figures {
        latency_p50_us: percentile(&one_way, 50)?,
        latency_p99_us: percentile(&one_way, 99)?,
        send_bytes_per_second: rate(|round| round.send_bytes_per_second)?,
        receive_bytes_per_second: rate(|round| round.receive_bytes_per_second)?,
        samples: u32::try_from(rounds.len()).unwrap_or(u32::MAX),
        unix_s: last.unix_s,
    })
}

fn turns(known: &Figures, round: &Round) -> Turns {
    let turn = |known: u64, found: u64| {
        let is_the_link = !round.is_glance || found < GLANCE_SLOW_BYTES_PER_SECOND;
        if found < known / FAR && is_the_link {
            Some(Turn::Slower)
        } else if found / FAR > known {
            Some(Turn::Faster)
        } else {
            None
        }
    };
    [
        turn(known.send_bytes_per_second, round.send_bytes_per_second),
        turn(known.receive_bytes_per_second, round.receive_bytes_per_second),
    ]
}

fn common([send, receive]: Turns, [other_send, other_receive]: Turns) -> Turns {
    [
        send.filter(|_| send == other_send),
        receive.filter(|_| receive == other_receive),
    ]
}

fn is_far(turns: Turns) -> bool {
    turns.iter().any(Option::is_some)
}

/// Whether a glance found so much of both rates that they may be what they were.
fn confirms(known: &Figures, glance: &Round) -> bool {
    is_as_known(known.send_bytes_per_second, glance.send_bytes_per_second)
        && is_as_known(known.receive_bytes_per_second, glance.receive_bytes_per_second)
}

/// Whether a rate found on the way is reason enough to look no further: at least half of the known one, and not far above it.
pub fn is_as_known(known: u64, found: u64) -> bool {
    found >= known / 2 && found / FAR <= known
}

/// Half of each round trip, less the time that the echo itself takes at the round's rates: whoever counts with the figures adds
/// bytes over bandwidth to the latency, and must not count that twice. Never zero.
fn one_way_us(round: &Round) -> impl Iterator<Item = u64> + '_ {
    let carried_us = |rate: u64| round.echo_bytes as u64 * 1_000_000 / rate.max(1);
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
