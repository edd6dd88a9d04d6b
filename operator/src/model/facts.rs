//! PURE: what an agent says of a source, checked: an agent is known, but its numbers steer placements and signatures.

use std::collections::BTreeSet;

use bytes::Bytes;
use crds::ModelSource;
use crds::conditions::reason;
use crds::names::MAX_GROUP_DEVICES;
use gguf::{Digest, Index, WeightIndex};
use proto::control::v1::{LayerFacts, ModelFacts, PieceFacts};
use sha2::{Digest as _, Sha256};

use crate::routes::VOCABULARY_BYTES_MAX;

/// Layers of a model: llama.cpp's own limit.
const LAYERS_MAX: usize = 512;
/// Names of architectures and quantisations.
const NAME_MAX: usize = 64;

/// What a model is, as far as placement, signatures and status need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Of the whole file; `None` where an index pins the weights and nobody has read the whole file.
    pub sha256: Option<Digest>,
    /// Of the weight index, where the agent made or read one.
    pub index_sha256: Option<Digest>,
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
    /// K and V of one token in one layer, the most of any layer.
    pub kv_elements_per_token_per_layer: u32,
    /// The same for each layer.
    pub layer_kv_elements: Vec<u32>,
    /// The state that each layer keeps for one sequence.
    pub layer_state_bytes: Vec<u64>,
    /// Bytes of the weights of each layer, in order.
    pub layer_bytes: Vec<u64>,
    /// Of these, what one token reads.
    pub layer_active_bytes: Vec<u64>,
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
    /// Numbers of devices that may work as one on its layers.
    pub group_sizes: Vec<u32>,
}

/// Why the facts are not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The file or its index is another than the one asked for.
    #[error("the SHA-256 of the {what} is {found}, spec.source.{field} says {wanted}")]
    DigestMismatch {
        /// What was digested.
        what: &'static str,
        /// The field that pins it.
        field: &'static str,
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

/// What an agent sent with its facts, for those who fetch it by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// For gateways.
    pub vocabulary: Bytes,
    /// For agents; empty where there is no index.
    pub index: Bytes,
}

/// The facts and what came with them, if they hold together and are those of the source asked for.
pub fn accept(mut message: ModelFacts, source: &ModelSource) -> Result<(Facts, Attached), FactsError> {
    let (sha256, index_sha256) = pinned(&message, source)?;
    let layers = message.layers.len();
    ensure((1..=LAYERS_MAX).contains(&layers), || format!("{layers} layers"))?;
    let cuts = &message.allowed_cuts;
    let ascending = cuts.is_sorted_by(|a, b| a < b) && cuts.iter().all(|cut| (1..layers as u32).contains(cut));
    ensure(ascending, || format!("cuts {cuts:?} in {layers} layers"))?;
    let sizes = &message.group_sizes;
    let are_sizes =
        sizes.is_sorted_by(|a, b| a < b) && sizes.iter().all(|size| (2..=MAX_GROUP_DEVICES as u32).contains(size));
    ensure(are_sizes, || format!("groups of {sizes:?} devices"))?;
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
    let layer_active_bytes = message.layers.iter().map(active_bytes).collect();
    let most_elements = message.kv_elements_per_token_per_layer;
    let kv_elements = |layer: &LayerFacts| layer.kv_elements_per_token.unwrap_or(most_elements);
    let layer_kv_elements = message.layers.iter().map(kv_elements).collect();
    let layer_state_bytes = message.layers.iter().map(|layer| layer.state_bytes).collect();
    let by_index = index_sha256
        .map(|stated| check_index(&message, stated, source))
        .transpose()?;
    ensure(
        sha256.is_none() || by_index.is_none_or(|by_index| sha256 == Some(by_index)),
        || "the file has another digest than its index says".to_owned(),
    )?;
    let attached = Attached {
        vocabulary: std::mem::take(&mut message.vocabulary).into(),
        index: std::mem::take(&mut message.index).into(),
    };
    let facts = Facts {
        sha256: sha256.or(by_index),
        index_sha256,
        file_bytes: message.file_bytes,
        architecture: name(&message.architecture),
        quantisation: name(&message.quantisation),
        parameters: message.parameters,
        embedding_length: message.embedding_length,
        vocabulary_size: message.vocabulary_size,
        context_length_trained: message.context_length_trained,
        kv_elements_per_token_per_layer: most_elements,
        layer_kv_elements,
        layer_state_bytes,
        layer_bytes,
        layer_active_bytes,
        embedding_bytes: message.embedding.as_ref().map_or(0, |piece| piece.weight_bytes),
        output_bytes: message.output.as_ref().map_or(0, |piece| piece.weight_bytes),
        index,
        vocabulary_sha256,
        allowed_cuts: message.allowed_cuts,
        group_sizes: message.group_sizes,
    };
    Ok((facts, attached))
}

