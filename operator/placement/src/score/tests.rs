use std::collections::{BTreeMap, BTreeSet};

use topology::{Device, Kind, Link, Links, Origin, Pool, Rate, Topology};

use super::{Score, WEIGHTS, scores};
use crate::{Constraints, Layer, Model, Objective, Problem};

const GIB: u64 = 1 << 30;

fn device(name: &str, gib: u64, gb_per_second: u64) -> Device {
    Device {
        name: name.to_owned(),
        node: format!("{name}-node"),
        node_labels: Default::default(),
        vendor: String::new(),
        model: String::new(),
        backend: "cuda".to_owned(),
        kind: Kind::Discrete,
        pool: 0,
        usable_bytes: gib * GIB,
        fixed_bytes: 0,
        bandwidth: rate(gb_per_second * 1_000_000_000),
        launch_us: 0,
        steps: None,
        flops_per_second: Some(gb_per_second * 1_000_000_000_000),
        thermal_headroom_percent: Some(50),
        taints: Vec::new(),
        members: Vec::new(),
    }
}

fn rate(bytes_per_second: u64) -> Rate {
    Rate {
        bytes_per_second,
        origin: Origin::Measured,
    }
}

/// Ten layers of a gibibyte, every link 100 us long.
fn problem(mut devices: Vec<Device>) -> Problem {
    let pools = devices.iter().map(|device| Pool {
        name: device.name.clone(),
        usable_bytes: device.usable_bytes,
        held_bytes: 0,
        bandwidth: device.bandwidth,
    });
    let pools = pools.collect();
    let mut links = BTreeMap::new();
    for index in 0..devices.len() {
        devices[index].pool = index;
        for other in &devices {
            let link = Link {
                latency_us: 100,
                rate: rate(1_000_000_000),
            };
            links.insert((devices[index].node.clone(), other.node.clone()), link);
        }
    }
    let layer = Layer {
        weight_bytes: GIB,
        active_bytes: GIB,
        kv_bytes: 0,
        kv_read_bytes: 0,
    };
    Problem {
        model: Model {
            name: "m".to_owned(),
            layers: vec![layer; 10],
            embedding_bytes: 0,
            output_bytes: 0,
            activation_bytes: 4096,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: BTreeSet::new(),
        },
        topology: Topology {
            devices,
            pools,
            links: links.into_iter().collect(),
            ..Topology::default()
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
        held: Vec::new(),
    }
}

fn two() -> Problem {
    problem(vec![device("a", 20, 1000), device("b", 5, 250)])
}

fn of(problem: &Problem, name: &str) -> Score {
    let found = scores(problem).into_iter().find(|score| score.device == name);
    found.expect("the device")
}

#[test]
fn the_weights_are_percentages() {
    assert_eq!(WEIGHTS.iter().sum::<u32>(), 100);
}

#[test]
fn parts_are_in_proportion_to_the_best_and_the_total_is_their_weighted_mean() {
    let problem = two();
    let best = of(&problem, "a");
    assert_eq!(best.parts(), [Some(100), Some(100), Some(100), Some(50), Some(100)]);
    assert_eq!(best.total_hundredths, 9_500);
    let other = of(&problem, "b");
    assert_eq!(other.parts(), [Some(25), Some(50), Some(100), Some(50), Some(25)]);
    assert_eq!(other.total_hundredths, 40 * 25 + 30 * 50 + 15 * 100 + 10 * 50 + 5 * 25);
}

/// Gives every link another latency.
fn relink(problem: &mut Problem, latency_us: impl Fn(&str, &str, u64) -> u64) {
    let links = problem.topology.links.iter().map(|(from, to, known)| {
        let link = Link {
            latency_us: latency_us(from, to, known.link.latency_us),
            ..known.link
        };
        ((from.to_owned(), to.to_owned()), link)
    });
    problem.topology.links = links.collect();
}

#[test]
fn a_device_far_from_the_others_has_the_lower_network_position() {
    let mut problem = problem(vec![device("a", 5, 100), device("b", 5, 100), device("c", 5, 100)]);
    relink(&mut problem, |from, to, latency_us| {
        if from == "c-node" || to == "c-node" {
            10_000
        } else {
            latency_us
        }
    });
    let position = |name| of(&problem, name).network_position;
    assert_eq!(position("a"), Some(100));
    assert_eq!(position("c"), Some(50));
}

#[test]
fn a_device_is_as_far_as_its_way_back_is_long_and_its_link_is_thin() {
    let devices = || vec![device("a", 5, 100), device("b", 5, 100), device("c", 5, 100)];
    let mut far_back = problem(devices());
    relink(
        &mut far_back,
        |_, to, latency_us| if to == "c-node" { 10_000 } else { latency_us },
    );
    assert!(of(&far_back, "c").network_position < Some(60));
    assert_eq!(of(&far_back, "a").network_position, Some(100));
    let mut thin = problem(devices());
    let links = thin.topology.links.iter().map(|(from, to, known)| {
        let mut link = known.link;
        if from == "c-node" {
            link.rate.bytes_per_second = 1_000;
        }
        ((from.to_owned(), to.to_owned()), link)
    });
    thin.topology.links = links.collect();
    assert!(of(&thin, "c").network_position < Some(10));
    assert_eq!(of(&thin, "a").network_position, Some(100));
}

#[test]
fn devices_of_one_node_have_nothing_to_cross() {
    let mut problem = two();
    for device in &mut problem.topology.devices {
        device.node = "one".to_owned();
    }
    problem.topology.links = Links::default();
    assert_eq!(of(&problem, "b").network_position, Some(100));
}

#[test]
fn what_was_not_measured_stays_unknown_and_counts_as_the_lowest_known() {
    let mut problem = two();
    problem.topology.devices[1].flops_per_second = None;
    let score = of(&problem, "b");
    assert_eq!(score.compute, None);
    assert_eq!(score.total_hundredths, 40 * 100 + 30 * 50 + 15 * 100 + 10 * 50 + 5 * 25);
    problem.topology.devices[1].bandwidth.origin = Origin::Assumed;
    assert_eq!(of(&problem, "b").bandwidth, None);
    problem.topology.links = Links::default();
    assert_eq!(of(&problem, "b").network_position, None);
}

#[test]
fn a_part_that_is_unknown_of_all_is_left_out_of_all_totals() {
    let mut problem = two();
    for device in &mut problem.topology.devices {
        device.thermal_headroom_percent = None;
    }
    assert_eq!(of(&problem, "a").total_hundredths, 10_000);
    let b = 40 * 25 + 30 * 50 + 15 * 100 + 5 * 25;
    assert_eq!(of(&problem, "b").total_hundredths, b * 100 / 90);
}

#[test]
fn a_hot_device_scores_less_than_a_cool_one() {
    let mut problem = problem(vec![device("cool", 5, 100), device("hot", 5, 100)]);
    problem.topology.devices[0].thermal_headroom_percent = Some(80);
    problem.topology.devices[1].thermal_headroom_percent = Some(0);
    let total = |name| of(&problem, name).total_hundredths;
    assert_eq!(total("cool") - total("hot"), 10 * 80);
}

#[test]
fn a_cluster_without_devices_has_no_scores_and_absurd_numbers_do_no_harm() {
    assert_eq!(scores(&problem(Vec::new())), []);
    let mut problem = two();
    problem.topology.devices[0].flops_per_second = Some(u64::MAX);
    problem.topology.devices[0].fixed_bytes = u64::MAX;
    problem.model.layers[0].weight_bytes = u64::MAX;
    problem.model.layers[1].weight_bytes = u64::MAX;
    relink(&mut problem, |_, _, _| u64::MAX);
    assert_eq!(of(&problem, "a").memory_fit, Some(0));
    assert_eq!(of(&problem, "b").compute, Some(0));
}
