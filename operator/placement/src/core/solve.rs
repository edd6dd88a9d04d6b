//! The decision for one graph: incumbent, bound, and passes of growing width until they meet.

use super::{
    Work,
    completions::Completions,
    demand::required,
    filling::filling,
    graph::Graph,
    labels::{Pass, pass},
    local::{Costed, Dice, improve_with_kicks},
    prices::Prices,
    problem::NEVER_NS,
    rest::{Rest, nearest, remove_ways},
};

/// What is known of the best plan of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub best: Option<Costed>,
    /// No plan costs less. Equal to the best's cost, or to the limit without one, where nothing is left to find out.
    pub bound_ns: u64,
    /// Plans that do not cost less are of no interest.
    pub below_ns: u64,
}

impl Known {
    fn limit_ns(&self) -> u64 {
        self.best.as_ref().map_or(self.below_ns, |(ns, _)| *ns)
    }

    pub(crate) fn is_proved(&self) -> bool {
        self.bound_ns >= self.limit_ns()
    }

    fn offer(&mut self, found: Costed) {
        if found.0 < self.limit_ns() {
            self.best = Some(found);
        }
    }

    fn raise(&mut self, bound_ns: u64) {
        self.bound_ns = self.bound_ns.max(bound_ns).min(self.limit_ns());
    }
}

/// One attempt: how much a walk may remember, how long prices are adjusted, how many labels of a level are followed.
struct Round {
    near: usize,
    steps: usize,
    width: usize,
    kicks: usize,
}

/// Each round costs several times the one before it; most problems end in the first two.
const ROUNDS: [Round; 5] = [
    Round {
        near: 2,
        steps: 80,
        width: 64,
        kicks: 4,
    },
    Round {
        near: 3,
        steps: 120,
        width: 2_000,
        kicks: 8,
    },
    Round {
        near: 5,
        steps: 160,
        width: 15_000,
        kicks: 16,
    },
    Round {
        near: 7,
        steps: 160,
        width: 100_000,
        kicks: 32,
    },
    Round {
        near: 9,
        steps: 80,
        width: usize::MAX,
        kicks: 0,
    },
];

/// The width of the very first pass, whose bound has no prices yet.
const FIRST_WIDTH: usize = 16;

/// Finds the best plan, or as much as the work allows. With `any`, stops at the first plan.
pub(crate) fn solve_graph(graph: &Graph, seed: u64, any: bool, work: &mut Work) -> Known {
    let mut known = Known {
        best: None,
        bound_ns: 0,
        below_ns: graph.below_ns,
    };
    if graph.min_stages <= 1 && graph.max_stages >= 1 {
        let alone = (0..graph.units()).map(|unit| (graph.alone_ns(unit), vec![unit]));
        let best = alone.filter(|(ns, _)| *ns < NEVER_NS).min();
        best.into_iter().for_each(|found| known.offer(found));
    }
    if graph.max_stages < 2 || graph.max_stages < graph.min_stages {
        known.bound_ns = known.limit_ns();
        return known;
    }
    if any && known.best.is_some() {
        return known;
    }
    let demands = required(graph);
    let prices = Prices::first(graph, &demands);
    let mut several = Several {
        whole: graph,
        graph: graph.clone(),
        known,
        any,
        dice: Dice::new(seed),
        rest: Rest::new(graph, nearest(graph, ROUNDS[0].near), prices, &demands),
        work,
    };
    several.run();
    several.known
}

/// Plans of several stages.
struct Several<'w> {
    whole: &'w Graph,
    /// Without the ways that no better plan takes: they disappear on the go.
    graph: Graph,
    known: Known,
    any: bool,
    dice: Dice,
    rest: Rest<'w>,
    work: &'w mut Work,
}

