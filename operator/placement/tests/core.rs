//! The exact core against brute force on small problems, and against what other solvers know of the committed instances.

#[path = "core/brute_force.rs"]
mod brute_force;
#[path = "core/instances.rs"]
mod instances;
#[path = "core/random.rs"]
mod random;

use placement::core::{Answer, Budget, NEVER_NS, Objective, Problem, Refused, Route, Solved, Unit, solve};
use random::Dice;

const AMPLE: Budget = Budget {
    steps: 1_000_000,
    seed: 0,
};

/// As many random problems as `ORACLE_CASES` says, for those who have the time.
fn cases() -> u64 {
    let asked = std::env::var("ORACLE_CASES").ok();
    asked.map_or(20_000, |cases| cases.parse().expect("a number of cases"))
}

fn solved(problem: &Problem, objective: Objective, budget: Budget) -> Solved {
    solve(problem, objective, budget).expect("a valid problem")
}

/// The latency, sometimes capped, or the bottleneck.
fn objective(dice: &mut Dice) -> Objective {
    match dice.between(0, 4) {
        0 => Objective::Bottleneck,
        1 => Objective::Sum {
            cap_ns: dice.between(10, 200),
        },
        _ => Objective::LATENCY,
    }
}

fn stages(route: &Route) -> Vec<(usize, usize, usize)> {
    let firsts = std::iter::once(0).chain(route.ends.iter().copied());
    let spans = route.units.iter().zip(firsts).zip(&route.ends);
    spans.map(|((unit, first), end)| (*unit, first, *end)).collect()
}

fn assert_is_a_plan(problem: &Problem, objective: Objective, route: &Route, seed: u64) {
    let cost_ns = brute_force::cost_ns(problem, objective, &stages(route));
    assert_eq!(cost_ns, Some(route.cost_ns), "seed {seed}: {route:?} of {problem:?}");
}

#[test]
fn the_core_finds_what_brute_force_finds_or_proves_that_there_is_nothing() {
    let mut infeasible = 0;
    let cases = cases();
    for seed in 0..cases {
        let mut dice = Dice::new(seed);
        let problem = random::problem(&mut dice);
        let objective = objective(&mut dice);
        let best_ns = brute_force::best_ns(&problem, objective);
        match solved(&problem, objective, AMPLE).answer {
            Answer::Optimal(route) => {
                assert_eq!(Some(route.cost_ns), best_ns, "seed {seed}, {objective:?}: {problem:?}");
                assert_is_a_plan(&problem, objective, &route, seed);
            }
            Answer::Infeasible => {
                assert_eq!(best_ns, None, "seed {seed}, {objective:?}: {problem:?}");
                infeasible += 1;
            }
            answer => panic!("seed {seed}: {answer:?} within an ample budget"),
        }
    }
    let share = infeasible * 100 / cases;
    assert!(
        (5..70).contains(&share),
        "{share} % of the problems have no plan: the sample says little"
    );
}

#[test]
fn any_plan_is_a_plan_and_none_is_given_only_where_there_is_none() {
    for seed in 0..2_000 {
        let problem = random::problem(&mut Dice::new(5_000_000 + seed));
        let answer = solved(&problem, Objective::Any, AMPLE).answer;
        let exists = brute_force::best_ns(&problem, Objective::Any).is_some();
        assert_eq!(
            answer.route().is_some(),
            exists,
            "seed {seed}: {answer:?} of {problem:?}"
        );
        match answer.route() {
            Some(route) => assert_is_a_plan(&problem, Objective::Any, route, seed),
            None => assert_eq!(answer, Answer::Infeasible, "seed {seed}"),
        }
    }
}

