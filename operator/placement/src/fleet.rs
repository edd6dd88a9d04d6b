//! Several pipelines of one model, none of which has a device of another: its replicas.
//!
//! ```text
//!  search   as many as are asked for, else one less, and so on down: relaxed (every replica alone), divided where two want
//!           the same device or a pool is too small for all
//!  first    the plans it begins with: one after the other, nodes shared out, devices shared out
//!  together what they take from each other, and what they cost together
//!  short    what the next one lacks beside those that fit
//! ```
//!
//! **Contract.** More replicas are better than fewer, whatever they cost. Of as many, [`Objective::Latency`] takes the least sum of
//! their latencies (or of the bytes that move, where anything is held, and then of latencies), [`Objective::Throughput`] the
//! greatest sum of their rates. Memory pools have one budget for all of them, and one bandwidth: a pool in which several work is
//! as busy for each as it is for all together; the hops of all over one link add up. Every other constraint holds for each replica by itself.

mod first;
mod search;
mod shares;
mod together;

use crate::{
    Budget, Explanation, Infeasible, Objective, Plan, Problem, RunnerUp, Verdict,
    domain::Within,
    explain, links,
    solve::{latency_within, single, solve},
};
use search::{Cost, Outcome};
pub use together::time_ns;
use together::{beside, least_cost};
use topology::reason;

/// Replicas of one model at most: each is a whole copy of its weights.
pub const MAX_REPLICAS: u32 = 16;

/// Replicas, and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// At least one.
    pub plans: Vec<Plan>,
    /// How good they are among as many; `Optimal` also says that no more fit, where fewer than asked for do.
    pub verdict: Verdict,
    /// Of a single replica: the best plan found on another set of devices.
    pub runner_up: Option<RunnerUp>,
    /// Why there are fewer than asked for.
    pub short: Option<Short>,
    pub steps: u64,
}

/// Fewer replicas than asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    pub asked: u32,
    /// What the next one lacks, beside those that fit.
    pub next: Explanation,
    /// Whether no other division of the devices would hold more.
    pub is_proved: bool,
}

impl Fleet {
    /// Of fewer than asked for: "2 of 3 replicas fit; the third is 1.2 GiB short: ...".
    pub fn shortage(&self) -> Option<String> {
        let short = self.short.as_ref()?;
        Some(shortage(
            self.plans.len(),
            short.asked,
            short.is_proved,
            &short.next.message,
        ))
    }

    /// Mean of the predicted times of one token.
    pub fn mean_latency_ns(&self) -> u64 {
        let sum: u128 = self.plans.iter().map(|plan| u128::from(plan.latency_ns)).sum();
        let mean = sum / (self.plans.len() as u128).max(1);
        u64::try_from(mean).unwrap_or(u64::MAX)
    }
}

