//! PURE: whether the next stage can be reached, and since when it cannot.
//!
//! The agents of both ends may be well, and each stage serve as far as its own node can tell: that no connection comes about between the
//! two, or none that carries a step, is known here alone. The latter is a path that swallows large packets: handshakes are small.

use std::time::{Duration, Instant};

/// A process that ends and is started again is away for less, and is no news. Of a peer that fell silent two seconds are gone when its
/// connection is given up; the third, and what the last handshake took, leave time for another one, however long the way there and back
/// is.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// What is told of an attempt that nobody has answered yet, and nothing failed before it.
const UNANSWERED: &str = "it does not answer";
/// What a path that carries handshakes and no step mostly does, and what a person can do about it.
const LARGE_PACKETS_LOST: &str = "; handshakes get through and no step does: packets of more than some size may be lost on the way, \
                                  check the MTU between the nodes";

/// What came of the connections to the next stage.
#[derive(Debug, Default)]
pub struct Reach {
    failing: Option<Failing>,
    /// The attempt under way.
    dialling: Option<Dialling>,
    /// A connection broke before anything was answered over it, and since then nothing was.
    barren: bool,
    /// What the last attempt took that the stage answered: three round trips, where nobody is busy.
    handshake: Duration,
}

#[derive(Debug)]
struct Dialling {
    /// See [`crate::placement::Installed::route`].
    route: u64,
    began: Instant,
}

#[derive(Debug)]
struct Failing {
    /// See [`crate::placement::Installed::route`].
    route: u64,
    /// When the first attempt began that failed, or the silence that ended a connection.
    since: Instant,
    /// What the last one ended with.
    cause: String,
    /// When it did.
    until: Instant,
}

impl Reach {
    /// An attempt begins.
    pub fn dials(&mut self, route: u64, began: Instant) {
        self.dialling = Some(Dialling { route, began });
    }

    /// It was given up by whoever made it, which says nothing of the next stage.
    pub fn gave_up(&mut self) {
        self.dialling = None;
    }

    /// An attempt has ended; without a cause the stage answered, which is no news of a path that breaks later.
    pub fn dialled(&mut self, route: u64, began: Instant, ended: Instant, cause: Option<String>) {
        self.dialling = None;
        if cause.is_none() {
            self.handshake = ended.saturating_duration_since(began);
        }
        if cause.is_some() || !self.barren {
            self.note(route, began, ended, cause);
        }
    }

    /// The connection broke under way, before anything was answered over it.
    pub fn broke(&mut self, route: u64, at: Instant, cause: String) {
        self.barren = true;
        self.note(route, at, at, Some(cause + LARGE_PACKETS_LOST));
    }

    /// The connection was given up at `at`, because nothing was heard over it since `since`.
    pub fn fell_silent(&mut self, route: u64, since: Instant, at: Instant, cause: String) {
        self.note(route, since, at, Some(cause));
    }

    /// A step was answered.
    pub fn answered(&mut self) {
        *self = Self {
            handshake: self.handshake,
            ..Self::default()
        };
    }

    fn note(&mut self, route: u64, began: Instant, ended: Instant, cause: Option<String>) {
        let before = self.failing.take().filter(|failing| failing.route == route);
        self.failing = cause.map(|cause| Failing {
            route,
            since: before.map_or(began, |before| before.since),
            cause,
            until: ended,
        });
    }

    /// Why the next stage cannot be reached by this route, once that is news. While nobody tries, time alone makes no
    /// news.
    pub fn told(&self, route: u64, now: Instant) -> Option<&str> {
        let dialling = self.dialling.as_ref().filter(|dialling| dialling.route == route);
        let failing = self.failing.as_ref().filter(|failing| failing.route == route);
        let (since, until, cause) = match (failing, dialling) {
            (Some(failing), Some(_)) => (failing.since, now, failing.cause.as_str()),
            (Some(failing), None) => (failing.since, failing.until, failing.cause.as_str()),
            (None, Some(dialling)) => (dialling.began, now, UNANSWERED),
            (None, None) => return None,
        };
        (until.saturating_duration_since(since) >= TELL_AFTER + self.handshake).then_some(cause)
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
        assert_eq!(reach.told(4, start + seconds(60)), None, "nobody tried since");
        reach.dialled(4, start + seconds(2), start + seconds(2), Some("refused".to_owned()));
        assert_eq!(reach.told(4, start + seconds(2)), None);
        reach.dialled(4, start + seconds(3), start + seconds(4), Some("no route".to_owned()));
        assert_eq!(reach.told(4, start + seconds(4)), Some("no route"));
        reach.dialled(4, start + seconds(5), start + seconds(5), None);
        assert_eq!(reach.told(4, start + seconds(6)), None);
    }

