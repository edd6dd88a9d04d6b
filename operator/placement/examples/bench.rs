//! Times the exact core on the committed instances:
//! `cargo run --release -p placement --example bench -- [STEPS [FILTER [sum|bottleneck|unequal]]]`.
//!
//! Per family, size and tightness: how many were proved optimal, time per instance, and what a quick guess costs in comparison.

#[path = "../tests/core/instances.rs"]
mod instances;

use std::{collections::BTreeMap, env, time::Instant};

use instances::Instance;
use placement::core::{Answer, Budget, Objective, Problem, solve};

/// Of unequal layers every sixth counts for this many: in time and in room.
const LARGE_LAYER: usize = 3;

/// A budget that ends with the first beam and its local search.
const GUESS_STEPS: u64 = 20_000;
/// Of each instance; the median counts. One where it takes long.
const RUNS: usize = 3;

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
    let kind = args.next().unwrap_or_else(|| "sum".to_owned());
    let objective = if kind == "bottleneck" {
        Objective::Bottleneck
    } else {
        Objective::LATENCY
    };
    let mut rows: BTreeMap<(usize, String, String), Row> = BTreeMap::new();
    for mut instance in instances::all().into_iter().filter(|i| i.name.contains(&filter)) {
        if kind == "unequal" {
            make_unequal(&mut instance.problem);
        }
        if kind != "sum" {
            instance.best_known = None;
        }
        let parts: Vec<&str> = instance.name.split('_').collect();
        let [family, size, rho, _] = parts[..] else { continue };
        for key in [(family, rho), ("all", "all"), ("all", rho)] {
            let key = (instance.units(), format!("{size} {}", key.0), key.1.to_owned());
            measure(&instance, objective, steps, rows.entry(key).or_default());
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

fn measure(instance: &Instance, objective: Objective, steps: u64, row: &mut Row) {
    let budget = |steps| Budget { steps, seed: 1 };
    let mut times = Vec::new();
    let mut solved = None;
    for _ in 0..RUNS {
        let begun = Instant::now();
        solved = Some(solve(&instance.problem, objective, budget(steps)).expect("a valid instance"));
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        if times[0] > 500.0 {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    let solved = solved.expect("one run");
    let guess = solve(&instance.problem, objective, budget(GUESS_STEPS)).expect("a valid instance");
    row.ms.push(times[times.len() / 2]);
    row.steps = row.steps.max(solved.steps);
    let proved = matches!(solved.answer, Answer::Optimal(_) | Answer::Infeasible);
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
}

/// Every sixth layer takes more time and more room, the same in sum.
fn make_unequal(problem: &mut Problem) {
    let weight = |layer: usize| if layer.is_multiple_of(6) { LARGE_LAYER } else { 1 };
    let layers = problem.layers;
    let total: usize = (0..layers).map(weight).sum();
    for unit in &mut problem.units {
        let layer_ns = unit.elapsed_ns[1];
        let room = unit.reach[0] * total / layers;
        for end in 1..=layers {
            unit.elapsed_ns[end] = unit.elapsed_ns[end - 1] + layer_ns * weight(end - 1) as u64;
        }
        for first in 0..layers {
            let fits = |end: &usize| (first..*end).map(weight).sum::<usize>() <= room;
            unit.reach[first] = (first + 1..=layers).take_while(fits).last().unwrap_or(first);
        }
    }
}
