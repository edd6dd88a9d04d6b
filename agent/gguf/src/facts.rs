//! What placement and people must know of a model, from its header alone.

mod kept;

use serde::{Deserialize, Serialize};

use kept::kept;

use crate::group;
use crate::metadata::optional;
use crate::parse::{Gguf, Tensor};
use crate::piece::{Piece, PieceError, Pieces, pieces};

/// A model in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Name of the architecture.
    pub architecture: String,
    /// Number of layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub embedding_length: u32,
    /// Attention heads, the most of any layer.
    pub heads: u32,
    /// Key and value heads, the most of any layer.
    pub kv_heads: u32,
    /// Length of a key of one head.
    pub key_length: u32,
    /// Length of a value of one head.
    pub value_length: u32,
    /// Elements of K and V together that one token adds in one layer, the most of any layer. Zero without attention.
    pub kv_elements_per_token_per_layer: u32,
    /// The same for each layer. Zero where a state is kept in their place.
    pub layer_kv_elements: Vec<u32>,
    /// Bytes of the state that each layer keeps for one sequence, whatever its length. Zero without one.
    pub layer_state_bytes: Vec<u64>,
    /// Tokens in the vocabulary.
    pub vocabulary_size: u32,
    /// Context length in training, in tokens.
    pub context_length_trained: u32,
    /// The file type as people write it: `Q4_1`, `Q4_K_M`.
    pub quantisation: String,
    /// Elements of all weights, each counted once.
    pub parameters: u64,
    /// Whether the token embedding is the output matrix too; it then counts in both pieces below.
    pub tied: bool,
    /// Bytes of each layer's weights.
    pub layer_bytes: Vec<u64>,
    /// Of these, what one token reads: of a mixture of experts, as many experts as a token is sent to.
    pub layer_active_bytes: Vec<u64>,
    /// Bytes of the token embedding.
    pub embedding_bytes: u64,
    /// Bytes of the output norm and matrix.
    pub output_bytes: u64,
    /// Bytes of what every stage needs beside.
    pub shared_bytes: u64,
    /// Layers after which the model may be cut, ascending; empty when it runs whole.
    pub allowed_cuts: Vec<u32>,
    /// Why it runs whole, if it does.
    pub whole_because: Option<String>,
    /// Numbers of devices that may work as one on its layers: see [`crate::group`]. Empty where its tensors are not divided.
    pub group_sizes: Vec<u32>,
}

/// Reads a model's facts. Fails where [`pieces`] fails, or where a needed hyperparameter is missing.
pub fn model_facts(gguf: &Gguf) -> Result<Facts, PieceError> {
    let pieces = pieces(gguf)?;
    let kept = kept(&pieces)?;
    let key = |suffix: &str| format!("{}.{suffix}", pieces.architecture().name);
    Ok(Facts {
        architecture: pieces.architecture().name.to_owned(),
        layers: pieces.layer_count(),
        embedding_length: pieces.embedding_length(),
        heads: kept.heads,
        kv_heads: kept.kv_heads,
        key_length: kept.key_length,
        value_length: kept.value_length,
        kv_elements_per_token_per_layer: kept.kv_elements.iter().copied().max().unwrap_or(0),
        layer_kv_elements: kept.kv_elements,
        layer_state_bytes: kept.state_bytes,
        vocabulary_size: pieces.vocabulary_size(),
        context_length_trained: gguf.metadata.u32(&key("context_length"))?,
        quantisation: quantisation(gguf),
        parameters: gguf
            .tensors
            .iter()
            .map(|tensor| tensor.elements())
            .fold(0, u64::saturating_add),
        tied: pieces.tied(),
        layer_bytes: (0..pieces.layer_count())
            .map(|layer| pieces.weight_bytes(Piece::Layer(layer)))
            .collect(),
        layer_active_bytes: active_bytes(&pieces)?,
        embedding_bytes: pieces.weight_bytes(Piece::Embedding),
        output_bytes: pieces.weight_bytes(Piece::Output),
        shared_bytes: pieces.weight_bytes(Piece::Shared),
        allowed_cuts: pieces.allowed_cuts(),
        whole_because: pieces.whole_because().map(str::to_owned),
        group_sizes: group::sizes(gguf),
    })
}

/// What a token reads of each layer. Tensors of experts have all of them as their last dimension; shared experts are others.
fn active_bytes(pieces: &Pieces<'_>) -> Result<Vec<u64>, PieceError> {
    let figure = |suffix: &str| {
        let key = format!("{}.{suffix}", pieces.architecture().name);
        optional(pieces.gguf().metadata.u32(&key))
    };
    let experts = u128::from(figure("expert_count")?.unwrap_or(0));
    let used = u128::from(figure("expert_used_count")?.unwrap_or(0));
    let of_experts = |tensor: &Tensor| tensor.name.contains("_exps.");
    let active = |tensor: &&Tensor| {
        if of_experts(tensor) && 0 < used && used < experts {
            // Less than a size that fits.
            (u128::from(tensor.size_bytes) * used).div_ceil(experts) as u64
        } else {
            tensor.size_bytes
        }
    };
    let of_layer = |layer| pieces.tensors(Piece::Layer(layer)).iter().map(active).sum();
    Ok((0..pieces.layer_count()).map(of_layer).collect())
}

/// Names of `general.file_type`, which counts apart from tensor types.
#[rustfmt::skip]
const FILE_TYPES: [(u32, &str); 36] = [
    (0, "F32"), (1, "F16"), (2, "Q4_0"), (3, "Q4_1"), (7, "Q8_0"), (8, "Q5_0"), (9, "Q5_1"), (10, "Q2_K"),
    (11, "Q3_K_S"), (12, "Q3_K_M"), (13, "Q3_K_L"), (14, "Q4_K_S"), (15, "Q4_K_M"), (16, "Q5_K_S"), (17, "Q5_K_M"),
    (18, "Q6_K"), (19, "IQ2_XXS"), (20, "IQ2_XS"), (21, "Q2_K_S"), (22, "IQ3_XS"), (23, "IQ3_XXS"), (24, "IQ1_S"),
    (25, "IQ4_NL"), (26, "IQ3_S"), (27, "IQ3_M"), (28, "IQ2_S"), (29, "IQ2_M"), (30, "IQ4_XS"), (31, "IQ1_M"),
    (32, "BF16"), (36, "TQ1_0"), (37, "TQ2_0"), (38, "MXFP4"), (39, "NVFP4"), (40, "Q1_0"), (41, "Q2_0"),
];

/// The stated file type, or the tensor type that takes the most bytes.
fn quantisation(gguf: &Gguf) -> String {
    let stated = gguf.metadata.u32("general.file_type").ok();
    if let Some((_, name)) = FILE_TYPES.iter().find(|(id, _)| Some(*id) == stated) {
        return (*name).to_owned();
    }
    let mut bytes: Vec<(&str, u64)> = Vec::new();
    for tensor in &gguf.tensors {
        let name = tensor.tensor_type.name();
        match bytes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total = total.saturating_add(tensor.size_bytes),
            None => bytes.push((name, tensor.size_bytes)),
        }
    }
    let largest = bytes.into_iter().max_by_key(|(_, total)| *total);
    largest.map_or_else(|| "unknown".to_owned(), |(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests;
