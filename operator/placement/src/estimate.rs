//! From the figures of a model file to the bytes that a placement reckons with.

use serde::{Deserialize, Serialize};

use crate::{Layer, Model};

/// More layers than any published model has; a bound on the work of the search.
const MAX_LAYERS: usize = 1024;

/// The runtime lays out its cache in cells of this many tokens.
const KV_CELL_TOKENS: u64 = 256;

/// Tensors of one micro-batch that are alive together, in multiples of rows × embedding length: the residual stream, the
/// normalised input, query, key, value and attention output, and gate, up and product of a feed-forward part up to five times as wide.
const LIVE_WIDTHS: u64 = 24;

/// The attention mask: one 32-bit float and its 16-bit copy for each row and each cell of the cache.
const MASK_BYTES: u64 = 6;

const FLOAT_BYTES: u64 = 4;

/// Sequences that the runtime has beside those that compute, each with a state of its own where layers keep one: what is removed
/// goes to one of them, and by way of the other cells are moved.
const SPARE_SEQUENCES: u64 = 2;

/// Copies of a layer's states of all sequences that are alive together: as a step gathers them, and as it leaves them.
const LIVE_STATES: u64 = 2;

/// Element of the cached keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvElement {
    #[default]
    F16,
    F32,
    #[serde(rename = "Q8_0")]
    Q8_0,
}

impl KvElement {
    /// Bytes of this many elements. Q8_0 keeps blocks of 32 bytes with a 16-bit scale.
    pub fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::F16 => elements.saturating_mul(2),
            Self::F32 => elements.saturating_mul(4),
            Self::Q8_0 => elements.div_ceil(32).saturating_mul(34),
        }
    }
}

/// What inspection found in a model file, and how the model shall be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    pub name: String,
    pub layer_weight_bytes: Vec<u64>,
    /// Of each layer, what one token reads; empty: all weights.
    #[serde(default)]
    pub layer_active_bytes: Vec<u64>,
    pub embedding_bytes: u64,
    pub output_bytes: u64,
    pub embedding_length: u64,
    pub vocabulary_size: u64,
    /// Of one token in one layer, keys and values together; the most of any layer.
    pub kv_elements_per_token_per_layer: u64,
    /// The same for each layer; empty: all have the most.
    #[serde(default)]
    pub layer_kv_elements: Vec<u64>,
    /// Of each layer, the state that it keeps for one sequence; empty: none keeps one.
    #[serde(default)]
    pub layer_state_bytes: Vec<u64>,
    #[serde(default)]
    pub kv_element: KvElement,
    /// Tokens of each sequence.
    pub context_length: u64,
    pub parallel_sequences: u64,
    /// Tokens that the cache holds altogether. 0: all sequences at full context.
    #[serde(default)]
    pub kv_cells: u64,
    /// Rows of one micro-batch.
    pub max_step_rows: u64,
    /// Layers before which the model may be cut. Empty: it runs whole.
    pub allowed_cuts: Vec<u32>,
}

/// Figures of which no model can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FiguresError {
    #[error("the model has no layers: nothing can be placed")]
    NoLayers,
    #[error("the model has {layers} layers and at most {MAX_LAYERS} are supported")]
    TooManyLayers { layers: usize },
    #[error(
        "{active} layers say what a token reads of them, and the model has {layers}: give one figure for each, or none"
    )]
    ActiveLayers { active: usize, layers: usize },
    #[error("{told} layers say {what}, and the model has {layers}: give one figure for each, or none")]
    KeepingLayers {
        told: usize,
        what: &'static str,
        layers: usize,
    },
    #[error("cut {cut} lies outside the model, which has {layers} layers: cuts are from 1 to {layers} less one")]
    CutOutside { cut: u32, layers: usize },
}

