//! Models are moved while they serve.

use std::time::Duration;

use super::*;
use crate::model::moving::Cause;

impl Cluster {
    /// Every stage of a placement is in this phase.
    fn report(&mut self, placement: &InForce, phase: ShardPhase) {
        for (index, stage) in placement.stages().iter().enumerate() {
            let epoch = placement.placement.epoch;
            fixture::report(&mut self.agents, &stage.node, epoch, index as u32, phase);
        }
    }

    /// Places the model, and lets it serve.
    fn serve(&mut self) -> InForce {
        let in_force = self.place();
        self.report(&in_force, ShardPhase::Serving);
        in_force
    }

    fn proposed(&self) -> Option<&InForce> {
        self.state.moving.proposal.as_ref().map(|proposal| &proposal.next)
    }

    /// Decides, and expects that the model goes on and a move is proposed.
    fn proposes(&mut self, cause: Cause) -> InForce {
        let decided = self.decide();
        assert_eq!(decided.new_in_force, None, "{decided:?}");
        let proposal = self.state.moving.proposal.as_ref().expect("a proposal");
        assert_eq!(proposal.cause, cause);
        assert_eq!(
            decided.claims.len(),
            proposal.next.stages().len(),
            "its memory is taken"
        );
        proposal.next.clone()
    }

    fn taint(&mut self, node: &str) {
        let name = format!("{node}-cpu0");
        for device in &mut self.observed.devices {
            if device.metadata.name.as_deref() == Some(name.as_str()) {
                let taint = crds::DeviceTaint {
                    key: "maintenance".into(),
                    value: None,
                    effect: crds::TaintEffect::Evict,
                };
                Arc::make_mut(device).spec.taints.get_or_insert_default().push(taint);
            }
        }
    }
}

/// Two nodes with room for the model twice; it is on `a`.
fn serving_on_one_of_two() -> (Cluster, InForce, &'static str) {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let in_force = cluster.serve();
    assert_eq!(in_force.stages().len(), 1);
    let other = if in_force.stages()[0].node == "a" { "b" } else { "a" };
    (cluster, in_force, other)
}

#[test]
fn a_model_on_a_cordoned_node_is_loaded_elsewhere_before_it_leaves() {
    let (mut cluster, in_force, other) = serving_on_one_of_two();
    cluster.observed.cordoned.insert(in_force.stages()[0].node.clone());
    let next = cluster.proposes(Cause::Leaving);
    assert_eq!(next.stages()[0].node, other);
    assert!(next.placement.epoch > in_force.placement.epoch);
    cluster.report(&next, ShardPhase::Loading);
    let waiting = cluster.decide();
    assert_eq!((waiting.placed, waiting.new_in_force), (Placed::Yes, None));
    let note = waiting.note.expect("people are told");
    assert!(note.contains("0 of 1 stages are loaded"), "{note}");
    cluster.report(&next, ShardPhase::Loaded);
    let over = cluster.place();
    assert_eq!(over.stages(), next.stages());
    assert!(cluster.proposed().is_none(), "it is in force");
    assert!(over.placement.epoch >= next.placement.epoch);
}

#[test]
fn nothing_is_moved_to_a_node_that_is_not_heard_before_it_is_and_what_it_serves_stays() {
    let (mut cluster, in_force, other) = serving_on_one_of_two();
    cluster.observed.cordoned.insert(in_force.stages()[0].node.clone());
    let next = cluster.proposes(Cause::Leaving);
    cluster.report(&next, ShardPhase::Loaded);
    cluster.unheard.insert(other.to_owned());
    cluster.keeps();
    assert_eq!(cluster.proposed(), Some(&next), "it would not hear that it is to serve");
    cluster.unheard.clear();
    let moved = cluster.place();
    assert_eq!(moved.stages(), next.stages());

    cluster.observed.cordoned.clear();
    cluster.report(&moved, ShardPhase::Serving);
    cluster.unheard.insert(other.to_owned());
    cluster.keeps();
    // Nothing new is put there.
    let mut fresh = Cluster::of(&[("a", GIB)]);
    fresh.unheard.insert("a".into());
    let why = fresh.refuses();
    assert!(
        why.message.contains("is on node a, which is not heard"),
        "{}",
        why.message
    );
}

