//! What replicas must keep beside each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, check, check_pool, groups, links::check_links};
use crate::{Plan, Problem};

/// Everything that is wrong with replicas: each by itself, then all together.
pub fn check_fleet(problem: &Problem, plans: &[Plan]) -> Vec<Violation> {
    let mut found = Vec::new();
    for plan in plans {
        found.extend(check(problem, plan));
    }
    found.extend(check_together(problem, plans));
    found
}

/// What is wrong with replicas each of which may be sound by itself: no device has two of them, a memory pool holds all of
/// them, and works for all of them in the time that one token may take, and links carry the hops of all.
pub fn check_together(problem: &Problem, plans: &[Plan]) -> Vec<Violation> {
    let mut found = Vec::new();
    if plans.len() > 1 {
        check_links(problem, plans, &mut found);
    }
    let mut holder: BTreeMap<&str, usize> = BTreeMap::new();
    let mut shared: BTreeSet<&str> = BTreeSet::new();
    let mut memory: BTreeMap<usize, (u128, u128, BTreeSet<usize>)> = BTreeMap::new();
    for (replica, plan) in plans.iter().enumerate() {
        for stage in &plan.stages {
            let device = problem.topology.devices.iter().find(|d| d.name == stage.device);
            for name in groups::names_of(stage, device) {
                if *holder.entry(name).or_insert(replica) != replica && shared.insert(name) {
                    found.push(Violation::DeviceShared {
                        device: name.to_owned(),
                    });
                }
            }
            let Some(device) = device else { continue };
            for (pool, bytes_there) in groups::bytes_of(device, u128::from(stage.memory_bytes)) {
                let (bytes, _, replicas) = memory.entry(pool).or_default();
                *bytes += bytes_there;
                replicas.insert(replica);
            }
            for pool in groups::pools_of(device) {
                let (_, busy_ns, _) = memory.entry(pool).or_default();
                *busy_ns += u128::from(stage.time_ns);
            }
        }
    }
    for (pool, (needed_bytes, busy_ns, replicas)) in memory {
        if replicas.len() < 2 {
            continue;
        }
        check_pool(problem, pool, needed_bytes, &mut found);
        if let Some(tokens) = problem.constraints.min_tokens_per_second {
            let cap_ns = 1_000_000_000 / u64::from(tokens.max(1));
            if busy_ns > u128::from(cap_ns) {
                found.push(Violation::TooSlow {
                    slowest_ns: busy_ns,
                    cap_ns,
                });
            }
        }
    }
    found
}
