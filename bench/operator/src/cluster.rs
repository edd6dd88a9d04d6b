//! PURE: the cluster that is played: nodes with cards of several makers and sizes, and models that need several cards each.

use std::collections::BTreeMap;

use crds::conditions::{ConditionStatus, NewCondition, device as kind, reason, set_condition};
use crds::{DeviceGPUStateStatus, DeviceKind, HeldShard, Measurement, ReadingRate, StepRates, SupportLevel, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::facts;

/// Namespace of the models.
pub const NAMESPACE: &str = "default";
const GIB: i64 = 1 << 30;
const MIB: i64 = 1 << 20;
/// Nodes of one zone.
const ZONES: usize = 10;
/// What the agent finds usable beside what a card keeps for itself.
const USABLE_PERCENT: i64 = 95;

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub nodes: usize,
    pub devices_per_node: usize,
    pub models: usize,
}

/// A kind of card, with figures of its maker's order.
#[derive(Debug)]
pub struct Card {
    vendor: &'static str,
    model: &'static str,
    backend: &'static str,
    architecture: &'static str,
    driver: &'static str,
    memory_gib: i64,
    gigabytes_per_second: i64,
    teraflops: i64,
    units: i32,
    watts: i32,
}

const L4: Card = Card {
    vendor: "nvidia",
    model: "NVIDIA L4",
    backend: "cuda",
    architecture: "8.9",
    driver: "NVIDIA 580.95.05",
    memory_gib: 24,
    gigabytes_per_second: 250,
    teraflops: 100,
    units: 58,
    watts: 72,
};
const A100: Card = Card {
    vendor: "nvidia",
    model: "NVIDIA A100-PCIE-40GB",
    backend: "cuda",
    architecture: "8.0",
    driver: "NVIDIA 580.95.05",
    memory_gib: 40,
    gigabytes_per_second: 1_300,
    teraflops: 230,
    units: 108,
    watts: 250,
};
const MI210: Card = Card {
    vendor: "amd",
    model: "AMD Instinct MI210",
    backend: "rocm",
    architecture: "gfx90a",
    driver: "amdgpu 6.12.12",
    memory_gib: 64,
    gigabytes_per_second: 1_200,
    teraflops: 140,
    units: 104,
    watts: 300,
};
const FLEX: Card = Card {
    vendor: "intel",
    model: "Intel Data Center GPU Flex 170",
    backend: "vulkan",
    architecture: "xe-hpg",
    driver: "Intel open-source Mesa driver 25.2",
    memory_gib: 16,
    gigabytes_per_second: 400,
    teraflops: 60,
    units: 512,
    watts: 150,
};

/// The cards of a node, all alike; of twenty nodes, eight, five, four and three have the same.
pub fn card(node: usize) -> &'static Card {
    match node % 20 {
        0..8 => &L4,
        8..13 => &A100,
        13..17 => &MI210,
        _ => &FLEX,
    }
}

/// Name of a Node.
pub fn node_name(node: usize) -> String {
    format!("node-{node:04}")
}

/// Labels of a Node, as a cloud gives them.
pub fn node_labels(node: usize) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("kubernetes.io/hostname", node_name(node)),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", "amd64".to_owned()),
        ("node.kubernetes.io/instance-type", card(node).architecture.to_owned()),
        ("topology.kubernetes.io/region", "somewhere".to_owned()),
        ("topology.kubernetes.io/zone", format!("zone-{}", node % ZONES)),
    ])
}

/// Name of a device's object.
pub fn device_name(node: usize, device: usize) -> String {
    let ordinal = u32::try_from(device).unwrap_or(u32::MAX);
    names::device_name(&node_name(node), card(node).backend, ordinal)
}

/// Labels of a device's object, as agents set them.
pub fn device_labels(node: usize) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (names::BACKEND_LABEL, card(node).backend.to_owned()),
        (names::NODE_LABEL, node_name(node)),
    ])
}

