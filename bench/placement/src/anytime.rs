//! What a budget of steps takes and loses: the answer where there is no time for a proof.

use crate::{
    race::{Outcome, ours},
    stats,
};

pub const BUDGETS_STEPS: [u64; 8] = [1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000];

/// The size and the time that the bar speaks of.
pub const BARRED_DEVICES: usize = 16;
pub const BARRED_MS: f64 = 10.0;

/// All instances of one size under one budget.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Row {
    pub devices: usize,
    pub steps: u64,
    pub instances: usize,
    pub without_plan: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Above the best value known.
    pub mean_gap_percent: f64,
    pub max_gap_percent: f64,
    /// By our own bound.
    pub mean_certified_gap_percent: f64,
}

pub fn measure(outcomes: &[Outcome<'_>]) -> Vec<Row> {
    let mut sizes: Vec<usize> = outcomes.iter().map(|outcome| outcome.instance.devices()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let rows = sizes.into_iter().flat_map(|devices| {
        let of_size: Vec<&Outcome<'_>> = outcomes.iter().filter(|o| o.instance.devices() == devices).collect();
        BUDGETS_STEPS.map(|steps| row(devices, steps, &of_size))
    });
    rows.collect()
}

fn row(devices: usize, steps: u64, outcomes: &[&Outcome<'_>]) -> Row {
    let (mut ms, mut gaps, mut certified, mut without_plan) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for outcome in outcomes {
        let guess = ours(outcome.instance, steps);
        ms.push(guess.ms);
        certified.extend(guess.gap_percent());
        match (guess.objective, outcome.best()) {
            (Some(found), Some(best)) => gaps.push((found as f64 / best as f64 - 1.0) * 100.0),
            (None, Some(_)) => without_plan += 1,
            (_, None) => {}
        }
    }
    Row {
        devices,
        steps,
        instances: outcomes.len(),
        without_plan,
        p50_ms: stats::percentile(&ms, 0.5),
        p99_ms: stats::percentile(&ms, 0.99),
        mean_gap_percent: stats::mean(&gaps),
        max_gap_percent: stats::largest(&gaps),
        mean_certified_gap_percent: stats::mean(&certified),
    }
}

/// The largest budget that is kept to the time of the bar.
pub fn barred(rows: &[Row]) -> Option<&Row> {
    let in_time = |row: &&Row| row.devices == BARRED_DEVICES && row.p99_ms <= BARRED_MS;
    rows.iter().filter(in_time).max_by_key(|row| row.steps)
}
