//! What the solver promises of a plan, and what comes about when the plan is at work.

#[allow(dead_code, reason = "each program that needs problems uses a part")]
#[path = "oracle/problems.rs"]
mod problems;

use placement::{Budget, Objective, Plan, Problem, Simulated, Workload, simulate, solve};
use proptest::{prelude::*, test_runner::RngSeed};

/// Enough streams that every part of a small plan could always be at work.
const MANY: u32 = 64;
/// Filling and draining the stages takes no more of so many tokens than the tolerance.
const TOKENS: u32 = 200;

/// Of the predicted throughput; among twenty thousand random plans none had less than 99.5, stages on one memory included.
const REACHED_PERCENT: u64 = 99;

fn planned(problem: &Problem, objective: Objective) -> Option<Plan> {
    let problem = Problem {
        objective,
        ..problem.clone()
    };
    Some(solve(&problem, Budget::default()).ok()?.plan)
}

fn at_work(problem: &Problem, plan: &Plan, streams: u32) -> Simulated {
    let workload = Workload {
        streams,
        batch_streams: 1,
        tokens_per_stream: TOKENS,
        prompt: None,
    };
    simulate(problem, plan, &workload).expect("a plan of this problem")
}

/// Predicted, in tokens of a million seconds.
fn predicted(plan: &Plan) -> u64 {
    1_000_000_000_000_000 / plan.slowest_ns
}

/// Problems where nothing is held: what moves comes before time.
fn placed_anew() -> impl Strategy<Value = Problem> {
    problems::small().prop_map(|problem| Problem {
        held: Vec::new(),
        ..problem
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn one_stream_takes_for_each_token_exactly_what_was_predicted(problem in placed_anew()) {
        for objective in [Objective::Latency, Objective::Throughput] {
            let Some(plan) = planned(&problem, objective) else { return Ok(()) };
            let alone = at_work(&problem, &plan, 1);
            prop_assert_eq!((alone.mean_latency_ns, alone.p99_latency_ns), (plan.latency_ns, plan.latency_ns));
        }
    }

    #[test]
    fn many_streams_reach_the_predicted_throughput_and_never_exceed_it(problem in placed_anew()) {
        for objective in [Objective::Latency, Objective::Throughput] {
            let Some(plan) = planned(&problem, objective) else { return Ok(()) };
            for streams in [1, 3, MANY] {
                let rate = at_work(&problem, &plan, streams).tokens_per_megasecond();
                prop_assert!(rate <= predicted(&plan), "{} of {} with {streams}\n{plan}", rate, predicted(&plan));
            }
            let rate = at_work(&problem, &plan, MANY).tokens_per_megasecond();
            let least = predicted(&plan) * REACHED_PERCENT / 100;
            prop_assert!(rate >= least, "{} of {}\n{plan}", rate, predicted(&plan));
        }
    }

    #[test]
    fn a_plan_whose_slowest_part_is_faster_yields_more_with_many_streams(problem in placed_anew()) {
        let Some(quick) = planned(&problem, Objective::Latency) else { return Ok(()) };
        let Some(wide) = planned(&problem, Objective::Throughput) else { return Ok(()) };
        prop_assert!(wide.slowest_ns <= quick.slowest_ns);
        let rate = |plan: &Plan| at_work(&problem, plan, MANY).tokens_per_megasecond();
        let least = rate(&quick) * REACHED_PERCENT / 100;
        prop_assert!(rate(&wide) >= least, "{} against {}\n{wide}{quick}", rate(&wide), rate(&quick));
    }

    #[test]
    fn with_one_stream_nothing_yields_more_than_the_plan_for_latency(problem in placed_anew()) {
        let Some(quick) = planned(&problem, Objective::Latency) else { return Ok(()) };
        let Some(wide) = planned(&problem, Objective::Throughput) else { return Ok(()) };
        let rate = |plan: &Plan| at_work(&problem, plan, 1).tokens_per_megasecond();
        prop_assert!(rate(&quick) >= rate(&wide));
        if let Ok(solution) = solve(&problem, Budget::default())
            && let Some(other) = &solution.runner_up
        {
            prop_assert!(rate(&quick) >= rate(&other.plan));
        }
    }
}

/// The case that pays: where the slowest part is halved, twice the tokens come out.
#[test]
fn a_win_in_the_objective_is_a_win_at_work() {
    let problem = problems::many_devices(12, 40);
    let quick = planned(&problem, Objective::Latency).expect("a plan");
    let wide = planned(&problem, Objective::Throughput).expect("a plan");
    let rate = |plan: &Plan| at_work(&problem, plan, MANY).tokens_per_megasecond();
    let predicted_percent = quick.slowest_ns * 100 / wide.slowest_ns;
    let reached_percent = rate(&wide) * 100 / rate(&quick);
    assert!(predicted_percent > 150, "{predicted_percent}\n{quick}{wide}");
    assert!(
        reached_percent.abs_diff(predicted_percent) <= 3,
        "{reached_percent} of {predicted_percent}"
    );
}
