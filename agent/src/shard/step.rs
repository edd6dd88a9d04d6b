//! What to do next: a pure function of what is desired, what is observed, and the time.
//!
//! Guarantees, whatever the order of events:
//! - a slot has at most one worker: the next is spawned only when the last is known to be gone;
//! - a worker is never handed a lower epoch than it has, nor any envelope that is not of the placement in force;
//! - no worker is on a device that may compute what is wrong: there it ends at once, and is not started;
//! - a device is not filled twice: what is on its way out of a device ends before anything new is loaded there (that what is
//!   to be loaded beside what stays has room there is the operator's concern);
//! - with desires that stand still and work that succeeds, everything desired comes to serve, to be loaded or to lie on the
//!   disk, as it is wanted, and the rest goes.
//!
//! That headers are never rewritten under a worker is the concern of [`gguf::cache::link_slice`], which counts links.

use super::departed::Departed;
use super::observed::{Fault, Installed, Observed, Progress, Running, State, Stop, Work, WorkerPhase};
use super::suspects::{DEVICE_SUSPECT, Suspects};
use super::{Desired, InForce, Slot};
use std::collections::BTreeMap;

/// A shard that no assignment names finishes its running sequences.
pub const DRAIN_LIMIT_MS: u64 = 30_000;
/// A shard in whose place another one of its model waits to be loaded: until that serves, nobody has an answer.
pub const REPLACE_LIMIT_MS: u64 = 2_000;
/// A killed worker is gone in moments; if its end is not heard, it is killed again.
const KILL_AGAIN_MS: u64 = 5_000;
/// Reading the largest slice from the slowest disk.
pub const LOAD_LIMIT_MS: u64 = 15 * 60 * 1000;
/// A worker that says it failed ends by itself; if not, it is ended.
const FAILED_LIMIT_MS: u64 = 5_000;

/// What everything is desired and observed by.
pub type DesiredShards = BTreeMap<Slot, Desired>;
/// What is known of each slot.
pub type ObservedShards = BTreeMap<Slot, Observed>;

/// One thing to do for one slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Begin to track the slot, for what is desired of it.
    Adopt,
    /// Start work.
    Start(Work),
    /// Hand the worker the envelope in force and the next stage.
    Install(Installed),
    /// Ask the worker to finish and end.
    Drain {
        /// How long it may take.
        limit_ms: u64,
    },
    /// End the worker now.
    Kill,
    /// The device may compute what is wrong: end the worker now, or start none, and say why.
    Condemn(Fault),
    /// The wait is over.
    Retry,
    /// Nothing is left of the shard.
    Forget,
}

/// What to do now, at most one action per slot. Carry out each, [`begin`] it, and ask again until nothing is left.
pub fn step(
    desired: &DesiredShards,
    observed: &ObservedShards,
    suspects: &Suspects,
    now_ms: u64,
) -> Vec<(Slot, Action)> {
    let world = World {
        desired,
        observed,
        suspects,
        now_ms,
    };
    let mut actions: Vec<(Slot, Action)> = observed
        .iter()
        .filter_map(|(slot, seen)| Some((slot.clone(), world.next(slot, seen)?)))
        .collect();
    world.adopt(&mut actions);
    actions
}

/// Remembers where placements have each shard, for the time when none has it any more.
pub fn remember(observed: &mut ObservedShards, desired: &DesiredShards) {
    for (slot, seen) in observed {
        if let Some(place) = desired.get(slot).and_then(Desired::place) {
            seen.place = place;
        }
    }
}

/// Marks an action as begun.
pub fn begin(
    observed: &mut ObservedShards,
    departed: &mut Departed,
    desired: &DesiredShards,
    (slot, action): (&Slot, &Action),
    now_ms: u64,
) {
    match action {
        Action::Adopt => {
            if let Some(wanted) = desired.get(slot) {
                let mut seen = Observed::new(wanted);
                departed.comes_back(slot, &mut seen, now_ms);
                observed.insert(slot.clone(), seen);
            }
        }
        Action::Forget => {
            if let Some(seen) = observed.remove(slot) {
                departed.leaves(slot, &seen, now_ms);
            }
        }
        action => {
            if let Some(seen) = observed.get_mut(slot) {
                if let Some(in_force) = desired.get(slot).and_then(|wanted| wanted.in_force.as_ref()) {
                    seen.epoch = seen.epoch.max(in_force.epoch);
                }
                begin_on(seen, action, now_ms);
            }
        }
    }
}

