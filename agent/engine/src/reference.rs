//! llama.cpp's own loop on the unsplit file: what every split is compared with.
//!
//! For tests and measurements. Nothing that serves users uses it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::EngineError;
use crate::ffi::backend::Idle;
use crate::ffi::context::{Context, ContextOptions, Input};
use crate::ffi::model::{Model, ModelOptions};
use crate::ffi::numbers;
use crate::runtime::{Device, Runtime};
use crate::sample::greedy;
use crate::stage::MAX_STEP_ROWS;

/// How to run the whole model.
#[derive(Debug, Clone)]
pub struct WholeConfig {
    /// Where it computes.
    pub device: Device,
    /// Positions of its one sequence.
    pub context_length: u32,
    /// Rows of a decode and of a micro-batch.
    pub step_rows: u32,
    /// Whether llama.cpp may repack weights for speed, which changes the arithmetic.
    pub repack: bool,
    /// Whether compute threads spin between decodes.
    pub polling: bool,
}

impl WholeConfig {
    /// The arithmetic of a stage: the same rows per micro-batch, no repacked weights.
    pub fn like_a_stage(device: Device, context_length: u32) -> Self {
        Self {
            device,
            context_length,
            step_rows: MAX_STEP_ROWS,
            repack: false,
            polling: false,
        }
    }

    /// llama.cpp's own defaults, for speed: micro-batches of 512, repacked weights,
    /// threads that spin between decodes.
    pub fn like_llama_cpp(device: Device, context_length: u32) -> Self {
        Self {
            device,
            context_length,
            step_rows: 512,
            repack: true,
            polling: true,
        }
    }
}

/// Tokens and the time they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The generated tokens.
    pub tokens: Vec<i32>,
    /// Time of all one-row decodes and choices, without the prompt's.
    pub decode_time: Duration,
}

impl Generation {
    /// Generated tokens per second; the first token comes with the prompt and does not count.
    pub fn tokens_per_second(&self) -> f64 {
        let decodes = self.tokens.len().saturating_sub(1) as f64;
        decodes / self.decode_time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// The unsplit model with one sequence.
#[derive(Debug)]
pub struct WholeModel {
    context: Context,
}

impl WholeModel {
    /// Loads the model in `file`.
    ///
    /// # Errors
    /// As [`crate::Stage::load`].
    pub fn load(runtime: &Runtime, file: &Path, config: &WholeConfig) -> Result<Self, EngineError> {
        let accelerator = runtime.accelerator(&config.device)?;
        let idle = if config.polling { Idle::Spin } else { Idle::Sleep };
        let pool = runtime.thread_pool(&config.device, idle)?;
        let files: [PathBuf; 1] = [file.to_path_buf()];
        let options = ModelOptions {
            files: &files,
            accelerator,
            vocabulary_only: false,
            repack: config.repack,
        };
        let model = Model::load(&options).map_err(|cause| EngineError::LoadRefused {
            file: file.to_path_buf(),
            cause,
        })?;
        let options = ContextOptions {
            cells: config.context_length,
            rows: config.step_rows,
            sequences: 1,
            kv_type: numbers::F16,
            tap: None,
        };
        let cells = u64::from(config.context_length);
        let context = Context::new(Arc::new(model), pool, &options)
            .map_err(|cause| EngineError::ContextRefused { cells, cause })?;
        Ok(Self { context })
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
        self.clear();
        let mut last = None;
        self.prefill(prompt, false, |_, logits| last = Some(greedy(logits)))?;
        let started = Instant::now();
        let mut tokens: Vec<i32> = last.into_iter().take(count).collect();
        while let Some(token) = tokens.last().copied().filter(|_| tokens.len() < count) {
            let position = prompt.len() + tokens.len() - 1;
            self.decode(&[token], position, &[true])?;
            tokens.push(greedy(self.logits(0)?));
        }
        Ok(Generation {
            tokens,
            decode_time: started.elapsed(),
        })
    }

    /// Feeds `tokens` in micro-batches from an empty cache and shows the logits of every position.
    ///
    /// # Errors
    /// As [`WholeModel::greedy`].
    pub fn teacher_forced(&mut self, tokens: &[i32], show: impl FnMut(usize, &[f32])) -> Result<(), EngineError> {
        self.clear();
        self.prefill(tokens, true, show)
    }

    fn prefill(&mut self, tokens: &[i32], all: bool, mut show: impl FnMut(usize, &[f32])) -> Result<(), EngineError> {
        let mut first = 0;
        for chunk in tokens.chunks(self.context.rows()) {
            let wants: Vec<bool> = (first + 1..=first + chunk.len())
                .map(|end| all || end == tokens.len())
                .collect();
            self.decode(chunk, first, &wants)?;
            for (row, _) in wants.iter().enumerate().filter(|(_, want)| **want) {
                show(first + row, self.logits(row)?);
            }
            first += chunk.len();
        }
        Ok(())
    }

    fn decode(&mut self, tokens: &[i32], first: usize, wants: &[bool]) -> Result<(), EngineError> {
        let rows = tokens.len();
        let positions: Vec<i32> = (first..first + rows)
            .map(|p| i32::try_from(p).unwrap_or(i32::MAX))
            .collect();
        self.context
            .decode(Input::Tokens(tokens), &positions, &vec![0; rows], wants)
            .map_err(|cause| EngineError::DecodeFailed { rows, cause })
    }

    fn logits(&self, row: usize) -> Result<&[f32], EngineError> {
        let cause = || format!("row {row} gave no logits");
        self.context.logits(row).ok_or_else(|| EngineError::DecodeFailed {
            rows: 1,
            cause: cause(),
        })
    }

    fn clear(&mut self) {
        // Removing all of a sequence always succeeds.
        self.context.remove_from(0, 0);
    }
}
