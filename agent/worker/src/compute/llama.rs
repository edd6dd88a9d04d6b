//! The engine as a stage's compute.

use std::sync::Arc;

use engine::{Device, Embedding, EngineError, Fault, Runtime, Stage, StepInput};

use super::loading::{load_within_budget, refused};
use super::{Compute, ComputeError, Facts, LoadError, Loader, Output, choose_token};
use crate::config::{Backend, WorkerConfig};
use crate::memory::ladder::Usage;
use crate::memory::{Gauge, observe, watch_pressure};
use crate::step::Row;

/// Loads what the configuration names, and tells the gauge what that took.
pub fn engine_loader(config: Arc<WorkerConfig>, gauge: Gauge) -> Loader {
    Box::new(move || Ok(Box::new(LlamaStage::load(&config, gauge)?)))
}

/// Where a configuration wants to compute.
pub fn device(config: &WorkerConfig) -> Device {
    engine_device(
        config.backend,
        config.device_index,
        &config.group_indices,
        config.threads,
    )
}

/// A device as the engine names it; with the indices of others, all of them as one.
pub fn engine_device(backend: Backend, index: u32, others: &[u32], threads: u32) -> Device {
    match backend {
        Backend::Cpu => Device::Cpu { threads },
        backend if others.is_empty() => Device::Gpu {
            backend: backend.name().to_owned(),
            index,
        },
        backend => Device::Group {
            backend: backend.name().to_owned(),
            indices: [&[index][..], others].concat(),
        },
    }
}

#[derive(Debug)]
struct LlamaStage {
    stage: Stage,
    embedding: Option<Embedding>,
    last: bool,
}

impl LlamaStage {
    fn load(config: &WorkerConfig, gauge: Gauge) -> Result<Self, LoadError> {
        let runtime = Runtime::load_for(None, &device(config)).map_err(|e| refused(&e))?;
        let (stage, pressure) = load_within_budget(&runtime, config, &gauge)?;
        let embedding = config
            .embedding
            .as_ref()
            .map(|path| Embedding::open(path).map_err(|error| LoadError::Weights(error.to_string())));
        let embedding = embedding.transpose()?;
        let (expected, found) = (config.embedding_length as usize, stage.embedding_length());
        if expected != found {
            let message = format!("the slice is {found} wide, the configuration says {expected}");
            return Err(LoadError::Weights(message));
        }
        if embedding
            .as_ref()
            .is_some_and(|table| table.embedding_length() != found)
        {
            let message = format!("the embedding is not {found} wide, as the slice is");
            return Err(LoadError::Weights(message));
        }
        if config.first_layer == 0 && embedding.is_none() && !stage.takes_tokens() {
            let message = "the head has an embedding neither beside its slice nor in it".to_owned();
            return Err(LoadError::Weights(message));
        }
        gauge.settle(stage.memory(), pressure);
        watch_memory(&runtime, config, gauge);
        Ok(Self {
            stage,
            embedding,
            last: config.end_layer == config.total_layers,
        })
    }
}

/// Best effort: a shard that nobody watches computes all the same.
fn watch_memory(runtime: &Runtime, config: &WorkerConfig, gauge: Gauge) {
    let source = observe::find(config.pressure.cgroup_dir.as_deref());
    let (runtime, device) = (runtime.clone(), device(config));
    let usage = move || {
        let memory = runtime.memory(&device)?;
        Some(Usage {
            used_bytes: memory.total_bytes.saturating_sub(memory.free_bytes),
            limit_bytes: memory.total_bytes,
        })
    };
    if let Err(error) = watch_pressure(gauge, source, usage) {
        tracing::warn!(%error, "memory pressure is not watched");
    }
}

fn failed(error: &EngineError) -> ComputeError {
    if let EngineError::KvFull { .. } = error {
        return ComputeError::KvFull(error.to_string());
    }
    match error.fault() {
        Fault::Broken => ComputeError::Broken(error.to_string()),
        _ => ComputeError::Failed(error.to_string()),
    }
}

impl Compute for LlamaStage {
    fn facts(&self) -> Facts {
        Facts {
            embedding_length: self.stage.embedding_length(),
            vocabulary_size: match &self.embedding {
                Some(embedding) => embedding.vocabulary_size(),
                None if self.stage.takes_tokens() => self.stage.vocabulary_size() as u64,
                None => 0,
            },
            shares_prefixes: self.stage.shares_prefixes(),
        }
    }

    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError> {
        match &self.embedding {
            Some(embedding) => embedding
                .rows(tokens)
                .map_err(|error| ComputeError::Failed(error.to_string())),
            None if self.stage.takes_tokens() => Ok(Vec::new()),
            None => Err(ComputeError::Failed("this stage has no embedding".into())),
        }
    }

    fn step(&mut self, rows: &[Row], activations: &[f32]) -> Result<Output, ComputeError> {
        let wants: Vec<bool> = rows.iter().map(|row| self.last && row.sample.is_some()).collect();
        let input: Vec<engine::Row> = rows
            .iter()
            .map(|row| engine::Row {
                sequence: row.sequence,
                position: row.position,
                token: row.token,
            })
            .collect();
        let input = StepInput {
            rows: &input,
            activations,
            wants: &wants,
        };
        let mut tokens = Vec::new();
        let activations = self.stage.step_with(&input, |row, logits| {
            // The wanted rows are those that sample.
            let token = rows.get(row).map(|row| choose_token(row, logits)).transpose();
            tokens.extend(token.map_err(|error| error.to_string())?);
            Ok(())
        });
        let activations = activations.map_err(|error| failed(&error))?;
        Ok(match self.last {
            true => Output::Tokens(tokens),
            false => Output::Activations(activations),
        })
    }

    fn remove(&mut self, sequence: u32, from: u32, end: Option<u32>) -> Result<(), ComputeError> {
        let removed = self.stage.remove(sequence, from, end.unwrap_or(u32::MAX));
        removed.map_err(|error| failed(&error))
    }

    fn copy_prefix(&mut self, from: u32, to: u32, end: u32) -> Result<(), ComputeError> {
        let copied = self.stage.copy_prefix(from, to, end);
        copied.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_with_others_is_a_group_in_their_order() {
        let group = Device::Group {
            backend: "vulkan".to_owned(),
            indices: vec![2, 0, 1],
        };
        assert_eq!(engine_device(Backend::Vulkan, 2, &[0, 1], 4), group);
        let alone = engine_device(Backend::Vulkan, 2, &[], 4);
        assert!(matches!(alone, Device::Gpu { index: 2, .. }));
        assert_eq!(engine_device(Backend::Cpu, 0, &[], 4), Device::Cpu { threads: 4 });
    }

    #[test]
    fn a_full_cache_and_a_broken_stage_are_told_apart_from_a_step_that_failed() {
        let cause = || "of some cause".to_owned();
        let full = EngineError::KvFull {
            rows: 4,
            free: 2,
            cause: cause(),
        };
        let broken = EngineError::Broken { cause: cause() };
        let other = EngineError::DecodeFailed {
            rows: 4,
            cause: cause(),
        };
        assert_eq!(failed(&full), ComputeError::KvFull(full.to_string()));
        assert_eq!(failed(&broken), ComputeError::Broken(broken.to_string()));
        assert_eq!(failed(&other), ComputeError::Failed(other.to_string()));
    }
}
