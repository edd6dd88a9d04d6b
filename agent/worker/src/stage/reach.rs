//! PURE: whether the next stage can be reached, and since when it cannot.
//!
//! The agents of both ends may be well, and each stage serve as far as its own node can tell: that no connection comes about between the
//! two, or none that carries a step, is known here alone. The latter is a path that swallows large packets: handshakes are small.

use std::time::{Duration, Instant};

/// A process that ends and is started again is away for less, and is no news.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// What a path that carries handshakes and no step mostly does, and what a person can do about it.
const LARGE_PACKETS_LOST: &str = "; handshakes get through and no step does: packets of more than some size may be lost on the way, \
                                  check the MTU between the nodes";

/// What came of the connections to the next stage.
#[derive(Debug, Default)]
pub struct Reach {
    failing: Option<Failing>,
    /// A connection broke before anything was answered over it, and since then nothing was.
    barren: bool,
}

#[derive(Debug)]
struct Failing {
    /// Of the pipeline.
    epoch: u64,
    /// When the first attempt began that failed.
    since: Instant,
    /// What the last one ended with.
    cause: String,
    /// When it did.
    until: Instant,
}

impl Reach {
    /// An attempt has ended; without a cause the stage answered, which is no news of a path that breaks later.
    pub fn dialled(&mut self, epoch: u64, began: Instant, ended: Instant, cause: Option<String>) {
        if cause.is_some() || !self.barren {
            self.note(epoch, began, ended, cause);
        }
    }

    /// The connection broke under way, before anything was answered over it.
    pub fn broke(&mut self, epoch: u64, at: Instant, cause: String) {
        self.barren = true;
        self.note(epoch, at, at, Some(cause + LARGE_PACKETS_LOST));
    }

    /// A step was answered.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    fn note(&mut self, epoch: u64, began: Instant, ended: Instant, cause: Option<String>) {
        let before = self.failing.take().filter(|failing| failing.epoch == epoch);
        self.failing = cause.map(|cause| Failing {
            epoch,
            since: before.map_or(began, |before| before.since),
            cause,
            until: ended,
        });
    }

    /// Why the next stage of the pipeline of this epoch cannot be dialled, once that is news.
    pub fn told(&self, epoch: u64) -> Option<&str> {
        let failing = self.failing.as_ref()?;
        let lasts = failing.until.saturating_duration_since(failing.since);
        (failing.epoch == epoch && lasts >= TELL_AFTER).then_some(&failing.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_stage_that_is_away_for_a_moment_is_no_news_and_one_that_stays_away_is() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.dialled(4, start, start, Some("refused".to_owned()));
        assert_eq!(reach.told(4), None);
        reach.dialled(4, start + seconds(2), start + seconds(2), Some("refused".to_owned()));
        assert_eq!(reach.told(4), None);
        reach.dialled(4, start + seconds(3), start + seconds(4), Some("no route".to_owned()));
        assert_eq!(reach.told(4), Some("no route"));
        reach.dialled(4, start + seconds(5), start + seconds(5), None);
        assert_eq!(reach.told(4), None);
    }

    #[test]
    fn an_attempt_that_took_long_is_news_at_once() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.dialled(4, start, start + seconds(5), Some("no connection".to_owned()));
        assert_eq!(reach.told(4), Some("no connection"));
    }

    #[test]
    fn a_path_that_carries_the_handshake_and_no_step_is_news_until_a_step_is_answered() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        for second in [0, 2, 4] {
            assert_eq!(reach.told(4), None);
            reach.dialled(4, start + seconds(second), start + seconds(second), None);
            reach.broke(4, start + seconds(second + 1), "timed out".to_owned());
        }
        let told = reach.told(4).unwrap().to_owned();
        assert!(
            told.starts_with("timed out; ") && told.ends_with("check the MTU between the nodes"),
            "{told}"
        );
        reach.dialled(4, start + seconds(6), start + seconds(6), None);
        assert_eq!(reach.told(4), Some(told.as_str()), "that it can be dialled is no news");
        reach.answered();
        assert_eq!(reach.told(4), None);
    }

    #[test]
    fn a_stage_that_cannot_even_be_dialled_sends_nobody_to_the_mtu() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.broke(4, start, "timed out".to_owned());
        reach.dialled(4, start + seconds(1), start + seconds(5), Some("refused".to_owned()));
        assert_eq!(reach.told(4), Some("refused"));
    }

    #[test]
    fn what_was_tried_for_another_pipeline_says_nothing_of_this_one() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.dialled(4, start, start + seconds(5), Some("no connection".to_owned()));
        assert_eq!(reach.told(5), None);
        reach.dialled(
            5,
            start + seconds(6),
            start + seconds(7),
            Some("no connection".to_owned()),
        );
        assert_eq!(reach.told(5), None, "the time of the other one does not count");
    }
}
