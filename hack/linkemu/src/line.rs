//! PURE: one direction of a link: what becomes of each packet, and when it arrives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::random::Random;

/// What a direction of a link is like. It begins perfect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quality {
    /// For every packet.
    pub delay: Duration,
    /// At most so much more, differently for each packet. By itself it reorders nothing.
    pub jitter: Duration,
    /// Of a thousand packets, so many are lost.
    pub lost_per_mille: u16,
    /// Of a thousand packets, so many arrive without delay and jitter, before others that were sent earlier.
    pub overtaking_per_mille: u16,
    /// Of a thousand packets, so many arrive twice: the second time as if by a way around that takes as long again.
    pub repeated_per_mille: u16,
    /// Rate at which packets leave, one after the other; `None`: at once.
    pub bits_per_second: Option<u64>,
    /// Larger packets are lost without a word, as by a path whose smallest MTU nobody tells of; `None`: none is too large.
    pub largest_bytes: Option<usize>,
    /// Everything is lost.
    pub cut: bool,
}

impl Quality {
    /// Everything arrives at once, in order.
    pub const PERFECT: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        lost_per_mille: 0,
        overtaking_per_mille: 0,
        repeated_per_mille: 0,
        bits_per_second: None,
        largest_bytes: None,
        cut: false,
    };

    /// Nothing arrives.
    pub const CUT: Self = Self {
        cut: true,
        ..Self::PERFECT
    };

    /// Whether every packet arrives at once.
    pub fn is_perfect(&self) -> bool {
        *self == Self::PERFECT
    }
}

/// Packets under way in one direction, in the order of their arrival. What becomes of the n-th packet follows from the seed, the
/// quality at that moment and the times of the packets, whatever the qualities were before.
#[derive(Debug)]
pub struct Line {
    quality: Quality,
    random: Random,
    /// When the last packet has left, at the line's rate.
    free_at: Instant,
    /// When the last packet is due that did not overtake.
    last_due: Instant,
    /// Tells packets apart that are due together: the earlier one first.
    number: u64,
    packets: BTreeMap<(Instant, u64), Vec<u8>>,
    held_bytes: usize,
}

impl Line {
    /// An empty line.
    pub fn new(quality: Quality, seed: u64, now: Instant) -> Self {
        Self {
            quality,
            random: Random::new(seed),
            free_at: now,
            last_due: now,
            number: 0,
            packets: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// From now on. What is under way arrives as it would have, but for a cut, which loses it.
    pub fn set(&mut self, quality: Quality) {
        self.quality = quality;
        if quality.cut {
            self.packets.clear();
            self.held_bytes = 0;
        }
    }

    /// What it is like now.
    pub fn quality(&self) -> Quality {
        self.quality
    }

    /// A packet is sent; `false` when it is lost.
    pub fn push(&mut self, now: Instant, packet: Vec<u8>) -> bool {
        let Quality {
            delay,
            jitter,
            lost_per_mille,
            overtaking_per_mille,
            repeated_per_mille,
            bits_per_second,
            largest_bytes,
            cut,
        } = self.quality;
        // All are drawn for every packet, so that one setting does not change what another one does.
        let lost = self.random.comes_to_pass(lost_per_mille);
        let overtakes = self.random.comes_to_pass(overtaking_per_mille);
        let most_ns = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX - 1);
        let jitter = Duration::from_nanos(self.random.between(0, most_ns));
        let repeated = self.random.comes_to_pass(repeated_per_mille);
        if cut || lost || largest_bytes.is_some_and(|largest| packet.len() > largest) {
            return false;
        }
        let sent = self.free_at.max(now) + bits_per_second.map_or(Duration::ZERO, |rate| time_to_send(&packet, rate));
        self.free_at = sent;
        let due = if overtakes {
            sent
        } else {
            self.last_due = self.last_due.max(sent + delay + jitter);
            self.last_due
        };
        let again = repeated.then(|| packet.clone());
        self.hold(due, packet);
        if let Some(packet) = again {
            self.hold(due + delay + jitter, packet);
        }
        true
    }

    fn hold(&mut self, due: Instant, packet: Vec<u8>) {
        self.number += 1;
        self.held_bytes += packet.len();
        self.packets.insert((due, self.number), packet);
    }

    /// When the next packet arrives.
    pub fn due(&self) -> Option<Instant> {
        self.packets.keys().next().map(|(due, _)| *due)
    }

    /// The next packet, if it has arrived.
    pub fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        let entry = self.packets.first_entry().filter(|entry| entry.key().0 <= now)?;
        let packet = entry.remove();
        self.held_bytes -= packet.len();
        Some(packet)
    }

    /// Bytes that are under way.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}

fn time_to_send(packet: &[u8], bits_per_second: u64) -> Duration {
    Duration::from_secs_f64(packet.len() as f64 * 8.0 / bits_per_second.max(1) as f64)
}

#[cfg(test)]
mod tests;
