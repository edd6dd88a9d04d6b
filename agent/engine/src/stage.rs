//! A slice of layers with its KV cache.
//!
//! One [`Stage::step`] is one `llama_decode`, one micro-batch, and on all but the last stage one
//! call of the eval callback, which takes the residual stream after the slice's last layer. A step
//! happens wholly or not at all: what fails leaves every sequence as long as it was.

mod cells;
mod config;
mod positions;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::EngineError;
use crate::ffi::backend::Idle;
use crate::ffi::context::{Context, ContextOptions, Input};
use crate::ffi::model::{Model, ModelOptions};
use crate::runtime::Runtime;

use cells::Cells;
pub use config::{KvType, MAX_STEP_ROWS, PARALLEL_SEQUENCES_LIMIT, STEP_ROWS_LIMIT, StageConfig};
use config::{check, check_model, has_whole_embedding};
use positions::Positions;
pub use rows::{Logits, Row, StepInput, StepOutput};

/// A loaded slice. Use it from one thread at a time; it may move between threads.
#[derive(Debug)]
pub struct Stage {
    context: Context,
    positions: Positions,
    /// `None` for caches that are not plain keys and values: their cells cannot be handed over.
    cells: Option<Cells>,
    /// The sequence that takes over what is removed; no row is ever sent to it.
    retired_sequence: u32,
    embedding_length: usize,
    last: bool,
    takes_tokens: bool,
    /// Why the stage is unusable, once it is.
    broken: Option<String>,
}

impl Stage {
    /// Loads the slice and makes its cache. Takes as long as reading the slice takes.
    ///
    /// # Errors
    /// `BadConfig` where `config` contradicts itself or the files, `LoadRefused` and
    /// `ContextRefused` with llama.cpp's account, and the device errors of [`Runtime`].
    pub fn load(runtime: &Runtime, config: &StageConfig) -> Result<Self, EngineError> {
        let cells = check(config)?;
        let accelerator = runtime.accelerator(&config.device)?;
        let pool = runtime.thread_pool(&config.device, Idle::Sleep)?;
        let first_file = config.slice_files.first().cloned().unwrap_or_default();
        let options = ModelOptions {
            files: &config.slice_files,
            accelerator,
            vocabulary_only: false,
            // Repacked weights multiply in an order that depends on the number of rows.
            repack: false,
        };
        let model = Model::load(&options).map_err(|cause| EngineError::LoadRefused {
            file: first_file,
            cause,
        })?;
        let layers = config.end_layer - config.first_layer;
        check_model(&model, config, layers)?;

        let takes_tokens =
            config.first && config.last && has_whole_embedding(&config.slice_files, model.vocabulary_size());
        let tap = (!config.last).then(|| format!("l_out-{}", layers - 1));
        let embedding_length = model.embedding_length();
        let options = ContextOptions {
            cells,
            rows: config.max_step_rows.min(cells),
            sequences: config.parallel_sequences + 1,
            kv_type: config.kv_type.ggml_type(),
            tap: tap.as_deref(),
        };
        let plain = model.has_plain_cache();
        let context = Context::new(Arc::new(model), pool, &options).map_err(|cause| EngineError::ContextRefused {
            cells: u64::from(cells),
            cause,
        })?;
        Ok(Self {
            context,
            positions: Positions::new(config.parallel_sequences, config.context_length),
            cells: plain.then(|| Cells::new(cells)),
            retired_sequence: config.parallel_sequences,
            embedding_length,
            last: config.last,
            takes_tokens,
            broken: None,
        })
    }

    /// Computes one step.
    ///
    /// # Errors
    /// Of kind [`crate::Fault::Request`] where the step does not fit, before llama.cpp sees it;
    /// `DecodeFailed` after a failed decode, whose rows have been removed again; `Broken` where
    /// they could not be, and from then on.
    pub fn step(&mut self, input: &StepInput<'_>) -> Result<StepOutput, EngineError> {
        self.usable()?;
        self.check_shape(input)?;
        let touched = self.positions.admit(input.rows)?;
        // Rows are few: a step was checked to have at most `max_step_rows`.
        let rows = input.rows.len() as u32;
        if self.cells.is_some_and(|cells| cells.wants_compaction(rows)) {
            self.compact()?;
        }
        match self.compute(input) {
            Ok(output) => {
                self.positions.commit(input.rows);
                if let Some(cells) = &mut self.cells {
                    cells.write(rows);
                }
                Ok(output)
            }
            Err(cause) => {
                for (sequence, from) in touched {
                    if !self.context.remove_from(signed(sequence), signed(from)) {
                        self.broken = Some(format!(
                            "after \"{cause}\" sequence {sequence} could not be cut back to {from}"
                        ));
                    }
                }
                self.usable()?;
                Err(EngineError::DecodeFailed {
                    rows: input.rows.len(),
                    cause,
                })
            }
        }
    }

