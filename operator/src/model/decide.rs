//! PURE: keep the placement in force while it is valid, else solve, then check, then sign.
//!
//! A placement is not given up because a better one exists; only because it no longer answers the spec, or a device in it
//! cannot be used any more. Where nothing else is feasible it stays in force: what is loaded stays loaded, and a node that
//! comes back finds its work where it left it. The one exception is a model that yields to one of higher priority, see
//! [`super::yielding`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crds::conditions::reason;
use crds::{InferenceModel, LearnedMemory, ModelSource, PlacementStatus, Yielded};
use identity::PlacementSigner;
use placement::{Budget, Plan, Problem, Solution, Violation, check, explain, solve};
use proto::placement::v1::Runtime;
use topology::{DeviceReport, HeldMemory, Input, Links, Topology};

use super::facts::Facts;
use super::holders::Holders;
use super::in_force::InForce;
use super::inspect::Resolution;
use super::learned;
use super::learned_pace::Corrections;
use super::observe::Observed;
use super::sign;
use super::stages::{self, StageSight};
use super::status::{Placed, Why};
use super::term::{self, ModelState};
use super::translate;
use super::validate::{Validated, validate};
use super::yielding;
use crate::agents::AgentView;

/// Of each choice of lower models that is tried: a tenth of what a decision may cost.
const TRIAL_STEPS: u64 = 200_000;

/// What was decided for one model.
#[derive(Debug)]
pub struct Decided {
    /// Whether what is in force (or is about to be) answers the spec.
    pub placed: Placed,
    /// A placement that takes effect once it is in status.
    pub new_in_force: Option<InForce>,
    /// What was in force is so no more once that is in status, and nothing takes its place.
    pub withdrawn: bool,
    /// What the model gave up to one of higher priority, for its status.
    pub yielded: Option<Yielded>,
    /// Memory that models decided later must leave to this one, which waits for it.
    pub claims: Vec<HeldMemory>,
    /// Models, by uid, that yield to this one.
    pub takes: BTreeMap<String, Yielded>,
}

impl Decided {
    fn with(placed: Placed) -> Self {
        Self {
            placed,
            new_in_force: None,
            withdrawn: false,
            yielded: None,
            claims: Vec::new(),
            takes: BTreeMap::new(),
        }
    }

    fn keep() -> Self {
        Self::with(Placed::Yes)
    }

    fn new(in_force: InForce) -> Self {
        Self {
            new_in_force: Some(in_force),
            ..Self::with(Placed::Yes)
        }
    }

    fn no(why: Why) -> Self {
        Self::with(Placed::No(why))
    }

    /// There is a plan, and others have yet to leave its memory.
    fn waits(names: &BTreeSet<String>, plan: &Plan) -> Self {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let message = format!("waits until the memory is free that {} gave up", names.join(", "));
        Self {
            claims: translate::claims(plan).collect(),
            ..Self::with(Placed::NotYet(Why::new(reason::AWAITS_MEMORY, message)))
        }
    }
}

/// Everything but the model itself that a decision depends on.
#[derive(Debug)]
pub struct World<'a> {
    reports: Vec<DeviceReport>,
    node_labels: &'a BTreeMap<String, BTreeMap<String, String>>,
    agents: &'a BTreeMap<String, AgentView>,
    awaited: &'a BTreeSet<String>,
    links: Links,
    /// What serving stages taught about the speed of devices.
    pub paces: Corrections,
    /// Who holds what, and who gives way to whom.
    pub holders: Holders,
    now: Instant,
    now_unix_s: i64,
}

impl<'a> World<'a> {
    /// As observed; nothing is held yet.
    #[must_use]
    pub fn new(
        observed: &'a Observed,
        agents: &'a BTreeMap<String, AgentView>,
        awaited: &'a BTreeSet<String>,
        now: Instant,
        now_unix_s: i64,
    ) -> Self {
        let reports = observed
            .devices
            .iter()
            .filter_map(|device| DeviceReport::from_state(device))
            .collect::<Vec<_>>();
        let node_labels = &observed.node_labels;
        let holders = Holders::new(observed.models.iter().map(AsRef::as_ref), &reports);
        Self {
            reports,
            node_labels,
            agents,
            awaited,
            links: Links::default(),
            paces: Corrections::default(),
            holders,
            now,
            now_unix_s,
        }
    }

