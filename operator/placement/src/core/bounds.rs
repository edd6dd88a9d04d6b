//! Two quick bounds on what can follow a set of units, where layers are alike.
//!
//! - *Fractional fill*: all layers go to the fastest units, those of the set and those that can still come, as far as they hold;
//!   a unit that is not in the set costs its cheapest way in, spread over the layers it can hold.
//! - *Single linkage*: units hang together in components at every level of link cost (the merges of a minimum spanning tree). If
//!   the set and the component of its last unit cannot hold all layers, the order has to leave that component; every further
//!   component it must enter costs at least the level. Levels add up: `sum_k (level_k - level_{k-1}) * entered_k`, because a way
//!   between components at level `k` costs at least `level_k`, and is counted once for each level below its cost.

use super::{
    graph::{Graph, bits},
    problem::NEVER_NS,
    uniform::Uniform,
};

/// Levels of the linkage that are used: those with the largest steps. Any choice is valid.
const MAX_LEVELS: usize = 6;

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

/// Components of units whose ways to each other cost less than a level.
#[derive(Debug)]
struct Level {
    /// What this level adds to the one below it.
    step_ns: u64,
    components: Vec<u64>,
    of_unit: Vec<usize>,
}

/// The bounds of one set.
#[derive(Clone, Debug)]
pub(crate) struct SetBound<'b> {
    bounds: &'b SetBounds<'b>,
    /// Layers that cannot stay in the set, and the free room of each component at each level, largest first.
    missing: usize,
    room: Vec<Vec<(usize, usize)>>,
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
            levels: levels(graph),
        }
    }

    /// The bounds for everything that goes on from a set.
    pub(crate) fn of(&self, set: u64) -> SetBound<'_> {
        let blocked = bits(set).fold(0, |blocked, unit| blocked | self.graph.blocks[unit]);
        let held: usize = bits(set).map(|unit| self.uniform.inner[unit]).sum();
        let missing = self.graph.positions.saturating_sub(held);
        let room = |level: &Level| {
            let free = |mask: &u64| bits(mask & !blocked).map(|unit| self.uniform.inner[unit]).sum();
            let mut room: Vec<(usize, usize)> = level.components.iter().map(free).zip(0..).collect();
            room.sort_unstable_by(|a, b| b.cmp(a));
            room
        };
        SetBound {
            bounds: self,
            missing,
            room: if missing > 0 {
                self.levels.iter().map(room).collect()
            } else {
                Vec::new()
            },
            charged_ns: self.fill_ns(set, blocked, &self.charged_ns, &self.by_charge),
            plain_ns: self.fill_ns(set, blocked, &self.uniform.layer_ns, &self.uniform.by_speed),
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
            let (unit, ns) = match (own_ns <= other_ns, inside.peek(), free.peek()) {
                (true, Some(unit), _) => (**unit, own_ns),
                (_, _, Some(unit)) => (**unit, other_ns),
                _ => return NEVER_NS,
            };
            if own_ns <= other_ns {
                inside.next();
            } else {
                free.next();
            }
            if ns >= NEVER_NS {
                return NEVER_NS;
            }
            let here = left.min(uniform.inner[unit]);
            total_ns += ns * here as u64;
            left -= here;
        }
        total_ns
    }
}

impl SetBound<'_> {
    /// Layers and all ways after the last unit, at least.
    pub(crate) fn after_ns(&self, last: usize) -> u64 {
        let mut ways_ns = 0;
        for (level, room) in self.bounds.levels.iter().zip(&self.room) {
            let home = level.of_unit[last];
            let at_home = room.iter().find(|(_, c)| *c == home).map_or(0, |(room, _)| *room);
            let mut left = self.missing.saturating_sub(at_home);
            let mut entered = 0;
            for (room, _) in room.iter().filter(|(_, c)| *c != home) {
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(*room);
                entered += 1;
            }
            ways_ns += level.step_ns * entered;
        }
        let linked_ns = self.plain_ns.saturating_add(ways_ns);
        self.charged_ns.max(linked_ns).saturating_add(self.bounds.least_exit_ns)
    }
}

/// The levels with the largest steps, from below.
fn levels(graph: &Graph) -> Vec<Level> {
    let n = graph.units();
    let mut merges: Vec<(u64, usize, usize)> = (0..n)
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| (graph.way_ns[i][j].min(graph.way_ns[j][i]), i, j))
        .filter(|(ns, _, _)| *ns < NEVER_NS)
        .collect();
    merges.sort_unstable();
    let mut of_unit: Vec<usize> = (0..n).collect();
    let mut thresholds: Vec<(u64, Vec<usize>)> = Vec::new();
    for (ns, i, j) in merges {
        if of_unit[i] != of_unit[j] {
            if thresholds.last().is_none_or(|(level_ns, _)| *level_ns < ns) {
                thresholds.push((ns, of_unit.clone()));
            }
            let (kept, gone) = (of_unit[i], of_unit[j]);
            of_unit.iter_mut().filter(|c| **c == gone).for_each(|c| *c = kept);
        }
    }
    let mut steps: Vec<(u64, usize)> = (0..thresholds.len())
        .map(|k| (thresholds[k].0 - if k == 0 { 0 } else { thresholds[k - 1].0 }, k))
        .collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    steps.truncate(MAX_LEVELS);
    let mut chosen: Vec<usize> = steps.into_iter().map(|(_, k)| k).collect();
    chosen.sort_unstable();
    let mut below_ns = 0;
    let mut levels = Vec::new();
    for k in chosen {
        let (level_ns, of_unit) = &thresholds[k];
        let step_ns = level_ns - below_ns;
        below_ns = *level_ns;
        let mut components = vec![0_u64; n];
        of_unit.iter().enumerate().for_each(|(unit, c)| components[*c] |= 1 << unit);
        levels.push(Level {
            step_ns,
            components,
            of_unit: of_unit.clone(),
        });
    }
    levels
}
