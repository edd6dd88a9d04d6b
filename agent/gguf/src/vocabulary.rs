//! The vocabulary of a model as a GGUF file without tensors.

use thiserror::Error;

use crate::encode::HeaderBuilder;
use crate::metadata::{MetadataError, optional};
use crate::parse::Gguf;
use crate::value::Value;

/// Largest vocabulary file. Published ones take up to about 20 MiB; the operator holds and hands them out in memory.
pub const MAX_VOCABULARY_BYTES: usize = 32 << 20;

/// Why a model gives no vocabulary file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VocabularyError {
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The model names no tokenizer or an empty one.
    #[error(
        "the model has no vocabulary (tokenizer `{tokenizer}`), so no text can be put to it; use a file that was \
         converted together with its tokenizer"
    )]
    NoVocabulary {
        /// The tokenizer that the file names.
        tokenizer: String,
    },
    /// It does not fit.
    #[error("the model's vocabulary takes {bytes} bytes, more than the {MAX_VOCABULARY_BYTES} accepted")]
    TooLarge {
        /// What it takes.
        bytes: usize,
    },
}

/// The bytes of a GGUF file from which llama.cpp loads the vocabulary alone (`vocab_only`): all of `tokenizer.*`, the
/// chat template among it, what names the model, and its hyperparameters but for the arrays.
///
/// The same source gives the same bytes, so their SHA-256 pins the vocabulary.
pub fn vocabulary(gguf: &Gguf) -> Result<Vec<u8>, VocabularyError> {
    let metadata = &gguf.metadata;
    let prefix = format!("{}.", metadata.string("general.architecture")?);
    let tokenizer = optional(metadata.string("tokenizer.ggml.model"))?.unwrap_or("none");
    let tokens = optional(metadata.array("tokenizer.ggml.tokens"))?;
    if ["none", "no_vocab"].contains(&tokenizer) || tokens.is_none_or(|tokens| tokens.is_empty()) {
        return Err(VocabularyError::NoVocabulary {
            tokenizer: tokenizer.to_owned(),
        });
    }
    let mut header = HeaderBuilder::new();
    for (key, value) in metadata.iter() {
        let kept = if key.starts_with("general.") || key.starts_with(&prefix) {
            !matches!(value, Value::Array(_)) && key != "general.alignment"
        } else {
            key.starts_with("tokenizer.")
        };
        if kept {
            header.entry(key, value);
        }
    }
    let bytes = header.finish();
    if bytes.len() > MAX_VOCABULARY_BYTES {
        return Err(VocabularyError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