/// How many of the replicas that are asked for there are, and what keeps the next away.
pub fn shortage(fit: usize, asked: u32, is_proved: bool, next: &str) -> String {
    const ORDINALS: [&str; 9] = [
        "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    ];
    let ordinal = fit.checked_sub(1).and_then(|at| ORDINALS.get(at));
    let ordinal = ordinal.map_or_else(|| format!("replica {}", fit + 1), |word| format!("the {word}"));
    let fits = if fit == 1 { "fits" } else { "fit" };
    let found = if is_proved { "" } else { ", as far as was searched" };
    format!("{fit} of {asked} replicas {fits}{found}; {ordinal}: {next}")
}

/// Decides where the layers of several replicas run. One alone is decided as by [`solve`].
///
/// # Errors
///
/// As [`solve`]: not even one replica fits.
pub fn solve_fleet(problem: &Problem, replicas: u32, budget: Budget) -> Result<Fleet, Infeasible> {
    let asked = replicas.clamp(1, MAX_REPLICAS);
    if asked == 1 {
        return alone(problem, budget);
    }
    let mut left = budget.steps;
    match single(problem, &Within::default(), with(budget, budget.steps / 8)) {
        Ok(first) => left = left.saturating_sub(first.steps),
        Err(Infeasible::Exhausted { steps }) => left = left.saturating_sub(steps),
        Err(infeasible) => return Err(infeasible),
    }
    let mut excluded = true;
    for count in (2..=asked).rev() {
        // What one alone is decided with is kept for it.
        let spare = left.saturating_sub(budget.steps / 4);
        let share = if count == 2 { spare } else { spare / 2 };
        let outcome = search::search(problem, count, None, with(budget, share));
        left = left.saturating_sub(outcome.steps);
        if outcome.plans.is_empty() {
            excluded &= outcome.is_proved();
            continue;
        }
        let mut fleet = told(problem, outcome, budget);
        fleet.steps = budget.steps - left;
        return Ok(with_shortage(problem, fleet, asked, excluded, budget));
    }
    let one = alone(problem, with(budget, left))?;
    Ok(with_shortage(problem, one, asked, excluded, budget))
}

fn with(budget: Budget, steps: u64) -> Budget {
    Budget { steps, ..budget }
}

fn alone(problem: &Problem, budget: Budget) -> Result<Fleet, Infeasible> {
    let solution = solve(problem, budget)?;
    Ok(Fleet {
        plans: vec![solution.plan],
        verdict: solution.verdict,
        runner_up: solution.runner_up,
        short: None,
        steps: solution.steps,
    })
}

/// What was found, as people and the operator get it.
fn told(problem: &Problem, outcome: Outcome, budget: Budget) -> Fleet {
    let verdict = if outcome.is_proved() {
        Verdict::Optimal
    } else if budget.steps == 0 {
        Verdict::Greedy
    } else {
        Verdict::Feasible {
            gap_percent: outcome.gap_percent(),
        }
    };
    let mut plans = outcome.plans;
    if problem.objective == Objective::Throughput && problem.held.is_empty() {
        quicken(problem, &mut plans, budget);
    }
    Fleet {
        plans,
        verdict,
        runner_up: None,
        short: None,
        steps: outcome.steps,
    }
}

fn devices(plan: &Plan) -> impl Iterator<Item = &str> {
    plan.stages.iter().map(|stage| stage.device.as_str())
}

/// Of plans with the same slowest part on the same devices, those of the least latency.
fn quicken(problem: &Problem, plans: &mut [Plan], budget: Budget) {
    for at in 0..plans.len() {
        let others: Vec<Plan> = plans
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != at)
            .map(|(_, p)| p.clone())
            .collect();
        let mut own = beside(problem, &others);
        own.topology
            .devices
            .retain(|device| devices(&plans[at]).any(|name| name == device.name));
        let share = with(budget, budget.steps / 16);
        let Ok(quicker) = latency_within(&own, plans[at].slowest_ns, share) else {
            continue;
        };
        let mut with_it = plans.to_vec();
        with_it[at] = quicker.plan;
        // A pool that several share may be busier for it.
        if least_cost(problem, &with_it) <= least_cost(problem, plans) && with_it[at].latency_ns < plans[at].latency_ns
        {
            plans[at] = with_it.swap_remove(at);
        }
    }
}

/// Asks why there is no further replica beside those found; one that was overlooked is added.
fn with_shortage(problem: &Problem, mut fleet: Fleet, asked: u32, excluded: bool, budget: Budget) -> Fleet {
    let found = fleet.plans.len();
    while fleet.plans.len() < asked as usize {
        let rest = beside(problem, &fleet.plans);
        let next = match solve(&rest, with(budget, budget.steps / 16)) {
            Ok(solution) => {
                let more = [fleet.plans.as_slice(), &[solution.plan]].concat();
                if least_cost(problem, &more) < Cost::NEVER {
                    fleet.plans = more;
                    continue;
                }
                too_full(problem, &more).unwrap_or_else(too_busy)
            }
            Err(infeasible) => explain(&rest, &infeasible),
        };
        let is_proved = excluded && fleet.plans.len() == found;
        fleet.short = Some(Short { asked, next, is_proved });
        break;
    }
    let is_proved = fleet.plans.len() == found && fleet.short.as_ref().is_none_or(|short| short.is_proved);
    if fleet.verdict == Verdict::Optimal && !is_proved {
        let cost = least_cost(problem, &fleet.plans);
        fleet.verdict = Verdict::Feasible {
            gap_percent: cost.gap_percent(bound(problem, fleet.plans.len(), budget)),
        };
    }
    if fleet.plans.len() > 1 {
        fleet.runner_up = None;
    }
    fleet.plans.sort_by(|a, b| devices(a).cmp(devices(b)));
    fleet
}

/// The link that plans fill together, where they do: one beside the others may go at a pace that it leaves room for, and all at once count
/// with the best.
fn too_full(problem: &Problem, plans: &[Plan]) -> Option<Explanation> {
    let over = links::overfull(problem, plans)?;
    let (of, stage) = over.first()?;
    let hop = plans.get(*of)?.stages.get(*stage..*stage + 2)?;
    Some(Explanation {
        reason: reason::CONSTRAINTS_CLASH,
        message: format!(
            "the link {} -> {}, which it would share, is too full for all",
            hop[0].node, hop[1].node
        ),
        missing_bytes: None,
    })
}

fn too_busy() -> Explanation {
    Explanation {
        reason: reason::CONSTRAINTS_CLASH,
        message: "the memory that it would share is too slow for all at minTokensPerSecond".to_owned(),
        missing_bytes: None,
    }
}

/// No replicas of this number cost less.
fn bound(problem: &Problem, replicas: usize, budget: Budget) -> Cost {
    let alone = single(problem, &Within::default(), with(budget, budget.steps / 4)).map(|alone| alone.bound_ns);
    Cost::of_parts(problem, std::iter::repeat_n(alone.unwrap_or(0), replicas))
}

#[cfg(test)]
mod tests;
