use serde_json::json;

use super::*;
use crate::{DeviceReport, HeldMemory, Input, Kind, Reading, StepShape, build};

const GIB: u64 = 1 << 30;

/// A card with a memory of its own.
fn card(name: &str, node: &str, gib: u64) -> DeviceReport {
    serde_json::from_value(json!({
        "name": name, "node": node, "backend": "cuda", "kind": Kind::Discrete, "memory_pool": name,
        "memory_usable_bytes": gib * GIB, "bandwidth_bytes_per_second": 100_000_000_000_u64,
    }))
    .expect("a report")
}

fn report(devices: &[&str]) -> GroupReport {
    let reading = |bits, gigabytes: u64| Reading {
        bits,
        bytes_per_second: gigabytes * 1_000_000_000,
    };
    GroupReport {
        devices: devices.iter().map(|name| (*name).to_owned()).collect(),
        backend: "cuda".to_owned(),
        steps: Steps {
            flops_per_second: Some(11),
            ..Steps::plain(70_001, 30_000, vec![reading(5, 150), reading(16, 200)])
        },
    }
}

/// Three cards of a node and one of another, with groups of the first two and of the first three.
fn input() -> Input {
    Input {
        devices: vec![
            card("a-cuda0", "a", 8),
            card("a-cuda1", "a", 6),
            card("a-cuda2", "a", 8),
            card("b-cuda0", "b", 8),
        ],
        attached_nodes: ["a", "b"].map(String::from).into(),
        groups: vec![
            report(&["a-cuda1", "a-cuda0"]),
            report(&["a-cuda0", "a-cuda1", "a-cuda2"]),
        ],
        ..Input::default()
    }
}

fn names(topology: &Topology) -> Vec<&str> {
    topology.devices.iter().map(|device| device.name.as_str()).collect()
}

fn shape(group_sizes: &[u32]) -> StepShape {
    StepShape {
        bits: 16,
        width: 1000,
        positions: 0,
        cache_bytes: 0,
        strict: false,
        group_sizes: group_sizes.to_vec(),
    }
}

/// What is left of the groups after a change of the first card.
fn left(change: impl FnOnce(&mut DeviceReport)) -> usize {
    let mut input = input();
    change(&mut input.devices[0]);
    let topology = build(&input);
    topology.devices.iter().filter(|device| device.is_group()).count()
}

#[test]
fn a_group_stands_behind_the_single_devices_with_what_was_measured_of_it() {
    let topology = build(&input());
    assert_eq!(
        names(&topology),
        [
            "a-cuda0",
            "a-cuda1",
            "a-cuda2",
            "b-cuda0",
            "a-cuda0+a-cuda1",
            "a-cuda0+a-cuda1+a-cuda2"
        ]
    );
    assert_eq!(topology.single_devices().count(), 4);
    let group = topology.device("a-cuda0+a-cuda1").expect("a group");
    assert_eq!(
        (group.node.as_str(), group.backend.as_str(), group.size()),
        ("a", "cuda", 2)
    );
    assert_eq!(group.parts().collect::<Vec<_>>(), ["a-cuda0", "a-cuda1"]);
    assert_eq!((group.bandwidth.origin, group.launch_us), (Origin::Measured, 71));
    assert_eq!(group.bandwidth.bytes_per_second, 150_000_000_000, "the slowest format");
    assert_eq!(group.flops_per_second, Some(11));
    let single = topology.device("b-cuda0").expect("a card");
    assert_eq!(
        (single.size(), single.parts().collect::<Vec<_>>()),
        (1, vec!["b-cuda0"])
    );
    assert_eq!(single.pools().collect::<Vec<_>>(), [(single.pool, 1)]);
}

#[test]
fn no_member_of_a_group_has_more_than_the_smallest() {
    let topology = build(&input());
    let usable = |name: &str| topology.device(name).expect("a group").usable_bytes;
    assert_eq!(usable("a-cuda0+a-cuda1"), 2 * 6 * GIB);
    assert_eq!(usable("a-cuda0+a-cuda1+a-cuda2"), 3 * 6 * GIB);
}

#[test]
fn members_on_one_memory_share_it() {
    let mut input = input();
    for card in &mut input.devices[..3] {
        card.memory_pool = "a-host".to_owned();
    }
    let topology = build(&input);
    let group = topology.device("a-cuda0+a-cuda1+a-cuda2").expect("a group");
    // The pool has what its largest device has.
    assert_eq!(group.usable_bytes, 8 * GIB / 3 * 3);
    assert_eq!(group.pools().collect::<Vec<_>>(), [(group.pool, 3)]);
    assert_eq!(group.bytes_in_pools(10).collect::<Vec<_>>(), [(group.pool, 12)]);
}

#[test]
fn what_is_held_on_a_group_is_held_evenly_on_its_members() {
    let mut input = input();
    input.held.push(HeldMemory {
        device: "a-cuda0+a-cuda2".to_owned(),
        bytes: 6 * GIB,
    });
    let topology = build(&input);
    let usable = |name: &str| topology.device(name).map(|device| device.usable_bytes / GIB);
    assert_eq!(usable("a-cuda0"), Some(5));
    assert_eq!(usable("a-cuda1"), Some(6));
    assert_eq!(usable("a-cuda2"), Some(5));
    assert_eq!(usable("a-cuda0+a-cuda1"), Some(10));
}

