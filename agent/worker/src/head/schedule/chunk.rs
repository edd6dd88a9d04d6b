//! How many rows of prompts a step has that goes through several stages while nobody decodes.
//!
//! A stage takes `f + r·c` for a step of `c` rows: `f` whatever the rows are, reading its weights above all, and `r` for each row. A prompt of
//! `n` rows goes through `s` stages in `n/c + s - 1` steps of the slowest one, which takes least time with `c = √(n·f / (r·(s - 1)))`:
//! smaller steps fill the pipeline sooner, larger ones read the weights less often. A processor has the least steps that it computes
//! well; a device that reads its weights for longer than it multiplies has the largest that there may be. Still smaller steps at the end
//! of a prompt, to empty the pipeline sooner, cost a processor more than they save: below those its attention is slow.

use super::draft::RoundTrip;
use super::request::{Limits, Tuning};

/// Rows for prompts that have so many to compute.
pub(super) fn rows(limits: &Limits, tuning: &Tuning, measured: Option<RoundTrip>, wanted: u32) -> u32 {
    let least = tuning.prompt_rows_alone;
    let hops = tuning.depth.saturating_sub(1) as u64;
    let time = measured.and_then(|measured| Some((measured.slowest_us, measured.prompt_row_us?)));
    let Some((fixed_us, row_us)) = time.map(|(one_us, row_us)| (one_us.saturating_sub(row_us), row_us.max(1))) else {
        return least;
    };
    if hops == 0 {
        return least;
    }
    let square = u64::from(wanted).saturating_mul(fixed_us) / row_us.saturating_mul(hops);
    let best = u32::try_from(square.isqrt()).unwrap_or(u32::MAX);
    best.clamp(least, limits.max_step_rows.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        parallel_sequences: 4,
        context_length: 4096,
        max_step_rows: 128,
        kv_cells: 0,
        prefix_sequences: 0,
    };

    /// A stage that takes so long for one row, and for each row of a prompt.
    fn taking(one_us: u64, row_us: u64) -> Option<RoundTrip> {
        Some(RoundTrip {
            round_us: one_us.saturating_mul(2),
            busy_us: one_us.saturating_mul(2),
            slowest_us: one_us,
            crowded_us: one_us,
            prompt_row_us: Some(row_us),
        })
    }

    fn of(stages: u32, measured: Option<RoundTrip>, wanted: u32) -> u32 {
        rows(&LIMITS, &Tuning::new(stages, &LIMITS), measured, wanted)
    }

    #[test]
    fn what_reads_its_weights_for_long_has_large_steps_and_what_multiplies_for_long_small_ones() {
        let (processor, card) = (taking(9_000, 3_500), taking(5_000, 50));
        assert_eq!(of(2, processor, 1000), 64);
        assert_eq!(of(2, card, 1000), 128, "as large as they may be");
        assert_eq!(of(2, taking(5_000, 500), 1000), 94, "√(1000 · 4500 / 500)");
        assert_eq!(
            of(5, taking(5_000, 500), 1000),
            64,
            "half of that is less than a processor does well"
        );
        assert_eq!(of(2, None, 1000), 64, "nothing is known");
        assert_eq!(of(1, card, 1000), 128, "one stage has nobody to wait for");
    }

    #[test]
    fn figures_that_cannot_be_are_no_danger() {
        for measured in [
            taking(0, 0),
            taking(u64::MAX, 0),
            taking(0, u64::MAX),
            taking(u64::MAX, u64::MAX),
        ] {
            for wanted in [0, 1, u32::MAX] {
                assert!((1..=128).contains(&of(8, measured, wanted)));
            }
        }
    }
}
