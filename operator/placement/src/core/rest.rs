//! A lower bound on what comes after a stage: walks in the layered graph that may visit a unit again, at a price.
//!
//! Nodes are (position, unit); a stage goes from one position to a later one, a way from unit to unit at one position. A plan is a
//! walk from the front to the end that visits no unit twice. Without that condition the shortest walk is a dynamic programme;
//! the condition comes back in two parts:
//!
//! - every visit of unit `u` costs a price `p_u >= 0`, and all prices are paid back once (Lagrangian relaxation of
//!   `visits_u <= 1`);
//! - a walk remembers those of the units it visited that are *near* the units visited since, and does not return to what it
//!   remembers (the ng-route relaxation: Baldacci, Mingozzi, Roberti, Operations Research 59(5), 2011). With two near units this
//!   contains most of 2-cycle elimination, and larger sets forbid longer cycles.
//!
//! **The bound holds for any prices**, so nothing depends on how they were found: a plan with unit set `S` is itself an admitted
//! walk, of cost `c + sum_{u in S} p_u`. So the shortest walk `w` has `w <= c + sum_{u in S} p_u`, and `c >= w - sum_u p_u`, since
//! `p_u >= 0`. All numbers are integers; there is no rounding in a bound.

use super::{graph::Graph, problem::NEVER_NS};

/// A price stays below this: walks have fewer than 2^16 stages, so that all prices of a walk stay below 2^60.
const MAX_PRICE_NS: u64 = 1 << 44;
const FORBIDDEN: u16 = u16::MAX;

/// Tables of the shortest walks from every node to the end.
///
/// A state is a unit with what the rest of the walk remembers of its near units, one bit for each of them.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    pub near: Vec<Vec<usize>>,
    pub prices_ns: Vec<u64>,
    /// First state of each unit; the number of states at the end.
    state_at: Vec<usize>,
    /// Per unit: who may come before it, the cost of that way, and what each state of the unit looks like from there.
    ways: Vec<Vec<Way>>,
    /// By position and state: the least of a stage that begins here and all after it; of all after a stage that ends here.
    begun_ns: Vec<u64>,
    ended_ns: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Way {
    from: usize,
    cost_ns: u64,
    seen_as: Vec<u16>,
}

impl Rest {
    /// Tables without content: [`Self::fill`] fills them.
    pub(crate) fn new(graph: &Graph, near: Vec<Vec<usize>>, prices_ns: Vec<u64>) -> Self {
        let mut state_at = vec![0];
        for near in &near {
            state_at.push(state_at[state_at.len() - 1] + (1 << near.len()));
        }
        let states = state_at[graph.units()];
        let ways = (0..graph.units()).map(|unit| ways_to(graph, &near, unit)).collect();
        Self {
            begun_ns: vec![NEVER_NS; states * graph.positions],
            ended_ns: vec![NEVER_NS; states * (graph.positions + 1)],
            near,
            prices_ns,
            state_at,
            ways,
        }
    }

    fn states(&self) -> usize {
        self.state_at[self.near.len()]
    }

    /// Numbers written by one [`Self::fill`]: its cost.
    pub(crate) fn size(&self) -> u64 {
        let wide: usize = self.ways.iter().flatten().map(|way| way.seen_as.len()).sum();
        (wide * (self.begun_ns.len() / self.states().max(1))) as u64
    }

    /// Computes all tables for the present prices and gives the bound on any plan.
    pub(crate) fn fill(&mut self, graph: &Graph) -> u64 {
        let states = self.states();
        self.ended_ns.fill(NEVER_NS);
        for unit in 0..graph.units() {
            self.ended_ns[graph.positions * states + self.state_at[unit]] = graph.exit_ns[unit];
        }
        for at in (0..graph.positions).rev() {
            for unit in 0..graph.units() {
                self.begin_stage(graph, at, unit);
            }
            if at > 0 {
                self.arrive(at);
            }
        }
        let least_ns = self.first_states(graph).map(|(ns, _, _)| ns).min();
        match least_ns {
            Some(ns) if ns < NEVER_NS => ns.saturating_sub(self.prices_ns.iter().sum()),
            _ => NEVER_NS,
        }
    }

