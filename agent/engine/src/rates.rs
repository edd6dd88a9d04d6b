//! How fast a device, or a group of them, runs steps, measured with stages of made-up layers: the same code that will serve,
//! before there is a model to serve.
//!
//! ```text
//!  time of a step = step + layers × layer + bytes of weights / rate + rows of weights × row + context × attention
//!                     └── thin layers ──┘          └── thick layers ──┘   └───── narrow layers ─────┘
//! ```
//!
//! A copy says what memory can do. What a product of a vector with quantised weights gets of it, and what each layer takes
//! beside, depends on kernels, drivers, threads and their waiting for each other. Rows of a narrow model are short, and each
//! has a beginning and an end.

mod fit;
mod slice;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::runtime::{Device, Runtime};
use crate::stage::{KvType, Row, STEP_ROWS, STRICT_STEP_ROWS, Stage, StageConfig, StepInput};

use slice::{By, FORMATS, Shape, Weights};

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
/// Positions of the only sequence.
const CONTEXT_LENGTH: u32 = 512;
/// Of those, what steps of one row may take after the context was filled.
const LATE_POSITIONS: u32 = 80;

/// How long steps took, nanoseconds; the least of several measurements is nearest to what the device does by itself, for whatever
/// else runs only ever makes a step longer. Zero and absent: not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    thin: [u64; 2],
    narrow: u64,
    /// The same with more positions of context, and how many more.
    late: Option<(u64, u32)>,
    strict: u64,
    thick: [u64; FORMATS],
    prompt: Option<u64>,
    samples: u32,
}

/// What steps take on a device, or on several that work as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// Each step, whatever its layers.
    pub step_ns: u64,
    /// Each layer beside reading its weights.
    pub layer_ns: u64,
    /// Each row of a matrix, as long as the model is wide, beside reading it, picoseconds.
    pub row_ps: u64,
    /// Weights read for a row, by the number format of the weights.
    pub reading: Vec<Reading>,
    /// Arithmetic of one row's attention, which grows with the context: 4 × width for each position and layer. Absent where the
    /// context could not be filled in time, or where it makes no difference.
    pub attention_flops_per_second: Option<u64>,
    /// A step of one row whose arithmetic must not depend on what else is computed, in percent of one that may.
    pub strict_percent: Option<u32>,
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
pub fn measure(runtime: &Runtime, device: &Device, folder: &Path, budget: Duration) -> Result<Times, EngineError> {
    // Two thin ones, the thick ones, and a narrow one in two ways.
    let parts = 4 + Weights::ALL.len() as u32;
    let lab = Lab {
        runtime,
        device,
        folder,
        part: budget / parts,
    };
    let by = By::members(device.members());
    let mut times = Times::default();
    let mut samples = 0;
    for (ns, layers) in times.thin.iter_mut().zip(THIN_LAYERS) {
        *ns = lab.run(&Shape::thin(layers, by), false, |bench| bench.rows_of_one(&mut samples))?;
    }
    (times.narrow, times.late) = lab.run(&Shape::narrow(by), false, |bench| {
        let row_ns = bench.rows_of_one(&mut samples)?;
        Ok((row_ns, bench.late(row_ns, &mut samples)?))
    })?;
    times.strict = lab.run(&Shape::narrow(by), true, |bench| bench.rows_of_one(&mut samples))?;
    for (ns, weights) in times.thick.iter_mut().zip(Weights::ALL) {
        let (row_ns, prompt_ns) = lab.run(&Shape::thick(weights), false, |bench| {
            let row_ns = bench.rows_of_one(&mut samples)?;
            // The first format is that of most models: its arithmetic counts.
            let wanted = weights == Weights::ALL[0];
            let prompt_ns = if wanted { bench.prompt(row_ns)? } else { None };
            Ok((row_ns, prompt_ns))
        })?;
        *ns = row_ns;
        times.prompt = times.prompt.or(prompt_ns);
    }
    times.samples = samples;
    Ok(times)
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
    fn run<T>(
        &self,
        shape: &Shape,
        strict: bool,
        time: impl FnOnce(&mut Bench) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let file = self.folder.join("measured.gguf");
        let written = shape.write(&file).map_err(|error| EngineError::LoadRefused {
            file: file.clone(),
            cause: error.to_string(),
        });
        let outcome = written.and_then(|()| {
            let config = StageConfig {
                strict,
                max_step_rows: if strict { STRICT_STEP_ROWS } else { PROMPT_ROWS },
                ..config(&file, self.device, shape.layers)
            };
            let stage = Stage::load(self.runtime, &config)?;
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
    /// Time of a step of one row: the lower decile, since whatever else runs only ever makes it longer.
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
        Ok(times[times.len() / 10])
    }

    /// The same once the context is filled as far as there is room, and by how many positions more it is filled then than
    /// before; `None` where filling it could take longer than there is time.
    fn late(&mut self, row_ns: u64, samples: &mut u32) -> Result<Option<(u64, u32)>, EngineError> {
        let room = CONTEXT_LENGTH.saturating_sub(self.position + LATE_POSITIONS);
        if !self.has_time_for(room, row_ns) {
            return Ok(None);
        }
        for _ in 0..room / PROMPT_ROWS {
            self.step(PROMPT_ROWS)?;
        }
        let added = room / PROMPT_ROWS * PROMPT_ROWS;
        let before = self.position;
        let late_ns = self.rows_of_one(samples)?;
        Ok(Some((late_ns, added + (self.position - before))))
    }

    fn has_time_for(&self, rows: u32, row_ns: u64) -> bool {
        Duration::from_nanos(row_ns.saturating_mul(rows.into())) <= self.part * WORST_PARTS
    }

    /// Best time of a large step; `None` where it could take longer than there is time, at the speed of single rows.
    fn prompt(&mut self, row_ns: u64) -> Result<Option<u64>, EngineError> {
        if !self.has_time_for(PROMPT_ROWS, row_ns) {
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
const WORST_PARTS: u32 = 32;
