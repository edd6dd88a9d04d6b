//! Prices of visits and rewards for entries, and how they are adjusted. Any values give a valid bound; good ones give a good one.

use super::{
    demand::{Required, most_layers},
    graph::Graph,
};

/// All prices and rewards on one walk together stay below this, and so does every walk that can be a plan.
const MAX_PRICED_NS: i64 = 1 << 57;
/// The cost of no walk at all, and what is more than any walk that can be a plan: rewards take less than the difference.
pub(crate) const NEVER: i64 = 1 << 61;
pub(crate) const FAR: i64 = 1 << 60;

/// What a walk pays and earns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prices {
    pub per_unit: Vec<i64>,
    pub per_demand: Vec<i64>,
}

impl Prices {
    /// Prices under which the bound is the fractional fill plus the single-linkage bound, where layers are alike.
    ///
    /// They are the dual values of the fractional fill: with `t` the time per layer of the slowest unit it uses, a unit of time
    /// `t_u < t` that holds `m_u` layers is worth `(t - t_u) m_u`. Every entry earns all that it costs at least.
    pub(crate) fn first(graph: &Graph, demands: &[Required]) -> Self {
        let most = most_layers(graph);
        let layer_ns = |unit: usize| graph.elapsed_ns[unit][graph.positions] / graph.positions as u64;
        let mut by_speed: Vec<usize> = (0..graph.units()).filter(|unit| most[*unit] > 0).collect();
        by_speed.sort_by_key(|unit| (layer_ns(*unit), *unit));
        let mut left = graph.positions;
        let mut slowest_ns = 0;
        for unit in by_speed {
            if left > 0 {
                slowest_ns = layer_ns(unit);
                left = left.saturating_sub(most[unit]);
            }
        }
        let worth_ns = |unit: usize| {
            slowest_ns
                .saturating_sub(layer_ns(unit))
                .saturating_mul(most[unit] as u64)
        };
        let limit_ns = price_limit_ns(graph, demands);
        Self {
            per_unit: (0..graph.units())
                .map(|unit| signed(worth_ns(unit)).min(limit_ns))
                .collect(),
            per_demand: demands.iter().map(|d| signed(d.step_ns).min(limit_ns)).collect(),
        }
    }

    /// Raises prices of what is visited too often and rewards of what is entered too rarely, lowers the others: a subgradient step.
    ///
    /// `share` is in 1024ths of the step that would close `gap_ns` if the bound were linear (Polyak).
    pub(crate) fn step(&mut self, excess: Vec<i64>, direction: &mut Vec<i64>, limit_ns: i64, share: u64, gap_ns: u64) {
        direction.resize(excess.len(), 0);
        let prices = || self.per_unit.iter().chain(&self.per_demand);
        for ((direction, excess), price_ns) in direction.iter_mut().zip(excess).zip(prices()) {
            // What went before counts for nine tenths: walks alternate between units of one cycle.
            *direction = excess + *direction * 9 / 10;
            if *price_ns == 0 && *direction < 0 {
                *direction = 0;
            }
        }
        let norm: i128 = direction.iter().map(|d| i128::from(*d) * i128::from(*d)).sum();
        if norm == 0 {
            return;
        }
        let prices = self.per_unit.iter_mut().chain(&mut self.per_demand);
        for (price_ns, direction) in prices.zip(direction) {
            let change = i128::from(share) * i128::from(gap_ns) * i128::from(*direction) / norm;
            let raised = (i128::from(*price_ns) + change).clamp(0, i128::from(limit_ns));
            *price_ns = i64::try_from(raised).unwrap_or(0);
        }
    }
}

/// The most a single price may be, so that a walk, with at most one stage and one way for each position, stays below
/// [`MAX_PRICED_NS`].
pub(crate) fn price_limit_ns(graph: &Graph, demands: &[Required]) -> i64 {
    MAX_PRICED_NS / (signed(graph.positions as u64) + 1) / (2 + signed(demands.len() as u64))
}

/// A way as an integer that can be added to: [`NEVER`] where there is none.
pub(crate) fn signed(ns: u64) -> i64 {
    i64::try_from(ns).map_or(NEVER, |ns| ns.min(NEVER))
}

/// By how much a walk visits each unit too often and enters for each demand too rarely, in 1024ths.
pub(crate) fn excess(graph: &Graph, demands: &[Required], walk: &[usize]) -> Vec<i64> {
    let mut visits = vec![0_i64; graph.units()];
    walk.iter().for_each(|unit| visits[*unit] += 1);
    let mut excess = excess_by_class(graph, &visits);
    for Required { demand, needed, .. } in demands {
        let begins = walk.first().is_some_and(|unit| demand.begins_in(*unit));
        let entered = walk
            .windows(2)
            .filter(|pair| demand.is_entered(pair[0], pair[1]))
            .count();
        let entered = (entered + usize::from(begins)) as u64;
        excess.push((signed(*needed) - signed(entered)) * 1024);
    }
    excess
}

/// Visits above one, in 1024ths, shared evenly among units that can be exchanged: their best prices are equal.
fn excess_by_class(graph: &Graph, visits: &[i64]) -> Vec<i64> {
    let mut excess = vec![0; visits.len()];
    for unit in (0..visits.len()).filter(|u| graph.elders[*u] == 0) {
        let class: Vec<usize> = (0..visits.len())
            .filter(|u| *u == unit || graph.elders[*u] >> unit & 1 == 1)
            .collect();
        let size = i64::try_from(class.len()).unwrap_or(1);
        let visited: i64 = class.iter().map(|u| visits[*u]).sum();
        for member in class {
            excess[member] = (visited - size) * 1024 / size;
        }
    }
    excess
}
