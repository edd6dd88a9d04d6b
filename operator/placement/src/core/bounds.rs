//! Two quick bounds on what can follow a set of units, where layers are alike.
//!
//! - *Fractional fill*: all layers go to the fastest units, those of the set and those that can still come, as far as they hold;
//!   a unit that is not in the set costs its cheapest way in, spread over the layers it can hold.
//! - *Single linkage*: every component that must still be entered at a level of link cost costs at least the level. Levels add up:
//!   `sum_k (level_k - level_{k-1}) * entered_k`, because a way between components at level `k` costs at least `level_k`, and is
//!   counted once for each level up to its cost. The fill without ways in comes on top.

use super::{
    demand::{Level, Standing, linkage, widest},
    graph::Graph,
    problem::NEVER_NS,
    uniform::Uniform,
};

/// What both bounds need of a graph.
#[derive(Debug)]
pub(crate) struct SetBounds<'g> {
    graph: &'g Graph,
    uniform: &'g Uniform,
    /// Time per layer with the share of the cheapest way in.
    charged_ns: Vec<u64>,
    /// Units by that time.
    by_charge: Vec<usize>,
    least_exit_ns: u64,
    levels: Vec<Level>,
}

/// The bounds of one set.
#[derive(Clone, Debug)]
pub(crate) struct SetBound<'b> {
    levels: &'b [Level],
    standings: Vec<Standing>,
    charged_ns: u64,
    plain_ns: u64,
}

impl<'g> SetBounds<'g> {
    pub(crate) fn new(graph: &'g Graph, uniform: &'g Uniform) -> Self {
        let n = graph.units();
        let cheapest_way_ns = |to: usize| (0..n).map(|from| graph.way_ns[from][to]).min().unwrap_or(NEVER_NS);
        let charged_ns: Vec<u64> = (0..n)
            .map(|unit| {
                // Rounded down: what is charged for all layers is at most the way.
                let share_ns = cheapest_way_ns(unit) / (uniform.inner[unit].max(1) as u64);
                (uniform.layer_ns[unit] + share_ns).min(NEVER_NS)
            })
            .collect();
        let mut by_charge: Vec<usize> = (0..n).collect();
        by_charge.sort_by_key(|unit| (charged_ns[*unit], *unit));
        Self {
            graph,
            uniform,
            charged_ns,
            by_charge,
            least_exit_ns: graph.exit_ns.iter().copied().min().unwrap_or(0),
            levels: widest(linkage(graph)),
        }
    }

    /// The bounds for everything that goes on from a set.
    pub(crate) fn of(&self, set: u64, blocked: u64, missing: usize) -> SetBound<'_> {
        let standing = |level: &Level| level.demand.standing(&self.uniform.inner, missing, !blocked);
        SetBound {
            levels: &self.levels,
            standings: self.levels.iter().map(standing).collect(),
            charged_ns: self.fill_ns(set, blocked, &self.charged_ns, &self.by_charge) + self.least_exit_ns,
            plain_ns: self.fill_ns(set, blocked, &self.uniform.layer_ns, &self.uniform.by_speed) + self.least_exit_ns,
        }
    }

    /// All layers on the units of the set and the free ones, cheapest first.
    fn fill_ns(&self, set: u64, blocked: u64, free_ns: &[u64], by_free: &[usize]) -> u64 {
        let uniform = self.uniform;
        let mut inside = uniform.by_speed.iter().filter(|u| set >> **u & 1 == 1).peekable();
        let mut free = by_free.iter().filter(|u| blocked >> **u & 1 == 0).peekable();
        let mut left = self.graph.positions;
        let mut total_ns = 0;
        while left > 0 {
            let own_ns = inside.peek().map_or(NEVER_NS, |u| uniform.layer_ns[**u]);
            let other_ns = free.peek().map_or(NEVER_NS, |u| free_ns[**u]);
            let ns = own_ns.min(other_ns);
            let Some(unit) = (if own_ns <= other_ns { inside.next() } else { free.next() }) else {
                return NEVER_NS;
            };
            if ns >= NEVER_NS {
                return NEVER_NS;
            }
            let here = left.min(uniform.inner[*unit]);
            total_ns += ns * here as u64;
            left -= here;
        }
        total_ns
    }
}

impl SetBound<'_> {
    /// Layers, all ways after the last unit and the exit, at least.
    pub(crate) fn after_ns(&self, last: usize) -> u64 {
        let (mut ways_ns, mut below_ns) = (0, 0);
        for (level, standing) in self.levels.iter().zip(&self.standings) {
            ways_ns += (level.cost_ns - below_ns) * standing.needed(&level.demand, Some(last));
            below_ns = level.cost_ns;
        }
        self.charged_ns.max(self.plain_ns + ways_ns)
    }
}