    /// Forgets positions `from..end` of `sequence`, which must be a suffix (`end` at or beyond its
    /// length; `u32::MAX` serves as "all"). Removing nothing is no error.
    ///
    /// # Errors
    /// Of kind [`crate::Fault::Request`] for an unknown sequence or a removal that would leave a
    /// hole; `Broken` where the cache could not do it.
    pub fn remove(&mut self, sequence: u32, from: u32, end: u32) -> Result<(), EngineError> {
        self.usable()?;
        if !self.positions.check_removal(sequence, from, end)? {
            return Ok(());
        }
        let removed = self.positions.length(sequence) - from;
        self.positions.truncate(sequence, from);
        let nothing_left = self.positions.total() == 0;
        let done = match &mut self.cells {
            Some(cells) if nothing_left => {
                cells.clear();
                self.context.clear();
                true
            }
            Some(cells) => {
                cells.retire(removed);
                let heir = signed(self.retired_sequence);
                self.context.hand_over(signed(sequence), signed(from), heir)
            }
            None => self.context.remove_from(signed(sequence), signed(from)),
        };
        if !done {
            self.broken = Some(format!("sequence {sequence} could not be cut back to {from}"));
        }
        self.usable()
    }

    /// Frees what was removed, and moves the living together.
    fn compact(&mut self) -> Result<(), EngineError> {
        if !self.context.remove_from(signed(self.retired_sequence), 0) {
            self.broken = Some("removed positions could not be freed".to_owned());
        }
        for sequence in self.positions.alive() {
            match self.context.relocate(signed(sequence)) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(
                    sequence,
                    "no memory to move the sequence together: its numbers may differ in the last bits"
                ),
                Err(cause) => self.broken = Some(cause),
            }
        }
        if let Some(cells) = &mut self.cells {
            cells.compact();
        }
        self.usable()
    }

    /// Positions that `sequence` holds, which is also its next position; 0 for an unknown one.
    pub fn sequence_length(&self, sequence: u32) -> u32 {
        self.positions.length(sequence)
    }

    /// Whether the slice is the whole model with its whole embedding, so that steps may leave the
    /// activations empty and have their tokens looked up by llama.cpp. Models that run whole for
    /// their architecture's sake must do so: their graphs may treat looked-up rows specially.
    pub fn takes_tokens(&self) -> bool {
        self.takes_tokens
    }

    /// Values in one row of activations.
    pub fn embedding_length(&self) -> usize {
        self.embedding_length
    }

    /// Logits in a row of the last stage; 1 on stages without a vocabulary.
    pub fn vocabulary_size(&self) -> usize {
        self.context.model().vocabulary_size()
    }

    /// Most rows of a step: as configured, or the whole cache where that is smaller.
    pub fn max_step_rows(&self) -> usize {
        self.context.rows()
    }

    fn usable(&self) -> Result<(), EngineError> {
        self.broken
            .as_ref()
            .map_or(Ok(()), |cause| Err(EngineError::Broken { cause: cause.clone() }))
    }

    fn check_shape(&self, input: &StepInput<'_>) -> Result<(), EngineError> {
        let rows = input.rows.len();
        let limit = self.max_step_rows();
        if rows == 0 || rows > limit {
            return Err(EngineError::StepSize { rows, limit });
        }
        let values = if self.feeds_tokens(input) {
            0
        } else {
            rows * self.embedding_length
        };
        let lengths = [
            ("activations", input.activations.len(), values),
            ("wants", input.wants.len(), rows),
        ];
        for (what, actual, expected) in lengths {
            if actual != expected {
                return Err(EngineError::StepShape { what, actual, expected });
            }
        }
        Ok(())
    }

    fn feeds_tokens(&self, input: &StepInput<'_>) -> bool {
        self.takes_tokens && input.activations.is_empty()
    }

    fn compute(&mut self, input: &StepInput<'_>) -> Result<StepOutput, String> {
        let positions: Vec<i32> = input.rows.iter().map(|row| signed(row.position)).collect();
        let sequences: Vec<i32> = input.rows.iter().map(|row| signed(row.sequence)).collect();
        let tokens: Vec<i32> = input.rows.iter().map(|row| row.token).collect();
        let fed = if self.feeds_tokens(input) {
            Input::Tokens(&tokens)
        } else {
            Input::Activations(input.activations)
        };
        self.context.decode(fed, &positions, &sequences, input.wants)?;
        if !self.last {
            let activations = self.context.take_tapped()?;
            return Ok(StepOutput {
                activations,
                logits: Logits::default(),
            });
        }
        let vocabulary_size = self.vocabulary_size();
        let wanted = || (0..input.rows.len()).filter(|row| input.wants[*row]);
        let mut values = Vec::with_capacity(wanted().count() * vocabulary_size);
        for row in wanted() {
            let logits = self.context.logits(row);
            values.extend_from_slice(logits.ok_or_else(|| format!("row {row} gave no logits"))?);
        }
        let logits = Logits {
            values,
            vocabulary_size,
        };
        Ok(StepOutput {
            activations: Vec::new(),
            logits,
        })
    }
}

/// Positions and sequence ids are checked to be far below `i32::MAX` before they get here.
fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
