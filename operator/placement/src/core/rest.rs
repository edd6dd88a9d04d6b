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
//! A third part keeps walks from circling where links are short: every entry into a component of a [`Demand`] `D` earns a reward
//! `r_D >= 0`, and the entries that every plan must make are charged once.
//!
//! **The bound holds for any prices and rewards**, so nothing depends on how they were found. A plan of cost `c` on the units `S`
//! that enters `e_D` components is itself an admitted walk, so that the shortest walk `w` has
//! `w <= c + sum_{u in S} p_u - sum_D r_D e_D`. With `S` a part of all units, `p >= 0`, `e_D >= needed_D` and `r >= 0` follows
//! `c >= w - sum_u p_u + sum_D r_D needed_D`. The same holds for what comes after a stage, with the units that can still come and
//! the entries still to be made. All numbers are integers; there is no rounding in a bound.

use super::{
    demand::{Demand, Required},
    graph::Graph,
    prices::{FAR, NEVER, Prices, excess, price_limit_ns, signed},
    problem::NEVER_NS,
};

const FORBIDDEN: u16 = u16::MAX;

/// Tables of the shortest walks from every node to the end.
///
/// A state is a unit with what the rest of the walk remembers of its near units, one bit for each of them.
#[derive(Clone, Debug)]
pub(crate) struct Rest<'d> {
    pub near: Vec<Vec<usize>>,
    pub prices: Prices,
    pub(super) demands: &'d [Required],
    /// Whether the graph is turned round: entries are then made on the way out.
    is_turned: bool,
    /// First state of each unit; the number of states at the end.
    pub(super) state_at: Vec<usize>,
    /// Per unit: who may come before it, the cost of that way, and what each state of the unit looks like from there.
    ways: Vec<Vec<Way>>,
    /// By position and state: the least of a stage that begins here and all after it; of all after a stage that ends here.
    begun_ns: Vec<i64>,
    pub(super) ended_ns: Vec<i64>,
    /// At the beginning and the end of a walk, by unit.
    entry_ns: Vec<i64>,
    exit_ns: Vec<i64>,
}

#[derive(Clone, Debug)]
struct Way {
    from: usize,
    plain_ns: i64,
    /// Rewards taken off.
    cost_ns: i64,
    seen_as: Vec<u16>,
}

impl<'d> Rest<'d> {
    /// Tables without content: [`Self::fill`] fills them.
    pub(crate) fn new(graph: &Graph, near: Vec<Vec<usize>>, prices: Prices, demands: &'d [Required]) -> Self {
        let mut state_at = vec![0];
        for near in &near {
            state_at.push(state_at[state_at.len() - 1] + (1 << near.len()));
        }
        let states = state_at[graph.units()];
        let ways = (0..graph.units()).map(|unit| ways_to(graph, &near, unit)).collect();
        Self {
            begun_ns: vec![NEVER; states * graph.positions],
            ended_ns: vec![NEVER; states * (graph.positions + 1)],
            entry_ns: Vec::new(),
            exit_ns: Vec::new(),
            near,
            prices,
            demands,
            is_turned: false,
            state_at,
            ways,
        }
    }

    /// Tables without content for another graph or other near sets, with the same prices.
    pub(crate) fn rebuilt(&self, graph: &Graph, near: Vec<Vec<usize>>) -> Self {
        Self::new(graph, near, self.prices.clone(), self.demands)
    }

    pub(super) fn states(&self) -> usize {
        self.state_at[self.near.len()]
    }

    /// Numbers written by one [`Self::fill`]: its cost.
    pub(crate) fn size(&self) -> u64 {
        let wide: usize = self.ways.iter().flatten().map(|way| way.seen_as.len()).sum();
        (wide * (self.begun_ns.len() / self.states().max(1))) as u64
    }

    /// Computes all tables for the present prices and gives the bound on any plan.
    pub(crate) fn fill(&mut self, graph: &Graph) -> u64 {
        self.reprice(graph);
        let states = self.states();
        self.ended_ns.fill(NEVER);
        for unit in 0..graph.units() {
            self.ended_ns[graph.positions * states + self.state_at[unit]] = self.exit_ns[unit];
        }
        for at in (0..graph.positions).rev() {
            for unit in 0..graph.units() {
                self.begin_stage(graph, at, unit);
            }
            if at > 0 {
                self.arrive(at);
            }
        }
        let least_ns = self.first_states().map(|(ns, _, _)| ns).min();
        match least_ns {
            Some(ns) if ns < FAR => u64::try_from(ns + self.paid_back_ns()).unwrap_or(0),
            _ => NEVER_NS,
        }
    }

    /// What every plan gets back for the prices, less what it owes for the entries it must make.
    fn paid_back_ns(&self) -> i64 {
        let rewards = self.demands.iter().zip(&self.prices.per_demand);
        let owed_ns: i64 = rewards
            .map(|(demand, reward_ns)| signed(demand.needed) * reward_ns)
            .sum();
        owed_ns - self.prices.per_unit.iter().sum::<i64>()
    }

