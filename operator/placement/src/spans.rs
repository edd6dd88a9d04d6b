//! The best way to cut the layers among devices in one fixed order, decided exactly.
//!
//! A table from the last stage backwards gives the best cost of every suffix, as if stages did not touch each other. Where they
//! do — two stages on one memory pool, or one pin over several stages — the table is a lower bound, and a depth-first walk
//! that follows it finds the best cut that respects the couplings.

use crate::{
    cost::{Goal, NEVER_NS},
    domain::{Domain, index},
};

/// How much work is left, and what was given up for want of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub left: u64,
    pub spent: u64,
    /// Lower bound of everything that was not looked at; `NEVER_NS` while nothing was given up.
    pub open_ns: u64,
}

impl Work {
    pub(crate) fn new(nodes: u64) -> Self {
        Self {
            left: nodes,
            spent: 0,
            open_ns: NEVER_NS,
        }
    }

    /// Takes one unit. Without one left, remembers that something with this lower bound was given up.
    pub(crate) fn take(&mut self, bound_ns: u64) -> bool {
        if self.left == 0 {
            self.open_ns = self.open_ns.min(bound_ns);
            return false;
        }
        self.left -= 1;
        self.spent += 1;
        true
    }
}

/// A cut: the layer after the last of each stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spans {
    pub cost_ns: u64,
    pub ends: Vec<usize>,
}

/// The cheapest cut of all layers among these candidates in this order that costs less than `below_ns`.
pub(crate) fn best_spans(
    domain: &Domain<'_>,
    order: &[usize],
    goal: Goal,
    below_ns: u64,
    work: &mut Work,
) -> Option<Spans> {
    if domain.clashes(order) || domain.overfull(order).is_some() {
        return None;
    }
    let limits = stage_limits(domain, order)?;
    let suffix_ns = suffix_table(domain, order, goal, &limits);
    if suffix_ns[0][0] >= below_ns {
        return None;
    }
    let mut walk = Walk {
        domain,
        order,
        goal,
        limits: &limits,
        suffix_ns: &suffix_ns,
        below_ns,
        best: None,
        ends: Vec::with_capacity(order.len()),
    };
    walk.descend(0, 0, work);
    walk.best
}

/// Fewest and most layers of each stage, from the pins; `None` if a pin asks for layers and no stage can take them.
fn stage_limits(domain: &Domain<'_>, order: &[usize]) -> Option<Vec<(usize, usize)>> {
    let mut limits: Vec<(usize, usize)> = order
        .iter()
        .map(|c| (domain.candidates[*c].min_layers, domain.candidates[*c].max_layers))
        .collect();
    for (pin, members) in domain.problem.constraints.pinned_layers.iter().zip(&domain.pin_members) {
        let stages: Vec<usize> = (0..order.len()).filter(|s| (members >> order[*s]) & 1 == 1).collect();
        match stages.as_slice() {
            [] if pin.min_layers > 0 => return None,
            [only] => limits[*only].0 = limits[*only].0.max(index(pin.min_layers)),
            _ => {}
        }
    }
    limits.iter().all(|(min, max)| min <= max).then_some(limits)
}

/// `table[s][a]`: least cost of stages `s..` over layers `a..`, the hops after stage `s` included, couplings ignored.
fn suffix_table(domain: &Domain<'_>, order: &[usize], goal: Goal, limits: &[(usize, usize)]) -> Vec<Vec<u64>> {
    let mut table = vec![vec![NEVER_NS; domain.layers + 1]; order.len() + 1];
    table[order.len()][domain.layers] = 0;
    for stage in (0..order.len()).rev() {
        let firsts = if stage == 0 { 0..1 } else { stage..domain.layers };
        for first in firsts {
            if !domain.boundary[first] {
                continue;
            }
            let best = choices(domain, order, goal, limits, stage, first)
                .map(|end| chained_ns(domain, order, goal, stage, first, end, table[stage + 1][end]))
                .min();
            table[stage][first] = best.unwrap_or(NEVER_NS);
        }
    }
    table
}

/// Where a stage that begins at a layer may end, by its own memory, pins, allowed cuts and time.
fn choices<'d>(
    domain: &'d Domain<'_>,
    order: &'d [usize],
    goal: Goal,
    limits: &[(usize, usize)],
    stage: usize,
    first: usize,
) -> impl Iterator<Item = usize> + 'd {
    let candidate = order[stage];
    let (min, max) = limits[stage];
    let later = order.len() - 1 - stage;
    let last = stage + 1 == order.len();
    let from = if last {
        domain.layers.max(first + min)
    } else {
        first + min
    };
    let to = first.saturating_add(max).min(domain.layers - later);
    let usable_bytes = domain.candidates[candidate].usable_bytes;
    (from..=to).filter(move |end| {
        domain.boundary[*end]
            && domain.may_hold(candidate, first, *end)
            && domain.memory_bytes(candidate, first, *end) <= usable_bytes
            && domain.time_ns(candidate, first, *end) <= domain.candidates[candidate].most_ns
            && domain.admits(goal, domain.time_ns(candidate, first, *end))
    })
}

