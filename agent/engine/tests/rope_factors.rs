//! Models with two sets of rotary factors take the one for the context that a sequence can have, whatever the whole cache has.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;

use engine::{Device, Embedding, KvType, Row, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StepInput};
use gguf::{Gguf, SliceFiles, Value, pieces, prepare_slice, write_piece};
use modelgen::{Feature, Recipe};

const LAYERS: u32 = 4;
/// The context that the model was first trained for.
const ORIGINAL: u32 = 512;
const TOKENS: u32 = 20;

fn slice(folder: &Path) -> SliceFiles {
    let mut recipe = Recipe::new("phi3").unwrap();
    recipe.layers = LAYERS;
    recipe.features.push(Feature::LongRotaryFactors);
    let recipe = recipe
        .with("rope.scaling.original_context_length", Value::U32(ORIGINAL))
        .with("rope.scaling.attn_factor", Value::F32(1.19));
    let file = folder.join("model.gguf");
    recipe.write(&file).unwrap();
    let gguf = Gguf::open(&file).unwrap();
    let all = pieces(&gguf).unwrap();
    let mut source = File::open(&file).unwrap();
    for piece in all.all() {
        write_piece(&mut source, &all, piece, &folder.join(piece.file_name())).unwrap();
    }
    drop(all);
    prepare_slice(folder, &gguf, 0, LAYERS).unwrap()
}

/// The last logits of a prompt in a cache for so many sequences of such a context, perhaps of strict steps.
fn logits(
    runtime: &Runtime,
    files: &SliceFiles,
    context_length: u32,
    parallel_sequences: u32,
    strict: bool,
) -> Vec<f32> {
    let config = StageConfig {
        slice_files: files.splits(),
        device: Device::Cpu { threads: 1 },
        context_length,
        parallel_sequences,
        prefix_sequences: 0,
        kv_cells: 0,
        kv_type: KvType::F16,
        max_step_rows: STRICT_STEP_ROWS,
        strict,
        first: true,
        last: true,
        first_layer: 0,
        end_layer: LAYERS,
    };
    let mut stage = Stage::load(runtime, &config).unwrap();
    let embedding = Embedding::open(files.embedding.as_ref().unwrap()).unwrap();
    let tokens: Vec<i32> = (0..TOKENS).map(|position| (7 * position % 50) as i32).collect();
    let rows: Vec<Row> = (0..)
        .zip(&tokens)
        .map(|(position, token)| Row {
            sequence: 0,
            position,
            token: *token,
        })
        .collect();
    let wants: Vec<bool> = (1..=TOKENS).map(|row| row == TOKENS).collect();
    let input = StepInput {
        rows: &rows,
        activations: &embedding.rows(&tokens).unwrap(),
        wants: &wants,
    };
    stage.step(&input).unwrap().logits.rows().next().unwrap().to_vec()
}

#[test]
fn the_factors_are_chosen_by_what_one_sequence_can_hold_and_not_by_the_cache_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let files = slice(folder.path());
    let runtime = Runtime::load_for(None, &Device::Cpu { threads: 1 }).unwrap();
    let alone = logits(&runtime, &files, ORIGINAL, 1, false);
    assert!(logits(&runtime, &files, ORIGINAL, 4, false) == alone);
    // Its cache is larger than the context.
    assert!(logits(&runtime, &files, ORIGINAL, 1, true) == alone);
    assert!(logits(&runtime, &files, 2 * ORIGINAL, 1, false) != alone);
}
