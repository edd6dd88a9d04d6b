//! A model that keeps a state instead of keys and values: it runs whole, keeps no prefixes, and begins a sequence anew where
//! others would cut it back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;

use engine::reference::{WholeConfig, WholeModel};
use engine::sample::greedy;
use engine::{Device, EngineError, KvType, Row, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StepInput};
use gguf::{Gguf, SlicePlan, pieces, prepare_slice, write_piece};
use modelgen::Recipe;

const LAYERS: u32 = 4;

const CONTEXT_LENGTH: u32 = 256;

/// Greedy tokens compared.
const ANSWER_TOKENS: usize = 40;

fn cpu(threads: u32) -> Device {
    Device::Cpu { threads }
}

fn recipe() -> Recipe {
    let mut recipe = Recipe::new("mamba").unwrap();
    recipe.layers = LAYERS;
    recipe
}

/// The model of a recipe in `folder`, whole and as a stage.
struct Model {
    folder: tempfile::TempDir,
    runtime: Runtime,
}

impl Model {
    fn write() -> Self {
        let folder = tempfile::tempdir().unwrap();
        recipe().write(&folder.path().join("model.gguf")).unwrap();
        let runtime = Runtime::load_for(None, &cpu(1)).unwrap();
        Self { folder, runtime }
    }

    fn whole(&self) -> WholeModel {
        let config = WholeConfig::like_a_stage(cpu(1), CONTEXT_LENGTH);
        WholeModel::load(&self.runtime, &self.folder.path().join("model.gguf"), &config).unwrap()
    }

    fn stage(&self, threads: u32) -> Stage {
        let folder = self.folder.path();
        let files = slice(&folder.join("model.gguf"), folder);
        assert_eq!(files.embedding, None, "it looks its tokens up itself");
        let config = StageConfig {
            slice_files: files.splits(),
            device: cpu(threads),
            context_length: CONTEXT_LENGTH,
            parallel_sequences: 3,
            prefix_sequences: 2,
            kv_cells: 0,
            kv_type: KvType::F16,
            max_step_rows: STRICT_STEP_ROWS,
            strict: true,
            first: true,
            last: true,
            first_layer: 0,
            end_layer: LAYERS,
        };
        Stage::load(&self.runtime, &config).unwrap()
    }
}

fn slice(model: &Path, folder: &Path) -> gguf::SliceFiles {
    let gguf = Gguf::open(model).unwrap();
    let mut source = File::open(model).unwrap();
    let all = pieces(&gguf).unwrap();
    for piece in all.all() {
        write_piece(&mut source, &all, piece, &folder.join(piece.file_name())).unwrap();
    }
    prepare_slice(folder, &gguf, 0, LAYERS).unwrap()
}

/// A prompt like no other.
fn prompt(nth: u32, length: u32) -> Vec<i32> {
    (0..length)
        .map(|place| ((place * place * 31 + place * (7 + nth) + 5 + nth) % recipe().vocabulary) as i32)
        .collect()
}

fn rows(sequence: u32, first: u32, tokens: &[i32]) -> Vec<Row> {
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
fn step(stage: &mut Stage, rows: &[Row]) -> Result<Vec<Vec<f32>>, EngineError> {
    let input = StepInput {
        rows,
        activations: &[],
        wants: &vec![true; rows.len()],
    };
    let output = stage.step(&input)?;
    Ok(output.logits.rows().map(<[f32]>::to_vec).collect())
}

#[test]
fn a_recurrent_model_as_a_stage_gives_the_tokens_of_llama_cpps_own_loop_over_its_file() {
    let model = Model::write();
    let (mut whole, mut stage) = (model.whole(), model.stage(1));
    assert!(stage.takes_tokens());
    for nth in 0..3 {
        let prompt = prompt(nth, 30 + 50 * nth);
        let expected = whole.greedy(&prompt, ANSWER_TOKENS).unwrap().tokens;
        let mut tokens: Vec<i32> = Vec::new();
        let mut due = prompt.clone();
        while tokens.len() < ANSWER_TOKENS {
            let length = stage.sequence_length(nth);
            let mut last = Vec::new();
            for chunk in rows(nth, length, &due).chunks(STRICT_STEP_ROWS as usize) {
                last = step(&mut stage, chunk).unwrap().pop().unwrap();
            }
            due = vec![greedy(&last)];
            tokens.extend(&due);
        }
        assert_eq!(tokens, expected);
        tokens.dedup();
        assert!(tokens.len() > 3, "an answer of {tokens:?} shows little");
    }
}

#[test]
fn a_cut_through_a_recurrent_model_is_refused_by_the_architectures_name() {
    let model = Model::write();
    let gguf = Gguf::open(&model.folder.path().join("model.gguf")).unwrap();
    let pieces = pieces(&gguf).unwrap();
    for (first, end) in [(0, 2), (2, LAYERS)] {
        let error = SlicePlan::new(&pieces, first, end).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("runs whole") && said.contains("`mamba`"), "{said}");
    }
}