    fn begin_stage(&mut self, graph: &Graph, at: usize, unit: usize) {
        let states = self.states();
        let (from, to) = (self.state_at[unit], self.state_at[unit + 1]);
        let begun_ns = &mut self.begun_ns[at * states + from..at * states + to];
        begun_ns.fill(NEVER_NS);
        let elapsed_ns = &graph.elapsed_ns[unit];
        for end in at + 1..=graph.reach[unit][at] {
            let stage_ns = elapsed_ns[end] - elapsed_ns[at] + self.prices_ns[unit];
            let ended_ns = &self.ended_ns[end * states + from..end * states + to];
            for (begun_ns, ended_ns) in begun_ns.iter_mut().zip(ended_ns) {
                *begun_ns = (*begun_ns).min(ended_ns + stage_ns);
            }
        }
    }

    fn arrive(&mut self, at: usize) {
        let states = self.states();
        let row = at * states..(at + 1) * states;
        let (begun_ns, ended_ns) = (&self.begun_ns[row.clone()], &mut self.ended_ns[row]);
        for (unit, ways) in self.ways.iter().enumerate() {
            let begun_ns = &begun_ns[self.state_at[unit]..self.state_at[unit + 1]];
            if begun_ns.iter().all(|ns| *ns >= NEVER_NS) {
                continue;
            }
            for way in ways {
                let ended_ns = &mut ended_ns[self.state_at[way.from]..self.state_at[way.from + 1]];
                for (ns, seen_as) in begun_ns.iter().zip(&way.seen_as) {
                    if *seen_as != FORBIDDEN {
                        let ended_ns = &mut ended_ns[usize::from(*seen_as)];
                        *ended_ns = (*ended_ns).min(ns + way.cost_ns);
                    }
                }
            }
        }
    }

