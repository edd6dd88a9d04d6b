//! llama.cpp's own loop on the unsplit file: what every split is compared with.
//!
//! For tests and measurements. Nothing that serves users uses it.

pub mod rpc;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gguf::Gguf;

use crate::error::EngineError;
use crate::ffi::backend::Idle;
use crate::ffi::context::{Context, ContextOptions, Input};
use crate::ffi::model::{Model, ModelOptions, Placing};
use crate::ffi::numbers;
use crate::runtime::{Device, Runtime};
use crate::sample::greedy;
use crate::stage::STRICT_STEP_ROWS;

use rpc::RpcSplit;

/// llama.cpp's default for the rows of one decode.
const LLAMA_CPP_ROWS: u32 = 2048;
/// llama.cpp's default for the rows of one micro-batch.
const LLAMA_CPP_MICRO_ROWS: u32 = 512;

/// How to run the whole model.
#[derive(Debug, Clone)]
pub struct WholeConfig {
    /// Where it computes: no group of devices; with RPC servers the processor.
    pub device: Device,
    /// Positions of each sequence.
    pub context_length: u32,
    /// Sequences that decode together.
    pub sequences: u32,
    /// Rows of a decode.
    pub decode_rows: u32,
    /// Rows of a micro-batch, into which llama.cpp divides decodes.
    pub step_rows: u32,
    /// Whether llama.cpp may repack weights for speed, which changes the arithmetic.
    pub repack: bool,
    /// Whether compute threads spin between decodes.
    pub polling: bool,
    /// The layers that llama.cpp's RPC servers hold.
    pub rpc: RpcSplit,
}

impl WholeConfig {
    /// The arithmetic of a stage: the same rows per micro-batch, no repacked weights.
    pub fn like_a_stage(device: Device, context_length: u32) -> Self {
        Self {
            device,
            context_length,
            sequences: 1,
            decode_rows: LLAMA_CPP_ROWS,
            step_rows: STRICT_STEP_ROWS,
            repack: false,
            polling: false,
            rpc: RpcSplit::default(),
        }
    }

    /// llama.cpp's own defaults, for speed: micro-batches of 512, repacked weights,
    /// threads that spin between decodes.
    pub fn like_llama_cpp(device: Device, context_length: u32) -> Self {
        Self {
            device,
            context_length,
            sequences: 1,
            decode_rows: LLAMA_CPP_ROWS,
            step_rows: LLAMA_CPP_MICRO_ROWS,
            repack: true,
            polling: true,
            rpc: RpcSplit::default(),
        }
    }
}

/// Tokens and the time they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The generated tokens.
    pub tokens: Vec<i32>,
    /// Time from the start to the first token.
    pub prefill_time: Duration,
    /// Time of all one-row decodes and choices, without the prompt's.
    pub decode_time: Duration,
}

impl Generation {
    /// Generated tokens per second; the first token comes with the prompt and does not count.
    pub fn tokens_per_second(&self) -> f64 {
        rate(self.tokens.len().saturating_sub(1), self.decode_time)
    }
}

/// Tokens of several sequences that were decoded together, and the time they took.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchGeneration {
    /// The generated tokens of each sequence.
    pub tokens: Vec<Vec<i32>>,
    /// Time from the start to the last sequence's first token: the prompts come one after the other.
    pub prefill_time: Duration,
    /// Time of all later decodes and choices.
    pub decode_time: Duration,
}

