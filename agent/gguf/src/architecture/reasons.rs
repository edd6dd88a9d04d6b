//! Why one model of a splittable architecture must run whole all the same.

use super::{Condition, PER_LAYER_KEYS};
use crate::metadata::{MetadataError, optional};
use crate::piece::{OUTPUT, OUTPUT_NORM, Piece, Pieces, TOKEN_EMBEDDING};

/// Tensors outside the layers that every layer may use.
const ROTARY_TENSORS: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// Tensors of an output layer that a tail takes over.
const OUTPUT_TENSORS: [&str; 5] = [TOKEN_EMBEDDING, OUTPUT, OUTPUT_NORM, "output.bias", "output_norm.bias"];

/// Why a model may not be cut, in words; `None` where everything in the file is understood: what a slice leaves out or
/// renames must not change what the layers compute.
///
/// # Errors
/// A key that decides it is of the wrong type.
pub(crate) fn reason_to_run_whole(pieces: &Pieces<'_>) -> Result<Option<String>, MetadataError> {
    let architecture = pieces.architecture();
    let name = architecture.name;
    if !architecture.is_splittable() {
        return Ok(Some(format!(
            "splitting the architecture `{name}` is not shown to keep its answers"
        )));
    }
    for condition in architecture.conditions {
        if let Some(reason) = unmet(*condition, pieces) {
            return Ok(Some(reason));
        }
    }
    let metadata = &pieces.gguf().metadata;
    if optional(metadata.u32(&format!("{name}.nextn_predict_layers")))?.is_some_and(|layers| layers > 0) {
        return Ok(Some(
            "its last layers predict further tokens from the embedding".to_owned(),
        ));
    }
    Ok(unknown_key(pieces).or_else(|| unknown_tensor(pieces)))
}

fn unmet(condition: Condition, pieces: &Pieces<'_>) -> Option<String> {
    let name = pieces.architecture().name;
    let has = |key: &str| pieces.gguf().metadata.get(&format!("{name}.{key}")).is_some();
    match condition {
        Condition::FewerLayersThan(limit) => (pieces.layer_count() >= limit)
            .then(|| format!("`{name}` models of {limit} layers or more follow rules that fewer layers do not")),
        Condition::States(key) => {
            (!has(key)).then(|| format!("without `{name}.{key}` its value follows from the number of layers"))
        }
        Condition::LacksKey(key) => {
            has(key).then(|| format!("splitting a `{name}` model with `{name}.{key}` is not shown to keep its answers"))
        }
    }
}

fn unknown_key(pieces: &Pieces<'_>) -> Option<String> {
    let prefix = format!("{}.", pieces.architecture().name);
    pieces.gguf().metadata.iter().find_map(|(key, value)| {
        if key.starts_with("general.tensor_extra.") {
            return Some(format!("`{key}` names tensors by layer"));
        }
        let suffix = key.strip_prefix(&prefix)?;
        let unknown = value.as_array().is_some() && !PER_LAYER_KEYS.contains(&suffix);
        unknown.then(|| format!("it is unknown which layers the values of `{key}` belong to"))
    })
}

fn unknown_tensor(pieces: &Pieces<'_>) -> Option<String> {
    let unknown = |piece: Piece, known: &[&str]| {
        let mut tensors = pieces.tensors(piece).iter();
        tensors.find(|tensor| !known.contains(&tensor.name.as_str()))
    };
    if let Some(tensor) = unknown(Piece::Shared, &ROTARY_TENSORS) {
        return Some(format!("it is unknown which layers need tensor `{}`", tensor.name));
    }
    let tensor = unknown(Piece::Output, &OUTPUT_TENSORS)?;
    Some(format!(
        "tensor `{}` belongs to an output that cannot stand alone",
        tensor.name
    ))
}
