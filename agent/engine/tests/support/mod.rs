//! The real model, cut by the real cutter, for tests and measurements.
#![allow(dead_code, reason = "each test executable uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod generated;
pub mod spread;

use std::fs::File;
use std::path::{Path, PathBuf};

use engine::{
    Device, Embedding, KvType, Logits, Row, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StepInput, StepOutput,
};
use gguf::{Gguf, pieces, prepare_slice, write_piece};

/// Layers of the test model.
pub const LAYERS: u32 = 30;

/// Positions of a sequence in tests: all of one test's sequences together stay below 512 cells, up
/// to which one row and many rows go through the same attention kernel.
pub const CONTEXT_LENGTH: u32 = 448;

/// Slots of kept prefixes in tests, above those of sequences.
pub const PREFIX_SEQUENCES: u32 = 2;

/// Five questions in the model's chat format.
pub fn prompts() -> Vec<String> {
    [
        "What is the capital of France?",
        "Write a short poem about the sea.",
        "Explain in two sentences how a bicycle stays upright.",
        "List five vegetables, one per line.",
        "What is 17 plus 25? Think step by step.",
    ]
    .iter()
    .map(|question| format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"))
    .collect()
}

/// The model file, or `None` after saying why the test does not run.
pub fn model_file() -> Option<PathBuf> {
    let named = std::env::var_os("SHARDWRIGHT_TEST_MODEL").map(PathBuf::from);
    let file = named.or_else(|| {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        Some(home.join(".cache/shardwright/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    })?;
    if file.is_file() {
        return Some(file);
    }
    println!(
        "SKIPPED: no test model at {}; name one in SHARDWRIGHT_TEST_MODEL",
        file.display()
    );
    None
}

/// The processor with one thread: several threads of one stage wait for each other by spinning, and
/// crawl on a machine that is busy with other tests.
pub fn cpu() -> Device {
    Device::Cpu { threads: 1 }
}

/// The model's pieces in a folder of their own.
pub struct Pieces {
    folder: tempfile::TempDir,
    gguf: Gguf,
}

impl Pieces {
    pub fn write(model: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gguf = Gguf::open(model).unwrap();
        let mut source = File::open(model).unwrap();
        let all = pieces(&gguf).unwrap();
        for piece in all.all() {
            let path = folder.path().join(piece.file_name());
            write_piece(&mut source, &all, piece, &path).unwrap();
        }
        drop(all);
        Self { folder, gguf }
    }

    /// Loads layers `first..end`, and the embedding's place where they are the first.
    pub fn load(
        &self,
        runtime: &Runtime,
        layers: (u32, u32),
        device: &Device,
        sequences: u32,
    ) -> (Stage, Option<PathBuf>) {
        self.load_with(runtime, layers, device, sequences, 0)
    }

    /// The files of layers `first..end`.
    pub fn slice_files(&self, layers: (u32, u32)) -> Vec<PathBuf> {
        let files = prepare_slice(self.folder.path(), &self.gguf, layers.0, layers.1).unwrap();
        files.splits()
    }

    /// Where the embedding of layers `first..end` is, if they are the first.
    pub fn embedding(&self, layers: (u32, u32)) -> Option<PathBuf> {
        let files = prepare_slice(self.folder.path(), &self.gguf, layers.0, layers.1).unwrap();
        files.embedding
    }

    pub fn load_with(
        &self,
        runtime: &Runtime,
        layers: (u32, u32),
        device: &Device,
        sequences: u32,
        kv_cells: u32,
    ) -> (Stage, Option<PathBuf>) {
        let files = prepare_slice(self.folder.path(), &self.gguf, layers.0, layers.1).unwrap();
        let config = StageConfig {
            kv_cells,
            ..stage_config(files.splits(), layers, device, sequences)
        };
        (Stage::load(runtime, &config).unwrap(), files.embedding)
    }

    /// A pipeline on the processor that is cut before each of `cuts`.
    pub fn pipeline(&self, runtime: &Runtime, cuts: &[u32], sequences: u32) -> Pipeline {
        let devices = vec![cpu(); cuts.len() + 1];
        self.pipeline_on(runtime, cuts, &devices, sequences)
    }

    pub fn pipeline_on(&self, runtime: &Runtime, cuts: &[u32], devices: &[Device], sequences: u32) -> Pipeline {
        self.pipeline_with(runtime, cuts, devices, sequences, 0)
    }

    pub fn pipeline_with(
        &self,
        runtime: &Runtime,
        cuts: &[u32],
        devices: &[Device],
        sequences: u32,
        kv_cells: u32,
    ) -> Pipeline {
        let mut first = 0;
        let mut embedding = None;
        let mut stages = Vec::new();
        for (end, device) in cuts.iter().chain([&LAYERS]).zip(devices) {
            let (stage, table) = self.load_with(runtime, (first, *end), device, sequences, kv_cells);
            embedding = embedding.or(table);
            stages.push(stage);
            first = *end;
        }
        let embedding = Embedding::open(&embedding.unwrap()).unwrap();
        Pipeline { embedding, stages }
    }
}

pub fn stage_config(
    slice_files: Vec<PathBuf>,
    layers: (u32, u32),
    device: &Device,
    parallel_sequences: u32,
) -> StageConfig {
    StageConfig {
        slice_files,
        device: device.clone(),
        context_length: CONTEXT_LENGTH,
        parallel_sequences,
        prefix_sequences: PREFIX_SEQUENCES,
        kv_cells: 0,
        kv_type: KvType::F16,
        max_step_rows: STRICT_STEP_ROWS,
        strict: true,
        first: layers.0 == 0,
        last: layers.1 == LAYERS,
        first_layer: layers.0,
        end_layer: layers.1,
    }
}

/// Stages in order, in one process.
pub struct Pipeline {
    pub embedding: Embedding,
    pub stages: Vec<Stage>,
}

impl Pipeline {
    /// One step through all stages.
    pub fn step(&mut self, rows: &[Row], wants: &[bool]) -> Logits {
        let tokens: Vec<i32> = rows.iter().map(|row| row.token).collect();
        let mut output = StepOutput {
            activations: self.embedding.rows(&tokens).unwrap(),
            logits: Logits::default(),
        };
        for stage in &mut self.stages {
            let activations = &output.activations;
            output = stage
                .step(&StepInput {
                    rows,
                    activations,
                    wants,
                })
                .unwrap();
        }
        output.logits
    }

    /// Appends `tokens` to `sequence` in steps of at most `step_rows`; the last position's logits.
    pub fn feed(&mut self, sequence: u32, tokens: &[i32], step_rows: usize) -> Vec<f32> {
        let mut last = Vec::new();
        let first = self.stages[0].sequence_length(sequence);
        let rows: Vec<Row> = (first..)
            .zip(tokens)
            .map(|(position, token)| Row {
                sequence,
                position,
                token: *token,
            })
            .collect();
        for chunk in rows.chunks(step_rows) {
            let mut wants = vec![false; chunk.len()];
            *wants.last_mut().unwrap() = true;
            last = self.step(chunk, &wants).row(0).unwrap().to_vec();
        }
        last
    }

    /// Continues `prompt` on an empty `sequence` by `count` greedy tokens.
    pub fn greedy(&mut self, sequence: u32, prompt: &[i32], count: usize) -> Vec<i32> {
        self.forget(sequence);
        let logits = self.feed(sequence, prompt, STRICT_STEP_ROWS as usize);
        let mut tokens = vec![engine::sample::greedy(&logits)];
        while tokens.len() < count {
            let logits = self.feed(sequence, &tokens[tokens.len() - 1..], 1);
            tokens.push(engine::sample::greedy(&logits));
        }
        tokens
    }

    pub fn copy_prefix(&mut self, from: u32, to: u32, end: usize) {
        for stage in &mut self.stages {
            stage.copy_prefix(from, to, end as u32).unwrap();
        }
    }

    pub fn forget(&mut self, sequence: u32) {
        for stage in &mut self.stages {
            stage.remove(sequence, 0, u32::MAX).unwrap();
        }
    }
}