#[test]
fn its_strict_steps_give_the_same_numbers_alone_in_large_steps_and_beside_other_sequences() {
    let model = Model::write();
    let mut stage = model.stage(2);
    let tokens = prompt(0, 70);
    let alone: Vec<_> = (0..)
        .zip(&tokens)
        .map(|(position, token)| step(&mut stage, &rows(0, position, &[*token])).unwrap().remove(0))
        .collect();
    stage.remove(0, 0, u32::MAX).unwrap();

    let mut together = Vec::new();
    for chunk in rows(0, 0, &tokens).chunks(STRICT_STEP_ROWS as usize) {
        together.extend(step(&mut stage, chunk).unwrap());
    }
    assert!(together == alone);
    stage.remove(0, 0, u32::MAX).unwrap();

    // Beside two others, each of as many rows as it likes, one after the other and mixed.
    let mut beside = Vec::new();
    for (nth, chunk) in (0u32..).zip(rows(0, 0, &tokens).chunks(7)) {
        let mut all = chunk.to_vec();
        for sequence in [1, 2] {
            let count = (nth * sequence) % 5;
            let first = stage.sequence_length(sequence);
            all.extend(rows(
                sequence,
                first,
                &prompt(sequence, first + count)[first as usize..],
            ));
        }
        if nth % 2 == 1 {
            // Each sequence's own stay in order.
            all.sort_by_key(|row| row.position);
        }
        let logits = step(&mut stage, &all).unwrap();
        let own = all.iter().zip(logits).filter(|(row, _)| row.sequence == 0);
        beside.extend(own.map(|(_, logits)| logits));
    }
    assert!(beside == alone);
}

#[test]
fn a_failed_step_empties_its_sequences_and_leaves_the_state_of_others_alone() {
    let model = Model::write();
    let mut stage = model.stage(1);
    assert!(!stage.shares_prefixes());
    let error = stage.copy_prefix(0, 3, 1).unwrap_err();
    assert!(
        matches!(error, EngineError::UnknownSequence { limit: 3, .. }),
        "{error}"
    );

    let (one, other) = (prompt(1, 30), prompt(2, 30));
    let expected = step(&mut stage, &rows(0, 0, &one)).unwrap();
    let others = step(&mut stage, &rows(1, 0, &other)).unwrap();
    for sequence in [0, 1] {
        stage.remove(sequence, 0, u32::MAX).unwrap();
    }

    step(&mut stage, &rows(0, 0, &one[..20])).unwrap();
    step(&mut stage, &rows(1, 0, &other[..20])).unwrap();
    let mut bad = rows(0, 20, &one[20..]);
    bad.last_mut().unwrap().token = i32::MAX;
    let error = step(&mut stage, &bad).unwrap_err();
    assert!(error.to_string().contains("are empty now"), "{error}");
    assert_eq!((stage.sequence_length(0), stage.sequence_length(1)), (0, 20));

    assert!(step(&mut stage, &rows(1, 20, &other[20..])).unwrap() == others[20..]);
    assert!(step(&mut stage, &rows(0, 0, &one)).unwrap() == expected);
    let error = stage.copy_prefix(0, 2, 1).unwrap_err();
    assert!(matches!(error, EngineError::PrefixRefused { .. }), "{error}");
}
