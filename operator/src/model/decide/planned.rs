//! PURE: a model that serves is moved while it serves, where there is room for both: see [`crate::model::moving`].

use std::collections::BTreeSet;

use crds::conditions::reason;
use placement::{Problem, evaluate, explain};

use super::search::{soon, trial};
use super::{Ahead, Asked, Decided, Question, anew, answers, place};
use crate::model::facts::Facts;
use crate::model::gain;
use crate::model::in_force::InForce;
use crate::model::moving::{Cause, Proposal, Verdict, fits_beside};
use crate::model::replicas;
use crate::model::standby::{LOSSES_MAX, Loss};
use crate::model::status::{Placed, Why};
use crate::model::term::ModelState;
use crate::model::{sign, stages, translate};

/// Decides for a model. `answering`: the placement in force, if it is of the weights and the runtime that the spec asks for.
pub(super) fn decide(asked: &Asked<'_>, answering: Option<&InForce>, state: &mut ModelState) -> Decided {
    state.moving.heed(asked.model.metadata.generation);
    let Some(present) = state.in_force.clone() else {
        state.moving.proposal = None;
        state.standby.forget();
        return anew(asked, None, false, state);
    };
    let serves = stages::look(&present, asked.world.agents)
        .iter()
        .all(stages::StageSight::serves);
    let cause = cause(asked, answering);
    if let Some(proposal) = state.moving.proposal.take() {
        let wanted = cause.is_some() || proposal.cause == Cause::Gain;
        // What is loaded already need not wait for what was lost; what is not is worth nothing then.
        if wanted && (serves || is_loaded(asked, &proposal)) && stands(asked, &proposal.next) {
            return follow(asked, &present, proposal, state);
        }
    }
    if !serves {
        state.standby.forget();
        return anew(asked, answering, false, state);
    }
    match cause {
        Some(Cause::Leaving) => {
            let elsewhere = anew(asked, answering, true, state);
            match moves(&elsewhere, &present) && elsewhere.placed == Placed::Yes {
                true => soften(asked, &present, elsewhere, Cause::Leaving, state),
                false => stuck(asked, &present),
            }
        }
        Some(cause) => {
            let decided = anew(asked, answering, false, state);
            soften(asked, &present, decided, cause, state)
        }
        None => stay(asked, &present, state),
    }
}

/// Why the placement in force should not stay, if so.
fn cause(asked: &Asked<'_>, answering: Option<&InForce>) -> Option<Cause> {
    let complete = answering.filter(|in_force| is_complete(asked, in_force));
    match complete {
        None => Some(Cause::Required),
        Some(in_force) => leaves(asked, in_force).then_some(Cause::Leaving),
    }
}

/// Every pipeline that is asked for goes on.
fn is_complete(asked: &Asked<'_>, in_force: &InForce) -> bool {
    let going_on = replicas::going_on(asked.world, asked.known, in_force, asked.failing);
    replicas::is_complete(in_force, &going_on, asked.known.validated.replicas)
}

/// A node of the placement is about to leave.
fn leaves(asked: &Asked<'_>, in_force: &InForce) -> bool {
    in_force.nodes().any(|node| asked.world.leaving.contains(node))
}

fn is_answering(asked: &Asked<'_>, in_force: &InForce) -> bool {
    let known = asked.known;
    answers(
        in_force,
        &asked.model.spec.source,
        &known.validated.runtime,
        known.facts,
    )
}

/// Whether a proposal is still what it was made for.
fn stands(asked: &Asked<'_>, next: &InForce) -> bool {
    is_answering(asked, next) && !leaves(asked, next) && is_complete(asked, next)
}

fn is_loaded(asked: &Asked<'_>, proposal: &Proposal) -> bool {
    let sights = stages::look(&proposal.next, asked.world.agents);
    proposal.judge(&sights, asked.world.now) == Verdict::CutOver
}

/// Whether other stages are to be in force.
fn moves(decided: &Decided, present: &InForce) -> bool {
    let next = decided.new_in_force.as_ref();
    next.is_some_and(|next| next.stages() != present.stages())
}

/// What would be in force at once is proposed instead, where there is room for both.
fn soften(asked: &Asked<'_>, present: &InForce, decided: Decided, cause: Cause, state: &mut ModelState) -> Decided {
    if !moves(&decided, present) {
        return decided;
    }
    if let Some(why) = state.moving.rests(asked.world.now) {
        return rested(asked, present, why);
    }
    match decided.new_in_force {
        Some(next) if is_beside(asked, present, &next) => propose(asked, present, next, cause, state),
        _ => decided,
    }
}