#[test]
fn a_bound_is_never_above_the_optimum_and_a_plan_never_below_it_however_small_the_budget() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(1_000_000 + seed);
        let problem = random::problem(&mut dice);
        let objective = objective(&mut dice);
        let best_ns = brute_force::best_ns(&problem, objective);
        let whole = solved(&problem, objective, AMPLE);
        let every = (whole.steps / 40).max(1);
        for steps in (0..=whole.steps).step_by(usize::try_from(every).expect("small")) {
            let part = solved(&problem, objective, Budget { steps, seed });
            assert!(part.steps <= steps, "seed {seed}: {} of {steps} steps", part.steps);
            assert!(
                part.answer.bound_ns() <= best_ns.unwrap_or(NEVER_NS),
                "seed {seed}, {steps} steps: {part:?}"
            );
            match &part.answer {
                Answer::Optimal(route) => assert_eq!(Some(route.cost_ns), best_ns, "seed {seed}, {steps} steps"),
                Answer::Infeasible => assert_eq!(best_ns, None, "seed {seed}, {steps} steps"),
                Answer::Feasible { route, .. } => assert!(Some(route.cost_ns) >= best_ns, "seed {seed}"),
                Answer::Exhausted { .. } => {}
            }
            part.answer
                .route()
                .iter()
                .for_each(|route| assert_is_a_plan(&problem, objective, route, seed));
        }
    }
}

#[test]
fn the_order_in_which_units_are_named_does_not_change_the_cost() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(2_000_000 + seed);
        let problem = random::problem(&mut dice);
        let objective = objective(&mut dice);
        let mut order: Vec<usize> = (0..problem.units.len()).collect();
        for i in 0..order.len() {
            order.swap(i, dice.index(i, problem.units.len() - 1));
        }
        let renamed = renamed(&problem, &order);
        let cost_ns = |p: &Problem| solved(p, objective, AMPLE).answer.route().map(|route| route.cost_ns);
        assert_eq!(cost_ns(&problem), cost_ns(&renamed), "seed {seed}: {problem:?}");
    }
}

fn renamed(problem: &Problem, order: &[usize]) -> Problem {
    let table = |table: &[Vec<u64>]| {
        let row = |from: &usize| order.iter().map(|to| table[*from][*to]).collect();
        order.iter().map(row).collect::<Vec<Vec<u64>>>()
    };
    let unit = |old: &usize| {
        let excluded = order
            .iter()
            .enumerate()
            .filter(|(_, other)| problem.units[*old].excludes >> *other & 1 == 1);
        Unit {
            excludes: excluded.fold(0, |set, (new, _)| set | 1 << new),
            ..problem.units[*old].clone()
        }
    };
    let set = |old: u64| {
        let members = order.iter().enumerate().filter(|(_, other)| old >> *other & 1 == 1);
        members.fold(0, |set, (new, _)| set | 1 << new)
    };
    Problem {
        needed: problem.needed.iter().map(|needed| set(*needed)).collect(),
        forbidden: problem.forbidden.map(set),
        units: order.iter().map(unit).collect(),
        way_ns: table(&problem.way_ns),
        carry_ns: table(&problem.carry_ns),
        ..problem.clone()
    }
}

#[test]
fn one_more_unit_or_more_room_never_makes_the_best_plan_worse() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(3_000_000 + seed);
        let mut problem = random::problem(&mut dice);
        let objective = objective(&mut dice);
        let cost_ns = |p: &Problem| {
            solved(p, objective, AMPLE)
                .answer
                .route()
                .map_or(NEVER_NS, |route| route.cost_ns)
        };
        let all_ns = cost_ns(&problem);
        let roomier = dice.index(0, problem.units.len() - 1);
        let mut larger = problem.clone();
        for end in &mut larger.units[roomier].reach {
            *end = problem.layers.min(*end + 1);
        }
        assert!(cost_ns(&larger) <= all_ns, "seed {seed}: {problem:?}");
        problem.units.pop();
        problem.way_ns.pop();
        problem.carry_ns.pop();
        for table in [&mut problem.way_ns, &mut problem.carry_ns] {
            table.iter_mut().for_each(|row| row.truncate(problem.units.len()));
        }
        if !problem.units.is_empty() {
            assert!(all_ns <= cost_ns(&problem), "seed {seed}: {problem:?}");
        }
    }
}

#[test]
fn the_same_budget_and_seed_give_the_same_answer() {
    for instance in instances::all().iter().filter(|i| i.units() == 24).step_by(4) {
        let budget = Budget { steps: 60_000, seed: 7 };
        let answer = || solved(&instance.problem, Objective::LATENCY, budget);
        assert_eq!(answer(), answer(), "{}", instance.name);
    }
}

