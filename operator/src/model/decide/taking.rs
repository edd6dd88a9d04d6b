//! PURE: a model that has no plan takes memory and links of lower ones: of which, and what of it.

use std::collections::{BTreeMap, BTreeSet};

use crds::{Yielded, YieldedLink};
use placement::{Fleet, Plan, Problem, Solution, Violation, check, check_fleet};

use super::search::trial;
use super::{Asked, Decided, Question, Rest, Solved, next_placement};
use crate::model::status::Why;
use crate::model::term::ModelState;
use crate::model::yielding::Needs;
use crate::model::{translate, yielding};

/// Solves as if models of lower priority held less: who of them yields is part of the decision. `None` where that is no help. `why`
/// there is no plan beside what all hold.
pub(super) fn take(asked: &Asked<'_>, rest: &Rest<'_>, why: &Why, state: &mut ModelState) -> Option<Decided> {
    let Asked {
        world,
        model,
        known,
        failing,
        ..
    } = *asked;
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
        let topology = world.topology(&Question {
            uid,
            among: None,
            failing,
            freed: &freed,
            own: None,
            facts: Some(facts),
            may_group: translate::may_group(known.validated, facts),
            in_force: false,
        });
        let topology = translate::counted(topology, known.validated, facts, &world.paces);
        translate::problem(name, known.validated, facts, learned.as_ref(), topology).ok()
    };
    let fewest = |failing: &BTreeSet<String>| yielding::fewest(lower.len(), |chosen| trial(&problem(chosen, failing)?));
    let all: Vec<usize> = (0..lower.len()).collect();
    let nobody = BTreeSet::new();
    let free = problem(&all, &nobody)?;
    if state.hopeless.as_ref() == Some(&free) {
        return None;
    }
    let spared = Some(failing).filter(|failing| !failing.is_empty());
    let found = spared.and_then(|failing| Some((failing, fewest(failing)?)));
    let Some((failing, (chosen, solution))) = found.or_else(|| Some((&nobody, fewest(&nobody)?))) else {
        state.hopeless = Some(free);
        return None;
    };
    let plan = &solution.plan;
    let needed = needed(chosen, |chosen| problem(chosen, failing), plan);
    if needed.is_empty() {
        return fits(asked, rest, (&problem(&[], failing)?, &solution), why, state);
    }
    // It is about to be placed, and was not refused.
    state.refused = None;
    let gives = |(at, needs): (usize, Needs)| {
        let record = world.holders.record(uid, plan, lower[at], needs);
        (lower[at].to_owned(), record)
    };
    let takes: BTreeMap<String, Yielded> = needed.into_iter().map(gives).collect();
    let gave_up = takes.iter().map(|(lower, record)| (world.holders.name(lower), record));
    let plans = std::slice::from_ref(plan);
    let claimed_links = world.holders.loads_of_plans(uid, &free, plans);
    let waits = Decided::waits(&gave_up.collect(), plans, claimed_links);
    Some(Decided { takes, ..waits })
}

/// What a search among more found, and is a plan beside what all hold: the search for that was given up too early.
fn fits(
    asked: &Asked<'_>,
    rest: &Rest<'_>,
    (beside, found): (&Problem, &Solution),
    why: &Why,
    state: &mut ModelState,
) -> Option<Decided> {
    let plans = vec![found.plan.clone()];
    if !check_fleet(beside, &plans).is_empty() {
        return None;
    }
    state.refused = None;
    let fewer = rest.fewer(plans.len(), false, &why.reason, &why.message);
    let solved = Solved {
        loads: asked.world.holders.loads_of_plans(asked.uid(), beside, &plans),
        fleet: Fleet {
            plans,
            verdict: found.verdict,
            runner_up: None,
            short: None,
            steps: found.steps,
        },
    };
    Some(next_placement(asked, rest, Some(&solved), state).with_fewer(fewer))
}

/// Those of the chosen ones that a plan has no room beside, and what of them it needs: a search may choose one too many. `problem`: with
/// what so many have taken to be free.
fn needed(
    mut chosen: Vec<usize>,
    problem: impl Fn(&[usize]) -> Option<Problem>,
    plan: &Plan,
) -> BTreeMap<usize, Needs> {
    let without = |chosen: &[usize], one: usize| {
        let others: Vec<usize> = chosen.iter().copied().filter(|other| *other != one).collect();
        (problem(&others), others)
    };
    // The highest keeps its place first.
    for one in chosen.clone().into_iter().rev() {
        let (beside, others) = without(&chosen, one);
        if beside.is_some_and(|beside| check(&beside, plan).is_empty()) {
            chosen = others;
        }
    }
    let free = problem(&chosen);
    let of = |one: &usize| {
        let (beside, _) = without(&chosen, *one);
        let needs = free
            .as_ref()
            .zip(beside)
            .map(|(free, beside)| needs(free, beside, plan));
        (*one, needs.unwrap_or_default())
    };
    chosen.iter().map(of).collect()
}

/// What keeps a plan of the `free` problem from being one `beside` a model: its memory, or what it puts on links.
fn needs(free: &Problem, beside: Problem, plan: &Plan) -> Needs {
    let mut on_links = free.clone();
    on_links.topology.traffic.clone_from(&beside.topology.traffic);
    let mut in_memory = beside;
    in_memory.topology.traffic.clone_from(&free.topology.traffic);
    let full = |violation: Violation| match violation {
        Violation::LinkOverused { from, to, .. } => Some(YieldedLink { from, to }),
        _ => None,
    };
    Needs {
        memory: !check(&in_memory, plan).is_empty(),
        links: check(&on_links, plan).into_iter().filter_map(full).collect(),
    }
}