impl BatchGeneration {
    /// Generated tokens per second, all sequences together; first tokens come with the prompts and do not count.
    pub fn tokens_per_second(&self) -> f64 {
        let decoded = self.tokens.iter().map(|tokens| tokens.len().saturating_sub(1)).sum();
        rate(decoded, self.decode_time)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// The unsplit model with its sequences.
#[derive(Debug)]
pub struct WholeModel {
    context: Context,
    sequences: u32,
}

impl WholeModel {
    /// Loads the model in `file`.
    ///
    /// # Errors
    /// As [`crate::Stage::load`].
    pub fn load(runtime: &Runtime, file: &Path, config: &WholeConfig) -> Result<Self, EngineError> {
        let refused = |cause| EngineError::LoadRefused {
            file: file.to_path_buf(),
            cause,
        };
        let accelerator = match runtime.accelerators(&config.device)?.as_slice() {
            [] => None,
            [only] => Some(*only),
            _ => {
                let cause = "the whole model runs on one device".to_owned();
                return Err(EngineError::BadConfig { cause });
            }
        };
        let idle = if config.polling { Idle::Spin } else { Idle::Sleep };
        let pool = runtime.thread_pool(&config.device, idle)?;
        let (devices, shares) = rpc::connect(runtime, config)?;
        let placing = if devices.is_empty() {
            accelerator.map_or(Placing::Host, Placing::Device)
        } else {
            Placing::Spread {
                devices: &devices,
                shares: &shares,
                layers: (layers_of(file).map_err(refused)? + 1).saturating_sub(config.rpc.local_layers),
            }
        };
        let files: [PathBuf; 1] = [file.to_path_buf()];
        let options = ModelOptions {
            files: &files,
            placing,
            mapped: true,
            vocabulary_only: false,
            repack: config.repack,
            stated: None,
        };
        let model = Model::load(&options).map_err(refused)?;
        let cells = u64::from(config.context_length) * u64::from(config.sequences);
        let options = ContextOptions {
            cells: u32::try_from(cells).unwrap_or(u32::MAX),
            rows: config.decode_rows,
            micro_rows: config.step_rows,
            sequences: config.sequences,
            kv_type: numbers::F16,
            tap: None,
            overwritten: None,
        };
        let context = Context::new(Arc::new(model), pool, &options)
            .map_err(|cause| EngineError::ContextRefused { cells, cause })?;
        Ok(Self {
            context,
            sequences: config.sequences,
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> u32 {
        self.context.model().layers()
    }

    /// Number of token ids.
    pub fn vocabulary_size(&self) -> usize {
        self.context.model().vocabulary_size()
    }

    /// `text` as tokens, special ones parsed, none added.
    ///
    /// # Errors
    /// `DecodeFailed` where llama.cpp cannot tokenise it.
    pub fn tokenize(&self, text: &str) -> Result<Vec<i32>, EngineError> {
        self.context
            .model()
            .tokenize(text, false, true)
            .ok_or_else(|| EngineError::DecodeFailed {
                rows: 0,
                cause: "the text cannot be tokenised".to_owned(),
            })
    }

    /// The text of `tokens`; bytes that are not UTF-8 are replaced.
    pub fn detokenize(&self, tokens: &[i32]) -> String {
        let model = self.context.model();
        let bytes: Vec<u8> = tokens.iter().filter_map(|t| model.piece(*t)).flatten().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Continues `prompt` by `count` greedy tokens, past the end of the answer too, from an empty
    /// cache.
    ///
    /// # Errors
    /// `DecodeFailed` with llama.cpp's account, also where the context is too short.
    pub fn greedy(&mut self, prompt: &[i32], count: usize) -> Result<Generation, EngineError> {
        let mut all = self.greedy_batch(&[prompt.to_vec()], count)?;
        Ok(Generation {
            tokens: all.tokens.pop().unwrap_or_default(),
            prefill_time: all.prefill_time,
            decode_time: all.decode_time,
        })
    }

    /// Continues each prompt in a sequence of its own by `count` greedy tokens, from an empty cache: the prompts one
    /// after the other, then one row of each sequence in every decode.
    ///
    /// # Errors
    /// As [`WholeModel::greedy`]; `UnknownSequence` for more prompts than [`WholeConfig::sequences`].
    pub fn greedy_batch(&mut self, prompts: &[Vec<i32>], count: usize) -> Result<BatchGeneration, EngineError> {
        if prompts.len() > self.sequences as usize {
            return Err(EngineError::UnknownSequence {
                sequence: self.sequences,
                limit: self.sequences,
            });
        }
        self.clear();
        let started = Instant::now();
        let mut tokens: Vec<Vec<i32>> = vec![Vec::new(); prompts.len()];
        for ((sequence, prompt), tokens) in (0i32..).zip(prompts).zip(&mut tokens) {
            self.prefill(sequence, prompt, false, |_, logits| tokens.push(greedy(logits)))?;
            tokens.truncate(count);
        }
        let prefill_time = started.elapsed();
        let started = Instant::now();
        let sequences: Vec<i32> = (0i32..).take(prompts.len()).collect();
        let wants = vec![true; prompts.len()];
        for index in 1..count {
            let last: Vec<i32> = tokens.iter().filter_map(|tokens| tokens.last().copied()).collect();
            let positions: Vec<i32> = prompts.iter().map(|prompt| signed(prompt.len() + index - 1)).collect();
            self.decode(&last, &positions, &sequences, &wants)?;
            for (row, tokens) in tokens.iter_mut().enumerate() {
                tokens.push(greedy(self.logits(row)?));
            }
        }
        Ok(BatchGeneration {
            tokens,
            prefill_time,
            decode_time: started.elapsed(),
        })
    }

    /// Feeds `tokens` from an empty cache and shows the logits of every position.
    ///
    /// # Errors
    /// As [`WholeModel::greedy`].
    pub fn teacher_forced(&mut self, tokens: &[i32], show: impl FnMut(usize, &[f32])) -> Result<(), EngineError> {
        self.clear();
        self.prefill(0, tokens, true, show)
    }

    fn prefill(
        &mut self,
        sequence: i32,
        tokens: &[i32],
        all: bool,
        mut show: impl FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        let mut first = 0;
        for chunk in tokens.chunks(self.context.rows()) {
            let wants: Vec<bool> = (first + 1..=first + chunk.len())
                .map(|end| all || end == tokens.len())
                .collect();
            let positions: Vec<i32> = (first..first + chunk.len()).map(signed).collect();
            self.decode(chunk, &positions, &vec![sequence; chunk.len()], &wants)?;
            for (row, _) in wants.iter().enumerate().filter(|(_, want)| **want) {
                show(first + row, self.logits(row)?);
            }
            first += chunk.len();
        }
        Ok(())
    }

    fn decode(
        &mut self,
        tokens: &[i32],
        positions: &[i32],
        sequences: &[i32],
        wants: &[bool],
    ) -> Result<(), EngineError> {
        self.context
            .decode(Input::Tokens(tokens), positions, sequences, wants)
            .map_err(|cause| EngineError::DecodeFailed {
                rows: tokens.len(),
                cause,
            })
    }

    fn logits(&self, row: usize) -> Result<&[f32], EngineError> {
        let cause = || format!("row {row} gave no logits");
        self.context.logits(row).ok_or_else(|| EngineError::DecodeFailed {
            rows: 1,
            cause: cause(),
        })
    }

    fn clear(&mut self) {
        self.context.clear();
    }
}

fn signed(position: usize) -> i32 {
    i32::try_from(position).unwrap_or(i32::MAX)
}

/// The number of layers that the header of `file` states.
fn layers_of(file: &Path) -> Result<u32, String> {
    let header = Gguf::open(file).map_err(|error| error.to_string())?;
    let pieces = gguf::pieces(&header).map_err(|error| error.to_string())?;
    Ok(pieces.layer_count())
}
