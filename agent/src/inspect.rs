//! What a model is, read where its source can be reached: header, index and facts for the operator.
//!
//! With an index that is pinned by its digest only index and headers are read. Without one the source is read once, from
//! begin to end and without being kept, and the index made from it; it is then what every node checks its bytes against.

mod reading;

use crate::models::model::piece_fault;
use crate::models::{Model, Models, Wanted};
use crate::shard::observed::Fault;
use crate::shard::weights::Gauge;
use crate::source::{self, Access, Source, SourceFile};
use crds::conditions::reason;
use gguf::{Digest, Facts, Index};
use proto::control::v1::{Inspect, Inspection, InspectionError, LayerFacts, ModelFacts, PieceFacts, inspection};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Sources whose facts are remembered: an operator asks again after each restart of its own.
const REMEMBERED_MAX: usize = 16;

/// A file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    name: String,
    bytes: u64,
    version: Option<String>,
}

struct Remembered {
    uri: String,
    files: Vec<Version>,
    facts: Arc<ModelFacts>,
}

/// Reads sources, whole ones one at a time, and remembers what it read.
pub struct Inspector {
    models: Arc<Models>,
    remembered: Mutex<Vec<Remembered>>,
    /// By the model's uid: the generation that is being inspected, and what calls it off.
    under_way: Mutex<BTreeMap<String, (i64, CancellationToken)>>,
    turn: tokio::sync::Mutex<()>,
}

