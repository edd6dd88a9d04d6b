mod devices;
mod groups;
mod links;
mod memory;
mod moves;
mod replicas;
mod support;
mod taking;

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
use crate::model::groups::Groups;
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
    unheard: BTreeSet<String>,
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
            unheard: BTreeSet::new(),
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
        let groups = Groups::of(&self.observed.links);
        let mut world = world.with_links(self.links.clone()).with_groups(Arc::new(groups));
        world.paces = self.paces.clone();
        world.leisure = self.leisure;
        world.unheard = self.unheard.clone();
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

/// Changes the object of one device.
fn change(cluster: &mut Cluster, device: &str, change: impl FnOnce(&mut crds::DeviceGPUState)) {
    let objects = &mut cluster.observed.devices;
    let object = objects
        .iter_mut()
        .find(|object| object.metadata.name.as_deref() == Some(device));
    change(Arc::make_mut(object.expect("the device")));
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
    let nodes = [(other, "x"), (before.stages()[0].node.as_str(), "y")];
    cluster.observed.node_labels = nodes.map(|(node, zone)| (node.to_owned(), label(zone).into())).into();
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
fn an_agent_that_holds_nothing_lifts_no_epoch() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let placed = cluster.place();
    let other = if placed.stages()[0].node == "a" { "b" } else { "a" };
    let epochs = &mut cluster.agents.get_mut(other).unwrap().epochs;
    epochs.insert(fixture::UID.into(), crate::agents::registry::EPOCH_MAX);
    cluster.keeps();
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
