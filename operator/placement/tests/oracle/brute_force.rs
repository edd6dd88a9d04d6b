//! Every ordered choice of devices, every cut. Which of them are plans is the checker's judgement, not the solver's.

use placement::{HeldLayers, Objective, Plan, Problem, Stage, check};
use topology::Device;

/// The best plan there is.
pub fn best(problem: &Problem) -> Option<Plan> {
    let mut best: Option<Plan> = None;
    each_plan(problem, &mut |plan| {
        let better = best.as_ref().is_none_or(|b| cost(problem, &plan) < cost(problem, b));
        if better && check(problem, &plan).is_empty() {
            best = Some(plan);
        }
    });
    best
}

/// Every plan there is.
pub fn all(problem: &Problem) -> Vec<Plan> {
    let mut all = Vec::new();
    each_plan(problem, &mut |plan| {
        if check(problem, &plan).is_empty() {
            all.push(plan);
        }
    });
    all
}

fn each_plan(problem: &Problem, visit: &mut impl FnMut(Plan)) {
    let mut order = Vec::new();
    each_order(&problem.topology.devices, &mut order, &mut |order| {
        let mut ends = Vec::new();
        each_cut(order.len(), problem.model.layers.len(), 0, &mut ends, &mut |ends| {
            visit(plan(problem, order, ends));
        });
    });
}

/// What is compared, the first entry first: bytes that move, if anything is held; then what the objective names.
pub fn cost(problem: &Problem, plan: &Plan) -> (u64, u64, u64) {
    let missing =
        |s: &Stage| HeldLayers::missing_bytes(&problem.held, &problem.model, &s.device, s.first_layer, s.end_layer);
    let moved_bytes = plan.stages.iter().map(missing).sum();
    match problem.objective {
        _ if !problem.held.is_empty() => (moved_bytes, plan.latency_ns, 0),
        Objective::Latency => (0, plan.latency_ns, 0),
        Objective::Throughput => (0, plan.slowest_ns, plan.latency_ns),
    }
}

/// Names of the devices behind one: those that work as one, or itself.
pub fn names(device: &Device) -> Vec<&str> {
    if device.members.is_empty() {
        return vec![device.name.as_str()];
    }
    device.members.iter().map(|member| member.device.as_str()).collect()
}

/// Whether a device, or one of those that it is, works in a pool.
pub fn is_in(device: &Device, pool: usize) -> bool {
    if device.members.is_empty() {
        return device.pool == pool;
    }
    device.members.iter().any(|member| member.pool == pool)
}

fn each_order(devices: &[Device], order: &mut Vec<usize>, visit: &mut impl FnMut(&[usize])) {
    for (at, device) in devices.iter().enumerate() {
        let own = names(device);
        let is_free = |other: &usize| names(&devices[*other]).iter().all(|name| !own.contains(name));
        if order.iter().all(is_free) {
            order.push(at);
            visit(order);
            each_order(devices, order, visit);
            order.pop();
        }
    }
}

fn each_cut(stages: usize, layers: usize, first: usize, ends: &mut Vec<usize>, visit: &mut impl FnMut(&[usize])) {
    if ends.len() + 1 == stages {
        if first < layers {
            ends.push(layers);
            visit(ends);
            ends.pop();
        }
        return;
    }
    for end in first + 1..layers {
        ends.push(end);
        each_cut(stages, layers, end, ends, visit);
        ends.pop();
    }
}

/// The plan with its figures by plain arithmetic; the checker recomputes them in its own way.
fn plan(problem: &Problem, order: &[usize], ends: &[usize]) -> Plan {
    let model = &problem.model;
    let ns = |bytes: u64, rate: u64| (bytes * 1_000_000_000).div_ceil(rate);
    let mut stages = Vec::new();
    let mut first = 0;
    let mut slowest_ns = 0;
    for (s, end) in ends.iter().enumerate() {
        let device = &problem.topology.devices[order[s]];
        let next = order.get(s + 1).map(|n| &problem.topology.devices[*n]);
        let rate = device.bandwidth.bytes_per_second;
        let layers = &model.layers[first..*end];
        let layer_weights: u64 = layers.iter().map(|l| l.weight_bytes).sum();
        let caches: u64 = layers.iter().map(|l| l.kv_bytes).sum();
        let mut time_ns: u64 = device.launch_us * 1000;
        time_ns += layers
            .iter()
            .map(|l| ns(l.active_bytes + l.kv_read_bytes, rate) + device.layer_ns())
            .sum::<u64>();
        let mut weight_bytes = layer_weights;
        // Each of several devices that work as one has a part of the layers, and all of the rest.
        let members = u64::try_from(names(device).len()).expect("few devices");
        let mut divided_bytes = layer_weights + caches;
        let mut whole_bytes = device.fixed_bytes + model.compute_buffer_bytes;
        if s == 0 {
            weight_bytes += model.embedding_bytes;
            if device.kind.uses_host_memory() {
                divided_bytes += model.embedding_bytes;
            }
        }
        if next.is_none() {
            weight_bytes += model.output_bytes;
            whole_bytes += model.output_bytes + model.output_buffer_bytes;
            time_ns += ns(model.output_bytes, rate);
        }
        let hop_ns = next.map(|next| {
            let there = problem.topology.link(&device.node, &next.node);
            let back = problem.topology.link(&next.node, &device.node);
            let carry = ns(model.activation_bytes, there.rate.bytes_per_second);
            slowest_ns = slowest_ns.max(carry);
            (there.latency_us + back.latency_us) * 1000 + carry
        });
        stages.push(Stage {
            device: device.name.clone(),
            node: device.node.clone(),
            backend: device.backend.clone(),
            first_layer: u32::try_from(first).expect("few layers"),
            end_layer: u32::try_from(*end).expect("few layers"),
            weight_bytes,
            memory_bytes: (divided_bytes.div_ceil(members) + whole_bytes) * members,
            time_ns,
            hop_ns,
        });
        first = *end;
    }
    for pool in 0..problem.topology.pools.len() {
        let on_pool = |(s, _): &(usize, &Stage)| is_in(&problem.topology.devices[order[*s]], pool);
        let busy: u64 = stages
            .iter()
            .enumerate()
            .filter(on_pool)
            .map(|(_, stage)| stage.time_ns)
            .sum();
        slowest_ns = slowest_ns.max(busy);
    }
    let entry_us = problem.topology.entry_us.get(&problem.topology.devices[order[0]].node);
    let entry_ns = entry_us.map_or(0, |us| us * 1000);
    let latency_ns = entry_ns + stages.iter().map(|s| s.time_ns + s.hop_ns.unwrap_or(0)).sum::<u64>();
    Plan {
        stages,
        entry_ns,
        latency_ns,
        slowest_ns,
    }
}
