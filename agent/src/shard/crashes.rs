//! Ends of a worker that nobody asked for, and from when on they are a habit. Pure.

use super::observed::Fault;
use crate::worker::exit;
use crds::conditions::reason;

/// One end may be chance, and two may have one cause.
const HABIT: u32 = 3;

/// Ends since the worker last served for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crashes {
    count: u32,
    first_ms: u64,
}

impl Crashes {
    pub(super) fn are_none(self) -> bool {
        self.count == 0
    }

    /// One more, and what is said of it. What ends by habit says how often and in what time; its reason is that, unless the worker
    /// gave one that says what to do.
    pub(super) fn count(&mut self, fault: Fault, now_ms: u64) -> Fault {
        if self.count == 0 {
            self.first_ms = now_ms;
        }
        self.count = self.count.saturating_add(1);
        if self.count < HABIT {
            return fault;
        }
        let Fault { reason, message } = &fault;
        let (count, within) = (self.count, span(now_ms.saturating_sub(self.first_ms)));
        let told = match exit::explains(reason) {
            true => reason.as_str(),
            false => reason::CRASH_LOOP,
        };
        Fault::new(
            told,
            format!(
                "the worker ended {count} times within {within} and is started again each time; the last time: {reason}: \
                 {message}"
            ),
        )
    }
}

fn span(ms: u64) -> String {
    match ms.div_ceil(1000) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(faults: &[(&str, u64)]) -> Fault {
        let mut crashes = Crashes::default();
        let mut told = None;
        for (reason, now_ms) in faults {
            told = Some(crashes.count(Fault::new(reason, "its last line: boom"), *now_ms));
        }
        told.unwrap()
    }

    #[test]
    fn two_ends_are_told_as_they_are_and_the_third_as_a_habit_with_count_time_and_cause() {
        let crashed = ("Crashed", 1_000);
        assert_eq!(last(&[crashed; 2]), Fault::new("Crashed", "its last line: boom"));
        let habit = last(&[crashed, ("Hung", 9_000), ("Crashed", 31_500)]);
        assert_eq!(habit.reason, "CrashLoop");
        assert_eq!(
            habit.message,
            "the worker ended 3 times within 31 s and is started again each time; the last time: Crashed: its last line: \
             boom"
        );
        let message = last(&[crashed, crashed, crashed, ("Crashed", 600_000)]).message;
        assert!(
            message.starts_with("the worker ended 4 times within 10 min and"),
            "{message}"
        );
    }

    #[test]
    fn a_reason_that_says_what_to_do_stays_the_reason_and_the_count_is_told_with_it() {
        for reason in ["InsufficientMemory", "BadWeights", "BackendUnavailable", "DeviceLost"] {
            let habit = last(&[(reason, 0), (reason, 0), (reason, 2_000)]);
            assert_eq!(habit.reason, reason);
            assert!(
                habit.message.starts_with("the worker ended 3 times within 2 s"),
                "{}",
                habit.message
            );
        }
    }
}
