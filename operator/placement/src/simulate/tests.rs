use std::collections::BTreeSet;

use topology::{Device, Kind, Link, Origin, Pool, Rate, Topology};

use super::{Prompt, Simulated, Workload, simulate};
use crate::{Constraints, Layer, Model, Objective, Plan, Problem, Stage};

/// At a byte a nanosecond a layer of 1000 bytes takes a microsecond.
const RATE: Rate = Rate {
    bytes_per_second: 1_000_000_000,
    origin: Origin::Measured,
};

/// `layers[i]` layers on device i, each on a node and a pool of its own, hops of 1 us and 200 ns of transfer.
fn line(layers: &[u32]) -> (Problem, Plan) {
    let mut devices = Vec::new();
    let mut stages = Vec::new();
    let mut first_layer = 0;
    for (index, count) in layers.iter().enumerate() {
        devices.push(Device {
            name: format!("d{index}"),
            node: format!("n{index}"),
            node_labels: Default::default(),
            vendor: String::new(),
            model: String::new(),
            backend: "cuda".to_owned(),
            kind: Kind::Discrete,
            pool: index,
            usable_bytes: 1 << 30,
            fixed_bytes: 0,
            bandwidth: RATE,
            launch_us: 0,
            steps: None,
            flops_per_second: Some(10_000_000_000),
            thermal_headroom_percent: None,
            taints: Vec::new(),
            members: Vec::new(),
        });
        stages.push(Stage {
            device: format!("d{index}"),
            node: format!("n{index}"),
            backend: "cuda".to_owned(),
            first_layer,
            end_layer: first_layer + count,
            weight_bytes: 0,
            memory_bytes: 0,
            time_ns: 0,
            hop_ns: None,
        });
        first_layer += count;
    }
    let pool = |device: &Device| Pool {
        name: device.name.clone(),
        usable_bytes: device.usable_bytes,
        held_bytes: 0,
        bandwidth: RATE,
    };
    let link = Link {
        latency_us: 1,
        rate: RATE,
    };
    let pairs = devices
        .iter()
        .flat_map(|a| devices.iter().map(|b| (a.node.clone(), b.node.clone())));
    let layer = Layer {
        weight_bytes: 900,
        active_bytes: 900,
        kv_bytes: 100,
        kv_read_bytes: 100,
    };
    let problem = Problem {
        model: Model {
            name: "m".to_owned(),
            layers: vec![layer; usize::try_from(first_layer).expect("small")],
            embedding_bytes: 0,
            output_bytes: 0,
            activation_bytes: 200,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: BTreeSet::new(),
        },
        topology: Topology {
            pools: devices.iter().map(pool).collect(),
            links: pairs.map(|ends| (ends, link)).collect(),
            devices,
            ..Topology::default()
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
        held: Vec::new(),
    };
    let plan = Plan {
        stages,
        entry_ns: 0,
        latency_ns: 0,
        slowest_ns: 0,
    };
    (problem, plan)
}

fn decoding(streams: u32, batch_streams: u32) -> Workload {
    Workload {
        streams,
        batch_streams,
        tokens_per_stream: 100,
        prompt: None,
    }
}

fn run((problem, plan): &(Problem, Plan), workload: &Workload) -> Simulated {
    simulate(problem, plan, workload).expect("a plan and something to do")
}

#[test]
fn one_stream_takes_the_sum_of_all_parts_for_each_token() {
    let done = run(&line(&[2, 3]), &decoding(1, 1));
    let token_ns = 2_000 + 200 + 1_000 + 3_000 + 1_000;
    assert_eq!((done.mean_latency_ns, done.p99_latency_ns), (token_ns, token_ns));
    assert_eq!((done.tokens, done.elapsed_ns), (100, 100 * token_ns));
    assert_eq!(done.stage_busy_permille, [277, 416]);
    assert_eq!(done.link_busy_permille, [27]);
}

#[test]
fn many_streams_keep_the_slowest_stage_busy_and_wait_for_it() {
    let done = run(&line(&[2, 3]), &decoding(8, 1));
    let least_ns = 800 * 3_000;
    assert!((least_ns..least_ns * 101 / 100).contains(&done.elapsed_ns), "{done:?}");
    assert!(done.stage_busy_permille[1] > 990, "{done:?}");
    // Each of eight waits for the seven others.
    assert_eq!(done.p99_latency_ns, 8 * 3_000);
}

#[test]
fn a_micro_batch_reads_weights_once_and_every_streams_cache() {
    let done = run(&line(&[2]), &decoding(4, 4));
    assert_eq!(done.mean_latency_ns, 2 * (900 + 4 * 100));
    assert_eq!(done.tokens, 400);
    let uneven = run(&line(&[2]), &decoding(5, 4));
    assert_eq!(uneven.tokens, 500, "the last stream is a batch of its own");
}

#[test]
fn of_a_mixture_of_experts_each_stream_reads_its_own_until_all_are_read() {
    let (mut problem, plan) = line(&[2]);
    for layer in &mut problem.model.layers {
        layer.active_bytes = 300;
    }
    let of_experts = (problem, plan);
    for (streams, read) in [(1, 300), (2, 600), (4, 900)] {
        let done = run(&of_experts, &decoding(streams, streams));
        assert_eq!(done.mean_latency_ns, 2 * (read + u64::from(streams) * 100));
    }
}

#[test]
fn stages_of_one_memory_take_turns() {
    let (mut problem, plan) = line(&[2, 2]);
    for device in &mut problem.topology.devices {
        device.pool = 0;
    }
    let done = run(&(problem, plan), &decoding(8, 1));
    assert!(done.elapsed_ns >= 800 * 4_000, "{done:?}");
}

#[test]
fn two_hops_over_one_link_share_it() {
    let (mut problem, mut plan) = line(&[1, 1, 1, 1]);
    for (index, node) in ["x", "y", "x", "y"].iter().enumerate() {
        problem.topology.devices[index].node = (*node).to_owned();
        plan.stages[index].node = (*node).to_owned();
    }
    let link = Link {
        latency_us: 1,
        rate: Rate {
            // A transfer takes 2 us, a stage one.
            bytes_per_second: 100_000_000,
            ..RATE
        },
    };
    let ways = [("x", "y"), ("y", "x")];
    problem.topology.links = ways
        .map(|(from, to)| ((from.to_owned(), to.to_owned()), link))
        .into_iter()
        .collect();
    let done = run(&(problem, plan), &decoding(16, 1));
    assert!(done.elapsed_ns >= 1_600 * 4_000, "{done:?}");
}

fn prompt(tokens: u32, chunk_tokens: u32) -> Workload {
    Workload {
        streams: 0,
        batch_streams: 1,
        tokens_per_stream: 0,
        prompt: Some(Prompt {
            tokens,
            chunk_tokens,
            operations_per_weight_byte: 1,
        }),
    }
}

#[test]
fn a_prompt_in_chunks_flows_through_all_stages_at_once() {
    // Of 100 tokens a layer takes 100 x 900 operations at ten a nanosecond, which is more than reading it takes.
    let two = line(&[1, 1]);
    let whole = run(&two, &prompt(400, 400)).first_token_ns.expect("a token");
    assert_eq!(whole, 36_000 + 80_000 + 1_000 + 36_000 + 1_000);
    let chunked = run(&two, &prompt(400, 100)).first_token_ns.expect("a token");
    assert_eq!(chunked, 9_000 + 4 * 20_000 + 1_000 + 9_000 + 1_000, "bound by the link");
}

#[test]
fn without_a_measurement_of_arithmetic_tokens_gain_nothing_from_each_other() {
    let (mut problem, plan) = line(&[1]);
    problem.topology.devices[0].flops_per_second = None;
    let done = run(&(problem, plan), &prompt(10, 10));
    assert_eq!(done.first_token_ns, Some(10 * 1_000));
}

#[test]
fn a_prompt_among_streams_waits_and_makes_them_wait() {
    let quiet = run(&line(&[2, 2]), &decoding(4, 1));
    let busy = Workload {
        prompt: prompt(400, 100).prompt,
        ..decoding(4, 1)
    };
    let busy = run(&line(&[2, 2]), &busy);
    assert_eq!(quiet.first_token_ns, None);
    let alone = run(&line(&[2, 2]), &prompt(400, 100)).first_token_ns;
    assert!(busy.first_token_ns > alone, "{:?} {alone:?}", busy.first_token_ns);
    assert!(busy.p99_latency_ns > quiet.p99_latency_ns);
    assert_eq!(busy.tokens, quiet.tokens);
}

#[test]
fn nothing_to_do_and_plans_of_other_clusters_have_no_result() {
    let (problem, plan) = line(&[2]);
    assert_eq!(simulate(&problem, &plan, &decoding(0, 1)), None);
    let mut foreign = plan.clone();
    foreign.stages[0].device = "x".to_owned();
    assert_eq!(simulate(&problem, &foreign, &decoding(1, 1)), None);
    let mut too_long = plan;
    too_long.stages[0].end_layer = 3;
    assert_eq!(simulate(&problem, &too_long, &decoding(1, 1)), None);
}

#[test]
fn work_is_limited_whatever_is_asked() {
    let endless = Workload {
        streams: 3,
        batch_streams: 1,
        tokens_per_stream: u32::MAX,
        prompt: None,
    };
    let done = run(&line(&[1]), &endless);
    assert!(done.tokens <= super::MAX_PASSES + 3);
}
