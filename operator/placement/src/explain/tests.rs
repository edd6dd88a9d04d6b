use std::collections::BTreeMap;

use topology::{Device, Excluded, Exclusion, Kind, Origin, Pool, Rate, Topology};

use super::*;
use crate::{Budget, Constraints, Layer, Model, Objective, Pin, solve};

const MIB: u64 = 1 << 20;

/// Devices with this much memory on nodes and pools of their own; four layers of ten mebibytes.
fn problem(usable_mib: &[u64], constraints: Constraints) -> Problem {
    let rate = Rate {
        bytes_per_second: 1_000_000_000,
        origin: Origin::Measured,
    };
    let devices = usable_mib.iter().enumerate().map(|(i, mib)| Device {
        name: format!("n{i}-cpu0"),
        node: format!("n{i}"),
        node_labels: Default::default(),
        vendor: "v".to_owned(),
        model: String::new(),
        backend: "cpu".to_owned(),
        kind: Kind::Cpu,
        pool: i,
        usable_bytes: mib * MIB,
        fixed_bytes: MIB,
        bandwidth: rate,
        launch_us: 1,
        steps: None,
        flops_per_second: None,
        thermal_headroom_percent: None,
        taints: Vec::new(),
        members: Vec::new(),
    });
    let pools = usable_mib.iter().enumerate().map(|(i, mib)| Pool {
        name: format!("p{i}"),
        usable_bytes: mib * MIB,
        held_bytes: 0,
        bandwidth: rate,
    });
    Problem {
        model: Model {
            name: "m".to_owned(),
            layers: vec![
                Layer {
                    weight_bytes: 10 * MIB,
                    active_bytes: 10 * MIB,
                    kv_bytes: 0,
                    kv_read_bytes: 0
                };
                4
            ],
            embedding_bytes: 0,
            output_bytes: 0,
            activation_bytes: 4,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: (1..4).collect(),
        },
        topology: Topology {
            devices: devices.collect(),
            pools: pools.collect(),
            ..Topology::default()
        },
        constraints,
        objective: Objective::Latency,
        held: Vec::new(),
    }
}

fn explained(problem: &Problem) -> Explanation {
    let infeasible = solve(problem, Budget::default()).expect_err("there is no plan");
    explain(problem, &infeasible)
}

fn pin(node: &str, min_layers: u32, max_layers: Option<u32>) -> Pin {
    Pin {
        node: Some(node.to_owned()),
        min_layers,
        max_layers,
        ..Pin::default()
    }
}

#[test]
fn what_needs_no_search_to_be_excluded_is_told_with_its_numbers() {
    let devices = |min_devices, max_devices| Constraints {
        min_devices,
        max_devices,
        ..Constraints::default()
    };
    let pinned = Constraints {
        pinned_layers: vec![pin("n9", 1, None)],
        ..Constraints::default()
    };
    let mut empty = problem(&[100], Constraints::default());
    empty.model.layers.clear();
    let told = explained(&empty);
    assert_eq!(
        (told.reason, told.message.as_str()),
        ("TooFewLayers", "the model has no layers")
    );
    for (problem, told) in [
        (empty, "the model has no layers"),
        (
            problem(&[100], devices(3, Some(2))),
            "minDevices is 3 and maxDevices is 2",
        ),
        (
            problem(&[100], devices(2, None)),
            "2 devices are needed and 1 are usable",
        ),
        (
            problem(&[100; 5], devices(5, None)),
            "5 stages are needed and the model can be cut into 4",
        ),
        (problem(&[100], pinned), "no usable device matches pinnedLayers[0]"),
        (
            problem(&[16, 21], Constraints::default()),
            "44040192 bytes are needed and 38797312 are usable on 2 devices",
        ),
    ] {
        let infeasible = solve(&problem, Budget::default()).expect_err("there is no plan");
        assert_eq!(infeasible.to_string(), told);
    }
}

