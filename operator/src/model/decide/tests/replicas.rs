//! Models of several replicas: which are placed, which stay, and what is looked ahead for them.

use std::time::Duration;

use super::*;
use crate::model::moving::Cause;

impl Cluster {
    /// Every stage of every pipeline is in this phase.
    fn all_report(&mut self, placement: &InForce, phase: ShardPhase) {
        let epoch = placement.placement.epoch;
        for (pipeline, stages) in placement.pipelines().iter().enumerate() {
            for (index, stage) in stages.stages.iter().enumerate() {
                fixture::report_of(
                    &mut self.agents,
                    &stage.node,
                    epoch,
                    (pipeline as u32, index as u32),
                    phase,
                );
            }
        }
    }

    fn serve_all(&mut self) -> InForce {
        let in_force = self.place();
        self.all_report(&in_force, ShardPhase::Serving);
        in_force
    }

    /// Nodes join, or their devices turn out to be so fast, in gigabytes a second.
    fn runs_at(&mut self, nodes: &[(&str, i64)]) {
        for (node, gigabytes) in nodes {
            let name = format!("{node}-cpu0");
            if !self.agents.contains_key(*node) {
                self.observed.devices.push(fixture::cpu(node, GIB));
                self.agents.extend(fixture::agents(&[node]));
            }
            change(self, &name, |object| {
                let status = object.status.as_mut().expect("a status");
                status.bandwidth_bytes_per_second = Some(crds::Measurement {
                    value: gigabytes * 1_000_000_000,
                    measured_at: Time(k8s_openapi::jiff::Timestamp::from_second(NOW).expect("a time")),
                    samples: 5,
                });
            });
        }
    }

    /// Looks a minute apart for as long as a gain must last: nothing is moved before.
    fn lasts(&mut self) -> InForce {
        for _ in 0..10 {
            self.keeps();
            assert!(self.state.moving.proposal.is_none());
            self.now += Duration::from_secs(60);
        }
        let decided = self.decide();
        assert_eq!(decided.new_in_force, None, "{decided:?}");
        let proposal = self.state.moving.proposal.as_ref().expect("a proposal");
        assert_eq!(proposal.cause, Cause::Gain);
        proposal.next.clone()
    }
}

/// Two replicas, each on one of two nodes.
fn serving_on_two() -> (Cluster, InForce) {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.runs_at(&[("a", 6), ("b", 5)]);
    cluster.model.spec.replicas = 2;
    let in_force = cluster.serve_all();
    assert_eq!(replicas_of(&in_force), [["a-cpu0"], ["b-cpu0"]]);
    (cluster, in_force)
}

#[test]
fn of_two_replicas_the_one_that_gains_most_moves_to_a_faster_device_and_the_other_stays() {
    let (mut cluster, in_force) = serving_on_two();
    cluster.runs_at(&[("z", 500)]);
    let next = cluster.lasts();
    assert_eq!(replicas_of(&next), [["a-cpu0"], ["z-cpu0"]]);
    assert_eq!(next.pipelines()[0], in_force.pipelines()[0]);
    cluster.all_report(&next, ShardPhase::Loaded);
    assert_eq!(cluster.place().stages(), next.stages());
}

#[test]
fn a_replica_is_not_moved_to_a_device_of_another_nor_for_a_gain_that_goes_again() {
    let (mut cluster, _) = serving_on_two();
    for minute in 0..30 {
        cluster.keeps();
        assert!(cluster.state.moving.proposal.is_none());
        cluster.now += Duration::from_secs(60);
        // It is gone in every ninth minute.
        let joins = if minute % 9 == 0 { 1 } else { 500 };
        cluster.runs_at(&[("z", joins)]);
    }
}

/// Two fast devices and two slow ones, of which each replica needs two.
#[test]
fn replicas_that_share_devices_badly_since_one_was_there_first_are_placed_anew_together() {
    let mut cluster = Cluster::of(&[]);
    cluster.runs_at(&[("a", 60), ("b", 60), ("c", 1), ("d", 1)]);
    cluster.require_devices(2);
    cluster.model.spec.placement.max_devices = Some(2);
    let alone = cluster.serve_all();
    let nodes: BTreeSet<&str> = alone.nodes().collect();
    assert_eq!(nodes, BTreeSet::from(["a", "b"]));
    cluster.model.spec.replicas = 2;
    let both = cluster.lasts_after_growing(&alone);
    let mixed = |pipeline: &proto::placement::v1::Pipeline| {
        let nodes: BTreeSet<&str> = pipeline.stages.iter().map(|stage| stage.node.as_str()).collect();
        nodes.intersection(&BTreeSet::from(["a", "b"])).count() == 1
    };
    assert!(both.pipelines().iter().all(mixed), "{:?}", replicas_of(&both));
}

impl Cluster {
    /// The further replica is placed beside the first, and all of them together once that has been better for long.
    fn lasts_after_growing(&mut self, alone: &InForce) -> InForce {
        let decided = self.decide();
        let grown = decided.new_in_force.or_else(|| {
            let proposal = self.state.moving.proposal.as_ref();
            proposal.map(|proposal| proposal.next.clone())
        });
        let grown = grown.expect("a second replica");
        assert_eq!(grown.pipelines()[0], alone.pipelines()[0], "what serves stays");
        if self.state.moving.proposal.is_some() {
            self.all_report(&grown, ShardPhase::Loaded);
            assert_eq!(self.place().stages(), grown.stages());
        } else {
            self.state.wrote(Default::default(), Some(grown.clone()), self.now);
        }
        let grown = self.state.in_force.clone().expect("in force");
        self.all_report(&grown, ShardPhase::Serving);
        self.lasts()
    }
}

#[test]
fn the_loss_of_a_node_is_stood_by_for_by_what_takes_the_place_of_its_replica_alone() {
    let (mut cluster, in_force) = serving_on_two();
    let judge = |cluster: &Cluster| {
        let (status, why) = cluster.state.standby.judge(|next| stages::look(next, &cluster.agents));
        (status, why.message)
    };
    cluster.keeps();
    let (status, message) = judge(&cluster);
    assert_eq!(status, ConditionStatus::False);
    assert!(
        message.starts_with("the loss of a leaves 1 of 2 replicas: "),
        "{message}"
    );
    assert!(message.contains("b-cpu0 holds another replica"), "{message}");
    // With a spare node each loss has its answer.
    cluster.runs_at(&[("c", 1)]);
    cluster.now += Duration::from_secs(300);
    cluster.keeps();
    let next: Vec<Vec<Vec<String>>> = cluster.state.standby.placements().map(replicas_of).collect();
    assert_eq!(next, [[["c-cpu0"], ["b-cpu0"]], [["a-cpu0"], ["c-cpu0"]]]);
    let epochs: BTreeSet<u64> = cluster
        .state
        .standby
        .placements()
        .map(|next| next.placement.epoch)
        .collect();
    assert!(epochs.len() == 2 && epochs.iter().all(|epoch| *epoch > in_force.placement.epoch));
    let placements: Vec<InForce> = cluster.state.standby.placements().cloned().collect();
    placements
        .iter()
        .for_each(|next| cluster.all_report(next, ShardPhase::Fetched));
    let (status, message) = judge(&cluster);
    assert_eq!(status, ConditionStatus::True, "{message}");
    assert!(message.contains("any one of a, b is survived"), "{message}");
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
