//! The exact core decides cases without couplings; here they are divided until the couplings hold, the most promising first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    core::{self, Answer},
    cost::Goal,
    couplings::{busiest_pool_ns, cases_of_broken, cases_of_busy},
    domain::Domain,
    found::Found,
    limits::{Limits, objective, shared_pins},
    spans::{Work, best_spans},
};

/// Cases kept at once: some kilobytes each. What does not fit is remembered by its bound.
const MAX_CASES: usize = 4_000;

/// Steps of the walk that cuts one order so that all couplings hold.
const NODES_PER_ORDER: u64 = 500;

/// The least that a case is given to be decided with.
const STEPS_PER_CASE: u64 = 2_000;

/// What is asked beside the goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub goal: Goal,
    /// A plan on exactly these candidates does not count.
    pub forbidden: Option<u64>,
    /// Whether any plan will do.
    pub any: bool,
    pub steps: u64,
    pub seed: u64,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub found: Option<Found>,
    /// No plan costs less; [`core::NEVER_NS`] if there is none at all.
    pub bound_ns: u64,
    pub steps: u64,
}

impl Outcome {
    pub(crate) fn is_proved(&self) -> bool {
        self.bound_ns >= self.found.as_ref().map_or(core::NEVER_NS, |found| found.cost_ns)
    }
}

/// Finds the best plan, or as much as the steps allow. `start` is a plan that is known already.
pub(crate) fn best(domain: &Domain<'_>, question: Question, start: Option<Found>) -> Outcome {
    let mut search = Search {
        domain,
        question,
        found: start,
        left: question.steps,
        open: BTreeMap::new(),
        born: 0,
        given_up_ns: core::NEVER_NS,
    };
    search.run();
    let cost_ns = search.below_ns();
    Outcome {
        bound_ns: search.given_up_ns.min(cost_ns),
        steps: question.steps - search.left,
        found: search.found,
    }
}

/// Whether stages can touch each other at all.
fn is_coupled(domain: &Domain<'_>) -> bool {
    let pools: BTreeSet<usize> = domain.candidates.iter().map(|c| c.pool).collect();
    pools.len() < domain.candidates.len() || shared_pins(domain).next().is_some() || domain.shares_links()
}

/// The same candidates, those of one node next to each other: it goes over every link between two nodes once at most.
fn by_node(domain: &Domain<'_>, order: &[usize]) -> Vec<usize> {
    let node = |candidate: &usize| &domain.device(*candidate).node;
    let mut together = order.to_vec();
    together.sort_by_key(|candidate| order.iter().position(|other| node(other) == node(candidate)));
    together
}

struct Search<'d, 'p> {
    domain: &'d Domain<'p>,
    question: Question,
    found: Option<Found>,
    left: u64,
    /// Cases not yet looked at, by their bound and the order in which they arose.
    open: BTreeMap<(u64, Reverse<u64>), Limits>,
    born: u64,
    /// The least bound of what was not followed to its end.
    given_up_ns: u64,
}

impl Search<'_, '_> {
    fn run(&mut self) {
        let root = Limits::new(self.domain);
        let coupled = is_coupled(self.domain);
        if coupled {
            // A first plan: the relaxed ones of tight clusters count memory twice and rarely lead to one.
            let simple = root.clone().one_of_each_pool(self.domain);
            self.decide(&simple, self.left / 4);
        }
        self.push(0, root);
        while let Some(((bound_ns, _), limits)) = self.open.pop_first() {
            if bound_ns >= self.below_ns() || (self.question.any && self.found.is_some()) {
                return;
            }
            if self.left == 0 {
                self.given_up_ns = self.given_up_ns.min(bound_ns);
                return;
            }
            let share = if coupled {
                (self.left / 2).max(STEPS_PER_CASE)
            } else {
                self.left
            };
            self.follow(bound_ns, &limits, share);
        }
    }

    fn below_ns(&self) -> u64 {
        self.found.as_ref().map_or(core::NEVER_NS, |found| found.cost_ns)
    }

