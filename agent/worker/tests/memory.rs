//! A worker proves its memory budget before it serves, gives up what it may until it fits, and tells when memory runs short.
//! Prints SKIPPED where there is no model.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::path::Path;

use rig::process::{WorkerProcess, cut, model};
use rig::realm::Realm;
use worker::config::{Backend, PressureConfig, WorkerConfig};
use worker::control::{Phase, Status};

const MIB: u64 = 1 << 20;
/// 30 layers keep 3 heads of 64 keys and values: 180 MiB for so many positions in 16 bits and the one that steps of few rows
/// need beyond them.
const CELLS: u32 = 8191;
const CACHE_BYTES: u64 = 180 * MIB;

/// The whole model in one worker with that budget.
fn config(realm: &mut Realm, model: &Path, budget_bytes: u64) -> WorkerConfig {
    realm.runtime.kv_cells = CELLS;
    WorkerConfig {
        memory_budget_bytes: budget_bytes,
        ..cut(realm, model).swap_remove(0)
    }
}

/// What the worker says once it is past loading.
async fn loaded(worker: &WorkerProcess) -> Status {
    rig::wait_for("the worker serves or fails", || async {
        let status = worker.agent.status().await?;
        (status.phase != Phase::Loading).then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_beyond_its_budget_is_refused_with_the_numbers_unless_its_cache_may_be_quantised() {
    let Some(model) = model() else { return };
    let mut realm = Realm::new(&[30]);
    let config = config(&mut realm, &model, 250 * MIB);
    let mut worker = WorkerProcess::spawn(&realm, &config).await;
    let status = loaded(&worker).await;
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.reason.as_deref(), Some("InsufficientMemory"));
    let memory = status.memory.expect("what it took, for the next placement");
    assert_eq!(memory.kv_bytes, CACHE_BYTES, "{memory:?}");
    assert!(memory.weights_bytes + memory.kv_bytes + memory.compute_bytes > 250 * MIB);
    let message = status.message.unwrap();
    for part in ["180.0 MiB of KV", "the budget of 250.0 MiB", "kvCacheTokens"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(worker.exited().await.code(), Some(71));

    let allowed = PressureConfig {
        allow_kv_quantisation: true,
        ..PressureConfig::default()
    };
    let config = WorkerConfig {
        pressure: allowed,
        ..config
    };
    let worker = WorkerProcess::spawn(&realm, &config).await;
    let status = loaded(&worker).await;
    assert_eq!(status.phase, Phase::Serving, "{status:?}");
    assert_eq!(status.pressure.as_deref(), Some("KvQuantised"));
    let memory = status.memory.unwrap();
    // Blocks of 32 values take 34 bytes.
    assert_eq!(
        memory.kv_bytes.div_ceil(MIB),
        (CACHE_BYTES / 64 * 34).div_ceil(MIB),
        "{memory:?}"
    );
    assert!(memory.weights_bytes + memory.kv_bytes + memory.compute_bytes <= 250 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_and_how_short_memory_gets_are_told_to_the_agent() {
    let Some(model) = model() else { return };
    let mut realm = Realm::new(&[30]);
    let group = realm.path("group");
    std::fs::create_dir_all(&group).unwrap();
    let write = |name: &str, number: u64| std::fs::write(group.join(name), number.to_string()).unwrap();
    write("memory.max", 1000 * MIB);
    write("memory.current", 400 * MIB);
    let config = WorkerConfig {
        pressure: PressureConfig {
            cgroup_dir: Some(group.clone()),
            ..PressureConfig::default()
        },
        ..config(&mut realm, &model, 400 * MIB)
    };
    let worker = WorkerProcess::spawn(&realm, &config).await;
    let status = loaded(&worker).await;
    assert_eq!((status.phase, status.pressure), (Phase::Serving, None));
    let memory = status.memory.unwrap();
    assert_eq!(memory.kv_bytes, CACHE_BYTES, "{memory:?}");
    assert!((80 * MIB..120 * MIB).contains(&memory.weights_bytes), "{memory:?}");
    assert!(memory.compute_bytes > 0, "{memory:?}");

    for (used, word) in [
        (930, Some("AdmissionStopped")),
        (970, Some("EvictingPrefixes")),
        (890, Some("AdmissionStopped")),
        (500, None),
    ] {
        write("memory.current", used * MIB);
        rig::wait_for("the rung is taken", || async {
            let status = worker.agent.status().await?;
            (status.pressure.as_deref() == word).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_its_device_cannot_hold_leaves_layers_in_host_memory_where_it_may() {
    let Some(model) = model() else { return };
    let realm = Realm::new(&[14, 16, 30]);
    let config = WorkerConfig {
        backend: Backend::Vulkan,
        // Two layers of 2.1 MiB with 1.1 MiB of cache: one fits.
        memory_budget_bytes: 5 * MIB,
        ..cut(&realm, &model).swap_remove(1)
    };
    let mut worker = WorkerProcess::spawn(&realm, &config).await;
    let status = loaded(&worker).await;
    if status.reason.as_deref() == Some("DeviceUnavailable") {
        println!("SKIPPED: no Vulkan device 0");
        return;
    }
    assert_eq!(status.reason.as_deref(), Some("InsufficientMemory"), "{status:?}");
    assert!(status.message.unwrap().contains("allow layers in host memory"));
    assert_eq!(worker.exited().await.code(), Some(71));

    let allowed = PressureConfig {
        allow_host_layers: true,
        ..PressureConfig::default()
    };
    let config = WorkerConfig {
        pressure: allowed,
        ..config
    };
    let worker = WorkerProcess::spawn(&realm, &config).await;
    let status = loaded(&worker).await;
    assert_eq!(status.pressure.as_deref(), Some("LayersOnHost"), "{status:?}");
    let memory = status.memory.unwrap();
    assert!(
        memory.weights_bytes + memory.kv_bytes + memory.compute_bytes <= 5 * MIB,
        "{memory:?}"
    );
}
