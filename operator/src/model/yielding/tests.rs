//! Several models on a few nodes, pass after pass, as the loop decides them.

mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crds::conditions::ConditionStatus;
use identity::{PlacementSigner, PlacementVerifier};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use proto::control::v1::{ShardPhase, ShardStatus};
use topology::Links;

use super::*;
use crate::agents::AgentView;
use crate::model::away::Away;
use crate::model::decide::{World, decide};
use crate::model::fixture;
use crate::model::gain::Threshold;
use crate::model::observe::Observed;
use crate::model::reports::Reports;
use crate::model::status::{self, Sight};
use crate::model::term::Term;

const MIB: u64 = 1 << 20;
const NOW: i64 = 1_800_000_000;
/// Passes after which everything must have come to rest: each model yields, moves and is placed at most once or twice.
const PASSES_MAX: usize = 24;

/// A cluster whose agents do at once what they are told, but for those that linger.
struct Fleet {
    observed: Observed,
    agents: BTreeMap<String, AgentView>,
    term: Term,
    signer: PlacementSigner,
    usable_bytes: BTreeMap<String, u64>,
    /// Shards that were given up and are still in memory: uid, epoch, device, bytes.
    lingering: Vec<(String, u64, String, u64)>,
    /// Models whose status cannot be written at the moment.
    unwritten: BTreeSet<String>,
    /// Nodes whose agents are on their way to a new leader.
    awaited: BTreeSet<String>,
    links: Links,
    threshold: Threshold,
}

impl Fleet {
    fn of(nodes_mib: &[u64]) -> Self {
        let names: Vec<String> = (0..nodes_mib.len()).map(|at| format!("n{at}")).collect();
        let usable = names.iter().zip(nodes_mib);
        Self {
            observed: Observed {
                devices: usable
                    .clone()
                    .map(|(name, mib)| fixture::cpu(name, (mib * MIB) as i64))
                    .collect(),
                ..Default::default()
            },
            agents: fixture::agents(&names.iter().map(String::as_str).collect::<Vec<_>>()),
            term: Term::begin(Instant::now()),
            signer: PlacementSigner::generate().unwrap(),
            usable_bytes: usable.map(|(name, mib)| (format!("{name}-cpu0"), mib * MIB)).collect(),
            lingering: Vec::new(),
            unwritten: BTreeSet::new(),
            awaited: BTreeSet::new(),
            links: Links::default(),
            threshold: Threshold::default(),
        }
    }

    /// A model of six layers of so many mebibytes each, on one device, younger than those before it, and resolved.
    fn add(&mut self, name: &str, priority: i32, layer_mib: u64) {
        self.add_on(Some(1), name, priority, layer_mib);
    }

    fn add_on(&mut self, max_devices: Option<i32>, name: &str, priority: i32, layer_mib: u64) {
        let mut model = fixture::model();
        model.metadata.name = Some(name.into());
        model.metadata.uid = Some(name.into());
        let age = self.observed.models.len() as i64;
        model.metadata.creation_timestamp = Some(Time(Timestamp::from_second(NOW + age).unwrap()));
        model.spec.priority = priority;
        model.spec.placement.max_devices = max_devices;
        self.observed.models.push(Arc::new(model));
        let mut facts = fixture::facts();
        facts.layer_bytes = vec![layer_mib * MIB; fixture::LAYERS as usize];
        facts.layer_active_bytes = facts.layer_bytes.clone();
        self.recall();
        let inspection = &mut self.term.models.get_mut(name).unwrap().inspection;
        inspection.asked("n0".into(), 0, 1, Instant::now());
        assert!(inspection.answered("n0", 1, Ok(Arc::new(facts))));
    }

    /// One more node.
    fn join(&mut self, node: &str, mib: u64) {
        self.observed.devices.push(fixture::cpu(node, (mib * MIB) as i64));
        self.agents.extend(fixture::agents(&[node]));
        self.usable_bytes.insert(format!("{node}-cpu0"), mib * MIB);
    }

    fn remove(&mut self, name: &str) {
        let named = |model: &Arc<InferenceModel>| model.metadata.uid.as_deref() == Some(name);
        self.observed.models.retain(|model| !named(model));
        self.recall();
    }

