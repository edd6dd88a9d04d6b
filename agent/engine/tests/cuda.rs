//! Pipelines over a CUDA device: held against llama.cpp's own spread, and as fast as the whole model there.
//!
//! An executable of its own: it starts itself again with CUDA graphs switched on and off, which ggml reads once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::time::Instant;

use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime};

use support::spread::{Yardstick, show_tokens};
use support::{CONTEXT_LENGTH, LAYERS, Pieces, Pipeline, cpu, model_file, prompts};

/// What ggml's CUDA backend asks the environment.
const GRAPHS_OFF: &str = "GGML_CUDA_DISABLE_GRAPHS";
const MEASURE: &str = "measure";

/// Decode rate of two slices in turn, with the callback between them, to that of the whole model.
const DECODE_RATIO: f64 = 0.95;
const DECODED_TOKENS: usize = 200;
/// Rounds of which the best counts: other work on the machine only ever slows one down.
const ROUNDS: usize = 5;

fn main() {
    let cuda = Device::Gpu {
        backend: "cuda".to_owned(),
        index: 0,
    };
    let Some(model) = model_file() else { return };
    let runtime = match Runtime::load_for(None, &cuda) {
        Ok(runtime) if runtime.memory(&cuda).is_some() => runtime,
        Ok(runtime) => {
            println!("SKIPPED: no CUDA device; found {:?}", runtime.devices());
            return;
        }
        Err(error) => {
            println!("SKIPPED: no CUDA device: {error}");
            return;
        }
    };
    if std::env::args().nth(1).as_deref() != Some(MEASURE) {
        for off in [false, true] {
            let mut again = Command::new(std::env::current_exe().unwrap());
            again.arg(MEASURE).env_remove(GRAPHS_OFF);
            if off {
                again.env(GRAPHS_OFF, "1");
            }
            println!("CUDA graphs {}", if off { "off" } else { "on" });
            assert!(again.status().unwrap().success());
        }
        return;
    }
    println!("{:?}", runtime.devices());
    let yardstick = Yardstick::take(&runtime, &model);
    let pieces = Pieces::write(&model);
    let cut = [LAYERS / 2];
    let mut mixed = pieces.pipeline_on(&runtime, &cut, &[cuda.clone(), cpu()], 1);
    yardstick.hold_against("CUDA head and processor tail", &mut mixed);
    show_tokens(&runtime, &model, &mut mixed);
    let mut both = pieces.pipeline_on(&runtime, &cut, &[cuda.clone(), cuda.clone()], 1);
    yardstick.hold_against("two slices on CUDA", &mut both);

    let config = WholeConfig::like_llama_cpp(cuda, CONTEXT_LENGTH);
    let mut whole = WholeModel::load(&runtime, &model, &config).unwrap();
    let prompt = whole.tokenize(&prompts()[1]).unwrap();
    let (mut of_whole, mut of_mixed, mut of_both) = (0f64, 0f64, 0f64);
    for _ in 0..ROUNDS {
        let generated = whole.greedy(&prompt, DECODED_TOKENS).unwrap();
        of_whole = of_whole.max(generated.tokens_per_second());
        of_mixed = of_mixed.max(decode_rate(&mut mixed, &prompt));
        of_both = of_both.max(decode_rate(&mut both, &prompt));
    }
    let ratio = of_both / of_whole;
    println!(
        "whole {of_whole:.1} tok/s, two slices on CUDA {of_both:.1} ({ratio:.3}), CUDA and processor {of_mixed:.1}"
    );
    assert!(ratio >= DECODE_RATIO, "{ratio}");
}

fn decode_rate(pipeline: &mut Pipeline, prompt: &[i32]) -> f64 {
    let first = pipeline.greedy(0, prompt, 1);
    let started = Instant::now();
    let mut token = first[0];
    for _ in 1..DECODED_TOKENS {
        token = engine::sample::greedy(&pipeline.feed(0, &[token], 1));
    }
    (DECODED_TOKENS - 1) as f64 / started.elapsed().as_secs_f64()
}