fn begin_on(seen: &mut Observed, action: &Action, now_ms: u64) {
    match (action, &mut seen.state) {
        (Action::Start(work), state) => *state = State::Busy(*work),
        (Action::Install(offered), State::Running(running)) => running.installing = Some(offered.clone()),
        (Action::Drain { limit_ms }, State::Running(running)) => {
            running.stop = Some(Stop {
                since_ms: now_ms,
                limit_ms: *limit_ms,
                killed: false,
                failed: false,
            });
        }
        (Action::Kill, State::Running(running)) => kill(running, now_ms),
        (Action::Condemn(fault), state) => condemn(state, fault, now_ms),
        (Action::Retry, state) => {
            if let State::Failed { resume, .. } = state {
                *state = State::Idle(*resume);
            }
        }
        _ => {}
    }
}

fn kill(running: &mut Running, now_ms: u64) {
    running.stop = Some(Stop {
        since_ms: now_ms,
        limit_ms: KILL_AGAIN_MS,
        killed: true,
        // Without a wish before it, only its own failing is a reason.
        failed: running.stop.is_none_or(|stop| stop.failed),
    });
}

fn condemn(state: &mut State, fault: &Fault, now_ms: u64) {
    match state {
        State::Running(running) => {
            kill(running, now_ms);
            running.condemned = Some(Box::new(fault.clone()));
        }
        State::Idle(resume) => {
            *state = State::Failed {
                fault: fault.clone(),
                resume: *resume,
                retry_at_ms: now_ms,
                memory: None,
            };
        }
        State::Busy(_) | State::Failed { .. } => {}
    }
}

struct World<'a> {
    desired: &'a DesiredShards,
    observed: &'a ObservedShards,
    suspects: &'a Suspects,
    now_ms: u64,
}

