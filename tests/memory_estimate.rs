//! What placement reckons a stage to keep is what llama.cpp allocates for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;

use engine::{Device, KvType, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StageMemory};
use gguf::architecture::{kept_states, refuses_strict_steps, stateful};
use gguf::{Gguf, model_facts, pieces, prepare_slice, write_piece};
use modelgen::{Feature, Recipe};
use placement::{Figures, KvElement, Model, estimate};
use tempfile::TempDir;

/// Some of each kind of layer.
const LAYERS: u32 = 6;
const CONTEXT_LENGTH: u32 = 512;
/// So few that of what a step computes in the states are most.
const SHORT_CONTEXT_LENGTH: u32 = 16;
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
fn figures(model: &Path, kv_element: KvElement, context_length: u32) -> Figures {
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
        context_length: context_length.into(),
        parallel_sequences: SEQUENCES.into(),
        kv_cells: 0,
        max_step_rows: STRICT_STEP_ROWS.into(),
        allowed_cuts: facts.allowed_cuts,
    }
}

/// The model of a recipe in a folder of its own.
struct Made {
    folder: TempDir,
    architecture: &'static str,
}

/// What is reckoned for a model, and what a stage of it takes.
struct Compared {
    figures: Figures,
    model: Model,
    memory: StageMemory,
}

const F16: (KvType, KvElement) = (KvType::F16, KvElement::F16);
const F32: (KvType, KvElement) = (KvType::F32, KvElement::F32);
const Q8_0: (KvType, KvElement) = (KvType::Q8_0, KvElement::Q8_0);

impl Made {
    fn of(recipe: &Recipe) -> Self {
        let folder = tempfile::tempdir().unwrap();
        recipe.write(&folder.path().join("model.gguf")).unwrap();
        Self {
            folder,
            architecture: recipe.architecture(),
        }
    }

    fn compare(&self, (kv_type, kv_element): (KvType, KvElement), context_length: u32) -> Compared {
        let figures = figures(&self.folder.path().join("model.gguf"), kv_element, context_length);
        Compared {
            model: estimate(&figures).unwrap(),
            figures,
            memory: self.allocated(kv_type, context_length),
        }
    }

    /// What a stage of the whole model takes.
    fn allocated(&self, kv_type: KvType, context_length: u32) -> StageMemory {
        let (folder, file) = (self.folder.path(), self.folder.path().join("model.gguf"));
        let gguf = Gguf::open(&file).unwrap();
        let mut source = File::open(&file).unwrap();
        let all = pieces(&gguf).unwrap();
        for piece in all.all() {
            write_piece(&mut source, &all, piece, &folder.join(piece.file_name())).unwrap();
        }
        let device = Device::Cpu { threads: 1 };
        let strict = !refuses_strict_steps(self.architecture);
        let config = StageConfig {
            slice_files: prepare_slice(folder, &gguf, 0, LAYERS).unwrap().splits(),
            device: device.clone(),
            context_length,
            parallel_sequences: SEQUENCES,
            prefix_sequences: 4,
            // A stage without strict steps has no cell for the companion of a lone row, which is reckoned with.
            kv_cells: if strict { 0 } else { context_length * SEQUENCES + 1 },
            kv_type,
            max_step_rows: STRICT_STEP_ROWS,
            strict,
            first: true,
            last: true,
            first_layer: 0,
            end_layer: LAYERS,
        };
        let runtime = Runtime::load_for(None, &device).unwrap();
        Stage::load(&runtime, &config).unwrap().memory()
    }

    /// Asserts that what is kept was reckoned to the byte, as far as llama.cpp tells.
    fn keeps_what_is_reckoned(&self, format: (KvType, KvElement)) -> Compared {
        let compared = self.compare(format, CONTEXT_LENGTH);
        let (kept, memory) = (kept_bytes(&compared.model), compared.memory);
        let said = format!("{} {:?}: reckoned {kept}, {memory:?}", self.architecture, format.0);
        println!("{said}");
        assert!(kept.abs_diff(memory.kv_bytes) <= TOLD_BYTES, "{said}");
        compared
    }
}

fn kept_bytes(model: &Model) -> u64 {
    model.layers.iter().map(|layer| layer.kv_bytes).sum()
}

/// Those that keep compressed keys, which are too short here for the blocks of `Q8_0`.
const COMPRESSING: [&str; 2] = ["deepseek2", "kimi-linear"];

#[test]
fn keys_values_and_states_are_reckoned_as_llama_cpp_allocates_them() {
    for architecture in ["llama", "deepseek2"].into_iter().chain(stateful()) {
        let made = Made::of(&recipe(architecture));
        let other = if COMPRESSING.contains(&architecture) { F32 } else { Q8_0 };
        for format in [F16, other] {
            let compared = made.keeps_what_is_reckoned(format);
            let states: u64 = compared.figures.layer_state_bytes.iter().sum();
            assert!(
                kept_states(architecture).is_none() || u64::from(SEQUENCES) * states > 4 * TOLD_BYTES,
                "{architecture}: states of {states} bytes show nothing"
            );
        }
    }
}

#[test]
fn nothing_is_reckoned_for_a_layer_that_only_predicts_further_tokens_and_nothing_allocated() {
    for architecture in ["qwen3next", "qwen35", "qwen35moe"] {
        let mut recipe = recipe(architecture);
        recipe.features.push(Feature::PredictingLayer);
        let compared = Made::of(&recipe).keeps_what_is_reckoned(F16);
        let keeping: Vec<bool> = compared.model.layers.iter().map(|layer| layer.kv_bytes > 0).collect();
        assert_eq!(keeping, [true, true, true, true, true, false], "{architecture}");
    }
}

#[test]
fn a_stage_takes_no_more_than_is_reckoned_of_weights_cache_and_working_memory() {
    for architecture in stateful() {
        let made = Made::of(&recipe(architecture));
        for context_length in [CONTEXT_LENGTH, SHORT_CONTEXT_LENGTH] {
            let Compared { model, memory, .. } = made.compare(F16, context_length);
            let weights: u64 = model.layers.iter().map(|layer| layer.weight_bytes).sum();
            let reckoned = weights
                + model.embedding_bytes
                + model.output_bytes
                + kept_bytes(&model)
                + model.compute_buffer_bytes
                + model.output_buffer_bytes;
            let said = format!("{architecture} of {context_length} positions: reckoned {reckoned}, {memory:?}");
            println!("{said}");
            assert!(memory.device_bytes() <= reckoned + TOLD_BYTES, "{said}");
        }
    }
}
