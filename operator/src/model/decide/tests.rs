mod links;
mod moves;
mod replicas;

use std::sync::Arc;
use std::time::Instant;

use crds::conditions::{ConditionStatus, device as kind};
use identity::PlacementVerifier;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::control::v1::ShardPhase;
use topology::Links;

use super::*;
use crate::agents::AgentView;
use crate::model::failures::Health;
use crate::model::fixture;
use crate::model::inspect::Inspection;
use crate::model::learned_pace::Corrections;
use crate::model::observe::Observed;
use crate::model::reports::Reports;
use crate::model::term::Term;

const GIB: i64 = 1 << 30;
const NOW: i64 = 1_800_000_000;

/// A cluster, one model and what is remembered of it.
struct Cluster {
    observed: Observed,
    agents: BTreeMap<String, AgentView>,
    awaited: BTreeSet<String>,
    others: Vec<(String, InForce)>,
    links: Links,
    paces: Corrections,
    model: InferenceModel,
    state: ModelState,
    signer: PlacementSigner,
    leisure: bool,
    now: Instant,
}

impl Cluster {
    /// CPU nodes with this much memory each, all attached; the source is known.
    fn of(nodes: &[(&str, i64)]) -> Self {
        let (signer, model) = (PlacementSigner::generate().unwrap(), fixture::model());
        let mut term = Term::begin(Instant::now());
        let verifier = PlacementVerifier::new([signer.public_key()]).unwrap();
        term.recall(&[Arc::new(model.clone())], &verifier);
        let mut state = term.models.remove(fixture::UID).unwrap();
        resolve(&mut state.inspection);
        let names: Vec<&str> = nodes.iter().map(|(node, _)| *node).collect();
        Self {
            observed: Observed {
                devices: nodes.iter().map(|(node, bytes)| fixture::cpu(node, *bytes)).collect(),
                ..Default::default()
            },
            agents: fixture::agents(&names),
            awaited: BTreeSet::new(),
            others: Vec::new(),
            links: Links::default(),
            paces: Corrections::default(),
            model,
            state,
            signer,
            leisure: true,
            now: Instant::now(),
        }
    }

    fn decide(&mut self) -> Decided {
        let reports = Arc::new(Reports::of(&self.observed.devices));
        let world = World::new((&self.observed, reports), &self.agents, &self.awaited, self.now, NOW);
        let mut world = world.with_links(self.links.clone());
        world.paces = self.paces.clone();
        world.leisure = self.leisure;
        for (uid, in_force) in &self.others {
            world.holders.knows(uid, &fixture::facts());
            world.holders.hold(uid, in_force);
        }
        if let Some(in_force) = &self.state.in_force {
            world.holders.hold(fixture::UID, in_force);
        }
        decide(&world, &self.model, &mut self.state, &self.signer)
    }

    /// Decides, expects a new placement and puts it in force.
    fn place(&mut self) -> InForce {
        let decided = self.decide();
        assert_eq!(decided.placed, Placed::Yes);
        let in_force = decided.new_in_force.expect("a new placement");
        self.state.wrote(Default::default(), Some(in_force.clone()), self.now);
        in_force
    }

    fn keeps(&mut self) {
        let decided = self.decide();
        assert_eq!((decided.placed, decided.new_in_force), (Placed::Yes, None));
    }

    fn refuses(&mut self) -> Why {
        let decided = self.decide();
        assert_eq!(decided.new_in_force, None);
        let Placed::No(why) = decided.placed else {
            panic!("it is {:?}", decided.placed)
        };
        why
    }

    /// The source is of this architecture.
    fn of_architecture(&mut self, architecture: &str) {
        let mut facts = fixture::facts();
        facts.architecture = architecture.to_owned();
        self.state.inspection = Inspection::new(self.model.spec.source.clone(), fixture::UID);
        resolved_as(&mut self.state.inspection, facts);
    }

    fn require_devices(&mut self, count: i32) {
        self.model.spec.placement.min_devices = count;
    }
}

/// The device of each stage, replica by replica.
fn replicas_of(in_force: &InForce) -> Vec<Vec<String>> {
    let pipelines = in_force.pipelines().iter();
    pipelines
        .map(|pipeline| pipeline.stages.iter().map(|stage| stage.device.clone()).collect())
        .collect()
}

fn resolve(inspection: &mut Inspection) {
    resolved_as(inspection, fixture::facts());
}

