//! The solver against brute force on small clusters: every device order, every cut.

#[path = "oracle/brute_force.rs"]
mod brute_force;
#[path = "oracle/pairs.rs"]
mod pairs;
#[path = "oracle/problems.rs"]
mod problems;

use brute_force::cost;
use placement::{
    Budget, Infeasible, Objective, Plan, Problem, RunnerUp, Verdict, bound_ns, check, check_fleet, diff, evaluate,
    explain, solve, solve_fleet,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::RngSeed};

/// As many random problems as `ORACLE_CASES` says, for those who have the time.
fn cases() -> u32 {
    let asked = std::env::var("ORACLE_CASES").ok();
    asked.map_or(400, |cases| cases.parse().expect("a number of cases"))
}

fn guess_only() -> Budget {
    Budget { steps: 0, seed: 1 }
}

/// What the solver gives is valid, proved, and as good as the best that brute force finds; nothing is found only where there is nothing.
fn as_brute_force(problem: &Problem) -> Result<(), TestCaseError> {
    let best = brute_force::best(problem);
    match solve(problem, Budget::default()) {
        Ok(solution) => {
            prop_assert_eq!(check(problem, &solution.plan), vec![]);
            prop_assert_eq!(solution.verdict, Verdict::Optimal);
            let best = best.expect("brute force finds a plan where the solver does");
            prop_assert_eq!(
                cost(problem, &solution.plan),
                cost(problem, &best),
                "\n{}{}",
                solution.plan,
                best
            );
            // Brute force has its own prices.
            prop_assert_eq!(evaluate(problem, &best), Some(best));
        }
        Err(infeasible) => {
            let proved = !matches!(infeasible, Infeasible::Exhausted { .. });
            prop_assert!(proved);
            prop_assert!(best.is_none(), "{:?}, but\n{}", infeasible, best.expect("a plan"));
            let explanation = explain(problem, &infeasible);
            prop_assert!(!explanation.message.is_empty());
        }
    }
    Ok(())
}

/// The bound that needs no search is no more than the best plan costs.
fn as_bounded(problem: &Problem) -> Result<(), TestCaseError> {
    let Some(best) = brute_force::best(problem) else {
        return Ok(());
    };
    let cost_ns = match problem.objective {
        Objective::Latency => best.latency_ns,
        Objective::Throughput => best.slowest_ns,
    };
    let bound_ns = bound_ns(problem);
    prop_assert!(bound_ns <= cost_ns, "{} of {}\n{}", bound_ns, cost_ns, best);
    Ok(())
}

/// The same devices and pools from the last to the first.
fn turned(problem: &Problem) -> Problem {
    let mut turned = problem.clone();
    let topology = &mut turned.topology;
    topology.devices.reverse();
    topology.pools.reverse();
    let last = topology.pools.len() - 1;
    for device in &mut topology.devices {
        device.pool = last - device.pool;
        device
            .members
            .iter_mut()
            .for_each(|member| member.pool = last - member.pool);
    }
    turned
}

