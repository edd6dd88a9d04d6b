//! Small changes to an order until none of them helps, then a few blind ones and again.

use super::{Work, graph::Graph, problem::NEVER_NS, route::cost_ns};

/// Numbers that look random and are the same everywhere (splitmix64: Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`; zero if there are none.
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let sides = sides.max(1) as u64;
        usize::try_from((z ^ (z >> 31)) % sides).unwrap_or(0)
    }
}

/// An order and what it costs.
pub(crate) type Costed = (u64, Vec<usize>);

/// The best order that single changes lead to.
pub(crate) fn improve(graph: &Graph, start: Costed, work: &mut Work) -> Costed {
    let mut search = Search {
        graph,
        best: start,
        trial: Vec::new(),
        work,
    };
    while search.replace_or_swap() || search.insert_or_remove() || search.reverse_or_move() {}
    search.best
}

/// [`improve`], then from blind changes of the best again, `kicks` times.
pub(crate) fn improve_with_kicks(
    graph: &Graph,
    start: Costed,
    kicks: usize,
    dice: &mut Dice,
    work: &mut Work,
) -> Costed {
    let mut best = improve(graph, start, work);
    for _ in 0..kicks {
        let mut order = best.1.clone();
        for _ in 0..3 {
            kick(graph, &mut order, dice);
        }
        let kicked_ns = cost_ns(graph, &order);
        if kicked_ns >= NEVER_NS || !work.take(order.len() as u64) {
            continue;
        }
        let again = improve(graph, (kicked_ns, order), work);
        if again.0 < best.0 {
            best = again;
        }
    }
    best
}

fn kick(graph: &Graph, order: &mut Vec<usize>, dice: &mut Dice) {
    let free: Vec<usize> = (0..graph.units()).filter(|u| !order.contains(u)).collect();
    let at = dice.below(order.len());
    match dice.below(4) {
        0 if !free.is_empty() => order[at] = free[dice.below(free.len())],
        1 if !free.is_empty() => order.insert(at, free[dice.below(free.len())]),
        2 => {
            let other = dice.below(order.len());
            order.swap(at, other);
        }
        _ => {
            let unit = order.remove(at);
            order.insert(dice.below(order.len() + 1), unit);
        }
    }
}

struct Search<'a> {
    graph: &'a Graph,
    best: Costed,
    trial: Vec<usize>,
    work: &'a mut Work,
}

impl Search<'_> {
    /// Takes the best order, changed, if it is better.
    fn attempt(&mut self, change: impl FnOnce(&mut Vec<usize>)) -> bool {
        if !self.work.take(1) {
            return false;
        }
        self.trial.clone_from(&self.best.1);
        change(&mut self.trial);
        let trial_ns = cost_ns(self.graph, &self.trial);
        if trial_ns >= self.best.0 {
            return false;
        }
        self.best.0 = trial_ns;
        std::mem::swap(&mut self.best.1, &mut self.trial);
        true
    }

    fn free(&self) -> Vec<usize> {
        (0..self.graph.units()).filter(|u| !self.best.1.contains(u)).collect()
    }

    fn replace_or_swap(&mut self) -> bool {
        let mut improved = false;
        for at in 0..self.best.1.len() {
            for unit in self.free() {
                improved |= self.attempt(|order| order[at] = unit);
            }
            for other in 0..at {
                improved |= self.attempt(|order| order.swap(at, other));
            }
        }
        improved
    }

    fn insert_or_remove(&mut self) -> bool {
        let mut improved = false;
        for unit in self.free() {
            for at in 0..=self.best.1.len() {
                if self.attempt(|order| order.insert(at, unit)) {
                    improved = true;
                    break;
                }
            }
        }
        let mut at = 0;
        while at < self.best.1.len() && self.best.1.len() > 1 {
            if self.attempt(|order| {
                order.remove(at);
            }) {
                improved = true;
            } else {
                at += 1;
            }
        }
        improved
    }

    fn reverse_or_move(&mut self) -> bool {
        let mut improved = false;
        let stages = self.best.1.len();
        for from in 0..stages {
            for to in from + 1..stages {
                improved |= self.attempt(|order| order[from..=to].reverse());
                improved |= self.attempt(|order| order[from..=to].rotate_left(1));
                improved |= self.attempt(|order| order[from..=to].rotate_right(1));
            }
        }
        improved
    }
}