    fn recall(&mut self) {
        let verifier = PlacementVerifier::new([self.signer.public_key()]).unwrap();
        self.term.recall(&self.observed.models, &verifier);
    }

    /// One pass as the loop makes it; whether anything changed. Shards that are no longer wanted linger.
    fn pass(&mut self) -> bool {
        self.observed.models.sort_by(|a, b| turn(a).cmp(&turn(b)));
        let reports = Arc::new(Reports::of(&self.observed.devices));
        let (seen, now) = ((&self.observed, reports), Instant::now());
        let mut world = World::new(seen, &self.agents, &self.awaited, now, NOW)
            .with_links(self.links.clone())
            .with_threshold(self.threshold);
        for (uid, state) in &self.term.models {
            if let Some(facts) = state.facts() {
                world.holders.knows(uid, &facts);
            }
            state
                .in_force
                .iter()
                .for_each(|in_force| world.holders.hold(uid, in_force));
            state
                .yielded
                .iter()
                .for_each(|record| world.holders.has_yielded(uid, record));
        }
        let mut decisions = Vec::new();
        for model in &self.observed.models {
            let uid = model.metadata.uid.clone().unwrap();
            let state = self.term.models.get_mut(&uid).unwrap();
            let decided = decide(&world, model, state, &self.signer);
            world.holders.heed(&uid, &decided);
            decisions.push((uid, decided));
        }
        let mut changed = false;
        for (uid, decided) in decisions {
            if !self.unwritten.contains(&uid) {
                changed |= self.write(&uid, decided);
            }
        }
        self.report();
        self.is_sound();
        changed
    }

    fn write(&mut self, uid: &str, decided: Decided) -> bool {
        let priority = |uid: &str| {
            self.observed
                .models
                .iter()
                .find(|m| m.metadata.uid.as_deref() == Some(uid))
                .unwrap()
                .spec
                .priority
        };
        let state = &self.term.models[uid];
        let moves = decided.withdrawn || replaces(&decided, state.in_force.as_ref());
        let changed = moves || decided.yielded != state.yielded;
        if moves && let Some(old) = &state.in_force {
            let record = decided
                .yielded
                .as_ref()
                .expect("only who yields loses a place that is sound");
            assert!(priority(&record.to_uid) > priority(uid), "{record:?}");
            let gone = translate::held(old).map(|held| (uid.to_owned(), old.placement.epoch, held.device, held.bytes));
            self.lingering.extend(gone);
        }
        let message = self.message(uid, &decided);
        let state = self.term.models.get_mut(uid).unwrap();
        let status = crds::InferenceModelStatus {
            yielded: decided.yielded.clone(),
            conditions: message,
            ..Default::default()
        };
        state.wrote(status, decided.new_in_force, Instant::now());
        state.has_yielded(decided.yielded, decided.withdrawn);
        changed
    }

    fn message(&self, uid: &str, decided: &Decided) -> Vec<crds::conditions::Condition> {
        let model = self
            .observed
            .models
            .iter()
            .find(|m| m.metadata.uid.as_deref() == Some(uid))
            .unwrap();
        let state = &self.term.models[uid];
        let stays = state.in_force.as_ref().filter(|_| !decided.withdrawn);
        let sight = Sight {
            model,
            resolution: &state.inspection.resolution(),
            resolved: None,
            unreachable: None,
            learned: None,
            learned_pace: &[],
            placed: &decided.placed,
            yielded: decided.yielded.as_ref(),
            note: None,
            held: None,
            unheard: None,
            away: &Away::default(),
            recovery: (ConditionStatus::Unknown, Why::new("NotServing", "")),
            in_force: decided
                .new_in_force
                .as_ref()
                .or(stays)
                .map(|in_force| (in_force, &[][..])),
        };
        status::status(&sight, None, &Time(Timestamp::UNIX_EPOCH)).conditions
    }

