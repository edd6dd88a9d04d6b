//! What placement reckons a stage to keep is what llama.cpp allocates for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;

use engine::{Device, KvType, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StageMemory};
use gguf::{Gguf, model_facts, pieces, prepare_slice, write_piece};
use modelgen::Recipe;
use placement::{Figures, KvElement, Model, estimate};

/// Some of each kind of layer.
const LAYERS: u32 = 6;
const CONTEXT_LENGTH: u32 = 512;
/// So many that states stand out.
const SEQUENCES: u32 = 30;

/// llama.cpp tells of a buffer to the hundredth of a MiB; keys and values are in one, and states in another.
const TOLD_BYTES: u64 = 2 * (1 << 20) / 100;

fn recipe(architecture: &str) -> Recipe {
    let mut recipe = Recipe::new(architecture).unwrap();
    recipe.layers = LAYERS;
    recipe.width = 256;
    recipe
}

/// As the operator makes them of an agent's facts.
fn figures(model: &Path, kv_element: KvElement) -> Figures {
    let facts = model_facts(&Gguf::open(model).unwrap()).unwrap();
    Figures {
        name: facts.architecture,
        layer_weight_bytes: facts.layer_bytes,
        layer_active_bytes: facts.layer_active_bytes,
        embedding_bytes: facts.embedding_bytes,
        output_bytes: facts.output_bytes,
        embedding_length: facts.embedding_length.into(),
        vocabulary_size: facts.vocabulary_size.into(),
        kv_elements_per_token_per_layer: facts.kv_elements_per_token_per_layer.into(),
        layer_kv_elements: facts.layer_kv_elements.iter().copied().map(u64::from).collect(),
        layer_state_bytes: facts.layer_state_bytes,
        kv_element,
        context_length: CONTEXT_LENGTH.into(),
        parallel_sequences: SEQUENCES.into(),
        kv_cells: 0,
        max_step_rows: STRICT_STEP_ROWS.into(),
        allowed_cuts: facts.allowed_cuts,
    }
}

/// What a stage of the whole model takes.
fn allocated(model: &Path, folder: &Path, kv_type: KvType) -> StageMemory {
    let gguf = Gguf::open(model).unwrap();
    let mut source = File::open(model).unwrap();
    let all = pieces(&gguf).unwrap();
    for piece in all.all() {
        write_piece(&mut source, &all, piece, &folder.join(piece.file_name())).unwrap();
    }
    let device = Device::Cpu { threads: 1 };
    let config = StageConfig {
        slice_files: prepare_slice(folder, &gguf, 0, LAYERS).unwrap().splits(),
        device: device.clone(),
        context_length: CONTEXT_LENGTH,
        parallel_sequences: SEQUENCES,
        prefix_sequences: 4,
        kv_cells: 0,
        kv_type,
        max_step_rows: STRICT_STEP_ROWS,
        strict: true,
        first: true,
        last: true,
        first_layer: 0,
        end_layer: LAYERS,
    };
    let runtime = Runtime::load_for(None, &device).unwrap();
    Stage::load(&runtime, &config).unwrap().memory()
}

fn kept_bytes(model: &Model) -> u64 {
    model.layers.iter().map(|layer| layer.kv_bytes).sum()
}

#[test]
fn keys_values_and_states_are_reckoned_as_llama_cpp_allocates_them() {
    for architecture in [
        "llama",
        "mamba",
        "mamba2",
        "jamba",
        "falcon-h1",
        "granitehybrid",
        "nemotron_h",
        "lfm2",
        "qwen3next",
        "qwen35",
    ] {
        for (kv_type, kv_element) in [(KvType::F16, KvElement::F16), (KvType::Q8_0, KvElement::Q8_0)] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("model.gguf");
            recipe(architecture).write(&file).unwrap();
            let figures = figures(&file, kv_element);
            let model = estimate(&figures).unwrap();
            let memory = allocated(&file, folder.path(), kv_type);
            let kept = kept_bytes(&model);
            println!("{architecture} {kv_type:?}: reckoned {kept}, {memory:?}");
            assert!(
                kept.abs_diff(memory.kv_bytes) <= TOLD_BYTES,
                "{architecture} {kv_type:?}: reckoned {kept}, {memory:?}"
            );
            let states: u64 = figures.layer_state_bytes.iter().sum();
            assert!(
                architecture == "llama" || u64::from(SEQUENCES) * states > 4 * TOLD_BYTES,
                "{architecture}: states of {states} bytes show nothing"
            );
        }
    }
}

#[test]
fn a_stage_takes_no_more_than_is_reckoned_of_weights_cache_and_working_memory() {
    for architecture in ["jamba", "falcon-h1", "granitehybrid", "lfm2", "qwen35"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        recipe(architecture).write(&file).unwrap();
        let model = estimate(&figures(&file, KvElement::F16)).unwrap();
        let weights: u64 = model.layers.iter().map(|layer| layer.weight_bytes).sum();
        let reckoned = weights
            + model.embedding_bytes
            + model.output_bytes
            + kept_bytes(&model)
            + model.compute_buffer_bytes
            + model.output_buffer_bytes;
        let memory = allocated(&file, folder.path(), KvType::F16);
        println!("{architecture}: reckoned {reckoned}, {memory:?}");
        assert!(
            memory.device_bytes() <= reckoned + TOLD_BYTES,
            "{architecture}: {reckoned}, {memory:?}"
        );
    }
}
