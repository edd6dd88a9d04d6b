//! What a stage is made of, and whether that makes sense.

use std::path::PathBuf;

use gguf::Gguf;

use crate::embedding::EMBEDDING_TENSOR;
use crate::error::EngineError;
use crate::ffi::context::MAX_SEQUENCES;
use crate::ffi::model::Model;
use crate::ffi::numbers;
use crate::runtime::Device;

/// The most rows of one step where equal numbers are promised. From 64 rows on, the CPU's flash
/// attention takes a tiled path whose sums differ from those of smaller steps; below, a row's
/// numbers do not depend on how many rows travel with it, as long as it is not alone: see
/// [`StageConfig::strict`].
pub const STRICT_STEP_ROWS: u32 = 63;

/// The most rows of one step otherwise: the fewest at which prompts are computed as fast as
/// llama.cpp computes them by itself.
pub const STEP_ROWS: u32 = 128;

/// Upper bound for [`StageConfig::max_step_rows`]: a step's buffers grow with it, and so does the
/// time for which a long prompt holds back everybody else's next token.
pub const STEP_ROWS_LIMIT: u32 = 4096;

/// Upper bound for [`StageConfig::parallel_sequences`] and [`StageConfig::prefix_sequences`] together:
/// what llama.cpp can tell apart, but for the one that removed positions go to and the one by way of
/// which cells are moved.
pub const PARALLEL_SEQUENCES_LIMIT: u32 = MAX_SEQUENCES - 2;

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
    /// Sequences that compute at once: ids `0..parallel_sequences`.
    pub parallel_sequences: u32,
    /// Further sequences, with the ids above those: kept prefixes, that others begin with. Both
    /// together are at most [`PARALLEL_SEQUENCES_LIMIT`]. Models that keep a recurrent state have none.
    pub prefix_sequences: u32,
    /// Cells of the cache, for all sequences and prefixes together; what several share counts once.
    /// 0: as many as let every parallel sequence fill its whole context.
    pub kv_cells: u32,
    /// Format of the cache.
    pub kv_type: KvType,
    /// Most rows of a step; [`STRICT_STEP_ROWS`] unless the caller gives up equal numbers, then [`STEP_ROWS`].
    pub max_step_rows: u32,
    /// On the processor, a row's numbers depend on the positions before it in its sequence and on nothing else: not on how
    /// they came into the cache, the rows of the step, other sequences, or the number of threads. Takes steps of at most
    /// [`STRICT_STEP_ROWS`], one cell of the cache beyond those that are asked for, and the time of two rows for a step
    /// of one. Of models that keep a recurrent state beside attention it is promised for
    /// [`gguf::architecture::strict_hybrids`]; of a step of theirs, each sequence with several rows takes the time of a step. No
    /// effect on other devices.
    pub strict: bool,
    /// Whether the slice begins the model.
    pub first: bool,
    /// Whether the slice ends the model: then it has the output layer, and steps give logits.
    pub last: bool,
    /// The slice's first layer in the whole model.
    pub first_layer: u32,
    /// The layer after the slice's last one in the whole model.
    pub end_layer: u32,
}

impl StageConfig {
    /// All sequences, prefixes too.
    pub(super) fn sequences(&self) -> u32 {
        self.parallel_sequences.saturating_add(self.prefix_sequences)
    }
}

impl KvType {
    pub(super) fn ggml_type(self) -> u32 {
        match self {
            Self::F16 => numbers::F16,
            Self::F32 => numbers::F32,
            Self::Q8_0 => numbers::Q8_0,
        }
    }
}

/// Checks what needs no file; gives the cells of the cache.
pub(super) fn check(config: &StageConfig) -> Result<u32, EngineError> {
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
    if config.sequences() > PARALLEL_SEQUENCES_LIMIT {
        return bad(format!(
            "{} parallel sequences and {} prefixes: at most {PARALLEL_SEQUENCES_LIMIT} together",
            config.parallel_sequences, config.prefix_sequences
        ));
    }
    if config.max_step_rows == 0 || config.max_step_rows > STEP_ROWS_LIMIT {
        return bad(format!(
            "steps of {} rows: 1 to {STEP_ROWS_LIMIT}",
            config.max_step_rows
        ));
    }
    if config.strict && config.max_step_rows > STRICT_STEP_ROWS {
        return bad(format!(
            "strict steps of {} rows: at most {STRICT_STEP_ROWS}",
            config.max_step_rows
        ));
    }
    let cells = match config.kv_cells {
        0 => config.context_length.checked_mul(config.parallel_sequences),
        cells => Some(cells),
    };
    // One less for the companion of a lone row.
    match cells.filter(|cells| *cells < i32::MAX.unsigned_abs() - 1) {
        Some(cells) => Ok(cells),
        None => bad(format!(
            "{} sequences of {} positions ({} cells): more than a cache can have",
            config.parallel_sequences, config.context_length, config.kv_cells
        )),
    }
}

/// Whether the files hold an embedding row for every token id. Slices that are fed activations hold
/// one row, and a token id beyond it would be an abort.
pub(super) fn has_whole_embedding(files: &[PathBuf], vocabulary_size: usize) -> bool {
    files.iter().any(|file| {
        Gguf::open(file).is_ok_and(|header| {
            header.tensor(EMBEDDING_TENSOR).is_some_and(|tensor| {
                tensor
                    .dimensions
                    .get(1)
                    .is_some_and(|rows| *rows == vocabulary_size as u64)
            })
        })
    })
}

pub(super) fn check_model(model: &Model, config: &StageConfig, layers: u32) -> Result<(), EngineError> {
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
