//! PURE: keep the placement in force while it is valid, else solve, then check, then sign.
//!
//! A placement is given up because it no longer answers the spec, because a device in it cannot be used any more, or for one
//! that is better by far and has been for long ([`super::gain`]). While it serves, the next one is
//! loaded beside it ([`super::moving`]). Where nothing else is feasible it stays in force: what is loaded stays loaded, and a
//! node that comes back finds its work where it left it. The one exception is a model that yields to one of higher priority, see
//! [`super::yielding`].

mod ahead;
mod planned;
mod search;
mod taking;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use crds::conditions::reason;
use crds::{InferenceModel, LearnedMemory, ModelSource, PlacementStatus, Yielded};
use identity::PlacementSigner;
use placement::{Fleet, Plan, Problem};
use proto::placement::v1::Runtime;
use topology::HeldMemory;

use super::facts::Facts;
use super::in_force::InForce;
use super::inspect::Resolution;
use super::learned;
use super::readable::unreadable;
use super::replicas::{self, Replica};
use super::sign;
use super::stages;
use super::status::{Placed, Why};
use super::term::{self, ModelState};
use super::traffic::Load;
use super::translate::{self, Judged};
use super::validate::{Validated, validate};
use super::yielding;
use search::solve_and_check;
use taking::take;
pub use world::World;
pub(super) use world::{Own, Question};

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
    /// And what it will put on links.
    pub claimed_links: Vec<Load>,
    /// Models, by uid, that yield to this one.
    pub takes: BTreeMap<String, Yielded>,
    /// What people are told beside that it is placed.
    pub note: Option<String>,
    /// Whether a look ahead was taken, or is due.
    pub ahead: Ahead,
}

/// Looks ahead are for losses to come and for better places: each is a search or several, and none is urgent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ahead {
    /// None is due.
    #[default]
    Nothing,
    /// One was taken; another may be due.
    Looked,
    /// One is due, and there is no time for it.
    Due,
}

impl Decided {
    /// Nothing, for want of time: what is in force goes on.
    pub(super) fn put_off() -> Self {
        Self::with(Placed::NotYet(Why::new(reason::PENDING, "it is decided in a moment")))
    }

    fn with(placed: Placed) -> Self {
        Self {
            placed,
            new_in_force: None,
            withdrawn: false,
            yielded: None,
            claims: Vec::new(),
            claimed_links: Vec::new(),
            takes: BTreeMap::new(),
            note: None,
            ahead: Ahead::Nothing,
        }
    }

    fn noted(self, note: String) -> Self {
        Self {
            note: Some(note),
            ..self
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

    /// There are plans, and others have yet to leave what these would use. `gave_up`: what they gave up, by name. `claimed_links`: what
    /// is kept for the plans on links.
    fn waits(gave_up: &BTreeMap<String, &Yielded>, plans: &[Plan], claimed_links: Vec<Load>) -> Self {
        Self {
            claims: translate::claims(plans).collect(),
            claimed_links,
            ..Self::with(Placed::NotYet(yielding::awaits(gave_up)))
        }
    }

    /// The same, with fewer replicas than are asked for.
    fn with_fewer(self, fewer: Option<Why>) -> Self {
        match fewer {
            Some(why) if self.placed == Placed::Yes => Self {
                placed: Placed::Fewer(why),
                ..self
            },
            _ => self,
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
    if let Some(why) = unreadable(model) {
        return Decided::no(Why::new(reason::INVALID_SPEC, why));
    }
    let validated = match validate(&model.spec) {
        Ok(validated) => validated,
        Err(why) => return Decided::no(why),
    };
    let facts = state.facts();
    state.learned = learn(world, &validated, &model.spec.source, facts.as_deref(), state);
    let failing = state.failures.excluded(world.now);
    let asked = Asked {
        world,
        model,
        known: Known {
            validated: &validated,
            facts: facts.as_deref(),
            learned: state.learned,
        },
        failing: &failing,
        signer,
    };
    let in_force = answering(state, &model.spec.source, &validated, facts.as_deref());
    let in_force = in_force.filter(|_| !yields).cloned();
    if yields {
        state.moving.proposal = None;
        state.standby.forget();
        return anew(&asked, None, false, state);
    }
    planned::decide(&asked, in_force.as_ref(), state)
}

/// All that one model is decided by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    world: &'a World<'a>,
    model: &'a InferenceModel,
    known: Known<'a>,
    /// Devices on which its shards keep failing.
    failing: &'a BTreeSet<String>,
    signer: &'a PlacementSigner,
}

impl Asked<'_> {
    fn uid(&self) -> &str {
        self.model.metadata.uid.as_deref().unwrap_or_default()
    }

    fn refreshed(&self, in_force: &InForce) -> Decided {
        refreshed(self.world, self.uid(), in_force, self.signer)
    }
}

/// What is to be in force, whatever that costs those who are served now. `leave`: nodes that want to leave are left.
fn anew(asked: &Asked<'_>, in_force: Option<&InForce>, leave: bool, state: &mut ModelState) -> Decided {
    let Asked {
        world,
        model,
        known,
        failing,
        ..
    } = *asked;
    let mut rest = Rest::new(world, known, in_force, failing, leave);
    if let Some(in_force) = rest.complete() {
        return asked.refreshed(in_force);
    }
    if known.facts.is_none() {
        return Decided::with(not_resolved(state));
    }
    let mut solved = solve_rest(world, model, &rest, state);
    let nobody = BTreeSet::new();
    if solved.is_err() && !failing.is_empty() {
        // Better a device that may fail again than none.
        rest = Rest::new(world, known, in_force, &nobody, leave);
        if let Some(in_force) = rest.complete() {
            return asked.refreshed(in_force);
        }
        solved = solve_rest(world, model, &rest, state);
    }
    match (solved, in_force) {
        (Ok(solved), _) => next_placement(asked, &rest, solved.as_ref(), state),
        (Err(why), Some(in_force)) if !rest.going_on.is_empty() => {
            let fewer = rest.fewer(0, true, &why.reason, &why.message);
            asked.refreshed(in_force).with_fewer(fewer)
        }
        (Err(why), _) => take(asked, &rest, &why, state).unwrap_or_else(|| Decided::no(why)),
    }
}

/// What of a model is to be decided, beside the replicas that go on as they are.
struct Rest<'a> {
    known: Known<'a>,
    failing: &'a BTreeSet<String>,
    /// The placement in force, if it answers the spec.
    in_force: Option<&'a InForce>,
    /// Numbers of its pipelines that go on.
    going_on: Vec<usize>,
}

impl<'a> Rest<'a> {
    fn new(
        world: &World<'_>,
        known: Known<'a>,
        in_force: Option<&'a InForce>,
        failing: &'a BTreeSet<String>,
        leave: bool,
    ) -> Self {
        let mut going_on =
            in_force.map_or_else(Vec::new, |in_force| replicas::going_on(world, known, in_force, failing));
        if leave {
            let stays = |number: &usize| {
                let pipeline = in_force.and_then(|in_force| in_force.pipelines().get(*number));
                let mut stages = pipeline.into_iter().flat_map(|pipeline| &pipeline.stages);
                !stages.any(|stage| world.leaving.contains_key(&stage.node))
            };
            going_on.retain(stays);
        }
        Self {
            known,
            failing,
            in_force,
            going_on,
        }
    }

