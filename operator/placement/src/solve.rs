//! The decision: a guess, then the search, then what is known of the result.

use std::fmt;

use crate::{
    Objective, Plan, Problem,
    cases::{Outcome, Question, best},
    compare::why_not,
    cost::{Goal, NEVER_NS},
    crowd::bound_ns,
    domain::{Domain, Within},
    found::Found,
    greedy::greedy,
    level::levelled,
    obvious::obvious,
};

/// How much a decision may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// About a microsecond of work each on a present machine. Zero: the guess alone.
    pub steps: u64,
    /// Of the blind changes that the search tries.
    pub seed: u64,
}

impl Default for Budget {
    /// Sixteen devices of eighty layers are mostly proved within a tenth of it; whatever the problem, it ends within seconds.
    fn default() -> Self {
        Self {
            steps: 2_000_000,
            seed: 1,
        }
    }
}

/// A plan and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    pub plan: Plan,
    pub verdict: Verdict,
    /// The best plan found on another set of devices, for people.
    pub runner_up: Option<RunnerUp>,
    /// Steps that were taken to find the plan.
    pub steps: u64,
}

/// The next best plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerUp {
    pub plan: Plan,
    /// Why it was not chosen.
    pub why_not: String,
}

impl RunnerUp {
    /// One line: the plan, and why it was not chosen.
    pub fn summary(&self) -> String {
        format!("{}; {}", self.plan.summary(), self.why_not)
    }
}

/// How good a plan is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No plan costs less.
    Optimal,
    /// The search stopped early; no plan costs less than this one by more than the gap.
    Feasible { gap_percent: u32 },
    /// A guess; nothing is known of better plans.
    Greedy,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Optimal => f.write_str("Optimal"),
            Self::Feasible { gap_percent } => write!(f, "Feasible, at most {gap_percent} % above the best possible"),
            Self::Greedy => f.write_str("Greedy"),
        }
    }
}

/// There is no plan. Every variant but [`Infeasible::Exhausted`] is a proof. [`crate::explain`] says what would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Infeasible {
    #[error("the model has no layers")]
    NoLayers,
    #[error("{needed} devices are needed and {usable} are usable")]
    TooFewDevices { needed: u32, usable: u32 },
    #[error("{needed} stages are needed and the model can be cut into {segments}")]
    TooFewSegments { needed: u32, segments: u32 },
    #[error("minDevices is {min} and maxDevices is {max}")]
    MinAboveMax { min: u32, max: u32 },
    #[error("no usable device matches pinnedLayers[{pin}]")]
    PinUnmatched { pin: usize },
    /// Not even if layers could be divided at will.
    #[error("{needed_bytes} bytes are needed and {usable_bytes} are usable on {devices} devices")]
    Memory {
        needed_bytes: u64,
        usable_bytes: u64,
        devices: u32,
    },
    /// Each constraint can be met alone; all of them cannot be met together.
    #[error("no order of devices and no cut of the layers meets every constraint")]
    NoPlan,
    /// The budget ended before a plan was found or excluded.
    #[error("no plan was found within {steps} steps of the search")]
    Exhausted { steps: u64 },
}

/// Decides where the layers of a model run.
///
/// The plan respects every constraint of the problem; [`crate::check`] says so independently. The same problem and budget always
/// give the same answer.
pub fn solve(problem: &Problem, budget: Budget) -> Result<Solution, Infeasible> {
    if problem.model.layers.is_empty() {
        return Err(Infeasible::NoLayers);
    }
    let domain = Domain::new(problem);
    obvious(&domain)?;
    let decided = decide(&domain, budget, None);
    let mut solution = solution(&domain, budget, &decided)?;
    // The second best is worth a fraction of the work: it only informs.
    let less = Budget {
        steps: budget.steps / 8,
        ..budget
    };
    let members = decided.found.map(|found| found.members());
    let other = decide(&domain, less, members);
    solution.runner_up = other.found.map(|found| {
        let plan = levelled(&domain, found).plan(&domain);
        let why_not = why_not(problem, &solution.plan, &plan);
        RunnerUp { plan, why_not }
    });
    Ok(solution)
}

/// The plan of the least latency of which no part works longer than `cap_ns`. The runner-up is left out.
pub(crate) fn latency_within(problem: &Problem, cap_ns: u64, budget: Budget) -> Result<Solution, Infeasible> {
    let mut domain = Domain::new(problem);
    domain.cap_ns = domain.cap_ns.min(cap_ns);
    obvious(&domain)?;
    let goal = Goal::Sum { cap_ns };
    solution(&domain, budget, &ask(&domain, goal, budget, None, None).into())
}

/// A plan for what the objective names first, and what no plan can beat. For callers that compare many of them.
#[derive(Clone, Debug)]
pub(crate) struct Single {
    pub plan: Plan,
    /// Of what is minimised: latency and what moves, or the slowest part.
    pub cost_ns: u64,
    pub bound_ns: u64,
    pub steps: u64,
}