#[test]
fn a_group_is_gone_with_any_of_its_members() {
    assert_eq!(left(|_| {}), 2);
    assert_eq!(left(|card| card.cordoned = true), 0);
    assert_eq!(left(|card| card.fault = Some("fell off the bus".to_owned())), 0);
    assert_eq!(left(|card| card.barred = Some("holds another replica".to_owned())), 0);
    assert_eq!(left(|card| card.no_new_layers = Some("is not ready".to_owned())), 0);
    assert_eq!(left(|card| card.memory_usable_bytes = 0), 0);
    assert_eq!(left(|card| card.name = "a-cuda9".to_owned()), 0);
}

#[test]
fn devices_that_are_not_alike_or_not_several_are_no_group() {
    assert_eq!(left(|card| card.node = "b".to_owned()), 0);
    assert_eq!(left(|card| card.backend = "vulkan".to_owned()), 0);
    assert_eq!(left(|card| card.vendor = "another".to_owned()), 0);
    assert_eq!(left(|card| card.kind = Kind::Integrated), 0);
    let mut input = input();
    let nine: Vec<String> = (0..9).map(|at| format!("c-cuda{at}")).collect();
    input.devices.extend(nine.iter().map(|name| card(name, "a", 8)));
    let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
    let unmeasured = GroupReport {
        steps: Steps {
            reading: Vec::new(),
            ..report(&[]).steps
        },
        ..report(&["a-cuda0", "a-cuda1"])
    };
    input.groups = vec![
        report(&[]),
        report(&["a-cuda0"]),
        report(&["a-cuda0", "a-cuda0"]),
        report(&nine),
        GroupReport {
            backend: "rocm".to_owned(),
            ..report(&["a-cuda0", "a-cuda1"])
        },
        unmeasured,
    ];
    assert!(build(&input).devices.iter().all(|device| !device.is_group()));
}

#[test]
fn a_group_has_the_taints_of_all_its_members_and_the_heat_of_the_hottest() {
    let mut input = input();
    let taint = |value: &str| Taint {
        key: "lent".to_owned(),
        value: value.to_owned(),
        effect: crate::Effect::NoPlace,
    };
    input.devices[0].taints = vec![taint("lab")];
    input.devices[1].taints = vec![taint("lab"), taint("repair")];
    input.devices[0].temperature_celsius = Some(60);
    input.devices[1].throttled = true;
    let topology = build(&input);
    let group = topology.device("a-cuda0+a-cuda1").expect("a group");
    assert_eq!(group.taints, [taint("lab"), taint("repair")]);
    assert_eq!(group.thermal_headroom_percent, Some(0));
    assert_eq!(group.bandwidth.bytes_per_second, 90_000_000_000);
    let counted = topology.clone().for_model(&shape(&[2]));
    let group = counted.device("a-cuda0+a-cuda1").expect("a group");
    assert_eq!(group.bandwidth.bytes_per_second, 120_000_000_000);
}

#[test]
fn a_model_takes_groups_that_its_layers_can_be_divided_among_and_a_strict_one_takes_none() {
    let left = |shape: &StepShape| build(&input()).for_model(shape).devices.len();
    assert_eq!(left(&shape(&[])), 4);
    assert_eq!(left(&shape(&[2, 4])), 5);
    assert_eq!(left(&shape(&[2, 3])), 6);
    let strict = StepShape {
        strict: true,
        ..shape(&[2, 3])
    };
    assert_eq!(left(&strict), 4);
}

#[test]
fn the_order_of_reports_and_names_does_not_matter() {
    let mut turned = input();
    turned.devices.reverse();
    turned.groups.reverse();
    turned.groups.iter_mut().for_each(|group| group.devices.reverse());
    turned.groups.extend(input().groups);
    assert_eq!(build(&turned), build(&input()));
}

#[test]
fn the_summary_names_groups_and_counts_their_members_once() {
    let topology = build(&input());
    let totals = topology.totals();
    assert_eq!((totals.devices, totals.usable_bytes), (4, 30 * GIB));
    let summary = topology.summary();
    assert!(
        summary.ends_with("  work as one: a-cuda0+a-cuda1+a-cuda2, 18.0 GiB, weights read at 150.0 GB/s\n"),
        "{summary}"
    );
}

#[test]
fn only_groups_that_were_measured_and_work_are_read_out_of_an_object() {
    let rates = json!({
        "stepNs": 1, "layerNs": 2, "reading": [{ "bits": 5, "bytesPerSecond": 1_000_000_000 }],
        "measuredAt": "2026-01-01T00:00:00Z", "samples": 3,
    });
    let state: NodeLinkState = serde_json::from_value(json!({
        "apiVersion": "shardwright.dev/v1alpha1",
        "kind": "NodeLinkState",
        "metadata": {"name": "a"},
        "spec": {},
        "status": {
            "node": "a",
            "groups": [
                {"devices": ["a-cuda0", "a-cuda1"], "backend": "cuda", "stepRates": rates},
                {"devices": ["a-cuda2", "a-cuda3"], "backend": "cuda"},
                {"devices": ["a-cuda4", "a-cuda5"], "backend": "cuda", "error": "their numbers are wrong"},
                {"devices": ["a-cuda6", "a-cuda7"], "backend": "cuda", "stepRates": rates, "error": "lost one"},
            ],
        },
    }))
    .expect("a NodeLinkState");
    let read = GroupReport::from_state(&state);
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].devices[1].as_str(), read[0].steps.layer_ns), ("a-cuda1", 2));
}
