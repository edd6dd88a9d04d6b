//! The queue of a link: what came in when, and when it may leave.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::prompts::Random;

/// How long a link takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// For every piece.
    pub base: Duration,
    /// At most so much more, differently for each piece.
    pub jitter: Duration,
    /// What the jitter follows from.
    pub seed: u64,
}

/// Pieces under way in one direction, in order.
#[derive(Debug)]
pub struct DelayLine {
    delay: Delay,
    random: Random,
    /// When the last piece is due: TCP never reorders, so nothing overtakes it.
    last_due: Instant,
    pieces: VecDeque<(Instant, Vec<u8>)>,
    held_bytes: usize,
}

impl DelayLine {
    /// An empty line.
    pub fn new(delay: Delay, now: Instant) -> Self {
        Self {
            delay,
            random: Random::new(delay.seed),
            last_due: now,
            pieces: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// A piece comes in.
    pub fn push(&mut self, now: Instant, piece: Vec<u8>) {
        let most_ns = u64::try_from(self.delay.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(self.random.draw() % most_ns.saturating_add(1));
        self.last_due = self.last_due.max(now + self.delay.base + jitter);
        self.held_bytes += piece.len();
        self.pieces.push_back((self.last_due, piece));
    }

    /// When the oldest piece may leave.
    pub fn due(&self) -> Option<Instant> {
        self.pieces.front().map(|(due, _)| *due)
    }

    /// The oldest piece, if it may leave.
    pub fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (_, piece) = self.pieces.pop_front_if(|(due, _)| *due <= now)?;
        self.held_bytes -= piece.len();
        Some(piece)
    }

    #[cfg(test)]
    pub(super) fn pieces(&self) -> impl Iterator<Item = &(Instant, Vec<u8>)> {
        self.pieces.iter()
    }

    /// Bytes that are under way.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}