    /// Everything in force serves, and what lingers is still reported.
    fn report(&mut self) {
        let shard = |uid: &str, epoch: u64, stage: u32, endpoint: &str| ShardStatus {
            model_uid: uid.into(),
            epoch,
            stage,
            phase: ShardPhase::Serving.into(),
            endpoint: endpoint.into(),
            ..Default::default()
        };
        for (node, agent) in &mut self.agents {
            let placed = self.term.models.values().filter_map(|state| state.in_force.as_ref());
            let mut shards: Vec<ShardStatus> = placed
                .flat_map(|in_force| {
                    in_force
                        .stages()
                        .into_iter()
                        .enumerate()
                        .map(move |stage| (in_force, stage))
                })
                .filter(|(_, (_, stage))| stage.node == *node)
                .map(|(in_force, (at, _))| shard(in_force.model_uid(), in_force.placement.epoch, at as u32, "n:7000"))
                .collect();
            let here = format!("{node}-cpu0");
            let lingering = self.lingering.iter().filter(|(_, _, device, _)| *device == here);
            shards.extend(lingering.map(|(uid, epoch, ..)| shard(uid, *epoch, 0, "n:7000")));
            agent.shards = shards.into();
        }
    }

    /// What lingers is gone.
    fn unload(&mut self) {
        self.lingering.clear();
        self.report();
    }

    /// No device is given more than it has, what others have yet to leave included.
    fn is_sound(&self) {
        for (device, usable) in &self.usable_bytes {
            let placed = self.term.models.iter().flat_map(|(uid, state)| {
                let held = state.in_force.iter().flat_map(translate::held);
                held.map(move |held| (uid.as_str(), held.device, held.bytes))
            });
            let lingering = self
                .lingering
                .iter()
                .map(|(uid, _, device, bytes)| (uid.as_str(), device.clone(), *bytes));
            // A model's own shards replace each other.
            let mut by_model: BTreeMap<&str, u64> = BTreeMap::new();
            for (uid, _, bytes) in placed.chain(lingering).filter(|(_, on, _)| on == device) {
                let most = by_model.entry(uid).or_default();
                *most = bytes.max(*most);
            }
            let sum: u64 = by_model.values().sum();
            assert!(sum <= *usable, "{device} has {usable} bytes: {by_model:?}");
        }
    }