/// Every instance of up to sixteen units, each of which other solvers have proved too. Bounds, prices and the order of the search
/// are right whatever they do; how good they are shows only in the steps: a tenth more than they take is allowed.
#[test]
fn instances_of_up_to_sixteen_units_are_proved_optimal_in_as_few_steps_as_ever() {
    let all = instances::all();
    for (units, count, most_steps) in [(8, 45, 26_000), (12, 45, 257_000), (16, 45, 1_360_000)] {
        let mut steps = 0;
        let of_size: Vec<_> = all.iter().filter(|i| i.units() == units).collect();
        assert_eq!(of_size.len(), count);
        for instance in of_size {
            assert!(instance.is_proved, "{}", instance.name);
            let budget = Budget {
                steps: 4_000_000,
                seed: 0,
            };
            let solved = solved(&instance.problem, Objective::LATENCY, budget);
            let Answer::Optimal(route) = &solved.answer else {
                panic!("{}: {solved:?}", instance.name);
            };
            assert_eq!(Some(route.cost_ns), instance.best_known, "{}", instance.name);
            assert_is_a_plan(&instance.problem, Objective::LATENCY, route, 0);
            steps += solved.steps;
        }
        assert!(steps <= most_steps, "{steps} steps for {units} units");
    }
}

#[test]
fn larger_instances_are_as_near_to_the_best_known_plan_as_the_bound_says() {
    for instance in instances::all().iter().filter(|i| i.units() > 16) {
        let budget = Budget {
            steps: 150_000,
            seed: 0,
        };
        let answer = solved(&instance.problem, Objective::LATENCY, budget).answer;
        let route = answer
            .route()
            .unwrap_or_else(|| panic!("{}: {answer:?}", instance.name));
        assert_is_a_plan(&instance.problem, Objective::LATENCY, route, 0);
        if let Some(best_known) = instance.best_known {
            assert!(answer.bound_ns() <= best_known, "{}: {answer:?}", instance.name);
            assert!(
                !instance.is_proved || route.cost_ns >= best_known,
                "{}: {answer:?}",
                instance.name
            );
        }
    }
}

#[test]
fn tables_of_another_form_are_refused() {
    let problem = |units: usize| Problem {
        layers: 2,
        units: vec![Unit::uniform(2, 1, 1); units],
        way_ns: vec![vec![1; units]; units],
        carry_ns: vec![vec![1; units]; units],
        cuts: vec![1],
        min_stages: 1,
        max_stages: units,
        needed: Vec::new(),
        forbidden: None,
        below_ns: NEVER_NS,
    };
    let refused = |problem: &Problem| solve(problem, Objective::LATENCY, AMPLE).err();
    assert_eq!(refused(&problem(64)), None);
    assert_eq!(refused(&problem(65)), Some(Refused::TooManyUnits { units: 65 }));
    let changed = |change: fn(&mut Problem)| {
        let mut problem = problem(2);
        change(&mut problem);
        refused(&problem)
    };
    assert_eq!(changed(|p| p.way_ns.truncate(1)), Some(Refused::Shape));
    assert_eq!(
        changed(|p| p.units[1].reach = vec![2, 1]),
        Some(Refused::NotMonotone { unit: 1 })
    );
    assert_eq!(
        changed(|p| p.units[0].earliest = vec![1, 1]),
        Some(Refused::NotMonotone { unit: 0 })
    );
    assert_eq!(changed(|p| p.cuts = vec![3]), Some(Refused::Cuts));
    assert_eq!(changed(|p| p.units[0].entry_ns = u64::MAX), Some(Refused::TooLarge));
    assert_eq!(changed(|p| p.units[0].launch_ns = 1 << 56), Some(Refused::TooLarge));
}

#[test]
fn a_problem_without_units_or_layers_has_no_plan() {
    let nothing = Problem {
        layers: 0,
        units: Vec::new(),
        way_ns: Vec::new(),
        carry_ns: Vec::new(),
        cuts: Vec::new(),
        min_stages: 1,
        max_stages: 1,
        needed: Vec::new(),
        forbidden: None,
        below_ns: NEVER_NS,
    };
    assert_eq!(solved(&nothing, Objective::LATENCY, AMPLE).answer, Answer::Infeasible);
    let layers = Problem { layers: 3, ..nothing };
    assert_eq!(solved(&layers, Objective::LATENCY, AMPLE).answer, Answer::Infeasible);
    assert_eq!(solved(&layers, Objective::Bottleneck, AMPLE).answer, Answer::Infeasible);
}
