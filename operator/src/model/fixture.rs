//! Objects for tests, as agents, people and the operator would make them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crds::conditions::{ConditionStatus, NewCondition, device as kind, set_condition};
use crds::names::device_name;
use crds::{
    DeviceGPUState, DeviceGPUStateSpec, DeviceGPUStateStatus, DeviceGroup, DeviceKind, InferenceModel,
    InferenceModelSpec, ModelSource, NodeLinkState, NodeLinkStateSpec, NodeLinkStateStatus, PlacementConstraints,
    PlacementStatus, ReadingRate, StagePhase, StageStatus, StepRates, Verdict,
};
use gguf::{Digest, Index};
use identity::PlacementSigner;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use proto::control::v1::{ShardPhase, ShardStatus};
use proto::placement::v1::{Pipeline, Placement, Stage};

use super::facts::Facts;
use super::in_force::{InForce, encode};
use crate::agents::AgentView;

/// Uid of [`model`].
pub const UID: &str = "7d1c0a52-0000-4000-8000-000000000001";
/// Layers of [`facts`].
pub const LAYERS: u32 = 6;
const MIB: u64 = 1 << 20;

/// A model of six layers of 10 MiB each.
pub fn facts() -> Facts {
    let digest = |byte| Digest([byte; 32]);
    Facts {
        sha256: Some(digest(9)),
        index_sha256: Some(digest(7)),
        file_bytes: 80 * MIB,
        architecture: "llama".into(),
        quantisation: "Q4_1".into(),
        parameters: 100,
        embedding_length: 64,
        vocabulary_size: 1000,
        context_length_trained: 2048,
        kv_elements_per_token_per_layer: 128,
        layer_kv_elements: Vec::new(),
        layer_state_bytes: Vec::new(),
        layer_bytes: vec![10 * MIB; LAYERS as usize],
        layer_active_bytes: vec![10 * MIB; LAYERS as usize],
        embedding_bytes: 5 * MIB,
        output_bytes: 5 * MIB,
        index: Index {
            embedding: digest(1),
            layers: (0..LAYERS as u8).map(|layer| digest(10 + layer)).collect(),
            output: digest(2),
        },
        vocabulary_sha256: digest(8),
        allowed_cuts: (1..LAYERS).collect(),
        group_sizes: vec![2, 4, 8],
    }
}

/// A source that is named by its address alone.
pub fn source(uri: &str) -> ModelSource {
    ModelSource {
        uri: uri.into(),
        sha256: None,
        index_sha256: None,
        secret_ref: None,
        proxy_url: None,
    }
}

/// The model as a person would write it.
pub fn model() -> InferenceModel {
    InferenceModel {
        metadata: ObjectMeta {
            name: Some("smol".into()),
            namespace: Some("default".into()),
            uid: Some(UID.into()),
            generation: Some(1),
            ..Default::default()
        },
        spec: InferenceModelSpec {
            source: source("file:///models/smol.gguf"),
            context_length: 256,
            parallel_sequences: 2,
            kv_cache_tokens: None,
            prefix_cache: crds::PrefixCache::default(),
            memory_pressure: crds::MemoryPressure::default(),
            kv_type: crds::KvType::F16,
            determinism: crds::Determinism::Relaxed,
            objective: crds::Objective::Latency,
            replicas: 1,
            priority: 0,
            placement: PlacementConstraints::default(),
        },
        status: None,
    }
}

/// A placement of [`model`] over the CPUs of the nodes.
pub fn in_force(epoch: u64, nodes: &[&str]) -> InForce {
    in_force_of(UID, epoch, nodes)
}

/// The same for a model with another uid.
pub fn in_force_of(uid: &str, epoch: u64, nodes: &[&str]) -> InForce {
    placed(uid, epoch, &[nodes])
}

/// A placement of [`model`] in several pipelines.
pub fn replicas(epoch: u64, nodes: &[&[&str]]) -> InForce {
    placed(UID, epoch, nodes)
}

fn placed(uid: &str, epoch: u64, pipelines: &[&[&str]]) -> InForce {
    let placement = Placement {
        epoch,
        model_uid: uid.into(),
        namespace: "default".into(),
        name: "smol".into(),
        generation: 1,
        pipelines: pipelines.iter().map(|nodes| pipeline(nodes)).collect(),
        ..Default::default()
    };
    signed(placement)
}

