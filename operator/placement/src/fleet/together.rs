//! What replicas take from each other, and what they cost together.

use std::collections::{BTreeMap, BTreeSet};

use topology::{Excluded, Exclusion};

use super::search::{Cost, RATE, is_sum};
use crate::{HeldLayers, Objective, Plan, Problem, Stage, domain::moved_byte_ns, links};

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
    links::take(problem, plans);
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
    let mut devices = BTreeSet::new();
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        let Some(pool) = pool_of(problem, &stage.device).filter(|_| devices.insert(&stage.device)) else {
            return Cost::NEVER;
        };
        let held = bytes.entry(pool).or_default();
        *held = held.saturating_add(stage.memory_bytes);
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
        if let Some(pool) = pool_of(problem, &stage.device) {
            let busy = busy_ns.entry(pool).or_default();
            *busy = busy.saturating_add(stage.time_ns);
        }
    }
    busy_ns
}

fn slowest_ns(problem: &Problem, plan: &Plan, busy_ns: &BTreeMap<usize, u64>) -> u64 {
    let pools = plan.stages.iter().filter_map(|stage| pool_of(problem, &stage.device));
    pools
        .filter_map(|pool| busy_ns.get(&pool))
        .fold(plan.slowest_ns, |a, b| a.max(*b))
}
