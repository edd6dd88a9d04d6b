//! PURE: how much of the weights people are shown as fetched: often enough to see it move, seldom enough to be no burden.

use std::time::{Duration, Instant};

use crds::StagePhase;

use super::stages::StageSight;

/// A stage that came this much further is shown at once.
const STEP_PERCENT: u64 = 10;
/// Less is shown after this long.
const INTERVAL: Duration = Duration::from_secs(5);

/// Bytes of one stage's present phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Of these.
    pub total: u64,
    /// So many are done.
    pub done: u64,
}

impl Bytes {
    /// Whole per cent; `None` where the total is not known.
    #[must_use]
    pub fn percent(self) -> Option<u64> {
        let percent = u128::from(self.done.min(self.total)) * 100;
        (self.total > 0).then(|| u64::try_from(percent / u128::from(self.total)).unwrap_or(100))
    }
}

/// What is shown of one model at present. Its status changes for progress at most once per [`STEP_PERCENT`] of each stage and
/// once per [`INTERVAL`] altogether.
#[derive(Debug, Default)]
pub struct Progress {
    epoch: u64,
    shown: Vec<(StagePhase, Bytes)>,
    at: Option<Instant>,
    behind: bool,
}

impl Progress {
    /// Puts into the sights what is to be shown of them now.
    pub fn show(&mut self, epoch: u64, sights: &mut [StageSight], now: Instant) {
        let actual: Vec<(StagePhase, Bytes)> = sights.iter().map(|sight| (sight.phase, sight.bytes)).collect();
        let elapsed = self.at.is_none_or(|at| now.saturating_duration_since(at) >= INTERVAL);
        let same_stages = self.epoch == epoch && self.shown.len() == actual.len();
        let due = !same_stages
            || self
                .shown
                .iter()
                .zip(&actual)
                .any(|(shown, actual)| shown.0 != actual.0)
            || self
                .shown
                .iter()
                .zip(&actual)
                .any(|(shown, actual)| is_step(shown.1, actual.1))
            || elapsed;
        if due && (!same_stages || self.shown != actual) {
            (self.epoch, self.at) = (epoch, Some(now));
            self.shown.clone_from(&actual);
        }
        self.behind = self.shown != actual;
        for (sight, (_, bytes)) in sights.iter_mut().zip(&self.shown) {
            sight.bytes = *bytes;
        }
    }

    /// When what is held back is shown.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.at.filter(|_| self.behind).map(|at| at + INTERVAL)
    }
}

/// Whether a stage came a step further, began anew, or has a total by now.
fn is_step(shown: Bytes, actual: Bytes) -> bool {
    if shown.total != actual.total || actual.done < shown.done {
        return shown != actual;
    }
    let (was, is) = (shown.percent().unwrap_or(0), actual.percent().unwrap_or(0));
    is >= was + STEP_PERCENT || (is == 100 && was < 100)
}

#[cfg(test)]
mod tests {
    use proto::control::v1::ShardPhase;

    use super::*;
    use crate::model::{fixture, stages};

    const TOTAL: u64 = 1000;

    /// Shows one stage with so much done; what was shown of it.
    fn shown(progress: &mut Progress, done: u64, now: Instant) -> u64 {
        let in_force = fixture::in_force(1, &["a"]);
        let mut agents = fixture::agents(&["a"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Fetching);
        let mut sights = stages::look(&in_force, &agents);
        sights[0].bytes = Bytes { total: TOTAL, done };
        progress.show(1, &mut sights, now);
        sights[0].bytes.done
    }

    #[test]
    fn a_tenth_is_shown_at_once_and_less_after_a_while() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        assert_eq!(shown(&mut progress, 10, start), 10);
        assert_eq!(shown(&mut progress, 100, start), 10);
        assert_eq!(progress.wakes_at(), Some(start + INTERVAL));
        assert_eq!(shown(&mut progress, 110, start), 110);
        assert_eq!(progress.wakes_at(), None);
        assert_eq!(shown(&mut progress, 120, start + INTERVAL), 120);
        assert_eq!(shown(&mut progress, TOTAL, start + INTERVAL), TOTAL);
        assert_eq!(shown(&mut progress, 5, start + INTERVAL), 5, "it began anew");
    }

    #[test]
    fn a_fetch_of_a_million_reports_changes_the_status_a_dozen_times() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let mut values: Vec<u64> = (0..=TOTAL).map(|done| shown(&mut progress, done, start)).collect();
        values.dedup();
        assert!(values.len() <= 12, "{values:?}");
        assert_eq!(values.last(), Some(&TOTAL));
    }
}