/// Decides for the first part of the objective alone, without a runner-up.
pub(crate) fn single(problem: &Problem, within: &Within, budget: Budget) -> Result<Single, Infeasible> {
    if problem.model.layers.is_empty() {
        return Err(Infeasible::NoLayers);
    }
    let mut domain = Domain::new(problem);
    domain.limit(within);
    obvious(&domain)?;
    let goal = match problem.objective {
        Objective::Throughput if domain.moving_ns.is_empty() => Goal::Slowest,
        _ => Goal::Sum { cap_ns: NEVER_NS },
    };
    let outcome = ask(&domain, goal, budget, None, None);
    let is_proved = outcome.is_proved();
    let Some(found) = outcome.found else {
        return Err(if is_proved && !domain.truncated {
            Infeasible::NoPlan
        } else {
            Infeasible::Exhausted { steps: outcome.steps }
        });
    };
    let cost_ns = found.cost_ns;
    let found = if goal == Goal::Slowest {
        found
    } else {
        levelled(&domain, found)
    };
    let known_ns = if domain.truncated {
        bound_ns(problem)
    } else {
        outcome.bound_ns
    };
    Ok(Single {
        plan: found.plan(&domain),
        cost_ns,
        bound_ns: known_ns.min(cost_ns),
        steps: outcome.steps,
    })
}

/// What was decided, as people and the operator get it.
fn solution(domain: &Domain<'_>, budget: Budget, decided: &Decided) -> Result<Solution, Infeasible> {
    match &decided.found {
        Some(found) => Ok(Solution {
            plan: levelled(domain, found.clone()).plan(domain),
            verdict: verdict(domain, budget, decided),
            runner_up: None,
            steps: decided.steps,
        }),
        None if decided.is_proved && !domain.truncated => Err(Infeasible::NoPlan),
        None => Err(Infeasible::Exhausted { steps: budget.steps }),
    }
}

/// Whether a plan is found within so many steps.
pub(crate) fn is_feasible(problem: &Problem, steps: u64) -> bool {
    if problem.model.layers.is_empty() {
        return false;
    }
    let domain = Domain::new(problem);
    let question = Question {
        goal: Goal::Sum { cap_ns: NEVER_NS },
        forbidden: None,
        any: true,
        steps,
        seed: Budget::default().seed,
    };
    obvious(&domain).is_ok() && best(&domain, question, None).found.is_some()
}

/// A plan for the objective and how good it is known to be.
struct Decided {
    found: Option<Found>,
    is_proved: bool,
    gap_percent: u32,
    steps: u64,
}

impl From<Outcome> for Decided {
    fn from(outcome: Outcome) -> Self {
        let cost_ns = outcome.found.as_ref().map_or(NEVER_NS, |found| found.cost_ns);
        Self {
            is_proved: outcome.is_proved(),
            gap_percent: gap_percent(cost_ns, outcome.bound_ns),
            steps: outcome.steps,
            found: outcome.found,
        }
    }
}

/// The best plan for a goal; a guess where the steps find none.
fn ask(domain: &Domain<'_>, goal: Goal, budget: Budget, forbidden: Option<u64>, start: Option<Found>) -> Outcome {
    let question = Question {
        goal,
        forbidden,
        any: false,
        steps: budget.steps,
        seed: budget.seed,
    };
    let mut outcome = best(domain, question, start);
    if outcome.found.is_none() && !outcome.is_proved() {
        outcome.found = greedy(domain, goal, forbidden);
    }
    outcome
}

/// The best plan for the objective.
fn decide(domain: &Domain<'_>, budget: Budget, forbidden: Option<u64>) -> Decided {
    let with = |steps: u64| Budget { steps, ..budget };
    let objective = match domain.problem.objective {
        // What moves is the first thing then, and what is slowest no longer the second.
        _ if !domain.moving_ns.is_empty() => Objective::Latency,
        objective => objective,
    };
    match objective {
        Objective::Latency => ask(domain, Goal::Sum { cap_ns: NEVER_NS }, budget, forbidden, None).into(),
        Objective::Throughput => {
            // First the slowest part alone, then the least latency that keeps it.
            let first = ask(domain, Goal::Slowest, with(budget.steps / 2), forbidden, None);
            let Some(slowest) = &first.found else {
                return first.into();
            };
            let goal = Goal::Sum {
                cap_ns: slowest.cost_ns,
            };
            let start = Found {
                cost_ns: slowest.plan(domain).latency_ns,
                ..slowest.clone()
            };
            let left = with(budget.steps.saturating_sub(first.steps));
            let second = ask(domain, goal, left, forbidden, Some(start));
            let found = second.found.clone();
            let steps = first.steps + second.steps;
            // The least latency is only worth a word where the slowest part is known to be the least.
            let told = if first.is_proved() { second } else { first };
            Decided {
                found,
                steps,
                ..told.into()
            }
        }
    }
}

/// How much more than the bound the cost is, rounded up.
fn gap_percent(cost_ns: u64, bound_ns: u64) -> u32 {
    let above = u128::from(cost_ns.saturating_sub(bound_ns)) * 100;
    u32::try_from(above.div_ceil(u128::from(bound_ns.max(1)))).unwrap_or(u32::MAX)
}

fn verdict(domain: &Domain<'_>, budget: Budget, decided: &Decided) -> Verdict {
    if budget.steps == 0 && !decided.is_proved {
        Verdict::Greedy
    } else if domain.truncated {
        Verdict::Feasible {
            gap_percent: crowd_gap_percent(domain, decided),
        }
    } else if decided.is_proved {
        Verdict::Optimal
    } else {
        Verdict::Feasible {
            gap_percent: decided.gap_percent,
        }
    }
}

/// How much more a plan on some of the devices may cost than the best on all of them.
fn crowd_gap_percent(domain: &Domain<'_>, decided: &Decided) -> u32 {
    let plan = decided.found.as_ref().map(|found| found.plan(domain));
    let cost_ns = plan.map_or(NEVER_NS, |plan| match domain.problem.objective {
        Objective::Latency => plan.latency_ns,
        Objective::Throughput => plan.slowest_ns,
    });
    gap_percent(cost_ns, bound_ns(domain.problem))
}
