//! The best cut of one order of units, decided exactly.

use std::collections::VecDeque;

use super::{graph::Graph, problem::NEVER_NS};

/// Least cost of ending a stage of `unit` at each position, given the least cost of beginning it at each.
///
/// Reaches never fall, so the beginnings that can still reach an end form a window, and the least of
/// `begun[first] - elapsed[first]` in it is kept at the front of a queue: linear in the positions. `from`, if given, takes the
/// beginning chosen for each end.
pub(crate) fn stage(graph: &Graph, unit: usize, begun_ns: &[u64], ended_ns: &mut [u64], mut from: Option<&mut [u16]>) {
    let (elapsed_ns, reach, earliest) = (&graph.elapsed_ns[unit], &graph.reach[unit], &graph.earliest[unit]);
    // Without what has passed before it, a beginning may count below zero: everything is shifted by the whole.
    let whole_ns = elapsed_ns[graph.positions];
    let mut window: VecDeque<(u64, usize)> = VecDeque::new();
    let mut next = 0;
    ended_ns[0] = NEVER_NS;
    for end in 1..=graph.positions {
        while next < end && earliest[next] <= end {
            let first = next;
            next += 1;
            if begun_ns[first] >= NEVER_NS || reach[first] < earliest[first] {
                continue;
            }
            let shifted_ns = begun_ns[first] + whole_ns - elapsed_ns[first];
            while window.back().is_some_and(|(ns, _)| *ns > shifted_ns) {
                window.pop_back();
            }
            window.push_back((shifted_ns, first));
        }
        while window.front().is_some_and(|(_, first)| reach[*first] < end) {
            window.pop_front();
        }
        ended_ns[end] = match window.front() {
            Some((shifted_ns, first)) => {
                if let Some(from) = from.as_deref_mut() {
                    from[end] = u16::try_from(*first).unwrap_or(u16::MAX);
                }
                shifted_ns + elapsed_ns[end] - whole_ns
            }
            None => NEVER_NS,
        };
    }
}

/// Cost of the best cut of an order; [`NEVER_NS`] if it has none.
pub(crate) fn cost_ns(graph: &Graph, order: &[usize]) -> u64 {
    if order.len() < graph.min_stages || order.len() > graph.max_stages {
        return NEVER_NS;
    }
    if let [unit] = order {
        return graph.alone_ns(*unit);
    }
    if !graph.admits(set_of(order)) {
        return NEVER_NS;
    }
    let ways_ns = graph.ways_ns(order);
    if ways_ns >= NEVER_NS {
        return NEVER_NS;
    }
    if let Some(uniform) = &graph.uniform {
        let fill_ns = uniform.fill_ns(
            set_of(order),
            graph.positions,
            order.first().copied(),
            order.last().copied(),
        );
        return (ways_ns + fill_ns).min(NEVER_NS);
    }
    let last = spans_table(graph, order).pop();
    last.map_or(NEVER_NS, |row| (row[graph.positions] + ways_ns).min(NEVER_NS))
}

/// End layers of the stages of the best cut of an order.
pub(crate) fn ends(graph: &Graph, order: &[usize]) -> Option<Vec<usize>> {
    let rows = spans_table(graph, order);
    let mut ends = vec![0; order.len()];
    let mut end = graph.positions;
    for (s, unit) in order.iter().enumerate().rev() {
        ends[s] = graph.layer_at[end];
        let elapsed_ns = &graph.elapsed_ns[*unit];
        let begun_ns = |first: usize| match s {
            0 if first == 0 => 0,
            0 => NEVER_NS,
            _ => rows[s - 1][first],
        };
        let is_it = |first: &usize| {
            (graph.earliest[*unit][*first]..=graph.reach[*unit][*first]).contains(&end)
                && begun_ns(*first) < NEVER_NS
                && begun_ns(*first) + elapsed_ns[end] - elapsed_ns[*first] == rows[s][end]
        };
        end = (0..end).rev().find(is_it)?;
    }
    Some(ends)
}

/// `rows[s][p]`: least time of the stages up to `s` over everything before `p`, ways left out.
fn spans_table(graph: &Graph, order: &[usize]) -> Vec<Vec<u64>> {
    let mut begun_ns = vec![NEVER_NS; graph.positions + 1];
    begun_ns[0] = 0;
    let mut rows = Vec::with_capacity(order.len());
    for unit in order {
        let mut ended_ns = vec![NEVER_NS; graph.positions + 1];
        stage(graph, *unit, &begun_ns, &mut ended_ns, None);
        begun_ns.clone_from(&ended_ns);
        rows.push(ended_ns);
    }
    rows
}

pub(crate) fn set_of(order: &[usize]) -> u64 {
    order.iter().fold(0, |set, unit| set | 1 << unit)
}