    /// With links as they were measured; without, all are assumed.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
    }

    /// The graph for one model: what others hold is taken, and what it holds itself is free for it. For a placement in
    /// force more counts than for a new one: agents that are awaited, and devices that get nothing new.
    fn topology(&self, uid: &str, failing: &BTreeSet<String>, in_force: bool) -> Topology {
        self.topology_without(uid, &[], failing, in_force)
    }

    /// The same, were the memory of some others free.
    fn topology_without(&self, uid: &str, freed: &[&str], failing: &BTreeSet<String>, in_force: bool) -> Topology {
        let mut devices = self.reports.clone();
        if in_force {
            devices = devices.into_iter().map(DeviceReport::for_what_it_holds).collect();
        }
        for device in devices.iter_mut().filter(|device| failing.contains(&device.name)) {
            device.fault = Some("shards of this model keep failing on it".to_owned());
        }
        let awaited = self.awaited.iter().filter(|_| in_force);
        let built = topology::build(&Input {
            devices,
            attached_nodes: self.agents.keys().chain(awaited).cloned().collect(),
            node_labels: self.node_labels.clone(),
            held: self.holders.beside(uid, freed),
            ..Input::default()
        });
        // Judged once for all graphs of a pass: a large cluster has tens of thousands.
        Topology {
            links: self.links.clone(),
            ..built
        }
    }
}

/// Decides for one model; remembers in `state` a problem that has no solution.
pub fn decide(world: &World<'_>, model: &InferenceModel, state: &mut ModelState, signer: &PlacementSigner) -> Decided {
    let uid = model.metadata.uid.as_deref().unwrap_or_default();
    let yields = world.holders.yields(uid);
    let decided = decide_place(world, model, yields.is_some(), state, signer);
    yielding::settle(decided, state, yields, |other| world.holders.holds(other))
}

/// `yields`: what is in force must be given up.
fn decide_place(
    world: &World<'_>,
    model: &InferenceModel,
    yields: bool,
    state: &mut ModelState,
    signer: &PlacementSigner,
) -> Decided {
    let validated = match validate(&model.spec) {
        Ok(validated) => validated,
        Err(why) => return Decided::no(why),
    };
    let uid = model.metadata.uid.as_deref().unwrap_or_default();
    let facts = state.facts();
    state.learned = learn(world, &validated, &model.spec.source, facts.as_deref(), state);
    let answering = answering(state, &model.spec.source, &validated, facts.as_deref()).filter(|_| !yields);
    let failing = state.failures.excluded(world.now);
    let known = Known {
        validated: &validated,
        facts: facts.as_deref(),
        learned: state.learned,
    };
    if let Some(in_force) = answering
        && is_valid(world, uid, known, in_force, &failing)
    {
        return refreshed(world, uid, in_force, signer);
    }
    let Some(facts) = facts.as_deref() else {
        return Decided::with(not_resolved(state));
    };
    let answering = answering.is_some();
    let solved = match solve_without(world, model, &validated, facts, &failing, state) {
        // Better a device that may fail again than none.
        Err(_) if !failing.is_empty() => {
            if let Some(in_force) = state.in_force.as_ref().filter(|_| answering)
                && is_valid(world, uid, known, in_force, &BTreeSet::new())
            {
                return refreshed(world, uid, in_force, signer);
            }
            solve_without(world, model, &validated, facts, &BTreeSet::new(), state)
        }
        solved => solved,
    };
    let solution = match solved {
        Ok(solution) => solution,
        Err(why) => return take(world, model, &known, &failing, state).unwrap_or_else(|| Decided::no(why)),
    };
    if let Some(in_force) = state
        .in_force
        .as_ref()
        .filter(|in_force| answering && translate::same_stages(&solution.plan, in_force))
        .filter(|in_force| !outgrows(world, &solution.plan, in_force))
    {
        return refreshed(world, uid, in_force, signer);
    }
    let leaving = world.holders.leaving(uid, &solution.plan, world.agents);
    if !leaving.is_empty() {
        return Decided::waits(&leaving, &solution.plan);
    }
    let mut draft = translate::draft(&solution, &model.spec.source.uri, &validated, facts);
    draft.view.took = world.holders.took(uid, &solution.plan);
    foretell(world, uid, &validated, facts, &solution.plan, &mut draft.view);
    let nodes = solution.plan.stages.iter().map(|stage| stage.node.as_str());
    let epoch = state.next_epoch(uid, world.agents, nodes);
    match sign::sign(signer, model, &facts.index, draft, epoch, world.now_unix_s) {
        Ok(in_force) => Decided::new(in_force),
        Err(why) => Decided::no(why),
    }
}

