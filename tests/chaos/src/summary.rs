//! What a run comes to: a table for people, `target/bench/chaos.json` for programs, and whether it was good.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use report::{Bar, Barred, Report};
use serde_json::{Value, json};

use crate::check::{Verdict, check};
use crate::history::{Kind, Moment};
use crate::pauses::{Pause, by_kind, percentile};
use crate::run::Outcome;
use crate::{Error, Result};

/// Violations that are shown; the file has the count.
const SHOWN: usize = 20;

const BARS: &[Barred] = &[
    ("tokens_wrong", "tokens lost, repeated or changed", Bar::AtMost(0.0)),
    ("streams_broken", "streams broken", Bar::AtMost(0.0)),
    (
        "requests_wrong_of_10000",
        "requests not right in time, of 10,000",
        Bar::AtMost(5.0),
    ),
    (
        "complaints",
        "not whole again, ended by itself, left over",
        Bar::AtMost(0.0),
    ),
    ("growth", "processes that hold more and more", Bar::AtMost(0.0)),
    ("recovery_p50_ms", "a stage lost: recovery p50, ms", Bar::AtMost(1000.0)),
    ("recovery_p99_ms", "a stage lost: recovery p99, ms", Bar::AtMost(2000.0)),
    (
        "partition_p99_ms",
        "frozen or cut off in silence: recovery p99, ms",
        Bar::AtMost(4000.0),
    ),
    (
        "move_p99_ms",
        "a node cordoned, its layers moved: recovery p99, ms",
        Bar::AtMost(500.0),
    ),
];

/// Bars of time are told, and do not fail a run: they depend on what else the machine does.
const TIMES: [&str; 4] = ["recovery_p50_ms", "recovery_p99_ms", "partition_p99_ms", "move_p99_ms"];

/// A run, judged.
pub struct Summary {
    report: Report,
    text: String,
    good: bool,
}

impl Summary {
    /// Judges an outcome.
    pub fn of(outcome: &Outcome, seed: u64) -> Self {
        let verdict = check(&outcome.history);
        let pauses = by_kind(&outcome.history);
        let growth: Vec<String> = outcome
            .lives
            .iter()
            .filter_map(|life| life.growth().map(|growth| growth.to_string()))
            .collect();
        let mut report = Report::new(BARS);
        headline(&mut report, outcome, &verdict, &pauses, seed);
        report.set("growth", Some(growth.len() as f64));
        report.figures("recovery_ms_by_fault", recovery(outcome, &pauses));
        report.figures("refusals_by_code", json!(refusals(outcome)));
        report.figures("processes", processes(outcome));
        report.figures("complaints", json!(outcome.complaints));
        report.figures("growth", json!(growth));
        let told: Vec<String> = verdict.violations.iter().map(ToString::to_string).collect();
        report.figures("violations", json!(told));
        let text = text(outcome, &verdict, &pauses, &growth, &report);
        let good = report.missed().iter().all(|place| TIMES.contains(place)) && verdict.violations.is_empty();
        Self { report, text, good }
    }

    /// Whether no invariant was violated.
    pub fn is_good(&self) -> bool {
        self.good
    }

    /// For people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes `target/bench/<name>.json`.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, workspace: &Path, name: &str) -> Result<PathBuf> {
        self.report.write(workspace, name).map_err(|cause| Error::File {
            path: format!("target/bench/{name}.json"),
            cause,
        })
    }
}

fn ms(moment: Moment) -> f64 {
    moment.as_secs_f64() * 1e3
}

fn headline(report: &mut Report, outcome: &Outcome, verdict: &Verdict, pauses: &BTreeMap<Kind, Vec<Pause>>, seed: u64) {
    let faults = &outcome.history.faults;
    let count = |count: u64| Some(count as f64);
    report.set("seed", count(seed));
    report.set("seconds", Some(outcome.injected.as_secs_f64()));
    report.set("faults", Some(faults.len() as f64));
    let kills = faults.iter().filter(|fault| fault.kind.kills()).count();
    report.set("kills", Some(kills as f64));
    report.set("streams", count(verdict.streams));
    report.set("streams_verified", count(verdict.streams_verified));
    report.set("streams_broken", count(verdict.streams_broken));
    report.set("tokens", count(verdict.tokens));
    report.set("tokens_wrong", count(verdict.tokens_wrong()));
    report.set("tokens_lost", count(verdict.tokens_lost));
    report.set("tokens_repeated", count(verdict.tokens_repeated));
    report.set("tokens_changed", count(verdict.tokens_changed));
    report.set("requests", count(verdict.requests));
    report.set("requests_right", count(verdict.requests_right));
    report.set("requests_wrong_of_10000", Some((1.0 - verdict.right_ratio()) * 1e4));
    report.set("refusals", count(verdict.refusals));
    report.set("cut_by_gateway_loss", count(verdict.cut_by_gateway));
    report.set("complaints", Some(outcome.complaints.len() as f64));
    report.set("prefill_tokens_per_second", outcome.history.prompts.tokens_per_second);
    let of = |wanted: fn(Kind) -> bool, time: fn(&Pause) -> Moment| -> Vec<Moment> {
        let pauses = pauses.iter().filter(|(kind, _)| wanted(**kind));
        pauses.flat_map(|(_, pauses)| pauses.iter().map(time)).collect()
    };
    let silent = |kind: Kind| matches!(kind, Kind::WorkerFrozen | Kind::LinkCut);
    for (name, wanted) in [
        ("recovery", Kind::takes_a_stage as fn(Kind) -> bool),
        ("partition", silent),
        ("move", |kind| kind == Kind::NodeCordoned),
    ] {
        let (recoveries, lasted) = (of(wanted, |pause| pause.recovery), of(wanted, |pause| pause.lasted));
        for (rank, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            report.set(&format!("{name}_{rank}_ms"), percentile(&recoveries, share).map(ms));
            report.set(&format!("{name}_pause_{rank}_ms"), percentile(&lasted, share).map(ms));
        }
    }
}