    /// Cost, unit and state of every walk's beginning.
    fn first_states<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = (u64, usize, usize)> + 'a {
        (0..graph.units()).flat_map(move |unit| {
            (self.state_at[unit]..self.state_at[unit + 1])
                .map(move |state| (self.begun_ns[state] + graph.entry_ns[unit], unit, state))
        })
    }

    /// The units of a shortest walk, in order, with repetitions.
    pub(crate) fn walk(&self, graph: &Graph) -> Vec<usize> {
        let states = self.states();
        let mut walk = Vec::new();
        let Some((ns, mut unit, mut state)) = self.first_states(graph).min() else {
            return walk;
        };
        if ns >= NEVER_NS {
            return walk;
        }
        let mut at = 0;
        loop {
            walk.push(unit);
            let elapsed_ns = &graph.elapsed_ns[unit];
            let begun_ns = self.begun_ns[at * states + state];
            let is_end = |end: &usize| {
                let stage_ns = elapsed_ns[*end] - elapsed_ns[at] + self.prices_ns[unit];
                self.ended_ns[end * states + state] + stage_ns == begun_ns
            };
            let Some(end) = (at + 1..=graph.reach[unit][at]).rev().find(is_end) else {
                return walk;
            };
            at = end;
            if at == graph.positions {
                return walk;
            }
            let Some(next) = self.next_state(at, unit, state) else {
                return walk;
            };
            (unit, state) = next;
        }
    }

    fn next_state(&self, at: usize, unit: usize, state: usize) -> Option<(usize, usize)> {
        let states = self.states();
        let ended_ns = self.ended_ns[at * states + state];
        let seen_as = state - self.state_at[unit];
        for (next, ways) in self.ways.iter().enumerate() {
            for way in ways.iter().filter(|way| way.from == unit) {
                let is_it = |(i, seen): (usize, &u16)| {
                    let begun_ns = self.begun_ns[at * states + self.state_at[next] + i];
                    usize::from(*seen) == seen_as && begun_ns + way.cost_ns == ended_ns
                };
                if let Some(i) = way.seen_as.iter().enumerate().position(is_it) {
                    return Some((next, self.state_at[next] + i));
                }
            }
        }
        None
    }

    /// Least cost of a stage that begins at a position and all after it, over the states that do not remember `without`.
    fn begun_without(&self, unit: usize, without: usize, at: usize) -> u64 {
        let bit = self.near[unit].iter().position(|near| *near == without);
        let states = at * self.states();
        let begun_ns = &self.begun_ns[states + self.state_at[unit]..states + self.state_at[unit + 1]];
        let remembers = |state: usize| bit.is_some_and(|bit| state >> bit & 1 == 1);
        let allowed = begun_ns.iter().enumerate().filter(|(state, _)| !remembers(*state));
        allowed.map(|(_, ns)| *ns).min().unwrap_or(NEVER_NS)
    }

    /// Raises prices of what is visited too often, lowers those of what is not visited: a subgradient step.
    ///
    /// `share` is in 1024ths of the step that would close `gap_ns` if the bound were linear (Polyak).
    pub(crate) fn step(&mut self, graph: &Graph, walk: &[usize], direction: &mut [i64], share: u64, gap_ns: u64) {
        let mut visits = vec![0_i64; graph.units()];
        walk.iter().for_each(|unit| visits[*unit] += 1);
        let excess = excess_by_class(graph, &visits);
        for (unit, direction) in direction.iter_mut().enumerate() {
            // What went before counts for six tenths: walks alternate between units of one cycle.
            *direction = excess[unit] + *direction * 6 / 10;
            if self.prices_ns[unit] == 0 && *direction < 0 {
                *direction = 0;
            }
        }
        let norm: i128 = direction.iter().map(|d| i128::from(*d) * i128::from(*d)).sum();
        if norm == 0 {
            return;
        }
        for (price_ns, direction) in self.prices_ns.iter_mut().zip(direction) {
            let change = i128::from(share) * i128::from(gap_ns) * i128::from(*direction) / norm;
            let raised = (i128::from(*price_ns) + change).clamp(0, i128::from(MAX_PRICE_NS));
            *price_ns = u64::try_from(raised).unwrap_or(0);
        }
    }

    /// Near sets enlarged so that the cycles of a walk are remembered, up to `most` near units each.
    pub(crate) fn near_with_cycles(&self, walk: &[usize], most: usize) -> Option<Vec<Vec<usize>>> {
        let mut near = self.near.clone();
        let mut grown = false;
        for (i, unit) in walk.iter().enumerate() {
            let Some(back) = walk[..i].iter().rposition(|u| u == unit) else {
                continue;
            };
            let between = &walk[back + 1..i];
            let has_room = |u: &usize| near[*u].contains(unit) || near[*u].len() < most;
            if between.iter().all(has_room) {
                for u in between {
                    if !near[*u].contains(unit) {
                        near[*u].push(*unit);
                        grown = true;
                    }
                }
            }
        }
        grown.then_some(near)
    }

    /// The tables as the search reads them.
    pub(crate) fn completions(&self, graph: &Graph) -> Completions {
        let mut completions = Completions {
            near: self.near.clone(),
            prices_ns: self.prices_ns.clone(),
            row_at: self.state_at.clone(),
            positions: graph.positions,
            least_ns: Vec::with_capacity(self.states() * graph.positions),
        };
        for unit in 0..graph.units() {
            let width = self.state_at[unit + 1] - self.state_at[unit];
            let mut least_ns = vec![NEVER_NS; width * graph.positions];
            for at in 0..graph.positions {
                let ended_ns = &self.ended_ns[at * self.states() + self.state_at[unit]..][..width];
                let mut within = ended_ns.to_vec();
                // The least over all subsets, one bit after the other.
                for bit in 0..self.near[unit].len() {
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

/// The units that may come before `unit`, and what they remember of each of its states.
fn ways_to(graph: &Graph, near: &[Vec<usize>], unit: usize) -> Vec<Way> {
    let bit_of = |at: usize, what: usize| near[at].iter().position(|u| *u == what);
    let mut ways = Vec::new();
    for from in (0..graph.units()).filter(|from| *from != unit) {
        let cost_ns = graph.way_ns[from][unit];
        if cost_ns >= NEVER_NS || graph.blocks[from] >> unit & 1 == 1 {
            continue;
        }
        let own = bit_of(from, unit).map_or(0, |bit| 1 << bit);
        let seen_as = (0..1_usize << near[unit].len()).map(|state| {
            let mut seen = own;
            for (_, remembered) in near[unit].iter().enumerate().filter(|(bit, _)| state >> bit & 1 == 1) {
                if graph.blocks[from] >> remembered & 1 == 1 {
                    return FORBIDDEN;
                }
                seen |= bit_of(from, *remembered).map_or(0, |bit| 1 << bit);
            }
            seen
        });
        let seen_as = seen_as.collect();
        ways.push(Way { from, cost_ns, seen_as });
    }
    ways
}

/// For every unit the `most` others with the cheapest way to or from it.
pub(crate) fn nearest(graph: &Graph, most: usize) -> Vec<Vec<usize>> {
    let near_to = |unit: usize| {
        let mut others: Vec<usize> = (0..graph.units()).filter(|other| *other != unit).collect();
        others.sort_by_key(|other| (graph.way_ns[unit][*other].min(graph.way_ns[*other][unit]), *other));
        others.truncate(most);
        others
    };
    (0..graph.units()).map(near_to).collect()
}

/// Removes every way that no plan cheaper than `limit_ns` takes. Gives how many it removed.
///
/// The walk through a way is at least the shortest walk up to it, the way, and the shortest walk on from it, each under the same
/// prices: the walk up to it is the rest of the graph turned round.
pub(crate) fn remove_ways(graph: &mut Graph, rest: &Rest, limit_ns: u64) -> usize {
    let turned = graph.turned();
    let mut before = Rest::new(&turned, rest.near.clone(), rest.prices_ns.clone());
    before.fill(&turned);
    let prices_ns: u64 = rest.prices_ns.iter().sum();
    let p = graph.positions;
    let mut removed = 0;
    for from in 0..graph.units() {
        for to in 0..graph.units() {
            let way_ns = graph.way_ns[from][to];
            if way_ns >= NEVER_NS {
                continue;
            }
            let through_ns = |at: usize| {
                before.begun_without(from, to, p - at) + rest.begun_without(to, from, at) + way_ns
            };
            let least_ns = (1..p).map(through_ns).min().unwrap_or(NEVER_NS);
            if least_ns.saturating_sub(prices_ns) >= limit_ns {
                graph.way_ns[from][to] = NEVER_NS;
                removed += 1;
            }
        }
    }
    removed
}

/// Per unit, blocked near units and position after a stage: the least cost, with prices, of all that comes after.
#[derive(Clone, Debug)]
pub(crate) struct Completions {
    near: Vec<Vec<usize>>,
    prices_ns: Vec<u64>,
    row_at: Vec<usize>,
    positions: usize,
    least_ns: Vec<u64>,
}

impl Completions {
    /// After a stage on `last`, where the `blocked` units cannot come any more: by position, the end left out.
    pub(crate) fn after(&self, last: usize, blocked: u64) -> &[u64] {
        let near = self.near[last].iter().enumerate();
        let row = near.fold(0, |row, (bit, unit)| row | (blocked >> unit & 1) << bit);
        let row = self.row_at[last] + usize::try_from(row).unwrap_or(0);
        &self.least_ns[row * self.positions..(row + 1) * self.positions]
    }

    /// The prices of all units that can still come: what is paid back at most.
    pub(crate) fn free_prices_ns(&self, blocked: u64) -> u64 {
        let free = self.prices_ns.iter().enumerate().filter(|(u, _)| blocked >> u & 1 == 0);
        free.map(|(_, ns)| ns).sum()
    }
}
