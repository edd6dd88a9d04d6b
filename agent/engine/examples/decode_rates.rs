//! Decode rates of the engine by itself: llama.cpp's own loop beside one and two stages.
//!
//! `decode_rates <model.gguf> [tokens] [threads]` prints one JSON object. No network and no other
//! process is involved: what gateway and workers add is measured elsewhere.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::reference::{WholeConfig, WholeModel};
use engine::sample::greedy;
use engine::{
    Device, Embedding, KvType, Logits, MAX_STEP_ROWS, Row, Runtime, Stage, StageConfig, StepInput, StepOutput,
};
use gguf::{Gguf, pieces, prepare_slice, write_piece};

/// Rounds of which the best counts: other work on the machine only ever slows a round down.
const ROUNDS: usize = 5;

const CONTEXT_LENGTH: u32 = 512;
const PROMPT: &str = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model = PathBuf::from(
        args.next()
            .ok_or("usage: decode_rates <model.gguf> [tokens] [threads]")?,
    );
    let tokens = args.next().map_or(Ok(128), |count| count.parse())?;
    let threads = args.next().map_or(Ok(2), |count| count.parse())?;
    let device = Device::Cpu { threads };
    let runtime = Runtime::load_for(None, &device)?;
    let folder = std::env::temp_dir().join(format!("decode-rates-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let rates = measure(&runtime, &model, &folder, &device, tokens);
    std::fs::remove_dir_all(&folder)?;
    println!("{}", rates?);
    Ok(())
}

fn measure(
    runtime: &Runtime,
    model: &Path,
    folder: &Path,
    device: &Device,
    tokens: usize,
) -> Result<serde_json::Value, Box<dyn Error>> {
    let own = WholeConfig::like_llama_cpp(device.clone(), CONTEXT_LENGTH);
    let mut own = WholeModel::load(runtime, model, &own)?;
    let same = WholeConfig::like_a_stage(device.clone(), CONTEXT_LENGTH);
    let mut same = WholeModel::load(runtime, model, &same)?;
    let prompt = own.tokenize(PROMPT)?;
    let layers = own.layers();
    let mut one = Pipeline::load(runtime, model, folder, device, &[layers])?;
    let mut two = Pipeline::load(runtime, model, folder, device, &[layers / 2, layers])?;
    let mut best = [0f64; 4];
    for _ in 0..ROUNDS {
        let rates = [
            own.greedy(&prompt, tokens)?.tokens_per_second(),
            same.greedy(&prompt, tokens)?.tokens_per_second(),
            one.decode_rate(&prompt, tokens)?,
            two.decode_rate(&prompt, tokens)?,
        ];
        for (best, rate) in best.iter_mut().zip(rates) {
            *best = best.max(rate);
        }
    }
    Ok(serde_json::json!({
        "whole_tok_s": best[0],
        "whole_like_a_stage_tok_s": best[1],
        "one_stage_tok_s": best[2],
        "two_stage_tok_s": best[3],
        "one_stage_ratio": best[2] / best[0],
        "two_stage_ratio": best[3] / best[0],
    }))
}

struct Pipeline {
    embedding: Embedding,
    stages: Vec<Stage>,
}

impl Pipeline {
    fn load(
        runtime: &Runtime,
        model: &Path,
        folder: &Path,
        device: &Device,
        ends: &[u32],
    ) -> Result<Self, Box<dyn Error>> {
        let gguf = Gguf::open(model)?;
        let all = pieces(&gguf)?;
        let mut source = File::open(model)?;
        for piece in all.all() {
            write_piece(&mut source, &all, piece, &folder.join(piece.file_name()))?;
        }
        let mut first_layer = 0;
        let mut embedding = None;
        let mut stages = Vec::new();
        for end_layer in ends.iter().copied() {
            let files = prepare_slice(folder, &gguf, first_layer, end_layer)?;
            let config = StageConfig {
                slice_files: files.splits(),
                device: device.clone(),
                context_length: CONTEXT_LENGTH,
                parallel_sequences: 1,
                kv_type: KvType::F16,
                max_step_rows: MAX_STEP_ROWS,
                first: first_layer == 0,
                last: end_layer == all.layer_count(),
                first_layer,
                end_layer,
            };
            stages.push(Stage::load(runtime, &config)?);
            embedding = embedding.or(files.embedding);
            first_layer = end_layer;
        }
        let embedding = Embedding::open(&embedding.ok_or("the model has no embedding outside")?)?;
        Ok(Self { embedding, stages })
    }

    fn decode_rate(&mut self, prompt: &[i32], count: usize) -> Result<f64, Box<dyn Error>> {
        for stage in &mut self.stages {
            stage.remove(0, 0, u32::MAX)?;
        }
        let mut token = None;
        for chunk in prompt.chunks(MAX_STEP_ROWS as usize) {
            token = Some(self.next(chunk)?);
        }
        let mut token = token.ok_or("the prompt is empty")?;
        let started = Instant::now();
        for _ in 1..count {
            token = self.next(&[token])?;
        }
        let elapsed = started.elapsed().max(Duration::from_nanos(1));
        Ok(count.saturating_sub(1) as f64 / elapsed.as_secs_f64())
    }

    fn next(&mut self, tokens: &[i32]) -> Result<i32, Box<dyn Error>> {
        let first = self.stages.first().map_or(0, |stage| stage.sequence_length(0));
        let rows: Vec<Row> = (first..)
            .zip(tokens)
            .map(|(position, token)| Row {
                sequence: 0,
                position,
                token: *token,
            })
            .collect();
        let mut wants = vec![false; rows.len()];
        if let Some(last) = wants.last_mut() {
            *last = true;
        }
        let mut output = StepOutput {
            activations: self.embedding.rows(tokens)?,
            logits: Logits::default(),
        };
        for stage in &mut self.stages {
            let activations = &output.activations;
            output = stage.step(&StepInput {
                rows: &rows,
                activations,
                wants: &wants,
            })?;
        }
        Ok(greedy(output.logits.row(0).ok_or("no logits")?))
    }
}