#[test]
fn memory_that_no_division_could_make_up_for_is_told_to_the_byte() {
    let told = explained(&problem(&[16, 21], Constraints::default()));
    assert_eq!(told.reason, "InsufficientMemory");
    assert_eq!(told.missing_bytes, Some(5 * MIB));
    assert_eq!(
        told.message,
        "5.0 MiB short: the model needs 42.0 MiB on 2 devices and 37.0 MiB are usable; \
         it would fit with 5.0 MiB more on n0-cpu0"
    );
    let limited = Constraints {
        max_devices: Some(1),
        ..Constraints::default()
    };
    assert_eq!(
        explained(&problem(&[16, 21], limited)).message,
        "20.0 MiB short: the model needs 41.0 MiB in at most 1 device and 21.0 MiB are usable; \
         it would fit with 20.0 MiB more on n1-cpu0"
    );
}

#[test]
fn memory_that_only_whole_layers_make_short_is_told_for_each_device() {
    // Forty mebibytes fit into three times nineteen, but only one layer into each.
    let told = explained(&problem(&[19, 19, 19], Constraints::default()));
    assert_eq!((told.reason, told.missing_bytes), ("InsufficientMemory", Some(2 * MIB)));
    assert!(
        told.message.starts_with("2.0 MiB short on each device"),
        "{}",
        told.message
    );
}

#[test]
fn too_few_devices_name_those_that_would_count() {
    let mut problem = problem(
        &[100, 100],
        Constraints {
            min_devices: 3,
            ..Constraints::default()
        },
    );
    problem.topology.excluded.push(Excluded {
        device: "node-c-cpu0".to_owned(),
        node: "node-c".to_owned(),
        backend: "cpu".to_owned(),
        kind: Kind::Cpu,
        why: Exclusion::Cordoned,
    });
    let told = explained(&problem);
    assert_eq!(told.reason, "TooFewDevices");
    assert_eq!(
        told.message,
        "needs 3 devices, 2 are usable: node-c-cpu0 is cordoned; it would fit without minDevices 3"
    );
}

#[test]
fn a_cluster_without_devices_says_that_none_is_reported() {
    assert_eq!(
        explained(&problem(&[], Constraints::default())).message,
        "needs 1 device, 0 are usable: no other device is reported"
    );
}

#[test]
fn constraints_that_clash_are_reduced_to_those_that_matter() {
    let constraints = Constraints {
        max_devices: Some(1),
        pinned_layers: vec![pin("n2", 0, Some(4)), pin("n0", 1, None), pin("n1", 1, None)],
        ..Constraints::default()
    };
    let told = explained(&problem(&[100, 100, 100], constraints));
    assert_eq!(told.reason, "ConstraintsClash");
    assert_eq!(
        told.message,
        "no plan meets all of: maxDevices 1, pinnedLayers[1] (at least 1 layer on node n0), \
         pinnedLayers[2] (at least 1 layer on node n1); without any one of them there is one"
    );
}

#[test]
fn one_pin_that_nothing_can_meet_is_named_alone() {
    let constraints = Constraints {
        pinned_layers: vec![pin("n0", 5, None)],
        ..Constraints::default()
    };
    let told = explained(&problem(&[100, 100], constraints));
    assert_eq!(told.reason, "PinUnsatisfiable");
    assert_eq!(
        told.message,
        "no plan meets pinnedLayers[0] (at least 5 layers on node n0); without it there is one"
    );
}

#[test]
fn numbers_of_devices_that_exclude_each_other_are_told() {
    let none = Constraints {
        min_devices: 3,
        max_devices: Some(2),
        ..Constraints::default()
    };
    assert_eq!(
        explained(&problem(&[100; 4], none)).message,
        "minDevices is 3 and maxDevices is 2: no number of devices is allowed; \
         it would fit without maxDevices 2, or without minDevices 3"
    );
    let many = Constraints {
        min_devices: 5,
        ..Constraints::default()
    };
    assert_eq!(
        explained(&problem(&[100; 6], many)).message,
        "needs 5 devices, one part of the model each, and its 4 layers can be cut into 4 parts at most; \
         it would fit without minDevices 5"
    );
}

