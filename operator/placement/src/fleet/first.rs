//! Plans to begin with: one replica after the other, and devices shared out before anything is decided.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::search::{Limits, Search, search};
use super::together::beside;
use crate::{Budget, Plan, Problem};

/// Rounds in which every two replicas share out anew what they have.
const ROUNDS: usize = 2;

/// Offers what is found soon.
pub(super) fn offer(search: &mut Search<'_>) {
    let share = search.steps / 8 / search.replicas as u64;
    let anything = vec![Limits::default(); search.replicas];
    for shares in [anything, shared_out(search, by_node), shared_out(search, by_device)] {
        if let Some(plans) = in_turn(search, &shares, share) {
            search.offer(plans);
        }
    }
    // Two replicas by themselves are what the search does anyway.
    if search.replicas > 2 {
        exchange(search, share);
    }
}

/// One after the other, each within its limits and beside those before it.
fn in_turn(search: &mut Search<'_>, shares: &[Limits], steps: u64) -> Option<Vec<Plan>> {
    let mut plans: Vec<Plan> = Vec::new();
    for own in shares {
        let rest = beside(search.problem, &plans);
        let single = search.decide(&rest, &renumbered(search.problem, &rest, own), steps);
        plans.push(single.ok()?.plan);
    }
    Some(plans)
}

/// Limits by the devices' places in a problem that has fewer of them.
fn renumbered(all: &Problem, rest: &Problem, limits: &Limits) -> Limits {
    let name = |at: &usize| all.topology.devices.get(*at).map(|device| device.name.as_str());
    let closed: BTreeSet<&str> = limits.most.keys().filter_map(name).collect();
    let devices = rest.topology.devices.iter().enumerate();
    let is_closed = devices.filter(|(_, device)| closed.contains(device.name.as_str()));
    Limits::without(is_closed.map(|(at, _)| at))
}

fn by_node(problem: &Problem, device: usize) -> &str {
    &problem.topology.devices[device].node
}

fn by_device(problem: &Problem, device: usize) -> &str {
    &problem.topology.devices[device].name
}

/// Shares the devices out, what belongs together to one replica: the largest first, to whoever has least. Devices that work as one are
/// for whoever has all of them.
fn shared_out(search: &Search<'_>, key: fn(&Problem, usize) -> &str) -> Vec<Limits> {
    let problem = search.problem;
    let devices = &problem.topology.devices;
    let mut parts: BTreeMap<&str, (u64, Vec<usize>)> = BTreeMap::new();
    for (at, device) in devices.iter().enumerate().filter(|(_, device)| !device.is_group()) {
        let (bytes, members) = parts.entry(key(problem, at)).or_default();
        *bytes = bytes.saturating_add(device.usable_bytes);
        members.push(at);
    }
    let mut parts: Vec<(u64, Vec<usize>)> = parts.into_values().collect();
    parts.sort_by_key(|(bytes, members)| (Reverse(*bytes), members.first().copied()));
    let mut held = vec![(0_u64, BTreeSet::new()); search.replicas];
    for (bytes, members) in parts {
        if let Some((has, own)) = held.iter_mut().min_by_key(|(has, _)| *has) {
            *has = has.saturating_add(bytes);
            own.extend(members);
        }
    }
    let closed = |(_, own): (u64, BTreeSet<usize>)| -> Limits {
        let names: BTreeSet<&str> = own.iter().map(|at| devices[*at].name.as_str()).collect();
        let is_own = |at: &usize| devices[*at].parts().all(|part| names.contains(part));
        Limits::without((0..devices.len()).filter(|at| !is_own(at)))
    };
    held.into_iter().map(closed).collect()
}

/// Every two replicas share out anew what they have and nobody else has, as long as that is better.
fn exchange(all: &mut Search<'_>, steps: u64) {
    for _ in 0..ROUNDS {
        let before = all.best_cost();
        for one in 0..all.replicas {
            for other in one + 1..all.replicas {
                let Some(plans) = all.best().map(<[Plan]>::to_vec) else {
                    return;
                };
                let is_pair = |at: &usize| *at == one || *at == other;
                let pick = |wanted: bool| -> Vec<Plan> {
                    let chosen = (0..plans.len()).filter(|at| is_pair(at) == wanted);
                    chosen.map(|at| plans[at].clone()).collect()
                };
                let (pair, mut others) = (pick(true), pick(false));
                let budget = Budget {
                    steps: steps / all.replicas as u64,
                    seed: all.seed,
                };
                let rest = beside(all.problem, &others);
                let outcome = search(&rest, 2, Some(&pair), budget);
                all.spend(outcome.steps);
                others.extend(outcome.plans);
                all.offer(others);
            }
        }
        if all.best_cost() >= before {
            return;
        }
    }
}
