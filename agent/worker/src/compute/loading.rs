//! Loads the slice within its budget, giving up what the configuration allows until it fits.

use std::time::{Duration, Instant};

use engine::{Device, EngineError, Fault, Runtime, STRICT_STEP_ROWS, Stage, StageConfig};

use super::LoadError;
use super::llama::device;
use crate::config::{KvType, WorkerConfig};
use crate::memory::ladder::{Action, Attempt, Limits, Taken, after_loading};
use crate::memory::{Gauge, Pressure};

/// For the step that proves the compute buffers: a device computes the largest one in a second or two, a renderer in
/// software would take a minute, and has nothing that could fail later.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);

/// The stage with its memory allocated and written to, and what was given up for it. The gauge is told what a stage took
/// that is refused: the next placement reckons with it.
pub(super) fn load_within_budget(
    runtime: &Runtime,
    config: &WorkerConfig,
    gauge: &Gauge,
) -> Result<(Stage, Pressure), LoadError> {
    let limits = limits(config);
    let began = Instant::now();
    let mut attempt = Attempt {
        kv_type: config.runtime.kv_type,
        host_layers: 0,
    };
    let mut stage = loop {
        let loaded = Stage::load_beside_host(runtime, &stage_config(config, attempt.kv_type), attempt.host_layers);
        let (stage, cause) = match loaded {
            Ok(stage) => (Some(stage), None),
            Err(error) if error.is_out_of_memory() => (None, Some(error)),
            Err(error) => return Err(refused(&error)),
        };
        let taken = stage.as_ref().map(taken);
        match (after_loading(taken, &limits, attempt), stage) {
            (Action::Keep, Some(stage)) => break stage,
            (Action::Retry(next), stage) => {
                tracing::warn!(
                    ?attempt,
                    ?next,
                    ?taken,
                    ?cause,
                    "the shard does not fit; loading it smaller"
                );
                // Before the next one is loaded.
                drop(stage);
                attempt = next;
            }
            (Action::Refuse(why), stage) => {
                if let Some(stage) = &stage {
                    gauge.refuse(stage.memory());
                }
                let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
                return Err(LoadError::Memory(format!("{why}{cause}")));
            }
            (Action::Keep, None) => return Err(LoadError::Memory("nothing was loaded".to_owned())),
        }
    };
    let loaded = began.elapsed();
    stage.warm_up(WARM_UP_LIMIT).map_err(|error| {
        gauge.refuse(stage.memory());
        LoadError::Memory(format!("the largest step cannot be computed: {error}"))
    })?;
    tracing::info!(
        load_ms = loaded.as_millis(),
        proof_ms = (began.elapsed() - loaded).as_millis(),
        "loaded, and its memory proved"
    );
    let pressure = Pressure {
        kv_quantised: attempt.kv_type != config.runtime.kv_type,
        host_layers: attempt.host_layers,
        ..Pressure::default()
    };
    Ok((stage, pressure))
}

fn limits(config: &WorkerConfig) -> Limits {
    Limits {
        budget_bytes: config.memory_budget_bytes,
        layers: config.end_layer - config.first_layer,
        accelerator: matches!(device(config), Device::Gpu { .. }),
        allow_kv_quantisation: config.pressure.allow_kv_quantisation,
        allow_host_layers: config.pressure.allow_host_layers,
    }
}

fn taken(stage: &Stage) -> Taken {
    let memory = stage.memory();
    Taken {
        weights_bytes: memory.weights_bytes,
        kv_bytes: memory.kv_bytes,
        compute_bytes: memory.compute_bytes,
    }
}

fn stage_config(config: &WorkerConfig, kv_type: KvType) -> StageConfig {
    let header = config.slice.header.clone();
    let runtime = &config.runtime;
    StageConfig {
        slice_files: std::iter::once(header)
            .chain(config.slice.parts.iter().cloned())
            .collect(),
        device: device(config),
        context_length: runtime.context_length,
        parallel_sequences: runtime.parallel_sequences,
        prefix_sequences: runtime.prefix_sequences,
        kv_cells: runtime.kv_cells,
        kv_type: match kv_type {
            KvType::F16 => engine::KvType::F16,
            KvType::F32 => engine::KvType::F32,
            KvType::Q8_0 => engine::KvType::Q8_0,
        },
        max_step_rows: runtime.max_step_rows,
        // Only those who want equal numbers ask for so small steps.
        strict: runtime.max_step_rows <= STRICT_STEP_ROWS,
        first: config.first_layer == 0,
        last: config.end_layer == config.total_layers,
        first_layer: config.first_layer,
        end_layer: config.end_layer,
    }
}

pub(super) fn refused(error: &EngineError) -> LoadError {
    let message = error.to_string();
    match error.fault() {
        Fault::Cpu => LoadError::UnsupportedCpu(message),
        Fault::Device => LoadError::Device(message),
        Fault::Config | Fault::Weights | Fault::Request | Fault::Compute | Fault::Broken => LoadError::Weights(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_device_and_weights_are_told_apart_in_the_words_of_the_engine() {
        let processor = EngineError::UnsupportedCpu {
            missing: "AVX2".to_owned(),
        };
        let device = EngineError::DeviceUnavailable {
            backend: "cuda".to_owned(),
            index: 1,
            found: "CPU".to_owned(),
        };
        let weights = EngineError::LoadRefused {
            file: "m.gguf".into(),
            cause: "a tensor is missing".to_owned(),
        };
        assert_eq!(refused(&processor), LoadError::UnsupportedCpu(processor.to_string()));
        assert_eq!(refused(&device), LoadError::Device(device.to_string()));
        assert_eq!(refused(&weights), LoadError::Weights(weights.to_string()));
    }
}
