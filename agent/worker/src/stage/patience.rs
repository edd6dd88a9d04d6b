//! How long the oldest of several steps under way may still take.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Steps that something works on one after the other, each for a limited time from when it is the oldest.
///
/// A step that stands behind others has its time from when the one before it was finished: the limit is the same however
/// many are under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    limit: Duration,
    since: Instant,
    under_way: usize,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        let since = Instant::now();
        Self {
            limit,
            since,
            under_way: 0,
        }
    }

    pub(crate) fn begin(&mut self) {
        if self.under_way == 0 {
            self.since = Instant::now();
        }
        self.under_way += 1;
    }

    /// The oldest is finished.
    pub(crate) fn end(&mut self) {
        self.since = Instant::now();
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// When the oldest is late.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.under_way > 0).then(|| self.since + self.limit)
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}

/// One timer for deadlines that move on with every step: it is set anew only when it fires, or when an earlier deadline comes.
#[derive(Debug)]
pub(crate) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// Must be called on a Tokio runtime.
    pub(crate) fn new() -> Self {
        Self(Box::pin(sleep(Duration::ZERO)))
    }

    /// Returns at the deadline; never without one. Cancel-safe.
    pub(crate) async fn at(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else {
            return pending().await;
        };
        loop {
            if self.0.is_elapsed() || self.0.deadline() > deadline {
                self.0 = Box::pin(sleep_until(deadline));
            }
            self.0.as_mut().await;
            if Instant::now() >= deadline {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
