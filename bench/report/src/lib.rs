//! What is asked of the numbers, the table that says whether it is met, and the file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bar {
    /// Whether `value` is good enough.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }
}

/// Below this, three digits behind the point tell nothing.
const SMALL: f64 = 0.01;

/// A figure that has a bar: its place in the file, what it is, the bar.
pub type Barred = (&'static str, &'static str, Bar);

/// `numerator / denominator`; `None` where either was not measured.
pub fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    let measured = |value: f64| value.is_finite() && value > 0.0;
    (measured(numerator) && measured(denominator)).then(|| numerator / denominator)
}

/// All that one run has found.
#[derive(Debug, Clone)]
pub struct Report {
    bars: &'static [Barred],
    values: Map<String, Value>,
    figures: Map<String, Value>,
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Report {
    /// Nothing found yet, and what is asked.
    pub fn new(bars: &'static [Barred]) -> Self {
        Self {
            bars,
            values: Map::new(),
            figures: Map::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Notes a headline value at a dotted place, rounded to three digits behind the point, or as many as a small one
    /// needs; `None` stands as null.
    pub fn set(&mut self, place: &str, value: Option<f64>) {
        let places = |value: f64| if value.abs() < SMALL { 1e6 } else { 1e3 };
        let value = value.map_or(Value::Null, |value| {
            json!((value * places(value)).round() / places(value))
        });
        match place.split_once('.') {
            Some((group, name)) => {
                let group = self.values.entry(group).or_insert_with(|| json!({}));
                group[name] = value;
            }
            None => {
                self.values.insert(place.to_owned(), value);
            }
        }
    }

    /// Notes the raw figures of one measurement.
    pub fn figures(&mut self, measurement: &str, figures: Value) {
        self.figures.insert(measurement.to_owned(), figures);
    }

    /// Notes one entry for each of several measured things, such as instances.
    pub fn entries(&mut self, name: &str, entries: Vec<Value>) {
        self.values.insert(name.to_owned(), Value::Array(entries));
    }

    /// Notes, and says, that something could not be measured here.
    pub fn skip(&mut self, what: &str, reason: &str) {
        let line = format!("SKIPPED: {what}: {reason}");
        println!("{line}");
        self.skipped.push(line);
    }

    /// Notes, and says, that a measurement failed; the others go on.
    pub fn fail(&mut self, what: &str, cause: &str) {
        let line = format!("FAILED: {what}: {cause}");
        println!("{line}");
        self.failed.push(line);
    }

    /// Whether every measurement that was begun has ended as it should.
    pub fn is_sound(&self) -> bool {
        self.failed.is_empty()
    }

    fn value(&self, place: &str) -> Option<f64> {
        let found = match place.split_once('.') {
            Some((group, name)) => self.values.get(group)?.get(name)?,
            None => self.values.get(place)?,
        };
        found.as_f64()
    }

    /// Places of the figures that were measured and miss their bar.
    pub fn missed(&self) -> Vec<&'static str> {
        let missed = |(place, _, bar): &&Barred| self.value(place).is_some_and(|value| !bar.is_met(value));
        self.bars.iter().filter(missed).map(|(place, ..)| *place).collect()
    }

    /// The file's content: every figure with a bar is there, null where it was not measured.
    pub fn to_json(&self) -> Value {
        let mut complete = self.clone();
        for (place, ..) in self.bars {
            if complete.value(place).is_none() {
                complete.set(place, None);
            }
        }
        complete
            .values
            .insert("figures".to_owned(), Value::Object(complete.figures));
        complete.values.insert("skipped".to_owned(), json!(complete.skipped));
        complete.values.insert("failed".to_owned(), json!(complete.failed));
        complete.values.insert("missed".to_owned(), json!(self.missed()));
        Value::Object(complete.values)
    }

    /// The table: one line per figure with a bar.
    pub fn table(&self) -> String {
        let mut table = format!("{:<50} {:>9} {:>9}  {}\n", "", "measured", "bar", "met");
        for (place, name, bar) in self.bars {
            let (sign, limit) = match bar {
                Bar::AtLeast(limit) => (">=", limit),
                Bar::AtMost(limit) => ("<=", limit),
            };
            let (measured, met) = match self.value(place) {
                Some(value) if bar.is_met(value) => (digits(value), "yes"),
                Some(value) => (digits(value), "NO"),
                None => ("-".to_owned(), "not measured"),
            };
            table += &format!(
                "{name:<50} {measured:>9} {:>9}  {met}\n",
                format!("{sign} {}", digits(*limit))
            );
        }
        table
    }

    /// Writes `target/bench/<name>.json` in the workspace and returns its path.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, workspace: &Path, name: &str) -> std::io::Result<PathBuf> {
        let dir = workspace.join("target/bench");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{name}.json"));
        std::fs::write(&path, format!("{:#}\n", self.to_json()))?;
        Ok(path)
    }
}

/// As many digits as tell something.
fn digits(value: f64) -> String {
    if value >= 10.0 {
        return format!("{value:.0}");
    }
    let text = if value < SMALL {
        format!("{value:.6}")
    } else {
        format!("{value:.3}")
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Bar, Barred, Report, digits, ratio};

    const BARS: &[Barred] = &[
        (
            "one_stage.decode_ratio",
            "one stage / llama.cpp: decode",
            Bar::AtLeast(0.97),
        ),
        ("hop_us_p50", "added per hop, us", Bar::AtMost(150.0)),
        ("gateway.idle_streams", "gateway: idle streams", Bar::AtLeast(500.0)),
    ];

    #[test]
    fn a_bar_is_met_on_its_own_side_and_on_the_line() {
        assert!(Bar::AtLeast(1.6).is_met(1.6) && !Bar::AtLeast(1.6).is_met(1.599));
        assert!(Bar::AtMost(150.0).is_met(150.0) && !Bar::AtMost(150.0).is_met(151.0));
    }

    #[test]
    fn what_was_not_measured_makes_no_ratio() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(ratio(3.0, 0.0), None);
        assert_eq!(ratio(f64::INFINITY, 2.0), None);
    }

