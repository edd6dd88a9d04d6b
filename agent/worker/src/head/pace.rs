//! How fast seats come free, as far as that was seen.

/// The weight of the latest observation: a handful of requests is remembered.
const WEIGHT: f64 = 0.25;
/// What is said when nothing is known, and at least.
const LEAST_S: u64 = 1;
/// Said at most: the longest that a request may wait here anyway.
const MOST_S: u64 = 60;

/// The time between two ends of requests while others wait: that is how fast the queue moves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    last_end_us: Option<u64>,
    between_us: Option<f64>,
}

impl Pace {
    /// A request ended at a time of any monotonic clock, while so many waited.
    pub(super) fn ended(&mut self, now_us: u64, waiting: usize) {
        if waiting == 0 {
            // Ends that nobody waits for say nothing about how long one waits.
            self.last_end_us = None;
            return;
        }
        if let Some(last_us) = self.last_end_us {
            let seen = now_us.saturating_sub(last_us) as f64;
            self.between_us = Some(self.between_us.map_or(seen, |known| known + WEIGHT * (seen - known)));
        }
        self.last_end_us = Some(now_us);
    }

    /// About when one more request behind those that wait would be seated.
    pub(super) fn seconds_until_seated(&self, waiting: usize) -> u64 {
        let seconds = self
            .between_us
            .map_or(0.0, |between| between * (waiting + 1) as f64 / 1e6);
        // A cast of a large number gives the largest.
        (seconds.ceil() as u64).clamp(LEAST_S, MOST_S)
    }
}

#[cfg(test)]
mod tests;