fn resolved_as(inspection: &mut Inspection, facts: Facts) {
    inspection.asked("a".into(), 0, 1, Instant::now());
    assert!(inspection.answered("a", 1, Ok(Arc::new(facts))));
}

fn devices(in_force: &InForce) -> Vec<&str> {
    in_force.stages().iter().map(|stage| stage.device.as_str()).collect()
}

/// The links between all of these nodes, both directions.
fn measured(pairs: &[(&str, &str, u64, u64)]) -> Links {
    let report = |from: &str, to: &str, latency_us, mb| topology::LinkReport {
        from_node: from.to_owned(),
        to_node: to.to_owned(),
        latency_us,
        bandwidth_bytes_per_second: mb * 1_000_000,
        latency_p99_us: None,
        samples: 3,
        age_s: 0,
        kind: topology::LinkKind::Ethernet,
        unreachable: false,
    };
    let both = |(a, b, latency_us, mb): &(&str, &str, u64, u64)| {
        [report(a, b, *latency_us, *mb), report(b, a, *latency_us, *mb)]
    };
    Links::build(&pairs.iter().flat_map(both).collect::<Vec<_>>(), &[])
}

#[test]
fn of_two_neighbours_the_one_behind_the_better_link_is_taken_and_its_hop_is_predicted_as_measured() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.require_devices(2);
    cluster.model.spec.placement.max_devices = Some(2);
    cluster.links = measured(&[("a", "b", 20_000, 5), ("a", "c", 50, 1000), ("b", "c", 30_000, 5)]);
    let in_force = cluster.place();
    let nodes: BTreeSet<&str> = in_force.nodes().collect();
    assert_eq!(nodes, BTreeSet::from(["a", "c"]));
    let hop_us = in_force.view.stages[0].hop_us.unwrap();
    assert!(
        (50..300).contains(&hop_us),
        "{hop_us} µs, not what is assumed of a link"
    );
    // What jitters later moves nothing.
    cluster.links = measured(&[("a", "c", 40_000, 1)]);
    cluster.keeps();
}

#[test]
fn a_model_is_placed_with_all_its_layers_signed() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.require_devices(2);
    let placed = cluster.place();
    assert_eq!((placed.placement.epoch, placed.placement.generation), (1, 1));
    assert_eq!(
        placed
            .stages()
            .iter()
            .map(|stage| stage.end_layer - stage.first_layer)
            .sum::<u32>(),
        fixture::LAYERS
    );
    assert!(placed.stages().iter().all(|stage| stage.weight_root.len() == 32));
    assert_eq!(placed.placement.source.as_ref().unwrap().sha256, vec![9; 32]);
    assert_eq!(placed.placement.runtime.as_ref().unwrap().max_step_rows, 128);
    PlacementVerifier::new([cluster.signer.public_key()])
        .unwrap()
        .verify(&placed.envelope)
        .unwrap();
}

#[test]
fn a_valid_placement_is_kept_even_if_a_better_one_appears() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.require_devices(2);
    cluster.place();
    cluster.require_devices(1);
    cluster.observed.devices.push(fixture::cpu("c", 64 * GIB));
    cluster.agents.extend(fixture::agents(&["c"]));
    cluster.keeps();
}

#[test]
fn a_node_that_is_gone_moves_its_layers_under_a_higher_epoch() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.require_devices(2);
    let before = cluster.place();
    let kept = &before.stages()[0];
    fixture::report(&mut cluster.agents, &kept.node, 1, 0, ShardPhase::Serving);
    let lost = before.stages()[1].node.clone();
    cluster.agents.remove(&lost);
    let after = cluster.place();
    assert_eq!(after.placement.epoch, 2);
    assert!(after.stages().iter().all(|stage| stage.node != lost));
    // What the node that is still there has loaded stays there.
    let holds = |stage: &&proto::placement::v1::Stage| stage.device == kept.device;
    let stage = after
        .stages()
        .into_iter()
        .find(holds)
        .expect("a stage on the device that is left");
    assert!(stage.first_layer <= kept.first_layer && stage.end_layer >= kept.end_layer);
}

/// Changes the object of one device.
fn change(cluster: &mut Cluster, device: &str, change: impl FnOnce(&mut crds::DeviceGPUState)) {
    let objects = &mut cluster.observed.devices;
    let object = objects
        .iter_mut()
        .find(|object| object.metadata.name.as_deref() == Some(device));
    change(Arc::make_mut(object.expect("the device")));
}

