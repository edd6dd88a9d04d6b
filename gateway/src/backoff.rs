//! Delays between attempts: doubling to a cap, with jitter so that many gateways do not return together.

use std::time::Duration;

/// First delay, before jitter.
const FIRST: Duration = Duration::from_millis(200);

/// Counts failed attempts in a row.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    attempt: u32,
    cap: Duration,
}

impl Backoff {
    /// No delay will be longer than `cap`.
    #[must_use]
    pub fn new(cap: Duration) -> Self {
        Self { attempt: 0, cap }
    }

    /// An attempt succeeded: the next delay is the first one again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Delay before the next attempt; `random` in [0, 1) takes away up to half of it.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.attempt.min(16));
        self.attempt = self.attempt.saturating_add(1);
        doubled.min(self.cap).mul_f64(1.0 - random / 2.0)
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay(random())).await;
    }
}

/// In [0, 1); from the system's generator, by way of a UUID.
fn random() -> f64 {
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    // The top bits of the lower half hold the UUID's variant; the low 32 are all random.
    f64::from((low & 0xffff_ffff) as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Duration};

    #[test]
    fn delays_double_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let delays: Vec<u128> = (0..5).map(|_| backoff.next_delay(0.0).as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(0.5).as_millis(), 150);
    }

    #[test]
    fn a_long_outage_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(5));
        for _ in 0..100 {
            assert!(backoff.next_delay(super::random()) <= Duration::from_secs(5));
        }
    }
}