/// What an agent reports of a device: every field that a measured card has. `lost`: it fell off its bus.
pub fn device_status(
    (node, device): (usize, usize),
    shards: Vec<HeldShard>,
    lost: bool,
    now: Timestamp,
) -> DeviceGPUStateStatus {
    let card = card(node);
    let index = i32::try_from(device).unwrap_or(i32::MAX);
    let total_bytes = card.memory_gib * GIB;
    let ours_bytes: i64 = shards.iter().map(|shard| shard.memory_bytes).sum();
    // Two cards of a kind are never equally fast.
    let measured = |value: i64| {
        Some(Measurement {
            value: value - value / 1000 * (((node * 31 + device * 7) % 20) as i64),
            measured_at: Time(now),
            samples: 5,
        })
    };
    let bytes_per_second = card.gigabytes_per_second * 1_000_000_000;
    DeviceGPUStateStatus {
        observed_generation: Some(1),
        node: node_name(node),
        vendor: card.vendor.to_owned(),
        model: card.model.to_owned(),
        backend: card.backend.to_owned(),
        backend_index: index,
        backends: vec![card.backend.to_owned(), "vulkan".to_owned()],
        support_level: Some(SupportLevel::Tried),
        architecture: Some(card.architecture.to_owned()),
        driver: Some(card.driver.to_owned()),
        pci_address: Some(format!("0000:{:02x}:00.0", 0x10 + device)),
        uuid: Some(format!("GPU-{node:08x}-0000-4000-8000-{device:012x}")),
        compute_units: Some(card.units),
        clock_mhz: Some(1_410),
        power_limit_watts: Some(card.watts),
        kind: DeviceKind::Discrete,
        memory_pool: device_name(node, device),
        memory: Some(format!("{}.0 GiB", card.memory_gib)),
        memory_total_bytes: total_bytes,
        memory_free_bytes: total_bytes - ours_bytes - 400 * MIB,
        memory_usable_bytes: total_bytes / 100 * USABLE_PERCENT,
        memory_used_by_us_bytes: Some(ours_bytes),
        memory_used_by_others_bytes: Some(400 * MIB),
        temperature_celsius: Some(41),
        power_watts: Some(card.watts / 5),
        utilisation_percent: Some(0),
        throttle_reasons: Vec::new(),
        ecc_uncorrected: Some(0),
        bandwidth_bytes_per_second: measured(bytes_per_second),
        bandwidth_prior: None,
        f32_flops_per_second: measured(card.teraflops * 250_000_000_000),
        f16_flops_per_second: measured(card.teraflops * 1_000_000_000_000),
        to_device_bytes_per_second: measured(24_000_000_000),
        from_device_bytes_per_second: measured(22_000_000_000),
        launch_ns: measured(9_000),
        step_rates: Some(step_rates(bytes_per_second, card, now)),
        missing_operators: Some(Vec::new()),
        shards,
        conditions: conditions(lost, now),
    }
}

fn step_rates(bytes_per_second: i64, card: &Card, now: Timestamp) -> StepRates {
    let reading = [(5, 70), (8, 80), (16, 90)].map(|(bits, percent)| ReadingRate {
        bits,
        bytes_per_second: bytes_per_second / 100 * percent,
    });
    StepRates {
        step_ns: 60_000,
        layer_ns: 12_000,
        row_ps: None,
        attention_flops_per_second: None,
        strict_percent: None,
        reading: reading.into(),
        prefill_flops_per_second: Some(card.teraflops * 500_000_000_000),
        measured_at: Time(now),
        samples: 3,
    }
}

fn conditions(lost: bool, now: Timestamp) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let fault = "the card does not answer any more: GPU has fallen off the bus (Xid 79)";
    let (yes, no) = (ConditionStatus::True, ConditionStatus::False);
    let told: [(&str, ConditionStatus, &str, &str); 4] = if lost {
        [
            (kind::READY, no, "FellOffBus", fault),
            (kind::HEALTHY, no, "FellOffBus", fault),
            (
                kind::VERIFIED,
                yes,
                reason::SELF_TEST_PASSED,
                "1 MiB came back unchanged",
            ),
            (kind::THROTTLED, no, reason::FULL_SPEED, "nothing slows it down"),
        ]
    } else {
        [
            (kind::READY, yes, reason::AVAILABLE, "it takes layers"),
            (kind::HEALTHY, yes, reason::NO_FAULT, "no fault is known"),
            (
                kind::VERIFIED,
                yes,
                reason::SELF_TEST_PASSED,
                "1 MiB came back unchanged",
            ),
            (kind::THROTTLED, no, reason::FULL_SPEED, "nothing slows it down"),
        ]
    };
    let mut list = Vec::new();
    for (kind, status, reason, message) in told {
        let new = NewCondition {
            kind,
            status,
            reason,
            message,
        };
        set_condition(&mut list, new, Some(1), &Time(now));
    }
    list
}

/// Name of a model.
pub fn model_name(model: usize) -> String {
    format!("model-{model:03}")
}

/// A model as a person writes it. One in four is kept to AMD's cards and one in four to a zone.
pub fn model(model: usize) -> Value {
    let placement = match model % 4 {
        0 => json!({ "vendors": ["amd"], "minDevices": 2 }),
        1 => {
            json!({ "nodeSelector": { "topology.kubernetes.io/zone": format!("zone-{}", model % ZONES) }, "minDevices": 2 })
        }
        _ => json!({ "minDevices": 2, "maxDevices": 8 }),
    };
    let uri = format!("https://models.invalid/{}.gguf", model_name(model));
    json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": "InferenceModel",
        "metadata": { "name": model_name(model), "namespace": NAMESPACE },
        "spec": {
            "source": { "uri": uri, "indexSha256": facts::index_sha256(&uri) },
            "contextLength": 4096,
            "parallelSequences": 8,
            "placement": placement,
        },
    })
}
