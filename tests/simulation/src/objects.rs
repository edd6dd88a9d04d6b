//! Objects as people, agents and a cluster would make them: small models, small nodes.

use crds::conditions::{ConditionStatus, NewCondition, device as kind, set_condition};
use crds::names;
use crds::{
    DeviceGPUState, DeviceGPUStateSpec, InferenceModel, InferenceModelSpec, ModelSource, NodeLinkState,
    NodeLinkStateSpec, PlacementConstraints,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use proto::control::v1::{Inspect, Inspection, InspectionError, LayerFacts, ModelFacts, PieceFacts, inspection};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Namespace of the installation.
pub const INSTALLATION: &str = "shardwright-system";
/// Namespace of the models.
pub const MODELS: &str = "default";
/// Layers of every model.
const LAYERS: u32 = 6;
/// Of one layer; embedding and output have half of it each.
const LAYER_BYTES: u64 = 10 << 20;

/// A model; its weights are those of the number in its address.
#[must_use]
pub fn model(name: &str, weights: u32, replicas: i32) -> Value {
    let spec = InferenceModelSpec {
        source: ModelSource {
            uri: uri(weights),
            sha256: None,
            index_sha256: None,
            secret_ref: None,
            proxy_url: None,
        },
        context_length: 256,
        parallel_sequences: 2,
        kv_cache_tokens: None,
        prefix_cache: crds::PrefixCache::default(),
        memory_pressure: crds::MemoryPressure::default(),
        kv_type: crds::KvType::F16,
        determinism: crds::Determinism::Relaxed,
        objective: crds::Objective::Latency,
        replicas,
        priority: 0,
        placement: PlacementConstraints::default(),
    };
    let mut model = InferenceModel::new(name, spec);
    model.metadata.namespace = Some(MODELS.into());
    serde_json::to_value(model).unwrap_or_default()
}

/// Where weights are read from.
#[must_use]
pub fn uri(weights: u32) -> String {
    format!("file:///models/{weights}.gguf")
}

/// What an agent finds at a source.
#[must_use]
pub fn inspected(inspect: &Inspect) -> Inspection {
    let number = inspect.uri.strip_prefix("file:///models/");
    let number = number.and_then(|name| name.strip_suffix(".gguf")?.parse::<u8>().ok());
    let result = match number {
        Some(weights) => inspection::Result::Facts(facts(weights)),
        None => inspection::Result::Error(InspectionError {
            reason: "SourceNotFound".into(),
            message: format!("{} is not there", inspect.uri),
        }),
    };
    Inspection {
        model_uid: inspect.model_uid.clone(),
        generation: inspect.generation,
        result: Some(result),
    }
}

fn facts(weights: u8) -> ModelFacts {
    let digest = |part: u8| Sha256::digest([weights, part]).to_vec();
    let end = |part| PieceFacts {
        weight_bytes: LAYER_BYTES / 2,
        digest: digest(part),
    };
    let layer = |layer: u32| LayerFacts {
        weight_bytes: LAYER_BYTES,
        digest: digest(10 + layer as u8),
        ..LayerFacts::default()
    };
    let vocabulary = vec![weights; 8];
    ModelFacts {
        sha256: digest(0),
        file_bytes: (u64::from(LAYERS) + 1) * LAYER_BYTES,
        architecture: "llama".into(),
        quantisation: "Q4_1".into(),
        parameters: 100,
        embedding_length: 64,
        vocabulary_size: 1000,
        context_length_trained: 2048,
        kv_elements_per_token_per_layer: 128,
        layers: (0..LAYERS).map(layer).collect(),
        embedding: Some(end(1)),
        output: Some(end(2)),
        vocabulary_sha256: Sha256::digest(&vocabulary).to_vec(),
        vocabulary,
        allowed_cuts: (1..LAYERS).collect(),
        group_sizes: vec![2],
        ..Default::default()
    }
}

/// A Node; one with `cards` has so many that a device plugin gives out.
#[must_use]
pub fn node(name: &str, cards: u32) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": {
            "allocatable": { "nvidia.com/gpu": cards.to_string() },
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

/// Name of a node's device.
#[must_use]
pub fn device_name(node: &str) -> String {
    format!("{node}-cpu0")
}

/// A node's only device, as its agent reports it at this date.
#[must_use]
pub fn device(node: &str, usable_bytes: i64, sound: bool, at: Timestamp) -> Value {
    let state = DeviceGPUState::new(&device_name(node), DeviceGPUStateSpec::default());
    let mut object = serde_json::to_value(state).unwrap_or_default();
    let mut conditions = Vec::new();
    for kind in kind::ALL {
        let new = NewCondition {
            kind,
            status: if sound {
                ConditionStatus::True
            } else {
                ConditionStatus::False
            },
            reason: if sound { "Good" } else { "Xid79" },
            message: "",
        };
        set_condition(&mut conditions, new, Some(1), &Time(at));
    }
    object["status"] = json!({
        "observedGeneration": 1, "node": node, "vendor": "intel", "model": "CPU", "backend": "cpu", "backendIndex": 0,
        "backends": ["cpu"], "kind": "Cpu", "memoryPool": format!("{node}-memory"), "memoryTotalBytes": usable_bytes,
        "memoryFreeBytes": usable_bytes, "memoryUsableBytes": usable_bytes, "conditions": conditions,
    });
    object
}

/// One of a node's cards, beside its only other device, as its agent reports it at this date.
#[must_use]
pub fn card(node: &str, index: u32, usable_bytes: i64, sound: bool, at: Timestamp) -> Value {
    let name = card_name(node, index);
    let mut object = device(node, usable_bytes, sound, at);
    object["metadata"]["name"] = json!(name);
    let of_card = json!({
        "vendor": "nvidia", "model": "Card", "backend": "cuda", "backendIndex": index, "backends": ["cuda"],
        "kind": "Discrete", "memoryPool": name, "stepRates": step_rates(20, at),
    });
    if let (Some(status), Value::Object(of_card)) = (object["status"].as_object_mut(), of_card) {
        status.extend(of_card);
    }
    object
}

/// Name of one of a node's cards.
#[must_use]
pub fn card_name(node: &str, index: u32) -> String {
    names::device_name(node, "cuda", index)
}

fn step_rates(gigabytes_per_second: i64, at: Timestamp) -> Value {
    json!({
        "stepNs": 10_000, "layerNs": 1000, "samples": 3, "measuredAt": Time(at),
        "reading": [{ "bits": 5, "bytesPerSecond": gigabytes_per_second * 1_000_000_000 }],
    })
}

/// What a node's agent says at this date of its cards that may work as one: nearly as much faster than one of them as there are.
#[must_use]
pub fn groups(node: &str, groups: &[&[u32]], at: Timestamp) -> Value {
    let group = |cards: &&[u32]| {
        let devices: Vec<String> = cards.iter().map(|index| card_name(node, *index)).collect();
        let rates = step_rates(18 * cards.len() as i64, at);
        json!({ "devices": devices, "backend": "cuda", "stepRates": rates, "measuredAt": Time(at) })
    };
    let mut object = links(node, &[], at);
    object["status"]["groups"] = groups.iter().map(group).collect();
    object
}

/// What a node's agent measured of one link, both directions alike, in bytes per second.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The node at the other end.
    pub peer: String,
    /// What it carries.
    pub rate: i64,
    /// What it carried before that became far less.
    pub before: Option<i64>,
}