    /// Takes the rewards off the ways they are earned on.
    fn reprice(&mut self, graph: &Graph) {
        let earning: Vec<(&Demand, i64)> = self
            .demands
            .iter()
            .zip(&self.prices.per_demand)
            .filter(|(_, reward_ns)| **reward_ns > 0)
            .map(|(required, reward_ns)| (&required.demand, *reward_ns))
            .collect();
        let begin_ns = |unit: usize| -> i64 {
            let earned = earning.iter().filter(|(demand, _)| demand.begins_in(unit));
            earned.map(|(_, reward_ns)| reward_ns).sum()
        };
        self.entry_ns = graph.entry_ns.iter().map(|ns| signed(*ns)).collect();
        self.exit_ns = graph.exit_ns.iter().map(|ns| signed(*ns)).collect();
        let beginning_ns = if self.is_turned {
            &mut self.exit_ns
        } else {
            &mut self.entry_ns
        };
        for (unit, ns) in beginning_ns.iter_mut().enumerate() {
            *ns -= begin_ns(unit);
        }
        for (to, ways) in self.ways.iter_mut().enumerate() {
            for way in ways {
                let from = way.from;
                let (from, to) = if self.is_turned { (to, from) } else { (from, to) };
                let earned = earning.iter().filter(|(demand, _)| demand.is_entered(from, to));
                way.cost_ns = way.plain_ns - earned.map(|(_, reward_ns)| reward_ns).sum::<i64>();
            }
        }
    }

    fn begin_stage(&mut self, graph: &Graph, at: usize, unit: usize) {
        let states = self.states();
        let (from, to) = (self.state_at[unit], self.state_at[unit + 1]);
        let begun_ns = &mut self.begun_ns[at * states + from..at * states + to];
        begun_ns.fill(NEVER);
        let elapsed_ns = &graph.elapsed_ns[unit];
        for end in graph.earliest[unit][at]..=graph.reach[unit][at] {
            let stage_ns = signed(elapsed_ns[end] - elapsed_ns[at]) + self.prices.per_unit[unit];
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
            if begun_ns.iter().all(|ns| *ns >= FAR) {
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
    fn first_states(&self) -> impl Iterator<Item = (i64, usize, usize)> + '_ {
        (0..self.near.len()).flat_map(move |unit| {
            (self.state_at[unit]..self.state_at[unit + 1])
                .map(move |state| (self.begun_ns[state] + self.entry_ns[unit], unit, state))
        })
    }

    /// The units of a shortest walk, in order, with repetitions.
    pub(crate) fn walk(&self, graph: &Graph) -> Vec<usize> {
        let states = self.states();
        let mut walk = Vec::new();
        let Some((ns, mut unit, mut state)) = self.first_states().min() else {
            return walk;
        };
        if ns >= FAR {
            return walk;
        }
        let mut at = 0;
        loop {
            walk.push(unit);
            let elapsed_ns = &graph.elapsed_ns[unit];
            let begun_ns = self.begun_ns[at * states + state];
            let is_end = |end: &usize| {
                let stage_ns = signed(elapsed_ns[*end] - elapsed_ns[at]) + self.prices.per_unit[unit];
                self.ended_ns[end * states + state] + stage_ns == begun_ns
            };
            let Some(end) = (graph.earliest[unit][at]..=graph.reach[unit][at]).rev().find(is_end) else {
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
    fn begun_without(&self, unit: usize, without: usize, at: usize) -> i64 {
        let bit = self.near[unit].iter().position(|near| *near == without);
        let states = at * self.states();
        let begun_ns = &self.begun_ns[states + self.state_at[unit]..states + self.state_at[unit + 1]];
        let remembers = |state: usize| bit.is_some_and(|bit| state >> bit & 1 == 1);
        let allowed = begun_ns.iter().enumerate().filter(|(state, _)| !remembers(*state));
        allowed.map(|(_, ns)| *ns).min().unwrap_or(NEVER)
    }

    /// Adjusts the prices to what a walk visits too often and enters too rarely.
    pub(crate) fn step(&mut self, graph: &Graph, walk: &[usize], direction: &mut Vec<i64>, share: u64, gap_ns: u64) {
        let excess = excess(graph, self.demands, walk);
        let limit_ns = price_limit_ns(graph, self.demands);
        self.prices.step(excess, direction, limit_ns, share, gap_ns);
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
}

/// The units that may come before `unit`, and what they remember of each of its states.
fn ways_to(graph: &Graph, near: &[Vec<usize>], unit: usize) -> Vec<Way> {
    let bit_of = |at: usize, what: usize| near[at].iter().position(|u| *u == what);
    let mut ways = Vec::new();
    for from in (0..graph.units()).filter(|from| *from != unit) {
        let way_ns = graph.way_ns[from][unit];
        if way_ns >= NEVER_NS || graph.blocks[from] >> unit & 1 == 1 {
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
        ways.push(Way {
            from,
            plain_ns: signed(way_ns),
            cost_ns: signed(way_ns),
            seen_as,
        });
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
pub(crate) fn remove_ways(graph: &mut Graph, rest: &Rest<'_>, limit_ns: u64) -> usize {
    let turned = graph.turned();
    let mut before = Rest::new(&turned, rest.near.clone(), rest.prices.clone(), rest.demands);
    before.is_turned = true;
    before.fill(&turned);
    let paid_back_ns = rest.paid_back_ns();
    let p = graph.positions;
    let mut removed = 0;
    for (to, ways) in rest.ways.iter().enumerate() {
        for way in ways {
            let from = way.from;
            let through_ns = |at: usize| before.begun_without(from, to, p - at) + rest.begun_without(to, from, at);
            let least_ns = (1..p).map(through_ns).min().unwrap_or(NEVER);
            if least_ns >= FAR || least_ns + way.cost_ns + paid_back_ns >= signed(limit_ns) {
                graph.way_ns[from][to] = NEVER_NS;
                removed += 1;
            }
        }
    }
    removed
}
