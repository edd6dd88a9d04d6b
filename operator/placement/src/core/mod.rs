//! The exact core: which units, in which order, with which cuts, and a proof that nothing is better.
//!
//! ```text
//!  Problem ─ graph: caps folded into reaches, costs into ways; units that can be exchanged
//!     │ rest:   walks that may repeat a unit at a price: a bound on what follows any stage     (Lagrangian, ng-routes)
//!     │ labels: sets of units level by level, the best order of each; bounds prune             (dominance)
//!     │ local:  single changes to the best order                                               (incumbent)
//!     ▼ route:  the best cut of an order
//!  solve ─▶ Answer: optimal, feasible with a bound, infeasible, or exhausted with a bound
//! ```
//!
//! The frame is that of constraint satisfaction. A variable is the unit of the next stage; its values are the units that are not
//! used, not excluded and can be reached (forward checking); a label whose remaining layers no admitted walk can place has an
//! empty domain and is dropped (propagation); the next variable is always the one after the last stage, and of the values the
//! ones with the least bound are followed first. What a plain backtracking would repeat for each order of the same units is
//! done once for the set.
//!
//! Everything is a function of problem, objective, budget and seed: budgets count steps, there is no clock, and all numbers are
//! integers. A bound is never rounded up.

mod bottleneck;
mod bounds;
mod completions;
mod demand;
mod filling;
mod graph;
mod labels;
mod local;
mod prefix;
mod prices;
mod problem;
mod rest;
mod route;
mod solve;
mod uniform;

use graph::Graph;
pub use problem::{MAX_UNITS, NEVER_NS, Objective, Problem, Refused, Unit};

/// How much a decision may cost, and the seed of the blind changes of the local search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// About a microsecond of work each on a present machine: one label, one changed order, some hundred numbers of a bound.
    pub steps: u64,
    pub seed: u64,
}

/// An order of units and where their layers end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Under the objective asked for.
    pub cost_ns: u64,
    pub units: Vec<usize>,
    /// The layer after the last of each stage.
    pub ends: Vec<usize>,
}

/// What is known of the best plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No plan costs less.
    Optimal(Route),
    /// The budget ended; no plan costs less than the bound.
    Feasible { route: Route, bound_ns: u64 },
    /// There is no plan.
    Infeasible,
    /// The budget ended before a plan was found or excluded.
    Exhausted { bound_ns: u64 },
}

impl Answer {
    /// The plan, if there is one.
    pub fn route(&self) -> Option<&Route> {
        match self {
            Self::Optimal(route) | Self::Feasible { route, .. } => Some(route),
            Self::Infeasible | Self::Exhausted { .. } => None,
        }
    }

    /// No plan costs less.
    pub fn bound_ns(&self) -> u64 {
        match self {
            Self::Optimal(route) => route.cost_ns,
            Self::Feasible { bound_ns, .. } | Self::Exhausted { bound_ns } => *bound_ns,
            Self::Infeasible => NEVER_NS,
        }
    }
}

/// An answer and the steps it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solved {
    pub answer: Answer,
    pub steps: u64,
}

/// Finds the best plan within the budget. The same arguments always give the same answer.
pub fn solve(problem: &Problem, objective: Objective, budget: Budget) -> Result<Solved, Refused> {
    problem.validate()?;
    let mut work = Work::new(budget.steps);
    let cap_ns = match objective {
        Objective::Sum { cap_ns } => cap_ns,
        Objective::Bottleneck | Objective::Any => NEVER_NS,
    };
    let mut graph = Graph::new(problem, cap_ns);
    let known = match objective {
        _ if problem.layers == 0 => return Ok(work.solved(Answer::Infeasible)),
        Objective::Sum { .. } => solve::solve_graph(&graph, budget.seed, false, &mut work),
        Objective::Any => solve::solve_graph(&graph, budget.seed, true, &mut work),
        Objective::Bottleneck => {
            let known = bottleneck::solve_bottleneck(problem, budget.seed, &mut work);
            let busy_ns = known.best.as_ref().map_or(NEVER_NS, |(ns, _)| *ns);
            // The cut of the plan is the one that keeps its own bottleneck.
            graph = Graph::new(problem, busy_ns);
            known
        }
    };
    let proved = known.is_proved();
    let route = known.best.and_then(|(cost_ns, units)| {
        let ends = route::ends(&graph, &units)?;
        Some(Route { cost_ns, units, ends })
    });
    let answer = match (route, proved) {
        (Some(route), true) => Answer::Optimal(route),
        (Some(route), false) => Answer::Feasible {
            route,
            bound_ns: known.bound_ns,
        },
        (None, true) => Answer::Infeasible,
        (None, false) => Answer::Exhausted {
            bound_ns: known.bound_ns,
        },
    };
    Ok(work.solved(answer))
}

/// Steps left and taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    left: u64,
    spent: u64,
    refused: bool,
}

impl Work {
    fn new(steps: u64) -> Self {
        Self {
            left: steps,
            spent: 0,
            refused: false,
        }
    }

    /// Takes steps, if that many are left.
    pub(crate) fn take(&mut self, steps: u64) -> bool {
        if steps > self.left {
            self.refused = true;
            return false;
        }
        self.left -= steps;
        self.spent += steps;
        true
    }

    /// Whether something was already left undone for want of steps.
    pub(crate) fn is_used_up(&self) -> bool {
        self.refused
    }

    fn split(&self, steps: u64) -> Self {
        Self::new(steps.min(self.left))
    }

    fn join(&mut self, part: &Self) {
        self.left -= part.spent;
        self.spent += part.spent;
    }

    fn solved(&self, answer: Answer) -> Solved {
        Solved {
            answer,
            steps: self.spent,
        }
    }
}
