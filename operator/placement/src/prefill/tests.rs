use std::collections::BTreeSet;

use topology::{Kind, Link, Origin, Pool, Rate, Steps, Topology};

use super::*;
use crate::{Constraints, Layer, Model, Objective, Stage};

/// A byte a nanosecond.
const RATE: Rate = Rate {
    bytes_per_second: 1_000_000_000,
    origin: Origin::Measured,
};

const PROMPT: Prompt = Prompt {
    tokens: 400,
    step_rows: 100,
    parameters: 2_000,
    parameter_bytes: 1_000,
};

/// Two devices with two layers of 1,000 bytes each, in pools of their own, hops of 1 us.
fn problem(flops_per_second: [Option<u64>; 2]) -> (Problem, Plan) {
    let device = |(at, flops_per_second): (usize, Option<u64>)| Device {
        name: format!("d{at}"),
        node: format!("n{at}"),
        node_labels: Default::default(),
        vendor: String::new(),
        model: String::new(),
        backend: "cuda".to_owned(),
        kind: Kind::Discrete,
        pool: at,
        usable_bytes: 1 << 30,
        fixed_bytes: 0,
        bandwidth: RATE,
        launch_us: 1,
        steps: Some(Steps::plain(1000, 250, Vec::new())),
        flops_per_second,
        thermal_headroom_percent: None,
        taints: Vec::new(),
        members: Vec::new(),
    };
    let devices: Vec<Device> = flops_per_second.into_iter().enumerate().map(device).collect();
    let pool = |device: &Device| Pool {
        name: device.name.clone(),
        usable_bytes: device.usable_bytes,
        held_bytes: 0,
        bandwidth: RATE,
    };
    let stage = |(at, device): (usize, &Device)| Stage {
        device: device.name.clone(),
        node: device.node.clone(),
        backend: device.backend.clone(),
        first_layer: 2 * at as u32,
        end_layer: 2 * at as u32 + 2,
        weight_bytes: 0,
        memory_bytes: 0,
        time_ns: 0,
        hop_ns: None,
    };
    let link = Link {
        latency_us: 1,
        rate: RATE,
    };
    let layer = Layer {
        weight_bytes: 1000,
        active_bytes: 1000,
        kv_bytes: 0,
        kv_read_bytes: 0,
    };
    let plan = Plan {
        stages: devices.iter().enumerate().map(stage).collect(),
        entry_ns: 0,
        latency_ns: 0,
        slowest_ns: 0,
    };
    let problem = Problem {
        model: Model {
            name: "m".to_owned(),
            layers: vec![layer; 4],
            embedding_bytes: 0,
            output_bytes: 500,
            activation_bytes: 8,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: BTreeSet::new(),
        },
        topology: Topology {
            pools: devices.iter().map(pool).collect(),
            devices,
            links: [(("n0".to_owned(), "n1".to_owned()), link)].into_iter().collect(),
            ..Topology::default()
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
        held: Vec::new(),
    };
    (problem, plan)
}

#[test]
fn arithmetic_bounds_a_stage_and_attention_grows_with_the_square_of_the_prompt() {
    let (problem, plan) = problem([Some(1_000_000_000); 2]);
    let found = prefill(&problem, &plan, &PROMPT);
    // 4,000 weights, twice, for 400 tokens; 4 operations for 2 values and half of 400 x 400 positions in two layers.
    let arithmetic_ns = 2 * 4_000 * 400 + 4 * 2 * 80_000 * 2;
    let beside_ns = 4 * (1_000 + 2 * 250);
    assert_eq!(
        found.stages_ns,
        [Some(arithmetic_ns + beside_ns), Some(arithmetic_ns + beside_ns + 500)]
    );
}

#[test]
fn reading_weights_once_a_step_bounds_a_stage_whose_arithmetic_is_fast() {
    let (problem, plan) = problem([Some(u64::MAX); 2]);
    let found = prefill(&problem, &plan, &PROMPT);
    assert_eq!(found.stages_ns[0], Some(4 * 2_000 + 4 * 1_500));
}

#[test]
fn of_a_mixture_of_experts_a_step_reads_all_and_a_row_multiplies_its_own() {
    let of_experts = |flops_per_second| {
        let (mut problem, plan) = problem([Some(flops_per_second); 2]);
        for layer in &mut problem.model.layers {
            layer.active_bytes = 250;
        }
        prefill(&problem, &plan, &PROMPT).stages_ns[0]
    };
    let beside_ns = 4 * 1_500;
    assert_eq!(
        of_experts(1_000_000_000),
        Some(2 * 1_000 * 400 + 4 * 2 * 80_000 * 2 + beside_ns)
    );
    assert_eq!(of_experts(u64::MAX), Some(4 * 2_000 + beside_ns));
}

#[test]
fn steps_follow_each_other_at_the_pace_of_the_slowest_part() {
    let (problem, plan) = problem([Some(1_000_000_000), Some(500_000_000)]);
    let found = prefill(&problem, &plan, &PROMPT);
    let [Some(first), Some(second)] = found.stages_ns[..] else {
        panic!("{found:?}")
    };
    let hop_ns = 1_000 + 100 * 8;
    assert_eq!(found.total_ns, Some(first / 4 + second / 4 + hop_ns + 3 * (second / 4)));
}

#[test]
fn unknown_arithmetic_is_no_figure_and_neither_is_the_total() {
    let (problem, plan) = problem([Some(1_000_000_000), None]);
    let found = prefill(&problem, &plan, &PROMPT);
    assert!(found.stages_ns[0].is_some());
    assert_eq!((found.stages_ns[1], found.total_ns), (None, None));
}

#[test]
fn devices_of_one_pool_take_turns() {
    let (mut problem, plan) = problem([Some(1_000_000_000); 2]);
    let apart = prefill(&problem, &plan, &PROMPT).total_ns;
    problem.topology.devices[1].pool = 0;
    assert!(prefill(&problem, &plan, &PROMPT).total_ns > apart);
}
