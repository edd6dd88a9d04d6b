//! PURE: a model that serves is moved, if at all, without a pause: see [`crate::model::moving`].

use std::collections::BTreeSet;

use crds::InferenceModel;
use crds::conditions::reason;
use identity::PlacementSigner;
use placement::{Budget, Solution, evaluate, explain};

use super::{Decided, Known, TRIAL_STEPS, World, answers, is_valid, place, refreshed, solve_without, trial};
use crate::model::facts::Facts;
use crate::model::gain;
use crate::model::in_force::InForce;
use crate::model::moving::{Cause, Proposal, Verdict, fits_beside};
use crate::model::standby::{LOSSES_MAX, Loss};
use crate::model::status::{Placed, Why};
use crate::model::term::ModelState;
use crate::model::{sign, stages, translate};

/// What one model is decided by.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) model: &'a InferenceModel,
    pub(super) known: Known<'a>,
    pub(super) failing: &'a BTreeSet<String>,
    pub(super) signer: &'a PlacementSigner,
}

impl Question<'_> {
    fn uid(&self) -> &str {
        self.model.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// Decides for a model all of whose stages serve. `sound`: what is in force may stay. `None`: it must be placed anew at once.
pub(super) fn decide(question: Question<'_>, sound: bool, state: &mut ModelState) -> Option<Decided> {
    let in_force = state.in_force.clone()?;
    state.moving.heed(question.model.metadata.generation);
    let renewed = || refreshed(question.world, question.uid(), &in_force, question.signer);
    let Some(facts) = question.known.facts else {
        state.moving.proposal = None;
        return sound.then(renewed);
    };
    if !serves(question.world, &in_force) {
        state.standby.forget();
        // What is loaded already need not wait for what was lost.
        let proposal = state.moving.proposal.take();
        return match proposal.filter(|proposal| is_loaded(question, proposal) && stands(question, &proposal.next)) {
            Some(proposal) => Some(follow(question, &in_force, proposal, state)),
            None => sound.then(renewed),
        };
    }
    let cause = if !sound {
        Some(Cause::Required)
    } else if leaving(question.world, &in_force) {
        Some(Cause::Leaving)
    } else {
        None
    };
    if let Some(proposal) = state.moving.proposal.take() {
        let wanted = cause == Some(proposal.cause) || (cause.is_none() && proposal.cause == Cause::Gain);
        if wanted && stands(question, &proposal.next) {
            return Some(follow(question, &in_force, proposal, state));
        }
    }
    let stay = renewed();
    // A renewal first: a proposal's epoch is above it.
    if stay.new_in_force.is_some() && sound {
        return Some(stay);
    }
    let rests = state.moving.rests(question.world.now).map(str::to_owned);
    match (cause, rests) {
        (Some(Cause::Required), None) => required(question, facts, &in_force, state),
        (Some(Cause::Required), Some(why)) if !answering(question, &in_force) => {
            let message = format!("what is asked for could not be loaded and is tried again later: {why}");
            Some(Decided::no(Why::new(reason::MOVE_ROLLED_BACK, message)))
        }
        (_, Some(why)) => Some(stay.noted(format!("the last move was rolled back: {why}"))),
        (Some(Cause::Leaving), None) => Some(leave(question, facts, &in_force, state, stay)),
        _ => {
            stand_by(question, facts, &in_force, state);
            Some(better(question, facts, &in_force, state, stay))
        }
    }
}

/// Works out what takes the placement's place when one of its nodes is lost.
fn stand_by(question: Question<'_>, facts: &Facts, in_force: &InForce, state: &mut ModelState) {
    let (world, epoch) = (question.world, in_force.placement.epoch);
    if !state.standby.is_due(epoch, world.now) {
        return;
    }
    let nodes: BTreeSet<&str> = in_force.nodes().collect();
    let losses = nodes.iter().take(LOSSES_MAX).map(|node| Loss {
        node: (*node).to_owned(),
        next: after_loss(question, facts, in_force, node, state),
    });
    let losses = losses.collect();
    let others = nodes.len().saturating_sub(LOSSES_MAX);
    state.standby.look(epoch, losses, others, world.now);
}

/// The placement without a node, or why there is none.
fn after_loss(
    question: Question<'_>,
    facts: &Facts,
    in_force: &InForce,
    node: &str,
    state: &ModelState,
) -> Result<InForce, String> {
    let Question { world, known, .. } = question;
    let mut topology = world.topology(question.uid(), question.failing, false);
    topology.devices.retain(|device| device.node != node);
    let problem = translate::problem("", known.validated, facts, known.learned.as_ref(), topology);
    let mut problem = problem.map_err(|why| why.message)?;
    let left = in_force.stages().iter().filter(|stage| stage.node != node);
    problem.held = left.map(translate::held_layers).collect();
    let budget = Budget {
        steps: TRIAL_STEPS,
        ..Budget::default()
    };
    let solution = placement::solve(&problem, budget).map_err(|none| explain(&problem, &none).message)?;
    let decided = place(question, facts, &solution, state);
    decided
        .new_in_force
        .ok_or_else(|| "the placement cannot be signed".to_owned())
}

fn serves(world: &World<'_>, in_force: &InForce) -> bool {
    stages::look(in_force, world.agents)
        .iter()
        .all(stages::StageSight::serves)
}

fn is_loaded(question: Question<'_>, proposal: &Proposal) -> bool {
    let sights = stages::look(&proposal.next, question.world.agents);
    proposal.judge(&sights, question.world.now) == Verdict::CutOver
}

/// A node of the placement is about to leave.
fn leaving(world: &World<'_>, in_force: &InForce) -> bool {
    in_force.nodes().any(|node| world.leaving.contains(node))
}

/// The placement is of the weights and the runtime that the spec asks for.
fn answering(question: Question<'_>, in_force: &InForce) -> bool {
    let Known { validated, facts, .. } = question.known;
    answers(in_force, &question.model.spec.source, &validated.runtime, facts)
}

/// Whether a proposal is still what it was made for.
fn stands(question: Question<'_>, next: &InForce) -> bool {
    answering(question, next)
        && !leaving(question.world, next)
        && is_valid(question.world, question.uid(), question.known, next, question.failing)
}

/// Looks after a proposal that is being loaded.
fn follow(question: Question<'_>, in_force: &InForce, proposal: Proposal, state: &mut ModelState) -> Decided {
    let world = question.world;
    let sights = stages::look(&proposal.next, world.agents);
    match proposal.judge(&sights, world.now) {
        Verdict::CutOver => {
            let nodes: Vec<&str> = proposal.next.nodes().collect();
            let epoch = state
                .next_epoch(question.uid(), world.agents, nodes)
                .max(proposal.next.placement.epoch);
            let next = sign::raise(question.signer, &proposal.next, epoch, world.now_unix_s);
            // Until it is in status it is not in force, and may have to be offered again.
            state.moving.proposal = Some(proposal);
            Decided::new(next)
        }
        Verdict::RollBack { cause } => {
            let new = proposal.next.stages().iter().zip(&sights);
            for (stage, _) in new.filter(|(_, sight)| !sight.attached || !sight.is_loaded()) {
                tracing::warn!(device = stage.device, %cause, "a move is rolled back");
            }
            state.moving.rolled_back(cause, world.now);
            refreshed(world, question.uid(), in_force, question.signer)
        }
        Verdict::Wait { loaded } => {
            let stages = proposal.next.stages().len();
            let note = format!(
                "moves to {}: {loaded} of {stages} stages are loaded",
                devices(&proposal.next)
            );
            state.moving.proposal = Some(proposal);
            moving(question, in_force, note, state)
        }
    }
}

/// What is in force may not stay.
fn required(question: Question<'_>, facts: &Facts, in_force: &InForce, state: &mut ModelState) -> Option<Decided> {
    let solution = solve(question, facts, state)?;
    if !is_beside(question, in_force, &solution) {
        return None;
    }
    Some(propose(question, facts, in_force, &solution, Cause::Required, state))
}

/// A node wants to leave: what it holds goes elsewhere, if there is room.
fn leave(question: Question<'_>, facts: &Facts, in_force: &InForce, state: &mut ModelState, stay: Decided) -> Decided {
    let Some(solution) = solve(question, facts, state) else {
        let nodes: BTreeSet<&str> = in_force
            .nodes()
            .filter(|node| question.world.leaving.contains(*node))
            .collect();
        let nodes: Vec<&str> = nodes.into_iter().collect();
        return stay.noted(format!("{} wants to leave and nothing else has room", nodes.join(", ")));
    };
    if is_beside(question, in_force, &solution) {
        return propose(question, facts, in_force, &solution, Cause::Leaving, state);
    }
    // Where there is no room for both, the streams wait for the load.
    place(question, facts, &solution, state)
}

/// Looks from time to time whether another placement is better by far, and for long enough.
fn better(question: Question<'_>, facts: &Facts, in_force: &InForce, state: &mut ModelState, stay: Decided) -> Decided {
    let (world, threshold) = (question.world, question.world.threshold);
    if !state.moving.gain.is_due(threshold, world.now) {
        return stay;
    }
    let (known, uid) = (question.known, question.uid());
    let problem = |in_force| {
        let topology = world.topology(uid, question.failing, in_force);
        translate::problem("", known.validated, facts, known.learned.as_ref(), topology).ok()
    };
    // As if nothing were loaded: what is better in the long run may be elsewhere altogether.
    let solution = problem(false).and_then(|problem| trial(&problem));
    let solution = solution.filter(|solution| is_beside(question, in_force, solution));
    let percent = solution.as_ref().and_then(|solution| {
        let present = evaluate(&problem(true)?, &translate::plan(in_force))?;
        gain::percent(known.validated.objective, &present, &solution.plan)
    });
    let lasts = state.moving.gain.look(percent, threshold, world.now);
    match solution.filter(|_| lasts) {
        Some(solution) => propose(question, facts, in_force, &solution, Cause::Gain, state),
        None => stay,
    }
}

fn solve(question: Question<'_>, facts: &Facts, state: &mut ModelState) -> Option<Solution> {
    let Question {
        world,
        model,
        known,
        failing,
        ..
    } = question;
    let solution = solve_without(world, model, known.validated, facts, failing, state).ok()?;
    let others = world.holders.leaving(question.uid(), &solution.plan, world.agents);
    others.is_empty().then_some(solution)
}

fn is_beside(question: Question<'_>, in_force: &InForce, solution: &Solution) -> bool {
    let agents = question.world.agents;
    let understood = |stage: &placement::Stage| agents.get(&stage.node).is_some_and(|agent| agent.takes_purposes);
    if !solution.plan.stages.iter().all(understood) {
        return false;
    }
    let topology = question.world.topology(question.uid(), &BTreeSet::new(), true);
    fits_beside(&topology, in_force, &solution.plan, answering(question, in_force))
}

fn propose(
    question: Question<'_>,
    facts: &Facts,
    in_force: &InForce,
    solution: &Solution,
    cause: Cause,
    state: &mut ModelState,
) -> Decided {
    if answering(question, in_force) && translate::same_stages(&solution.plan, in_force) {
        return refreshed(question.world, question.uid(), in_force, question.signer);
    }
    let decided = place(question, facts, solution, state);
    let Some(next) = decided.new_in_force else {
        return decided;
    };
    let note = format!("moves to {}", devices(&next));
    state.moving.proposal = Some(Proposal {
        next,
        cause,
        since: question.world.now,
    });
    moving(question, in_force, note, state)
}

/// While a proposal is loaded: its memory is taken, and what is in force serves.
fn moving(question: Question<'_>, in_force: &InForce, note: String, state: &ModelState) -> Decided {
    let claims = state
        .moving
        .proposal
        .iter()
        .flat_map(|proposal| translate::held(&proposal.next))
        .collect();
    let decided = if answering(question, in_force) {
        Decided::keep().noted(note)
    } else {
        Decided::with(Placed::NotYet(Why::new(reason::MOVING, note)))
    };
    Decided { claims, ..decided }
}

fn devices(in_force: &InForce) -> String {
    let devices: Vec<&str> = in_force.stages().iter().map(|stage| stage.device.as_str()).collect();
    devices.join(", ")
}
