//! `model show`: what a model is, from its header alone.

use std::fmt::Write;

use gguf::{Facts, model_facts};
use serde::Serialize;

use super::{json, open};
use crate::args::{Output, ShowArgs};
use crate::failure::Failure;
use crate::progress::size;

#[derive(Debug, Serialize)]
struct Shown {
    name: Option<String>,
    files: Vec<String>,
    bytes: u64,
    splittable: bool,
    #[serde(flatten)]
    facts: Facts,
}

/// Shows a model.
pub fn run(args: &ShowArgs, output: Output) -> Result<String, Failure> {
    let set = open(&args.model)?;
    let facts =
        model_facts(&set.gguf).map_err(|error| Failure::BadData(format!("{}: {error}", args.model.display())))?;
    let name = set.gguf.metadata.string("general.name").ok();
    let shown = Shown {
        name: name.map(|name| name.chars().filter(|c| !c.is_control()).collect()),
        bytes: set.gguf.total_bytes(),
        files: set.names,
        splittable: !facts.allowed_cuts.is_empty(),
        facts,
    };
    match output {
        Output::Text => Ok(describe(&shown)),
        Output::Json => json(&shown),
    }
}

fn describe(shown: &Shown) -> String {
    let facts = &shown.facts;
    let files = match shown.files.len() {
        1 => shown.files[0].clone(),
        count => format!("{} and {} more", shown.files[0], count - 1),
    };
    let rows = [
        ("name", shown.name.clone().unwrap_or_else(|| "-".to_owned())),
        ("files", format!("{files} ({})", size(shown.bytes))),
        ("architecture", facts.architecture.clone()),
        ("quantisation", facts.quantisation.clone()),
        ("parameters", count(facts.parameters)),
        ("layers", facts.layers.to_string()),
        ("layer weights", ranges(&facts.layer_bytes)),
        ("read for a token", ranges(&facts.layer_active_bytes)),
        ("embedding", size(facts.embedding_bytes)),
        ("output", output(facts)),
        ("for every stage", size(facts.shared_bytes)),
        ("context trained", format!("{} tokens", facts.context_length_trained)),
        ("KV cache", kv(facts)),
        ("states", states(facts)),
        ("cuts", cuts(facts)),
    ];
    let mut text = String::new();
    for (what, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<16} {value}");
    }
    text
}

fn output(facts: &Facts) -> String {
    let tied = if facts.tied { ", the embedding again" } else { "" };
    format!("{}{tied}", size(facts.output_bytes))
}

fn kv(facts: &Facts) -> String {
    let elements: u64 = facts.layer_kv_elements.iter().copied().map(u64::from).sum();
    format!("{} a token at f16", size(elements * 2))
}

fn states(facts: &Facts) -> String {
    let bytes: u64 = facts.layer_state_bytes.iter().sum();
    let keeping = facts.layer_state_bytes.iter().filter(|bytes| **bytes > 0).count();
    match keeping {
        0 => "none".to_owned(),
        layers => format!("{} a sequence, in {layers} of {} layers", size(bytes), facts.layers),
    }
}

fn cuts(facts: &Facts) -> String {
    match &facts.whole_because {
        Some(reason) => format!("none, it runs whole: {reason}"),
        None if facts.allowed_cuts.is_empty() => "none, it has one layer".to_owned(),
        None => format!("after layer {}", runs(&facts.allowed_cuts)),
    }
}

/// Numbers as ranges: `1-3, 7`.
fn runs(numbers: &[u32]) -> String {
    let chunks = numbers.chunk_by(|one, next| one + 1 == *next);
    let shown = chunks.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        single => single.iter().map(u32::to_string).collect(),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Layers of the same size together: `0-29: 2.9 MiB each`.
fn ranges(layer_bytes: &[u64]) -> String {
    let mut first = 0;
    let chunks = layer_bytes.chunk_by(|one, next| one == next).map(|chunk| {
        let last = first + chunk.len() - 1;
        let shown = match chunk {
            [bytes] => format!("{first}: {}", size(*bytes)),
            alike => format!("{first}-{last}: {} each", size(alike[0])),
        };
        first = last + 1;
        shown
    });
    chunks.collect::<Vec<_>>().join("; ")
}

/// A number of parameters as people read it: `134.5 M`.
fn count(parameters: u64) -> String {
    match parameters {
        0..1_000_000 => parameters.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} M", parameters as f64 / 1e6),
        _ => format!("{:.1} G", parameters as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