#[test]
fn an_agent_that_is_about_to_end_is_left_like_a_cordoned_node() {
    let (mut cluster, in_force, _) = serving_on_one_of_two();
    let node = &in_force.stages()[0].node;
    cluster.agents.get_mut(node).expect("attached").leaving = true;
    cluster.proposes(Cause::Leaving);
}

#[test]
fn where_nothing_else_has_room_a_model_stays_and_says_so() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    cluster.serve();
    cluster.observed.cordoned.insert("a".into());
    let decided = cluster.decide();
    assert_eq!((decided.placed, decided.new_in_force), (Placed::Yes, None));
    assert_eq!(decided.note.as_deref(), Some("a is cordoned and nothing else has room"));
    // Nothing new is put there.
    let mut fresh = Cluster::of(&[("a", GIB)]);
    fresh.observed.cordoned.insert("a".into());
    let why = fresh.refuses();
    assert!(
        why.message.contains("is on node a, which is cordoned"),
        "{}",
        why.message
    );
}

#[test]
fn a_node_that_was_deleted_while_its_agent_runs_is_left_like_a_cordoned_one_until_it_is_back() {
    let (mut cluster, in_force, other) = serving_on_one_of_two();
    let gone = in_force.stages()[0].node.clone();
    cluster
        .observed
        .node_labels
        .insert(other.to_owned(), Default::default());
    let next = cluster.proposes(Cause::Leaving);
    assert_eq!(next.stages()[0].node, other);
    let note = cluster.decide().note.expect("people are told");
    assert!(note.contains(&format!("{gone} is no Node of the cluster")), "{note}");
    cluster.observed.node_labels.insert(gone, Default::default());
    cluster.keeps();
    assert!(cluster.proposed().is_none(), "it stays where it is");
}

#[test]
fn what_a_deleted_node_holds_stays_where_nothing_else_has_room_and_while_no_node_is_listed() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    cluster.serve();
    cluster.keeps();
    cluster.observed.node_labels.insert("b".to_owned(), Default::default());
    let decided = cluster.decide();
    assert_eq!((decided.placed, decided.new_in_force), (Placed::Yes, None));
    let note = decided.note.expect("people are told");
    assert_eq!(note, "a is no Node of the cluster and nothing else has room");
}

#[test]
fn a_move_that_cannot_be_loaded_is_rolled_back_and_not_tried_again_at_once() {
    let (mut cluster, in_force, other) = serving_on_one_of_two();
    cluster.observed.cordoned.insert(in_force.stages()[0].node.clone());
    let next = cluster.proposes(Cause::Leaving);
    cluster.report(&next, ShardPhase::Failed);
    cluster.keeps();
    assert!(cluster.proposed().is_none());
    let decided = cluster.decide();
    let note = decided.note.expect("people are told");
    assert!(note.contains("rolled back") && note.contains(other), "{note}");
    assert!(cluster.proposed().is_none());
    cluster.now += Duration::from_secs(3600);
    cluster.proposes(Cause::Leaving);
}

#[test]
fn a_device_that_is_tainted_is_left_for_what_is_loaded_beside_it_where_there_is_room_for_both() {
    let (mut cluster, in_force, _) = serving_on_one_of_two();
    let node = in_force.stages()[0].node.clone();
    cluster.taint(&node);
    cluster.proposes(Cause::Required);
}