/// What is said of a plan beside its times for one token: what was learned of its devices, and what a prompt takes.
fn foretell(
    world: &World<'_>,
    uid: &str,
    validated: &Validated,
    facts: &Facts,
    plan: &Plan,
    view: &mut PlacementStatus,
) {
    world.paces.note(view, &facts.quantisation);
    let topology = translate::counted(world.topology(uid, &BTreeSet::new(), false), facts, &world.paces);
    if let Ok(problem) = translate::problem("", validated, facts, None, topology) {
        translate::foretell_prefill(view, &problem, plan, facts, validated);
    }
}

/// Whether a placement is of the weights and the runtime that the spec asks for.
fn answers(in_force: &InForce, source: &ModelSource, runtime: &Runtime, facts: Option<&Facts>) -> bool {
    let Some(placed) = &in_force.placement.source else {
        return false;
    };
    let is = |wanted: &Option<String>, placed: &[u8]| {
        let digest = wanted.as_deref().map(str::parse::<gguf::Digest>);
        digest.is_none_or(|digest| digest.is_ok_and(|digest| digest.0[..] == *placed))
    };
    let same = |known: Option<gguf::Digest>, placed: &[u8]| known.is_none_or(|known| known.0[..] == *placed);
    // Where an index pins the weights, the file as a whole need not have a digest.
    let by_index = source.index_sha256.is_some() && placed.sha256.is_empty();
    placed.uri == source.uri
        && (by_index || is(&source.sha256, &placed.sha256))
        && is(&source.index_sha256, &placed.index_sha256)
        && facts.is_none_or(|facts| {
            (placed.sha256.is_empty() || same(facts.sha256, &placed.sha256))
                && same(facts.index_sha256, &placed.index_sha256)
        })
        && in_force.placement.runtime.as_ref() == Some(runtime)
}

/// The placement in force, if it answers the spec.
fn answering<'s>(
    state: &'s ModelState,
    source: &ModelSource,
    validated: &Validated,
    facts: Option<&Facts>,
) -> Option<&'s InForce> {
    let in_force = state.in_force.as_ref();
    in_force.filter(|in_force| answers(in_force, source, &validated.runtime, facts))
}

/// What is known about memory after a look at the stages in force.
fn learn(
    world: &World<'_>,
    validated: &Validated,
    source: &ModelSource,
    facts: Option<&Facts>,
    state: &ModelState,
) -> Option<LearnedMemory> {
    let known = state.learned;
    // Without facts there is no estimate that it could be held against, and no placement that it could enter.
    let Some(facts) = facts else { return known };
    let Ok(estimated) = translate::estimated("", validated, facts) else {
        return known;
    };
    let Some(in_force) = answering(state, source, validated, Some(facts)) else {
        return known.filter(|known| learned::holds(known, &estimated, &validated.runtime));
    };
    let sights = stages::look(in_force, world.agents);
    learned::learn(known, &estimated, &validated.runtime, in_force, &sights)
}

/// Whether a plan of the same stages gives one more memory that failed for want of it.
fn outgrows(world: &World<'_>, plan: &Plan, in_force: &InForce) -> bool {
    let sights = stages::look(in_force, world.agents);
    let stages = plan.stages.iter().zip(in_force.stages()).zip(&sights);
    stages
        .into_iter()
        .any(|((planned, held), sight)| sight.refused_memory() && planned.memory_bytes > held.memory_budget_bytes)
}

