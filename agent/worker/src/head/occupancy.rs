//! How busy each stage is while the pipeline has work.

use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// Work that a ratio is taken over: long enough for many steps, short enough to show what happens now.
const WINDOW: Duration = Duration::from_secs(1);

/// Compares the time that steps were under way with the time that each stage computed.
#[derive(Debug)]
pub(super) struct Occupancy {
    stages: u32,
    metrics: Metrics,
    /// Steps have been under way since.
    since: Option<Instant>,
    /// That they were before, in this window.
    worked: Duration,
    /// What each stage had computed when the window began, seconds.
    computed_before: Vec<f64>,
}

impl Occupancy {
    pub(super) fn new(stages: u32, metrics: Metrics) -> Self {
        metrics.forget_occupancy();
        let computed_before = (0..stages).map(|stage| metrics.stage_busy_s(stage)).collect();
        Self {
            stages,
            metrics,
            since: None,
            worked: Duration::ZERO,
            computed_before,
        }
    }

    /// Steps are under way from here on, or none is.
    pub(super) fn observe(&mut self, working: bool, now: Instant) {
        if let Some(since) = self.since.take() {
            self.worked += now.saturating_duration_since(since);
        }
        self.since = working.then_some(now);
        if self.worked >= WINDOW || (!working && !self.worked.is_zero()) {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let worked_s = self.worked.as_secs_f64();
        self.worked = Duration::ZERO;
        for (stage, before) in (0..self.stages).zip(&mut self.computed_before) {
            let computed_s = self.metrics.stage_busy_s(stage);
            self.metrics.record_occupancy(stage, worked_s, computed_s - *before);
            *before = computed_s;
        }
    }
}

#[cfg(test)]
mod tests;