    /// Passes until nothing changes; what lingers goes between them.
    fn settle(&mut self) {
        for _ in 0..PASSES_MAX {
            let changed = self.pass();
            let lingered = !self.lingering.is_empty();
            self.unload();
            if !changed && !lingered {
                assert!(!self.pass(), "it does not rest");
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// So many models, `m0`, `m1` and so on, come one after the other, then that of a number goes, if there is one; all rests in the end.
    /// `add`: adds the one of a number under a name, and says whether the next comes only once this one rests.
    fn comes_to_rest(&mut self, count: usize, gone: usize, mut add: impl FnMut(&mut Self, &str, usize) -> bool) {
        for at in 0..count {
            // Some come before the others are at rest, while shards still linger.
            if add(self, &format!("m{at}"), at) {
                self.settle();
            } else {
                self.pass();
            }
        }
        self.settle();
        if gone < count {
            self.remove(&format!("m{gone}"));
            self.settle();
        }
    }

    fn devices(&self, name: &str) -> Vec<&str> {
        let in_force = self.term.models[name].in_force.as_ref();
        let stages = in_force.map(InForce::stages).unwrap_or_default();
        stages.iter().map(|stage| stage.device.as_str()).collect()
    }

    /// Reason and message of condition Placed.
    fn placed(&self, name: &str) -> (String, String) {
        let model = self
            .observed
            .models
            .iter()
            .find(|m| m.metadata.uid.as_deref() == Some(name))
            .unwrap();
        let status = self.term.models[name].previous(model).expect("a status");
        let placed = crds::conditions::find(&status.conditions, "Placed").expect("Placed");
        (placed.reason.clone(), placed.message.clone())
    }
}

#[test]
fn a_higher_model_takes_a_lower_ones_device_and_both_say_so() {
    let mut fleet = Fleet::of(&[200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    fleet.add("big", 10, 10);
    fleet.settle();
    assert_eq!(
        (fleet.devices("big"), fleet.devices("small")),
        (vec!["n0-cpu0"], vec![])
    );
    let (reason, message) = fleet.placed("small");
    assert_eq!(reason, "Yielded");
    assert!(
        message.starts_with("yielded n0-cpu0 to default/big (priority 10 > 0); "),
        "{message}"
    );
    let (_, message) = fleet.placed("big");
    assert!(
        message.ends_with("took n0-cpu0 from default/small (priority 0)"),
        "{message}"
    );
}

#[test]
fn the_higher_model_waits_until_the_lower_ones_shards_have_left() {
    let mut fleet = Fleet::of(&[200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    fleet.add("big", 10, 10);
    for _ in 0..3 {
        fleet.pass();
        assert_eq!((fleet.devices("big"), fleet.devices("small")), (vec![], vec![]));
        let (reason, message) = fleet.placed("big");
        assert_eq!(reason, "AwaitsMemory");
        assert_eq!(message, "waits until the memory is free that default/small gave up");
    }
    fleet.unload();
    fleet.pass();
    assert_eq!(fleet.devices("big"), ["n0-cpu0"]);
}

#[test]
fn a_model_that_yielded_and_finds_another_place_still_leaves_the_first_before_others_load_there() {
    let mut fleet = Fleet::of(&[200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    // Too large for the node that joins.
    fleet.add("big", 10, 18);
    fleet.pass();
    fleet.join("n1", 160);
    for _ in 0..3 {
        fleet.pass();
        assert_eq!((fleet.devices("big"), fleet.devices("small")), (vec![], vec![]));
    }
    fleet.settle();
    assert_eq!(
        (fleet.devices("big"), fleet.devices("small")),
        (vec!["n0-cpu0"], vec!["n1-cpu0"])
    );
}

#[test]
fn nothing_is_placed_while_the_lower_ones_status_cannot_be_written() {
    let mut fleet = Fleet::of(&[200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    fleet.add("big", 10, 10);
    fleet.unwritten.insert("small".into());
    for _ in 0..3 {
        fleet.pass();
        assert_eq!(
            (fleet.devices("big"), fleet.devices("small")),
            (vec![], vec!["n0-cpu0"])
        );
    }
    fleet.unwritten.clear();
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0"]);
}

#[test]
fn nothing_is_taken_while_agents_are_on_their_way_to_a_new_leader() {
    let mut fleet = Fleet::of(&[200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    fleet.add("big", 10, 10);
    fleet.awaited.insert("n9".into());
    fleet.settle();
    assert_eq!(fleet.devices("small"), ["n0-cpu0"]);
    fleet.awaited.clear();
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0"]);
}

#[test]
fn equals_and_higher_ones_never_yield() {
    for priority in [5, 0, -5] {
        let mut fleet = Fleet::of(&[200]);
        fleet.add("first", 5, 10);
        fleet.settle();
        fleet.add("second", priority, 10);
        fleet.settle();
        assert_eq!(
            (fleet.devices("first"), fleet.devices("second")),
            (vec!["n0-cpu0"], vec![])
        );
        assert_eq!(fleet.placed("second").0, "InsufficientMemory");
    }
}

#[test]
fn a_lower_model_that_fits_elsewhere_is_moved_there() {
    let mut fleet = Fleet::of(&[400, 200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    let before = fleet.devices("small")[0].to_owned();
    // It needs the larger node, whichever the small one is on.
    fleet.add("big", 1, 45);
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0"], "{:?}", fleet.placed("big"));
    assert_eq!(fleet.devices("small"), ["n1-cpu0"]);
    if before == "n0-cpu0" {
        let (reason, message) = fleet.placed("small");
        assert_eq!(reason, "Placed");
        assert!(
            message.ends_with("yielded n0-cpu0 to default/big (priority 1 > 0)"),
            "{message}"
        );
    }
}

#[test]
fn one_lower_model_yields_where_one_will_do_and_it_is_the_lowest() {
    let mut fleet = Fleet::of(&[200, 200, 200]);
    for (name, priority) in [("a", 1), ("b", 0), ("c", 1)] {
        fleet.add(name, priority, 10);
        fleet.settle();
    }
    fleet.add("big", 2, 10);
    fleet.settle();
    assert_eq!(fleet.devices("b"), Vec::<&str>::new());
    assert!(["a", "c", "big"].iter().all(|name| !fleet.devices(name).is_empty()));
}

#[test]
fn a_model_that_yielded_is_placed_when_there_is_room_and_under_a_higher_epoch() {
    let mut fleet = Fleet::of(&[200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    fleet.add("big", 10, 10);
    fleet.settle();
    fleet.remove("big");
    fleet.settle();
    assert_eq!(fleet.devices("small"), ["n0-cpu0"]);
    let state = &fleet.term.models["small"];
    assert_eq!(state.in_force.as_ref().unwrap().placement.epoch, 2);
    assert_eq!(
        (state.yielded.as_ref(), fleet.placed("small").0.as_str()),
        (None, "Placed")
    );
}

#[test]
fn a_new_leader_knows_who_yielded_and_uses_no_epoch_again() {
    let mut fleet = Fleet::of(&[200]);
    fleet.add("small", 0, 10);
    fleet.settle();
    fleet.add("big", 10, 10);
    fleet.settle();
    let small = fleet
        .observed
        .models
        .iter_mut()
        .find(|model| model.spec.priority == 0)
        .unwrap();
    let yielded = fleet.term.models["small"].yielded.clone();
    Arc::make_mut(small).status = Some(crds::InferenceModelStatus {
        yielded: yielded.clone(),
        ..Default::default()
    });
    fleet.term = Term::begin(Instant::now());
    fleet.recall();
    let state = &fleet.term.models["small"];
    assert!(yielded.is_some() && state.yielded == yielded);
    assert_eq!(state.next_epoch("small", &BTreeMap::new(), []), 2);
}

#[test]
fn what_was_taken_is_told_in_no_more_words_than_the_api_accepts() {
    let link = |at: usize| YieldedLink {
        from: format!("a-node-of-a-large-cluster-{at}"),
        to: format!("a-node-of-a-large-cluster-{}", at + 1),
    };
    let record = Yielded {
        links: (0..63).map(link).collect(),
        ..Yielded::default()
    };
    let told = took([("default/small".to_owned(), &record)]).expect("something");
    assert!(told.starts_with("took the link a-node-of-a-large-cluster-0 -> a-node-of-a-large-cluster-1, "));
    assert_eq!(told.len(), 1024);
}

#[test]
fn the_smallest_choice_is_found_by_its_highest_member_and_of_many_none_is_left_in_without_need() {
    let needs = |needed: u64, sizes: Vec<u64>| {
        fewest(sizes.len(), |chosen| {
            let sum: u64 = chosen.iter().map(|at| sizes[*at]).sum();
            (sum >= needed).then_some(sum)
        })
    };
    assert_eq!(needs(5, vec![4, 5, 9]), Some((vec![1], 5)));
    assert_eq!(needs(8, vec![4, 5, 4, 9]), Some((vec![3], 9)));
    assert_eq!(needs(8, vec![2, 4, 4, 4]), Some((vec![1, 2], 8)));
    assert_eq!(needs(99, vec![4, 5, 9]), None);
    // Four of twenty are more choices than are tried.
    assert_eq!(needs(4, vec![1; 20]), Some((vec![0, 1, 2, 3], 4)));
    let every: Vec<Vec<usize>> = {
        let (mut chosen, mut all) = (vec![0, 1], vec![vec![0, 1]]);
        while advance(&mut chosen, 4) {
            all.push(chosen.clone());
        }
        all
    };
    assert_eq!(every, [[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Checked after every pass: no device is given away twice, and nobody loses its place to an equal or a lower one.
    #[test]
    fn models_of_any_priority_come_to_rest_and_stay_there(
        nodes in prop::collection::vec(120_u64..420, 1..4),
        models in prop::collection::vec((-1_i32..3, 5_u64..50, 1_i32..4, any::<bool>()), 1..5),
        gone in 0_usize..8,
    ) {
        Fleet::of(&nodes).comes_to_rest(models.len(), gone, |fleet, name, at| {
            let (priority, layer_mib, devices, waits) = models[at];
            fleet.add_on(Some(devices), name, priority, layer_mib);
            waits
        });
    }
}
