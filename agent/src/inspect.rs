//! Reading a model's header and digests where its source is.

use crate::shard::observed::Fault;
use crate::shard::weights::{open_source, piece_fault, source_path};
use gguf::{Facts, Index};
use proto::control::v1::{Inspect, Inspection, InspectionError, LayerFacts, ModelFacts, PieceFacts, inspection};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Sources whose facts are remembered: an operator asks again after each restart of its own.
const REMEMBERED_MAX: usize = 16;

/// A file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// Reads sources, one at a time, and remembers what it read.
#[derive(Default)]
pub struct Inspector {
    remembered: Mutex<Vec<(Version, Arc<ModelFacts>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl Inspector {
    /// Answers an inspection. Reading a large file takes minutes; another inspection waits for it, so that the disk is read
    /// in order.
    pub async fn inspect(self: Arc<Self>, request: Inspect) -> Inspection {
        let Inspect {
            model_uid,
            generation,
            uri,
            sha256,
        } = request;
        let turn = self.turn.lock().await;
        let inspector = Arc::clone(&self);
        let outcome = tokio::task::spawn_blocking(move || inspector.facts(&uri, &sha256))
            .await
            .unwrap_or_else(|_| Err(Fault::new("Unreadable", "reading the source ended early")));
        drop(turn);
        let result = match outcome {
            Ok(facts) => inspection::Result::Facts(facts.as_ref().clone()),
            Err(Fault { reason, message }) => {
                tracing::warn!(model_uid, reason, message, "the source cannot be used");
                inspection::Result::Error(InspectionError { reason, message })
            }
        };
        Inspection {
            model_uid,
            generation,
            result: Some(result),
        }
    }

    fn facts(&self, uri: &str, sha256: &[u8]) -> Result<Arc<ModelFacts>, Fault> {
        let (file, gguf) = open_source(uri)?;
        let version = version(uri, &file)?;
        let facts = match self.recall(&version) {
            Some(facts) => facts,
            None => {
                let facts = Arc::new(read(&gguf, &version)?);
                // A file that was written to meanwhile has no digest worth remembering.
                if self::version(uri, &file)? == version {
                    self.remember(version.clone(), Arc::clone(&facts));
                }
                facts
            }
        };
        if !sha256.is_empty() && facts.sha256 != sha256 {
            return Err(Fault::new(
                "DigestMismatch",
                format!(
                    "{} has SHA-256 {}, spec.source.sha256 says {}",
                    version.path.display(),
                    hex(&facts.sha256),
                    hex(sha256)
                ),
            ));
        }
        Ok(facts)
    }

    fn recall(&self, version: &Version) -> Option<Arc<ModelFacts>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered
            .iter()
            .find(|(known, _)| known == version)
            .map(|(_, facts)| Arc::clone(facts))
    }

    fn remember(&self, version: Version, facts: Arc<ModelFacts>) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|(known, _)| known.path != version.path);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.remove(0);
        }
        remembered.push((version, facts));
    }
}

fn version(uri: &str, file: &File) -> Result<Version, Fault> {
    let path = source_path(uri)?;
    let found = file
        .metadata()
        .map_err(|error| Fault::new("Unreadable", format!("{}: {error}", path.display())))?;
    Ok(Version {
        path,
        bytes: found.len(),
        modified: found.modified().ok(),
    })
}

/// The file is read twice at the same time, once whole and once by pieces: the second reader finds it in the page cache.
fn read(gguf: &gguf::Gguf, version: &Version) -> Result<ModelFacts, Fault> {
    let pieces = gguf::pieces(gguf).map_err(|error| piece_fault(&error))?;
    let facts = gguf::model_facts(gguf).map_err(|error| piece_fault(&error))?;
    let vocabulary =
        gguf::vocabulary(gguf).map_err(|error| Fault::new("UnsupportedArchitecture", error.to_string()))?;
    let unreadable = |error: &dyn std::fmt::Display| {
        Fault::new(
            "Unreadable",
            format!("reading {} failed: {error}", version.path.display()),
        )
    };
    let open = || File::open(&version.path).map_err(|error| unreadable(&error));
    let (whole, by_pieces) = std::thread::scope(|scope| {
        let whole = scope.spawn(|| gguf::index::file_digest(&mut open()?).map_err(|error| unreadable(&error)));
        let by_pieces = gguf::index::index(&mut open()?, &pieces).map_err(|error| unreadable(&error));
        let whole = whole
            .join()
            .unwrap_or_else(|_| Err(unreadable(&"the reading thread ended early")));
        Ok::<_, Fault>((whole?, by_pieces?))
    })?;
    Ok(message(&facts, &by_pieces, whole.0, version.bytes, vocabulary))
}

fn message(facts: &Facts, index: &Index, sha256: [u8; 32], file_bytes: u64, vocabulary: Vec<u8>) -> ModelFacts {
    let piece = |weight_bytes, digest: &gguf::Digest| {
        Some(PieceFacts {
            weight_bytes,
            digest: digest.0.to_vec(),
        })
    };
    let layers = facts.layer_bytes.iter().zip(&index.layers);
    ModelFacts {
        sha256: sha256.to_vec(),
        file_bytes,
        architecture: facts.architecture.clone(),
        quantisation: facts.quantisation.clone(),
        parameters: facts.parameters,
        embedding_length: facts.embedding_length,
        vocabulary_size: facts.vocabulary_size,
        context_length_trained: facts.context_length_trained,
        kv_elements_per_token_per_layer: facts.kv_elements_per_token_per_layer,
        layers: layers
            .map(|(weight_bytes, digest)| LayerFacts {
                weight_bytes: *weight_bytes,
                digest: digest.0.to_vec(),
            })
            .collect(),
        embedding: piece(facts.embedding_bytes, &index.embedding),
        output: piece(facts.output_bytes, &index.output),
        vocabulary_sha256: Sha256::digest(&vocabulary).to_vec(),
        vocabulary,
        allowed_cuts: facts.allowed_cuts.clone(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
