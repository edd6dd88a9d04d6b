//! Thousands of small worlds under random faults, each by its seed; what broke once is looked at first.
//!
//! `SEEDS=from..to` runs others, `SEED=n` one, with the operators' log.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use simulation::seeded::{Report, run};

/// Seeds that broke something once, one a line, with what it was.
const KNOWN: &str = include_str!("regressions.txt");
/// Seeds of every run.
const SEEDS: &str = "0..5000";
/// Failures that are told.
const TOLD: usize = 10;

fn known() -> Vec<u64> {
    let lines = KNOWN.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let first = lines.filter_map(|line| line.split_whitespace().next());
    first
        .map(|seed| seed.parse().expect("a seed begins the line"))
        .collect()
}

fn seeds() -> Vec<u64> {
    if let Ok(one) = std::env::var("SEED") {
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
            .try_init();
        return vec![one.parse().expect("SEED=n")];
    }
    let text = std::env::var("SEEDS").unwrap_or_else(|_| SEEDS.into());
    let (from, to) = text.split_once("..").expect("SEEDS=from..to");
    let range = from.parse::<u64>().expect("a number")..to.parse().expect("a number");
    known().into_iter().chain(range).collect()
}

fn run_all(seeds: &[u64]) -> Vec<(u64, Report)> {
    let (next, reports) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run(*seed);
                    reports.lock().expect("no run panicked").push((*seed, report));
                }
            });
        }
    });
    reports.into_inner().expect("no run panicked")
}

#[test]
fn whatever_happens_everything_serves_again_and_nothing_forbidden_happens_meanwhile() {
    let began = Instant::now();
    let reports = run_all(&seeds());
    let hours = reports
        .iter()
        .map(|(_, report)| report.lasted.as_secs_f64())
        .sum::<f64>()
        / 3600.0;
    let mut recovered: Vec<Duration> = reports.iter().map(|(_, report)| report.recovered).collect();
    recovered.sort();
    let at = |share: usize| recovered[(recovered.len() - 1) * share / 1000].as_secs();
    println!(
        "{} seeds in {:.1?}: {hours:.1} simulated hours; served again after {} s at the median, {} s in 99 of 100, {} s at most; at most {} status writes",
        reports.len(),
        began.elapsed(),
        at(500),
        at(990),
        at(1000),
        reports
            .iter()
            .map(|(_, report)| report.writes)
            .max()
            .unwrap_or_default(),
    );
    let failed: Vec<_> = reports.iter().filter(|(_, report)| !report.broken.is_empty()).collect();
    for (seed, report) in failed.iter().take(TOLD) {
        println!(
            "seed {seed}:\n  {}\n  {}",
            report.trace.join("\n  "),
            report.broken.join("\n  ")
        );
    }
    let numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} seeds fail: {numbers:?}", failed.len());
}
