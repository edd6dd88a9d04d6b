//! A slice of layers with its KV cache.
//!
//! One [`Stage::step`] is one `llama_decode`, one micro-batch, and on all but the last stage one
//! call of the eval callback, which takes the residual stream after the slice's last layer. A step
//! happens wholly or not at all: what fails leaves every sequence as long as it was.

mod cells;
mod positions;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use gguf::Gguf;

use crate::embedding::EMBEDDING_TENSOR;
use crate::error::EngineError;
use crate::ffi::context::{Context, ContextOptions, Input, MAX_SEQUENCES};
use crate::ffi::model::{Model, ModelOptions};
use crate::ffi::numbers;
use crate::runtime::{Device, Runtime};

use cells::Cells;
use positions::Positions;

/// The most rows of one step, by default. From 64 rows on, the CPU's flash attention takes a tiled
/// path whose sums differ from those of smaller steps; below, a row's numbers do not depend on how
/// many rows travel with it.
pub const MAX_STEP_ROWS: u32 = 63;

/// Upper bound for [`StageConfig::max_step_rows`]: a step's buffers grow with it, and so does the
/// time for which a long prompt holds back everybody else's next token.
pub const STEP_ROWS_LIMIT: u32 = 4096;

/// Upper bound for [`StageConfig::parallel_sequences`]: what llama.cpp can tell apart, but for the
/// one that removed positions go to.
pub const PARALLEL_SEQUENCES_LIMIT: u32 = MAX_SEQUENCES - 1;

/// Number format of keys and values in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 16-bit floats.
    #[default]
    F16,
    /// 32-bit floats.
    F32,
    /// Blocks of 32 8-bit integers with a scale.
    Q8_0,
}

/// What a stage is made of.
#[derive(Debug, Clone)]
pub struct StageConfig {
    /// The GGUF split set of the slice, in order; layers are numbered from 0 in it.
    pub slice_files: Vec<PathBuf>,
    /// Where it computes; the whole slice, output layer too, is on this device.
    pub device: Device,
    /// Positions that each sequence may reach.
    pub context_length: u32,
    /// Sequences held at once, at most [`PARALLEL_SEQUENCES_LIMIT`]; each may fill its whole context.
    pub parallel_sequences: u32,
    /// Format of the cache.
    pub kv_type: KvType,
    /// Most rows of a step; [`MAX_STEP_ROWS`] unless the caller gives up equal numbers.
    pub max_step_rows: u32,
    /// Whether the slice begins the model.
    pub first: bool,
    /// Whether the slice ends the model: then it has the output layer, and steps give logits.
    pub last: bool,
    /// The slice's first layer in the whole model.
    pub first_layer: u32,
    /// The layer after the slice's last one in the whole model.
    pub end_layer: u32,
}

/// One position of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The sequence, below [`StageConfig::parallel_sequences`].
    pub sequence: u32,
    /// Its position, counted from 0: always the next one of its sequence.
    pub position: u32,
    /// The token there. Stages compute on activations; the id travels beside them.
    pub token: i32,
}

/// A step: rows of any sequences in any mixture, each sequence's in order.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// The rows, at most [`Stage::max_step_rows`].
    pub rows: &'a [Row],
    /// One row of [`Stage::embedding_length`] values for each: looked-up embeddings on the first
    /// stage, the previous stage's output on any other. Empty to feed the rows' tokens instead,
    /// which a stage does that [`Stage::takes_tokens`].
    pub activations: &'a [f32],
    /// For each row whether the last stage shall give its logits; other stages ignore it.
    pub wants: &'a [bool],
}

/// Logits of the wanted rows, in the order of the step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocabulary_size: usize,
}

impl Logits {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.vocabulary_size).unwrap_or(0)
    }

    /// Whether no row was wanted.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The logits of the `index`-th wanted row, one for each token id.
    pub fn row(&self, index: usize) -> Option<&[f32]> {
        let start = index.checked_mul(self.vocabulary_size)?;
        self.values.get(start..start.checked_add(self.vocabulary_size)?)
    }

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary_size.max(1))
    }
}

