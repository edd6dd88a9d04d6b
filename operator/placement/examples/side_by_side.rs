//! The exact core beside the crate's own search, on the committed instances as far as both can state them: links made symmetric, no
//! entry and exit. `cargo run --release -p placement --example side_by_side [FILTER]`.

#[path = "../tests/core/instances.rs"]
mod instances;

use std::{collections::BTreeSet, env, time::Instant};

use instances::Instance;
use placement::{Constraints, Layer, Model, Objective, Problem, core};
use topology::{Device, Kind, Link, Origin, Pool, Rate, Topology};

const LAYER_BYTES: u64 = 1 << 30;
/// What the heads of the instances take: as much as two layers.
const HEAD_LAYERS: u64 = 2;

fn main() {
    let filter = env::args().nth(1).unwrap_or_default();
    println!(
        "{:18} {:>12} {:>10} {:>9} {:>12} {:>10} {:>9}",
        "instance", "core us", "verdict", "ms", "present us", "verdict", "ms"
    );
    for instance in instances::all().iter().filter(|i| i.name.contains(&filter)) {
        let begun = Instant::now();
        let budget = core::Budget {
            steps: 3_000_000,
            seed: 1,
        };
        let exact = core::solve(&stripped(instance), core::Objective::LATENCY, budget).expect("a valid instance");
        let exact_ms = begun.elapsed().as_secs_f64() * 1e3;
        let begun = Instant::now();
        let present = placement::solve(&as_cluster(instance), placement::Budget::default());
        let present_ms = begun.elapsed().as_secs_f64() * 1e3;
        let proved = matches!(exact.answer, core::Answer::Optimal(_) | core::Answer::Infeasible);
        let (present_us, verdict) = match present {
            Ok(solution) => (solution.plan.latency_ns / 1000, format!("{:?}", solution.verdict)),
            Err(infeasible) => (0, infeasible.to_string()),
        };
        println!(
            "{:18} {:>12} {:>10} {exact_ms:>9.1} {present_us:>12} {verdict:.40} {present_ms:>9.1}",
            instance.name,
            exact.answer.route().map_or(0, |route| route.cost_ns),
            if proved { "proved" } else { "open" },
        );
    }
}

/// Half the way there and half the way back, both ways.
fn one_way(instance: &Instance, from: usize, to: usize) -> u64 {
    let way_ns = &instance.problem.way_ns;
    (way_ns[from][to] + way_ns[to][from]) / 4
}

fn stripped(instance: &Instance) -> core::Problem {
    let mut problem = instance.problem.clone();
    let layers = problem.layers;
    for unit in &mut problem.units {
        (unit.entry_ns, unit.exit_ns) = (0, 0);
        unit.head_ns = HEAD_LAYERS * unit.elapsed_ns[1];
        // The head takes room too.
        let capacity = unit.reach[0];
        for (first, end) in unit.reach.iter_mut().enumerate() {
            let fits_whole = layers - first + 2 <= capacity;
            *end = if fits_whole {
                layers
            } else {
                (first + capacity).min(layers - 1)
            };
        }
    }
    for from in 0..problem.units.len() {
        for to in 0..problem.units.len() {
            problem.way_ns[from][to] = 2 * one_way(instance, from, to);
        }
    }
    problem
}

fn as_cluster(instance: &Instance) -> Problem {
    let rate = |bytes_per_second| Rate {
        bytes_per_second,
        origin: Origin::Measured,
    };
    let units = &instance.problem.units;
    let device = |(index, unit): (usize, &core::Unit)| Device {
        name: format!("d{index:02}"),
        node: format!("n{index:02}"),
        node_labels: Default::default(),
        vendor: String::new(),
        model: String::new(),
        backend: "cuda".to_owned(),
        kind: Kind::Discrete,
        pool: index,
        usable_bytes: unit.reach[0] as u64 * LAYER_BYTES,
        fixed_bytes: 0,
        bandwidth: rate(LAYER_BYTES * 1_000_000 / unit.elapsed_ns[1]),
        launch_us: 0,
        taints: Vec::new(),
    };
    let devices: Vec<Device> = units.iter().enumerate().map(device).collect();
    let pool = |d: &Device| Pool {
        name: d.name.clone(),
        usable_bytes: d.usable_bytes,
        held_bytes: 0,
        bandwidth: d.bandwidth,
    };
    let pairs = (0..units.len()).flat_map(|from| (0..units.len()).map(move |to| (from, to)));
    let link = |(from, to): (usize, usize)| {
        let link = Link {
            latency_us: one_way(instance, from, to),
            rate: rate(1_000_000_000_000),
        };
        ((format!("n{from:02}"), format!("n{to:02}")), link)
    };
    let layer = Layer {
        weight_bytes: LAYER_BYTES,
        kv_bytes: 0,
        kv_read_bytes: 0,
    };
    let layers = instance.problem.layers;
    Problem {
        model: Model {
            name: instance.name.clone(),
            layers: vec![layer; layers],
            embedding_bytes: 0,
            output_bytes: HEAD_LAYERS * LAYER_BYTES,
            activation_bytes: 1,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: (1..layers)
                .filter_map(|cut| u32::try_from(cut).ok())
                .collect::<BTreeSet<u32>>(),
        },
        topology: Topology {
            pools: devices.iter().map(pool).collect(),
            links: pairs.filter(|(from, to)| from != to).map(link).collect(),
            devices,
            excluded: Vec::new(),
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
    }
}
