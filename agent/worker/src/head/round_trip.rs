//! PURE: how long steps take, for the schedule to know what drafts cost and how large steps of prompts should be.

use super::schedule::RoundTrip;

/// A new value counts for one part in so many: one slow step says little.
const WEIGHT: u64 = 8;
/// A step that is alone makes what company costs fade by one part in so many: nothing is drafted while that is too much, and nobody
/// would notice that it has become less.
const FADING: u64 = 256;

/// A step of one row that was answered. Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// Computing of all stages.
    pub busy_us: u64,
    /// Of the slowest stage.
    pub slowest_us: u64,
    /// From the head to the tail and back, where nothing else was under way meanwhile.
    pub alone_us: Option<u64>,
}

/// From so many rows on a step tells what a row more takes.
const MANY: u32 = 32;

/// Running means over steps of one row, and of many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    round: Mean,
    busy: Mean,
    slowest: Mean,
    crowded: Mean,
    /// Rows of steps of many, and what the slowest stage took for them.
    many: (Mean, Mean),
}

/// In [`WEIGHT`]ths, so that small differences are not lost.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Option<u64>);

impl Meter {
    /// Takes a step in.
    pub(super) fn observe(&mut self, answered: Answered) {
        let Answered {
            busy_us,
            slowest_us,
            alone_us,
        } = answered;
        let Some(round_us) = alone_us else {
            return self.crowded.observe(slowest_us);
        };
        self.round.observe(round_us);
        self.busy.observe(busy_us);
        self.slowest.observe(slowest_us);
        if let (Some(crowded), Some(slowest)) = (&mut self.crowded.0, self.slowest.0) {
            *crowded -= crowded.saturating_sub(slowest).div_ceil(FADING);
        }
    }

    /// Takes a step of that many rows in. `slowest_us`: computing of the slowest stage.
    pub(super) fn observe_rows(&mut self, rows: u32, slowest_us: u64) {
        if rows >= MANY {
            self.many.0.observe(u64::from(rows));
            self.many.1.observe(slowest_us);
        }
    }

    /// What a step of many rows takes longer than one of one row, by the row.
    fn prompt_row_us(&self, one_us: u64) -> Option<u64> {
        let (rows, many_us) = (self.many.0.value()?, self.many.1.value()?);
        Some(many_us.saturating_sub(one_us) / rows.saturating_sub(1).max(1))
    }

    /// The means; `None` before a step was alone.
    pub(super) fn measured(&self) -> Option<RoundTrip> {
        let slowest_us = self.slowest.value()?;
        Some(RoundTrip {
            round_us: self.round.value()?,
            busy_us: self.busy.value()?,
            slowest_us,
            crowded_us: self.crowded.value().unwrap_or(slowest_us).max(slowest_us),
            prompt_row_us: self.prompt_row_us(slowest_us),
        })
    }
}

impl Mean {
    fn observe(&mut self, value: u64) {
        self.0 = Some(match self.0 {
            None => value.saturating_mul(WEIGHT),
            Some(mean) => (mean - mean / WEIGHT).saturating_add(value),
        });
    }

    fn value(self) -> Option<u64> {
        Some(self.0? / WEIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(slowest_us: u64, alone_us: Option<u64>) -> Answered {
        Answered {
            busy_us: 2 * slowest_us,
            slowest_us,
            alone_us,
        }
    }

    #[test]
    fn one_odd_step_moves_the_means_little_and_many_alike_settle_them() {
        let mut meter = Meter::default();
        meter.observe(step(1000, None));
        assert_eq!(meter.measured(), None, "no step was alone yet");
        meter.observe(step(1000, Some(2100)));
        meter.observe(step(9000, Some(2100)));
        let odd = meter.measured().unwrap();
        assert_eq!((odd.slowest_us, odd.busy_us, odd.round_us), (2000, 4000, 2100));
        for _ in 0..100 {
            meter.observe(step(1000, Some(2100)));
        }
        assert_eq!(meter.measured().unwrap().slowest_us, 1000);
    }

    #[test]
    fn what_a_row_more_takes_follows_from_steps_of_one_row_and_of_many() {
        let mut meter = Meter::default();
        for _ in 0..10 {
            meter.observe_rows(65, 33_000);
        }
        meter.observe_rows(MANY - 1, 9_000_000);
        assert_eq!(meter.measured(), None, "a row alone is not known");
        meter.observe(step(1000, Some(2100)));
        assert_eq!(meter.measured().unwrap().prompt_row_us, Some(500));
    }

    #[test]
    fn what_company_costs_is_measured_apart_and_fades_while_there_is_none() {
        let mut meter = Meter::default();
        meter.observe(step(1000, Some(2100)));
        assert_eq!(meter.measured().unwrap().crowded_us, 1000, "nothing is known");
        meter.observe(step(1600, None));
        let measured = meter.measured().unwrap();
        assert_eq!((measured.slowest_us, measured.crowded_us), (1000, 1600));
        for _ in 0..2000 {
            meter.observe(step(1000, Some(2100)));
        }
        assert_eq!(meter.measured().unwrap().crowded_us, 1000);
    }
}
