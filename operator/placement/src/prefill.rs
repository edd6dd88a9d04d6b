//! What a plan takes to read a prompt. Plans are made for decoding; this is the second column of the bill.
//!
//! A prompt goes through the stages in steps of many rows, one after the other like cars of a train. A step reads weights once,
//! and is bound by arithmetic where that takes longer. Where a device's arithmetic was never measured there is no figure:
//! unknown is neither zero nor a guess.

use topology::Device;

use crate::cost::{transfer_ns, us_to_ns};
use crate::{Layer, Plan, Problem};

/// A prompt, and what a step of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub tokens: u64,
    /// Rows of one step.
    pub step_rows: u64,
    /// Weights of the whole model, and their bytes in the file: how many of the former are in one of the latter.
    pub parameters: u64,
    pub parameter_bytes: u64,
}

/// Predicted times of one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Computing in each stage, in the order of the plan; `None` where the device's arithmetic is not known.
    pub stages_ns: Vec<Option<u64>>,
    /// From the first step's begin to the last step's end; `None` where a stage is not known.
    pub total_ns: Option<u64>,
}

/// Operations for each weight and row: a multiplication and an addition.
const OPERATIONS: u128 = 2;
/// Operations of attention for each position before a row and each of the row's values: two products.
const ATTENTION_OPERATIONS: u128 = 2 * OPERATIONS;
const FLOAT_BYTES: u64 = 4;

/// Predicts a prompt's way through a plan.
pub fn prefill(problem: &Problem, plan: &Plan, prompt: &Prompt) -> Prefill {
    let devices: Vec<Option<&Device>> = plan
        .stages
        .iter()
        .map(|stage| problem.topology.device(&stage.device))
        .collect();
    let stages_ns: Vec<Option<u64>> = plan
        .stages
        .iter()
        .zip(&devices)
        .map(|(stage, device)| {
            let last = usize::try_from(stage.end_layer) == Ok(problem.model.layers.len());
            stage_ns(problem, (*device)?, (stage.first_layer, stage.end_layer), last, prompt)
        })
        .collect();
    let total_ns = total_ns(problem, &devices, &stages_ns, prompt);
    Prefill { stages_ns, total_ns }
}

fn steps(prompt: &Prompt) -> u64 {
    prompt.tokens.div_ceil(prompt.step_rows.max(1)).max(1)
}

fn stage_ns(problem: &Problem, device: &Device, (first, end): (u32, u32), last: bool, prompt: &Prompt) -> Option<u64> {
    let flops_per_second = device.flops_per_second.filter(|rate| *rate > 0)?;
    let model = &problem.model;
    let layers = model.layers.get(first as usize..end as usize)?;
    let (count, tokens) = (layers.len() as u64, u128::from(prompt.tokens));
    let sum = |bytes: fn(&Layer) -> u64| layers.iter().map(bytes).fold(0_u64, u64::saturating_add);
    // The rows of a step meet every expert between them, each row only its own.
    let (weight_bytes, active_bytes) = (sum(|layer| layer.weight_bytes), sum(|layer| layer.active_bytes));
    let weights = u128::from(active_bytes) * u128::from(prompt.parameters) / u128::from(prompt.parameter_bytes.max(1));
    let width = u128::from(model.activation_bytes / FLOAT_BYTES);
    // Each row meets, on average, half of the prompt.
    let attention = ATTENTION_OPERATIONS * width * (tokens * tokens / 2) * u128::from(count);
    let operations = OPERATIONS * weights * tokens + attention;
    let arithmetic_ns = (operations * 1_000_000_000).div_ceil(u128::from(flops_per_second));
    let arithmetic_ns = u64::try_from(arithmetic_ns).unwrap_or(u64::MAX);
    let rate = device.bandwidth.bytes_per_second;
    let reading_ns = transfer_ns(weight_bytes.saturating_mul(steps(prompt)), rate);
    let beside_ns = us_to_ns(device.launch_us).saturating_add(device.bare_layer_ns().saturating_mul(count));
    // Only what follows the prompt is wanted.
    let output_ns = if last { transfer_ns(model.output_bytes, rate) } else { 0 };
    let ns = arithmetic_ns
        .max(reading_ns)
        .saturating_add(beside_ns.saturating_mul(steps(prompt)))
        .saturating_add(output_ns);
    Some(ns)
}

/// The first step passes everything; each one after it comes behind by the slowest part. Devices of one memory pool take turns.
fn total_ns(problem: &Problem, devices: &[Option<&Device>], stages_ns: &[Option<u64>], prompt: &Prompt) -> Option<u64> {
    let steps = steps(prompt);
    let rows = prompt.step_rows.min(prompt.tokens);
    let mut first_ns = 0_u64;
    let mut parts_ns: Vec<u64> = vec![0; problem.topology.pools.len()];
    for (stage_ns, device) in stages_ns.iter().zip(devices) {
        let step_ns = (*stage_ns)? / steps;
        first_ns = first_ns.saturating_add(step_ns);
        if let Some(part) = parts_ns.get_mut((*device)?.pool) {
            *part = part.saturating_add(step_ns);
        }
    }
    for pair in devices.windows(2) {
        let [Some(from), Some(to)] = pair else { return None };
        let there = problem.topology.link(&from.node, &to.node);
        let bytes = problem.model.activation_bytes.saturating_mul(rows);
        let carry_ns = transfer_ns(bytes, there.rate.bytes_per_second);
        first_ns = first_ns
            .saturating_add(us_to_ns(there.latency_us))
            .saturating_add(carry_ns);
        parts_ns.push(carry_ns);
    }
    let slowest_ns = parts_ns.into_iter().max().unwrap_or(0);
    Some(first_ns.saturating_add(slowest_ns.saturating_mul(steps - 1)))
}

#[cfg(test)]
mod tests;
