//! A worker whose device is several that work as one: one software renderer, listed twice. Prints SKIPPED where there is none.
//!
//! Asks for a driver by name: Mesa's software renderer uses buffers that are gone where several devices compute (22.3; 25.0 does not).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::time::Duration;

use modelgen::Recipe;
use rig::gateway::request;
use rig::process::{WorkerProcess, gateway, llama};
use rig::realm::Realm;
use worker::config::{Backend, PressureConfig, WorkerConfig};
use worker::control::{Phase, Request, Status};

const MIB: u64 = 1 << 20;
const ANSWER_TOKENS: u32 = 10;
/// A renderer compiles its kernels when they are first used.
const COMPILED_WITHIN: Duration = Duration::from_secs(180);
/// The Vulkan loader takes the manifest of the only driver from here.
const DRIVER: &str = "VK_DRIVER_FILES";

/// Whether a driver is named on which several devices may compute.
fn may_compute() -> bool {
    let is_named = std::env::var_os(DRIVER).is_some();
    if !is_named {
        println!("SKIPPED: {DRIVER} names no driver on which several devices may compute");
    }
    is_named
}

/// On the first Vulkan device, twice.
fn divided(config: WorkerConfig) -> WorkerConfig {
    WorkerConfig {
        backend: Backend::Vulkan,
        device_index: 0,
        group_indices: vec![0],
        memory_budget_bytes: 256 * MIB,
        // Steps of other rows have other sums.
        speculate: false,
        ..config
    }
}

/// A shape of which each of two devices gets a half.
fn shape(recipe: &mut Recipe) {
    (recipe.width, recipe.heads, recipe.kv_heads) = (256, 4, 4);
    recipe.feed_forward = 256;
}

/// What the worker says once it is past loading; `None` without such a device.
async fn loaded(worker: &WorkerProcess) -> Option<Status> {
    let status = rig::wait_within(COMPILED_WITHIN, "the worker serves or fails", || async {
        let status = worker.agent.status().await?;
        (status.phase != Phase::Loading).then_some(status)
    })
    .await;
    if status.reason.as_deref() == Some("DeviceUnavailable") {
        println!("SKIPPED: no Vulkan device 0");
        return None;
    }
    Some(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_on_several_devices_serves_streams_beside_one_on_the_processor() {
    if !may_compute() {
        return;
    }
    let realm = Realm::new(&[2, 4]);
    let mut configs = llama(&realm, shape);
    let tail = configs.remove(1);
    let head = WorkerProcess::spawn(&realm, &divided(configs.remove(0))).await;
    let Some(status) = loaded(&head).await else { return };
    assert_eq!(status.phase, Phase::Serving, "{status:?}");
    let memory = status.memory.unwrap();
    let taken = memory.weights_bytes + memory.kv_bytes + memory.compute_bytes;
    assert!(
        memory.weights_bytes > 0 && memory.kv_bytes > 0 && taken <= 256 * MIB,
        "{memory:?}"
    );

    let tail = WorkerProcess::spawn(&realm, &tail).await;
    let mut workers = [head, tail];
    let gateway = gateway(&realm, &workers).await;
    let prompt: Vec<i32> = (60..85).collect();
    let first = gateway.generate(request(1, &prompt, ANSWER_TOKENS)).await.unwrap();
    assert_eq!(first.tokens.len(), ANSWER_TOKENS as usize);
    let again = gateway.generate(request(1, &prompt, ANSWER_TOKENS)).await.unwrap();
    assert_eq!(again.tokens, first.tokens, "alone, a stream says the same again");
    let (one, other) = tokio::join!(
        gateway.generate(request(1, &prompt[..9], ANSWER_TOKENS)),
        gateway.generate(request(1, &prompt[9..], ANSWER_TOKENS)),
    );
    assert_eq!((one.unwrap().tokens.len(), other.unwrap().tokens.len()), (10, 10));
    for worker in &mut workers {
        worker.agent.idle().await;
        worker.agent.request(&Request::Drain).await.unwrap();
        assert_eq!(worker.exited().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_divide_is_refused_with_what_does_not_and_what_to_use_instead() {
    let realm = Realm::new(&[4]);
    let configs = llama(&realm, |recipe| {
        shape(recipe);
        (recipe.width, recipe.heads, recipe.kv_heads) = (192, 3, 3);
    });
    let mut worker = WorkerProcess::spawn(&realm, &divided(configs[0].clone())).await;
    let Some(status) = loaded(&worker).await else { return };
    assert_eq!(status.reason.as_deref(), Some("LoadRefused"), "{status:?}");
    let message = status.message.unwrap();
    for part in ["layer 0: 3 key and value heads", "among 2 devices", "single ones"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(worker.exited().await.code(), Some(65));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_beyond_the_members_parts_of_the_budget_is_refused_and_leaves_no_layers_in_host_memory() {
    let realm = Realm::new(&[4]);
    let config = WorkerConfig {
        memory_budget_bytes: MIB,
        pressure: PressureConfig {
            allow_host_layers: true,
            ..PressureConfig::default()
        },
        ..divided(llama(&realm, shape).remove(0))
    };
    let mut worker = WorkerProcess::spawn(&realm, &config).await;
    let Some(status) = loaded(&worker).await else { return };
    assert_eq!(status.reason.as_deref(), Some("InsufficientMemory"), "{status:?}");
    assert!(status.message.unwrap().contains("more than the budget of 1.0 MiB"));
    assert_eq!(worker.exited().await.code(), Some(71));
}

#[test]
fn a_group_is_measured_as_one_device_is() {
    if !may_compute() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = WorkerProcess::command()
        .args([
            "--measure",
            "vulkan",
            "--device-index",
            "0",
            "--group-index",
            "0",
            "--folder",
        ])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(69) && (said.contains("backend vulkan") || said.contains("is not there")) {
        println!("SKIPPED: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for figure in ["samples", "layer_ns"] {
        assert!(answer[figure].as_u64().unwrap() > 0, "{figure} in {answer}");
    }
    assert!(!answer["reading"].as_array().unwrap().is_empty(), "{answer}");
    assert!(answer["missing_operators"].as_array().is_some(), "{answer}");
}
