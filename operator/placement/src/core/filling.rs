//! A first plan where memory is tight: the largest units, each next to the one it is nearest to.

use super::{
    Work,
    demand::most_layers,
    graph::{Graph, bits},
    local::Costed,
    problem::NEVER_NS,
    route::cost_ns,
};

/// The cheapest of the orders of the `k` largest units, for every `k` that can hold all layers. Finding none proves nothing.
pub(crate) fn filling(graph: &Graph, work: &mut Work) -> Option<Costed> {
    let ranking = ranking(graph);
    let most = most_layers(graph);
    let mut room: usize = 0;
    let mut best: Option<Costed> = None;
    for stages in 1..=ranking.len().min(graph.max_stages) {
        room = room.saturating_add(most[ranking[stages - 1]]);
        if room < graph.positions || stages < graph.min_stages {
            continue;
        }
        if !work.take(stages as u64) {
            break;
        }
        let order = chained(graph, &ranking[..stages]);
        let cost_ns = cost_ns(graph, &order);
        if cost_ns < best.as_ref().map_or(NEVER_NS, |(ns, _)| *ns) {
            best = Some((cost_ns, order));
        }
    }
    best
}

/// Units that can be in one plan, the largest first; before them, for every set that must be there, its largest unit.
fn ranking(graph: &Graph) -> Vec<usize> {
    let most = most_layers(graph);
    let mut by_size: Vec<usize> = (0..graph.units()).filter(|unit| most[*unit] > 0).collect();
    by_size.sort_by_key(|unit| (std::cmp::Reverse(most[*unit]), *unit));
    let largest_of = |set: u64| by_size.iter().copied().find(|unit| set >> unit & 1 == 1);
    let first = graph.needed.iter().filter_map(|set| largest_of(*set));
    let mut blocked = 0;
    let mut ranking = Vec::new();
    for unit in first.chain(by_size.iter().copied()) {
        if blocked >> unit & 1 == 0 {
            blocked |= graph.blocks[unit];
            ranking.push(unit);
        }
    }
    ranking
}

/// An order of these units: at the ends those that hold most there, between them always the nearest next.
fn chained(graph: &Graph, units: &[usize]) -> Vec<usize> {
    let end = graph.positions;
    let at_end = |unit: &usize| {
        (0..end)
            .find(|first| graph.reach[*unit][*first] == end)
            .map_or(0, |first| end - first)
    };
    let mut left = units.iter().fold(0, |set, unit| set | 1 << unit);
    let mut take = |chosen: Option<usize>| {
        chosen.inspect(|unit| left &= !(1 << unit));
        (chosen, left)
    };
    let (last, others) = take(units.iter().copied().max_by_key(|unit| (at_end(unit), *unit)));
    let (first, mut others) = take(bits(others).max_by_key(|unit| (graph.reach[*unit][0], std::cmp::Reverse(*unit))));
    let mut order: Vec<usize> = first.into_iter().collect();
    while let Some(next) = order
        .last()
        .and_then(|at| bits(others).min_by_key(|to| (graph.way_ns[*at][*to], *to)))
    {
        others &= !(1 << next);
        order.push(next);
    }
    order.extend(last);
    order
}