/// What a step gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepOutput {
    /// The residual stream of all rows in the order of the step; empty on the last stage.
    pub activations: Vec<f32>,
    /// Logits of the wanted rows; empty on every other stage.
    pub logits: Logits,
}

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
        let pool = runtime.thread_pool(&config.device)?;
        let first_file = config.slice_files.first().cloned().unwrap_or_default();
        let options = ModelOptions {
            files: &config.slice_files,
            accelerator,
            vocabulary_only: false,
            // Repacked weights multiply in an order that depends on the number of rows.
            repack: false,
        };
        let model = Model::load(&options)
            .map_err(|cause| EngineError::LoadRefused { file: first_file, cause })?;
        let layers = config.end_layer - config.first_layer;
        check_model(&model, config, layers)?;

        let takes_tokens = config.first
            && config.last
            && has_whole_embedding(&config.slice_files, model.vocabulary_size());
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
        let context = Context::new(Arc::new(model), pool, &options)
            .map_err(|cause| EngineError::ContextRefused { cells: u64::from(cells), cause })?;
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
                Err(EngineError::DecodeFailed { rows: input.rows.len(), cause })
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
        let values = if self.feeds_tokens(input) { 0 } else { rows * self.embedding_length };
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
            return Ok(StepOutput { activations, logits: Logits::default() });
        }
        let vocabulary_size = self.vocabulary_size();
        let wanted = || (0..input.rows.len()).filter(|row| input.wants[*row]);
        let mut values = Vec::with_capacity(wanted().count() * vocabulary_size);
        for row in wanted() {
            let logits = self.context.logits(row);
            values.extend_from_slice(logits.ok_or_else(|| format!("row {row} gave no logits"))?);
        }
        let logits = Logits { values, vocabulary_size };
        Ok(StepOutput { activations: Vec::new(), logits })
    }
}

impl KvType {
    fn ggml_type(self) -> u32 {
        match self {
            Self::F16 => numbers::F16,
            Self::F32 => numbers::F32,
            Self::Q8_0 => numbers::Q8_0,
        }
    }
}

/// Positions and sequence ids are checked to be far below `i32::MAX` before they get here.
fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Checks what needs no file; gives the cells of the cache.
fn check(config: &StageConfig) -> Result<u32, EngineError> {
    let bad = |cause: String| Err(EngineError::BadConfig { cause });
    if config.slice_files.is_empty() {
        return bad("the slice names no file".to_owned());
    }
    if config.first_layer >= config.end_layer {
        return bad(format!("layers {}..{} are none", config.first_layer, config.end_layer));
    }
    if config.first != (config.first_layer == 0) {
        return bad(format!(
            "the slice starts at layer {} and says first: {}",
            config.first_layer, config.first
        ));
    }
    if config.context_length == 0 || config.parallel_sequences == 0 {
        return bad("context length and parallel sequences must be positive".to_owned());
    }
    if config.parallel_sequences > PARALLEL_SEQUENCES_LIMIT {
        return bad(format!(
            "{} parallel sequences: at most {PARALLEL_SEQUENCES_LIMIT}",
            config.parallel_sequences
        ));
    }
    if config.max_step_rows == 0 || config.max_step_rows > STEP_ROWS_LIMIT {
        return bad(format!(
            "steps of {} rows: 1 to {STEP_ROWS_LIMIT}",
            config.max_step_rows
        ));
    }
    let cells = config.context_length.checked_mul(config.parallel_sequences);
    match cells.filter(|cells| *cells < i32::MAX.unsigned_abs()) {
        Some(cells) => Ok(cells),
        None => bad(format!(
            "{} sequences of {} positions are more cells than a cache can have",
            config.parallel_sequences, config.context_length
        )),
    }
}

/// Whether the files hold an embedding row for every token id. Slices that are fed activations hold
/// one row, and a token id beyond it would be an abort.
fn has_whole_embedding(files: &[PathBuf], vocabulary_size: usize) -> bool {
    files.iter().any(|file| {
        Gguf::open(file).is_ok_and(|header| {
            header.tensor(EMBEDDING_TENSOR).is_some_and(|tensor| {
                tensor.dimensions.get(1).is_some_and(|rows| *rows == vocabulary_size as u64)
            })
        })
    })
}

fn check_model(model: &Model, config: &StageConfig, layers: u32) -> Result<(), EngineError> {
    let bad = |cause: String| Err(EngineError::BadConfig { cause });
    if model.layers() != layers {
        return bad(format!(
            "layers {}..{} are {layers}, the files hold {}",
            config.first_layer,
            config.end_layer,
            model.layers()
        ));
    }
    if model.input_width() != model.embedding_length() || model.embedding_length() == 0 {
        return bad(format!(
            "inputs of {} values for a residual stream of {}: such a model cannot be split",
            model.input_width(),
            model.embedding_length()
        ));
    }
    if config.last && model.vocabulary_size() < 2 {
        return bad("the last slice has no vocabulary".to_owned());
    }
    Ok(())
}