impl Several<'_> {
    fn run(&mut self) {
        if self.known.best.is_none()
            && let Some(found) = filling(self.whole, self.work)
        {
            self.known.offer(found);
        }
        self.fill();
        self.search(FIRST_WIDTH, 2);
        for (number, round) in ROUNDS.iter().enumerate() {
            if self.is_over() {
                return;
            }
            self.ascend(round, number > 0);
            if self.is_over() {
                return;
            }
            let limit_ns = self.known.limit_ns();
            if limit_ns < NEVER_NS
                && self.work.take(self.filling_steps() * 2)
                && remove_ways(&mut self.graph, &self.rest, limit_ns) > 0
            {
                self.rebuild(self.rest.near.clone());
            }
            self.search(round.width, round.kicks);
        }
    }

    fn is_over(&self) -> bool {
        self.known.is_proved() || self.work.is_used_up() || (self.any && self.known.best.is_some())
    }

    /// New tables for the graph as it is now, with the same prices.
    fn rebuild(&mut self, near: Vec<Vec<usize>>) {
        self.rest = self.rest.rebuilt(&self.graph, near);
        self.fill();
    }

    /// One pass, and what local changes make of its plan.
    fn search(&mut self, width: usize, kicks: usize) {
        let after = Completions::of(&self.rest, &self.graph);
        let limit_ns = self.known.limit_ns();
        let asked = Pass {
            limit_ns,
            width,
            any: self.any,
        };
        let passed = pass(&self.graph, &after, asked, self.work);
        // Below the limit there was nothing, or the best there is, unless it is among what was not looked at.
        let found_ns = passed.best.as_ref().map_or(limit_ns, |(ns, _)| *ns);
        let stopped_early = self.any && passed.best.is_some();
        let start = passed
            .best
            .or_else(|| self.known.best.clone().filter(|(_, order)| order.len() > 1));
        if !stopped_early {
            self.known.bound_ns = self.known.bound_ns.max(passed.open_ns.min(found_ns));
        }
        if let Some(start) = start {
            self.known.offer(start.clone());
            if !self.known.is_proved() && !self.any {
                let better = improve_with_kicks(self.whole, start, kicks, &mut self.dice, self.work);
                self.known.offer(better);
            }
        }
        self.known.raise(0);
    }

    /// Steps of work that one filling of the tables counts for: a step stands for some hundreds of numbers.
    fn filling_steps(&self) -> u64 {
        self.rest.size() / 512 + 1
    }

    fn fill(&mut self) -> u64 {
        let bound_ns = self.rest.fill(&self.graph);
        self.known.raise(bound_ns);
        bound_ns
    }

    /// Adjusts prices, then lets walks remember the cycles they still make, and adjusts again.
    fn ascend(&mut self, round: &Round, grows: bool) {
        for turn in 0..if grows { 4 } else { 1 } {
            if grows {
                let walk = self.rest.walk(&self.graph);
                match self.rest.near_with_cycles(&walk, round.near) {
                    Some(near) => self.rebuild(near),
                    None if turn > 0 => return,
                    None => {}
                }
            }
            self.adjust(round.steps / if grows { 2 } else { 1 });
            if self.is_over() {
                return;
            }
        }
    }

    /// Subgradient steps; the best prices are kept, and the tables are theirs afterwards.
    fn adjust(&mut self, steps: usize) {
        let mut best_ns = self.fill();
        let mut best_prices = self.rest.prices.clone();
        let mut direction = Vec::new();
        let mut share = 1024_u64;
        let mut idle = 0;
        for _ in 0..steps {
            if self.is_over() || !self.work.take(self.filling_steps()) {
                break;
            }
            let walk = self.rest.walk(&self.graph);
            self.try_walk(&walk);
            let bound_ns = self.rest_bound(best_ns);
            self.rest.step(&self.graph, &walk, &mut direction, share, bound_ns);
            let now_ns = self.fill();
            if now_ns > best_ns {
                best_ns = now_ns;
                best_prices.clone_from(&self.rest.prices);
                idle = 0;
            } else {
                idle += 1;
                if idle % 10 == 0 {
                    share = share * 3 / 4;
                }
            }
        }
        if self.rest.prices != best_prices {
            self.rest.prices = best_prices;
            self.fill();
        }
    }

    /// How far the bound may still rise: to the best plan, or by a twentieth where there is none.
    fn rest_bound(&self, best_ns: u64) -> u64 {
        match self.known.limit_ns() {
            NEVER_NS => best_ns / 20 + 1,
            limit_ns => limit_ns.saturating_sub(best_ns).max(1),
        }
    }

    /// A walk without repetition is a plan.
    fn try_walk(&mut self, walk: &[usize]) {
        let cost_ns = super::route::cost_ns(self.whole, walk);
        if cost_ns < self.known.limit_ns() {
            self.known.offer((cost_ns, walk.to_vec()));
            self.known.raise(0);
        }
    }
}
