//! Of the cuts of one order that cost the same, the one whose slowest part is the fastest: it serves many streams best.

use crate::{
    cost::Goal,
    domain::Domain,
    found::Found,
    spans::{Work, best_spans},
};

/// Steps of the walk for each limit that is tried.
const NODES_PER_LIMIT: u64 = 500;

/// The same devices in the same order for the same sum, cut so that no part works longer than it must.
///
/// Every limit that is tried is one on stages, links and pools; limits are halved until nothing between them is left.
pub(crate) fn levelled(domain: &Domain<'_>, found: Found) -> Found {
    if found.order.len() < 2 {
        return found;
    }
    let mut best = found;
    let mut high_ns = best.plan(domain).slowest_ns;
    let mut low_ns = 0;
    while low_ns + 1 < high_ns {
        let cap_ns = low_ns + (high_ns - low_ns) / 2;
        let mut work = Work::new(NODES_PER_LIMIT);
        let goal = Goal::Sum { cap_ns };
        match best_spans(domain, &best.order, goal, best.cost_ns.saturating_add(1), &mut work) {
            Some(spans) => {
                best.ends = spans.ends;
                high_ns = best.plan(domain).slowest_ns.min(cap_ns);
            }
            None => low_ns = cap_ns,
        }
    }
    best
}