impl Inspector {
    /// Nothing is remembered yet. Indexes and headers are kept among the models of the node.
    pub fn new(models: Arc<Models>) -> Self {
        Self {
            models,
            remembered: Mutex::default(),
            under_way: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Answers an inspection. Reading a large file takes minutes; another inspection that has to read one waits for it, so that
    /// the disk is read in order. An inspection of a later generation of the same model calls this one off.
    pub async fn inspect(self: Arc<Self>, mut request: Inspect) -> Inspection {
        let (model_uid, generation) = (std::mem::take(&mut request.model_uid), request.generation);
        let stop = self.begin(&model_uid, generation);
        let inspector = Arc::clone(&self);
        let outcome = tokio::task::spawn_blocking(move || inspector.facts(request, &stop))
            .await
            .unwrap_or_else(|_| Err(Fault::new(reason::UNREADABLE, "reading the source ended early")));
        self.end(&model_uid, generation);
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

    fn begin(&self, model_uid: &str, generation: i64) -> CancellationToken {
        let mut under_way = locked(&self.under_way);
        match under_way.get(model_uid) {
            // Asked once more on another stream: both get the answer.
            Some((present, stop)) if *present == generation => return stop.clone(),
            Some((present, stop)) if *present < generation => stop.cancel(),
            Some(_) => {
                let late = CancellationToken::new();
                late.cancel();
                return late;
            }
            None => {}
        }
        let stop = CancellationToken::new();
        under_way.insert(model_uid.to_owned(), (generation, stop.clone()));
        stop
    }

    fn end(&self, model_uid: &str, generation: i64) {
        let mut under_way = locked(&self.under_way);
        if under_way
            .get(model_uid)
            .is_some_and(|(present, _)| *present == generation)
        {
            under_way.remove(model_uid);
        }
    }

    fn facts(&self, request: Inspect, stop: &CancellationToken) -> Result<Arc<ModelFacts>, Fault> {
        let access = Access::from(request.access.unwrap_or_default());
        let facts = if request.index_sha256.is_empty() {
            self.whole(&request.uri, &access, stop)?
        } else {
            let index = Digest::try_from(request.index_sha256.as_slice())
                .map_err(|error| Fault::new(reason::UNREADABLE, format!("spec.source.indexSha256: {error}")))?;
            let wanted = Wanted {
                index,
                uri: request.uri.clone(),
                access,
                peers: Vec::new(),
            };
            let model = self.models.know(&wanted, &Gauge::stopped_by(stop.clone()))?;
            Arc::new(describe(&model)?)
        };
        if !request.sha256.is_empty() && facts.sha256 != request.sha256 {
            return Err(Fault::new(
                reason::DIGEST_MISMATCH,
                format!(
                    "{} has SHA-256 {}, spec.source.sha256 says {}",
                    source::shown(&request.uri),
                    hex(&facts.sha256),
                    hex(&request.sha256)
                ),
            ));
        }
        Ok(facts)
    }

    /// Reads everything, unless nothing has changed since it was read.
    fn whole(&self, uri: &str, access: &Access, stop: &CancellationToken) -> Result<Arc<ModelFacts>, Fault> {
        let turn = async { Ok::<_, Fault>(self.turn.lock().await) };
        let _turn = self.models.wait(stop, turn)?;
        let setting = &self.models.setting().sources;
        let source = self.models.wait(stop, Source::open(setting, uri, access))?;
        if let Some(facts) = self.recall(uri, &source, stop) {
            return Ok(facts);
        }
        let read = reading::read(&self.models, &source, stop)?;
        let versions: Vec<Version> = read.files.iter().map(|(name, file)| version(name, file)).collect();
        // A file that was written to meanwhile has no digest worth keeping.
        let unchanged = self.is_unchanged(&source, &versions, stop);
        let model = self.models.keep_model(read.index, &read.headers, stop)?;
        let facts = Arc::new(describe(&model)?);
        if unchanged {
            self.remember(uri, versions, &facts);
        }
        Ok(facts)
    }

    fn is_unchanged(&self, source: &Source, files: &[Version], stop: &CancellationToken) -> bool {
        files.iter().all(|known| {
            let now = self.models.wait(stop, source.file(&known.name));
            known.version.is_some() && now.is_ok_and(|now| version(&known.name, &now) == *known)
        })
    }

    fn recall(&self, uri: &str, source: &Source, stop: &CancellationToken) -> Option<Arc<ModelFacts>> {
        let (files, facts) = {
            let remembered = locked(&self.remembered);
            let known = remembered.iter().find(|known| known.uri == uri)?;
            (known.files.clone(), Arc::clone(&known.facts))
        };
        self.is_unchanged(source, &files, stop).then_some(facts)
    }

    fn remember(&self, uri: &str, files: Vec<Version>, facts: &Arc<ModelFacts>) {
        let mut remembered = locked(&self.remembered);
        remembered.retain(|known| known.uri != uri);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.remove(0);
        }
        remembered.push(Remembered {
            uri: uri.to_owned(),
            files,
            facts: Arc::clone(facts),
        });
    }
}

fn version(name: &str, file: &SourceFile) -> Version {
    Version {
        name: name.to_owned(),
        bytes: file.bytes(),
        version: file.version(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(model: &Model) -> Result<ModelFacts, Fault> {
    let pieces = model.pieces()?;
    let facts = gguf::model_facts(&model.gguf).map_err(|error| piece_fault(&error))?;
    let vocabulary = gguf::vocabulary(&model.gguf)
        .map_err(|error| Fault::new(reason::UNSUPPORTED_ARCHITECTURE, error.to_string()))?;
    let digests = model
        .index
        .piece_digests(&pieces)
        .map_err(|error| Fault::new(reason::DIGEST_MISMATCH, error.to_string()))?;
    Ok(message(model, &facts, &digests, vocabulary))
}

fn message(model: &Model, facts: &Facts, digests: &Index, vocabulary: Vec<u8>) -> ModelFacts {
    let piece = |weight_bytes, digest: &Digest| {
        Some(PieceFacts {
            weight_bytes,
            digest: digest.0.to_vec(),
        })
    };
    let weights = facts.layer_bytes.iter().zip(&facts.layer_active_bytes);
    let kept = facts.layer_kv_elements.iter().zip(&facts.layer_state_bytes);
    let layers = weights.zip(kept).zip(&digests.layers);
    ModelFacts {
        sha256: model.index.sha256().0.to_vec(),
        file_bytes: model.index.total_bytes(),
        architecture: facts.architecture.clone(),
        quantisation: facts.quantisation.clone(),
        parameters: facts.parameters,
        embedding_length: facts.embedding_length,
        vocabulary_size: facts.vocabulary_size,
        context_length_trained: facts.context_length_trained,
        kv_elements_per_token_per_layer: facts.kv_elements_per_token_per_layer,
        layers: layers
            .map(
                |(((weight_bytes, active_bytes), (kv_elements, state_bytes)), digest)| LayerFacts {
                    weight_bytes: *weight_bytes,
                    digest: digest.0.to_vec(),
                    active_bytes: *active_bytes,
                    kv_elements_per_token: Some(*kv_elements),
                    state_bytes: *state_bytes,
                },
            )
            .collect(),
        embedding: piece(facts.embedding_bytes, &digests.embedding),
        output: piece(facts.output_bytes, &digests.output),
        vocabulary_sha256: Sha256::digest(&vocabulary).to_vec(),
        vocabulary,
        allowed_cuts: facts.allowed_cuts.clone(),
        index: model.index.to_bytes(),
        index_sha256: model.index.digest().0.to_vec(),
        group_sizes: facts.group_sizes.clone(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
