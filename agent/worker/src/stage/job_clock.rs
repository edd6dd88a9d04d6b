//! How long the compute thread has been at its present job, for those who watch that it comes back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::executor::elapsed_us;

/// Of a limit, the part after which it is looked again: one in so many.
const LOOKS: u32 = 4;

/// See the module. Costs the thread two stores for each job, and wakes nobody.
#[derive(Debug)]
pub(super) struct JobClock {
    started: Instant,
    /// Microseconds from `started` to the beginning of the present job, and one more; 0 while there is none.
    began_us: AtomicU64,
}

impl JobClock {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            began_us: AtomicU64::new(0),
        }
    }

    pub(super) fn begin(&self) {
        let began_us = elapsed_us(self.started).saturating_add(1);
        self.began_us.store(began_us, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.began_us.store(0, Ordering::Relaxed);
    }

    /// Returns once one job has taken `limit`, at the latest a quarter of it later.
    pub(super) async fn overdue(&self, limit: Duration) {
        loop {
            let age = self.age();
            if age.is_some_and(|age| age >= limit) {
                return;
            }
            let rest = limit.saturating_sub(age.unwrap_or_default());
            tokio::time::sleep(rest.min(limit / LOOKS)).await;
        }
    }

    fn age(&self) -> Option<Duration> {
        let began_us = self.began_us.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_micros(elapsed_us(self.started).saturating_sub(began_us)))
    }
}

#[cfg(test)]
mod tests;