/// The digests of file and index, if they are those that the spec asks for. A file may go without one only where its index has
/// one; a digest that the spec pins must be answered, but that of a file whose index the spec pins as well.
fn pinned(message: &ModelFacts, source: &ModelSource) -> Result<(Option<Digest>, Option<Digest>), FactsError> {
    let optional = |name: &str, bytes: &[u8]| match bytes {
        [] => Ok(None),
        bytes => digest(name, bytes).map(Some),
    };
    let sha256 = optional("sha256", &message.sha256)?;
    let index_sha256 = optional("index_sha256", &message.index_sha256)?;
    ensure(sha256.is_some() || index_sha256.is_some(), || {
        "neither file nor index has a digest".to_owned()
    })?;
    let fields = [
        ("file", "sha256", &source.sha256, sha256),
        ("weight index", "indexSha256", &source.index_sha256, index_sha256),
    ];
    for (what, field, wanted, found) in fields {
        let Some(wanted) = wanted else { continue };
        match found {
            Some(found) if found.to_string() == *wanted => {}
            None if field == "sha256" && source.index_sha256.is_some() => {}
            found => {
                return Err(FactsError::DigestMismatch {
                    what,
                    field,
                    wanted: wanted.clone(),
                    found: found.map_or_else(|| "not known".to_owned(), |found| found.to_string()),
                });
            }
        }
    }
    Ok((sha256, index_sha256))
}

/// Checks that an index is the one stated, and of the model that the facts describe; gives the file's digest by it. What every
/// tensor's bytes must be is compared by the agents that read them, with the signed root of their stage.
fn check_index(message: &ModelFacts, stated: Digest, source: &ModelSource) -> Result<Digest, FactsError> {
    let index = WeightIndex::parse(&message.index).map_err(|error| FactsError::Nonsense(error.to_string()))?;
    ensure(index.digest() == stated, || {
        "the weight index has another digest than stated".to_owned()
    })?;
    let bytes = index.total_bytes();
    ensure(bytes == message.file_bytes, || {
        format!("an index of {bytes} bytes for a file of {}", message.file_bytes)
    })?;
    let layer = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse::<usize>().ok();
    let layers: BTreeSet<usize> = index
        .tensors()
        .iter()
        .filter_map(|tensor| layer(&tensor.name))
        .collect();
    let told = message.layers.len();
    ensure(layers.into_iter().eq(0..told), || {
        format!("an index of other layers than the {told} of the model")
    })?;
    let found = index.sha256();
    if let Some(wanted) = source.sha256.as_ref().filter(|wanted| **wanted != found.to_string()) {
        return Err(FactsError::DigestMismatch {
            what: "file, by its weight index,",
            field: "sha256",
            wanted: wanted.clone(),
            found: found.to_string(),
        });
    }
    Ok(found)
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

/// An agent that does not say it, or says nonsense, is taken to mean all weights: the time of a token is never too short for that.
fn active_bytes(layer: &LayerFacts) -> u64 {
    match layer.active_bytes {
        0 => layer.weight_bytes,
        active => active.min(layer.weight_bytes),
    }
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
