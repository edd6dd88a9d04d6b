//! How many hops a link carries at the rate that is asked for: those of a plan, of all replicas, and what placed pipelines put on it
//! add up. A link is a direction between two nodes, or what the devices of one node share.
//!
//! Everything is bytes a second, so that sums are exact. Without a rate there is nothing to limit.

use std::collections::BTreeMap;

use crate::{Plan, Problem};

/// What one hop of the model puts on its link; `None` without a rate.
pub(crate) fn hop_bytes_per_second(problem: &Problem) -> Option<u64> {
    let tokens = problem.constraints.min_tokens_per_second?;
    Some(problem.model.activation_bytes.saturating_mul(tokens.into()))
}

/// What all may put on a link together.
pub(crate) fn allowed_bytes_per_second(problem: &Problem, from_node: &str, to_node: &str) -> u64 {
    let rate = problem.topology.link(from_node, to_node).rate.bytes_per_second;
    let percent = u128::from(problem.constraints.max_link_percent.unwrap_or(100).min(100));
    u64::try_from(u128::from(rate) * percent / 100).unwrap_or(rate)
}

/// What placed pipelines put on it.
pub(crate) fn taken_bytes_per_second(problem: &Problem, from_node: &str, to_node: &str) -> u64 {
    let traffic = problem.topology.traffic_on(from_node, to_node);
    traffic.fold(0, |sum, traffic| sum.saturating_add(traffic.bytes_per_second))
}

/// How many hops a link carries beside what placed pipelines put on it.
pub(crate) fn most_hops(problem: &Problem, from_node: &str, to_node: &str) -> usize {
    let Some(hop) = hop_bytes_per_second(problem).filter(|hop| *hop > 0) else {
        return usize::MAX;
    };
    let allowed = allowed_bytes_per_second(problem, from_node, to_node);
    let left = allowed.saturating_sub(taken_bytes_per_second(problem, from_node, to_node));
    usize::try_from(left / hop).unwrap_or(usize::MAX)
}

/// A way from a device to the next, by the nodes it joins.
pub(crate) type Link<'p> = (&'p str, &'p str);

/// The hops of plans over each link: whose, and from which stage on.
pub(crate) fn hops_over(plans: &[Plan]) -> BTreeMap<Link<'_>, Vec<(usize, usize)>> {
    let mut over: BTreeMap<Link<'_>, Vec<(usize, usize)>> = BTreeMap::new();
    for (of, plan) in plans.iter().enumerate() {
        for (stage, pair) in plan.stages.windows(2).enumerate() {
            if let [from, to] = pair {
                over.entry((&from.node, &to.node)).or_default().push((of, stage));
            }
        }
    }
    over
}

/// The first link that carries fewer hops than plans have there, with one hop more than it carries.
pub(crate) fn overfull(problem: &Problem, plans: &[Plan]) -> Option<Vec<(usize, usize)>> {
    hop_bytes_per_second(problem)?;
    hops_over(plans).into_iter().find_map(|((from, to), mut hops)| {
        let most = most_hops(problem, from, to);
        hops.truncate(most.saturating_add(1));
        (hops.len() > most).then_some(hops)
    })
}
