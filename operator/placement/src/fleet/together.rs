//! What replicas take from each other, and what they cost together.

use std::collections::{BTreeMap, BTreeSet};

use topology::{Excluded, Exclusion, Traffic};

use super::search::{Cost, is_sum};
use crate::{HeldLayers, Plan, Problem, Stage, domain::moved_byte_ns, links};

/// The problem of a further replica: devices of the others take no part, and what they take of pools and links is gone.
pub(super) fn beside(problem: &Problem, others: &[Plan]) -> Problem {
    let mut rest = problem.clone();
    let used: BTreeSet<&str> = others
        .iter()
        .flat_map(|plan| &plan.stages)
        .map(|s| s.device.as_str())
        .collect();
    take(&mut rest, others);
    let (taken, free) = rest
        .topology
        .devices
        .into_iter()
        .partition(|d| used.contains(d.name.as_str()));
    rest.topology.devices = free;
    rest.topology.excluded.extend(taken.into_iter().map(|device| Excluded {
        device: device.name,
        node: device.node,
        backend: device.backend,
        kind: device.kind,
        why: Exclusion::Barred {
            why: "holds another replica".to_owned(),
        },
    }));
    rest
}

/// What plans take of pools and links is gone.
pub(super) fn take(problem: &mut Problem, plans: &[Plan]) {
    if let Some(hop) = links::hop_bytes_per_second(problem) {
        let taken = links::hops_over(plans).into_iter().map(|((from, to), hops)| Traffic {
            from_node: from.to_owned(),
            to_node: to.to_owned(),
            bytes_per_second: hop.saturating_mul(hops.len() as u64),
            by: "another replica".to_owned(),
        });
        problem.topology.traffic.extend(taken);
    }
    let topology = &mut problem.topology;
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        let device = topology.devices.iter().find(|device| device.name == stage.device);
        if let Some(pool) = device.and_then(|device| topology.pools.get_mut(device.pool)) {
            pool.usable_bytes = pool.usable_bytes.saturating_sub(stage.memory_bytes);
        }
    }
    for device in &mut topology.devices {
        let left = topology.pools.get(device.pool).map_or(0, |pool| pool.usable_bytes);
        device.usable_bytes = device.usable_bytes.min(left);
    }
}

fn pool_of(problem: &Problem, name: &str) -> Option<usize> {
    problem.topology.device(name).map(|device| device.pool)
}

pub(super) fn is_in(problem: &Problem, plan: &Plan, pool: usize) -> bool {
    plan.stages
        .iter()
        .any(|stage| pool_of(problem, &stage.device) == Some(pool))
}

/// What plans cost together; [`Cost::NEVER`] if they get in each other's way.
pub(super) fn least_cost(problem: &Problem, plans: &[Plan]) -> Cost {
    let mut bytes: BTreeMap<usize, u64> = BTreeMap::new();
    let mut busy_ns: BTreeMap<usize, u64> = BTreeMap::new();
    let mut devices = BTreeSet::new();
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        let Some(pool) = pool_of(problem, &stage.device).filter(|_| devices.insert(&stage.device)) else {
            return Cost::NEVER;
        };
        let (held, busy) = (bytes.entry(pool).or_default(), busy_ns.entry(pool).or_default());
        *held = held.saturating_add(stage.memory_bytes);
        *busy = busy.saturating_add(stage.time_ns);
    }
    let is_full = |(pool, bytes): (&usize, &u64)| {
        problem
            .topology
            .pools
            .get(*pool)
            .is_none_or(|p| *bytes > p.usable_bytes)
    };
    if bytes.iter().any(is_full) || links::overfull(problem, plans).is_some() {
        return Cost::NEVER;
    }
    let slowest_ns = |plan: &Plan| {
        let pools = plan.stages.iter().filter_map(|stage| pool_of(problem, &stage.device));
        pools
            .filter_map(|pool| busy_ns.get(&pool))
            .fold(plan.slowest_ns, |a, b| a.max(*b))
    };
    let cap_ns = problem.constraints.cap_ns().unwrap_or(u64::MAX);
    if plans.iter().any(|plan| slowest_ns(plan) > cap_ns) {
        return Cost::NEVER;
    }
    let byte_ns = moved_byte_ns(&problem.model);
    let moved = |plan: &Plan| {
        let missing =
            |s: &Stage| HeldLayers::missing_bytes(&problem.held, &problem.model, &s.device, s.first_layer, s.end_layer);
        let bytes = plan.stages.iter().map(missing).fold(0_u64, u64::saturating_add);
        bytes.saturating_mul(byte_ns)
    };
    let cost_ns = |plan: &Plan| match is_sum(problem) {
        true if problem.held.is_empty() => plan.latency_ns,
        true => plan.latency_ns.saturating_add(moved(plan)),
        false => slowest_ns(plan),
    };
    Cost::of_parts(problem, plans.iter().map(cost_ns))
}