/// By kind of fault: how many, pauses of streams, and time until all was whole.
fn recovery(outcome: &Outcome, pauses: &BTreeMap<Kind, Vec<Pause>>) -> Value {
    let mut kinds = serde_json::Map::new();
    for kind in Kind::ALL {
        let faults: Vec<_> = outcome
            .history
            .faults
            .iter()
            .filter(|fault| fault.kind == kind)
            .collect();
        if faults.is_empty() {
            continue;
        }
        let whole: Vec<Moment> = faults
            .iter()
            .filter_map(|fault| Some(fault.whole?.saturating_sub(fault.at)))
            .collect();
        let none = Vec::new();
        let streams = pauses.get(&kind).unwrap_or(&none);
        let lasted: Vec<Moment> = streams.iter().map(|pause| pause.lasted).collect();
        let recoveries: Vec<Moment> = streams.iter().map(|pause| pause.recovery).collect();
        let value = |values: &[Moment], share| percentile(values, share).map(|value| ms(value).round());
        kinds.insert(
            kind.name().to_owned(),
            json!({
                "faults": faults.len(),
                "streams": streams.len(),
                "pause_p50": value(&lasted, 0.5),
                "pause_p99": value(&lasted, 0.99),
                "pause_max": value(&lasted, 1.0),
                "recovery_p50": value(&recoveries, 0.5),
                "recovery_p99": value(&recoveries, 0.99),
                "whole_p50": value(&whole, 0.5),
                "whole_max": value(&whole, 1.0),
            }),
        );
    }
    Value::Object(kinds)
}

fn refusals(outcome: &Outcome) -> BTreeMap<String, u64> {
    let mut codes = BTreeMap::new();
    for attempt in outcome
        .history
        .operations
        .iter()
        .flat_map(|operation| &operation.attempts)
    {
        if let crate::history::End::Refused { status, code, .. } = &attempt.end {
            *codes.entry(format!("{status} {code}")).or_default() += 1;
        }
    }
    codes
}

/// Before the first fault and after the last answer.
fn processes(outcome: &Outcome) -> Value {
    let after: BTreeMap<&str, _> = outcome
        .after
        .iter()
        .map(|(name, figures)| (name.as_str(), figures))
        .collect();
    let rows = outcome
        .before
        .iter()
        .map(|(name, before)| json!({ "name": name, "before": before, "after": after.get(name.as_str()) }));
    rows.collect()
}

fn text(
    outcome: &Outcome,
    verdict: &Verdict,
    pauses: &BTreeMap<Kind, Vec<Pause>>,
    growth: &[String],
    report: &Report,
) -> String {
    let mut text = String::from("\n");
    text += &format!(
        "{:<20} {:>7} {:>8} {:>10} {:>10} {:>10} {:>13} {:>10} {:>12}\n",
        "fault", "times", "streams", "pause p50", "p99", "max", "recovery p50", "p99", "whole, worst"
    );
    if let Value::Object(kinds) = recovery(outcome, pauses) {
        for (kind, row) in kinds {
            let milliseconds = |field: &str| {
                row[field]
                    .as_f64()
                    .map_or("-".to_owned(), |value| format!("{value:.0} ms"))
            };
            text += &format!(
                "{kind:<20} {:>7} {:>8} {:>10} {:>10} {:>10} {:>13} {:>10} {:>12}\n",
                row["faults"],
                row["streams"],
                milliseconds("pause_p50"),
                milliseconds("pause_p99"),
                milliseconds("pause_max"),
                milliseconds("recovery_p50"),
                milliseconds("recovery_p99"),
                milliseconds("whole_max"),
            );
        }
    }
    text += &format!(
        "\n{} streams, {} verified, {} broken; {} tokens: {} lost, {} repeated, {} changed\n\
         {} requests, {} right in time; {} refused and asked again {:?}, {} cut by the loss of a gateway\n\n",
        verdict.streams,
        verdict.streams_verified,
        verdict.streams_broken,
        verdict.tokens,
        verdict.tokens_lost,
        verdict.tokens_repeated,
        verdict.tokens_changed,
        verdict.requests,
        verdict.requests_right,
        verdict.refusals,
        refusals(outcome),
        verdict.cut_by_gateway,
    );
    text += &holdings(outcome);
    for growth in growth {
        text += &format!("grows: {growth}\n");
    }
    for complaint in &outcome.complaints {
        text += &format!("WRONG: {complaint}\n");
    }
    for violation in verdict.violations.iter().take(SHOWN) {
        text += &format!("VIOLATION: {violation}\n");
    }
    let more = verdict.violations.len().saturating_sub(SHOWN);
    if more > 0 {
        text += &format!("and {more} more violations\n");
    }
    text + "\n" + &report.table()
}

fn holdings(outcome: &Outcome) -> String {
    let mut text = format!(
        "{:<20} {:>16} {:>14} {:>12}   (before -> after)\n",
        "process", "MiB", "descriptors", "threads"
    );
    for (name, before) in &outcome.before {
        let Some((_, after)) = outcome.after.iter().find(|(other, _)| other == name) else {
            continue;
        };
        text += &format!(
            "{name:<20} {:>16} {:>14} {:>12}\n",
            format!("{:.0} -> {:.0}", before.rss_mib, after.rss_mib),
            format!("{} -> {}", before.descriptors, after.descriptors),
            format!("{} -> {}", before.threads, after.threads),
        );
    }
    text + "\n"
}
