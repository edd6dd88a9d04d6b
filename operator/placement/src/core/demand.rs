//! What the number of layers alone demands: parts of the cluster that every plan has to enter.
//!
//! A demand is a family of disjoint components. If the units a plan has, those outside the family and those of the component it is in
//! cannot hold all layers, the order must go into further components of the family, at least as many as the largest of them need
//! to hold the rest. Links do not matter for that, so that it holds for any of them; which components are worth asking for is read
//! from the links: what hangs together at one level of cost (single linkage, the merges of a minimum spanning tree).

use super::{
    graph::{Graph, bits},
    problem::NEVER_NS,
};

/// Linkage levels that are used as families of all their components: those with the largest steps. Any choice is valid.
const MAX_LEVELS: usize = 6;
/// Of no component of a family.
const NOWHERE: u8 = u8::MAX;

/// A family of disjoint components.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    components: Vec<u64>,
    of_unit: Vec<u8>,
    outside: u64,
    /// Asked for by the problem itself: one component, entered whatever the layers demand.
    is_forced: bool,
}

impl Demand {
    fn new(components: Vec<u64>, units: usize) -> Self {
        let mut of_unit = vec![NOWHERE; units];
        for (component, number) in components.iter().zip(0_u8..) {
            bits(*component).for_each(|unit| of_unit[unit] = number);
        }
        let inside = components.iter().fold(0, |all, component| all | component);
        Self {
            outside: all_units(units) & !inside,
            components,
            of_unit,
            is_forced: false,
        }
    }

    fn forced(component: u64, units: usize) -> Self {
        Self {
            is_forced: true,
            ..Self::new(vec![component], units)
        }
    }

    /// Whether a way from one unit to another goes into a component.
    pub(crate) fn is_entered(&self, from: usize, to: usize) -> bool {
        self.of_unit[to] != NOWHERE && self.of_unit[from] != self.of_unit[to]
    }

    /// Whether an order that begins with a unit begins in a component.
    pub(crate) fn begins_in(&self, unit: usize) -> bool {
        self.of_unit[unit] != NOWHERE
    }

    /// How the order stands towards this demand, when it has the units of a set and can still take those that are free.
    pub(crate) fn standing(&self, most: &[usize], missing: usize, free: u64) -> Standing {
        if self.is_forced {
            // A unit of it that is not free may be part of the order: then nothing is needed.
            let is_untouched = self.components.iter().all(|component| component & !free == 0);
            return Standing {
                forced: u64::from(is_untouched),
                missing: 0,
                rooms: Vec::new(),
            };
        }
        let room_of = |units: u64| bits(units & free).map(|unit| most[unit]).sum::<usize>();
        let missing = if missing == 0 {
            0
        } else {
            missing.saturating_sub(room_of(self.outside))
        };
        let mut rooms: Vec<(usize, u8)> = Vec::new();
        if missing > 0 {
            rooms.extend(self.components.iter().map(|component| room_of(*component)).zip(0_u8..));
            rooms.sort_unstable_by(|a, b| b.cmp(a));
        }
        Standing {
            forced: 0,
            missing,
            rooms,
        }
    }
}

/// Layers that fit neither in what an order has nor outside the family, and the free room of the components, largest first.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    forced: u64,
    missing: usize,
    rooms: Vec<(usize, u8)>,
}

impl Standing {
    /// Components that must still be entered, with the order standing at `last`.
    pub(crate) fn needed(&self, demand: &Demand, last: Option<usize>) -> u64 {
        if self.missing == 0 {
            return self.forced;
        }
        let home = last.map_or(NOWHERE, |unit| demand.of_unit[unit]);
        let at_home = self.rooms.iter().find(|(_, component)| *component == home);
        let mut left = self.missing.saturating_sub(at_home.map_or(0, |(room, _)| *room));
        let mut needed = 0;
        for (room, _) in self.rooms.iter().filter(|(_, component)| *component != home) {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(*room);
            needed += 1;
        }
        needed
    }
}