    #[test]
    fn the_file_has_every_figure_and_null_where_there_is_none() {
        let mut report = Report::new(BARS);
        report.set("one_stage.decode_ratio", Some(0.987_654));
        report.figures("one_stage", json!({ "whole_tok_s": 80.5 }));
        report.entries("instances", vec![json!({ "name": "a" })]);
        let file = report.to_json();
        assert_eq!(file["one_stage"]["decode_ratio"], json!(0.988));
        assert_eq!(file["figures"]["one_stage"]["whole_tok_s"], json!(80.5));
        assert_eq!(file["instances"][0]["name"], json!("a"));
        for (place, ..) in BARS {
            let pointer = format!("/{}", place.replace('.', "/"));
            assert!(file.pointer(&pointer).is_some(), "{place}");
        }
        assert_eq!(file["hop_us_p50"], Value::Null);
    }

    #[test]
    fn a_failure_stands_in_the_file() {
        let mut report = Report::new(BARS);
        assert!(report.is_sound());
        report.fail("hop", "no example");
        assert!(!report.is_sound());
        assert_eq!(report.to_json()["failed"], json!(["FAILED: hop: no example"]));
    }

    #[test]
    fn the_table_says_what_is_missed_and_what_was_not_measured() {
        let mut report = Report::new(BARS);
        report.set("one_stage.decode_ratio", Some(0.96));
        report.set("hop_us_p50", Some(90.0));
        assert_eq!(report.missed(), ["one_stage.decode_ratio"]);
        let table = report.table();
        let line = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name));
            line.unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(line("one stage / llama.cpp: decode").ends_with("0.96 >= 0.97 NO"));
        assert!(line("added per hop").ends_with("90 <= 150 yes"));
        assert!(line("gateway: idle streams").ends_with("- >= 500 not measured"));
        assert_eq!(table.lines().count(), BARS.len() + 1);
    }

    #[test]
    fn digits_are_as_many_as_tell_something() {
        assert_eq!(
            [0.97, 1.0, 150.0, 0.000_52].map(digits),
            ["0.97", "1", "150", "0.00052"]
        );
    }
}
