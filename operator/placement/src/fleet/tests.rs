use std::collections::BTreeSet;

use topology::{Device, Kind, Member, Origin, Pool, Rate, Topology};

use super::*;
use crate::{Constraints, Layer, Model, check_fleet};

const MIB: u64 = 1 << 20;

/// Discrete cards, each on its own node, of so many mebibytes and so many gigabytes per second; four layers of 100 MiB.
fn problem(cards: &[(u64, u64)]) -> Problem {
    let rate = |gigabytes: u64| Rate {
        bytes_per_second: gigabytes * 1_000_000_000,
        origin: Origin::Measured,
    };
    let device = |(at, (mib, gigabytes)): (usize, &(u64, u64))| Device {
        name: format!("d{at:02}"),
        node: format!("n{at:02}"),
        node_labels: Default::default(),
        vendor: "v".to_owned(),
        model: String::new(),
        backend: "cuda".to_owned(),
        kind: Kind::Discrete,
        pool: at,
        usable_bytes: mib * MIB,
        fixed_bytes: 0,
        bandwidth: rate(*gigabytes),
        steps: None,
        launch_us: 100,
        flops_per_second: None,
        thermal_headroom_percent: None,
        taints: Vec::new(),
        members: Vec::new(),
    };
    let pool = |(at, (mib, gigabytes)): (usize, &(u64, u64))| Pool {
        name: format!("p{at:02}"),
        usable_bytes: mib * MIB,
        held_bytes: 0,
        bandwidth: rate(*gigabytes),
    };
    Problem {
        model: Model {
            name: "m".to_owned(),
            layers: vec![
                Layer {
                    weight_bytes: 100 * MIB,
                    active_bytes: 100 * MIB,
                    kv_bytes: 0,
                    kv_read_bytes: 0
                };
                4
            ],
            embedding_bytes: 0,
            output_bytes: 0,
            activation_bytes: 4096,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: BTreeSet::from([1, 2, 3]),
        },
        topology: Topology {
            devices: cards.iter().enumerate().map(device).collect(),
            pools: cards.iter().enumerate().map(pool).collect(),
            ..Topology::default()
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
        held: Vec::new(),
    }
}

fn fleet(problem: &Problem, replicas: u32) -> Fleet {
    let fleet = solve_fleet(problem, replicas, Budget::default()).expect("a replica");
    assert_eq!(check_fleet(problem, &fleet.plans), []);
    fleet
}

fn used(fleet: &Fleet) -> Vec<Vec<&str>> {
    fleet.plans.iter().map(|plan| devices(plan).collect()).collect()
}

#[test]
fn equal_cards_hold_a_replica_each_and_no_better_is_possible() {
    let fleet = fleet(&problem(&[(400, 100); 4]), 3);
    assert_eq!((fleet.plans.len(), fleet.verdict), (3, Verdict::Optimal));
    assert_eq!(fleet.shortage(), None);
}

#[test]
fn the_fastest_cards_are_shared_out_where_one_replica_would_take_them_all() {
    // The best single replica is on the two fast cards; beside it the two slow ones are too small.
    let fleet = fleet(&problem(&[(300, 400), (300, 400), (100, 100), (100, 100)]), 2);
    assert_eq!((fleet.plans.len(), fleet.verdict), (2, Verdict::Optimal));
    assert!(used(&fleet).iter().all(|devices| devices.len() == 2));
}

/// Two cards on each of two nodes, each of which holds half of a replica; every link carries so many hops.
fn halves_on_two_nodes(hops: u64) -> Problem {
    let mut problem = problem(&[(200, 100); 4]);
    for (at, device) in problem.topology.devices.iter_mut().enumerate() {
        device.node = format!("n{}", at % 2);
    }
    problem.constraints.min_tokens_per_second = Some(10);
    problem.constraints.max_link_percent = Some(10);
    let link = |(from, to): (u8, u8)| {
        let rate = Rate {
            bytes_per_second: 409_600 * if from == to { 0 } else { hops } + 1,
            origin: Origin::Measured,
        };
        let link = topology::Link { latency_us: 1, rate };
        ((format!("n{from}"), format!("n{to}")), link)
    };
    problem.topology.links = [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().map(link).collect();
    problem
}

#[test]
fn replicas_share_out_the_links_and_go_the_other_way_where_one_is_full() {
    let both = fleet(&halves_on_two_nodes(1), 2);
    assert_eq!((both.plans.len(), both.verdict), (2, Verdict::Optimal));
    let mut heads: Vec<&str> = both.plans.iter().map(|plan| plan.stages[0].node.as_str()).collect();
    heads.sort_unstable();
    assert_eq!(heads, ["n0", "n1"]);
    // Of a link that is taken in one direction, the other is left, and one replica has it.
    let mut problem = halves_on_two_nodes(1);
    problem.topology.traffic = vec![topology::Traffic {
        from_node: "n0".to_owned(),
        to_node: "n1".to_owned(),
        bytes_per_second: 2,
        by: "default/other".to_owned(),
        leaves_bytes_per_second: None,
    }];
    let one = fleet(&problem, 2);
    assert_eq!(one.plans.len(), 1);
    let shortage = one.shortage().expect("a shortage");
    assert!(shortage.starts_with("1 of 2 replicas fits; the second"), "{shortage}");
    assert!(
        shortage.contains("the link n0 -> n1 is full: a hop of 40.0 KiB/s, 2 B/s of default/other")
            || shortage.contains("the link n1 -> n0 is full: a hop of 40.0 KiB/s, 40.0 KiB/s of another replica"),
        "{shortage}"
    );
}

#[test]
fn replicas_together_take_of_a_link_no_more_than_a_model_that_comes_first_leaves() {
    let mut problem = halves_on_two_nodes(1_000);
    problem.constraints = Constraints::default();
    // A token takes 4.4 ms at best: at the pace of one stream a hop is 930 kB/s.
    let heads = |leaves: [u64; 2]| {
        let mut problem = problem.clone();
        let ways = [("n0", "n1"), ("n1", "n0")].into_iter().zip(leaves);
        let first = |((from, to), leaves): ((&str, &str), u64)| topology::Traffic {
            from_node: from.to_owned(),
            to_node: to.to_owned(),
            bytes_per_second: 5_000_000,
            by: "default/first".to_owned(),
            leaves_bytes_per_second: Some(leaves),
        };
        problem.topology.traffic = ways.map(first).collect();
        let both = fleet(&problem, 2);
        assert_eq!((both.plans.len(), both.verdict), (2, Verdict::Optimal));
        let mut heads: Vec<String> = both.plans.iter().map(|plan| plan.stages[0].node.clone()).collect();
        heads.sort_unstable();
        heads
    };
    assert_eq!(heads([2_000_000, 0]), ["n0", "n0"]);
    assert_eq!(heads([1_000_000, 1_000_000]), ["n0", "n1"]);
    assert_eq!(heads([0, 2_000_000]), ["n1", "n1"]);
}

#[test]
fn a_link_that_carries_a_replica_beside_the_first_and_not_both_at_the_best_pace_is_named() {
    let mut problem = halves_on_two_nodes(1_000);
    problem.constraints = Constraints::default();
    problem.topology.devices[0].bandwidth.bytes_per_second *= 4;
    // At best a hop is 3.25 MB/s; of the second replica, which is without the fast device, 0.93 MB/s.
    let left = |from: &str, to: &str| if (from, to) == ("n0", "n1") { 5_000_000 } else { 0 };
    let ways = ["n0", "n1"]
        .into_iter()
        .flat_map(|from| ["n0", "n1"].map(|to| (from, to)));
    let first = |(from, to): (&str, &str)| topology::Traffic {
        from_node: from.to_owned(),
        to_node: to.to_owned(),
        bytes_per_second: 1,
        by: "default/first".to_owned(),
        leaves_bytes_per_second: Some(left(from, to)),
    };
    problem.topology.traffic = ways.map(first).collect();
    let one = fleet(&problem, 2);
    assert_eq!(one.plans.len(), 1);
    let shortage = one.shortage().expect("a shortage");
    assert!(
        shortage.ends_with("the second: the link n0 -> n1, which it would share, is too full for all"),
        "{shortage}"
    );
}

#[test]
fn what_the_next_replica_lacks_is_said_beside_those_that_fit() {
    let fleet = fleet(&problem(&[(400, 100), (400, 100), (150, 100)]), 3);
    assert_eq!(fleet.plans.len(), 2);
    assert_eq!(fleet.verdict, Verdict::Optimal);
    let shortage = fleet.shortage().expect("a shortage");
    assert!(
        shortage.starts_with("2 of 3 replicas fit; the third: 250.0 MiB short: the model needs 400.0 MiB on 1 device"),
        "{shortage}"
    );
    assert!(shortage.contains("d00 holds another replica"), "{shortage}");
    assert!(
        shortage.ends_with("it would fit with 250.0 MiB more on d02"),
        "{shortage}"
    );
}

#[test]
fn a_pool_that_two_replicas_share_is_one_budget() {
    let mut problem = problem(&[(400, 100), (400, 100)]);
    problem.topology.pools.truncate(1);
    problem.topology.devices[1].pool = 0;
    let one = fleet(&problem, 2);
    assert_eq!(one.plans.len(), 1);
    problem.topology.pools[0].usable_bytes = 800 * MIB;
    assert_eq!(fleet(&problem, 2).plans.len(), 2);
    problem.objective = Objective::Throughput;
    let both = fleet(&problem, 2);
    assert_ne!(both.verdict, Verdict::Greedy);
    assert_eq!(both.plans.len(), 2, "more replicas are better than fewer");
}

#[test]
fn one_replica_is_decided_as_ever() {
    let problem = problem(&[(300, 400), (300, 400), (100, 100)]);
    let (fleet, alone) = (fleet(&problem, 1), solve(&problem, Budget::default()).expect("a plan"));
    assert_eq!((&fleet.plans[0], fleet.runner_up), (&alone.plan, alone.runner_up));
}

#[test]
fn many_cards_end_within_the_budget_and_tell_the_gap() {
    let cards: Vec<(u64, u64)> = (0..40_u64).map(|at| (150 + at * 37 % 101, 20 + at * 53 % 97)).collect();
    let problem = problem(&cards);
    let budget = Budget { steps: 50_000, seed: 1 };
    let fleet = solve_fleet(&problem, 8, budget).expect("a replica");
    assert_eq!(check_fleet(&problem, &fleet.plans), []);
    assert_eq!(fleet.plans.len(), 8);
    assert!(matches!(fleet.verdict, Verdict::Feasible { .. }), "{}", fleet.verdict);
    assert_eq!(fleet, solve_fleet(&problem, 8, budget).expect("the same"));
}

#[test]
fn no_replica_at_all_is_told_as_for_one() {
    let problem = problem(&[(100, 100), (100, 100)]);
    assert_eq!(
        solve_fleet(&problem, 2, Budget::default()).expect_err("too small"),
        solve(&problem, Budget::default()).expect_err("too small")
    );
}

#[test]
fn among_more_devices_than_are_searched_those_that_hold_layers_keep_them() {
    // The last of two hundred are the slowest: nothing but what they hold speaks for them.
    let mut cards = vec![(150, 100); 198];
    cards.extend([(250, 10), (250, 10)]);
    let mut problem = problem(&cards);
    let held = |device: &str, first_layer, end_layer| crate::HeldLayers {
        device: device.to_owned(),
        first_layer,
        end_layer,
    };
    problem.held = vec![held("d198", 0, 2), held("d199", 2, 4)];
    assert_eq!(used(&fleet(&problem, 1)), [["d198", "d199"]]);
    problem.topology.devices.pop();
    let after_a_loss = fleet(&problem, 1);
    assert!(used(&after_a_loss)[0].contains(&"d198"), "{after_a_loss:?}");
}

/// These devices of the problem, on one node, as one that is twice as fast as any of them.
fn as_one(problem: &mut Problem, members: &[usize]) {
    let devices = &mut problem.topology.devices;
    for at in members {
        devices[*at].node = devices[members[0]].node.clone();
    }
    let member = |at: &usize| Member {
        device: devices[*at].name.clone(),
        pool: devices[*at].pool,
    };
    let names: Vec<&str> = members.iter().map(|at| devices[*at].name.as_str()).collect();
    let least_bytes = members.iter().map(|at| devices[*at].usable_bytes).min();
    let fastest = members.iter().map(|at| devices[*at].bandwidth.bytes_per_second).max();
    let group = Device {
        name: names.join("+"),
        usable_bytes: least_bytes.unwrap_or(0) * members.len() as u64,
        bandwidth: Rate {
            bytes_per_second: fastest.unwrap_or(0) * 2,
            origin: Origin::Measured,
        },
        steps: Some(topology::Steps::plain(100_000, 0, Vec::new())),
        members: members.iter().map(member).collect(),
        ..devices[members[0]].clone()
    };
    devices.push(group);
    problem.constraints.max_group_devices = 8;
}

#[test]
fn replicas_share_out_devices_that_work_as_one() {
    let mut problem = problem(&[(400, 100); 4]);
    // The best of them would take all; two halves are two replicas.
    for members in [&[0, 1, 2, 3][..], &[0, 1], &[2, 3]] {
        as_one(&mut problem, members);
    }
    let both = fleet(&problem, 2);
    assert_eq!((both.plans.len(), both.verdict), (2, Verdict::Optimal));
    assert_eq!(used(&both), [["d00+d01"], ["d02+d03"]]);
    let three = fleet(&problem, 3);
    assert_eq!((three.plans.len(), three.verdict), (3, Verdict::Optimal));
    assert_eq!(
        used(&three).iter().filter(|devices| devices[0].contains('+')).count(),
        1
    );
}

#[test]
fn a_replica_takes_every_group_away_that_has_one_of_its_devices() {
    let mut problem = problem(&[(400, 100); 3]);
    for members in [[0, 1], [1, 2]] {
        as_one(&mut problem, &members);
    }
    let both = fleet(&problem, 2);
    assert_eq!((both.plans.len(), both.verdict), (2, Verdict::Optimal));
    assert_eq!(used(&both).concat().len(), 2, "{:?}", used(&both));
    let rest = beside(&problem, &both.plans);
    assert!(rest.topology.devices.is_empty());
    let told: Vec<&str> = rest
        .topology
        .excluded
        .iter()
        .map(|device| device.device.as_str())
        .collect();
    assert_eq!(told, ["d00", "d01", "d02"]);
}

#[test]
fn the_memory_of_a_stage_is_gone_evenly_from_the_pools_of_devices_that_work_as_one() {
    let mut problem = problem(&[(400, 100); 2]);
    as_one(&mut problem, &[0, 1]);
    let one = fleet(&problem, 1);
    assert_eq!(used(&one), [["d00+d01"]]);
    let rest = beside(&problem, &one.plans);
    let left: Vec<u64> = rest.topology.pools.iter().map(|pool| pool.usable_bytes / MIB).collect();
    assert_eq!(left, [200, 200]);
}
