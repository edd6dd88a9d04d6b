//! Times the exact core on the committed instances: `cargo run --release -p placement --example bench [STEPS [FILTER]]`.
//!
//! Per family, size and tightness: how many were proved optimal, time per instance, and what a quick guess costs in comparison.

#[path = "../tests/core/instances.rs"]
mod instances;

use std::{collections::BTreeMap, env, time::Instant};

use instances::Instance;
use placement::core::{Answer, Budget, Objective, solve};

/// A budget that ends with the first beam and its local search.
const GUESS_STEPS: u64 = 20_000;
const RUNS: usize = 1;

#[derive(Default)]
struct Row {
    ms: Vec<f64>,
    proved: usize,
    ratio: Vec<f64>,
    gap: Vec<f64>,
    steps: u64,
    wrong: usize,
}

fn main() {
    let mut args = env::args().skip(1);
    let steps = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(3_000_000);
    let filter = args.next().unwrap_or_default();
    let verbose = args.next().is_some();
    let mut rows: BTreeMap<(usize, String, String), Row> = BTreeMap::new();
    for instance in instances::all().iter().filter(|i| i.name.contains(&filter)) {
        let parts: Vec<&str> = instance.name.split('_').collect();
        let [family, size, rho, _] = parts[..] else { continue };
        for key in [(family, rho), ("all", "all"), ("all", rho)] {
            let key = (instance.units(), format!("{size} {}", key.0), key.1.to_owned());
            measure(instance, steps, rows.entry(key).or_default(), verbose);
            if !filter.is_empty() {
                break;
            }
        }
    }
    println!(
        "{:22} {:4} {:>7} {:>9} {:>9} {:>9} {:>8} {:>8} {:>11}",
        "size family", "rho", "proved", "p50 ms", "p90 ms", "max ms", "guess", "gap %", "steps max"
    );
    for ((_, name, rho), mut row) in rows {
        row.ms.sort_by(f64::total_cmp);
        let at = |q: usize| row.ms[(row.ms.len() - 1) * q / 100];
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let max_gap = row.gap.iter().copied().fold(0.0, f64::max);
        println!(
            "{name:22} {rho:4} {:>3}/{:<3} {:>9.2} {:>9.2} {:>9.2} {:>8.4} {:>8.3} {:>11}{}",
            row.proved,
            row.ms.len(),
            at(50),
            at(90),
            at(100),
            mean(&row.ratio),
            max_gap,
            row.steps,
            if row.wrong > 0 { "  WRONG" } else { "" },
        );
    }
}

fn measure(instance: &Instance, steps: u64, row: &mut Row, verbose: bool) {
    let budget = |steps| Budget { steps, seed: 1 };
    let mut times = Vec::new();
    let mut solved = None;
    for _ in 0..RUNS {
        let begun = Instant::now();
        solved = Some(solve(&instance.problem, Objective::LATENCY, budget(steps)).expect("a valid instance"));
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        if times[0] > 500.0 {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    let solved = solved.expect("one run");
    let guess = solve(&instance.problem, Objective::LATENCY, budget(GUESS_STEPS)).expect("a valid instance");
    row.ms.push(times[times.len() / 2]);
    row.steps = row.steps.max(solved.steps);
    let proved = matches!(solved.answer, Answer::Optimal(_));
    row.proved += usize::from(proved);
    let cost = |answer: &Answer| answer.route().map_or(f64::NAN, |route| route.cost_ns as f64);
    row.ratio.push(cost(&guess.answer) / cost(&solved.answer));
    row.gap
        .push((cost(&solved.answer) / solved.answer.bound_ns() as f64 - 1.0) * 100.0);
    if let Some(best) = instance.best_known {
        let found = solved.answer.route().map_or(0, |route| route.cost_ns);
        let bad = solved.answer.bound_ns() > best || (proved && instance.is_proved && found != best);
        row.wrong += usize::from(bad);
    }
    if verbose {
        println!(
            "{} {:?} bound {} known {:?} steps {} {:.1} ms",
            instance.name,
            solved.answer.route().map(|r| r.cost_ns),
            solved.answer.bound_ns(),
            instance.best_known,
            solved.steps,
            times[times.len() / 2]
        );
    }
}
