//! The least time that no stage and no link exceeds: the least cap under which there is a plan at all.

use super::{
    Work,
    demand::most_layers,
    graph::Graph,
    problem::{NEVER_NS, Problem},
    route,
    solve::{Known, solve_graph},
};

/// Searches the caps that can be the answer by halving them: a plan under one cap is a plan under every larger one.
pub(crate) fn solve_bottleneck(problem: &Problem, seed: u64, work: &mut Work) -> Known {
    let mut known = Known {
        best: None,
        bound_ns: 0,
        below_ns: problem.below_ns,
    };
    // The limit is one on what is busy, not on sums.
    let graph_of = |cap_ns: u64| Graph {
        below_ns: NEVER_NS,
        ..Graph::new(problem, cap_ns)
    };
    let most_ns = if problem.below_ns < NEVER_NS {
        problem.below_ns.saturating_sub(1)
    } else {
        NEVER_NS
    };
    let free = graph_of(most_ns);
    let first = solve_graph(&free, seed, true, work);
    let Some((_, order)) = first.best else {
        // Its bound is one on a sum: it only tells whether there is a plan at all.
        known.bound_ns = if first.is_proved() { problem.below_ns } else { 0 };
        return known;
    };
    known.best = Some((busy_ns(problem, &free, &order), order));
    let caps_ns = caps(problem, &free);
    // No cap before `low` will do; the one at `high` does.
    let mut low = caps_ns.partition_point(|cap_ns| !may_hold(problem, *cap_ns));
    let mut certain = low;
    let mut guess = low;
    while let Some((best_ns, _)) = &known.best {
        let high = caps_ns.partition_point(|cap_ns| cap_ns < best_ns);
        if low >= high || work.is_used_up() {
            break;
        }
        let cap_ns = caps_ns[guess.min(high - 1)];
        let graph = graph_of(cap_ns);
        let share = work.left / 4;
        let mut part = work.split(share);
        let found = solve_graph(&graph, seed, true, &mut part);
        work.join(&part);
        match found.best {
            Some((_, order)) => known.best = Some((busy_ns(problem, &graph, &order), order)),
            None => {
                let next = caps_ns.partition_point(|cap| *cap <= cap_ns);
                // Without a proof the search goes on above, and the bound stays below.
                if found.bound_ns >= NEVER_NS && certain == low {
                    certain = next;
                }
                low = next;
            }
        }
        let high = known
            .best
            .as_ref()
            .map_or(low, |(ns, _)| caps_ns.partition_point(|cap| cap < ns));
        guess = low + high.saturating_sub(low) / 2;
    }
    let best_ns = known.best.as_ref().map_or(NEVER_NS, |(ns, _)| *ns);
    known.bound_ns = caps_ns.get(certain).copied().unwrap_or(best_ns).min(best_ns);
    known
}

/// Every time that a stage or a link can be busy for, ascending.
fn caps(problem: &Problem, graph: &Graph) -> Vec<u64> {
    let mut caps_ns = vec![0];
    for unit in 0..graph.units() {
        for first in 0..graph.positions {
            for end in first + 1..=graph.reach[unit][first] {
                caps_ns.push(stage_ns(problem, graph, unit, first, end));
            }
        }
        let carries = problem.carry_ns[unit].iter().enumerate();
        caps_ns.extend(
            carries
                .filter(|(to, _)| graph.way_ns[unit][*to] < NEVER_NS)
                .map(|(_, ns)| *ns),
        );
    }
    caps_ns.sort_unstable();
    caps_ns.dedup();
    caps_ns
}

fn stage_ns(problem: &Problem, graph: &Graph, unit: usize, first: usize, end: usize) -> u64 {
    let u = &problem.units[unit];
    let head_ns = if end == graph.positions { u.head_ns } else { 0 };
    u.launch_ns + graph.elapsed_ns[unit][end] - graph.elapsed_ns[unit][first] + head_ns
}

/// Whether the largest stages together could hold all layers under a cap, links and order aside.
///
/// The first and the last stage may hold less than others of their unit; whichever units they are, at least the smallest of
/// these differences is lost.
fn may_hold(problem: &Problem, cap_ns: u64) -> bool {
    let graph = Graph::new(problem, cap_ns);
    let units = 0..graph.units();
    if units.clone().any(|unit| graph.alone_ns(unit) < NEVER_NS) {
        return true;
    }
    let end = graph.positions;
    let most = most_layers(&graph);
    let last_layers = |unit: usize| {
        (0..end)
            .find(|first| graph.reach[unit][*first] == end)
            .map(|first| end - first)
    };
    let lost_first = units
        .clone()
        .filter(|u| graph.reach[*u][0] > 0)
        .map(|u| most[u] - graph.reach[u][0])
        .min();
    let lost_last = units.filter_map(|unit| Some(most[unit] - last_layers(unit)?)).min();
    let (Some(lost_first), Some(lost_last)) = (lost_first, lost_last) else {
        return false;
    };
    let mut lengths = most;
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.iter().take(graph.max_stages).sum::<usize>() >= end + lost_first + lost_last
}

/// What is busy longest in the plan of an order: its best cut under the graph's cap.
pub(crate) fn busy_ns(problem: &Problem, graph: &Graph, order: &[usize]) -> u64 {
    let ends = route::ends(graph, order).unwrap_or_default();
    busy_of_ends_ns(problem, order, &ends)
}

fn busy_of_ends_ns(problem: &Problem, order: &[usize], ends: &[usize]) -> u64 {
    let mut first = 0;
    let mut busy_ns = 0;
    for (s, (unit, end)) in order.iter().zip(ends).enumerate() {
        let u = &problem.units[*unit];
        let head_ns = if *end == problem.layers { u.head_ns } else { 0 };
        busy_ns = busy_ns.max(u.launch_ns + u.elapsed_ns[*end] - u.elapsed_ns[first] + head_ns);
        if let Some(next) = order.get(s + 1) {
            busy_ns = busy_ns.max(problem.carry_ns[*unit][*next]);
        }
        first = *end;
    }
    busy_ns
}
