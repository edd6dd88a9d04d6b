//! Devices that work as one, each with an equal part of every layer, held against the processor.
//!
//! An executable of its own with its own `main`: the Vulkan devices must be named in the environment before any thread
//! starts, and a test harness starts threads. One renderer is listed three times, so that it is three devices.
//!
//! Asks for a driver by name: Mesa's software renderer uses buffers that are gone where several devices compute (22.3; 25.0 does not).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::time::Instant;

use engine::{
    Device, Embedding, EngineError, Fault, KvType, Row, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StepInput,
    select_device,
};
use gguf::architecture::splitting_tensors;
use gguf::{Gguf, pieces};
use modelgen::{Experts, Recipe};

use support::spread::{Yardstick, show_tokens};
use support::{Pieces, Pipeline, cpu, model_file, stage_config};

/// Layers of the generated models: some architectures are cut at multiples of four.
const LAYERS: u32 = 8;
/// Sequences of each stage.
const SEQUENCES: u32 = 3;
/// How far apart logits of two backends may be, relative to their size, after [`LAYERS`] layers of random weights: the processor
/// multiplies with activations in 8 bits. Rows of wrong parts are further apart than they are long.
const ALIKE: f32 = 0.1;
/// Before the name of the one architecture that is asked for.
const ALONE: &str = "--architecture";
/// The Vulkan loader takes the manifest of the only driver from here.
const DRIVER: &str = "VK_DRIVER_FILES";