#[test]
fn another_runtime_is_loaded_beside_the_one_that_serves() {
    let (mut cluster, in_force, _) = serving_on_one_of_two();
    cluster.model.spec.context_length = 512;
    cluster.model.metadata.generation = Some(2);
    let next = cluster.proposes(Cause::Required);
    assert_eq!(next.placement.generation, 2);
    let Placed::NotYet(why) = cluster.decide().placed else {
        panic!("what is asked for is not placed yet");
    };
    assert_eq!(why.reason, reason::MOVING);
    cluster.report(&next, ShardPhase::Failed);
    let why = {
        cluster.decide();
        cluster.refuses()
    };
    assert_eq!(why.reason, reason::MOVE_ROLLED_BACK);
    assert_eq!(cluster.state.in_force.as_ref(), Some(&in_force), "the old one serves");
    // Who asks for something else is heard at once.
    cluster.model.spec.context_length = 768;
    cluster.model.metadata.generation = Some(3);
    cluster.proposes(Cause::Required);
}

#[test]
fn without_room_for_both_a_model_moves_at_once() {
    let mut cluster = Cluster::of(&[("a", 140 << 20)]);
    cluster.serve();
    cluster.model.spec.context_length = 300;
    let decided = cluster.decide();
    assert!(decided.new_in_force.is_some(), "{decided:?}");
    assert!(cluster.proposed().is_none());
}

#[test]
fn what_is_loaded_already_takes_over_at_once_when_what_serves_is_lost() {
    let (mut cluster, in_force, _) = serving_on_one_of_two();
    cluster.observed.cordoned.insert(in_force.stages()[0].node.clone());
    let next = cluster.proposes(Cause::Leaving);
    cluster.report(&next, ShardPhase::Loaded);
    cluster.agents.remove(&in_force.stages()[0].node);
    assert_eq!(cluster.place().stages(), next.stages());
}

fn measured_rate(value: i64) -> crds::Measurement {
    crds::Measurement {
        value,
        measured_at: Time(k8s_openapi::jiff::Timestamp::from_second(NOW).expect("a time")),
        samples: 5,
    }
}

#[test]
fn a_faster_device_that_joins_is_used_once_its_gain_has_lasted() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    let in_force = cluster.serve();
    let mut fast = fixture::cpu("z", GIB);
    let status = Arc::make_mut(&mut fast).status.as_mut().expect("a status");
    status.bandwidth_bytes_per_second = Some(measured_rate(500_000_000_000));
    let slow = Arc::make_mut(&mut cluster.observed.devices[0])
        .status
        .as_mut()
        .expect("a status");
    slow.bandwidth_bytes_per_second = Some(measured_rate(5_000_000_000));
    cluster.observed.devices.push(fast);
    cluster.agents.extend(fixture::agents(&["z"]));
    for _ in 0..10 {
        cluster.keeps();
        assert!(cluster.proposed().is_none());
        cluster.now += Duration::from_secs(60);
    }
    let next = cluster.proposes(Cause::Gain);
    assert_eq!(next.stages()[0].node, "z");
    // It goes again: what serves was never left.
    cluster.agents.remove("z");
    cluster.keeps();
    assert!(cluster.proposed().is_none());
    assert_eq!(cluster.state.in_force.as_ref(), Some(&in_force));
}

/// All nodes are joined by links of a gigabit, but for two that are joined by one of so many bytes a second.
fn joined(nodes: &[&str], slow: [&str; 2], bytes_per_second: u64) -> Links {
    let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
    let apart = pairs.filter(|(from, to)| from != to);
    let link = |(from, to): (&str, &str)| {
        let is_slow = slow.contains(&from) && slow.contains(&to);
        let rate = topology::Rate {
            bytes_per_second: if is_slow { bytes_per_second } else { 117_500_000 },
            origin: topology::Origin::Measured,
        };
        let link = topology::Link { latency_us: 100, rate };
        ((from.to_owned(), to.to_owned()), link)
    };
    apart.map(link).collect()
}