/// What the device's agent says of it.
fn says(cluster: &mut Cluster, device: &str, kind: &str, status: ConditionStatus, reason: &str) {
    change(cluster, device, |object| {
        let new = crds::conditions::NewCondition {
            kind,
            status,
            reason,
            message: "m",
        };
        let conditions = &mut object.status.as_mut().expect("a status").conditions;
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        crds::conditions::set_condition(conditions, new, Some(1), &Time(now));
    });
}

fn placed_on_two_of_three() -> (Cluster, String) {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.require_devices(2);
    let device = cluster.place().stages()[0].device.clone();
    (cluster, device)
}

#[test]
fn a_device_in_trouble_or_in_other_hands_loses_its_layers() {
    let away = [
        (kind::HEALTHY, "FellOffBus"),
        (kind::HEALTHY, "Recovering"),
        (kind::HEALTHY, "HeldDown"),
        (kind::VERIFIED, "SelfTestFailed"),
        (kind::READY, "Foreign"),
    ];
    for (kind, reason) in away {
        let (mut cluster, lost) = placed_on_two_of_three();
        says(&mut cluster, &lost, kind, ConditionStatus::False, reason);
        let after = cluster.place();
        assert!(!devices(&after).contains(&lost.as_str()), "{reason}");
    }
}

#[test]
fn a_device_that_is_hot_or_open_to_doubt_keeps_its_layers_and_gets_no_others() {
    let doubts = [
        (kind::READY, ConditionStatus::False, "SensorInvalid"),
        (kind::READY, ConditionStatus::False, "NotVerified"),
        (kind::VERIFIED, ConditionStatus::Unknown, "CouldNotMeasure"),
    ];
    for (kind, status, reason) in doubts {
        let (mut cluster, doubtful) = placed_on_two_of_three();
        says(&mut cluster, &doubtful, kind, status, reason);
        cluster.keeps();
        cluster.state.in_force = None;
        let anew = cluster.place();
        assert!(!devices(&anew).contains(&doubtful.as_str()), "{reason}");
    }
    let (mut cluster, hot) = placed_on_two_of_three();
    says(&mut cluster, &hot, kind::THROTTLED, ConditionStatus::True, "Thermal");
    cluster.keeps();
}

#[test]
fn a_taint_does_to_layers_what_its_effect_says() {
    let taint = |effect| crds::DeviceTaint {
        key: "repair".into(),
        value: None,
        effect,
    };
    let (mut cluster, device) = placed_on_two_of_three();
    change(&mut cluster, &device, |object| {
        object.spec.taints = Some(vec![taint(crds::TaintEffect::NoPlace)]);
    });
    cluster.keeps();
    change(&mut cluster, &device, |object| {
        object.spec.taints = Some(vec![taint(crds::TaintEffect::Evict)]);
    });
    assert!(!devices(&cluster.place()).contains(&device.as_str()));
}

#[test]
fn strict_numbers_that_no_stage_would_promise_are_refused_before_anything_is_placed() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.model.spec.determinism = crds::Determinism::Strict;
    cluster.of_architecture("plamo2");
    let why = cluster.refuses();
    assert_eq!(why.reason, "StrictNotSupported");
    assert!(
        why.message
            .starts_with("`plamo2` keeps a recurrent state beside attention"),
        "{}",
        why.message
    );
    assert!(
        why.message.contains("set spec.determinism to Relaxed"),
        "{}",
        why.message
    );

    // Those for which it is shown, those without states, and those who do not ask for it are placed.
    for (architecture, determinism) in [
        ("jamba", crds::Determinism::Strict),
        ("mamba", crds::Determinism::Strict),
        ("llama", crds::Determinism::Strict),
        ("plamo2", crds::Determinism::Relaxed),
    ] {
        let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
        cluster.model.spec.determinism = determinism;
        cluster.of_architecture(architecture);
        cluster.place();
    }
}

#[test]
fn what_serves_is_not_replaced_by_what_strict_numbers_cannot_be_had_of() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.of_architecture("plamo2");
    cluster.place();
    cluster.model.spec.determinism = crds::Determinism::Strict;
    let decided = cluster.decide();
    assert!(matches!(&decided.placed, Placed::No(why) if why.reason == "StrictNotSupported"));
    assert_eq!((decided.new_in_force, decided.withdrawn), (None, false));
}