fn main() {
    if std::env::var_os(DRIVER).is_none() {
        println!("SKIPPED: {DRIVER} names no driver on which several devices may compute");
        return;
    }
    let index = std::env::var("SHARDWRIGHT_TEST_VULKAN_INDEX").ok();
    let index = index.map_or(0, |index| index.parse().unwrap());
    let group = |members| Device::Group {
        backend: "vulkan".to_owned(),
        indices: vec![index; members],
    };
    let three = group(3);
    select_device(&three).unwrap();
    let runtime = match Runtime::load_for(None, &three) {
        Ok(runtime) => runtime,
        Err(error @ EngineError::BackendUnavailable { .. }) => {
            println!("SKIPPED: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let devices = runtime.devices();
    if devices.iter().filter(|device| device.index == Some(index)).count() < 3 {
        println!("SKIPPED: no Vulkan device {index}; found {devices:?}");
        return;
    }
    let started = Instant::now();
    let passed = |what: &str| println!("{:.0} s: {what}", started.elapsed().as_secs_f64());
    let two = group(2);
    if let Some(name) = std::env::args().skip_while(|arg| arg != ALONE).nth(1) {
        an_architecture_gives_what_the_processor_gives(&runtime, &two, &name);
        return;
    }
    devices_are_told(&runtime, &two, &group(1));
    passed("operators and memory of a group are those of its members");
    what_cannot_be_divided_is_refused_before_it_is_tried(&runtime, &two, &group(4));
    passed("what cannot be divided is refused");
    memory_is_counted_for_each_member(&runtime, &two, index);
    passed("memory is counted for each member");
    slices_give_what_the_processor_gives(&runtime, &two);
    passed("slices give what the processor gives");
    a_whole_model_looks_its_tokens_up_itself(&runtime, &two);
    passed("a whole model looks its tokens up itself");
    prefixes_survive_compaction(&runtime, &two);
    passed("prefixes survive compaction");
    every_architecture_gives_what_the_processor_gives();
    passed("every architecture gives what the processor gives");
    a_real_model_is_within_the_bar(&runtime, &three);
    passed("a real model is within the bar");
}

/// A llama of four key and value heads, which two query heads share each.
fn recipe() -> Recipe {
    let mut recipe = Recipe::new("llama").unwrap();
    recipe.layers = LAYERS;
    (recipe.width, recipe.heads, recipe.kv_heads) = (512, 8, 4);
    recipe.feed_forward = 512;
    recipe.tied = false;
    recipe
}

/// The recipe's model in pieces.
fn written(recipe: &Recipe) -> (Pieces, Gguf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    recipe.write(&file).unwrap();
    (Pieces::write(&file), Gguf::open(&file).unwrap())
}

fn config(pieces: &Pieces, device: &Device, layers: (u32, u32)) -> StageConfig {
    StageConfig {
        last: layers.1 == LAYERS,
        ..stage_config(pieces.slice_files(layers), layers, device, SEQUENCES)
    }
}

/// Two slices on the same device.
fn cut(runtime: &Runtime, pieces: &Pieces, cut: u32, device: &Device, alter: impl Fn(&mut StageConfig)) -> Pipeline {
    let load = |layers| {
        let mut config = config(pieces, device, layers);
        alter(&mut config);
        Stage::load(runtime, &config).unwrap()
    };
    let embedding = pieces.embedding((0, cut)).unwrap();
    Pipeline {
        embedding: Embedding::open(&embedding).unwrap(),
        stages: vec![load((0, cut)), load((cut, LAYERS))],
    }
}

fn rows(sequence: u32, positions: std::ops::Range<u32>) -> Vec<Row> {
    let row = |position: u32| Row {
        sequence,
        position,
        token: ((position * position * 31 + position * 7 + 5) % 256) as i32,
    };
    positions.map(row).collect()
}

/// Distance of two rows, relative to the second one's size.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    let differences = found.iter().zip(expected).map(|(found, expected)| found - expected);
    norm(differences) / norm(expected.iter().copied())
}

fn norm(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|value| value * value).sum::<f32>().sqrt()
}

fn devices_are_told(runtime: &Runtime, two: &Device, one: &Device) {
    let missing = runtime.missing_operators(two).unwrap();
    assert!(
        missing.contains(&"SSM_SCAN_MAMBA1") && !missing.contains(&"SSM_CONV"),
        "{missing:?}"
    );
    let memory = runtime.memory(two).unwrap();
    assert!(
        memory.total_bytes >= memory.free_bytes && memory.total_bytes > 0,
        "{memory:?}"
    );
    let error = runtime.missing_operators(one).unwrap_err();
    assert!(error.to_string().contains("a group of 1 devices"), "{error}");
}

fn what_cannot_be_divided_is_refused_before_it_is_tried(runtime: &Runtime, two: &Device, four: &Device) {
    let refusal = |recipe: &Recipe, device: &Device, host_layers: u32| {
        let (pieces, _) = written(recipe);
        let config = config(&pieces, device, (0, LAYERS));
        Stage::load_beside_host(runtime, &config, host_layers).unwrap_err()
    };
    let says = |error: EngineError, parts: &[&str]| {
        assert_eq!(error.fault(), Fault::Config, "{error}");
        let said = error.to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
    };
    let mut three_heads = recipe();
    (three_heads.width, three_heads.heads, three_heads.kv_heads) = (192, 3, 3);
    says(
        refusal(&three_heads, two, 0),
        &["layer 0: 3 key and value heads", "2 devices", "single ones"],
    );
    let mut narrow = recipe();
    narrow.feed_forward = 224;
    says(refusal(&narrow, two, 0), &["224 columns", "128 of which stay together"]);
    let mut other = Recipe::new("olmo2").unwrap();
    other.layers = LAYERS;
    says(refusal(&other, two, 0), &["`olmo2`", "single devices"]);
    says(refusal(&recipe(), two, 1), &["no layers in host memory"]);
    let error = refusal(&recipe(), four, 0);
    assert!(matches!(error, EngineError::DeviceNotSelected { .. }), "{error}");
}

fn memory_is_counted_for_each_member(runtime: &Runtime, two: &Device, index: u32) {
    let (pieces, _) = written(&recipe());
    let one = Device::Gpu {
        backend: "vulkan".to_owned(),
        index,
    };
    let memory = |device: &Device| {
        let mut stage = Stage::load(runtime, &config(&pieces, device, (2, 6))).unwrap();
        stage.warm_up(std::time::Duration::from_secs(5)).unwrap();
        stage.memory()
    };
    let (alone, divided) = (memory(&one), memory(two));
    println!("one device {alone:?}, two {divided:?}");
    // Parts are equal, but for norms, and for rounding to what a device allocates at least and to what is told.
    let near = |bytes: u64| bytes - bytes / 8..=bytes + bytes / 8 + (1 << 18);
    assert!(near(alone.weights_bytes).contains(&divided.weights_bytes));
    assert!(near(alone.kv_bytes).contains(&divided.kv_bytes));
    assert!(divided.compute_bytes > alone.compute_bytes, "each computes in as much");
}

fn slices_give_what_the_processor_gives(runtime: &Runtime, two: &Device) {
    let (pieces, _) = written(&recipe());
    for kv_type in [KvType::F16, KvType::F32, KvType::Q8_0] {
        let load = |device: &Device| cut(runtime, &pieces, 3, device, |config| config.kv_type = kv_type);
        let (mut expected, mut found) = (load(&cpu()), load(two));
        let mut farthest = 0f32;
        let mut compare = |rows: &[Row], wants: &[bool]| {
            let (expected, found) = (expected.step(rows, wants), found.step(rows, wants));
            assert_eq!(expected.len(), found.len());
            for (found, expected) in found.rows().zip(expected.rows()) {
                farthest = farthest.max(apart(found, expected));
            }
        };
        compare(&rows(0, 0..24), &[true; 24]);
        // No logits, then one row's, then one row: what is planned for one of them must serve the next.
        compare(&rows(1, 0..17), &[false; 17]);
        compare(&rows(1, 17..18), &[true]);
        let mixed = [rows(0, 24..26), rows(1, 18..19), rows(2, 0..9)].concat();
        let last: Vec<bool> = (0..mixed.len()).map(|row| row + 1 == mixed.len()).collect();
        compare(&mixed, &last);
        for position in 26..34 {
            compare(&rows(0, position..position + 1), &[true]);
        }
        println!("{kv_type:?}: logits at most {farthest:.4} apart");
        assert!(farthest < ALIKE, "{kv_type:?}: {farthest}");
    }
}

fn a_whole_model_looks_its_tokens_up_itself(runtime: &Runtime, two: &Device) {
    let (pieces, _) = written(&recipe());
    let load = |device: &Device| Stage::load(runtime, &config(&pieces, device, (0, LAYERS))).unwrap();
    let (mut expected, mut found) = (load(&cpu()), load(two));
    assert!(found.takes_tokens());
    let rows = rows(0, 0..20);
    let input = StepInput {
        rows: &rows,
        activations: &[],
        wants: &[true; 20],
    };
    let (expected, found) = (expected.step(&input).unwrap(), found.step(&input).unwrap());
    for (found, expected) in found.logits.rows().zip(expected.logits.rows()) {
        assert!(apart(found, expected) < ALIKE);
    }
}

/// Cells of a cache in which compaction has to happen again and again.
const FEW_CELLS: u32 = 256;

fn prefixes_survive_compaction(runtime: &Runtime, two: &Device) {
    let (pieces, _) = written(&recipe());
    let load = |kv_cells| cut(runtime, &pieces, 4, two, |config| config.kv_cells = kv_cells);
    let tokens: Vec<i32> = rows(0, 0..150).iter().map(|row| row.token).collect();
    let cold = load(0).feed(0, &tokens, STRICT_STEP_ROWS as usize);
    let mut pipeline = load(FEW_CELLS);
    let prefix = SEQUENCES;
    pipeline.feed(0, &tokens[..100], 50);
    pipeline.copy_prefix(0, prefix, 100);
    pipeline.forget(0);
    for round in 0..4u32 {
        let (sequence, filler) = (round % 2, 2);
        pipeline.copy_prefix(prefix, sequence, 100);
        // Rows that go again push the cells of those that stay ever further back.
        pipeline.feed(filler, &tokens[..40], 40);
        pipeline.feed(sequence, &tokens[100..130], 30);
        pipeline.forget(filler);
        // A draft that is taken back.
        pipeline.feed(sequence, &tokens[..5], 5);
        for stage in &mut pipeline.stages {
            stage.remove(sequence, 130, u32::MAX).unwrap();
        }
        let logits = pipeline.feed(sequence, &tokens[130..], 20);
        let distance = apart(&logits, &cold);
        assert!(distance < ALIKE, "{distance} apart in round {round}");
        for stage in &pipeline.stages {
            assert_eq!(stage.kv_cells_free(), FEW_CELLS - 150, "round {round}");
        }
        pipeline.forget(sequence);
    }
}

/// Positions at which architectures are compared.
const POSITIONS: u32 = 32;

/// Each in a process of its own: llama.cpp ends the process of a model that it cannot divide after all.
fn every_architecture_gives_what_the_processor_gives() {
    let differs = |name: &&str| {
        let itself = std::env::current_exe().unwrap();
        let ended = Command::new(itself).args([ALONE, name]).status().unwrap();
        !ended.success()
    };
    let wrong: Vec<&str> = splitting_tensors().filter(differs).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn an_architecture_gives_what_the_processor_gives(runtime: &Runtime, two: &Device, name: &str) {
    let mut recipe = Recipe::new(name).unwrap();
    recipe.layers = LAYERS;
    (recipe.width, recipe.feed_forward) = (256, 256);
    recipe.experts = recipe.experts.map(|experts| Experts {
        feed_forward: 256,
        ..experts
    });
    let (parts, gguf) = written(&recipe);
    let cuts = pieces(&gguf).unwrap().allowed_cuts();
    let place = cuts[cuts.len() / 2];
    let logits = |device: &Device| {
        let mut pipeline = cut(runtime, &parts, place, device, |_| {});
        let wants = [true; POSITIONS as usize / 2];
        let halves = [0..POSITIONS / 2, POSITIONS / 2..POSITIONS].map(|half| rows(0, half));
        halves.map(|rows| pipeline.step(&rows, &wants))
    };
    let (expected, found) = (logits(&cpu()), logits(two));
    let pairs = expected.iter().zip(&found).flat_map(|(a, b)| a.rows().zip(b.rows()));
    let mut distances: Vec<f32> = pairs.map(|(expected, found)| apart(found, expected)).collect();
    distances.sort_by(f32::total_cmp);
    // Where a row goes to other experts for the last bits of a choice, it is far away; most are not.
    let middle = distances[distances.len() / 2];
    println!("{name}, cut at {place}: logits {middle:.4} apart");
    assert!(middle < ALIKE, "{name}: {distances:?}");
}

/// Layers `first..end` that the group holds: renderers in software are slow.
const GROUP_LAYERS: (u32, u32) = (14, 16);

fn a_real_model_is_within_the_bar(runtime: &Runtime, three: &Device) {
    let Some(model) = model_file() else { return };
    let sizes = gguf::group::sizes(&Gguf::open(&model).unwrap());
    if !sizes.contains(&3) {
        println!("SKIPPED: the model divides among {sizes:?} devices, not among three");
        return;
    }
    let yardstick = Yardstick::take(runtime, &model);
    let devices = [cpu(), three.clone(), cpu()];
    let cuts = [GROUP_LAYERS.0, GROUP_LAYERS.1];
    let mut pipeline = Pieces::write(&model).pipeline_on(runtime, &cuts, &devices, 1);
    yardstick.hold_against("processor and three devices as one", &mut pipeline);
    show_tokens(runtime, &model, &mut pipeline);
}
