//! PURE: looks ahead of a model that serves: what takes its place when a node is lost, and whether another placement is better.
//!
//! Of several replicas each is looked at by itself, beside the others as they are; where that finds nothing, all of them together, as
//! if none was placed.

use std::collections::BTreeSet;

use placement::{Plan, Problem, check_fleet, evaluate, explain, time_ns};

use super::planned::{is_beside, propose};
use super::search::{soon_fleet, trial_of};
use super::{Asked, Decided, Own, Question, place};
use crate::model::facts::Facts;
use crate::model::gain;
use crate::model::in_force::InForce;
use crate::model::moving::Cause;
use crate::model::standby::{LOSSES_MAX, Loss};
use crate::model::term::ModelState;
use crate::model::{replicas, translate};

/// Whether it is time to look at losses to come, and at better places.
pub(super) fn due(asked: &Asked<'_>, present: &InForce, state: &ModelState) -> (bool, bool) {
    let (world, now) = (asked.world, asked.world.now);
    let losses = state.standby.is_due(present.placement.epoch, now);
    // What is held is to stay, better places or not.
    let is_held = world.kept.contains_key(asked.uid());
    let places = !is_held && state.moving.gain.is_due(world.threshold, now) && state.moving.rests(now).is_none();
    (losses, places)
}

/// Numbers of the pipelines that there are.
fn numbers(present: &InForce) -> Vec<usize> {
    let pipelines = present.pipelines().iter().enumerate();
    let there = pipelines.filter(|(_, pipeline)| !pipeline.stages.is_empty());
    there.map(|(number, _)| number).collect()
}

/// What would be better.
struct Better {
    /// Less time of what the objective names, by so much.
    percent: u32,
    /// Pipelines that stay as they are.
    going_on: Vec<usize>,
    plans: Vec<Plan>,
}

/// Looks whether another placement is better by far, and has been for long enough.
pub(super) fn better(asked: &Asked<'_>, facts: &Facts, present: &InForce, state: &mut ModelState) -> Option<Decided> {
    let (world, threshold) = (asked.world, asked.world.threshold);
    let found = best(asked, facts, present, threshold.percent);
    let percent = found.as_ref().map(|found| found.percent);
    let lasts = state.moving.gain.look(percent, threshold, world.now);
    let Better { going_on, plans, .. } = found.filter(|_| lasts)?;
    let next = of(asked, present, (&going_on, &plans), (state, 0))?;
    is_beside(asked, present, &next).then(|| propose(asked, present, next, Cause::Gain, state))
}

/// The best move of one pipeline; where that is not worth it, of all together.
fn best(asked: &Asked<'_>, facts: &Facts, present: &InForce, worth_percent: u32) -> Option<Better> {
    let numbers = numbers(present);
    // As they do by what is known today.
    let now = problem(asked, facts, Of::Present(present))?;
    let plans = translate::plans(present);
    let plans: Vec<Plan> = numbers
        .iter()
        .map(|number| evaluate(&now, &plans[*number]))
        .collect::<Option<_>>()?;
    let alone = |(at, plan): (usize, &Plan)| {
        let mut going_on = numbers.clone();
        going_on.remove(at);
        let beside = replicas::own(asked.known, present, &going_on);
        // As if nothing of it were loaded: what is better in the long run may be elsewhere altogether.
        let problem = problem(asked, facts, Of::New(&beside))?;
        let found = trial_of(&problem, numbers.len())?.plan;
        let new_ns = time_ns(&problem, std::slice::from_ref(&found));
        Some(Better {
            percent: gain::percent(time_ns(&now, std::slice::from_ref(plan)), new_ns)?,
            going_on,
            plans: vec![found],
        })
    };
    let mut moves: Vec<Better> = plans.iter().enumerate().filter_map(alone).collect();
    // Of moves that are worth as much, the first.
    moves.sort_by_key(|better| std::cmp::Reverse(better.percent));
    let best = moves.into_iter().next();
    if numbers.len() == 1 || best.as_ref().is_some_and(|best| best.percent >= worth_percent) {
        return best;
    }
    together(asked, facts, present, time_ns(&now, &plans)).or(best)
}

/// All replicas, as if none was placed.
fn together(asked: &Asked<'_>, facts: &Facts, present: &InForce, now_ns: u64) -> Option<Better> {
    let problem = problem(asked, facts, Of::New(&Own::default()))?;
    let replicas = asked.known.validated.replicas;
    let mut plans = soon_fleet(&problem, replicas).ok()?.plans;
    if plans.len() < replicas as usize || !check_fleet(&problem, &plans).is_empty() {
        return None;
    }
    let percent = gain::percent(now_ns, time_ns(&problem, &plans))?;
    let mut going_on = numbers(present);
    // What is the same again stays what it is.
    going_on.retain(|number| {
        let same = plans
            .iter()
            .position(|plan| replicas::is_plan_of(plan, present, *number));
        same.map(|at| plans.remove(at)).is_some()
    });
    Some(Better {
        percent,
        going_on,
        plans,
    })
}