    #[test]
    fn a_silence_and_an_attempt_that_nobody_answers_are_news_together_before_the_attempt_has_ended() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.fell_silent(4, start, start + seconds(2), "nothing was heard".to_owned());
        reach.dials(4, start + seconds(2));
        let almost = start + TELL_AFTER - Duration::from_millis(1);
        assert_eq!(reach.told(4, almost), None);
        assert_eq!(reach.told(4, start + TELL_AFTER), Some("nothing was heard"));
        reach.dialled(4, start + seconds(2), start + seconds(4), None);
        assert_eq!(reach.told(4, start + seconds(4)), None, "it was there after all");
    }

    #[test]
    fn after_a_silence_a_far_stage_has_time_for_another_handshake_and_is_told_when_that_does_not_come_about() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        // A round trip of 0.9 s.
        let handshake = Duration::from_millis(2700);
        reach.dialled(4, start, start + handshake, None);
        reach.answered();
        let silent = start + seconds(60);
        reach.fell_silent(4, silent, silent + seconds(2), "nothing was heard".to_owned());
        reach.dials(4, silent + seconds(2));
        assert_eq!(reach.told(4, silent + seconds(2) + handshake), None);
        let late = silent + TELL_AFTER + handshake;
        assert_eq!(reach.told(4, late), Some("nothing was heard"));
        reach.dialled(4, silent + seconds(2), silent + seconds(2) + handshake, None);
        assert_eq!(reach.told(4, late), None);
    }

    #[test]
    fn an_attempt_that_is_given_up_for_other_reasons_says_nothing_of_the_next_stage() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.dials(4, start);
        assert_eq!(reach.told(4, start + TELL_AFTER), Some(UNANSWERED));
        assert_eq!(reach.told(5, start + TELL_AFTER), None, "it is of another route");
        reach.gave_up();
        assert_eq!(reach.told(4, start + TELL_AFTER), None);
    }

    #[test]
    fn an_attempt_that_took_long_is_news_at_once() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.dialled(4, start, start + seconds(5), Some("no connection".to_owned()));
        assert_eq!(reach.told(4, start + seconds(5)), Some("no connection"));
    }

    #[test]
    fn a_path_that_carries_the_handshake_and_no_step_is_news_until_a_step_is_answered() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        for second in [0, 2, 4] {
            assert_eq!(reach.told(4, start + seconds(second)), None);
            reach.dialled(4, start + seconds(second), start + seconds(second), None);
            reach.broke(4, start + seconds(second + 1), "timed out".to_owned());
        }
        let told = reach.told(4, start + seconds(7)).unwrap().to_owned();
        assert!(
            told.starts_with("timed out; ") && told.ends_with("check the MTU between the nodes"),
            "{told}"
        );
        reach.dialled(4, start + seconds(6), start + seconds(6), None);
        assert_eq!(
            reach.told(4, start + seconds(7)),
            Some(told.as_str()),
            "that it can be dialled is no news"
        );
        reach.answered();
        assert_eq!(reach.told(4, start + seconds(7)), None);
    }

    #[test]
    fn a_stage_that_cannot_even_be_dialled_sends_nobody_to_the_mtu() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.broke(4, start, "timed out".to_owned());
        reach.dialled(4, start + seconds(1), start + seconds(5), Some("refused".to_owned()));
        assert_eq!(reach.told(4, start + seconds(7)), Some("refused"));
    }

    #[test]
    fn what_was_tried_for_another_pipeline_or_address_says_nothing_of_this_one() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        reach.dialled(4, start, start + seconds(5), Some("no connection".to_owned()));
        assert_eq!(reach.told(5, start + seconds(7)), None);
        reach.dialled(
            5,
            start + seconds(6),
            start + seconds(7),
            Some("no connection".to_owned()),
        );
        assert_eq!(
            reach.told(5, start + seconds(7)),
            None,
            "the time of the other one does not count"
        );
    }
}