#[test]
fn a_model_that_tolerates_a_taint_stays_on_the_device_and_another_leaves_it() {
    let taint = |key: &str| crds::DeviceTaint {
        key: key.into(),
        value: Some("lab".into()),
        effect: crds::TaintEffect::Evict,
    };
    let (mut cluster, device) = placed_on_two_of_three();
    cluster.model.spec.placement.tolerations = Some(vec![crds::Toleration {
        key: Some("lent".into()),
        operator: crds::TolerationOperator::Equal,
        value: Some("lab".into()),
        effect: None,
    }]);
    let tainted = |key: &str| {
        let taints = Some(vec![taint(key)]);
        move |object: &mut crds::DeviceGPUState| object.spec.taints = taints
    };
    change(&mut cluster, &device, tainted("lent"));
    cluster.keeps();
    cluster.state.inspection = Inspection::new(cluster.model.spec.source.clone(), fixture::UID);
    cluster.keeps();
    change(&mut cluster, &device, tainted("repair"));
    assert!(
        matches!(cluster.decide().placed, Placed::NotYet(_)),
        "taints are heeded before the source is known"
    );
    resolve(&mut cluster.state.inspection);
    assert!(!devices(&cluster.place()).contains(&device.as_str()));
}

#[test]
fn where_every_device_is_tainted_the_message_names_the_taint() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    change(&mut cluster, "a-cpu0", |object| {
        object.spec.taints = Some(vec![crds::DeviceTaint {
            key: "repair".into(),
            value: Some("fan".into()),
            effect: crds::TaintEffect::Evict,
        }]);
    });
    let why = cluster.refuses();
    assert!(
        why.message.contains("a-cpu0 is tainted repair=fan:Evict"),
        "{}",
        why.message
    );
}

#[test]
fn where_no_other_device_is_there_the_message_says_what_keeps_this_one_away() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    says(&mut cluster, "a-cpu0", kind::READY, ConditionStatus::False, "Foreign");
    let why = cluster.refuses();
    assert!(
        why.message.contains("a-cpu0 is not ours to use (Foreign: m)"),
        "{}",
        why.message
    );
}

#[test]
fn where_nothing_else_is_feasible_the_placement_stays_and_the_missing_is_named() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.require_devices(2);
    cluster.place();
    let view = cluster.agents.remove("b").unwrap();
    let why = cluster.refuses();
    assert_eq!(why.reason, "TooFewDevices");
    assert!(cluster.state.in_force.is_some());
    cluster.agents.insert("b".into(), view);
    cluster.keeps();
}

#[test]
fn a_model_that_does_not_fit_says_how_many_bytes_are_missing() {
    let mut cluster = Cluster::of(&[("a", 64 << 20)]);
    let why = cluster.refuses();
    assert_eq!(why.reason, "InsufficientMemory");
    assert!(why.message.contains("MiB"), "{}", why.message);
    assert!(cluster.state.refused.is_some(), "the same problem is not solved twice");
    assert_eq!(cluster.refuses(), why);
    cluster.observed.devices[0] = fixture::cpu("a", GIB);
    cluster.place();
    assert!(cluster.state.refused.is_none());
}

#[test]
fn memory_that_other_models_hold_is_not_given_away_twice() {
    let mut first = Cluster::of(&[("a", 200 << 20)]);
    let placed = first.place();
    let mut second = Cluster::of(&[("a", 200 << 20)]);
    second.others.push(("other".into(), placed));
    assert_eq!(second.refuses().reason, "InsufficientMemory");
    second.others.clear();
    second.place();
}

#[test]
fn what_a_model_holds_itself_is_free_for_it() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    cluster.place();
    cluster.model.spec.context_length = 300;
    let replaced = cluster.place();
    assert_eq!((replaced.placement.epoch, devices(&replaced)), (2, vec!["a-cpu0"]));
}

#[test]
fn a_change_of_the_runtime_or_of_the_weights_is_a_new_placement_and_others_are_not() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    cluster.place();
    cluster.model.metadata.generation = Some(2);
    cluster.model.spec.placement.max_devices = Some(4);
    cluster.keeps();
    cluster.model.metadata.generation = Some(3);
    cluster.model.spec.parallel_sequences = 3;
    let replaced = cluster.place();
    assert_eq!((replaced.placement.epoch, replaced.placement.generation), (2, 3));
    cluster.model.spec.source.sha256 = Some("00".repeat(32));
    let decided = cluster.decide();
    assert_ne!(
        (decided.placed, decided.new_in_force),
        (Placed::Yes, None),
        "these are other weights"
    );
}

