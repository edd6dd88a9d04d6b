//! How long to wait before the pipeline is opened again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first wait: a worker that restarts on the same node is back in little more.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait: a pipeline whose stage comes back is noticed within this time.
const LONGEST: Duration = Duration::from_secs(2);

/// The wait after so many failures in a row (from 1), spread by `random` over its upper half.
pub fn delay(failures: u32, random: u64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let whole = doubled.min(LONGEST);
    let half = whole / 2;
    // 2^16 steps are fine enough for milliseconds.
    half + half * u32::from(random as u16) / u32::from(u16::MAX)
}

/// A number that differs between processes and calls; for spreading load, not for secrets.
pub fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_cap_and_never_below_half() {
        assert_eq!(delay(1, 0), FIRST / 2);
        assert_eq!(delay(1, u64::MAX), FIRST);
        assert_eq!(delay(2, u64::MAX), FIRST * 2);
        for failures in [7, 40, u32::MAX] {
            assert_eq!(delay(failures, 0), LONGEST / 2);
            assert_eq!(delay(failures, u64::MAX), LONGEST);
        }
    }
}
