//! Stages in order in one process, timed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::sample::greedy;
use engine::{Device, Embedding, KvType, Row, Runtime, Stage, StageConfig, StepInput};
use gguf::{Gguf, pieces, prepare_slice, write_piece};
use serde_json::{Value, json};

use crate::{CONTEXT_LENGTH, MOST_SEQUENCES, Outcome};

/// The model's pieces in a folder.
pub struct Pieces {
    folder: PathBuf,
    gguf: Gguf,
    layers: u32,
}

impl Pieces {
    pub fn write(model: &Path, folder: &Path) -> Outcome<Self> {
        let gguf = Gguf::open(model)?;
        let all = pieces(&gguf)?;
        let layers = all.layer_count();
        let mut source = File::open(model)?;
        for piece in all.all() {
            write_piece(&mut source, &all, piece, &folder.join(piece.file_name()))?;
        }
        drop(all);
        Ok(Self {
            folder: folder.to_path_buf(),
            gguf,
            layers,
        })
    }
}

pub struct Pipeline {
    embedding: Embedding,
    stages: Vec<Stage>,
    step_rows: usize,
    /// Time in what is not a stage, and for how many rows: embedding, choice.
    spent: [(Duration, u32); 2],
}

impl Pipeline {
    pub fn load(runtime: &Runtime, pieces: &Pieces, device: &Device, ends: &[u32], step_rows: u32) -> Outcome<Self> {
        let mut first_layer = 0;
        let mut embedding = None;
        let mut stages = Vec::new();
        for end_layer in ends.iter().copied() {
            let files = prepare_slice(&pieces.folder, &pieces.gguf, first_layer, end_layer)?;
            let config = StageConfig {
                slice_files: files.splits(),
                device: device.clone(),
                context_length: CONTEXT_LENGTH,
                parallel_sequences: MOST_SEQUENCES,
                prefix_sequences: 0,
                kv_cells: 0,
                kv_type: KvType::F16,
                max_step_rows: step_rows,
                strict: false,
                first: first_layer == 0,
                last: end_layer == pieces.layers,
                first_layer,
                end_layer,
            };
            stages.push(Stage::load(runtime, &config)?);
            embedding = embedding.or(files.embedding);
            first_layer = end_layer;
        }
        Ok(Self {
            embedding: Embedding::open(&embedding.ok_or("the model has no embedding outside")?)?,
            stages,
            step_rows: step_rows as usize,
            spent: [(Duration::ZERO, 0); 2],
        })
    }

    /// Continues each prompt in a sequence of its own by `count` greedy tokens.
    pub fn generate(&mut self, prompts: &[Vec<i32>], count: usize) -> Outcome<()> {
        self.forget()?;
        let mut tokens = Vec::new();
        for (sequence, prompt) in (0u32..).zip(prompts) {
            tokens.push(self.prefill(sequence, prompt)?);
        }
        for _ in 1..count {
            let rows = (0u32..).zip(&tokens).map(|(sequence, token)| Row {
                sequence,
                position: self.stages[0].sequence_length(sequence),
                token: *token,
            });
            tokens = self.step(&rows.collect::<Vec<_>>(), &vec![true; tokens.len()])?;
        }
        Ok(())
    }

    /// Time in what is not a stage, per row.
    pub fn overheads_us(&self) -> Value {
        let [embedding, choice] = self
            .spent
            .map(|(time, rows)| time.as_secs_f64() * 1e6 / f64::from(rows.max(1)));
        json!({"embedding": embedding, "choice": choice})
    }

    fn forget(&mut self) -> Outcome<()> {
        for stage in &mut self.stages {
            for sequence in 0..MOST_SEQUENCES {
                stage.remove(sequence, 0, u32::MAX)?;
            }
        }
        Ok(())
    }

    fn prefill(&mut self, sequence: u32, prompt: &[i32]) -> Outcome<i32> {
        let mut next = Vec::new();
        let mut position = 0;
        for chunk in prompt.chunks(self.step_rows) {
            let row = |(position, token): (u32, &i32)| Row {
                sequence,
                position,
                token: *token,
            };
            let rows: Vec<Row> = (position..).zip(chunk).map(row).collect();
            position += rows.len() as u32;
            let mut wants = vec![false; rows.len()];
            if let Some(last) = wants.last_mut() {
                *last = position as usize == prompt.len();
            }
            next = self.step(&rows, &wants)?;
        }
        Ok(next.pop().ok_or("the prompt is empty")?)
    }

    fn step(&mut self, rows: &[Row], wants: &[bool]) -> Outcome<Vec<i32>> {
        let started = Instant::now();
        let tokens: Vec<i32> = rows.iter().map(|row| row.token).collect();
        let mut activations = self.embedding.rows(&tokens)?;
        note(&mut self.spent[0], started, rows.len());
        let mut chosen = Vec::new();
        for stage in &mut self.stages {
            let output = stage.step(&StepInput {
                rows,
                activations: &activations,
                wants,
            })?;
            let started = Instant::now();
            chosen = output.logits.rows().map(greedy).collect();
            note(&mut self.spent[1], started, chosen.len());
            activations = output.activations;
        }
        Ok(chosen)
    }
}

fn note(spent: &mut (Duration, u32), since: Instant, rows: usize) {
    if rows > 0 {
        spent.0 += since.elapsed();
        spent.1 += rows as u32;
    }
}