impl World<'_> {
    fn next(&self, slot: &Slot, seen: &Observed) -> Option<Action> {
        let lives = seen.running().is_some_and(|running| running.condemned.is_none());
        if let Some(fault) = self.suspicion(seen).filter(|_| lives) {
            return Some(Action::Condemn(fault.clone()));
        }
        match self.desired.get(slot) {
            Some(wanted) if is_older(wanted, seen) => None,
            Some(wanted) if wanted.loads() => self.keep(slot, seen, wanted),
            Some(_) => self.lay_down(slot, seen),
            None => self.end(slot, seen, Some(Action::Forget)),
        }
    }

    /// Towards nothing.
    fn end(&self, slot: &Slot, seen: &Observed, at_rest: Option<Action>) -> Option<Action> {
        match &seen.state {
            State::Running(running) => match running.stop {
                Some(stop) => self.overdue(stop),
                None if self.is_waited_for(slot, seen) => Some(Action::Drain {
                    limit_ms: REPLACE_LIMIT_MS,
                }),
                None => Some(Action::Drain {
                    limit_ms: DRAIN_LIMIT_MS,
                }),
            },
            // Its task is told by the drive and reports soon.
            State::Busy(_) => None,
            State::Idle(_) | State::Failed { .. } => at_rest,
        }
    }

    /// Towards files on the disk, and no worker.
    fn lay_down(&self, slot: &Slot, seen: &Observed) -> Option<Action> {
        match &seen.state {
            State::Idle(Progress::New) => Some(Action::Start(Work::Fetch)),
            State::Idle(Progress::Fetched) => Some(Action::Start(Work::Verify)),
            State::Failed { retry_at_ms, .. } => self.retry(*retry_at_ms),
            _ => self.end(slot, seen, None),
        }
    }

    /// Towards a worker that is loaded, and serves where it shall.
    fn keep(&self, slot: &Slot, seen: &Observed, wanted: &Desired) -> Option<Action> {
        match &seen.state {
            State::Idle(Progress::New) => Some(Action::Start(Work::Fetch)),
            State::Idle(Progress::Fetched) => Some(Action::Start(Work::Verify)),
            State::Idle(Progress::Verified) => Some(Action::Start(Work::Prepare)),
            State::Idle(Progress::Prepared) => match self.suspicion(seen) {
                Some(fault) => Some(Action::Condemn(fault.clone())),
                None => (!self.device_in_use(slot, seen)).then_some(Action::Start(Work::Spawn)),
            },
            State::Busy(_) => None,
            State::Running(running) => self.supervise(running, wanted),
            // Nothing is tried before the device is ready again. Meanwhile the operator finds another place.
            State::Failed { fault, .. } if fault.reason == DEVICE_SUSPECT && self.suspicion(seen).is_some() => None,
            State::Failed { retry_at_ms, .. } => self.retry(*retry_at_ms),
        }
    }

    /// Why no worker may be on the shard's device, or on one of its group, where that is so.
    fn suspicion(&self, seen: &Observed) -> Option<&Fault> {
        seen.slice.devices().find_map(|device| self.suspects.get(device))
    }

    fn retry(&self, at_ms: u64) -> Option<Action> {
        (self.now_ms >= at_ms).then_some(Action::Retry)
    }

    fn supervise(&self, running: &Running, wanted: &Desired) -> Option<Action> {
        if let Some(stop) = running.stop {
            return self.overdue(stop);
        }
        let age_ms = self.now_ms.saturating_sub(running.since_ms);
        match running.phase {
            WorkerPhase::Loading if age_ms > LOAD_LIMIT_MS => return Some(Action::Kill),
            // Its supervisor gives it a shorter time to be heard, and ends it.
            WorkerPhase::Starting | WorkerPhase::Draining => return None,
            WorkerPhase::Failed => return (age_ms > FAILED_LIMIT_MS).then_some(Action::Kill),
            WorkerPhase::Loading | WorkerPhase::Serving => {}
        }
        if running.installing.is_some() {
            return None;
        }
        let offer = offer(running, wanted.in_force.as_ref()?)?;
        let waiting = running
            .refused
            .as_ref()
            .is_some_and(|refusal| refusal.offered == offer && self.now_ms < refusal.retry_at_ms);
        (!waiting).then_some(Action::Install(offer))
    }

    fn overdue(&self, stop: Stop) -> Option<Action> {
        (self.now_ms.saturating_sub(stop.since_ms) >= stop.limit_ms).then_some(Action::Kill)
    }

    /// A worker that must end is still on this shard's device.
    fn device_in_use(&self, slot: &Slot, seen: &Observed) -> bool {
        self.observed.iter().any(|(other_slot, other)| {
            other_slot != slot && other.holds_memory() && other.slice.meets(&seen.slice) && !self.is_kept(other_slot)
        })
    }

    fn is_kept(&self, slot: &Slot) -> bool {
        self.desired.get(slot).is_some_and(Desired::loads)
    }

    /// Another shard of the model shall be loaded on this one's device and is not there yet.
    fn is_waited_for(&self, slot: &Slot, seen: &Observed) -> bool {
        self.desired.iter().any(|(other, wanted)| {
            other != slot
                && other.model_uid == slot.model_uid
                && wanted.loads()
                && wanted.slice.meets(&seen.slice)
                && !self.observed.get(other).is_some_and(Observed::holds_memory)
        })
    }

    /// Begins what is desired and not yet tracked.
    fn adopt(&self, actions: &mut Vec<(Slot, Action)>) {
        let untracked = self.desired.keys().filter(|slot| !self.observed.contains_key(slot));
        actions.extend(untracked.map(|slot| (slot.clone(), Action::Adopt)));
    }
}

/// A shard never goes back to a lower epoch.
fn is_older(wanted: &Desired, seen: &Observed) -> bool {
    let in_force = wanted.in_force.as_ref();
    in_force.is_some_and(|in_force| in_force.epoch < seen.epoch)
}

/// What the worker should be handed, if it has not got it.
fn offer(running: &Running, in_force: &InForce) -> Option<Installed> {
    let held = running.installed.as_ref();
    // A route that is not known at the moment is no reason to forget the last one, as long as it leads to the same stage.
    let known = held.filter(|held| held.pipeline_epoch == in_force.pipeline_epoch);
    let offer = Installed {
        epoch: in_force.epoch,
        pipeline_epoch: in_force.pipeline_epoch,
        next: in_force.next.clone().or_else(|| known?.next.clone()),
    };
    match held {
        Some(held) if held.epoch > offer.epoch => None,
        held => (held != Some(&offer)).then_some(offer),
    }
}

#[cfg(test)]
mod tests;
