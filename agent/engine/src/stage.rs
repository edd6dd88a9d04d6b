//! A slice of layers with its KV cache.
//!
//! One [`Stage::step`] is one `llama_decode`, one micro-batch, and on all but the last stage one
//! call of the eval callback, which takes the residual stream after the slice's last layer. A step
//! happens wholly or not at all: what fails leaves every sequence as long as it was.

mod cells;
mod compaction;
mod companion;
mod compute;
mod config;
mod group;
mod memory;
mod positions;
mod rows;
#[cfg(test)]
mod tests;
mod traits;
mod warm_up;

use std::sync::Arc;

use crate::error::EngineError;
use crate::ffi::backend::{DeviceHandle, Idle};
use crate::ffi::context::{Context, ContextOptions};
use crate::ffi::log;
use crate::ffi::model::{CacheKind, Model, ModelOptions, Placing};
use crate::runtime::Runtime;

use cells::{Cells, Packing};
use companion::parts;
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
    /// `None` for caches of states, and of states beside keys and values where no equal numbers are promised: their rows go where
    /// llama.cpp puts them.
    cells: Option<Cells>,
    /// Whether sequences can begin with positions of others and be cut back.
    shares_prefixes: bool,
    packing: Packing,
    /// The sequence that takes over what is removed; no row is ever sent to it.
    retired_sequence: u32,
    /// The sequence by way of which cells are moved, and of a lone row's companion; empty between two calls.
    scratch_sequence: u32,
    /// Whether a row that is alone in its step gets a companion.
    accompanied: bool,
    /// Whether a step is computed in the parts that llama.cpp would otherwise divide it into.
    divided: bool,
    step_rows: usize,
    embedding_length: usize,
    last: bool,
    takes_tokens: bool,
    /// Whether nothing but the processor computes.
    on_host: bool,
    /// Whether several devices compute each layer together.
    grouped: bool,
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
    /// As [`Stage::load`]; `BadConfig` for a group of devices, which holds all layers.
    pub fn load_beside_host(runtime: &Runtime, config: &StageConfig, host_layers: u32) -> Result<Self, EngineError> {
        let cells = check(config)?;
        let all_cells = cells + companion::cells(config);
        let accelerators = runtime.accelerators(&config.device)?;
        let pool = runtime.thread_pool(&config.device, Idle::Sleep)?;
        let layers = config.end_layer - config.first_layer;
        let placing = placing(&accelerators, layers, host_layers);
        let _alone = match placing {
            Placing::Group(members) => Some(group::admit(config, members, all_cells, host_layers)?),
            _ => None,
        };
        let first_file = config.slice_files.first().cloned().unwrap_or_default();
        let traits = traits(config, all_cells)?;
        let options = ModelOptions {
            files: &config.slice_files,
            placing,
            // A budget is proved only by memory that nobody takes back. What goes to a device is read from the file once.
            mapped: matches!(placing, Placing::Device(_) | Placing::Group(_)),
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
        let divided = accompanied && kind.keeps_state();
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
            cells: (!kind.keeps_state() || divided).then(|| Cells::new(cells, sequences)),
            shares_prefixes: !kind.keeps_state(),
            packing: packing(kind),
            retired_sequence: sequences,
            scratch_sequence: sequences + 1,
            accompanied,
            divided,
            step_rows: step_rows as usize,
            embedding_length,
            last: config.last,
            takes_tokens,
            on_host: accelerators.is_empty(),
            grouped: matches!(placing, Placing::Group(_)),
            memory: StageMemory::of(&buffers, accelerators.len()),
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
    /// where llama.cpp keeps them: nothing is copied, unless the step is computed in parts. Gives the activations as
    /// [`StepOutput`] does.
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
                    let written = if self.divided { parts(input.rows) } else { Vec::new() };
                    match written.as_slice() {
                        [] => cells.write(input.rows.iter().map(|row| row.sequence)),
                        parts => cells.write(parts.iter().flatten().map(|row| input.rows[*row].sequence)),
                    }
                }
                Ok(activations)
            }
            Err(cause) => {
                for (sequence, length) in touched {
                    // A recurrent state cannot go back: its sequence begins anew.
                    let from = if self.shares_prefixes { length } else { 0 };
                    self.positions.truncate(sequence, from);
                    if let Some(cells) = self.cells.as_mut().filter(|_| from == 0) {
                        cells.truncate(sequence, 0);
                    }
                    if !self.context.remove_from(signed(sequence), signed(from)) {
                        self.broken = Some(format!(
                            "after \"{cause}\" sequence {sequence} could not be cut back to {from}"
                        ));
                    }
                }
                self.usable()?;
                if !self.shares_prefixes {
                    // What they held was freed, among the cells of others.
                    self.compact()?;
                }
                let cause = match self.shares_prefixes {
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

    /// What the stage takes; see [`StageMemory`].
    pub fn memory(&self) -> StageMemory {
        self.memory
    }

    /// Whether sequences can begin with positions of others. Where they cannot, because the model keeps a
    /// recurrent state, there are no sequences for prefixes, whatever the configuration says, and what
    /// fails costs its sequences all that they held.
    pub fn shares_prefixes(&self) -> bool {
        self.shares_prefixes
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
                if cells.free_last(sequence, from) {
                    self.context.remove_from(signed(sequence), signed(from))
                } else {
                    cells.truncate(sequence, from);
                    let heir = signed(self.retired_sequence);
                    self.context.hand_over(signed(sequence), signed(from), heir)
                }
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
        let Some(cells) = self.cells.as_mut().filter(|_| self.shares_prefixes) else {
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
}

fn placing(accelerators: &[DeviceHandle], layers: u32, host_layers: u32) -> Placing<'_> {
    match accelerators {
        [] => Placing::Host,
        [device] if host_layers == 0 => Placing::Device(*device),
        // The output layer counts as one.
        [device] => Placing::DeviceTail {
            device: *device,
            layers: (layers + 1).saturating_sub(host_layers).max(1),
        },
        members => Placing::Group(members),
    }
}

/// Sequences that a stage has. Recurrent states have their size whatever they hold, and no prefix can be kept.
fn sequences(kind: CacheKind, config: &StageConfig) -> u32 {
    match kind {
        CacheKind::Recurrent | CacheKind::Hybrid | CacheKind::WindowedHybrid => config.parallel_sequences,
        CacheKind::Plain | CacheKind::Windowed(_) => config.sequences(),
    }
}

fn packing(kind: CacheKind) -> Packing {
    match kind {
        // Half, because a window may look both ways.
        CacheKind::Windowed(window) => Packing::Anew {
            piece: (window / 2).max(1),
        },
        CacheKind::Plain | CacheKind::Recurrent | CacheKind::Hybrid | CacheKind::WindowedHybrid => Packing::InPlace,
    }
}

/// Positions and sequence ids are checked to be far below `i32::MAX` before they get here.
fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