fn all_units(units: usize) -> u64 {
    if units >= 64 { u64::MAX } else { (1 << units) - 1 }
}

/// Most layers of a stage on each unit, wherever it begins.
pub(crate) fn most_layers(graph: &Graph) -> Vec<usize> {
    let lengths = |reach: &Vec<usize>| reach.iter().enumerate().map(|(first, end)| end - first).max();
    graph.reach.iter().map(|reach| lengths(reach).unwrap_or(0)).collect()
}

/// A demand that every plan of several stages must meet.
#[derive(Clone, Debug)]
pub(crate) struct Required {
    pub demand: Demand,
    /// Entries it asks for; an order's beginning counts as one.
    pub needed: u64,
    /// What an entry costs at least, beyond what it costs at the levels below.
    pub step_ns: u64,
}

/// The families of linkage that ask for more than a beginning, and every single component that no plan can do without.
pub(crate) fn required(graph: &Graph) -> Vec<Required> {
    let all = all_units(graph.units());
    let most = most_layers(graph);
    let needed = |demand: &Demand| demand.standing(&most, graph.positions, all).needed(demand, None);
    let levels = widest(linkage(graph));
    let mut below_ns = 0;
    let mut required = Vec::new();
    let mut alone: Vec<u64> = Vec::new();
    for level in levels {
        alone.extend(level.demand.components.iter().filter(|c| c.count_ones() > 1));
        let needed = needed(&level.demand);
        if needed > 1 {
            required.push(Required {
                demand: level.demand,
                needed,
                step_ns: level.cost_ns - below_ns,
            });
            below_ns = level.cost_ns;
        }
    }
    alone.sort_unstable();
    alone.dedup();
    let alone = alone
        .into_iter()
        .map(|component| Demand::new(vec![component], graph.units()));
    required.extend(alone.filter(|demand| needed(demand) > 0).map(|demand| Required {
        demand,
        needed: 1,
        step_ns: 0,
    }));
    required.extend(graph.needed.iter().map(|component| Required {
        demand: Demand::forced(*component & all, graph.units()),
        needed: 1,
        step_ns: 0,
    }));
    required
}

/// A level of linkage: no way between two of its components costs less.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    pub cost_ns: u64,
    pub demand: Demand,
}

/// The levels with the largest steps, from below.
pub(crate) fn widest(levels: Vec<Level>) -> Vec<Level> {
    let below_ns = |k: usize| if k == 0 { 0 } else { levels[k - 1].cost_ns };
    let mut steps: Vec<(u64, usize)> = (0..levels.len())
        .map(|k| (levels[k].cost_ns - below_ns(k), k))
        .collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    steps.truncate(MAX_LEVELS);
    let is_chosen = |k: usize| steps.iter().any(|(_, chosen)| *chosen == k);
    let levels = levels.into_iter().enumerate().filter(|(k, _)| is_chosen(*k));
    levels.map(|(_, level)| level).collect()
}

/// All levels of linkage from below.
pub(crate) fn linkage(graph: &Graph) -> Vec<Level> {
    let n = graph.units();
    let mut ways: Vec<(u64, usize, usize)> = (0..n)
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| (graph.way_ns[i][j].min(graph.way_ns[j][i]), i, j))
        .filter(|(ns, _, _)| *ns < NEVER_NS)
        .collect();
    ways.sort_unstable();
    let mut components: Vec<u64> = (0..n).map(|unit| 1 << unit).collect();
    let mut levels: Vec<Level> = Vec::new();
    for (cost_ns, i, j) in ways {
        let of = |unit: usize| components.iter().position(|c| c >> unit & 1 == 1);
        let (Some(a), Some(b)) = (of(i), of(j)) else { continue };
        if a == b {
            continue;
        }
        if levels.last().is_none_or(|level| level.cost_ns < cost_ns) {
            levels.push(Level {
                cost_ns,
                demand: Demand::new(components.clone(), n),
            });
        }
        components[a] |= components[b];
        components.swap_remove(b);
    }
    levels
}
