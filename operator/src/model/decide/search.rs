//! PURE: how much a search may cost, and the judge of what it finds.

use crds::conditions::reason;
use placement::{Budget, Fleet, Infeasible, Problem, Solution, check, check_fleet, explain, solve, solve_fleet};

use crate::model::status::Why;

/// Of repairs, of each choice of lower models that is tried, and of looks ahead: a tenth of what a decision may cost.
const TRIAL_STEPS: u64 = 200_000;

/// A plan, if one is found soon: what is placed in the end is solved with the full budget.
pub(super) fn trial(problem: &Problem) -> Option<Solution> {
    trial_of(problem, 1)
}

/// The same for one of so many that are looked at together, for its part of the work.
pub(super) fn trial_of(problem: &Problem, parts: usize) -> Option<Solution> {
    let budget = Budget {
        steps: TRIAL_STEPS / (parts as u64).max(1),
        ..Budget::default()
    };
    let solution = solve(problem, budget).ok()?;
    check(problem, &solution.plan).is_empty().then_some(solution)
}

/// Plans for so many replicas, or for as many as fit, if any are found soon. Not judged.
pub(super) fn soon_fleet(problem: &Problem, replicas: u32) -> Result<Fleet, Infeasible> {
    solve_fleet(problem, replicas, trial_budget())
}

fn trial_budget() -> Budget {
    Budget {
        steps: TRIAL_STEPS,
        ..Budget::default()
    }
}

/// Plans for so many replicas, judged by the checker. Streams wait for a repair: what is found soon is good enough for it, and what is
/// better by far is moved to later. `explained`: the same problem with all that a person may want to know of, where that is more.
pub(super) fn solve_and_check(
    problem: &Problem,
    replicas: u32,
    is_repair: bool,
    explained: impl FnOnce() -> Option<Problem>,
) -> Result<Fleet, Why> {
    let budget = if is_repair { trial_budget() } else { Budget::default() };
    let mut solved = solve_fleet(problem, replicas, budget);
    if is_repair && matches!(solved, Err(Infeasible::Exhausted { .. })) {
        solved = solve_fleet(problem, replicas, Budget::default());
    }
    let fleet = solved.map_err(|infeasible| {
        let explanation = explain(explained().as_ref().unwrap_or(problem), &infeasible);
        Why::new(explanation.reason, explanation.message)
    })?;
    let violations = check_fleet(problem, &fleet.plans);
    if violations.is_empty() {
        return Ok(fleet);
    }
    let violations: Vec<String> = violations.iter().take(3).map(ToString::to_string).collect();
    tracing::error!(
        model = problem.model.name,
        ?violations,
        "the checker refuses the solver's plan"
    );
    Err(Why::new(
        reason::CHECK_FAILED,
        format!("the plan found is not valid and is not used: {}", violations.join("; ")),
    ))
}