#[test]
fn the_one_constraint_whose_absence_is_enough_is_named_last() {
    let one = Constraints {
        max_devices: Some(1),
        ..Constraints::default()
    };
    let told = explained(&problem(&[30, 30], one));
    assert!(
        told.message
            .ends_with("it would fit without maxDevices 1, or with 11.0 MiB more on n0-cpu0"),
        "{}",
        told.message
    );
    let elsewhere = Constraints {
        vendors: ["w".to_owned()].into(),
        ..Constraints::default()
    };
    let told = explained(&problem(&[100], elsewhere));
    assert!(
        told.message.ends_with("; it would fit without vendors"),
        "{}",
        told.message
    );
}

#[test]
fn nodes_that_may_see_tokens_are_named_where_they_are_too_small() {
    let trusted = BTreeMap::from([("trusted".to_owned(), "yes".to_owned())]);
    let mut problem = problem(
        &[60, 5],
        Constraints {
            token_node_selector: trusted.clone(),
            ..Constraints::default()
        },
    );
    problem.topology.devices[1].node_labels = trusted.into();
    let told = explained(&problem);
    assert!(told.message.contains("without tokenNodeSelector"), "{}", told.message);
    assert!(told.message.contains("36.0 MiB more on n1-cpu0"), "{}", told.message);
}

#[test]
fn a_link_of_which_a_model_that_comes_first_leaves_too_little_is_told_with_its_name() {
    let mut problem = problem(
        &[100, 100],
        Constraints {
            min_devices: 2,
            ..Constraints::default()
        },
    );
    let ways = [("n0", "n1"), ("n1", "n0")].into_iter();
    let first = |(from, to): (&str, &str)| topology::Traffic {
        from_node: from.to_owned(),
        to_node: to.to_owned(),
        bytes_per_second: 5_000,
        by: "default/first".to_owned(),
        leaves_bytes_per_second: Some(91),
    };
    problem.topology.traffic = ways.map(first).collect();
    // A token takes 43.9 ms at best: 23 a second, of four bytes each.
    let told = explained(&problem);
    assert_eq!(told.reason, "ConstraintsClash");
    assert!(
        told.message
            .contains("is full: a hop of 92 B/s, and 91 B/s may be used beside default/first, which comes first"),
        "{}",
        told.message
    );
    for traffic in &mut problem.topology.traffic {
        traffic.leaves_bytes_per_second = Some(92);
    }
    assert!(solve(&problem, Budget::default()).is_ok());
}

#[test]
fn devices_that_would_hold_the_model_as_one_are_pointed_to() {
    // Each holds one layer of four and only one may; all three as one hold them.
    let one = Constraints {
        max_devices: Some(1),
        ..Constraints::default()
    };
    let mut problem = problem(&[16, 16, 16], one);
    let devices = &problem.topology.devices;
    let member = |device: &Device| topology::Member {
        device: device.name.clone(),
        pool: device.pool,
    };
    let group = Device {
        name: "n0-cpu0+n1-cpu0+n2-cpu0".to_owned(),
        usable_bytes: 3 * 16 * MIB,
        members: devices.iter().map(member).collect(),
        ..devices[0].clone()
    };
    problem.topology.devices.push(group);
    let told = explained(&problem);
    assert_eq!(told.reason, "InsufficientMemory");
    assert!(
        told.message.contains("it would fit with maxGroupDevices 3, or with"),
        "{}",
        told.message
    );
    problem.constraints.max_group_devices = 3;
    assert!(solve(&problem, Budget::default()).is_ok());
    // A third of the layers and what a worker takes are more than 14 MiB.
    problem.topology.devices[3].usable_bytes = 3 * 14 * MIB;
    let told = explained(&problem);
    assert!(
        told.message.starts_with("1.0 MiB short on each device"),
        "{}",
        told.message
    );
    assert!(!told.message.contains("maxGroupDevices"), "{}", told.message);
}