/// What a placement is judged by.
#[derive(Clone, Copy)]
struct Known<'a> {
    validated: &'a Validated,
    facts: Option<&'a Facts>,
    learned: Option<LearnedMemory>,
}

/// Whether a placement can go on as it is. Without facts only its devices are judged.
fn is_valid(world: &World<'_>, uid: &str, known: Known<'_>, in_force: &InForce, failing: &BTreeSet<String>) -> bool {
    let topology = world.topology(uid, failing, true);
    let constraints = &known.validated.constraints;
    let takes_layers = |name: &str| {
        let device = topology.device(name);
        device.is_some_and(|device| constraints.untolerated(device).is_none())
    };
    if !in_force.stages().iter().all(|stage| takes_layers(&stage.device)) {
        return false;
    }
    let Some(facts) = known.facts else { return true };
    let sights = stages::look(in_force, world.agents);
    // What fits is not moved for what was measured of it, however it stands at the moment.
    let learned = known.learned.filter(|_| sights.iter().any(StageSight::refused_memory));
    let Ok(problem) = translate::problem("", known.validated, facts, learned.as_ref(), topology) else {
        return false;
    };
    let serves = sights.iter().all(StageSight::serves);
    check(&problem, &translate::plan(in_force))
        .iter()
        .all(|violation| match violation {
            // Predictions are of the day they were made.
            Violation::WrongFigure { .. } | Violation::TooSlow { .. } => true,
            // One that was refused its memory shall not try again with the same budget where more is known by now.
            Violation::StageMemory { stage, said, is } => {
                let refused = sights.get(*stage).is_some_and(StageSight::refused_memory);
                !(refused && *is > u128::from(*said))
            }
            // Shards that serve have proved that they fit.
            Violation::DeviceMemory { .. } | Violation::PoolMemory { .. } => serves,
            _ => false,
        })
}

/// The placement goes on, under a higher epoch where a node has accepted one, or signed anew when its time runs out.
fn refreshed(world: &World<'_>, uid: &str, in_force: &InForce, signer: &PlacementSigner) -> Decided {
    let accepted = term::accepted(uid, world.agents, in_force.nodes());
    if accepted > in_force.placement.epoch {
        let epoch = accepted.saturating_add(1);
        return Decided::new(sign::raise(signer, in_force, epoch, world.now_unix_s));
    }
    match sign::prolong(signer, in_force, world.now_unix_s) {
        Some(prolonged) => Decided::new(prolonged),
        None => Decided::keep(),
    }
}

fn not_resolved(state: &ModelState) -> Placed {
    let message = match state.inspection.resolution() {
        _ if state.access.is_err() => {
            let why = state.access.as_ref().err();
            format!("the source cannot be read: {}", why.map_or("", |why| &why.message))
        }
        Resolution::Failed(failure) => format!("the source cannot be read: {}", failure.message),
        _ => "waits until the source has been inspected".to_owned(),
    };
    Placed::NotYet(Why::new(reason::NOT_RESOLVED, message))
}

/// Solves with the agents that are attached, and has the answer checked. A problem that was refused before is not solved
/// again.
fn solve_without(
    world: &World<'_>,
    model: &InferenceModel,
    validated: &Validated,
    facts: &Facts,
    failing: &BTreeSet<String>,
    state: &mut ModelState,
) -> Result<Solution, Why> {
    let metadata = &model.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let topology = world.topology(metadata.uid.as_deref().unwrap_or_default(), failing, false);
    let topology = translate::counted(topology, facts, &world.paces);
    let learned = state.learned;
    let mut problem = translate::problem(name, validated, facts, learned.as_ref(), topology)?;
    // What is loaded stays where it can: a model that lost a device waits for the fewest bytes.
    let in_force = answering(state, &model.spec.source, validated, Some(facts));
    problem.held = in_force.map_or_else(Vec::new, |in_force| {
        let sights = stages::look(in_force, world.agents);
        let serving = in_force
            .stages()
            .iter()
            .zip(&sights)
            .filter(|(_, sight)| sight.serves());
        serving.map(|(stage, _)| translate::held_layers(stage)).collect()
    });
    if let Some((_, why)) = state.refused.as_ref().filter(|(refused, _)| *refused == problem) {
        return Err(why.clone());
    }
    let solved = solve_and_check(&problem).map_err(|why| match &learned {
        Some(learned) => Why::new(why.reason, format!("{} ({})", why.message, learned::explain(learned))),
        None => why,
    });
    // Problems with devices left out are rare and short-lived; the one that matters is kept.
    if failing.is_empty() {
        state.refused = solved.as_ref().err().map(|why| (problem, why.clone()));
    }
    solved
}