/// Works out what takes the placement's place when one of its nodes is lost.
pub(super) fn stand_by(asked: &Asked<'_>, facts: &Facts, present: &InForce, state: &mut ModelState) {
    let (world, epoch) = (asked.world, present.placement.epoch);
    let nodes: BTreeSet<&str> = present.nodes().collect();
    // The first of the epochs to come is a move's.
    let losses = nodes
        .iter()
        .take(LOSSES_MAX)
        .zip(1..)
        .map(|(node, ahead)| after_loss(asked, facts, present, node, (state, ahead)));
    let losses = losses.collect();
    let others = nodes.len().saturating_sub(LOSSES_MAX);
    state.standby.look(epoch, losses, others, world.now);
}

/// The placement without a node: pipelines that are not on it go on, and the others are decided anew beside them.
fn after_loss(
    asked: &Asked<'_>,
    facts: &Facts,
    present: &InForce,
    node: &str,
    (state, ahead): (&ModelState, u64),
) -> Loss {
    let all = numbers(present).len();
    let is_on = |number: &usize| {
        present.pipelines()[*number]
            .stages
            .iter()
            .any(|stage| stage.node == node)
    };
    let going_on: Vec<usize> = numbers(present).into_iter().filter(|number| !is_on(number)).collect();
    let left = |fit: usize, why: &str| match fit {
        0 => format!("is not survived: {why}"),
        fit => format!("leaves {fit} of {all} replicas: {why}"),
    };
    let loss = |next: Option<InForce>, lacks: Option<String>| Loss {
        node: node.to_owned(),
        next,
        lacks,
    };
    let beside = replicas::own(asked.known, present, &going_on);
    let Some(mut problem) = problem(asked, facts, Of::New(&beside)) else {
        return loss(None, Some(left(0, "the model's figures cannot be used")));
    };
    problem.topology.devices.retain(|device| device.node != node);
    let affected = numbers(present).into_iter().filter(is_on);
    let stages = affected.flat_map(|number| &present.pipelines()[number].stages);
    let stages = stages.filter(|stage| stage.node != node);
    problem.held = stages.map(translate::held_layers).collect();
    let missing = u32::try_from(all - going_on.len()).unwrap_or(u32::MAX);
    let fleet = match soon_fleet(&problem, missing) {
        Ok(fleet) => fleet,
        Err(none) => {
            let why = explain(&problem, &none).message;
            return loss(None, Some(left(going_on.len(), &why)));
        }
    };
    let short = fleet.short.as_ref();
    let fit = going_on.len() + fleet.plans.len();
    let lacks = short.map(|short| left(fit, &short.next.message));
    match of(asked, present, (&going_on, &fleet.plans), (state, ahead)) {
        Some(next) => loss(Some(next), lacks),
        None => loss(None, Some(left(0, "the placement cannot be signed"))),
    }
}

/// A placement of pipelines that stay as they are and of new ones.
fn of(
    asked: &Asked<'_>,
    present: &InForce,
    (going_on, plans): (&[usize], &[Plan]),
    state: (&ModelState, u64),
) -> Option<InForce> {
    let kept = (!going_on.is_empty()).then_some(present);
    place(asked, (&replicas::arrange(going_on, plans), plans), kept, None, state).new_in_force
}

/// Of what a problem is.
#[derive(Clone, Copy)]
enum Of<'a> {
    /// How a placement in force does on its own devices.
    Present(&'a InForce),
    /// On all devices, beside pipelines that go on.
    New(&'a Own),
}

fn problem(asked: &Asked<'_>, facts: &Facts, of: Of<'_>) -> Option<Problem> {
    let (devices, own) = match of {
        Of::Present(present) => (Some(present.devices()), None),
        Of::New(own) => (None, Some(own)),
    };
    let topology = asked.world.topology(&Question {
        uid: asked.uid(),
        among: devices.as_deref(),
        failing: asked.failing,
        freed: &[],
        own,
        facts: own.map(|_| facts),
        may_group: translate::may_group(asked.known.validated, facts),
        in_force: own.is_none(),
    });
    let topology = translate::counted(topology, asked.known.validated, facts, &asked.world.paces);
    let known = asked.known;
    translate::problem("", known.validated, facts, known.learned.as_ref(), topology).ok()
}
