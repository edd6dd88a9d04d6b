use std::collections::BTreeSet;

use crds::StagePhase;
use proto::control::v1::ShardPhase;

use super::*;
use crate::model::{fixture, stages};

const MIB: u64 = 1 << 20;

fn proposal(nodes: &[&str]) -> Proposal {
    Proposal {
        next: fixture::in_force(5, nodes),
        cause: Cause::Required,
        since: Instant::now(),
    }
}

/// What becomes of a proposal over two nodes whose shards are in these phases.
fn judged(phases: [ShardPhase; 2]) -> Verdict {
    let (proposal, mut agents) = (proposal(&["a", "b"]), fixture::agents(&["a", "b"]));
    fixture::report(&mut agents, "a", 5, 0, phases[0]);
    fixture::report(&mut agents, "b", 5, 1, phases[1]);
    proposal.judge(&stages::look(&proposal.next, &agents), proposal.since)
}

#[test]
fn a_proposal_takes_over_once_every_stage_holds_its_weights() {
    assert_eq!(
        judged([ShardPhase::Loading, ShardPhase::Loaded]),
        Verdict::Wait { loaded: 1 }
    );
    assert_eq!(judged([ShardPhase::Loaded, ShardPhase::Loaded]), Verdict::CutOver);
    // A stage that both placements have need not be loaded again.
    assert_eq!(judged([ShardPhase::Serving, ShardPhase::Loaded]), Verdict::CutOver);
}

#[test]
fn a_proposal_that_fails_or_loses_a_node_or_takes_for_ever_is_dropped() {
    let Verdict::RollBack { cause } = judged([ShardPhase::Loaded, ShardPhase::Failed]) else {
        panic!("it goes on");
    };
    assert_eq!(cause, "b-cpu0 failed: OutOfMemory");
    let proposal = proposal(&["a", "b"]);
    let mut sights = stages::look(&proposal.next, &fixture::agents(&["a", "b"]));
    assert_eq!(proposal.judge(&sights, proposal.since), Verdict::Wait { loaded: 0 });
    let late = proposal.judge(&sights, proposal.since + LOAD_LIMIT);
    assert!(matches!(late, Verdict::RollBack { cause } if cause.contains("15 minutes")));
    sights[1].attached = false;
    assert!(matches!(
        proposal.judge(&sights, proposal.since),
        Verdict::RollBack { .. }
    ));
    assert_eq!(sights[1].phase, StagePhase::Pending);
}

#[test]
fn after_a_failure_no_move_is_made_for_a_while_unless_the_spec_changes() {
    let (mut moving, now) = (Moving::default(), Instant::now());
    moving.heed(Some(1));
    moving.rolled_back("no room".into(), now);
    assert_eq!(moving.rests(now), Some("no room"));
    assert!(moving.wakes_at().is_some());
    assert_eq!(moving.rests(now + retry::DEVICE.cap), None);
    moving.heed(Some(1));
    assert!(moving.rests(now).is_some());
    moving.heed(Some(2));
    assert_eq!(moving.rests(now), None);
}

/// A placement of stages: node, first layer, end, MiB.
fn planned(stages: &[(&str, u32, u32, u64)]) -> InForce {
    let stage = |(node, first_layer, end_layer, mib): &(&str, u32, u32, u64)| Stage {
        node: (*node).to_owned(),
        device: format!("{node}-cpu0"),
        backend: "cpu".into(),
        first_layer: *first_layer,
        end_layer: *end_layer,
        weight_root: Vec::new(),
        memory_budget_bytes: mib * MIB,
    };
    let mut placement = fixture::in_force(2, &["a"]).placement;
    placement.pipelines[0].stages = stages.iter().map(stage).collect();
    fixture::signed(placement)
}

#[test]
fn two_placements_fit_beside_each_other_where_each_device_and_pool_has_room_for_both() {
    let reports = ["a", "b", "c"].map(|node| {
        let state = fixture::cpu(node, 100 * MIB as i64);
        topology::DeviceReport::from_state(&state).unwrap()
    });
    let topology = topology::build(&topology::Input {
        devices: reports.to_vec(),
        attached_nodes: BTreeSet::from(["a", "b", "c"].map(str::to_owned)),
        ..Default::default()
    });
    // Thirty MiB on each of a and b.
    let in_force = fixture::in_force(1, &["a", "b"]);
    let fits = |stages: &[(&str, u32, u32, u64)], same| fits_beside(&topology, &in_force, &planned(stages), same);
    assert!(fits(&[("a", 0, 3, 30), ("c", 3, 6, 90)], true));
    assert!(fits(&[("a", 0, 2, 60), ("c", 2, 6, 60)], true));
    assert!(
        !fits(&[("a", 0, 2, 80), ("c", 2, 6, 60)], true),
        "a holds the old stage still"
    );
    assert!(fits(&[("a", 0, 3, 80), ("c", 3, 6, 60)], true), "a keeps its stage");
    assert!(
        !fits(&[("a", 0, 3, 80), ("c", 3, 6, 60)], false),
        "of other weights it keeps nothing"
    );
}

#[test]
fn devices_that_work_as_one_hold_equal_parts_of_what_is_beside_them() {
    let cards = [0, 1].map(|index| {
        let state = fixture::card("a", index, 100 * MIB as i64);
        topology::DeviceReport::from_state(&state).unwrap()
    });
    let topology = topology::build(&topology::Input {
        devices: cards.to_vec(),
        attached_nodes: BTreeSet::from(["a".to_owned()]),
        ..Default::default()
    });
    let on = |device: &str, mib| {
        let mut placement = planned(&[("a", 0, 6, mib)]).placement;
        placement.pipelines[0].stages[0].device = device.to_owned();
        fixture::signed(placement)
    };
    let pair = |mib| on("a-cuda0+a-cuda1", mib);
    // Both hold sixty.
    let fits = |next: &InForce| fits_beside(&topology, &pair(120), next, true);
    assert!(fits(&on("a-cuda0", 40)) && !fits(&on("a-cuda1", 41)));
    assert!(fits(&pair(120)), "nothing new is loaded");
    let other_layers = |mib| {
        let mut placement = pair(mib).placement;
        placement.pipelines[0].stages[0].first_layer = 1;
        fixture::signed(placement)
    };
    assert!(fits(&other_layers(80)) && !fits(&other_layers(82)));
}