#[test]
fn a_constraint_that_the_placement_breaks_moves_it() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let before = cluster.place();
    let label = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
    let other = if before.stages()[0].node == "a" { "b" } else { "a" };
    cluster.observed.node_labels.insert(other.into(), label("x").into());
    cluster.model.spec.placement.node_selector = Some(label("x"));
    assert_eq!(cluster.place().stages()[0].node, other);
}

#[test]
fn a_new_leader_without_facts_keeps_what_is_in_force_and_waits_for_its_agents() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.require_devices(2);
    cluster.place();
    cluster.state.inspection = Inspection::new(cluster.model.spec.source.clone(), fixture::UID);
    cluster.keeps();
    cluster.agents.clear();
    cluster.awaited = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    cluster.keeps();
    cluster.awaited.clear();
    let decided = cluster.decide();
    assert!(matches!(decided.placed, Placed::NotYet(why) if why.reason == "NotResolved"));
}

#[test]
fn an_agent_that_accepted_a_higher_epoch_lifts_the_placement_above_it() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    let before = cluster.place();
    cluster
        .agents
        .get_mut("a")
        .unwrap()
        .epochs
        .insert(fixture::UID.into(), 9);
    let after = cluster.place();
    assert_eq!(after.placement.epoch, 10);
    assert_eq!(after.stages(), before.stages());
    cluster
        .agents
        .get_mut("a")
        .unwrap()
        .epochs
        .insert(fixture::UID.into(), 10);
    cluster.keeps();
}

#[test]
fn a_device_that_keeps_failing_is_left_out_if_there_is_another() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let failing = cluster.place().stages()[0].device.clone();
    for health in [Health::Failed, Health::Working, Health::Failed] {
        cluster.state.failures.observe(&failing, health, cluster.now);
    }
    assert_ne!(cluster.place().stages()[0].device, failing);
}

#[test]
fn a_device_that_keeps_failing_stays_where_there_is_no_other() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    let failing = cluster.place().stages()[0].device.clone();
    for health in [Health::Failed, Health::Working, Health::Failed] {
        cluster.state.failures.observe(&failing, health, cluster.now);
    }
    cluster.keeps();
}

#[test]
fn shards_that_serve_are_not_moved_for_a_figure_of_memory() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let placed = cluster.place();
    let node = placed.stages()[0].node.clone();
    let at = if node == "a" { 0 } else { 1 };
    cluster.observed.devices[at] = fixture::cpu(&node, 40 << 20);
    fixture::report(&mut cluster.agents, &node, 1, 0, ShardPhase::Serving);
    cluster.keeps();
    fixture::report(&mut cluster.agents, &node, 1, 0, ShardPhase::Loading);
    assert_ne!(cluster.place().stages()[0].node, node);
}

/// Lets the one stage of a placement on node a fail for want of memory, having measured so much beside its layers.
fn refuse_memory(cluster: &mut Cluster, placed: &InForce, compute_bytes: u64) {
    let stage = &placed.stages()[0];
    let node = stage.node.clone();
    fixture::report(
        &mut cluster.agents,
        &node,
        placed.placement.epoch,
        0,
        ShardPhase::Failed,
    );
    let agent = cluster.agents.get_mut(&node).unwrap();
    let mut shards = agent.shards.to_vec();
    let shard = shards.last_mut().unwrap();
    shard.reason = "InsufficientMemory".into();
    shard.memory = Some(proto::control::v1::MemoryUse {
        weights_bytes: 70 << 20,
        kv_bytes: 6 << 18,
        compute_bytes,
    });
    agent.shards = shards.into();
}

#[test]
fn a_stage_that_was_refused_its_memory_gets_what_it_measured_under_a_higher_epoch() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    let before = cluster.place();
    refuse_memory(&mut cluster, &before, 300 << 20);
    let after = cluster.place();
    assert_eq!((after.placement.epoch, devices(&after)), (2, vec!["a-cpu0"]));
    let budget = |in_force: &InForce| in_force.stages()[0].memory_budget_bytes;
    assert!(
        budget(&after) >= budget(&before) + (250 << 20),
        "{} after {}",
        budget(&after),
        budget(&before)
    );
    assert!(cluster.state.learned.unwrap().output_bytes > 0);
    cluster.keeps();
}

