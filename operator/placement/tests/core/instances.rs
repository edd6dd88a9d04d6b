//! Reads the committed instances: their README has the form.

#![allow(dead_code, reason = "each program that reads instances uses a part")]

use std::{fs, path::PathBuf};

use placement::core::{NEVER_NS, Problem, Unit};

/// One instance and what is known of it, in its own unit of time (microseconds).
pub struct Instance {
    pub name: String,
    pub problem: Problem,
    pub best_known: Option<u64>,
    pub is_proved: bool,
}

impl Instance {
    pub fn units(&self) -> usize {
        self.problem.units.len()
    }
}

/// All instances, in the order of the table of best known values.
pub fn all() -> Vec<Instance> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/instances");
    let table = fs::read_to_string(folder.join("best-known.csv")).expect("the table of best known values");
    let rows = table.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    rows.map(|row| Instance {
        name: row[0].to_owned(),
        problem: problem(&fs::read_to_string(folder.join(format!("{}.txt", row[0]))).expect("the instance")),
        best_known: row[1].parse().ok(),
        is_proved: row[2] == "true",
    })
    .collect()
}

fn problem(text: &str) -> Problem {
    let mut lines = text.lines().map(|line| {
        let numbers = line
            .split_whitespace()
            .map(|word| word.parse::<u64>().expect("a number"));
        numbers.collect::<Vec<u64>>()
    });
    let mut next = || lines.next().expect("a line");
    let index = |number: u64| usize::try_from(number).expect("a small number");
    let layers = index(next()[1]);
    let (times, capacities, heads, entries, exits) = (next(), next(), next(), next(), next());
    let units = (0..times.len()).map(|u| Unit {
        head_ns: heads[u],
        entry_ns: entries[u],
        exit_ns: exits[u],
        ..Unit::uniform(layers, times[u], index(capacities[u]))
    });
    let units: Vec<Unit> = units.collect();
    let way_ns: Vec<Vec<u64>> = lines.collect();
    Problem {
        layers,
        min_stages: 1,
        max_stages: units.len(),
        units,
        carry_ns: way_ns.clone(),
        way_ns,
        cuts: (1..layers).collect(),
        needed: Vec::new(),
        forbidden: None,
        below_ns: NEVER_NS,
    }
}