/// Solves as if models of lower priority held less: who of them yields is part of the decision. `None` where that is no help.
fn take(
    world: &World<'_>,
    model: &InferenceModel,
    known: &Known<'_>,
    failing: &BTreeSet<String>,
    state: &mut ModelState,
) -> Option<Decided> {
    let metadata = &model.metadata;
    let (uid, name) = (metadata.uid.as_deref()?, metadata.name.as_deref()?);
    let (facts, lower) = (known.facts?, world.holders.lower(uid));
    // Whoever is still on its way to a new leader may bring the room that is missing.
    if lower.is_empty() || !world.awaited.is_empty() {
        return None;
    }
    let learned = state.learned;
    let problem = |chosen: &[usize], failing: &BTreeSet<String>| {
        let freed: Vec<&str> = chosen.iter().map(|at| lower[*at]).collect();
        let topology = world.topology_without(uid, &freed, failing, false);
        let topology = translate::counted(topology, facts, &world.paces);
        translate::problem(name, known.validated, facts, learned.as_ref(), topology).ok()
    };
    let fewest =
        |failing: &BTreeSet<String>| yielding::fewest(lower.len(), |chosen| planned(&problem(chosen, failing)?));
    let all: Vec<usize> = (0..lower.len()).collect();
    let hopeless = problem(&all, &BTreeSet::new());
    if hopeless.is_some() && state.hopeless == hopeless {
        return None;
    }
    let found = Some(failing).filter(|failing| !failing.is_empty()).and_then(fewest);
    let Some((chosen, solution)) = found.or_else(|| fewest(&BTreeSet::new())) else {
        state.hopeless = hopeless;
        return None;
    };
    // It is about to be placed, and was not refused.
    state.refused = None;
    let victims = chosen.iter().map(|at| lower[*at]);
    let takes: BTreeMap<String, Yielded> = victims
        .map(|lower| (lower.to_owned(), world.holders.record(uid, &solution.plan, lower)))
        .collect();
    let names = takes.keys().map(|lower| world.holders.name(lower)).collect();
    Some(Decided {
        takes,
        ..Decided::waits(&names, &solution.plan)
    })
}

/// A plan, if one is found soon: what is placed in the end is solved with the full budget.
fn planned(problem: &Problem) -> Option<Solution> {
    let budget = Budget {
        steps: TRIAL_STEPS,
        ..Budget::default()
    };
    let solution = solve(problem, budget).ok()?;
    check(problem, &solution.plan).is_empty().then_some(solution)
}

fn solve_and_check(problem: &Problem) -> Result<Solution, Why> {
    let solution = solve(problem, Budget::default()).map_err(|infeasible| {
        let explanation = explain(problem, &infeasible);
        Why::new(explanation.reason, explanation.message)
    })?;
    let violations = check(problem, &solution.plan);
    if violations.is_empty() {
        return Ok(solution);
    }
    let violations: Vec<String> = violations.iter().take(3).map(ToString::to_string).collect();
    tracing::error!(
        model = problem.model.name,
        ?violations,
        "the checker refuses the solver's plan"
    );
    Err(Why::new(
        reason::CHECK_FAILED,
        format!("the plan found is not valid and is not used: {}", violations.join("; ")),
    ))
}

#[cfg(test)]
mod tests;
