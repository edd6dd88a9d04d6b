//! A decision as text.

use std::fmt::Write as _;

use topology::Origin;

use super::Show;
use crate::{
    Budget, Fleet, HeldLayers, Plan, Problem, Workload, check_fleet, explain, front, scores, simulate, solve_fleet,
    text,
};

/// Tokens of each simulated stream: enough for queues to settle.
const TOKENS_PER_STREAM: u32 = 64;

/// Memory pools that are listed; the rest are counted.
const MAX_POOLS: usize = 16;

/// Sets of devices that work as one that are listed.
const MAX_GROUPS: usize = 8;

/// Streams that are simulated at most.
const MAX_STREAMS: u32 = 1024;

pub(super) fn answer(problem: &Problem, replicas: u32, budget: Budget, show: &Show) -> String {
    let mut answer = format!("{}: {} layers\n", problem.model.name, problem.model.layers.len());
    let pools = &problem.topology.pools;
    for pool in pools.iter().take(MAX_POOLS) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            answer,
            "memory {}: {} usable",
            pool.name,
            text::bytes(pool.usable_bytes)
        );
    }
    if let Some(more) = pools.len().checked_sub(MAX_POOLS).filter(|more| *more > 0) {
        let _ = writeln!(answer, "memory: and {more} more");
    }
    let groups = problem.topology.devices.iter().filter(|device| device.is_group());
    for group in groups.take(MAX_GROUPS) {
        let _ = writeln!(
            answer,
            "as one {}: {} usable",
            group.name,
            text::bytes(group.usable_bytes)
        );
    }
    if show.scores {
        tell_scores(problem, &mut answer);
    }
    match solve_fleet(problem, replicas, budget) {
        Ok(fleet) => tell_fleet(problem, &fleet, replicas, show, &mut answer),
        Err(infeasible) => {
            let explanation = explain(problem, &infeasible);
            let _ = writeln!(answer, "no plan: {}: {}", explanation.reason, explanation.message);
        }
    }
    tell_front(problem, budget, show, &mut answer);
    answer
}

fn tell_fleet(problem: &Problem, fleet: &Fleet, replicas: u32, show: &Show, answer: &mut String) {
    for (replica, plan) in fleet.plans.iter().enumerate() {
        if replicas > 1 {
            let _ = writeln!(answer, "replica {replica}");
        }
        let _ = write!(answer, "{plan}");
    }
    match fleet.shortage() {
        Some(shortage) => {
            let _ = writeln!(answer, "{shortage}");
        }
        None if replicas > 1 => {
            let mean_us = text::us(fleet.mean_latency_ns());
            let _ = writeln!(answer, "{replicas} replicas, one token {mean_us} us on average");
        }
        None => {}
    }
    let _ = writeln!(answer, "verdict: {}", fleet.verdict);
    for device in fleet.plans.iter().flat_map(|plan| unmeasured(problem, plan)) {
        let _ = writeln!(
            answer,
            "prior: the speed of {device} is from a table and was never measured"
        );
    }
    for head in fleet.plans.iter().filter_map(|plan| plan.stages.first()) {
        let entries = &problem.topology.entry_us;
        if !entries.is_empty() && !entries.contains_key(&head.node) {
            let _ = writeln!(
                answer,
                "entry unknown: the way from the gateway to {} counts as nothing",
                head.node
            );
        }
    }
    if let Some(other) = &fleet.runner_up {
        let _ = writeln!(answer, "runner-up: {}", other.summary());
    }
    for plan in &fleet.plans {
        tell_moves(problem, plan, answer);
        tell_work(problem, plan, show, answer);
    }
    for violation in check_fleet(problem, &fleet.plans) {
        let _ = writeln!(answer, "VIOLATION: {violation}");
    }
}

/// Devices of a plan whose predicted times rest on what their maker promises.
fn unmeasured<'p>(problem: &Problem, plan: &'p Plan) -> impl Iterator<Item = &'p str> {
    let stages = plan.stages.iter().map(|stage| stage.device.as_str());
    stages.filter(|name| {
        let device = problem.topology.device(name);
        device.is_some_and(|device| device.bandwidth.origin == Origin::Prior)
    })
}

fn tell_scores(problem: &Problem, answer: &mut String) {
    for score in scores(problem) {
        let part = |part: Option<u8>| part.map_or("unknown".to_owned(), |part| part.to_string());
        let [compute, fit, network, thermal, bandwidth] = score.parts().map(part);
        let _ = writeln!(
            answer,
            "score {}: {}.{:02} (compute {compute}, memory fit {fit}, network {network}, thermal {thermal}, bandwidth {bandwidth})",
            score.device,
            score.total_hundredths / 100,
            score.total_hundredths % 100,
        );
    }
}

/// What the plan has devices load that they do not hold, where anything is held.
fn tell_moves(problem: &Problem, plan: &Plan, answer: &mut String) {
    if problem.held.is_empty() {
        return;
    }
    let missing = |stage: &crate::Stage| {
        let (first, end) = (stage.first_layer, stage.end_layer);
        HeldLayers::missing_bytes(&problem.held, &problem.model, &stage.device, first, end)
    };
    let mut moved_bytes = 0_u64;
    for stage in &plan.stages {
        let bytes = missing(stage);
        moved_bytes = moved_bytes.saturating_add(bytes);
        if bytes > 0 {
            let _ = writeln!(answer, "moves: {} to {}", text::bytes(bytes), stage.device);
        }
    }
    let _ = writeln!(answer, "moves in all: {}", text::bytes(moved_bytes));
}

fn tell_work(problem: &Problem, plan: &Plan, show: &Show, answer: &mut String) {
    for streams in &show.streams {
        let workload = Workload {
            streams: (*streams).min(MAX_STREAMS),
            batch_streams: 1,
            tokens_per_stream: TOKENS_PER_STREAM,
            prompt: None,
        };
        let Some(simulated) = simulate(problem, plan, &workload) else {
            continue;
        };
        let busy = simulated.stage_busy_permille.iter().map(|busy| (busy / 10).to_string());
        let _ = writeln!(
            answer,
            "at work, {} streams: {} tokens in 1000 s, {} us each (p99 {} us), stages busy {} %",
            workload.streams,
            simulated.tokens_per_megasecond() / 1000,
            text::us(simulated.mean_latency_ns),
            text::us(simulated.p99_latency_ns),
            busy.collect::<Vec<_>>().join(" "),
        );
    }
}

fn tell_front(problem: &Problem, budget: Budget, show: &Show, answer: &mut String) {
    if show.front == 0 {
        return;
    }
    for solution in front(problem, show.front, budget).unwrap_or_default() {
        let plan = &solution.plan;
        let _ = writeln!(
            answer,
            "front: {} us per token, slowest part {} us, {} stages, {}",
            text::us(plan.latency_ns),
            text::us(plan.slowest_ns),
            plan.stages.len(),
            solution.verdict,
        );
    }
}