    /// The placement in force, if nothing is missing.
    fn complete(&self) -> Option<&'a InForce> {
        let asked = self.known.validated.replicas;
        self.in_force
            .filter(|in_force| replicas::is_complete(in_force, &self.going_on, asked))
    }

    fn missing(&self) -> u32 {
        let going_on = u32::try_from(self.going_on.len()).unwrap_or(u32::MAX);
        self.known.validated.replicas.saturating_sub(going_on)
    }

    /// What to say where so many new replicas are fewer than are missing.
    fn fewer(&self, new: usize, is_proved: bool, reason: &str, next: &str) -> Option<Why> {
        let (fit, asked) = (self.going_on.len() + new, self.known.validated.replicas);
        (fit < asked as usize).then(|| Why::new(reason, placement::shortage(fit, asked, is_proved, next)))
    }
}

/// Puts what goes on and what was found together, and signs it where it differs from what is in force.
fn next_placement(asked: &Asked<'_>, rest: &Rest<'_>, solved: Option<&Solved>, state: &mut ModelState) -> Decided {
    let (world, uid) = (asked.world, asked.uid());
    let fleet = solved.map(|solved| &solved.fleet);
    let new = fleet.map_or(&[][..], |fleet| &fleet.plans);
    let fewer = fleet
        .and_then(|fleet| fleet.short.as_ref())
        .and_then(|short| rest.fewer(new.len(), short.is_proved, short.next.reason, &short.next.message));
    let next = replicas::arrange(&rest.going_on, new);
    if let Some(in_force) = rest.in_force.filter(|in_force| replicas::is_same(&next, in_force)) {
        let sights = stages::look(in_force, world.agents);
        if !replicas::outgrows(&next, in_force, &sights) {
            return asked.refreshed(in_force).with_fewer(fewer);
        }
    }
    let leaving = world.holders.leaving(uid, new, world.agents);
    if !leaving.is_empty() {
        let loads = solved.map_or_else(Vec::new, |solved| solved.loads.clone());
        let mut waits = Decided::waits(&leaving, new, loads);
        if let Placed::NotYet(why) = &waits.placed
            && let Some(fewer) = rest.fewer(0, true, &why.reason, &why.message)
            && !rest.going_on.is_empty()
        {
            waits.placed = Placed::Fewer(fewer);
        }
        return waits;
    }
    let judged = fleet.map(|fleet| Judged {
        verdict: fleet.verdict,
        runner_up: fleet.runner_up.as_ref(),
    });
    place(asked, (&next, new), rest.in_force, judged, (state, 0)).with_fewer(fewer)
}

