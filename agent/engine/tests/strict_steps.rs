//! What strict steps promise: a position's numbers do not depend on how those before it were computed.
//!
//! All of it beyond 512 cells and with several threads, where llama.cpp computes the attention of a lone row otherwise than
//! that of several.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use engine::{Device, Embedding, Runtime, STRICT_STEP_ROWS, Stage, StageConfig};

use support::{LAYERS, Pieces, Pipeline, model_file, stage_config};

/// Positions before the first that is computed alone.
const PROMPT: usize = 515;

/// Positions of the answer, all computed alone at first.
const ANSWER: usize = 16;

/// Positions of the answer that are computed anew in large steps, before it goes on alone: more than 520 cells are in use.
const RECOMPUTED: usize = 10;

fn threads(threads: u32) -> Device {
    Device::Cpu { threads }
}

/// Token ids in no order.
fn tokens() -> Vec<i32> {
    (0..(PROMPT + ANSWER) as u32)
        .map(|place| ((place * place * 31 + place * 7 + 5) % 40_000) as i32)
        .collect()
}

/// Stages that end at these layers, each on so many threads.
fn pipeline(runtime: &Runtime, pieces: &Pieces, stages_at: &[(u32, u32)]) -> Pipeline {
    let mut first = 0;
    let mut embedding = None;
    let mut stages = Vec::new();
    for (end, count) in stages_at.iter().copied() {
        let config = StageConfig {
            context_length: 1024,
            ..stage_config(pieces.slice_files((first, end)), (first, end), &threads(count), 1)
        };
        assert!(config.strict);
        stages.push(Stage::load(runtime, &config).unwrap());
        embedding = embedding.or(pieces.embedding((first, end)));
        first = end;
    }
    let embedding = Embedding::open(&embedding.unwrap()).unwrap();
    Pipeline { embedding, stages }
}

/// The logits of each of `tokens`, each in a step of its own.
fn alone(pipeline: &mut Pipeline, tokens: &[i32]) -> Vec<Vec<f32>> {
    tokens.iter().map(|token| pipeline.feed(0, &[*token], 1)).collect()
}

#[test]
fn a_continuation_after_a_recovery_has_the_logits_of_the_uninterrupted_one_beyond_512_cells_and_on_several_threads() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &threads(2)).unwrap();
    let pieces = Pieces::write(&model);
    let tokens = tokens();
    let (prompt, answer) = tokens.split_at(PROMPT);
    // Threads of one stage wait for each other by spinning: few layers, so that a busy machine gets through.
    let mut chain = pipeline(&runtime, &pieces, &[(4, 2), (LAYERS, 1)]);
    chain.feed(0, prompt, STRICT_STEP_ROWS as usize);
    let uninterrupted = alone(&mut chain, answer);

    // On the same stages, and on one of all layers with another number of threads.
    let mut whole = pipeline(&runtime, &pieces, &[(LAYERS, 1)]);
    for recovered in [&mut chain, &mut whole] {
        recovered.forget(0);
        recovered.feed(0, &tokens[..PROMPT + RECOMPUTED], STRICT_STEP_ROWS as usize);
        let continued = alone(recovered, &answer[RECOMPUTED..]);
        for (place, (continued, expected)) in continued.iter().zip(&uninterrupted[RECOMPUTED..]).enumerate() {
            assert!(
                continued == expected,
                "logits differ {place} positions after the recovery"
            );
        }
    }
}
