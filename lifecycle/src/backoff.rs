//! How long to wait after a failure: doubling, capped, with jitter, so that a crowd does not return in step.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// First and longest wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Wait after the first failure, before jitter.
    pub first: Duration,
    /// No wait is longer than this.
    pub cap: Duration,
}

impl Policy {
    /// The wait after `failures` failures in a row (0 counts as 1). `jitter` in [0, 1] chooses within its upper half.
    #[must_use]
    pub fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1_u32 << doublings).min(self.cap);
        let half = full / 2;
        half + half.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// Failures in a row of one activity.
#[derive(Debug)]
pub struct Backoff {
    policy: Policy,
    failures: u32,
}

impl Backoff {
    /// No failures yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Records a failure and says how long to wait.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.policy.wait(self.failures, jitter())
    }

    /// Records a success.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A number in [0, 1) that differs from call to call; not for secrets.
#[must_use]
pub fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    // 2^53: every integer below it is exact in an f64.
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        first: Duration::from_secs(1),
        cap: Duration::from_secs(10),
    };

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<u64> = (1..=6).map(|failures| POLICY.wait(failures, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn jitter_keeps_at_least_half_and_never_more_than_all() {
        assert_eq!(POLICY.wait(3, 0.0), Duration::from_secs(2));
        assert_eq!(POLICY.wait(3, 7.0), Duration::from_secs(4));
        assert!((0..100).map(|_| jitter()).all(|j| (0.0..1.0).contains(&j)));
    }

    #[test]
    fn any_count_of_failures_is_within_the_cap() {
        assert_eq!(POLICY.wait(u32::MAX, 1.0), Duration::from_secs(10));
        assert_eq!(POLICY.wait(0, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn success_starts_again_from_the_first_wait() {
        let mut backoff = Backoff::new(POLICY);
        for _ in 0..5 {
            backoff.failed();
        }
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.failed() <= POLICY.first);
    }
}
