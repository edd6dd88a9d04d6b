//! A pipeline over the processor and a Vulkan device, held against llama.cpp's own spread.
//!
//! Two backends add up in different orders, so tokens may differ where two were almost equally
//! likely. The bar: over at least 1,000 positions of a given text, the mean divergence from the
//! whole model is at most twice that of llama.cpp from itself between two micro-batch sizes, and
//! the most likely token agrees at most two points less often.
//!
//! An executable of its own with its own `main`: the Vulkan device must be named in the environment
//! before any thread starts, and a test harness starts threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Instant;

use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, EngineError, MAX_STEP_ROWS, Row, Runtime, select_device};

use support::{CONTEXT_LENGTH, LAYERS, Pieces, Pipeline, cpu, model_file, prompts};

/// Positions compared at least.
const COMPARED_POSITIONS: usize = 1_000;

/// Layers `first..end` that the Vulkan device holds: the middle stage of three.
const VULKAN_LAYERS: (u32, u32) = (14, 16);

/// Greedy tokens that are generated through both backends and shown beside the whole model's.
const SHOWN_TOKENS: usize = 8;

fn main() {
    let index = std::env::var("SHARDWRIGHT_TEST_VULKAN_INDEX").ok();
    let index = index.map_or(0, |index| index.parse().unwrap());
    let vulkan = Device::Gpu {
        backend: "vulkan".to_owned(),
        index,
    };
    select_device(&vulkan).unwrap();
    let Some(model) = model_file() else { return };
    let runtime = match Runtime::load_for(None, &vulkan) {
        Ok(runtime) => runtime,
        Err(error @ EngineError::BackendUnavailable { .. }) => {
            println!("SKIPPED: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let devices = runtime.devices();
    let Some(device) = devices.iter().find(|device| device.index == Some(index)) else {
        println!("SKIPPED: no Vulkan device {index}; found {devices:?}");
        return;
    };
    println!(
        "layers {VULKAN_LAYERS:?} of {LAYERS} on {} ({})",
        device.name, device.description
    );

    let text = include_str!("teacher.txt");
    let (texts, reference) = reference(&runtime, &model, 512, text);
    let (_, other) = reference_spread(&runtime, &model, &texts, &reference);

    let started = Instant::now();
    let devices = [cpu(), vulkan, cpu()];
    let cuts = [VULKAN_LAYERS.0, VULKAN_LAYERS.1];
    let mut pipeline = Pieces::write(&model).pipeline_on(&runtime, &cuts, &devices, 1);
    println!("mixed pipeline loaded in {:.1} s", started.elapsed().as_secs_f64());
    let mixed = mixed_spread(&mut pipeline, &texts, &reference);
    println!("llama.cpp, micro-batches of 32 against 512: {other}");
    println!("processor and Vulkan against the whole model: {mixed}");
    assert!(mixed.positions >= COMPARED_POSITIONS, "{mixed}");
    assert!(
        mixed.mean_divergence() <= 2.0 * other.mean_divergence(),
        "{mixed} beside {other}"
    );
    assert!(mixed.agreement() >= other.agreement() - 0.02, "{mixed} beside {other}");

    show_tokens(&runtime, &model, &mut pipeline);
}

/// How far one run's distributions are from another's.
#[derive(Default)]
struct Spread {
    positions: usize,
    divergence: f64,
    agreed: usize,
}

impl Spread {
    /// Compares logits with log-probabilities of the same position.
    fn add(&mut self, reference: &[f32], logits: &[f32]) {
        let ours = log_probabilities(logits);
        let terms = reference.iter().zip(&ours);
        self.divergence += terms
            .map(|(theirs, ours)| f64::from(*theirs).exp() * f64::from(theirs - ours))
            .sum::<f64>();
        let agrees = engine::sample::greedy(reference) == engine::sample::greedy(logits);
        self.agreed += usize::from(agrees);
        self.positions += 1;
    }

    fn mean_divergence(&self) -> f64 {
        self.divergence / self.positions as f64
    }

    fn agreement(&self) -> f64 {
        self.agreed as f64 / self.positions as f64
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} positions, mean divergence {:.6}, top-1 agreement {:.2} %",
            self.positions,
            self.mean_divergence(),
            100.0 * self.agreement()
        )
    }
}

fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let offset = f64::from(largest) + total.ln();
    logits.iter().map(|logit| (f64::from(*logit) - offset) as f32).collect()
}

fn whole(runtime: &Runtime, model: &std::path::Path, step_rows: u32) -> WholeModel {
    let config = WholeConfig {
        step_rows,
        ..WholeConfig::like_a_stage(cpu(), CONTEXT_LENGTH)
    };
    WholeModel::load(runtime, model, &config).unwrap()
}

/// The text in pieces of one context, and the whole model's log-probabilities of every position.
fn reference(runtime: &Runtime, model: &std::path::Path, step_rows: u32, text: &str) -> (Vec<Vec<i32>>, Vec<Vec<f32>>) {
    let mut whole = whole(runtime, model, step_rows);
    let tokens = whole.tokenize(text).unwrap();
    let texts: Vec<Vec<i32>> = tokens.chunks(CONTEXT_LENGTH as usize).map(<[i32]>::to_vec).collect();
    let mut reference = Vec::new();
    for tokens in &texts {
        let keep = |_, logits: &[f32]| reference.push(log_probabilities(logits));
        whole.teacher_forced(tokens, keep).unwrap();
    }
    (texts, reference)
}

/// llama.cpp against itself at micro-batches of 32.
fn reference_spread(
    runtime: &Runtime,
    model: &std::path::Path,
    texts: &[Vec<i32>],
    reference: &[Vec<f32>],
) -> (WholeModel, Spread) {
    let mut whole = whole(runtime, model, 32);
    let mut spread = Spread::default();
    for tokens in texts {
        let compare = |_, logits: &[f32]| spread.add(&reference[spread.positions], logits);
        whole.teacher_forced(tokens, compare).unwrap();
    }
    (whole, spread)
}

fn mixed_spread(pipeline: &mut Pipeline, texts: &[Vec<i32>], reference: &[Vec<f32>]) -> Spread {
    let mut spread = Spread::default();
    let started = Instant::now();
    for tokens in texts {
        pipeline.forget(0);
        let rows: Vec<Row> = (0u32..)
            .zip(tokens)
            .map(|(position, token)| Row {
                sequence: 0,
                position,
                token: *token,
            })
            .collect();
        for chunk in rows.chunks(MAX_STEP_ROWS as usize) {
            let logits = pipeline.step(chunk, &vec![true; chunk.len()]);
            for row in logits.rows() {
                spread.add(&reference[spread.positions], row);
            }
        }
    }
    let rate = spread.positions as f64 / started.elapsed().as_secs_f64();
    println!("mixed pipeline read {:.1} positions/s", rate);
    spread
}

fn show_tokens(runtime: &Runtime, model: &std::path::Path, pipeline: &mut Pipeline) {
    let mut whole = whole(runtime, model, MAX_STEP_ROWS);
    let prompt = whole.tokenize(&prompts()[0]).unwrap();
    let expected = whole.greedy(&prompt, SHOWN_TOKENS).unwrap().tokens;
    let started = Instant::now();
    let tokens = pipeline.greedy(0, &prompt, SHOWN_TOKENS);
    let equal = tokens
        .iter()
        .zip(&expected)
        .take_while(|(ours, theirs)| ours == theirs)
        .count();
    println!(
        "{equal} of the first {SHOWN_TOKENS} greedy tokens equal ({:.1} s): {:?}",
        started.elapsed().as_secs_f64(),
        whole.detokenize(&tokens)
    );
}