/// A model in two stages on two of three nodes, and these two.
fn serving_over_a_link() -> (Cluster, [String; 2]) {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.require_devices(2);
    cluster.model.spec.placement.max_devices = Some(2);
    cluster.links = joined(&THREE, ["a", "b"], GIGABIT);
    let in_force = cluster.serve();
    let nodes: Vec<String> = in_force.nodes().map(str::to_owned).collect();
    (cluster, nodes.try_into().expect("two stages"))
}

const THREE: [&str; 3] = ["a", "b", "c"];
const GIGABIT: u64 = 117_500_000;
/// A hop of the model, 256 bytes, takes half as long as computing a token.
const SLOW: u64 = 100_000;

#[test]
fn a_link_that_became_slow_is_left_once_that_has_gained_enough_for_long_enough() {
    let (mut cluster, [head, tail]) = serving_over_a_link();
    cluster.keeps();
    cluster.links = joined(&THREE, [&head, &tail], SLOW);
    // From the next look on, for ten minutes.
    for _ in 0..10 {
        cluster.now += Duration::from_secs(60);
        cluster.keeps();
        assert!(cluster.proposed().is_none());
    }
    cluster.now += Duration::from_secs(60);
    let next = cluster.proposes(Cause::Gain);
    let nodes: BTreeSet<&str> = next.nodes().collect();
    assert_ne!(
        nodes,
        BTreeSet::from([head.as_str(), tail.as_str()]),
        "over another link"
    );
    // What serves is left only for what is loaded.
    cluster.report(&next, ShardPhase::Loaded);
    assert_eq!(cluster.place().stages(), next.stages());
}

#[test]
fn a_link_that_is_slow_at_times_moves_nothing() {
    let (mut cluster, [head, tail]) = serving_over_a_link();
    for minute in 0..60 {
        let rate = if minute % 9 == 8 { GIGABIT } else { SLOW };
        cluster.links = joined(&THREE, [&head, &tail], rate);
        cluster.keeps();
        assert!(cluster.proposed().is_none(), "in minute {minute}");
        cluster.now += Duration::from_secs(60);
    }
}

#[test]
fn a_link_that_became_slower_by_less_than_a_token_notices_moves_nothing() {
    let (mut cluster, [head, tail]) = serving_over_a_link();
    // 205 microseconds a hop, of five milliseconds.
    cluster.links = joined(&THREE, [&head, &tail], 1_250_000);
    for _ in 0..30 {
        cluster.keeps();
        assert!(cluster.proposed().is_none());
        cluster.now += Duration::from_secs(60);
    }
}

#[test]
fn what_agents_prepare_at_the_same_time_is_told_apart_by_its_epoch() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB), ("d", GIB)]);
    cluster.require_devices(2);
    cluster.model.spec.placement.max_devices = Some(2);
    let in_force = cluster.serve();
    cluster.keeps();
    cluster.observed.cordoned.insert(in_force.stages()[0].node.clone());
    let next = cluster.proposes(Cause::Leaving);
    let standby = cluster.state.standby.placements().map(|next| next.placement.epoch);
    let mut epochs: Vec<u64> = standby.chain([next.placement.epoch]).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 3, "a move and two losses");
    assert!(epochs[0] > in_force.placement.epoch);
}

#[test]
fn looks_ahead_wait_until_there_is_time_for_them_and_a_loss_does_not() {
    let (mut cluster, in_force, other) = serving_on_one_of_two();
    cluster.leisure = false;
    assert_eq!(cluster.decide().ahead, Ahead::Due);
    assert_eq!(cluster.state.standby.placements().count(), 0);
    cluster.leisure = true;
    assert_eq!(cluster.decide().ahead, Ahead::Looked);
    assert_eq!(
        cluster.state.standby.placements().count(),
        1,
        "the loss is stood by for"
    );
    assert_eq!(cluster.decide().ahead, Ahead::Nothing, "nothing is due for a while");
    cluster.leisure = false;
    cluster.agents.remove(&in_force.stages()[0].node);
    assert_eq!(cluster.place().stages()[0].node, other);
}
