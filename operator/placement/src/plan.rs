//! A plan, and how one differs from another, as text.

use std::fmt::{self, Write as _};

use crate::text;

/// Where every layer runs, with what the solver predicts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the layers; together they hold all of them.
    pub stages: Vec<Stage>,
    /// Predicted time from the gateway to the first stage and back; zero where it was not measured.
    pub entry_ns: u64,
    /// Predicted time of one token: its way in, all stages and hops.
    pub latency_ns: u64,
    /// Predicted time of the slowest part: with enough streams, the time between two tokens.
    pub slowest_ns: u64,
}

/// One stage: layers `[first_layer, end_layer)` on one device, or on several that work as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Of several, the group's name.
    pub device: String,
    pub node: String,
    pub backend: String,
    pub first_layer: u32,
    pub end_layer: u32,
    /// Weights in the file: layers, the embedding in the first stage, the output in the last.
    pub weight_bytes: u64,
    /// All that the stage may use on its device, or on all of several: weights, cache, buffers, fixed cost.
    pub memory_bytes: u64,
    /// Predicted time of one token.
    pub time_ns: u64,
    /// Predicted time to the next stage and of the token's way back; the last stage has none.
    pub hop_ns: Option<u64>,
}

impl Plan {
    /// One line: what runs where, and how long a token takes.
    pub fn summary(&self) -> String {
        let stages: Vec<String> = self
            .stages
            .iter()
            .map(|s| format!("{} {}", s.device, text::layers(s.first_layer, s.end_layer)))
            .collect();
        format!("{}; {} us per token", stages.join(", "), text::us(self.latency_ns))
    }
}

/// One line for each stage, then the total.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entry_ns > 0 {
            writeln!(f, "from the gateway and back {} us", text::us(self.entry_ns))?;
        }
        let width = self.stages.iter().map(|s| s.device.len()).max().unwrap_or(0);
        for (index, stage) in self.stages.iter().enumerate() {
            write!(
                f,
                "stage {index}  {:width$}  layers {:>7}  {:>10}  {:>8} us",
                stage.device,
                text::layers(stage.first_layer, stage.end_layer),
                text::bytes(stage.memory_bytes),
                text::us(stage.time_ns),
            )?;
            match stage.hop_ns {
                Some(hop_ns) => writeln!(f, "  then {} us to the next", text::us(hop_ns))?,
                None => writeln!(f)?,
            }
        }
        writeln!(
            f,
            "one token {} us, slowest part {} us",
            text::us(self.latency_ns),
            text::us(self.slowest_ns)
        )
    }
}

/// What a change from one plan to another moves, one line for each run of layers; "no layer moves" if none does.
pub fn diff(old: &Plan, new: &Plan) -> String {
    let layers = new
        .stages
        .iter()
        .chain(&old.stages)
        .map(|s| s.end_layer)
        .max()
        .unwrap_or(0);
    let mut moves = String::new();
    let mut layer = 0;
    while layer < layers {
        let (from, to) = (holder(old, layer), holder(new, layer));
        let end = (layer..layers)
            .find(|l| (holder(old, *l), holder(new, *l)) != (from, to))
            .unwrap_or(layers);
        if from != to {
            let (from, to) = (from.unwrap_or("nowhere"), to.unwrap_or("nowhere"));
            // Writing to a String cannot fail.
            let _ = writeln!(moves, "layers {}: {from} -> {to}", text::layers(layer, end));
        }
        layer = end;
    }
    if moves.is_empty() {
        moves.push_str("no layer moves\n");
    }
    moves
}

fn holder(plan: &Plan, layer: u32) -> Option<&str> {
    let stage = plan
        .stages
        .iter()
        .find(|s| (s.first_layer..s.end_layer).contains(&layer));
    stage.map(|s| s.device.as_str())
}

#[cfg(test)]
mod tests;