/// Cost of one stage and its hop, joined with the cost of what follows.
fn chained_ns(
    domain: &Domain<'_>,
    order: &[usize],
    goal: Goal,
    stage: usize,
    first: usize,
    end: usize,
    rest_ns: u64,
) -> u64 {
    let own_ns = domain.cost_ns(order[stage], first, end);
    let way_ns = match order.get(stage + 1) {
        Some(next) => domain.way_ns(goal, order[stage], *next).unwrap_or(NEVER_NS),
        None => 0,
    };
    let entry_ns = match goal {
        Goal::Sum { .. } if stage == 0 => domain.candidates[order[stage]].entry_ns,
        _ => 0,
    };
    goal.join(goal.join(goal.join(own_ns, entry_ns), way_ns), rest_ns)
}

/// The depth-first walk along the table.
struct Walk<'a, 'p> {
    domain: &'a Domain<'p>,
    order: &'a [usize],
    goal: Goal,
    limits: &'a [(usize, usize)],
    suffix_ns: &'a [Vec<u64>],
    below_ns: u64,
    best: Option<Spans>,
    ends: Vec<usize>,
}

impl Walk<'_, '_> {
    /// Puts stage `ends.len()` at `first`; `so_far_ns` is what the stages before it cost, their pools considered.
    fn descend(&mut self, first: usize, so_far_ns: u64, work: &mut Work) {
        let stage = self.ends.len();
        if stage == self.order.len() {
            self.below_ns = so_far_ns;
            self.best = Some(Spans {
                cost_ns: so_far_ns,
                ends: self.ends.clone(),
            });
            return;
        }
        let mut ways: Vec<(u64, usize)> = choices(self.domain, self.order, self.goal, self.limits, stage, first)
            .map(|end| {
                let rest_ns = self.suffix_ns[stage + 1][end];
                let own_ns = chained_ns(self.domain, self.order, self.goal, stage, first, end, rest_ns);
                (self.goal.join(so_far_ns, own_ns), end)
            })
            .filter(|(bound_ns, _)| *bound_ns < self.below_ns)
            .collect();
        ways.sort_unstable();
        for (bound_ns, end) in ways {
            if bound_ns >= self.below_ns {
                break;
            }
            self.ends.push(end);
            if let Some(pool_ns) = self.admitted(stage) {
                if !work.take(bound_ns) {
                    self.ends.pop();
                    return;
                }
                let here_ns = chained_ns(self.domain, self.order, self.goal, stage, first, end, 0);
                let mut next_ns = self.goal.join(so_far_ns, here_ns);
                if self.goal == Goal::Slowest {
                    next_ns = next_ns.max(pool_ns);
                }
                if next_ns < self.below_ns {
                    self.descend(end, next_ns, work);
                }
            }
            self.ends.pop();
        }
    }

    /// Whether the stage just put fits beside the stages before it: in its pool's memory and time, and in the pins it shares.
    /// Gives the time its pool then works.
    fn admitted(&self, stage: usize) -> Option<u64> {
        let pool = self.domain.candidates[self.order[stage]].pool;
        let mut bytes = 0_u64;
        let mut ns = 0_u64;
        for (s, candidate) in self.order.iter().enumerate().take(stage + 1) {
            if self.domain.candidates[*candidate].pool == pool {
                let (first, end) = self.span(s);
                bytes = bytes.saturating_add(self.domain.memory_bytes(*candidate, first, end));
                ns = ns.saturating_add(self.domain.time_ns(*candidate, first, end));
            }
        }
        (bytes <= self.domain.pool_bytes(pool) && self.domain.admits(self.goal, ns) && self.pins_hold(stage))
            .then_some(ns)
    }

    /// Whether every pin can still be met after the stages up to this one.
    fn pins_hold(&self, stage: usize) -> bool {
        let pins = self
            .domain
            .problem
            .constraints
            .pinned_layers
            .iter()
            .zip(&self.domain.pin_members);
        pins.into_iter().all(|(pin, members)| {
            let is_member = |s: &usize| (members >> self.order[*s]) & 1 == 1;
            let held: usize = (0..=stage)
                .filter(is_member)
                .map(|s| self.span(s).1 - self.span(s).0)
                .sum();
            let later: Vec<usize> = (stage + 1..self.order.len()).filter(is_member).collect();
            let fewest: usize = later.iter().map(|s| self.limits[*s].0).sum();
            let layers_left = self.domain.layers - self.ends[stage];
            let most = later
                .iter()
                .map(|s| self.limits[*s].1)
                .fold(0, usize::saturating_add)
                .min(layers_left);
            pin.max_layers.is_none_or(|max| held + fewest <= index(max)) && held + most >= index(pin.min_layers)
        })
    }

    fn span(&self, stage: usize) -> (usize, usize) {
        let first = if stage == 0 { 0 } else { self.ends[stage - 1] };
        (first, self.ends[stage])
    }
}