/// Makes a placement of pipelines: those of `in_force` that are kept, and new ones. Its epoch is the next one, or by so many
/// further `ahead`: placements of a model that agents prepare at the same time are told apart by their epochs.
fn place(
    asked: &Asked<'_>,
    (next, new): (&[Replica<'_>], &[Plan]),
    in_force: Option<&InForce>,
    judged: Option<Judged<'_>>,
    (state, ahead): (&ModelState, u64),
) -> Decided {
    let Asked {
        world,
        model,
        known,
        signer,
        ..
    } = *asked;
    let Some(facts) = known.facts else {
        return Decided::with(not_resolved(state));
    };
    let uri = &model.spec.source.uri;
    let mut draft = translate::draft(next, in_force, judged, uri, (known.validated, facts));
    draft.view.took = world.holders.took(asked.uid(), new);
    foretell(asked, facts, (next, new), &mut draft.view);
    let stages = draft.pipelines.iter().flat_map(|pipeline| &pipeline.stages);
    let epoch = state.next_epoch(asked.uid(), world.agents, stages.map(|stage| stage.node.as_str()));
    let epoch = epoch.saturating_add(ahead);
    let previous = state.in_force.as_ref().map(|in_force| &in_force.placement);
    match sign::sign(signer, model, &facts.index, draft, (previous, epoch), world.now_unix_s) {
        Ok(in_force) => Decided::new(in_force),
        Err(why) => Decided::no(why),
    }
}

/// Puts what is foretold of prompts and of context into the view, and what it is reckoned with. Of several replicas neither is told.
fn foretell(asked: &Asked<'_>, facts: &Facts, (next, new): (&[Replica<'_>], &[Plan]), view: &mut PlacementStatus) {
    let (world, validated) = (asked.world, asked.known.validated);
    world.paces.note(view, &facts.quantisation);
    let ([Replica::New(_)], [plan]) = (next, new) else {
        return;
    };
    let devices: Vec<&str> = plan.stages.iter().map(|stage| stage.device.as_str()).collect();
    let topology = world.topology(&Question {
        uid: asked.uid(),
        among: Some(&devices),
        failing: &BTreeSet::new(),
        freed: &[],
        own: None,
        facts: None,
        may_group: false,
        in_force: false,
    });
    let topology = translate::counted(topology, validated, facts, &world.paces);
    translate::foretell_context(view, &topology, &validated.runtime);
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

/// What a placement is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub validated: &'a Validated,
    pub facts: Option<&'a Facts>,
    pub learned: Option<LearnedMemory>,
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

/// What was found for what is missing.
struct Solved {
    fleet: Fleet,
    /// What is kept for it on links, should it have to wait.
    loads: Vec<Load>,
}

/// Solves for what is missing with the agents that are attached, and has the answer checked; `None` where nothing is. A problem
/// that was refused before is not solved again.
fn solve_rest(
    world: &World<'_>,
    model: &InferenceModel,
    rest: &Rest<'_>,
    state: &mut ModelState,
) -> Result<Option<Solved>, Why> {
    let (missing, Some(facts)) = (rest.missing(), rest.known.facts) else {
        return Ok(None);
    };
    if missing == 0 {
        return Ok(None);
    }
    let metadata = &model.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let own = rest.in_force.map_or_else(Own::default, |in_force| {
        replicas::own(rest.known, in_force, &rest.going_on)
    });
    let validated = rest.known.validated;
    let graph = |may_group| {
        let topology = world.topology(&Question {
            uid,
            among: None,
            failing: rest.failing,
            freed: &[],
            own: Some(&own),
            facts: Some(facts),
            may_group,
            in_force: false,
        });
        translate::counted(topology, validated, facts, &world.paces)
    };
    let learned = state.learned;
    let may_group = translate::may_group(validated, facts);
    let topology = graph(may_group);
    let mut problem = translate::problem(name, validated, facts, learned.as_ref(), topology)?;
    // What is loaded stays where it can: a model that lost a device waits for the fewest bytes.
    problem.held = rest.in_force.map_or_else(Vec::new, |in_force| {
        let stages = in_force.stages().into_iter().zip(stages::look(in_force, world.agents));
        let free = stages.filter(|(_, sight)| sight.serves() && !rest.going_on.contains(&sight.pipeline));
        free.map(|(stage, _)| translate::held_layers(stage)).collect()
    });
    if let Some((_, why)) = state.refused.as_ref().filter(|(refused, _)| *refused == problem) {
        return Err(why.clone());
    }
    // Whoever is refused is told what devices that work as one would change, asked for or not.
    let with_groups = || {
        (!may_group && world.has_groups()).then(|| Problem {
            topology: graph(true),
            ..problem.clone()
        })
    };
    let solved = solve_and_check(&problem, missing, rest.in_force.is_some(), with_groups);
    let solved = solved.map_err(|why| match &learned {
        Some(learned) => Why::new(why.reason, format!("{} ({})", why.message, learned::explain(learned))),
        None => why,
    });
    let solved = solved.map(|fleet| Solved {
        loads: world.holders.loads_of_plans(uid, &problem, &fleet.plans),
        fleet,
    });
    // Problems with devices left out are rare and short-lived; the one that matters is kept.
    if rest.failing.is_empty() {
        state.refused = solved.as_ref().err().map(|why| (problem, why.clone()));
    }
    solved.map(Some)
}

#[cfg(test)]
mod tests;
