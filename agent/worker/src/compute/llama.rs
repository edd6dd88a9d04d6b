//! The engine as a stage's compute.

use std::path::PathBuf;
use std::sync::Arc;

use engine::{Device, Embedding, EngineError, Fault, Runtime, Stage, StageConfig, StepInput};

use super::{Compute, ComputeError, Facts, LoadError, Loader, Output, choose};
use crate::config::{Backend, KvType, WorkerConfig};
use crate::step::Row;

/// Loads what the configuration names.
pub fn engine_loader(config: Arc<WorkerConfig>) -> Loader {
    Box::new(move || Ok(Box::new(LlamaStage::load(&config)?)))
}

/// Where a configuration wants to compute.
pub fn device(config: &WorkerConfig) -> Device {
    match config.backend {
        Backend::Cpu => Device::Cpu {
            threads: config.threads,
        },
        Backend::Vulkan => Device::Gpu {
            backend: "vulkan".to_owned(),
            index: config.device_index,
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
    fn load(config: &WorkerConfig) -> Result<Self, LoadError> {
        let runtime = Runtime::load_for(None, &device(config)).map_err(|e| refused(&e))?;
        let stage = Stage::load(&runtime, &stage_config(config)).map_err(|e| refused(&e))?;
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
        Ok(Self {
            stage,
            embedding,
            last: config.end_layer == config.total_layers,
        })
    }
}

fn stage_config(config: &WorkerConfig) -> StageConfig {
    let header: PathBuf = config.slice.header.clone();
    let runtime = &config.runtime;
    StageConfig {
        slice_files: std::iter::once(header)
            .chain(config.slice.parts.iter().cloned())
            .collect(),
        device: device(config),
        context_length: runtime.context_length,
        parallel_sequences: runtime.parallel_sequences,
        kv_type: match runtime.kv_type {
            KvType::F16 => engine::KvType::F16,
            KvType::F32 => engine::KvType::F32,
            KvType::Q8_0 => engine::KvType::Q8_0,
        },
        max_step_rows: runtime.max_step_rows,
        first: config.first_layer == 0,
        last: config.end_layer == config.total_layers,
        first_layer: config.first_layer,
        end_layer: config.end_layer,
    }
}

fn refused(error: &EngineError) -> LoadError {
    let message = error.to_string();
    match error.fault() {
        Fault::Cpu => LoadError::UnsupportedCpu(message),
        Fault::Device => LoadError::Device(message),
        Fault::Config | Fault::Weights | Fault::Request | Fault::Compute | Fault::Broken => LoadError::Weights(message),
    }
}

fn failed(error: &EngineError) -> ComputeError {
    match error.fault() {
        Fault::Broken => ComputeError::Broken(error.to_string()),
        _ => ComputeError::Failed(error.to_string()),
    }
}

impl Compute for LlamaStage {
    fn facts(&self) -> Facts {
        Facts {
            embedding_length: self.stage.embedding_length(),
            vocabulary_size: self.embedding.as_ref().map_or(0, Embedding::vocabulary_size),
        }
    }

    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError> {
        let embedding = self.embedding.as_ref();
        let embedding = embedding.ok_or(ComputeError::Failed("this stage has no embedding".into()))?;
        embedding
            .rows(tokens)
            .map_err(|error| ComputeError::Failed(error.to_string()))
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
        let output = self.stage.step(&input).map_err(|error| failed(&error))?;
        if self.last {
            Ok(Output::Tokens(choose(rows, output.logits.rows())?))
        } else {
            Ok(Output::Activations(output.activations))
        }
    }

    fn remove(&mut self, sequence: u32, from: u32, end: Option<u32>) -> Result<(), ComputeError> {
        let removed = self.stage.remove(sequence, from, end.unwrap_or(u32::MAX));
        removed.map_err(|error| failed(&error))
    }
}