/// The links of a node, as its agent reports them at this date.
#[must_use]
pub fn links(node: &str, measured: &[Measured], at: Timestamp) -> Value {
    let state = NodeLinkState::new(node, NodeLinkStateSpec::default());
    let mut object = serde_json::to_value(state).unwrap_or_default();
    let peer = |link: &Measured| {
        let mut peer = json!({
            "node": link.peer, "kind": "Ethernet", "state": "Measured", "latencyP50Us": 100, "latencyP99Us": 200,
            "sendBytesPerSecond": link.rate, "receiveBytesPerSecond": link.rate, "samples": 3, "measuredAt": Time(at),
        });
        if let Some(before) = link.before {
            peer["sendBytesPerSecondBefore"] = json!(before);
            peer["receiveBytesPerSecondBefore"] = json!(before);
        }
        peer
    };
    let peers: Vec<Value> = measured.iter().map(peer).collect();
    object["status"] = json!({ "observedGeneration": 1, "node": node, "peers": peers });
    object
}

/// The pod of a node's agent.
#[must_use]
pub fn agent_pod(node: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("shardwright-agent-{node}"),
            "labels": { "app.kubernetes.io/name": "shardwright", "app.kubernetes.io/component": "agent" },
        },
        "spec": { "nodeName": node, "containers": [{ "name": "agent", "image": "agent" }] },
    })
}

/// The Deployment of the operator.
#[must_use]
pub fn deployment() -> Value {
    let labels = json!({ "app.kubernetes.io/component": "operator" });
    json!({
        "metadata": { "name": "shardwright-operator" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "operator", "image": "operator" }] },
            },
        },
    })
}
