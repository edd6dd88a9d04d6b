//! What replicas take from each other, and what they cost together.

use std::collections::{BTreeMap, BTreeSet};

use topology::{Device, Excluded, Exclusion};

use super::search::{Cost, RATE, is_sum};
use crate::{HeldLayers, Objective, Plan, Problem, Stage, domain::moved_byte_ns, links};

/// The problem of a further replica: devices of the others take no part, and what they take of pools and links is gone.
pub(super) fn beside(problem: &Problem, others: &[Plan]) -> Problem {
    let mut rest = problem.clone();
    let used = used(problem, others);
    take(&mut rest, others);
    let (taken, free): (Vec<Device>, Vec<Device>) = rest
        .topology
        .devices
        .into_iter()
        .partition(|device| is_used(device, &used));
    rest.topology.devices = free;
    let single = taken.into_iter().filter(|device| !device.is_group());
    rest.topology.excluded.extend(single.map(|device| Excluded {
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

/// Names of the single devices that plans use, alone or with others.
pub(super) fn used<'p>(problem: &'p Problem, plans: &'p [Plan]) -> BTreeSet<&'p str> {
    let stages = plans.iter().flat_map(|plan| &plan.stages);
    let mut used: BTreeSet<&str> = stages.map(|stage| stage.device.as_str()).collect();
    for group in problem.topology.devices.iter().filter(|device| device.is_group()) {
        if used.contains(group.name.as_str()) {
            used.extend(group.parts());
        }
    }
    used
}

/// Whether one of its parts is among these.
pub(super) fn is_used(device: &Device, used: &BTreeSet<&str>) -> bool {
    device.parts().any(|part| used.contains(part))
}

/// What plans take of pools and links is gone.
pub(super) fn take(problem: &mut Problem, plans: &[Plan]) {
    links::take(problem, plans);
    let topology = &mut problem.topology;
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        let Some(device) = topology.devices.iter().find(|device| device.name == stage.device) else {
            continue;
        };
        for (pool, bytes) in device.bytes_in_pools(stage.memory_bytes) {
            if let Some(pool) = topology.pools.get_mut(pool) {
                pool.usable_bytes = pool.usable_bytes.saturating_sub(bytes);
            }
        }
    }
    for device in &mut topology.devices {
        device.usable_bytes = device.usable_bytes.min(device.room_bytes(&topology.pools));
    }
}

/// The pools that a device works in.
fn pools_of(problem: &Problem, name: &str) -> impl Iterator<Item = usize> {
    let device = problem.topology.device(name);
    device
        .into_iter()
        .flat_map(|device| device.pools().map(|(pool, _)| pool))
}

pub(super) fn is_in(problem: &Problem, plan: &Plan, pool: usize) -> bool {
    let mut pools = plan.stages.iter().flat_map(|stage| pools_of(problem, &stage.device));
    pools.any(|of_stage| of_stage == pool)
}

/// What plans cost together; [`Cost::NEVER`] if they get in each other's way.
pub(super) fn least_cost(problem: &Problem, plans: &[Plan]) -> Cost {
    let mut bytes: BTreeMap<usize, u64> = BTreeMap::new();
    let mut parts = BTreeSet::new();
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        let Some(device) = problem.topology.device(&stage.device) else {
            return Cost::NEVER;
        };
        if !device.parts().all(|part| parts.insert(part)) {
            return Cost::NEVER;
        }
        for (pool, bytes_there) in device.bytes_in_pools(stage.memory_bytes) {
            let held = bytes.entry(pool).or_default();
            *held = held.saturating_add(bytes_there);
        }
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
    let busy_ns = busy(problem, plans);
    let slowest_ns = |plan: &Plan| slowest_ns(problem, plan, &busy_ns);
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

/// What the objective names of replicas together, of whatever devices of the problem they are on: the mean latency of one token; or,
/// where rates are added up, the time between two tokens of all of them.
pub fn time_ns(problem: &Problem, plans: &[Plan]) -> u64 {
    let replicas = plans.len().max(1) as u128;
    if problem.objective == Objective::Latency {
        let sum: u128 = plans.iter().map(|plan| u128::from(plan.latency_ns)).sum();
        return u64::try_from(sum / replicas).unwrap_or(u64::MAX);
    }
    let busy_ns = busy(problem, plans);
    let rates = plans
        .iter()
        .map(|plan| RATE / i128::from(slowest_ns(problem, plan, &busy_ns).max(1)));
    u64::try_from(RATE / rates.sum::<i128>().max(1)).unwrap_or(u64::MAX)
}

/// How long each pool works for one token of every plan.
fn busy(problem: &Problem, plans: &[Plan]) -> BTreeMap<usize, u64> {
    let mut busy_ns: BTreeMap<usize, u64> = BTreeMap::new();
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        for pool in pools_of(problem, &stage.device) {
            let busy = busy_ns.entry(pool).or_default();
            *busy = busy.saturating_add(stage.time_ns);
        }
    }
    busy_ns
}

fn slowest_ns(problem: &Problem, plan: &Plan, busy_ns: &BTreeMap<usize, u64>) -> u64 {
    let pools = plan.stages.iter().flat_map(|stage| pools_of(problem, &stage.device));
    pools
        .filter_map(|pool| busy_ns.get(&pool))
        .fold(plan.slowest_ns, |a, b| a.max(*b))
}