/// Reckons the memory a model needs.
///
/// Weights are as in the file. The cache holds all sequences at full context (or what `kv_cells` says), in whole cells, and one
/// cell more for the runtime's padding row. Where a layer keeps a state, there is one for each sequence, however long, and for
/// the runtime's own. The compute buffer follows how llama.cpp plans one micro-batch: the few widest tensors alive at once,
/// the attention mask, the states of the layer with the largest, and in the last stage the logits of all rows, twice (device
/// and host). A token reads, on average, half of its own sequence's cache, and it reads and writes all of its state.
pub fn estimate(figures: &Figures) -> Result<Model, FiguresError> {
    let layers = figures.layer_weight_bytes.len();
    match layers {
        0 => return Err(FiguresError::NoLayers),
        1..=MAX_LAYERS => {}
        _ => return Err(FiguresError::TooManyLayers { layers }),
    }
    let active = figures.layer_active_bytes.len();
    if active != 0 && active != layers {
        return Err(FiguresError::ActiveLayers { active, layers });
    }
    let kept = [
        (
            "how many elements of keys and values a token adds",
            figures.layer_kv_elements.len(),
        ),
        ("what state they keep", figures.layer_state_bytes.len()),
    ];
    if let Some((what, told)) = kept.into_iter().find(|(_, told)| *told != 0 && *told != layers) {
        return Err(FiguresError::KeepingLayers { told, what, layers });
    }
    for cut in &figures.allowed_cuts {
        if *cut == 0 || usize::try_from(*cut).is_ok_and(|c| c >= layers) {
            return Err(FiguresError::CutOutside { cut: *cut, layers });
        }
    }
    let tokens = match figures.kv_cells {
        0 => figures.context_length.saturating_mul(figures.parallel_sequences),
        cells => cells,
    };
    let cells = tokens
        .div_ceil(KV_CELL_TOKENS)
        .saturating_add(1)
        .saturating_mul(KV_CELL_TOKENS);
    let kv_per_token_bytes = |layer: usize| {
        let elements = figures.layer_kv_elements.get(layer);
        figures
            .kv_element
            .bytes(elements.copied().unwrap_or(figures.kv_elements_per_token_per_layer))
    };
    let state_bytes = |layer: usize| figures.layer_state_bytes.get(layer).copied().unwrap_or(0);
    let states = figures.parallel_sequences.saturating_add(SPARE_SEQUENCES);
    let rows = figures.max_step_rows.max(1);
    let row_bytes = figures
        .embedding_length
        .saturating_mul(LIVE_WIDTHS * FLOAT_BYTES)
        .saturating_add(cells.saturating_mul(MASK_BYTES));
    let largest_state_bytes = figures.layer_state_bytes.iter().copied().max().unwrap_or(0);
    let live_state_bytes = largest_state_bytes.saturating_mul(states).saturating_mul(LIVE_STATES);
    let logits_bytes = figures.vocabulary_size.saturating_mul(2 * FLOAT_BYTES);
    Ok(Model {
        name: figures.name.clone(),
        layers: figures
            .layer_weight_bytes
            .iter()
            .enumerate()
            .map(|(layer, weight_bytes)| Layer {
                weight_bytes: *weight_bytes,
                active_bytes: figures
                    .layer_active_bytes
                    .get(layer)
                    .map_or(*weight_bytes, |active| *weight_bytes.min(active)),
                kv_bytes: kv_per_token_bytes(layer)
                    .saturating_mul(cells)
                    .saturating_add(state_bytes(layer).saturating_mul(states)),
                kv_read_bytes: kv_per_token_bytes(layer)
                    .saturating_mul(figures.context_length / 2)
                    .saturating_add(state_bytes(layer).saturating_mul(2)),
            })
            .collect(),
        embedding_bytes: figures.embedding_bytes,
        output_bytes: figures.output_bytes,
        activation_bytes: activation_bytes(figures.embedding_length),
        compute_buffer_bytes: rows.saturating_mul(row_bytes).saturating_add(live_state_bytes),
        output_buffer_bytes: rows.saturating_mul(logits_bytes),
        cuts: figures.allowed_cuts.iter().copied().collect(),
    })
}

/// One token's activations between two stages of a model of this width.
pub fn activation_bytes(embedding_length: u64) -> u64 {
    embedding_length.saturating_mul(FLOAT_BYTES)
}

#[cfg(test)]
mod tests;
