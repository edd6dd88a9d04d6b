//! PURE: which lower models give memory and links up to a higher one, and what both say of it.
//!
//! A model that has no plan beside what all others hold, and put on links, may take what models of strictly lower priority have, of as
//! few of them as will do. Memory must not be given to one while the other is still in it, whatever write fails and whoever leads.
//! So it takes several passes, each of which leaves a state that is sound by itself:
//!
//! 1. The lower models yield: they are placed elsewhere, or nowhere, and their status records to whom ([`Yielded`]). The
//!    higher one gets no placement yet; for the rest of the pass it claims its memory and its share of links, so that nobody decided
//!    later takes them: what would be in the way of the next search would have to be given up again.
//! 2. Once those statuses are written, all that is free, and the higher model is decided as any other: beside what all
//!    others hold. It still claims and waits while an agent on its nodes reports a shard of an epoch that was given up.
//! 3. Then it is placed. Nobody needs to remember anything: a new leader finds the records in the statuses.
//!
//! Agents do their part too: they end what is on its way out of a device before they load there. But devices of one pool
//! share memory, and of those an agent knows nothing; hence the wait for its report.
//!
//! Who yielded a link does not come back to it: a model leaves to those of higher priority what they ask for of a link, whatever it is
//! allowed to use itself ([`super::holders::Holders::traffic_beside`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crds::conditions::reason;
use crds::{InferenceModel, Yielded, YieldedLink};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::Decided;
use super::in_force::InForce;
use super::status::{Placed, Why};
use super::term::ModelState;
use super::translate;

/// Choices of lower models that are tried for the smallest: all of five models, and the likeliest of more.
const TRIALS_MAX: usize = 32;

/// What of a lower model a higher one has no plan with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// It is in memory that the plan takes.
    pub memory: bool,
    /// It fills these.
    pub links: BTreeSet<YieldedLink>,
}

/// In which turn models are decided: the higher priority first, then the older.
#[must_use]
pub fn turn(model: &InferenceModel) -> (Reverse<i32>, Option<&Time>, Option<&str>) {
    let metadata = &model.metadata;
    (
        Reverse(model.spec.priority),
        metadata.creation_timestamp.as_ref(),
        metadata.uid.as_deref(),
    )
}

/// The smallest choice of `lower` models, counted from the lowest, with which there is a plan: one alone before two, the
/// lowest first. Of more choices than are tried, one of which none can be left out. `None`: not even all of them will do.
pub fn fewest<S>(lower: usize, mut plan: impl FnMut(&[usize]) -> Option<S>) -> Option<(Vec<usize>, S)> {
    let all: Vec<usize> = (0..lower).collect();
    let with_all = plan(&all)?;
    let mut trials = 0;
    for size in 1..lower {
        let mut chosen: Vec<usize> = (0..size).collect();
        loop {
            if trials == TRIALS_MAX {
                return Some(spare((all, with_all), plan));
            }
            trials += 1;
            if let Some(found) = plan(&chosen) {
                return Some((chosen, found));
            }
            if !advance(&mut chosen, lower) {
                break;
            }
        }
    }
    Some((all, with_all))
}

/// The next choice of as many, by its highest member first; false after the last.
fn advance(chosen: &mut [usize], of: usize) -> bool {
    let size = chosen.len();
    let room = |at: &usize| chosen[*at] + 1 < if at + 1 < size { chosen[at + 1] } else { of };
    let Some(at) = (0..size).find(room) else { return false };
    chosen[at] += 1;
    for (below, member) in chosen[..at].iter_mut().enumerate() {
        *member = below;
    }
    true
}

/// Leaves out whoever is not needed, the highest first.
fn spare<S>((mut chosen, mut found): (Vec<usize>, S), mut plan: impl FnMut(&[usize]) -> Option<S>) -> (Vec<usize>, S) {
    for model in chosen.clone().into_iter().rev() {
        let fewer: Vec<usize> = chosen.iter().copied().filter(|other| *other != model).collect();
        if let Some(with_fewer) = plan(&fewer) {
            (chosen, found) = (fewer, with_fewer);
        }
    }
    (chosen, found)
}

/// What becomes of a decision where the model yields in this pass (`yields`), or has yielded before: what was in force is
/// given up, the record is kept as long as it says something, and a model without a place says whom it made room for.
/// `holds`: whether a model, by uid, holds or claims memory.
#[must_use]
pub fn settle(
    mut decided: Decided,
    state: &ModelState,
    yields: Option<&Yielded>,
    holds: impl Fn(&str) -> bool,
) -> Decided {
    if let Some(record) = yields {
        decided.withdrawn = decided.new_in_force.is_none();
        decided.yielded = Some(record.clone());
    } else if !replaces(&decided, state.in_force.as_ref()) {
        decided.yielded.clone_from(&state.yielded);
    }
    let nowhere = decided.new_in_force.is_none() && (decided.withdrawn || state.in_force.is_none());
    if let Some(record) = decided
        .yielded
        .as_ref()
        .filter(|record| nowhere && holds(&record.to_uid))
        && let Placed::No(why) | Placed::NotYet(why) = &decided.placed
    {
        let message = format!("{}; {}", yielded(record), why.message);
        decided.placed = Placed::No(Why::new(reason::YIELDED, message));
    }
    decided
}

/// Whether other stages take the place of those in force.
fn replaces(decided: &Decided, in_force: Option<&InForce>) -> bool {
    let Some(new) = &decided.new_in_force else { return false };
    in_force.is_none_or(|old| old.stages() != new.stages())
}

/// Why a higher model has no place yet: what others gave up, by name, is not free.
#[must_use]
pub fn awaits(records: &BTreeMap<String, &Yielded>) -> Why {
    let links = records.values().any(|record| !record.links.is_empty());
    let memory = records.values().any(|record| !record.devices.is_empty());
    let (reason, what) = match (memory, links) {
        (true, true) => (reason::AWAITS_MEMORY, "memory and the links are"),
        (false, true) => (reason::AWAITS_LINKS, "links are"),
        (_, false) => (reason::AWAITS_MEMORY, "memory is"),
    };
    let names: Vec<&str> = records.keys().map(String::as_str).collect();
    Why::new(
        reason,
        format!("waits until the {what} free that {} gave up", names.join(", ")),
    )
}

/// "yielded node-a-gpu0 to default/big (priority 10 > 0)", "yielded the link node-a -> node-b to ...".
#[must_use]
pub fn yielded(record: &Yielded) -> String {
    let Yielded {
        to,
        priority,
        to_priority,
        ..
    } = record;
    format!(
        "yielded {} to {to} (priority {to_priority} > {priority})",
        given(record)
    )
}

/// "node-a-gpu0, the link node-a -> node-b".
fn given(record: &Yielded) -> String {
    let link = |link: &YieldedLink| format!("the link {} -> {}", link.from, link.to);
    let devices = record.devices.iter().cloned();
    let all: Vec<String> = devices.chain(record.links.iter().map(link)).collect();
    all.join(", ")
}

/// "took node-a-gpu0 from default/small (priority 0)"; `None` where nothing was taken.
#[must_use]
pub fn took<'r>(records: impl IntoIterator<Item = (String, &'r Yielded)>) -> Option<String> {
    let one =
        |(from, record): (String, &Yielded)| format!("{} from {from} (priority {})", given(record), record.priority);
    let taken: Vec<String> = records.into_iter().map(one).collect();
    (!taken.is_empty()).then(|| translate::clip(format!("took {}", taken.join("; "))))
}

#[cfg(test)]
mod tests;
