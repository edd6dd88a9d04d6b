//! The solver against brute force on small clusters: every device order, every cut.

#[path = "oracle/brute_force.rs"]
mod brute_force;
#[path = "oracle/problems.rs"]
mod problems;

use brute_force::cost;
use placement::{
    Budget, Infeasible, Objective, Plan, RunnerUp, Verdict, bound_ns, check, diff, evaluate, explain, solve,
};
use proptest::{prelude::*, test_runner::RngSeed};

/// As many random problems as `ORACLE_CASES` says, for those who have the time.
fn cases() -> u32 {
    let asked = std::env::var("ORACLE_CASES").ok();
    asked.map_or(400, |cases| cases.parse().expect("a number of cases"))
}

fn guess_only() -> Budget {
    Budget { steps: 0, seed: 1 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn the_solver_finds_what_brute_force_finds_or_proves_that_there_is_nothing(problem in problems::small()) {
        let best = brute_force::best(&problem);
        match solve(&problem, Budget::default()) {
            Ok(solution) => {
                prop_assert_eq!(check(&problem, &solution.plan), vec![]);
                prop_assert_eq!(solution.verdict, Verdict::Optimal);
                let best = best.expect("brute force finds a plan where the solver does");
                prop_assert_eq!(cost(&problem, &solution.plan), cost(&problem, &best), "\n{}{}", solution.plan, best);
                // Brute force has its own prices.
                prop_assert_eq!(evaluate(&problem, &best), Some(best));
            }
            Err(infeasible) => {
                let proved = !matches!(infeasible, Infeasible::Exhausted { .. });
                prop_assert!(proved);
                prop_assert!(best.is_none(), "{:?}, but\n{}", infeasible, best.expect("a plan"));
                let explanation = explain(&problem, &infeasible);
                prop_assert!(!explanation.message.is_empty());
            }
        }
    }

    #[test]
    fn no_plan_costs_less_than_the_bound_that_needs_no_search(problem in problems::small()) {
        if let Some(best) = brute_force::best(&problem) {
            let cost_ns = match problem.objective {
                Objective::Latency => best.latency_ns,
                Objective::Throughput => best.slowest_ns,
            };
            prop_assert!(bound_ns(&problem) <= cost_ns, "{} of {cost_ns}\n{best}", bound_ns(&problem));
        }
    }

    #[test]
    fn the_same_problem_has_the_same_answer_and_a_guess_is_never_better(problem in problems::small()) {
        let first = solve(&problem, Budget::default());
        prop_assert_eq!(&first, &solve(&problem, Budget::default()));
        if let Ok(guess) = solve(&problem, guess_only()) {
            let solution = first.expect("a guess is a plan, so there is one");
            prop_assert_eq!(check(&problem, &guess.plan), vec![]);
            prop_assert!(cost(&problem, &solution.plan) <= cost(&problem, &guess.plan));
        }
    }

    #[test]
    fn a_runner_up_is_a_good_plan_on_other_devices_and_costs_no_less(problem in problems::small()) {
        let Ok(solution) = solve(&problem, Budget::default()) else { return Ok(()) };
        let Some(RunnerUp { plan: other, why_not }) = &solution.runner_up else { return Ok(()) };
        prop_assert!(!why_not.is_empty());
        prop_assert_eq!(check(&problem, other), vec![]);
        prop_assert!(cost(&problem, other) >= cost(&problem, &solution.plan));
        let devices = |plan: &Plan| plan.stages.iter().map(|s| s.device.clone()).collect::<std::collections::BTreeSet<_>>();
        prop_assert_ne!(devices(other), devices(&solution.plan));
        prop_assert_ne!(diff(&solution.plan, other), "no layer moves\n");
    }

    #[test]
    fn memory_that_is_said_to_be_missing_is_enough_once_it_is_there(problem in problems::small()) {
        let Err(infeasible) = solve(&problem, Budget::default()) else { return Ok(()) };
        let explanation = explain(&problem, &infeasible);
        let Some(missing_bytes) = explanation.missing_bytes else { return Ok(()) };
        prop_assert!(missing_bytes > 0);
        if infeasible == Infeasible::NoPlan {
            let mut eased = problem;
            for device in &mut eased.topology.devices {
                device.usable_bytes += missing_bytes;
                eased.topology.pools[device.pool].usable_bytes += missing_bytes;
            }
            prop_assert!(solve(&eased, Budget::default()).is_ok(), "{}", explanation.message);
        }
    }
}

#[test]
fn eight_different_devices_under_tight_memory_are_proved_optimal() {
    let problem = problems::eight_devices();
    let solution = solve(&problem, Budget::default()).expect("a plan");
    assert_eq!(solution.verdict, Verdict::Optimal, "{} steps", solution.steps);
    assert_eq!(check(&problem, &solution.plan), vec![]);
}

#[test]
fn many_devices_end_within_the_budget_and_tell_the_gap() {
    let problem = problems::many_devices(100, 80);
    let solution = solve(&problem, Budget { steps: 3_000, seed: 1 }).expect("a plan");
    assert!(solution.steps <= 3_000);
    assert!(
        matches!(solution.verdict, Verdict::Feasible { .. }),
        "{:?}",
        solution.verdict
    );
    assert_eq!(check(&problem, &solution.plan), vec![]);
    let fewer = problems::many_devices(30, 80);
    let solution = solve(&fewer, Budget { steps: 3_000, seed: 1 }).expect("a plan");
    assert!(
        matches!(solution.verdict, Verdict::Optimal | Verdict::Feasible { .. }),
        "{:?}",
        solution.verdict
    );
}

#[test]
fn identical_devices_do_not_multiply_the_work() {
    let problem = problems::identical_devices(16, 32);
    let solution = solve(&problem, Budget::default()).expect("a plan");
    assert_eq!(solution.verdict, Verdict::Optimal);
    assert!(solution.steps < 10_000, "{} steps", solution.steps);
}

#[test]
fn devices_that_share_a_memory_are_decided_with_proof_however_tight_it_is() {
    let mut problem = problems::a_crowded_pool();
    for mib in [70_u64, 75, 79, 82, 85, 90, 100, 120] {
        problem.topology.pools[2].usable_bytes = mib << 20;
        let best = brute_force::best(&problem);
        match solve(&problem, Budget::default()) {
            Ok(solution) => {
                let best = best.expect("brute force finds a plan where the solver does");
                assert_eq!(solution.verdict, Verdict::Optimal, "{mib} MiB");
                assert_eq!(cost(&problem, &solution.plan), cost(&problem, &best), "{mib} MiB");
            }
            Err(infeasible) => {
                assert!(best.is_none(), "{mib} MiB: {infeasible}");
                assert!(!matches!(infeasible, Infeasible::Exhausted { .. }), "{mib} MiB");
            }
        }
    }
}
