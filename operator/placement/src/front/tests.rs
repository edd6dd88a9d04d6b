use std::collections::BTreeSet;

use topology::{Device, Kind, Origin, Pool, Rate, Topology};

use super::*;
use crate::{Constraints, Layer, Model, Verdict, check};

/// One fast card that holds everything and slower ones that can share the work.
fn cluster() -> Problem {
    let device = |(index, gbps): (usize, u64)| Device {
        name: format!("d{index}"),
        node: format!("n{index}"),
        node_labels: Default::default(),
        vendor: String::new(),
        model: String::new(),
        backend: "cuda".to_owned(),
        kind: Kind::Discrete,
        pool: index,
        usable_bytes: 64 << 30,
        fixed_bytes: 0,
        bandwidth: Rate {
            bytes_per_second: gbps * 1_000_000_000,
            origin: Origin::Measured,
        },
        launch_us: 300,
        steps: None,
        flops_per_second: None,
        thermal_headroom_percent: None,
        taints: Vec::new(),
        members: Vec::new(),
    };
    let devices: Vec<Device> = [900, 400, 400, 250, 100].into_iter().enumerate().map(device).collect();
    let pool = |d: &Device| Pool {
        name: d.name.clone(),
        usable_bytes: d.usable_bytes,
        held_bytes: 0,
        bandwidth: d.bandwidth,
    };
    let layer = Layer {
        weight_bytes: 1 << 29,
        active_bytes: 1 << 29,
        kv_bytes: 1 << 24,
        kv_read_bytes: 1 << 22,
    };
    Problem {
        model: Model {
            name: "m".to_owned(),
            layers: vec![layer; 80],
            embedding_bytes: 1 << 29,
            output_bytes: 1 << 30,
            activation_bytes: 16 << 10,
            compute_buffer_bytes: 1 << 27,
            output_buffer_bytes: 1 << 26,
            cuts: (1..80).collect(),
        },
        topology: Topology {
            pools: devices.iter().map(pool).collect(),
            devices,
            ..Topology::default()
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
        held: Vec::new(),
    }
}

fn ample() -> Budget {
    Budget {
        steps: 20_000_000,
        seed: 1,
    }
}

#[test]
fn a_front_goes_from_the_least_latency_to_the_most_throughput_and_every_point_pays() {
    let problem = cluster();
    let points = front(&problem, 12, ample()).expect("a front");
    assert!((4..=12).contains(&points.len()), "{} points", points.len());
    let least = solve(&problem, ample()).expect("a plan").plan;
    assert_eq!(points[0].plan.latency_ns, least.latency_ns);
    let throughput = Problem {
        objective: Objective::Throughput,
        ..problem.clone()
    };
    let most = solve(&throughput, ample()).expect("a plan").plan;
    assert_eq!(points[points.len() - 1].plan.slowest_ns, most.slowest_ns);
    for pair in points.windows(2) {
        assert!(pair[0].plan.latency_ns < pair[1].plan.latency_ns);
        assert!(pair[0].plan.slowest_ns > pair[1].plan.slowest_ns);
    }
    for point in &points {
        assert_eq!(check(&problem, &point.plan), vec![]);
        assert_eq!(point.verdict, Verdict::Optimal);
    }
}

#[test]
fn a_point_of_the_front_is_the_answer_to_the_rate_it_reaches() {
    let problem = cluster();
    let points = front(&problem, 6, ample()).expect("a front");
    for point in &points {
        let tokens = 1_000_000_000 / point.plan.slowest_ns;
        let mut asked = problem.clone();
        asked.constraints.min_tokens_per_second = Some(u32::try_from(tokens).expect("a small rate"));
        let plan = solve(&asked, ample()).expect("a plan").plan;
        assert_eq!(check(&asked, &plan), vec![]);
        assert!(plan.latency_ns <= point.plan.latency_ns);
    }
}

#[test]
fn a_cluster_of_one_device_has_a_front_of_one_plan() {
    let mut problem = cluster();
    problem.topology.devices.truncate(1);
    assert_eq!(front(&problem, 12, ample()).expect("a front").len(), 1);
    problem.model.cuts = BTreeSet::new();
    problem.topology.devices.clear();
    assert!(front(&problem, 12, ample()).is_err());
}

#[test]
fn limits_between_two_ends_fall_in_equal_ratios() {
    assert_eq!(between(1_000_000, 1_000_000, 3, 11), 1_000_000);
    let steps: Vec<u64> = (0..=4).map(|step| between(16_000_000, 1_000_000, step, 4)).collect();
    assert!(
        steps
            .iter()
            .zip([16_000_000, 8_000_000, 4_000_000, 2_000_000, 1_000_000])
            .all(|(is, wanted)| { is.abs_diff(wanted) * 100 < wanted }),
        "{steps:?}"
    );
}
