//! How fast a device runs steps, measured with stages of made-up layers: the same code that will serve, before there is a
//! model to serve.
//!
//! ```text
//!  time of a step = step + layers × layer + bytes of weights / rate
//!                     └──── thin layers ────┘        thick layers
//! ```
//!
//! A copy says what memory can do. What a product of a vector with quantised weights gets of it, and what each layer takes
//! beside, depends on kernels, drivers, threads and their waiting for each other.

mod slice;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::EngineError;
use crate::runtime::{Device, Runtime};
use crate::stage::{KvType, Row, STEP_ROWS, Stage, StageConfig, StepInput};

use slice::{Shape, Weights};

/// Layers of the two thin stages: the difference tells of layers, what is left of the step.
const THIN_LAYERS: [u32; 2] = [2, 18];
/// Steps of one row that are timed at most; more say nothing new.
const STEPS_MAX: usize = 48;
/// And at least, however slow they are.
const STEPS_MIN: usize = 3;
/// Steps before those: the first ones build graphs, compile kernels and wake clocks.
const WARM_UP: usize = 2;
/// Rows of a large step: as many as a prompt is read with.
const PROMPT_ROWS: u32 = STEP_ROWS;
/// Of a thick step, what reading weights takes at least where it can be told apart from the rest.
const LEAST_PART: u64 = 4;
/// Positions of the only sequence.
const CONTEXT_LENGTH: u32 = 512;

/// What steps take on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// Each step, whatever its layers.
    pub step_ns: u64,
    /// Each layer beside reading its weights.
    pub layer_ns: u64,
    /// Weights read for a row, by the number format of the weights.
    pub reading: Vec<Reading>,
    /// Arithmetic of large steps; absent where one would have taken longer than there was time.
    pub flops_per_second: Option<u64>,
    /// Steps behind all of this.
    pub samples: u32,
}

/// How fast weights of one format are read and multiplied with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Bits of each weight, scales and all, rounded.
    pub bits: u32,
    /// Bytes of such weights.
    pub bytes_per_second: u64,
}

/// Measures with files in `folder`, which it removes again. Takes about `budget`, but no less than a few steps of each kind.
///
/// # Errors
/// As [`Stage::load`] and [`Stage::step`]; `LoadRefused` where the folder cannot be written.
pub fn measure(runtime: &Runtime, device: &Device, folder: &Path, budget: Duration) -> Result<Rates, EngineError> {
    let parts = 2 + Weights::ALL.len() as u32;
    let lab = Lab {
        runtime,
        device,
        folder,
        part: budget / parts,
    };
    let mut samples = 0;
    let mut thin_ns = [0; 2];
    for (ns, layers) in thin_ns.iter_mut().zip(THIN_LAYERS) {
        *ns = lab.run(&Shape::thin(layers), |bench| bench.rows_of_one(&mut samples))?;
    }
    let [few, many] = THIN_LAYERS;
    let layer_ns = thin_ns[1].saturating_sub(thin_ns[0]) / u64::from(many - few);
    let step_ns = thin_ns[0].saturating_sub(layer_ns * u64::from(few));
    let mut rates = Rates {
        step_ns,
        layer_ns,
        ..Rates::default()
    };
    for weights in Weights::ALL {
        let shape = Shape::thick(weights);
        let (row_ns, prompt_ns) = lab.run(&shape, |bench| {
            let row_ns = bench.rows_of_one(&mut samples)?;
            // The first format is that of most models: its arithmetic counts.
            let wanted = weights == Weights::ALL[0];
            let prompt_ns = if wanted { bench.prompt(row_ns)? } else { None };
            Ok((row_ns, prompt_ns))
        })?;
        let beside = step_ns.saturating_add(layer_ns * u64::from(shape.layers));
        rates.reading.extend(reading(&shape, row_ns, beside));
        if let Some(prompt_ns) = prompt_ns {
            let flops = 2 * shape.parameters() * u64::from(PROMPT_ROWS);
            rates.flops_per_second = Some(per_second(flops, prompt_ns.saturating_sub(beside).max(1)));
        }
    }
    rates.samples = samples;
    Ok(rates)
}

/// `None` where reading is a small part of the step: then noise would be taken for speed.
fn reading(shape: &Shape, row_ns: u64, beside_ns: u64) -> Option<Reading> {
    let reading_ns = row_ns.saturating_sub(beside_ns);
    (reading_ns >= row_ns / LEAST_PART && reading_ns > 0).then(|| Reading {
        bits: shape.weights.bits(),
        bytes_per_second: per_second(shape.weight_bytes(), reading_ns),
    })
}