    /// What it takes to set up one case, as its tables grow with devices and layers: without it many small cases would be free.
    /// The whole problem comes first and is not divided from anything.
    fn steps_to_begin(&self) -> u64 {
        if self.born <= 1 {
            return 0;
        }
        let cells = self.domain.candidates.len() * self.domain.layers;
        50 + cells as u64 / 8
    }

    fn push(&mut self, bound_ns: u64, limits: Limits) {
        self.born += 1;
        self.open.insert((bound_ns, Reverse(self.born)), limits);
        if self.open.len() > MAX_CASES
            && let Some(((bound_ns, _), _)) = self.open.pop_last()
        {
            self.given_up_ns = self.given_up_ns.min(bound_ns);
        }
    }

    /// Decides a case and opens those it is divided into.
    fn follow(&mut self, bound_ns: u64, limits: &Limits, share: u64) {
        let Some((answer, cases)) = self.decide(limits, share) else {
            self.given_up_ns = self.given_up_ns.min(bound_ns);
            return;
        };
        let bound_ns = if self.question.any {
            0
        } else {
            bound_ns.max(answer.bound_ns())
        };
        match cases {
            Some(cases) => cases.into_iter().for_each(|case| self.push(bound_ns, case)),
            None if bound_ns >= self.below_ns() || answer == Answer::Infeasible => {}
            None => self.given_up_ns = self.given_up_ns.min(bound_ns),
        }
    }

    /// The core's answer to a case, and the cases it is divided into if its plan breaks a coupling. `None` if the core refuses the
    /// numbers.
    fn decide(&mut self, limits: &Limits, share: u64) -> Option<(Answer, Option<Vec<Limits>>)> {
        let Question { goal, forbidden, .. } = self.question;
        let problem = limits.as_core(self.domain, forbidden, self.below_ns());
        let asked = if self.question.any {
            core::Objective::Any
        } else {
            objective(goal)
        };
        let budget = core::Budget {
            steps: share.min(self.left),
            seed: self.question.seed,
        };
        let solved = core::solve(&problem, asked, budget).ok()?;
        self.left = self
            .left
            .saturating_sub(solved.steps.saturating_add(self.steps_to_begin()));
        let Some(route) = solved.answer.route() else {
            return Some((solved.answer, None));
        };
        let mut found = Found {
            cost_ns: route.cost_ns,
            order: route.units.clone(),
            ends: route.ends.clone(),
        };
        if let Some(cases) = cases_of_broken(self.domain, limits, goal, &found) {
            self.recut(&found.order);
            if self.domain.overfull(&found.order).is_some() {
                self.recut(&by_node(self.domain, &found.order));
            }
            return Some((solved.answer, Some(cases)));
        }
        if goal != Goal::Slowest || self.question.any {
            self.offer(found);
            return Some((solved.answer, None));
        }
        found.cost_ns = found.cost_ns.max(busiest_pool_ns(self.domain, &found));
        let order = found.order.clone();
        self.offer(found.clone());
        let cases = cases_of_busy(self.domain, limits, &found, self.below_ns());
        if cases.is_some() {
            self.recut(&order);
        }
        Some((solved.answer, cases))
    }

    /// The best cut of an order that keeps every coupling.
    fn recut(&mut self, order: &[usize]) {
        let members = order.iter().fold(0, |set, candidate| set | 1 << candidate);
        if self.question.forbidden == Some(members) {
            return;
        }
        let mut work = Work::new(NODES_PER_ORDER);
        let goal = self.question.goal;
        if let Some(spans) = best_spans(self.domain, order, goal, self.below_ns(), &mut work) {
            self.offer(Found {
                cost_ns: spans.cost_ns,
                order: order.to_vec(),
                ends: spans.ends,
            });
        }
    }

    fn offer(&mut self, found: Found) {
        if found.cost_ns < self.below_ns() {
            self.found = Some(found);
        }
    }
}
