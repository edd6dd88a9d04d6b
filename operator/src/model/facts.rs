//! PURE: what an agent says of a source, checked: an agent is known, but its numbers steer placements and signatures.

use bytes::Bytes;
use crds::conditions::reason;
use gguf::{Digest, Index};
use proto::control::v1::{ModelFacts, PieceFacts};
use sha2::{Digest as _, Sha256};

use crate::routes::VOCABULARY_BYTES_MAX;

/// Layers of a model: llama.cpp's own limit.
const LAYERS_MAX: usize = 512;
/// Names of architectures and quantisations.
const NAME_MAX: usize = 64;

/// What a model is, as far as placement, signatures and status need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Of the whole file.
    pub sha256: Digest,
    /// Of the whole file.
    pub file_bytes: u64,
    /// As GGUF names it.
    pub architecture: String,
    /// As people write it.
    pub quantisation: String,
    /// Number of weights.
    pub parameters: u64,
    /// Width of the residual stream.
    pub embedding_length: u32,
    /// Rows of the embedding.
    pub vocabulary_size: u32,
    /// Tokens of context the model was trained for.
    pub context_length_trained: u32,
    /// K and V of one token in one layer.
    pub kv_elements_per_token_per_layer: u32,
    /// Bytes of the weights of each layer, in order.
    pub layer_bytes: Vec<u64>,
    /// Bytes of the embedding, for the head.
    pub embedding_bytes: u64,
    /// Bytes of the output norm and matrix, for the tail.
    pub output_bytes: u64,
    /// Digests of all of these.
    pub index: Index,
    /// Of the vocabulary that gateways fetch.
    pub vocabulary_sha256: Digest,
    /// Layers after which the model may be cut; empty: it runs whole.
    pub allowed_cuts: Vec<u32>,
}

/// Why the facts are not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The file is another than the one asked for.
    #[error("the file's SHA-256 is {found}, spec.source.sha256 says {wanted}")]
    DigestMismatch {
        /// Asked for.
        wanted: String,
        /// Found.
        found: String,
    },
    /// A number or length that no model has.
    #[error("the agent's answer makes no sense: {0}")]
    Nonsense(String),
}

impl FactsError {
    /// The reason for the condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DigestMismatch { .. } => reason::DIGEST_MISMATCH,
            Self::Nonsense(_) => reason::UNREADABLE,
        }
    }
}

/// The facts and the vocabulary, if they hold together and are those of the file asked for.
pub fn accept(message: ModelFacts, wanted: Option<&str>) -> Result<(Facts, Bytes), FactsError> {
    let sha256 = digest("sha256", &message.sha256)?;
    if let Some(wanted) = wanted.filter(|wanted| **wanted != sha256.to_string()) {
        return Err(FactsError::DigestMismatch {
            wanted: wanted.to_owned(),
            found: sha256.to_string(),
        });
    }
    let layers = message.layers.len();
    ensure((1..=LAYERS_MAX).contains(&layers), || format!("{layers} layers"))?;
    let cuts = &message.allowed_cuts;
    let ascending = cuts.is_sorted_by(|a, b| a < b) && cuts.iter().all(|cut| (1..layers as u32).contains(cut));
    ensure(ascending, || format!("cuts {cuts:?} in {layers} layers"))?;
    ensure(message.embedding_length > 0 && message.vocabulary_size > 0, || {
        "an empty embedding".to_owned()
    })?;
    ensure(message.vocabulary.len() <= VOCABULARY_BYTES_MAX, || {
        "a vocabulary above 32 MiB".to_owned()
    })?;
    let vocabulary_sha256 = digest("vocabulary_sha256", &message.vocabulary_sha256)?;
    let computed = Digest(Sha256::digest(&message.vocabulary).into());
    ensure(computed == vocabulary_sha256, || {
        "the vocabulary has another digest than stated".to_owned()
    })?;
    let (layer_bytes, index) = pieces(&message)?;
    let facts = Facts {
        sha256,
        file_bytes: message.file_bytes,
        architecture: name(&message.architecture),
        quantisation: name(&message.quantisation),
        parameters: message.parameters,
        embedding_length: message.embedding_length,
        vocabulary_size: message.vocabulary_size,
        context_length_trained: message.context_length_trained,
        kv_elements_per_token_per_layer: message.kv_elements_per_token_per_layer,
        layer_bytes,
        embedding_bytes: message.embedding.as_ref().map_or(0, |piece| piece.weight_bytes),
        output_bytes: message.output.as_ref().map_or(0, |piece| piece.weight_bytes),
        index,
        vocabulary_sha256,
        allowed_cuts: message.allowed_cuts,
    };
    Ok((facts, message.vocabulary.into()))
}

fn pieces(message: &ModelFacts) -> Result<(Vec<u64>, Index), FactsError> {
    let piece = |name: &str, bytes: u64, sha256: &[u8]| -> Result<Digest, FactsError> {
        let whole = message.file_bytes;
        ensure(bytes <= whole, || {
            format!("{name} of {bytes} bytes in a file of {whole}")
        })?;
        digest(name, sha256)
    };
    let end = |name: &str, facts: Option<&PieceFacts>| -> Result<Digest, FactsError> {
        let facts = facts.ok_or_else(|| FactsError::Nonsense(format!("no {name}")))?;
        piece(name, facts.weight_bytes, &facts.digest)
    };
    let layers = message
        .layers
        .iter()
        .map(|layer| piece("layer", layer.weight_bytes, &layer.digest));
    let index = Index {
        embedding: end("embedding", message.embedding.as_ref())?,
        layers: layers.collect::<Result<_, _>>()?,
        output: end("output", message.output.as_ref())?,
    };
    Ok((message.layers.iter().map(|layer| layer.weight_bytes).collect(), index))
}

fn digest(name: &str, bytes: &[u8]) -> Result<Digest, FactsError> {
    Digest::try_from(bytes).map_err(|_| FactsError::Nonsense(format!("{name} with a digest of {} bytes", bytes.len())))
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), FactsError> {
    if holds {
        Ok(())
    } else {
        Err(FactsError::Nonsense(otherwise()))
    }
}

fn name(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests;