fn per_second(amount: u64, ns: u64) -> u64 {
    u64::try_from(u128::from(amount) * 1_000_000_000 / u128::from(ns.max(1))).unwrap_or(u64::MAX)
}

/// Where stages are made and timed.
struct Lab<'a> {
    runtime: &'a Runtime,
    device: &'a Device,
    folder: &'a Path,
    /// Time for each of them.
    part: Duration,
}

impl Lab<'_> {
    /// Makes a stage of a shape and lets `time` use it. Its file is gone afterwards.
    fn run<T>(&self, shape: &Shape, time: impl FnOnce(&mut Bench) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let file = self.folder.join("measured.gguf");
        let written = shape.write(&file).map_err(|error| EngineError::LoadRefused {
            file: file.clone(),
            cause: error.to_string(),
        });
        let outcome = written.and_then(|()| {
            let stage = Stage::load(self.runtime, &config(&file, self.device, shape.layers))?;
            let mut bench = Bench {
                stage,
                part: self.part,
                position: 0,
            };
            time(&mut bench)
        });
        // Best effort: the folder is the caller's, who removes it.
        let _ = std::fs::remove_file(&file);
        outcome
    }
}

fn config(file: &Path, device: &Device, layers: u32) -> StageConfig {
    StageConfig {
        slice_files: vec![PathBuf::from(file)],
        device: device.clone(),
        context_length: CONTEXT_LENGTH,
        parallel_sequences: 1,
        prefix_sequences: 0,
        kv_cells: 0,
        kv_type: KvType::F16,
        max_step_rows: PROMPT_ROWS,
        strict: false,
        // One in the middle: it is fed activations and leaves some.
        first: false,
        last: false,
        first_layer: 1,
        end_layer: 1 + layers,
    }
}

/// A stage under the clock.
struct Bench {
    stage: Stage,
    part: Duration,
    position: u32,
}

impl Bench {
    /// Time of a step of one row: the lower quartile, since whatever else runs only ever makes it longer.
    fn rows_of_one(&mut self, samples: &mut u32) -> Result<u64, EngineError> {
        for _ in 0..WARM_UP {
            self.step(1)?;
        }
        let began = Instant::now();
        let mut times = Vec::new();
        while times.len() < STEPS_MAX && (times.len() < STEPS_MIN || began.elapsed() < self.part) {
            times.push(self.step(1)?);
        }
        *samples += times.len() as u32;
        times.sort_unstable();
        Ok(times[times.len() / 4])
    }

    /// Best time of a large step; `None` where it could take longer than there is time, at the speed of single rows.
    fn prompt(&mut self, row_ns: u64) -> Result<Option<u64>, EngineError> {
        let worst = Duration::from_nanos(row_ns.saturating_mul(u64::from(PROMPT_ROWS)));
        if worst > self.part * WORST_PARTS {
            return Ok(None);
        }
        let first = self.step(PROMPT_ROWS)?;
        Ok(Some(first.min(self.step(PROMPT_ROWS)?)))
    }

    fn step(&mut self, count: u32) -> Result<u64, EngineError> {
        let row = |position| Row {
            sequence: 0,
            position,
            token: 0,
        };
        let rows: Vec<Row> = (self.position..self.position + count).map(row).collect();
        let activations = vec![0.5; rows.len() * self.stage.embedding_length()];
        let input = StepInput {
            rows: &rows,
            activations: &activations,
            wants: &vec![false; rows.len()],
        };
        let began = Instant::now();
        self.stage.step_with(&input, |_, _| Ok(()))?;
        self.position += count;
        Ok(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Rows together are faster than one by one, mostly by far: so many times the time for it, were they not.
const WORST_PARTS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_only_where_reading_can_be_told_apart_from_the_rest_of_a_step() {
        let shape = Shape::thick(Weights::Q4);
        let bytes = shape.weight_bytes();
        let found = reading(&shape, 11_000_000, 1_000_000).expect("a rate");
        assert_eq!(found.bytes_per_second, bytes * 100);
        for beside_ns in [9_000_000, 11_000_000, 40_000_000] {
            assert_eq!(reading(&shape, 11_000_000, beside_ns), None);
        }
    }
}
