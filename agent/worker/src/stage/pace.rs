//! PURE: how fast this stage really is, so that what was predicted of it can be checked.
//!
//! Medians of the latest steps: one that had to wait for the machine, or met a cold cache, moves them little. Steps of one row
//! are decoding; steps of many are prompts. What lies between says nothing certain of either.

use std::time::{Duration, Instant};

use crate::control::Pace;

/// Steps of one row that are remembered: some seconds of a stream. The context that a token reads grows meanwhile, and the
/// median with it.
const DECODE_KEPT: usize = 256;
/// Larger steps are remembered in smaller number: a prompt has a few.
const PREFILL_KEPT: usize = 32;
/// From so many rows on a step is bound by arithmetic and no longer by reading the weights once.
const PREFILL_ROWS: usize = 32;
/// Fewer steps of one row are not told of: placement learns from no less.
pub const DECODE_TOLD: u64 = 200;
/// Of prompts.
const PREFILL_TOLD: u64 = 4;
/// Between two changes of what is told: nobody acts on it any faster.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// A figure that moved by less than this much, in percent, stays as it was told.
const MOVED_PERCENT: u64 = 5;
/// So many times the samples are news by themselves.
const SAMPLES_GREW: u64 = 10;

/// The latest values of something, and how many there ever were.
#[derive(Clone, Debug)]
struct Latest {
    kept: usize,
    values: Vec<u64>,
    next: usize,
    count: u64,
}

impl Latest {
    fn new(kept: usize) -> Self {
        Self {
            kept,
            values: Vec::new(),
            next: 0,
            count: 0,
        }
    }

    fn push(&mut self, value: u64) {
        match self.values.get_mut(self.next) {
            Some(oldest) => *oldest = value,
            None => self.values.push(value),
        }
        self.next = (self.next + 1) % self.kept;
        self.count += 1;
    }

    /// Zero where there are none.
    fn median(&self) -> u64 {
        let mut sorted = self.values.clone();
        let middle = sorted.len() / 2;
        if sorted.is_empty() {
            return 0;
        }
        *sorted.select_nth_unstable(middle).1
    }
}

/// A step that was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    pub rows: usize,
    /// Of its last row, in its sequence.
    pub position: u32,
    /// In the engine.
    pub compute_us: u64,
}

/// What was measured of a stage, and what was told of it.
#[derive(Clone, Debug)]
pub struct StagePace {
    decode: Latest,
    /// Positions of those rows.
    context: Latest,
    prefill: Latest,
    hops: Latest,
    told: Pace,
    told_at: Option<Instant>,
}

impl Default for StagePace {
    fn default() -> Self {
        Self {
            decode: Latest::new(DECODE_KEPT),
            context: Latest::new(DECODE_KEPT),
            prefill: Latest::new(PREFILL_KEPT),
            hops: Latest::new(DECODE_KEPT),
            told: Pace::default(),
            told_at: None,
        }
    }
}

impl StagePace {
    /// A step took so long.
    pub fn computed(&mut self, step: Computed) {
        let ns = step.compute_us.saturating_mul(1000);
        match step.rows {
            1 => {
                self.decode.push(ns);
                self.context.push(step.position.into());
            }
            PREFILL_ROWS.. => self.prefill.push(ns / step.rows as u64),
            _ => {}
        }
    }

    /// On the head: so long a step of one row took beside all stages' computing.
    pub fn hopped(&mut self, hops_us: u64) {
        self.hops.push(hops_us.saturating_mul(1000));
    }

    /// What is to be told now: the same as before, unless something is news.
    pub fn told(&mut self, now: Instant) -> Pace {
        let rested = |at: Instant| now.saturating_duration_since(at) >= TOLD_EVERY;
        let present = self.present();
        if self.told_at.is_none_or(rested) && is_news(&self.told, &present) {
            self.told = present;
            self.told_at = Some(now);
        }
        self.told
    }

    fn present(&self) -> Pace {
        let enough = |latest: &Latest, least: u64| {
            if latest.count < least {
                return (0, 0);
            }
            (latest.median(), latest.count)
        };
        let (decode_token_ns, decode_samples) = enough(&self.decode, DECODE_TOLD);
        let (prefill_row_ns, prefill_samples) = enough(&self.prefill, PREFILL_TOLD);
        let (hops_token_ns, hops_samples) = enough(&self.hops, DECODE_TOLD);
        Pace {
            decode_token_ns,
            decode_samples,
            // With the figure it belongs to, or not at all.
            decode_context: if decode_samples > 0 { self.context.median() } else { 0 },
            prefill_row_ns,
            prefill_samples,
            hops_token_ns,
            hops_samples,
        }
    }
}

fn is_news(told: &Pace, present: &Pace) -> bool {
    let figures = [
        (told.decode_token_ns, present.decode_token_ns),
        (told.prefill_row_ns, present.prefill_row_ns),
        (told.hops_token_ns, present.hops_token_ns),
    ];
    let samples = [
        (told.decode_samples, present.decode_samples),
        (told.prefill_samples, present.prefill_samples),
    ];
    let moved = |(was, is): (u64, u64)| was.abs_diff(is).saturating_mul(100) > was.saturating_mul(MOVED_PERCENT);
    let grew = |(was, is): (u64, u64)| is > was && is >= was.saturating_mul(SAMPLES_GREW);
    figures.into_iter().any(moved) || samples.into_iter().any(grew)
}

#[cfg(test)]
mod tests;
