//! A model of random weights, whole and as a stage.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use engine::reference::{WholeConfig, WholeModel};
use engine::sample::greedy;
use engine::{Device, EngineError, KvType, Row, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StepInput};
use gguf::architecture::refuses_strict_steps;
use gguf::{Gguf, pieces, prepare_slice, write_piece};
use modelgen::Recipe;

/// Sequences of a stage.
pub const SEQUENCES: u32 = 3;

/// A processor of so many threads.
pub fn threads(threads: u32) -> Device {
    Device::Cpu { threads }
}

/// The model of a recipe in a folder of its own.
pub struct Generated {
    pub folder: tempfile::TempDir,
    pub recipe: Recipe,
    runtime: Runtime,
}

impl Generated {
    pub fn write(recipe: Recipe) -> Self {
        let folder = tempfile::tempdir().unwrap();
        recipe.write(&folder.path().join("model.gguf")).unwrap();
        let runtime = Runtime::load_for(None, &threads(1)).unwrap();
        Self {
            folder,
            recipe,
            runtime,
        }
    }

    /// llama.cpp's own loop over the file.
    pub fn whole(&self, context_length: u32) -> WholeModel {
        let config = WholeConfig::like_a_stage(threads(1), context_length);
        WholeModel::load(&self.runtime, &self.folder.path().join("model.gguf"), &config).unwrap()
    }

    /// A stage of all layers, with strict steps where they are promised.
    pub fn stage(&self, count: u32, context_length: u32) -> Stage {
        self.load(&self.config(count, context_length)).unwrap()
    }

    pub fn load(&self, config: &StageConfig) -> Result<Stage, EngineError> {
        Stage::load(&self.runtime, config)
    }

    pub fn config(&self, count: u32, context_length: u32) -> StageConfig {
        let folder = self.folder.path();
        let files = slice(&folder.join("model.gguf"), folder, self.recipe.layers);
        assert_eq!(files.embedding, None, "it looks its tokens up itself");
        StageConfig {
            slice_files: files.splits(),
            device: threads(count),
            context_length,
            parallel_sequences: SEQUENCES,
            prefix_sequences: 2,
            kv_cells: 0,
            kv_type: KvType::F16,
            max_step_rows: STRICT_STEP_ROWS,
            strict: !refuses_strict_steps(self.recipe.architecture()),
            first: true,
            last: true,
            first_layer: 0,
            end_layer: self.recipe.layers,
        }
    }

    /// A prompt like no other.
    pub fn prompt(&self, nth: u32, length: u32) -> Vec<i32> {
        (0..length)
            .map(|place| ((place * place * 31 + place * (7 + nth) + 5 + nth) % self.recipe.vocabulary) as i32)
            .collect()
    }

    /// Three prompts and the answers to them, which must be those of llama.cpp's own loop.
    pub fn answers_as_llama_cpp_does(&self, tokens: usize) {
        let (mut whole, mut stage) = (self.whole(256), self.stage(1, 256));
        assert!(stage.takes_tokens());
        let name = self.recipe.architecture();
        let mut said = BTreeSet::new();
        for nth in 0..SEQUENCES {
            let prompt = self.prompt(nth, 30 + 50 * nth);
            let expected = whole.greedy(&prompt, tokens).unwrap().tokens;
            let mut answer: Vec<i32> = Vec::new();
            let mut due = prompt.clone();
            while answer.len() < tokens {
                let last = feed(&mut stage, nth, &due).pop().unwrap();
                due = vec![greedy(&last)];
                answer.extend(&due);
            }
            assert_eq!(answer, expected, "{name}");
            said.extend(answer);
        }
        assert!(said.len() > 3, "{name}: answers of {said:?} show little");
    }
}

fn slice(model: &Path, folder: &Path, layers: u32) -> gguf::SliceFiles {
    let gguf = Gguf::open(model).unwrap();
    let mut source = File::open(model).unwrap();
    let all = pieces(&gguf).unwrap();
    for piece in all.all() {
        write_piece(&mut source, &all, piece, &folder.join(piece.file_name())).unwrap();
    }
    prepare_slice(folder, &gguf, 0, layers).unwrap()
}

pub fn rows(sequence: u32, first: u32, tokens: &[i32]) -> Vec<Row> {
    (first..)
        .zip(tokens)
        .map(|(position, token)| Row {
            sequence,
            position,
            token: *token,
        })
        .collect()
}

/// The logits of all rows.
pub fn step(stage: &mut Stage, rows: &[Row]) -> Result<Vec<Vec<f32>>, EngineError> {
    let input = StepInput {
        rows,
        activations: &[],
        wants: &vec![true; rows.len()],
    };
    let output = stage.step(&input)?;
    Ok(output.logits.rows().map(<[f32]>::to_vec).collect())
}

/// The logits of these tokens at the end of a sequence, in the largest steps that there are.
pub fn feed(stage: &mut Stage, sequence: u32, tokens: &[i32]) -> Vec<Vec<f32>> {
    let rows = rows(sequence, stage.sequence_length(sequence), tokens);
    let steps = rows.chunks(STRICT_STEP_ROWS as usize);
    steps.flat_map(|chunk| step(stage, chunk).unwrap()).collect()
}

/// The logits of these tokens at the end of a sequence, each in a step of its own.
pub fn feed_alone(stage: &mut Stage, sequence: u32, tokens: &[i32]) -> Vec<Vec<f32>> {
    let rows = rows(sequence, stage.sequence_length(sequence), tokens);
    rows.chunks(1).flat_map(|row| step(stage, row).unwrap()).collect()
}
