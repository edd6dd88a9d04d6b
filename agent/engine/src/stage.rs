//! A slice of layers with its KV cache.
//!
//! One [`Stage::step`] is one `llama_decode`, one micro-batch, and on all but the last stage one
//! call of the eval callback, which takes the residual stream after the slice's last layer. A step
//! happens wholly or not at all: what fails leaves every sequence as long as it was.

mod cells;
mod compaction;
mod companion;
mod config;
mod memory;
mod positions;
mod rows;
#[cfg(test)]
mod tests;
mod traits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::EngineError;
use crate::ffi::backend::{DeviceHandle, Idle};
use crate::ffi::context::{Context, ContextOptions, Input};
use crate::ffi::log;
use crate::ffi::model::{CacheKind, Model, ModelOptions, Placing};
use crate::runtime::Runtime;

use cells::{Cells, Packing};
use companion::Batch;
pub use config::{KvType, PARALLEL_SEQUENCES_LIMIT, STEP_ROWS, STEP_ROWS_LIMIT, STRICT_STEP_ROWS, StageConfig};
use config::{check, check_model, has_whole_embedding};
pub use memory::StageMemory;
use positions::Positions;
pub use rows::{Logits, Row, StepInput, StepOutput};
use traits::traits;

/// A loaded slice. Use it from one thread at a time; it may move between threads.
#[derive(Debug)]
pub struct Stage {
    context: Context,
    positions: Positions,
    /// `None` for caches that are not keys and values alone: their cells cannot be handed over.
    cells: Option<Cells>,
    packing: Packing,
    /// The sequence that takes over what is removed; no row is ever sent to it.
    retired_sequence: u32,
    /// The sequence by way of which cells are moved, and of a lone row's companion; empty between two calls.
    scratch_sequence: u32,
    /// Whether a row that is alone in its step gets a companion.
    accompanied: bool,
    step_rows: usize,
    embedding_length: usize,
    last: bool,
    takes_tokens: bool,
    memory: StageMemory,
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
        Self::load_beside_host(runtime, config, 0)
    }

    /// As [`Stage::load`], with the first `host_layers` of the slice and their part of the cache in host memory, where
    /// the processor computes them: for a device that cannot hold them all. No effect on the processor.
    ///
    /// # Errors
    /// As [`Stage::load`].
    pub fn load_beside_host(runtime: &Runtime, config: &StageConfig, host_layers: u32) -> Result<Self, EngineError> {
        let cells = check(config)?;
        let all_cells = cells + companion::cells(config);
        let accelerator = runtime.accelerator(&config.device)?;
        let pool = runtime.thread_pool(&config.device, Idle::Sleep)?;
        let layers = config.end_layer - config.first_layer;
        let placing = placing(accelerator, layers, host_layers);
        let first_file = config.slice_files.first().cloned().unwrap_or_default();
        let traits = traits(config, all_cells)?;
        let options = ModelOptions {
            files: &config.slice_files,
            placing,
            // A budget is proved only by memory that nobody takes back. What goes to a device is read from the file once.
            mapped: matches!(placing, Placing::Device(_)),
            vocabulary_only: false,
            // Repacked weights multiply in an order that depends on the number of rows.
            repack: false,
            stated: traits.stated.as_ref().map(|(key, value)| (key.as_str(), *value)),
        };
        let (model, mut buffers) = log::with_buffers(|| Model::load(&options));
        let model = model.map_err(|cause| EngineError::LoadRefused {
            file: first_file,
            cause,
        })?;
        check_model(&model, config, layers)?;

        let takes_tokens =
            config.first && config.last && has_whole_embedding(&config.slice_files, model.vocabulary_size());
        let tap = (!config.last).then(|| format!("l_out-{}", layers - 1));
        let embedding_length = model.embedding_length();
        let kind = model.cache_kind();
        let accompanied = companion::needed(config, kind, traits.architecture)?;
        let sequences = sequences(kind, config);
        let step_rows = config.max_step_rows.min(cells);
        let rows = step_rows.max(1 + u32::from(accompanied));
        let options = ContextOptions {
            cells: all_cells,
            rows,
            micro_rows: rows,
            sequences: sequences + 2,
            kv_type: config.kv_type.ggml_type(),
            tap: tap.as_deref(),
            overwritten: traits.overwritten,
        };
        let (context, more) = log::with_buffers(|| Context::new(Arc::new(model), pool, &options));
        buffers.extend(more);
        let context = context.map_err(|cause| EngineError::ContextRefused {
            cells: u64::from(cells),
            cause,
        })?;
        Ok(Self {
            context,
            positions: Positions::new(sequences, config.context_length),
            cells: (!kind.keeps_state()).then(|| Cells::new(cells, sequences)),
            packing: packing(kind),
            retired_sequence: sequences,
            scratch_sequence: sequences + 1,
            accompanied,
            step_rows: step_rows as usize,
            embedding_length,
            last: config.last,
            takes_tokens,
            memory: StageMemory::of(&buffers, accelerator.is_some()),
            broken: None,
        })
    }

    /// Computes one step.
    ///
    /// # Errors
    /// Of kind [`crate::Fault::Request`] where the step does not fit, before llama.cpp sees it;
    /// `DecodeFailed` after a failed decode, whose rows have been removed again (on a stage that does
    /// not share prefixes: with all that their sequences held); `Broken` where they could not be, and
    /// from then on.
    pub fn step(&mut self, input: &StepInput<'_>) -> Result<StepOutput, EngineError> {
        let vocabulary_size = self.vocabulary_size();
        let mut values = Vec::new();
        let activations = self.step_with(input, |_, logits| {
            values.extend_from_slice(logits);
            Ok(())
        })?;
        Ok(StepOutput {
            activations,
            logits: Logits {
                values,
                vocabulary_size,
            },
        })
    }

    /// Computes one step and, on the last stage, shows the logits of each wanted row with the row's index, in order and
    /// where llama.cpp keeps them: nothing is copied. Gives the activations as [`StepOutput`] does.
    ///
    /// # Errors
    /// As [`Stage::step`]; where `show` refuses a row with a cause, the step fails as a decode does.
    pub fn step_with(
        &mut self,
        input: &StepInput<'_>,
        show: impl FnMut(usize, &[f32]) -> Result<(), String>,
    ) -> Result<Vec<f32>, EngineError> {
        self.usable()?;
        self.check_shape(input)?;
        let touched = self.positions.admit(input.rows)?;
        // Rows are few: a step was checked to have at most `max_step_rows`.
        self.make_room(input.rows.len() as u32)?;
        match self.compute(input, show) {
            Ok(activations) => {
                self.positions.commit(input.rows);
                if let Some(cells) = &mut self.cells {
                    cells.write(input.rows.iter().map(|row| row.sequence));
                }
                Ok(activations)
            }
            Err(cause) => {
                for (sequence, length) in touched {
                    // A recurrent state cannot go back: its sequence begins anew.
                    let from = if self.shares_prefixes() { length } else { 0 };
                    self.positions.truncate(sequence, from);
                    if !self.context.remove_from(signed(sequence), signed(from)) {
                        self.broken = Some(format!(
                            "after \"{cause}\" sequence {sequence} could not be cut back to {from}"
                        ));
                    }
                }
                self.usable()?;
                let cause = match self.shares_prefixes() {
                    true => cause,
                    false => format!("{cause}; the sequences of the step are empty now"),
                };
                Err(EngineError::DecodeFailed {
                    rows: input.rows.len(),
                    cause,
                })
            }
        }
    }

    /// Runs the largest step that there may be on an unused stage and forgets it: what llama.cpp allocates only when it
    /// computes is allocated then, and its buffers are written to. A device that would need longer than `limit` for it, as
    /// renderers in software do, gets as many rows as it can compute meanwhile, at least one.
    ///
    /// # Errors
    /// As [`Stage::step`].
    pub fn warm_up(&mut self, limit: Duration) -> Result<(), EngineError> {
        // The first step also compiles what the device runs; the second tells how fast it is.
        self.run_and_forget(1)?;
        let started = Instant::now();
        self.run_and_forget(1)?;
        let affordable = limit.as_micros() / started.elapsed().as_micros().max(1);
        let rows = self.max_step_rows().min(self.positions.context_length() as usize);
        self.run_and_forget(rows.min(usize::try_from(affordable).unwrap_or(usize::MAX)).max(1))
    }

    /// One step of so many rows on sequence 0, which is empty before and after.
    fn run_and_forget(&mut self, count: usize) -> Result<(), EngineError> {
        let row = |position: u32| Row {
            sequence: 0,
            position,
            token: 0,
        };
        let rows: Vec<Row> = (0u32..).take(count).map(row).collect();
        let wants: Vec<bool> = (0..count).map(|row| row < self.positions.sequences()).collect();
        let values = if self.takes_tokens {
            0
        } else {
            count * self.embedding_length
        };
        // Any numbers but zero, whose scale would be lost in the norm.
        let activations = vec![1.0; values];
        let input = StepInput {
            rows: &rows,
            activations: &activations,
            wants: &wants,
        };
        self.step_with(&input, |_, _| Ok(()))?;
        self.remove(0, 0, u32::MAX)
    }

    /// What the stage takes; see [`StageMemory`].
    pub fn memory(&self) -> StageMemory {
        self.memory
    }

    /// Whether sequences can begin with positions of others. Where they cannot, because the model keeps a
    /// recurrent state, there are no sequences for prefixes, whatever the configuration says, and what
    /// fails costs its sequences all that they held.
    pub fn shares_prefixes(&self) -> bool {
        self.cells.is_some()
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
        self.positions.truncate(sequence, from);
        let nothing_left = self.positions.total() == 0;
        let done = match &mut self.cells {
            Some(cells) if nothing_left => {
                cells.clear();
                self.context.clear();
                true
            }
            Some(cells) => {
                cells.truncate(sequence, from);
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

    /// Lets the empty sequence `to` begin with the first `end` positions of `from`, which keeps them:
    /// both read the same cells, and no data moves. The tokens that follow are those of a sequence
    /// that had computed these positions itself.
    ///
    /// # Errors
    /// Of kind [`crate::Fault::Request`] for unknown sequences, a `to` that holds anything, or an
    /// `end` beyond `from`'s length; `Broken` where the cache could not do it.
    pub fn copy_prefix(&mut self, from: u32, to: u32, end: u32) -> Result<(), EngineError> {
        self.usable()?;
        self.positions.check_prefix(from, to, end)?;
        let Some(cells) = &mut self.cells else {
            let cause = "the model keeps a state that cannot be shared".to_owned();
            return Err(EngineError::PrefixRefused { from, to, end, cause });
        };
        if !self.context.share(signed(from), signed(to), 0, signed(end)) {
            self.broken = Some(format!("sequence {to} could not share with sequence {from}"));
        }
        cells.share(from, to, end);
        self.positions.share(to, end);
        self.usable()
    }

    /// Cells that no sequence holds: so many rows fit, whatever their sequences. A cell that several
    /// sequences share counts once, and is free when the last of them has let go of it.
    pub fn kv_cells_free(&self) -> u32 {
        match &self.cells {
            Some(cells) => cells.free(),
            None => self.positions.room(),
        }
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
        self.step_rows
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

    fn compute(
        &mut self,
        input: &StepInput<'_>,
        mut show: impl FnMut(usize, &[f32]) -> Result<(), String>,
    ) -> Result<Vec<f32>, String> {
        self.decode(input)?;
        if !self.last {
            let mut rows = self.context.take_tapped()?;
            rows.truncate(input.rows.len() * self.embedding_length);
            return Ok(rows);
        }
        for row in (0..input.rows.len()).filter(|row| input.wants[*row]) {
            let logits = self.context.logits(row);
            show(row, logits.ok_or_else(|| format!("row {row} gave no logits"))?)?;
        }
        Ok(Vec::new())
    }

    /// Decodes the rows, in company where a lone one needs it.
    fn decode(&mut self, input: &StepInput<'_>) -> Result<(), String> {
        let accompanied = self.accompanied && input.rows.len() == 1;
        let mut batch = Batch::of(input);
        if accompanied {
            batch = batch.with_companion(self.scratch_sequence);
        }
        let fed = if self.feeds_tokens(input) {
            Input::Tokens(&batch.tokens)
        } else {
            Input::Activations(&batch.activations)
        };
        let decoded = self
            .context
            .decode(fed, &batch.positions, &batch.sequences, &batch.wants);
        if accompanied && !self.context.remove_from(signed(self.scratch_sequence), 0) {
            let cause = "the row that accompanied a lone one could not be removed".to_owned();
            return Err(self.broken.insert(cause).clone());
        }
        decoded
    }
}

fn placing(accelerator: Option<DeviceHandle>, layers: u32, host_layers: u32) -> Placing<'static> {
    match accelerator {
        None => Placing::Host,
        Some(device) if host_layers == 0 => Placing::Device(device),
        // The output layer counts as one.
        Some(device) => Placing::DeviceTail {
            device,
            layers: (layers + 1).saturating_sub(host_layers).max(1),
        },
    }
}

/// Sequences that a stage has. Recurrent states have their size whatever they hold, and no prefix can be kept.
fn sequences(kind: CacheKind, config: &StageConfig) -> u32 {
    match kind {
        CacheKind::Recurrent | CacheKind::Hybrid => config.parallel_sequences,
        CacheKind::Plain | CacheKind::Windowed(_) => config.sequences(),
    }
}

fn packing(kind: CacheKind) -> Packing {
    match kind {
        // Half, because a window may look both ways.
        CacheKind::Windowed(window) => Packing::Anew {
            piece: (window / 2).max(1),
        },
        CacheKind::Plain | CacheKind::Recurrent | CacheKind::Hybrid => Packing::InPlace,
    }
}

/// Positions and sequence ids are checked to be far below `i32::MAX` before they get here.
fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
