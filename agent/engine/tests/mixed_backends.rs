//! A pipeline over the processor and a Vulkan device, held against llama.cpp's own spread.
//!
//! An executable of its own with its own `main`: the Vulkan device must be named in the environment
//! before any thread starts, and a test harness starts threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::time::Instant;

use engine::{Device, EngineError, Row, Runtime, Stage, StepInput, select_device};

use support::spread::{Yardstick, show_tokens};
use support::{LAYERS, Pieces, cpu, model_file, stage_config};

/// Layers `first..end` that the Vulkan device holds: the middle stage of three.
const VULKAN_LAYERS: (u32, u32) = (14, 16);

fn main() {
    let index = std::env::var("SHARDWRIGHT_TEST_VULKAN_INDEX").ok();
    let index = index.map_or(0, |index| index.parse().unwrap());
    let vulkan = Device::Gpu {
        backend: "vulkan".to_owned(),
        index,
    };
    select_device(&vulkan).unwrap();
    let Some(model) = model_file() else { return };
    let runtime = match Runtime::load_for(None, &vulkan) {
        Ok(runtime) => runtime,
        Err(error @ EngineError::BackendUnavailable { .. }) => {
            println!("SKIPPED: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let devices = runtime.devices();
    let Some(device) = devices.iter().find(|device| device.index == Some(index)) else {
        println!("SKIPPED: no Vulkan device {index}; found {devices:?}");
        return;
    };
    println!(
        "layers {VULKAN_LAYERS:?} of {LAYERS} on {} ({})",
        device.name, device.description
    );
    assert!(
        runtime
            .memory(&vulkan)
            .is_some_and(|memory| memory.total_bytes >= memory.free_bytes)
    );
    operators(&runtime, &vulkan);
    half_on_the_host(&runtime, &model, &vulkan);

    let yardstick = Yardstick::take(&runtime, &model);
    let started = Instant::now();
    let devices = [cpu(), vulkan, cpu()];
    let cuts = [VULKAN_LAYERS.0, VULKAN_LAYERS.1];
    let mut pipeline = Pieces::write(&model).pipeline_on(&runtime, &cuts, &devices, 1);
    println!("mixed pipeline loaded in {:.1} s", started.elapsed().as_secs_f64());
    yardstick.hold_against("processor and Vulkan", &mut pipeline);
    show_tokens(&runtime, &model, &mut pipeline);
}

/// How far apart two devices may be, relative to the rows' size: the processor multiplies with activations in 8 bits. Rows
/// in another order are as far apart as they are long.
const ALIKE: f32 = 0.05;

/// ggml's shaders have the scan of mamba-2 for published sizes and not that of mamba; the processor has everything.
fn operators(runtime: &Runtime, vulkan: &Device) {
    assert_eq!(runtime.missing_operators(&cpu()).unwrap(), Vec::<&str>::new());
    let missing = runtime.missing_operators(vulkan).unwrap();
    println!("operators without a shader: {missing:?}");
    assert!(missing.contains(&"SSM_SCAN_MAMBA1"));
    assert!(!missing.contains(&"SSM_CONV") && !missing.contains(&"RWKV_WKV7"));
}

/// A slice whose first layer is left in host memory gives the rows of a slice that is wholly on either.
fn half_on_the_host(runtime: &Runtime, model: &Path, vulkan: &Device) {
    let pieces = Pieces::write(model);
    let files = || pieces.slice_files(VULKAN_LAYERS);
    let load = |device: &Device, host_layers| {
        let config = stage_config(files(), VULKAN_LAYERS, device, 2);
        Stage::load_beside_host(runtime, &config, host_layers).unwrap()
    };
    let mut alone = load(&cpu(), 0);
    let mut whole = load(vulkan, 0);
    let mut half = load(vulkan, 1);
    let (on_device, beside) = (whole.memory(), half.memory());
    println!("on the device {on_device:?}, beside the host {beside:?}");
    assert!(beside.weights_bytes < on_device.weights_bytes * 2 / 3);
    assert!(beside.kv_bytes * 2 == on_device.kv_bytes);
    assert!(beside.host_bytes > on_device.host_bytes);

    let width = alone.embedding_length();
    let rows = |step: u32| -> Vec<Row> {
        let row = |(sequence, position)| Row {
            sequence,
            position,
            token: 0,
        };
        [(0, 2 * step), (1, step), (0, 2 * step + 1)].map(row).to_vec()
    };
    for step in 0..3 {
        let activations: Vec<f32> = (0..3 * width)
            .map(|at| ((at * 37 + step * 11) % 101) as f32 / 50.0 - 1.0)
            .collect();
        let rows = rows(step as u32);
        let input = StepInput {
            rows: &rows,
            activations: &activations,
            wants: &[false; 3],
        };
        let expected = alone.step(&input).unwrap().activations;
        let size = norm(expected.iter().copied());
        for (name, stage) in [("on the device", &mut whole), ("beside the host", &mut half)] {
            let found = stage.step(&input).unwrap().activations;
            let apart = norm(found.iter().zip(&expected).map(|(found, expected)| found - expected)) / size;
            assert!(apart < ALIKE, "{name}: {apart} apart in step {step}");
        }
    }
    println!("one of two layers in host memory: the rows agree");
}

fn norm(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|value| value * value).sum::<f32>().sqrt()
}