/// The last move was rolled back, and what serves goes on for a while.
fn rested(asked: &Asked<'_>, present: &InForce, why: &str) -> Decided {
    if is_answering(asked, present) {
        return asked
            .refreshed(present)
            .noted(format!("the last move was rolled back: {why}"));
    }
    let message = format!("what is asked for could not be loaded and is tried again later: {why}");
    Decided::no(Why::new(reason::MOVE_ROLLED_BACK, message))
}

fn stuck(asked: &Asked<'_>, present: &InForce) -> Decided {
    let leaving = |node: &&str| asked.world.leaving.contains(*node);
    let nodes: BTreeSet<&str> = present.nodes().filter(leaving).collect();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let note = format!("{} wants to leave and nothing else has room", nodes.join(", "));
    asked.refreshed(present).noted(note)
}

/// Looks after a proposal that is being loaded.
fn follow(asked: &Asked<'_>, present: &InForce, proposal: Proposal, state: &mut ModelState) -> Decided {
    let world = asked.world;
    let sights = stages::look(&proposal.next, world.agents);
    match proposal.judge(&sights, world.now) {
        Verdict::CutOver => {
            let nodes: Vec<&str> = proposal.next.nodes().collect();
            let least = state.next_epoch(asked.uid(), world.agents, nodes);
            let next = match least.checked_sub(proposal.next.placement.epoch) {
                // Some node has accepted more meanwhile: the same stages under a higher epoch.
                Some(1..) => sign::raise(asked.signer, &proposal.next, least, world.now_unix_s),
                _ => proposal.next.clone(),
            };
            // Until it is in status it is not in force, and may have to be offered again.
            state.moving.proposal = Some(proposal);
            Decided::new(next)
        }
        Verdict::RollBack { cause } => {
            tracing::warn!(model_uid = asked.uid(), %cause, "a move is rolled back");
            let decided = rested(asked, present, &cause);
            state.moving.rolled_back(cause, world.now);
            decided
        }
        Verdict::Wait { loaded } => {
            let stages = proposal.next.stages().len();
            let note = format!(
                "moves to {}: {loaded} of {stages} stages are loaded",
                devices(&proposal.next)
            );
            state.moving.proposal = Some(proposal);
            moving(asked, present, note, state)
        }
    }
}

/// Nothing calls for a move: what a loss would ask for is prepared, and better places are looked for.
fn stay(asked: &Asked<'_>, present: &InForce, state: &mut ModelState) -> Decided {
    let stays = asked.refreshed(present);
    // A renewal first: what is proposed has an epoch above it.
    let Some(facts) = asked.known.facts.filter(|_| stays.new_in_force.is_none()) else {
        return stays;
    };
    let (losses, places) = looks_due(asked, present, state);
    let ahead = match asked.world.leisure {
        _ if !losses && !places => Ahead::Nothing,
        true => Ahead::Looked,
        false => Ahead::Due,
    };
    if losses && ahead == Ahead::Looked {
        stand_by(asked, facts, present, state);
    }
    let decided = match state.moving.rests(asked.world.now) {
        Some(why) => rested(asked, present, why),
        None if places && ahead == Ahead::Looked => better(asked, facts, present, state).unwrap_or(stays),
        None => stays,
    };
    Decided { ahead, ..decided }
}

/// Whether it is time to look at losses to come, and at better places. Of one pipeline alone: several are left as they are, and of
/// several the others go on by themselves.
fn looks_due(asked: &Asked<'_>, present: &InForce, state: &ModelState) -> (bool, bool) {
    let (world, now) = (asked.world, asked.world.now);
    let is_one = asked.known.validated.replicas == 1;
    let losses = state.standby.is_due(present.placement.epoch, now);
    // What is held is to stay, better places or not.
    let is_held = world.kept.contains_key(asked.uid());
    let places = !is_held && state.moving.gain.is_due(world.threshold, now) && state.moving.rests(now).is_none();
    (is_one && losses, is_one && places)
}

/// Looks whether another placement is better by far, and has been for long enough.
fn better(asked: &Asked<'_>, facts: &Facts, present: &InForce, state: &mut ModelState) -> Option<Decided> {
    let (world, known, threshold) = (asked.world, asked.known, asked.world.threshold);
    let plan = translate::plans(present).pop();
    // As if nothing were loaded: what is better in the long run may be elsewhere altogether.
    let found = problem(asked, facts, None).and_then(|problem| trial(&problem));
    let percent = found.as_ref().and_then(|found| {
        let present = evaluate(&problem(asked, facts, Some(present))?, &plan?)?;
        gain::percent(known.validated.objective, &present, &found.plan)
    });
    let lasts = state.moving.gain.look(percent, threshold, world.now);
    let found = found.filter(|_| lasts)?;
    let plans = [found.plan];
    let next = place(asked, (&replicas::arrange(&[], &plans), &plans), None, None, (state, 0)).new_in_force?;
    is_beside(asked, present, &next).then(|| propose(asked, present, next, Cause::Gain, state))
}

