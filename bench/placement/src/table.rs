//! The tables, and what goes into the file.

use report::Report;
use serde_json::{Value, json};

use crate::{
    anytime::{self, Row},
    peers::PEERS,
    questions,
    race::{self, Outcome},
    rules::{RULES, Rule},
    speedup::{self, Uses},
    stats,
};

/// One of the simpler uses of the hardware.
type Use = fn(&Uses) -> Option<u64>;

/// Up to here a proof is expected of everybody, so that times to it can be compared.
const COMPARED_DEVICES: usize = 16;

pub fn print_all(outcomes: &[Outcome<'_>], anytime: &[Row], questions: &[questions::Row], report: &mut Report) {
    report.entries("instances", outcomes.iter().map(Outcome::to_json).collect());
    proofs(outcomes, report);
    compared(outcomes, report);
    losses(outcomes, report);
    few_steps(anytime, report);
    other_questions(questions, report);
    others_rules(outcomes, report);
    simpler_uses(outcomes, report);
}

fn named(key: &str) -> &str {
    key.trim_start_matches('~')
}

/// Per size, family and tightness: how often and how soon each solver has a proof.
fn proofs(outcomes: &[Outcome<'_>], report: &mut Report) {
    println!("\ntime to a proof, ms; one without counts with the time it was given");
    println!(
        "{:8} {:6} {:4} {:>9} {:>9} {:>9} {:>9} {:>7} | {:>9} {:>9} {:>9} | {:>9} {:>9} {:>9}",
        "size", "family", "rho", "proved", "p50", "p90", "max", "gap %", "CP-SAT", "p50", "max", "HiGHS", "p50", "max"
    );
    for ((_, family, rho), cell) in race::cells(outcomes) {
        let ms: Vec<f64> = cell.iter().map(|o| o.ours.ms).collect();
        let proved = cell.iter().filter(|o| o.ours.proved).count();
        let gaps: Vec<f64> = cell.iter().filter_map(|o| o.ours.gap_percent()).collect();
        print!(
            "{:8} {:6} {:4} {:>9} {:>9.2} {:>9.2} {:>9.2} {:>7.3}",
            cell[0].instance.size,
            named(&family),
            named(&rho),
            format!("{proved}/{}", cell.len()),
            stats::percentile(&ms, 0.5),
            stats::percentile(&ms, 0.9),
            stats::largest(&ms),
            stats::largest(&gaps),
        );
        for peer in 0..PEERS.len() {
            let theirs: Vec<_> = cell.iter().filter_map(|o| o.theirs[peer]).collect();
            let proved = theirs.iter().filter(|t| t.is_proved()).count();
            let ms: Vec<f64> = theirs.iter().map(|t| t.ms).collect();
            match ms.is_empty() {
                true => print!(" | {:>9} {:>9} {:>9}", "-", "-", "-"),
                false => print!(
                    " | {:>9} {:>9.1} {:>9.1}",
                    format!("{proved}/{}", ms.len()),
                    stats::percentile(&ms, 0.5),
                    stats::largest(&ms)
                ),
            }
        }
        println!();
    }
    for (size, limit_ms, rhos) in [
        ("8x32", 100.0, ["0.3", "0.6", "0.9"].as_slice()),
        ("12x64", 100.0, &["0.3", "0.6", "0.9"]),
        ("16x80", 100.0, &["0.3", "0.6", "0.9"]),
        ("16x80", 500.0, &["0.3", "0.6", "0.9"]),
        ("32x126", 5_000.0, &["0.3", "0.6"]),
    ] {
        let of_size = |o: &&Outcome<'_>| o.instance.size == size && rhos.contains(&o.instance.rho.as_str());
        let to_proof = |o: &Outcome<'_>| if o.ours.proved { o.ours.ms } else { f64::INFINITY };
        let ms: Vec<f64> = outcomes.iter().filter(of_size).map(to_proof).collect();
        let limit = if limit_ms < 1_000.0 {
            format!("{limit_ms}ms")
        } else {
            format!("{}s", limit_ms / 1e3)
        };
        let percent = (!ms.is_empty()).then(|| stats::percent_below(&ms, limit_ms));
        report.set(&format!("proved_under_{limit}_percent.{size}"), percent);
    }
    let large = outcomes.iter().filter(|o| o.instance.devices() > COMPARED_DEVICES);
    let gaps: Vec<f64> = large.filter_map(|o| o.ours.gap_percent()).collect();
    let largest = (!gaps.is_empty()).then(|| stats::largest(&gaps));
    report.set("certified_gap_percent.large", largest);
}

/// How much longer the others take, by family.
fn compared(outcomes: &[Outcome<'_>], report: &mut Report) {
    println!("\ntime to a proof / ours, geometric mean up to 16 devices; a time limit counts as if it were the proof");
    let small: Vec<&Outcome<'_>> = outcomes
        .iter()
        .filter(|o| o.instance.devices() <= COMPARED_DEVICES)
        .collect();
    let mut families: Vec<&str> = small.iter().map(|o| o.instance.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    let ratio = |peer: usize, family: Option<&str>| {
        let of_family = small.iter().filter(|o| family.is_none_or(|f| o.instance.family == f));
        let ratios: Vec<f64> = of_family.filter_map(|o| o.times_faster_than(peer)).collect();
        (!ratios.is_empty()).then(|| stats::geometric_mean(&ratios))
    };
    let text = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.1}"));
    println!("{:8} {:>8} {:>8}", "family", "CP-SAT", "HiGHS");
    let mut rows = Vec::new();
    for family in families.into_iter().map(Some).chain([None]) {
        let (cpsat, highs) = (ratio(0, family), ratio(1, family));
        println!("{:8} {:>8} {:>8}", family.unwrap_or("all"), text(cpsat), text(highs));
        rows.push(json!({ "family": family, "vs_cpsat": cpsat, "vs_highs": highs }));
    }
    report.entries("families", rows);
    report.set("geomean.vs_cpsat", ratio(0, None));
    report.set("geomean.vs_highs", ratio(1, None));
}

fn losses(outcomes: &[Outcome<'_>], report: &mut Report) {
    let losses: Vec<String> = outcomes.iter().flat_map(Outcome::losses).collect();
    println!("\nlosses: {}", losses.len());
    losses.iter().for_each(|loss| println!("  {loss}"));
    let asked = outcomes.iter().any(|o| o.theirs.iter().any(Option::is_some));
    let is_worse = |o: &&Outcome<'_>| match (o.ours.objective, o.best_other()) {
        (Some(ours), Some(other)) => other < ours,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    let worse = outcomes.iter().filter(is_worse).count();
    report.set("worse_objectives", asked.then_some(worse as f64));
    report.entries("losses", losses.into_iter().map(Value::from).collect());
}

fn few_steps(rows: &[Row], report: &mut Report) {
    println!("\nan answer after few steps, and how far it is from the best known");
    println!(
        "{:>7} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12}",
        "devices", "steps", "p50 ms", "p99 ms", "no plan", "mean %", "max %", "certified %"
    );
    for row in rows {
        println!(
            "{:>7} {:>8} {:>9.2} {:>9.2} {:>9} {:>9.3} {:>9.3} {:>12.3}",
            row.devices,
            row.steps,
            row.p50_ms,
            row.p99_ms,
            row.without_plan,
            row.mean_gap_percent,
            row.max_gap_percent,
            row.mean_certified_gap_percent
        );
    }
    let barred = anytime::barred(rows);
    report.set("anytime.steps", barred.map(|row| row.steps as f64));
    report.set("anytime.p99_ms", barred.map(|row| row.p99_ms));
    report.set("anytime.mean_gap_percent", barred.map(|row| row.mean_gap_percent));
    report.set("anytime.max_gap_percent", barred.map(|row| row.max_gap_percent));
    report.entries("few_steps", rows.iter().map(|row| json!(row)).collect());
}

fn other_questions(rows: &[questions::Row], report: &mut Report) {
    println!("\nother questions to the core, ms");
    println!(
        "{:24} {:8} {:>9} {:>9} {:>9} {:>9}",
        "question", "size", "proved", "p50", "p90", "max"
    );
    for row in rows {
        println!(
            "{:24} {:8} {:>9} {:>9.3} {:>9.3} {:>9.3}",
            row.question,
            row.size,
            format!("{}/{}", row.proved, row.instances),
            row.p50_ms,
            row.p90_ms,
            row.max_ms
        );
    }
    report.entries("other_questions", rows.iter().map(|row| json!(row)).collect());
}

/// Latency by a rule / optimum, where the optimum is proved.
fn ratios(outcomes: &[Outcome<'_>], rule: Rule, family: Option<&str>) -> Vec<f64> {
    let of_family = outcomes
        .iter()
        .filter(|o| family.is_none_or(|f| o.instance.family == f));
    let ratio = |o: &Outcome<'_>| {
        let optimum = o.ours.objective.filter(|_| o.ours.proved)?;
        let assignment = rule.1(o.instance)?;
        Some(o.instance.latency_us(&assignment)? as f64 / optimum as f64)
    };
    of_family.filter_map(ratio).collect()
}

fn others_rules(outcomes: &[Outcome<'_>], report: &mut Report) {
    println!("\nlatency by the rules of others / optimum, where it is proved");
    println!(
        "{:50} {:>5} {:>7} {:>7} {:>7} {:>7} {:>9}",
        "rule", "n", "mean", "p50", "p90", "max", "geo mean"
    );
    let mut rows = Vec::new();
    for rule in RULES {
        let all = ratios(outcomes, *rule, None);
        let far = ratios(outcomes, *rule, Some("geo"));
        println!(
            "{:50} {:>5} {:>7.3} {:>7.3} {:>7.3} {:>7.3} {:>9.3}",
            rule.0,
            all.len(),
            stats::mean(&all),
            stats::percentile(&all, 0.5),
            stats::percentile(&all, 0.9),
            stats::largest(&all),
            stats::mean(&far)
        );
        rows.push(json!({
            "rule": rule.0, "instances": all.len(), "mean": stats::mean(&all), "p50": stats::percentile(&all, 0.5),
            "p90": stats::percentile(&all, 0.9), "max": stats::largest(&all), "geo_mean": stats::mean(&far),
        }));
    }
    let some_mean = |values: &[f64]| (!values.is_empty()).then(|| stats::mean(values));
    report.set("rules.exo_mean", some_mean(&ratios(outcomes, RULES[0], None)));
    report.set(
        "rules.exo_geo_mean",
        some_mean(&ratios(outcomes, RULES[0], Some("geo"))),
    );
    report.set(
        "rules.score_mean",
        some_mean(&ratios(outcomes, RULES[RULES.len() - 1], None)),
    );
    report.entries("rules_of_others", rows);
}

fn simpler_uses(outcomes: &[Outcome<'_>], report: &mut Report) {
    println!("\nlatency of simpler uses of the same hardware / optimum, geometric mean");
    println!("{:22} {:>12} {:>8} {:>8}", "use", "holds it", "geomean", "least");
    let proved = || outcomes.iter().filter(|o| o.ours.proved);
    let found: Vec<(f64, Uses)> = proved()
        .filter_map(|o| Some((o.ours.objective? as f64, speedup::uses(o.instance))))
        .collect();
    let kinds: [(&str, Use); 4] = [
        ("one kind of device", |uses| uses.one_kind_us),
        ("evenly", |uses| uses.even_us),
        ("by memory", |uses| uses.by_memory_us),
        ("best of these", Uses::best_us),
    ];
    let mut rows = Vec::new();
    for (name, of) in kinds {
        let ratios: Vec<f64> = found
            .iter()
            .filter_map(|(optimum, uses)| Some(of(uses)? as f64 / optimum))
            .collect();
        let geomean = (!ratios.is_empty()).then(|| stats::geometric_mean(&ratios));
        println!(
            "{name:22} {:>12} {:>8.3} {:>8.3}",
            format!("{}/{}", ratios.len(), found.len()),
            geomean.unwrap_or(f64::NAN),
            stats::percentile(&ratios, 0.0)
        );
        rows.push(json!({ "use": name, "holds": ratios.len(), "of": found.len(), "geomean": geomean }));
        if name == "best of these" {
            report.set("speedup.best_simple_use", geomean);
        }
    }
    report.entries("simpler_uses", rows);
}
