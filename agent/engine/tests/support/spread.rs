//! How far a pipeline over several backends is from the whole model, held against llama.cpp's own spread.
//!
//! Two backends add up in different orders, so tokens may differ where two were almost equally likely. The bar: over at
//! least 1,000 positions of a given text, the mean divergence from the whole model is at most twice that of llama.cpp
//! from itself between two micro-batch sizes, and the most likely token agrees at most two points less often.

use std::path::Path;
use std::time::Instant;

use engine::reference::{WholeConfig, WholeModel};
use engine::{Row, Runtime, STRICT_STEP_ROWS};

use super::{CONTEXT_LENGTH, Pipeline, cpu, prompts};

/// Positions compared at least.
const COMPARED_POSITIONS: usize = 1_000;

/// Greedy tokens that are generated through all backends and shown beside the whole model's.
const SHOWN_TOKENS: usize = 8;

/// What the whole model makes of the text, on the processor, and how far llama.cpp is from itself.
pub struct Yardstick {
    texts: Vec<Vec<i32>>,
    reference: Vec<Vec<f32>>,
    own: Spread,
}

impl Yardstick {
    pub fn take(runtime: &Runtime, model: &Path) -> Self {
        let (texts, reference) = reference(runtime, model, 512, include_str!("../teacher.txt"));
        let own = reference_spread(runtime, model, &texts, &reference);
        println!("llama.cpp, micro-batches of 32 against 512: {own}");
        Self { texts, reference, own }
    }

    /// Panics where the pipeline is beyond the bar.
    pub fn hold_against(&self, name: &str, pipeline: &mut Pipeline) {
        let mixed = mixed_spread(pipeline, &self.texts, &self.reference);
        println!("{name} against the whole model: {mixed}");
        assert!(mixed.positions >= COMPARED_POSITIONS, "{mixed}");
        let own = &self.own;
        assert!(
            mixed.mean_divergence() <= 2.0 * own.mean_divergence(),
            "{mixed} beside {own}"
        );
        assert!(mixed.agreement() >= own.agreement() - 0.02, "{mixed} beside {own}");
    }
}

/// Prints the first tokens of an answer beside the whole model's.
pub fn show_tokens(runtime: &Runtime, model: &Path, pipeline: &mut Pipeline) {
    let mut whole = whole(runtime, model, STRICT_STEP_ROWS);
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

fn whole(runtime: &Runtime, model: &Path, step_rows: u32) -> WholeModel {
    let config = WholeConfig {
        step_rows,
        ..WholeConfig::like_a_stage(cpu(), CONTEXT_LENGTH)
    };
    WholeModel::load(runtime, model, &config).unwrap()
}

/// The text in pieces of one context, and the whole model's log-probabilities of every position.
fn reference(runtime: &Runtime, model: &Path, step_rows: u32, text: &str) -> (Vec<Vec<i32>>, Vec<Vec<f32>>) {
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
fn reference_spread(runtime: &Runtime, model: &Path, texts: &[Vec<i32>], reference: &[Vec<f32>]) -> Spread {
    let mut whole = whole(runtime, model, 32);
    let mut spread = Spread::default();
    for tokens in texts {
        let compare = |_, logits: &[f32]| spread.add(&reference[spread.positions], logits);
        whole.teacher_forced(tokens, compare).unwrap();
    }
    spread
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
        for chunk in rows.chunks(STRICT_STEP_ROWS as usize) {
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
