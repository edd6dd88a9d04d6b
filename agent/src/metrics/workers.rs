//! PURE: what the workers of a node count, as one text: each sample with what its worker serves.

use crate::shard::report::Holding;
use crate::worker::scrape::Scrape;
use std::collections::BTreeMap;

/// Of the names that workers give: nothing else of what they say is handed on.
const PREFIX: &str = "shardwright_worker_";

/// All samples of one name.
#[derive(Default)]
struct Family<'a> {
    /// The lines that say what it is.
    told: Vec<&'a str>,
    samples: Vec<String>,
}

/// The text exposition format: families as the workers told of them, each once, with `namespace`, `model`, `layers` and `device` on
/// every sample.
#[must_use]
pub fn text(scrapes: &[Scrape]) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for scrape in scrapes {
        let labels = labels(&scrape.holding);
        let mut name = None;
        for line in scrape.text.lines() {
            if let Some(told) = line.strip_prefix("# ") {
                name = told.split(' ').nth(1).filter(|name| name.starts_with(PREFIX));
                let Some(name) = name else { continue };
                let family = families.entry(name).or_default();
                // Of a second worker they are the same.
                if !family.told.contains(&line) {
                    family.told.push(line);
                }
            } else if let Some(name) = name.filter(|name| line.starts_with(name)) {
                let samples = &mut families.entry(name).or_default().samples;
                samples.extend(labelled(line, &labels));
            }
        }
    }
    let mut text = String::new();
    for family in families.values() {
        let lines = family.told.iter().copied();
        for line in lines.chain(family.samples.iter().map(String::as_str)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn labels(holding: &Holding) -> String {
    let pairs = [
        ("namespace", &holding.namespace),
        ("model", &holding.model),
        ("layers", &holding.layers),
        ("device", &holding.device),
    ];
    let pairs = pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    pairs.join(",")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A sample, with these labels before its own; `None` if it has no value.
fn labelled(sample: &str, labels: &str) -> Option<String> {
    let (name, rest) = sample.split_at(sample.find(['{', ' '])?);
    Some(match rest.strip_prefix('{') {
        Some(own) => format!("{name}{{{labels},{own}"),
        None => format!("{name}{{{labels}}}{rest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(model: &str, layers: &str, text: &str) -> Scrape {
        let holding = Holding {
            device: "node-a-cuda0".to_owned(),
            namespace: "default".to_owned(),
            model: model.to_owned(),
            layers: layers.to_owned(),
            memory_bytes: 1,
        };
        Scrape {
            holding,
            text: text.to_owned(),
        }
    }

    #[test]
    fn samples_of_all_workers_stand_under_one_family_each_with_what_its_worker_serves() {
        let counted = |steps: u32| {
            format!(
                "# HELP shardwright_worker_rows_total Rows\n# TYPE shardwright_worker_rows_total counter\n\
                 shardwright_worker_rows_total {steps}\n\
                 # HELP shardwright_worker_steps_total Steps\n# TYPE shardwright_worker_steps_total counter\n\
                 shardwright_worker_steps_total{{outcome=\"ok\"}} {steps}\n"
            )
        };
        let text = text(&[scrape("m", "0-9", &counted(3)), scrape("m", "10-29", &counted(4))]);
        let of = |layers| format!("namespace=\"default\",model=\"m\",layers=\"{layers}\",device=\"node-a-cuda0\"");
        let (first, second) = (of("0-9"), of("10-29"));
        let expected = [
            "# HELP shardwright_worker_rows_total Rows".to_owned(),
            "# TYPE shardwright_worker_rows_total counter".to_owned(),
            format!("shardwright_worker_rows_total{{{first}}} 3"),
            format!("shardwright_worker_rows_total{{{second}}} 4"),
            "# HELP shardwright_worker_steps_total Steps".to_owned(),
            "# TYPE shardwright_worker_steps_total counter".to_owned(),
            format!("shardwright_worker_steps_total{{{first},outcome=\"ok\"}} 3"),
            format!("shardwright_worker_steps_total{{{second},outcome=\"ok\"}} 4"),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_no_metric_of_a_worker_is_not_handed_on() {
        let odd = "no metric\n# TYPE up gauge\nup 1\n# TYPE shardwright_worker_rows_total counter\nup 2\n\
                   shardwright_worker_rows_total\n# odd\nshardwright_worker_rows_total 7\n";
        let text = text(&[scrape("m", "0-9", odd)]);
        assert_eq!(text, "# TYPE shardwright_worker_rows_total counter\n");
    }

    #[test]
    fn a_name_with_odd_characters_breaks_no_line() {
        let text = text(&[scrape(
            "a \"b\"\n\\c",
            "0-9",
            "# TYPE shardwright_worker_rows_total counter\nshardwright_worker_rows_total 7\n",
        )]);
        assert!(text.contains(r#"model="a \"b\"\n\\c""#), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
