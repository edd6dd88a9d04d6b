//! The walks' tables as the search reads them: what can follow a set of units that ends with a given one.

use super::{
    demand::{Demand, Standing},
    graph::Graph,
    prices::{FAR, NEVER, signed},
    problem::NEVER_NS,
    rest::Rest,
};

/// Per unit, blocked near units and position after a stage: the least cost, with prices, of all that comes after.
#[derive(Clone, Debug)]
pub(crate) struct Completions<'d> {
    near: Vec<Vec<usize>>,
    prices_ns: Vec<i64>,
    /// Demands with their rewards.
    earning: Vec<(&'d Demand, i64)>,
    row_at: Vec<usize>,
    positions: usize,
    least_ns: Vec<i64>,
}

/// How a set of units stands towards every demand with a reward, and the prices it can still get back at most.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    standings: Vec<Standing>,
    free_prices_ns: i64,
}

impl<'d> Completions<'d> {
    /// The tables as the search reads them.
    pub(crate) fn of(rest: &Rest<'d>, graph: &Graph) -> Self {
        let earning = rest.demands.iter().zip(&rest.prices.per_demand);
        let mut completions = Self {
            near: rest.near.clone(),
            prices_ns: rest.prices.per_unit.clone(),
            earning: earning
                .filter(|(_, ns)| **ns > 0)
                .map(|(required, ns)| (&required.demand, *ns))
                .collect(),
            row_at: rest.state_at.clone(),
            positions: graph.positions,
            least_ns: Vec::with_capacity(rest.states() * graph.positions),
        };
        for unit in 0..graph.units() {
            let width = rest.state_at[unit + 1] - rest.state_at[unit];
            let mut least_ns = vec![NEVER; width * graph.positions];
            for at in 0..graph.positions {
                let ended_ns = &rest.ended_ns[at * rest.states() + rest.state_at[unit]..][..width];
                let mut within = ended_ns.to_vec();
                // The least over all subsets, one bit after the other.
                for bit in 0..rest.near[unit].len() {
                    for set in (0..width).filter(|set| set >> bit & 1 == 1) {
                        within[set] = within[set].min(within[set & !(1 << bit)]);
                    }
                }
                for blocked in 0..width {
                    least_ns[blocked * graph.positions + at] = within[width - 1 - blocked];
                }
            }
            completions.least_ns.extend(least_ns);
        }
        completions
    }

    /// After a stage on `last`, where the `blocked` units cannot come any more: by position, the end left out.
    pub(crate) fn after(&self, last: usize, blocked: u64) -> &[i64] {
        let near = self.near[last].iter().enumerate();
        let row = near.fold(0, |row, (bit, unit)| row | (blocked >> unit & 1) << bit);
        let row = self.row_at[last] + usize::try_from(row).unwrap_or(0);
        &self.least_ns[row * self.positions..(row + 1) * self.positions]
    }

    /// What plans owe and get back that have a set with `missing` layers too few, and cannot take the `blocked` units.
    pub(crate) fn owed(&self, most: &[usize], missing: usize, blocked: u64) -> Owed {
        let free = self.prices_ns.iter().enumerate().filter(|(u, _)| blocked >> u & 1 == 0);
        let standing = |(demand, _): &(&Demand, i64)| demand.standing(most, missing, !blocked);
        Owed {
            standings: self.earning.iter().map(standing).collect(),
            free_prices_ns: free.map(|(_, ns)| ns).sum(),
        }
    }

    /// The bound on whole plans from the least priced cost of them, with the order standing at `last`.
    pub(crate) fn bound_ns(&self, owed: &Owed, last: usize, priced_ns: i64) -> u64 {
        if priced_ns >= FAR {
            return NEVER_NS;
        }
        let owing = self.earning.iter().zip(&owed.standings);
        let entries_ns: i64 = owing
            .map(|((demand, reward_ns), standing)| reward_ns * signed(standing.needed(demand, Some(last))))
            .sum();
        u64::try_from(priced_ns + entries_ns - owed.free_prices_ns).unwrap_or(0)
    }
}