/// Two replicas are as good as the best pair of all plans, or one is told to be all that fits.
fn as_all_pairs(problem: &Problem) -> Result<(), TestCaseError> {
    let best = pairs::best(problem);
    let Ok(fleet) = solve_fleet(problem, 2, Budget::default()) else {
        prop_assert!(brute_force::best(problem).is_none());
        return Ok(());
    };
    prop_assert_eq!(check_fleet(problem, &fleet.plans), vec![]);
    let Some(best) = best else {
        prop_assert_eq!(fleet.plans.len(), 1);
        let shortage = fleet.shortage().expect("it says what is missing");
        prop_assert!(shortage.starts_with("1 of 2 replicas fits"));
        return Ok(());
    };
    let plans: Vec<&Plan> = fleet.plans.iter().collect();
    prop_assert_eq!(plans.len(), 2, "{:?}", fleet.short);
    let cost = pairs::cost(problem, &plans);
    prop_assert!(cost >= best);
    // Where memory that several share slows them down, a gap may stay.
    let is_exact = problem.objective == Objective::Latency && problem.constraints.min_tokens_per_second.is_none();
    match fleet.verdict {
        Verdict::Optimal => prop_assert_eq!(cost, best),
        Verdict::Feasible { gap_percent } if !is_exact => {
            let within =
                |cost: i128, best: i128| (cost - best) * 100 <= cost.abs().max(best.abs()) * i128::from(gap_percent);
            prop_assert!(
                cost.0 > best.0 || within(cost.1, best.1),
                "{} of {}, gap {}",
                cost.1,
                best.1,
                gap_percent
            );
        }
        verdict => prop_assert!(false, "{verdict}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn the_solver_finds_what_brute_force_finds_or_proves_that_there_is_nothing(problem in problems::small()) {
        as_brute_force(&problem)?;
    }

    #[test]
    fn hops_over_a_link_that_is_nearly_full_add_up_as_in_brute_force(problem in problems::crowded_links()) {
        as_brute_force(&problem)?;
    }

    #[test]
    fn no_plan_costs_less_than_the_bound_that_needs_no_search(problem in problems::small()) {
        as_bounded(&problem)?;
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

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(2), ..ProptestConfig::default() })]

    #[test]
    fn two_replicas_are_what_trying_all_pairs_finds(problem in problems::small()) {
        as_all_pairs(&problem)?;
    }

    #[test]
    fn replicas_do_not_depend_on_the_order_of_devices_and_pools(problem in problems::small()) {
        let turned = turned(&problem);
        let (one, other) = (solve_fleet(&problem, 2, Budget::default()), solve_fleet(&turned, 2, Budget::default()));
        prop_assert_eq!(one.is_ok(), other.is_ok());
        let (Ok(one), Ok(other)) = (one, other) else { return Ok(()) };
        prop_assert_eq!(one.plans.len(), other.plans.len());
        if one.verdict == Verdict::Optimal && other.verdict == Verdict::Optimal {
            let cost = |plans: &[Plan]| pairs::cost(&problem, &plans.iter().collect::<Vec<_>>());
            prop_assert_eq!(cost(&one.plans), cost(&other.plans));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(3), ..ProptestConfig::default() })]

    #[test]
    fn devices_that_work_as_one_are_used_as_brute_force_uses_them(problem in problems::grouped()) {
        as_brute_force(&problem)?;
    }

    #[test]
    fn no_plan_on_devices_that_work_as_one_costs_less_than_the_bound(problem in problems::grouped()) {
        as_bounded(&problem)?;
    }

    #[test]
    fn devices_that_may_work_as_one_never_make_the_best_plan_worse(problem in problems::grouped()) {
        let mut problem = problem;
        // What a hop is counted with beside others depends on the fastest device there is.
        problem.topology.traffic.clear();
        let without = apart(&problem);
        let Ok(alone) = solve(&without, Budget::default()) else { return Ok(()) };
        let together = solve(&problem, Budget::default());
        prop_assert!(together.is_ok(), "{:?}, but\n{}", together, alone.plan);
        let together = together.expect("a plan");
        prop_assert!(cost(&problem, &together.plan) <= cost(&problem, &alone.plan), "{}{}", together.plan, alone.plan);
    }

    #[test]
    fn a_guess_is_sound_and_no_worse_for_devices_that_may_work_as_one(problem in problems::grouped()) {
        let Ok(guess) = solve(&problem, guess_only()) else { return Ok(()) };
        prop_assert_eq!(check(&problem, &guess.plan), vec![]);
        let mut eased = problem;
        eased.topology.traffic.clear();
        let Ok(alone) = solve(&apart(&eased), guess_only()) else { return Ok(()) };
        prop_assert!(solve(&eased, guess_only()).is_ok(), "{}", alone.plan);
    }

    #[test]
    fn where_no_devices_may_work_as_one_it_makes_no_difference_that_they_could(problem in problems::grouped()) {
        let mut problem = problem;
        problem.constraints.max_group_devices = 1;
        prop_assert_eq!(solve(&problem, Budget::default()), solve(&apart(&problem), Budget::default()));
    }

    #[test]
    fn what_devices_do_as_one_does_not_depend_on_the_order_of_devices_and_pools(problem in problems::grouped()) {
        let turned = turned(&problem);
        let (one, other) = (solve(&problem, Budget::default()), solve(&turned, Budget::default()));
        prop_assert_eq!(one.is_ok(), other.is_ok());
        let (Ok(one), Ok(other)) = (one, other) else { return Ok(()) };
        prop_assert_eq!(cost(&problem, &one.plan), cost(&problem, &other.plan));
    }

    #[test]
    fn two_replicas_on_devices_that_work_as_one_are_what_trying_all_pairs_finds(problem in problems::grouped()) {
        as_all_pairs(&problem)?;
    }
}