fn pipeline(nodes: &[&str]) -> Pipeline {
    let share = LAYERS / nodes.len().max(1) as u32;
    let stage = |(at, node): (usize, &&str)| Stage {
        node: node.to_string(),
        device: format!("{node}-cpu0"),
        backend: "cpu".into(),
        first_layer: at as u32 * share,
        end_layer: if at + 1 == nodes.len() {
            LAYERS
        } else {
            (at as u32 + 1) * share
        },
        weight_root: vec![at as u8; 32],
        memory_budget_bytes: 30 * MIB,
    };
    Pipeline {
        stages: nodes.iter().enumerate().map(stage).collect(),
        ..Default::default()
    }
}

/// A placement with its envelope, by a key of its own, and its view.
pub fn signed(placement: Placement) -> InForce {
    let envelope = PlacementSigner::generate().unwrap().sign(&placement);
    let view = |pipeline: usize, at: usize, stage: &Stage| StageStatus {
        pipeline: pipeline as i32,
        index: at as i32,
        node: stage.node.clone(),
        device: stage.device.clone(),
        backend: stage.backend.clone(),
        layers: format!("{}-{}", stage.first_layer, stage.end_layer - 1),
        first_layer: stage.first_layer as i32,
        end_layer: stage.end_layer as i32,
        weight_bytes: 20 * MIB as i64,
        memory_bytes: stage.memory_budget_bytes as i64,
        memory_used_bytes: None,
        pressure: None,
        predicted_us_per_token: 100,
        predicted_context_us: None,
        correction_percent: None,
        predicted_prefill_us: None,
        observed: None,
        hop_us: None,
        endpoint: None,
        phase: StagePhase::Pending,
        message: None,
    };
    let numbered = placement.pipelines.iter().enumerate();
    let stages = numbered.flat_map(|(of, pipeline)| {
        let stages = pipeline.stages.iter().enumerate();
        stages.map(move |(at, stage)| view(of, at, stage))
    });
    let view = PlacementStatus {
        epoch: placement.epoch as i64,
        generation: placement.generation,
        envelope: encode(&envelope),
        verdict: Verdict::Optimal,
        gap_percent: None,
        predicted_us_per_token: 300,
        predicted_context: None,
        expected_us_per_token: None,
        observed_us_per_token: None,
        predicted_prefill_us: None,
        stages: stages.collect(),
        runner_up: None,
        took: None,
    };
    InForce {
        placement,
        envelope,
        view,
    }
}

/// A node's CPU, sound and with this much memory for shards.
pub fn cpu(node: &str, usable_bytes: i64) -> Arc<DeviceGPUState> {
    let mut state = DeviceGPUState::new(&format!("{node}-cpu0"), DeviceGPUStateSpec::default());
    let mut conditions = Vec::new();
    for kind in kind::ALL {
        let new = NewCondition {
            kind,
            status: ConditionStatus::True,
            reason: "Good",
            message: "",
        };
        set_condition(&mut conditions, new, Some(1), &Time(Timestamp::UNIX_EPOCH));
    }
    state.status = Some(DeviceGPUStateStatus {
        observed_generation: Some(1),
        node: node.into(),
        vendor: "intel".into(),
        model: "CPU".into(),
        backend: "cpu".into(),
        backend_index: 0,
        architecture: None,
        driver: None,
        pci_address: None,
        uuid: None,
        compute_units: None,
        backends: vec!["cpu".into()],
        support_level: None,
        clock_mhz: None,
        power_limit_watts: None,
        kind: DeviceKind::Cpu,
        memory_pool: format!("{node}-memory"),
        memory: None,
        memory_total_bytes: usable_bytes,
        memory_free_bytes: usable_bytes,
        memory_usable_bytes: usable_bytes,
        memory_used_by_us_bytes: None,
        memory_used_by_others_bytes: None,
        temperature_celsius: None,
        power_watts: None,
        utilisation_percent: None,
        throttle_reasons: Vec::new(),
        ecc_uncorrected: None,
        bandwidth_bytes_per_second: None,
        bandwidth_prior: None,
        f32_flops_per_second: None,
        f16_flops_per_second: None,
        to_device_bytes_per_second: None,
        from_device_bytes_per_second: None,
        launch_ns: None,
        step_rates: None,
        missing_operators: None,
        shards: Vec::new(),
        conditions,
    });
    Arc::new(state)
}

