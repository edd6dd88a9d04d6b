//! PURE: whether a better placement is worth a move.
//!
//! A move costs the streams a pause and the nodes a load. It is made only for a gain that is large enough and has been so at every
//! look for long enough: devices that come and go and links that jitter never move a model.

use std::time::{Duration, Instant};

/// Looks are this far apart: each is a search.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is worth a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Less of the objective's time is no gain.
    pub percent: u32,
    /// It must have been there for so long.
    pub lasting: Duration,
}

impl Default for Threshold {
    /// A sixth, which no measurement's noise reaches, for ten minutes, which outlasts a node's restart.
    fn default() -> Self {
        Self {
            percent: 15,
            lasting: Duration::from_secs(600),
        }
    }
}

/// What was seen of better placements of one model.
#[derive(Debug, Default)]
pub struct Gain {
    looked: Option<Instant>,
    since: Option<Instant>,
}

impl Gain {
    /// Whether it is time to look.
    #[must_use]
    pub fn is_due(&self, threshold: Threshold, now: Instant) -> bool {
        self.looked.is_none_or(|at| now >= at + interval(threshold))
    }

    /// When it is time to look again, while there is something to wait for.
    #[must_use]
    pub fn wakes_at(&self, threshold: Threshold) -> Option<Instant> {
        self.since.and(self.looked).map(|at| at + interval(threshold))
    }

    /// Takes in one look; whether a gain has lasted.
    pub fn look(&mut self, percent: Option<u32>, threshold: Threshold, now: Instant) -> bool {
        self.looked = Some(now);
        if percent.is_none_or(|percent| percent < threshold.percent) {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) >= threshold.lasting
    }

    /// The placement changed: what was seen of the last one says nothing of this.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Several looks while a gain must last.
fn interval(threshold: Threshold) -> Duration {
    LOOK_EVERY.min(threshold.lasting / 4)
}

/// By how much less time the new plans take, in whole per cent; `None` where they take no less.
#[must_use]
pub fn percent(present_ns: u64, new_ns: u64) -> Option<u32> {
    let saved_ns = present_ns.checked_sub(new_ns).filter(|saved_ns| *saved_ns > 0)?;
    let percent = u128::from(saved_ns) * 100 / u128::from(present_ns);
    u32::try_from(percent).ok().filter(|percent| *percent > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLD: Threshold = Threshold {
        percent: 15,
        lasting: Duration::from_secs(600),
    };

    /// When a move is made, of looks a minute apart.
    fn moved_after(looks: impl IntoIterator<Item = Option<u32>>) -> Option<usize> {
        let (mut gain, start) = (Gain::default(), Instant::now());
        looks
            .into_iter()
            .enumerate()
            .find(|(minute, percent)| {
                gain.look(
                    *percent,
                    THRESHOLD,
                    start + LOOK_EVERY * u32::try_from(*minute).unwrap(),
                )
            })
            .map(|(minute, _)| minute)
    }

    #[test]
    fn a_gain_must_last() {
        assert_eq!(moved_after([Some(20); 30]), Some(10));
        assert_eq!(moved_after([Some(14); 30]), None, "too small");
        assert_eq!(moved_after([None; 30]), None);
    }

    #[test]
    fn a_device_that_comes_and_goes_moves_nothing() {
        let flapping = (0..600).map(|minute| (minute % 9 != 0).then_some(50));
        assert_eq!(moved_after(flapping), None);
    }

    #[test]
    fn a_link_that_jitters_around_the_threshold_moves_nothing() {
        let jittering = (0..600_u32).map(|minute| Some(13 + minute.wrapping_mul(2_654_435_761) % 5));
        assert_eq!(moved_after(jittering), None);
    }

    #[test]
    fn a_look_is_due_at_first_and_then_from_time_to_time() {
        let (mut gain, start) = (Gain::default(), Instant::now());
        assert!(gain.is_due(THRESHOLD, start));
        gain.look(None, THRESHOLD, start);
        assert_eq!(gain.wakes_at(THRESHOLD), None, "nothing is waited for");
        assert!(!gain.is_due(THRESHOLD, start + Duration::from_secs(59)));
        assert!(gain.is_due(THRESHOLD, start + LOOK_EVERY));
        gain.look(Some(20), THRESHOLD, start + LOOK_EVERY);
        assert_eq!(gain.wakes_at(THRESHOLD), Some(start + LOOK_EVERY * 2));
    }

    #[test]
    fn a_gain_is_what_is_saved_of_the_present() {
        assert_eq!(percent(100, 80), Some(20));
        assert_eq!(percent(80, 100), None);
        assert_eq!(percent(1000, 999), None, "less than one per cent");
        assert_eq!(percent(0, 0), None);
    }
}