/// The same devices, each by itself.
fn apart(problem: &Problem) -> Problem {
    let mut apart = problem.clone();
    apart.topology.devices.retain(|device| !device.is_group());
    apart
}

/// The problems of devices that work as one are of use only where these are often used.
#[test]
fn devices_that_work_as_one_are_in_many_of_the_plans_for_problems_about_them() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut feasible, mut together) = (0, 0);
    for _ in 0..200 {
        let tree = problems::grouped().new_tree(&mut runner).expect("a problem");
        let problem = tree.current();
        let Ok(solution) = solve(&problem, Budget::default()) else {
            continue;
        };
        feasible += 1;
        together += u32::from(solution.plan.stages.iter().any(|stage| stage.device.contains('+')));
    }
    assert!(
        together * 8 > feasible && together < feasible,
        "{together} of {feasible}"
    );
}

/// Cheap ways between the nodes and dear ones within them: the best plan goes there and back and there again.
#[test]
fn a_plan_does_not_return_over_a_link_that_carries_one_hop() {
    let mut problem = problems::two_nodes_of_two();
    let nodes = |plan: &Plan| plan.stages.iter().map(|stage| stage.node.clone()).collect::<Vec<_>>();
    let twice = solve(&problem, Budget::default()).expect("a plan");
    assert_eq!(nodes(&twice.plan), ["node0", "node1", "node0", "node1"]);
    // A hop is 40,960 bytes a second of 4 MB/s: the link carries two at 3 %, and one at 2 %.
    problem.constraints.min_tokens_per_second = Some(10);
    problem.constraints.max_link_percent = Some(3);
    assert_eq!(solve(&problem, Budget::default()).expect("a plan").plan, twice.plan);
    for (percent, taken) in [(2, 0), (3, 40_000)] {
        problem.constraints.max_link_percent = Some(percent);
        problem.topology.traffic = problems::from_node_0_to_node_1(taken);
        let once = solve(&problem, Budget::default()).expect("a plan");
        assert_eq!(once.verdict, Verdict::Optimal);
        let best = brute_force::best(&problem).expect("a plan");
        assert_eq!(cost(&problem, &once.plan), cost(&problem, &best));
        assert!(once.plan.latency_ns > twice.plan.latency_ns);
        let over = |plan: &Plan| {
            plan.stages
                .windows(2)
                .filter(|pair| pair[0].node == "node0" && pair[1].node == "node1")
                .count()
        };
        assert!(over(&once.plan) <= 1, "{}", once.plan);
        assert!(!check(&problem, &twice.plan).is_empty());
    }
}

/// The problems of crowded links are of use only where links decide.
#[test]
fn links_decide_in_many_of_the_problems_that_are_about_them() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut feasible, mut decided) = (0, 0);
    for _ in 0..200 {
        let tree = problems::crowded_links().new_tree(&mut runner).expect("a problem");
        let problem = tree.current();
        let mut eased = problem.clone();
        eased.constraints.max_link_percent = None;
        eased.topology.traffic.clear();
        let Ok(solution) = solve(&eased, Budget::default()) else {
            continue;
        };
        feasible += 1;
        let fits_by_itself = solution.plan.stages.windows(2).all(|pair| {
            let link = problem
                .topology
                .link(&pair[0].node, &pair[1].node)
                .rate
                .bytes_per_second;
            40_960 * 100 <= link * u64::from(problem.constraints.max_link_percent.expect("a share"))
        });
        decided += u32::from(fits_by_itself && !check(&problem, &solution.plan).is_empty());
    }
    assert!(decided * 20 > feasible, "{decided} of {feasible}");
}

/// What is assumed of a way that nobody measured is better than a slow one that somebody did.
#[test]
fn a_slow_link_that_can_be_gone_round_does_not_raise_the_bound() {
    let problem = problems::a_slow_link_and_a_way_round();
    let plan = solve(&problem, Budget::default()).expect("a plan").plan;
    assert!(plan.latency_ns < 1_000_000_000, "{plan}");
    let bound_ns = bound_ns(&problem);
    assert!((1..=plan.latency_ns).contains(&bound_ns), "{bound_ns}\n{plan}");
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