#[test]
fn a_stage_that_needs_more_than_its_device_has_goes_elsewhere_or_says_by_which_figures_it_cannot() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    let before = cluster.place();
    refuse_memory(&mut cluster, &before, 300 << 20);
    let why = cluster.refuses();
    assert_eq!(why.reason, "InsufficientMemory");
    assert!(
        why.message.contains("measured 3") && why.message.contains("estimated"),
        "{}",
        why.message
    );
    cluster.observed.devices.push(fixture::cpu("b", GIB));
    cluster.agents.extend(fixture::agents(&["b"]));
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
}

#[test]
fn what_was_learned_moves_nothing_that_serves() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    let placed = cluster.place();
    refuse_memory(&mut cluster, &placed, 300 << 20);
    let agent = cluster.agents.get_mut("a").unwrap();
    let mut shards = agent.shards.to_vec();
    let shard = shards.last_mut().unwrap();
    (shard.phase, shard.endpoint) = (ShardPhase::Serving.into(), "a:7000".into());
    agent.shards = shards.into();
    cluster.keeps();
    assert!(cluster.state.learned.is_some(), "the next placement reckons with it");
    let agent = cluster.agents.get_mut("a").unwrap();
    let mut shards = agent.shards.to_vec();
    shards.last_mut().unwrap().phase = ShardPhase::Loading.into();
    agent.shards = shards.into();
    // Its worker was started again: it fitted, and fits.
    cluster.keeps();
}

#[test]
fn another_way_to_the_same_weights_is_no_new_placement() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    cluster.place();
    cluster.model.metadata.generation = Some(2);
    let source = &mut cluster.model.spec.source;
    source.secret_ref = Some(crds::SourceSecret { name: "access".into() });
    source.proxy_url = Some("http://proxy:3128".into());
    cluster.keeps();
    cluster.model.spec.source.index_sha256 = Some("07".repeat(32));
    cluster.keeps();
    cluster.model.spec.source.index_sha256 = Some("00".repeat(32));
    assert!(cluster.decide().new_in_force.is_some(), "these are other weights");
}

#[test]
fn a_smaller_cache_makes_room() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    cluster.model.spec.context_length = 65_536;
    cluster.model.spec.parallel_sequences = 8;
    assert_eq!(cluster.refuses().reason, "InsufficientMemory");
    cluster.model.spec.context_length = 1024;
    cluster.model.spec.parallel_sequences = 200;
    assert_eq!(cluster.refuses().reason, "InsufficientMemory");
    cluster.model.spec.kv_cache_tokens = Some(2048);
    let runtime = cluster.place().placement.runtime.unwrap();
    assert_eq!((runtime.kv_cells, runtime.prefix_sequences), (2048, 8));
}

#[test]
fn an_agent_that_holds_nothing_lifts_no_epoch() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let placed = cluster.place();
    let other = if placed.stages()[0].node == "a" { "b" } else { "a" };
    let epochs = &mut cluster.agents.get_mut(other).unwrap().epochs;
    epochs.insert(fixture::UID.into(), crate::agents::registry::EPOCH_MAX);
    cluster.keeps();
}

#[test]
fn replicas_share_no_device_and_are_signed_and_shown_with_their_numbers() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB), ("d", GIB)]);
    cluster.require_devices(2);
    cluster.model.spec.replicas = 2;
    let placed = cluster.place();
    let devices: BTreeSet<String> = replicas_of(&placed).concat().into_iter().collect();
    assert_eq!((placed.replicas(), devices.len()), (2, 4));
    assert!(placed.stages().iter().all(|stage| stage.weight_root.len() == 32));
    let shown: Vec<(i32, i32)> = placed
        .view
        .stages
        .iter()
        .map(|stage| (stage.pipeline, stage.index))
        .collect();
    assert_eq!(shown, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    cluster.keeps();
}

#[test]
fn fewer_replicas_than_asked_for_are_placed_and_the_next_one_says_what_it_lacks() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", 60 << 20)]);
    cluster.model.spec.replicas = 3;
    let decided = cluster.decide();
    let Placed::Fewer(why) = &decided.placed else {
        panic!("it is {:?}", decided.placed)
    };
    assert_eq!(why.reason, "InsufficientMemory");
    assert!(
        why.message.starts_with("2 of 3 replicas fit; the third: "),
        "{}",
        why.message
    );
    assert!(why.message.contains("MiB short"), "{}", why.message);
    let placed = decided.new_in_force.clone().unwrap();
    assert_eq!(placed.replicas(), 2);
    cluster.state.wrote(Default::default(), Some(placed), cluster.now);
    // It says so as long as it is so, and nothing moves.
    let again = cluster.decide();
    assert_eq!(again.new_in_force, None);
    assert!(
        matches!(&again.placed, Placed::Fewer(again) if again.message == why.message),
        "{:?}",
        again.placed
    );
}

