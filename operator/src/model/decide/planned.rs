//! PURE: a model that serves is moved while it serves, where there is room for both: see [`crate::model::moving`].

use std::collections::BTreeSet;

use crds::conditions::reason;

use super::{Ahead, Asked, Decided, Question, ahead, anew, answers};
use crate::model::in_force::InForce;
use crate::model::moving::{Cause, Proposal, Verdict, fits_beside};
use crate::model::replicas;
use crate::model::stages::StageSight;
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
        .all(StageSight::serves);
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
    in_force.nodes().any(|node| asked.world.leaving.contains_key(node))
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
    judged(asked, proposal, &sights) == Verdict::CutOver
}

/// What becomes of a proposal. What is loaded on a node whose agent is not heard waits: it would not hear that it is to serve.
fn judged(asked: &Asked<'_>, proposal: &Proposal, sights: &[StageSight]) -> Verdict {
    let is_unheard = |node: &str| asked.world.unheard.contains(node);
    match proposal.judge(sights, asked.world.now) {
        Verdict::CutOver if proposal.next.nodes().any(is_unheard) => Verdict::Wait { loaded: sights.len() },
        verdict => verdict,
    }
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
    let nodes = left(asked, present).unwrap_or_default();
    let note = format!("{nodes} and nothing else has room");
    asked.refreshed(present).noted(note)
}

/// Nodes of a placement that are about to be left, and why; for people.
fn left(asked: &Asked<'_>, in_force: &InForce) -> Option<String> {
    let nodes: BTreeSet<&str> = in_force.nodes().collect();
    let why = |node: &str| Some(format!("{node} {}", asked.world.leaving.get(node)?));
    let told: Vec<String> = nodes.into_iter().filter_map(why).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// Looks after a proposal that is being loaded.
fn follow(asked: &Asked<'_>, present: &InForce, proposal: Proposal, state: &mut ModelState) -> Decided {
    let world = asked.world;
    let sights = stages::look(&proposal.next, world.agents);
    match judged(asked, &proposal, &sights) {
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
    let (losses, places) = ahead::due(asked, present, state);
    let look = match asked.world.leisure {
        _ if !losses && !places => Ahead::Nothing,
        true => Ahead::Looked,
        false => Ahead::Due,
    };
    if losses && look == Ahead::Looked {
        ahead::stand_by(asked, facts, present, state);
    }
    let decided = match state.moving.rests(asked.world.now) {
        Some(why) => rested(asked, present, why),
        None if places && look == Ahead::Looked => ahead::better(asked, facts, present, state).unwrap_or(stays),
        None => stays,
    };
    Decided { ahead: look, ..decided }
}

pub(super) fn is_beside(asked: &Asked<'_>, present: &InForce, next: &InForce) -> bool {
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
        may_group: false,
        in_force: true,
    });
    next.nodes().all(understood) && fits_beside(&topology, present, next, is_answering(asked, present))
}

pub(super) fn propose(
    asked: &Asked<'_>,
    present: &InForce,
    next: InForce,
    cause: Cause,
    state: &mut ModelState,
) -> Decided {
    let note = format!("moves to {}", devices(&next));
    state.moving.proposal = Some(Proposal {
        next,
        cause,
        since: asked.world.now,
    });
    moving(asked, present, note, state)
}

/// While a proposal is loaded: its memory and its links are taken, and what is in force serves.
fn moving(asked: &Asked<'_>, present: &InForce, note: String, state: &ModelState) -> Decided {
    let next = state.moving.proposal.as_ref().map(|proposal| &proposal.next);
    let claims = next.into_iter().flat_map(translate::held).collect();
    let holders = &asked.world.holders;
    let claimed_links = next.map_or_else(Vec::new, |next| holders.further_loads(asked.uid(), next));
    let note = match left(asked, present) {
        Some(why) => format!("{note} ({why})"),
        None => note,
    };
    let decided = if is_answering(asked, present) {
        Decided::keep().noted(note)
    } else {
        Decided::with(Placed::NotYet(Why::new(reason::MOVING, note)))
    };
    Decided {
        claims,
        claimed_links,
        ..decided
    }
}

fn devices(in_force: &InForce) -> String {
    let stages = in_force.stages();
    let devices: Vec<&str> = stages.iter().map(|stage| stage.device.as_str()).collect();
    devices.join(", ")
}