/// What is to be decided on all devices, or how what is `in_force` does on its own.
fn problem(asked: &Asked<'_>, facts: &Facts, in_force: Option<&InForce>) -> Option<Problem> {
    let devices = in_force.map(InForce::devices);
    let topology = asked.world.topology(&Question {
        uid: asked.uid(),
        among: devices.as_deref(),
        failing: asked.failing,
        freed: &[],
        own: None,
        facts: in_force.is_none().then_some(facts),
        in_force: in_force.is_some(),
    });
    let topology = translate::counted(topology, asked.known.validated, facts, &asked.world.paces);
    let known = asked.known;
    translate::problem("", known.validated, facts, known.learned.as_ref(), topology).ok()
}

/// Works out what takes the placement's place when one of its nodes is lost.
fn stand_by(asked: &Asked<'_>, facts: &Facts, present: &InForce, state: &mut ModelState) {
    let (world, epoch) = (asked.world, present.placement.epoch);
    let nodes: BTreeSet<&str> = present.nodes().collect();
    // The first of the epochs to come is a move's.
    let losses = nodes.iter().take(LOSSES_MAX).zip(1..).map(|(node, ahead)| Loss {
        node: (*node).to_owned(),
        next: after_loss(asked, facts, present, node, (state, ahead)),
    });
    let losses = losses.collect();
    let others = nodes.len().saturating_sub(LOSSES_MAX);
    state.standby.look(epoch, losses, others, world.now);
}

/// The placement without a node, or why there is none.
fn after_loss(
    asked: &Asked<'_>,
    facts: &Facts,
    present: &InForce,
    node: &str,
    (state, ahead): (&ModelState, u64),
) -> Result<InForce, String> {
    let mut problem = problem(asked, facts, None).ok_or("the model's figures cannot be used")?;
    problem.topology.devices.retain(|device| device.node != node);
    let left = present.stages().into_iter().filter(|stage| stage.node != node);
    problem.held = left.map(translate::held_layers).collect();
    let solution = soon(&problem).map_err(|none| explain(&problem, &none).message)?;
    let plans = [solution.plan];
    let decided = place(
        asked,
        (&replicas::arrange(&[], &plans), &plans),
        None,
        None,
        (state, ahead),
    );
    decided
        .new_in_force
        .ok_or_else(|| "the placement cannot be signed".to_owned())
}

fn is_beside(asked: &Asked<'_>, present: &InForce, next: &InForce) -> bool {
    let understood = |node: &str| {
        let agent = asked.world.agents.get(node);
        agent.is_some_and(|agent| agent.takes_purposes)
    };
    let nobody = BTreeSet::new();
    let devices = [present.devices(), next.devices()].concat();
    let topology = asked.world.topology(&Question {
        uid: asked.uid(),
        among: Some(&devices),
        failing: &nobody,
        freed: &[],
        own: None,
        facts: None,
        in_force: true,
    });
    next.nodes().all(understood) && fits_beside(&topology, present, next, is_answering(asked, present))
}

fn propose(asked: &Asked<'_>, present: &InForce, next: InForce, cause: Cause, state: &mut ModelState) -> Decided {
    let note = format!("moves to {}", devices(&next));
    state.moving.proposal = Some(Proposal {
        next,
        cause,
        since: asked.world.now,
    });
    moving(asked, present, note, state)
}

/// While a proposal is loaded: its memory is taken, and what is in force serves.
fn moving(asked: &Asked<'_>, present: &InForce, note: String, state: &ModelState) -> Decided {
    let proposal = state.moving.proposal.iter();
    let claims = proposal.flat_map(|proposal| translate::held(&proposal.next)).collect();
    let decided = if is_answering(asked, present) {
        Decided::keep().noted(note)
    } else {
        Decided::with(Placed::NotYet(Why::new(reason::MOVING, note)))
    };
    Decided { claims, ..decided }
}

fn devices(in_force: &InForce) -> String {
    let stages = in_force.stages();
    let devices: Vec<&str> = stages.iter().map(|stage| stage.device.as_str()).collect();
    devices.join(", ")
}