#[test]
fn of_two_replicas_only_the_one_that_lost_a_device_is_placed_anew() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB), ("d", GIB), ("e", GIB)]);
    cluster.require_devices(2);
    cluster.model.spec.placement.max_devices = Some(2);
    cluster.model.spec.replicas = 2;
    let before = cluster.place();
    for number in [0_usize, 1] {
        let lost = before.pipelines()[number].stages[0].node.clone();
        let agent = cluster.agents.remove(&lost).unwrap();
        let decided = cluster.decide();
        let after = decided.new_in_force.expect("a new placement");
        assert!(after.placement.epoch > before.placement.epoch);
        assert_eq!(
            after.pipelines()[1 - number],
            before.pipelines()[1 - number],
            "the other is left alone"
        );
        assert!(after.nodes().all(|node| node != lost));
        let other = |in_force: &InForce| -> Vec<_> {
            let views = in_force.view.stages.iter();
            views.filter(|view| view.pipeline != number as i32).cloned().collect()
        };
        assert_eq!(other(&after), other(&before));
        cluster.agents.insert(lost, agent);
    }
}

#[test]
fn a_replica_that_has_no_place_left_waits_for_its_node_and_the_other_goes_on() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.model.spec.replicas = 2;
    let before = cluster.place();
    let lost = before.pipelines()[0].stages[0].node.clone();
    let agent = cluster.agents.remove(&lost).unwrap();
    for _ in 0..2 {
        let decided = cluster.decide();
        assert_eq!(decided.new_in_force, None, "what is loaded stays where it is");
        let Placed::Fewer(why) = decided.placed else {
            panic!("it is {:?}", decided.placed)
        };
        assert!(
            why.message.starts_with("1 of 2 replicas fits; the second: "),
            "{}",
            why.message
        );
        assert!(why.message.contains("whose agent is not connected"), "{}", why.message);
    }
    cluster.agents.insert(lost, agent);
    cluster.keeps();
}

#[test]
fn replicas_come_and_go_with_the_spec_and_those_that_stay_are_left_alone() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let one = cluster.place();
    cluster.model.spec.replicas = 2;
    let two = cluster.place();
    assert_eq!((two.replicas(), &two.pipelines()[0]), (2, &one.pipelines()[0]));
    cluster.model.spec.replicas = 1;
    let again = cluster.place();
    assert_eq!(again.pipelines(), one.pipelines());
    assert!(again.placement.epoch > two.placement.epoch);
}

#[test]
fn a_gap_between_replicas_is_kept_until_one_fills_it() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.model.spec.replicas = 3;
    let before = cluster.place();
    let lost = before.pipelines()[0].stages[0].node.clone();
    cluster.agents.remove(&lost);
    cluster.model.spec.replicas = 2;
    let after = cluster.place();
    assert!(after.pipelines()[0].stages.is_empty());
    assert_eq!(after.pipelines()[1..], before.pipelines()[1..]);
    assert_eq!(after.view.stages[0].pipeline, 1);
    cluster.keeps();
}

#[test]
fn first_and_last_layers_are_where_tokens_may_be_seen() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.require_devices(3);
    let trusted = |name: &str| {
        (
            name.to_owned(),
            BTreeMap::from([("trusted".to_owned(), "yes".to_owned())]),
        )
    };
    cluster.observed.node_labels = [trusted("a"), trusted("c")]
        .map(|(node, labels)| (node, labels.into()))
        .into();
    cluster.model.spec.placement.token_node_selector = Some(trusted("").1);
    let placed = cluster.place();
    assert_eq!(placed.stages()[1].node, "b");
    cluster.keeps();
    // A node that is trusted no more is left.
    cluster.observed.node_labels.remove("c");
    assert_eq!(cluster.refuses().reason, "ConstraintsClash");
}