/// A card of a node, sound, with memory of its own; a token of [`model`] takes half a millisecond in each layer.
pub fn card(node: &str, index: u32, usable_bytes: i64) -> Arc<DeviceGPUState> {
    let mut card = (*cpu(node, usable_bytes)).clone();
    let name = device_name(node, "cuda", index);
    let status = card.status.as_mut().expect("a status");
    (status.backend, status.kind, status.vendor) = ("cuda".into(), DeviceKind::Discrete, "nvidia".into());
    (status.backend_index, status.memory_pool) = (index as i32, name.clone());
    status.step_rates = Some(step_rates(20));
    card.metadata.name = Some(name);
    Arc::new(card)
}

fn step_rates(gigabytes_per_second: i64) -> StepRates {
    StepRates {
        step_ns: 10_000,
        layer_ns: 1000,
        row_ps: None,
        reading: vec![ReadingRate {
            bits: 5,
            bytes_per_second: gigabytes_per_second * 1_000_000_000,
        }],
        attention_flops_per_second: None,
        strict_percent: None,
        prefill_flops_per_second: None,
        measured_at: Time(Timestamp::UNIX_EPOCH),
        samples: 3,
    }
}

/// What a node's agent says of its cards that may work as one: nearly as much faster than one of them as there are.
pub fn groups(node: &str, groups: &[&[u32]]) -> Arc<NodeLinkState> {
    let group = |cards: &&[u32]| DeviceGroup {
        devices: cards.iter().map(|index| device_name(node, "cuda", *index)).collect(),
        backend: "cuda".into(),
        step_rates: Some(step_rates(18 * cards.len() as i64)),
        error: None,
        measured_at: Some(Time(Timestamp::UNIX_EPOCH)),
    };
    let mut object = NodeLinkState::new(node, NodeLinkStateSpec::default());
    object.status = Some(NodeLinkStateStatus {
        node: node.into(),
        groups: groups.iter().map(group).collect(),
        ..Default::default()
    });
    Arc::new(object)
}

/// Agents that are attached and hold nothing.
pub fn agents(nodes: &[&str]) -> BTreeMap<String, AgentView> {
    let view = |at: usize| AgentView {
        session: at as u64,
        attached: Instant::now(),
        epochs: HashMap::new(),
        weights_endpoint: format!("{}:9445", nodes[at]),
        takes_purposes: true,
        leaving: false,
        reported: true,
        shards: Arc::default(),
        heard: identity::Heard::default(),
    };
    nodes
        .iter()
        .enumerate()
        .map(|(at, node)| (node.to_string(), view(at)))
        .collect()
}

/// Lets a node report a shard of [`model`], beside what it reported before.
pub fn report(agents: &mut BTreeMap<String, AgentView>, node: &str, epoch: u64, stage: u32, phase: ShardPhase) {
    report_of(agents, node, epoch, (0, stage), phase);
}

/// The same of any pipeline.
pub fn report_of(
    agents: &mut BTreeMap<String, AgentView>,
    node: &str,
    epoch: u64,
    (pipeline, stage): (u32, u32),
    phase: ShardPhase,
) {
    let agent = agents.get_mut(node).expect("the node is attached");
    let mut shards = agent.shards.to_vec();
    shards.retain(|shard| (shard.epoch, shard.pipeline, shard.stage) != (epoch, pipeline, stage));
    shards.push(ShardStatus {
        model_uid: UID.into(),
        epoch,
        pipeline,
        stage,
        phase: phase.into(),
        endpoint: if phase == ShardPhase::Serving {
            format!("{node}:7000")
        } else {
            String::new()
        },
        reason: if phase == ShardPhase::Failed {
            "OutOfMemory".into()
        } else {
            String::new()
        },
        ..Default::default()
    });
    agent.shards = shards.into();
}
