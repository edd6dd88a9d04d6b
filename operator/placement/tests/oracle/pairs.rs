//! Two replicas: all pairs of plans. Which of them may stand beside each other is the checker's judgement.

use std::collections::BTreeMap;

use placement::{Objective, Plan, Problem, check_together};

use crate::brute_force;

/// Rates are in this part of a token per nanosecond.
const RATE: i128 = 1_000_000_000_000_000_000;

/// What replicas cost together, the first entry first: bytes that move, if anything is held; then times, or rates with the sign
/// turned. A pool in which several work is as busy for each as for all.
pub fn cost(problem: &Problem, plans: &[&Plan]) -> (u64, i128) {
    let moved: u64 = plans.iter().map(|plan| brute_force::cost(problem, plan).0).sum();
    if problem.objective == Objective::Latency || !problem.held.is_empty() {
        return (moved, plans.iter().map(|plan| i128::from(plan.latency_ns)).sum());
    }
    let mut busy_ns: BTreeMap<usize, u64> = BTreeMap::new();
    let pools = |device: &str| {
        let device = problem.topology.device(device).expect("a device");
        (0..problem.topology.pools.len()).filter(move |pool| brute_force::is_in(device, *pool))
    };
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        for pool in pools(&stage.device) {
            *busy_ns.entry(pool).or_default() += stage.time_ns;
        }
    }
    let slowest = |plan: &&Plan| {
        let pools = plan.stages.iter().flat_map(|stage| pools(&stage.device));
        pools.map(|pool| busy_ns[&pool]).fold(plan.slowest_ns, u64::max)
    };
    (
        moved,
        -plans
            .iter()
            .map(|plan| RATE / i128::from(slowest(plan).max(1)))
            .sum::<i128>(),
    )
}

/// The cost of the best pair there is.
pub fn best(problem: &Problem) -> Option<(u64, i128)> {
    let mut plans: Vec<((u64, i128), u64, Plan)> = brute_force::all(problem)
        .into_iter()
        .map(|plan| (cost(problem, &[&plan]), devices(problem, &plan), plan))
        .collect();
    plans.sort_by_key(|(cost, ..)| *cost);
    let mut best: Option<(u64, i128)> = None;
    for (at, (one_cost, one_devices, one)) in plans.iter().enumerate() {
        for (other_cost, other_devices, other) in &plans[at + 1..] {
            // Beside each other they cost no less than alone.
            let alone = (one_cost.0 + other_cost.0, one_cost.1 + other_cost.1);
            if best.is_some_and(|best| alone >= best) {
                break;
            }
            if one_devices & other_devices == 0 && check_together(problem, &[one.clone(), other.clone()]).is_empty() {
                let together = cost(problem, &[one, other]);
                best = Some(best.map_or(together, |best| best.min(together)));
            }
        }
    }
    best
}

/// The single devices of a plan, one bit each.
fn devices(problem: &Problem, plan: &Plan) -> u64 {
    let at = |name: &str| problem.topology.devices.iter().position(|device| device.name == name);
    let used = plan
        .stages
        .iter()
        .filter_map(|stage| problem.topology.device(&stage.device));
    used.flat_map(brute_force::names)
        .filter_map(at)
        .fold(0, |bits, at| bits | 1 << at)
}