/// The model's source is of other facts.
fn is_of(cluster: &mut Cluster, change: impl FnOnce(&mut Facts)) {
    let mut facts = fixture::facts();
    change(&mut facts);
    cluster.state.inspection = Inspection::new(cluster.model.spec.source.clone(), fixture::UID);
    cluster.state.inspection.asked("a".into(), 0, 1, Instant::now());
    assert!(cluster.state.inspection.answered("a", 1, Ok(Arc::new(facts))));
}

#[test]
fn an_architecture_that_a_device_has_no_kernels_for_is_not_placed_on_it_and_not_taken_from_it() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let vulkan = |missing: Option<&[&str]>| {
        let missing = missing.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        move |object: &mut crds::DeviceGPUState| {
            let status = object.status.as_mut().expect("a status");
            (status.backend, status.missing_operators) = ("vulkan".into(), missing);
        }
    };
    change(&mut cluster, "a-cpu0", vulkan(None));
    is_of(&mut cluster, |facts| facts.architecture = "mamba".into());
    // Before its backend was asked the table counts, then what it said.
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
    change(&mut cluster, "a-cpu0", vulkan(Some(&["SSM_SCAN_MAMBA1"])));
    cluster.state.in_force = None;
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
    cluster.agents.remove("b");
    cluster.state.in_force = None;
    let why = cluster.refuses();
    assert!(
        why.message.contains(
            "a-cpu0 computes no mamba models: backend vulkan has no kernel for SSM_SCAN_MAMBA1 here (another"
        ),
        "{}",
        why.message
    );
    change(&mut cluster, "a-cpu0", vulkan(Some(&["SSM_SCAN_MAMBA2"])));
    assert_eq!(devices(&cluster.place()), ["a-cpu0"]);
    // What serves has shown that it can.
    change(&mut cluster, "a-cpu0", vulkan(Some(&["SSM_SCAN_MAMBA1"])));
    cluster.keeps();
}

#[test]
fn weights_that_a_backend_has_no_kernel_for_are_not_placed_on_it() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let mut state = (*cluster.observed.devices[0]).clone();
    state.status.as_mut().unwrap().backend = "opencl".into();
    cluster.observed.devices[0] = Arc::new(state);
    is_of(&mut cluster, |facts| facts.quantisation = "IQ3_XXS".into());
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
    cluster.state.in_force = None;
    cluster.require_devices(2);
    let why = cluster.refuses();
    assert!(
        why.message.contains("a-cpu0 computes no IQ3_XXS weights"),
        "{}",
        why.message
    );
    assert!(
        why.message.ends_with("it would fit without minDevices 2"),
        "{}",
        why.message
    );
}

#[test]
fn a_slow_device_is_reckoned_with_in_the_next_placement_and_moves_nothing_that_serves() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let first = cluster.place();
    let taken = devices(&first)[0].to_owned();
    let slow = crds::LearnedPace {
        device: taken.clone(),
        backend: "cpu".into(),
        quantisation: "Q4_1".into(),
        factor_percent: 200,
        tokens: 1000,
    };
    cluster.paces = Corrections::of([slow].iter());
    cluster.keeps();
    cluster.state.in_force = None;
    let second = cluster.place();
    assert_ne!(devices(&second), [taken.as_str()], "the other one is faster by now");
    cluster.model.spec.placement.pinned_layers =
        serde_json::from_value(serde_json::json!([{ "device": taken, "minLayers": 6 }])).unwrap();
    cluster.state.in_force = None;
    let pinned = cluster.place();
    let (before, after) = (&first.view.stages[0], &pinned.view.stages[0]);
    assert_eq!((before.correction_percent, after.correction_percent), (None, Some(200)));
    let ratio = after.predicted_us_per_token as f64 / before.predicted_us_per_token as f64;
    assert!((ratio - 2.0).abs() < 0.01, "{ratio}");
}

#[test]
fn a_prompt_is_predicted_where_arithmetic_was_measured_and_else_not() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    let unknown = cluster.place();
    assert_eq!(unknown.view.predicted_prefill_us, None);
    cluster.state.in_force = None;
    change(&mut cluster, "a-cpu0", |device| {
        let status = device.status.as_mut().unwrap();
        status.f32_flops_per_second = Some(crds::Measurement {
            value: 100_000_000_000,
            measured_at: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
            samples: 1,
        });
    });
    let known = cluster.place();
    assert!(known.view.predicted_prefill_us.is_some_and(|us| us > 0));
    assert!(known.view.stages[0].predicted_prefill_us.is_some());
}
