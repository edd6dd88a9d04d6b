//! The plans between the least latency and the most throughput, none of which is worse than another in both.

use crate::{
    Budget, Infeasible, Objective, Problem, Solution,
    solve::{latency_within, solve},
};

/// Points of a front at most: more of them differ by less than anybody can measure.
pub const MAX_POINTS: u32 = 64;

/// Up to `points` plans, from the least latency to the least slowest part.
///
/// The first is the answer for [`Objective::Latency`], the last the one for [`Objective::Throughput`]; between them the slowest
/// part is limited in equal ratios, and each plan has the least latency within its limit, as far as its verdict says. The budget
/// is that of all plans together.
///
/// # Errors
///
/// As [`solve`]: without a plan there is no front.
pub fn front(problem: &Problem, points: u32, budget: Budget) -> Result<Vec<Solution>, Infeasible> {
    let points = points.clamp(2, MAX_POINTS);
    let share = Budget {
        steps: budget.steps / u64::from(points),
        ..budget
    };
    let with = |objective| Problem {
        objective,
        ..problem.clone()
    };
    let first = solve(&with(Objective::Latency), share)?;
    let last = solve(&with(Objective::Throughput), share)?;
    let (from_ns, to_ns) = (first.plan.slowest_ns, last.plan.slowest_ns);
    let mut front = vec![first];
    for point in 1..points - 1 {
        let cap_ns = between(from_ns, to_ns, point, points - 1);
        // A plan that is faster than its limit asked for is the answer for narrower limits too.
        let known = |solution: &Solution| solution.plan.slowest_ns <= cap_ns;
        if cap_ns <= to_ns || front.last().is_some_and(known) {
            continue;
        }
        front.extend(latency_within(problem, cap_ns, share));
    }
    front.push(last);
    // Without a proof a wider limit may have led to the worse plan.
    let mut kept: Vec<Solution> = Vec::new();
    for solution in front.into_iter().rev() {
        let is_better = |best: &Solution| solution.plan.latency_ns < best.plan.latency_ns;
        if kept.last().is_none_or(is_better) {
            kept.push(solution);
        }
    }
    kept.reverse();
    Ok(kept)
}

/// `from * (to / from)^(step / steps)`, by repeated means of neighbours in whole numbers: the same everywhere.
fn between(from_ns: u64, to_ns: u64, step: u32, steps: u32) -> u64 {
    // Exponents in 1024ths, by squaring roots: each bit of the fraction is one geometric mean.
    let (mut low_ns, mut high_ns) = (u128::from(from_ns.max(1)), u128::from(to_ns.max(1)));
    let mut fraction = u64::from(step) * 1024 / u64::from(steps.max(1));
    for _ in 0..10 {
        let middle_ns = (low_ns * high_ns).isqrt();
        fraction *= 2;
        if fraction >= 1024 {
            fraction -= 1024;
            low_ns = middle_ns;
        } else {
            high_ns = middle_ns;
        }
    }
    u64::try_from(low_ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
