//! What the operator and people are told of the shards. Pure.

use super::observed::{Observed, Progress, Refusal, Running, State, UNREACHABLE, Work, WorkerPhase};
use super::step::{DesiredShards, ObservedShards};
use super::{Desired, Place, Purpose, Slot};
use crds::conditions::reason;
use proto::control::v1::{self as wire, ShardPhase, ShardStatus};
use std::collections::BTreeSet;

/// A shard on a device, as `DeviceGPUState` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Name of the DeviceGPUState, or of the group of devices.
    pub device: String,
    /// Namespace of the model.
    pub namespace: String,
    /// Name of the model.
    pub model: String,
    /// "0-9".
    pub layers: String,
    /// What it may use, on all devices together.
    pub memory_bytes: u64,
}

/// A worker that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// What it holds.
    pub slot: Slot,
    /// The same, for people.
    pub holding: Holding,
}

/// How far the work has come that a slot is busy with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// What is going on, for a person.
    pub note: String,
}

/// The status of every slot, once for each place that a placement has it at: in force in one, loaded for the next one.
/// `progress` tells of the work a slot is busy with.
pub fn statuses(
    desired: &DesiredShards,
    observed: &ObservedShards,
    progress: impl Fn(&Slot) -> Done,
) -> Vec<ShardStatus> {
    let mut statuses = Vec::new();
    for (slot, seen) in observed {
        let wanted = desired.get(slot);
        let places = wanted.map_or(std::slice::from_ref(&seen.place), |wanted| &wanted.places);
        let told = places
            .iter()
            .map(|place| status(slot, place, wanted, seen, progress(slot)));
        statuses.extend(told);
    }
    statuses
}

fn status(slot: &Slot, place: &Place, wanted: Option<&Desired>, seen: &Observed, progress: Done) -> ShardStatus {
    let mut status = ShardStatus {
        model_uid: slot.model_uid.clone(),
        epoch: place.epoch,
        pipeline: place.pipeline,
        stage: place.stage,
        purpose: wire::Purpose::from(place.purpose).into(),
        ..ShardStatus::default()
    };
    let stands_by = wanted.is_some() && place.purpose == Purpose::Fetch;
    let phase = match &seen.state {
        _ if stands_by && seen.is_on_disk() => ShardPhase::Fetched,
        State::Busy(work @ (Work::Fetch | Work::Verify)) => {
            (status.bytes_done, status.bytes_total) = (progress.bytes, progress.total_bytes);
            status.message = progress.note;
            if *work == Work::Fetch {
                ShardPhase::Fetching
            } else {
                ShardPhase::Verifying
            }
        }
        State::Idle(Progress::New) => ShardPhase::Fetching,
        State::Idle(Progress::Fetched) => ShardPhase::Verifying,
        State::Idle(_) if wanted.is_none() => ShardPhase::Draining,
        State::Idle(_) | State::Busy(Work::Prepare | Work::Spawn) => ShardPhase::Loading,
        State::Running(worker) => running(&mut status, place, wanted, seen, worker),
        State::Failed { fault, memory, .. } => {
            status.memory = *memory;
            status.reason.clone_from(&fault.reason);
            status.message.clone_from(&fault.message);
            ShardPhase::Failed
        }
    };
    status.phase = phase.into();
    status
}

/// A worker is loaded when it listens. It serves when it has accepted the newest placement, too, and knows whom to pass its
/// results to.
fn running(
    status: &mut ShardStatus,
    place: &Place,
    wanted: Option<&Desired>,
    seen: &Observed,
    running: &Running,
) -> ShardPhase {
    if let Some(measured) = &running.measured {
        status.memory = measured.memory;
        status.pressure.clone_from(&measured.pressure);
        status.pace = measured.pace;
    }
    let Some(wanted) = wanted.filter(|wanted| running.stop.is_none() && wanted.loads()) else {
        return ShardPhase::Draining;
    };
    match running.phase {
        WorkerPhase::Draining => return ShardPhase::Draining,
        WorkerPhase::Starting | WorkerPhase::Loading | WorkerPhase::Failed => return ShardPhase::Loading,
        WorkerPhase::Serving => {}
    }
    status.endpoint = running.endpoint.clone().unwrap_or_default();
    let Some(in_force) = wanted.in_force.as_ref().filter(|_| place.purpose == Purpose::Serve) else {
        return ShardPhase::Loaded;
    };
    let said_no = |refusal: &&Refusal| refusal.offered.epoch == in_force.epoch && refusal.fault.reason != UNREACHABLE;
    if let Some(refusal) = running.refused.as_ref().filter(said_no) {
        status.reason.clone_from(&refusal.fault.reason);
        status.message.clone_from(&refusal.fault.message);
        return ShardPhase::Failed;
    }
    match &running.installed {
        Some(held) if held.epoch == in_force.epoch && (seen.slice.is_tail() || held.next.is_some()) => {
            // What was measured of an address that the next stage has left says nothing of the one it has now.
            let is_of_now = in_force.next.is_none() || held.next == in_force.next;
            let measured = running.measured.as_ref().filter(|_| is_of_now);
            if let Some(cause) = measured.and_then(|measured| measured.next_unreachable.as_ref()) {
                status.reason = reason::LINK_DOWN.to_owned();
                status.message.clone_from(cause);
            }
            ShardPhase::Serving
        }
        Some(held) if held.epoch == in_force.epoch => {
            status.reason = "WaitingForNext".to_owned();
            status.message = "the next stage does not serve yet".to_owned();
            ShardPhase::Loading
        }
        _ => ShardPhase::Loading,
    }
}

/// The workers that serve.
pub fn serving(desired: &DesiredShards, observed: &ObservedShards) -> Vec<Serving> {
    let serves = |(slot, seen): &(&Slot, &Observed)| {
        let wanted = desired.get(*slot);
        let places = wanted.iter().flat_map(|wanted| &wanted.places);
        places
            .map(|place| status(slot, place, wanted, seen, Done::default()).phase())
            .any(|phase| phase == ShardPhase::Serving)
    };
    let found = observed.iter().filter(serves);
    let told = found.map(|(slot, seen)| {
        let (slot, holding) = (slot.clone(), holding(desired.get(slot)?, seen));
        Some(Serving { slot, holding })
    });
    told.flatten().collect()
}

/// What the devices hold.
pub fn holdings(desired: &DesiredShards, observed: &ObservedShards) -> Vec<Holding> {
    observed
        .iter()
        .filter(|(_, seen)| seen.holds_memory())
        .filter_map(|(slot, seen)| Some(holding(desired.get(slot)?, seen)))
        .collect()
}

/// The devices onto which layers are about to be loaded, since they lie on the disk, or are being loaded.
pub fn loading(desired: &DesiredShards, observed: &ObservedShards) -> BTreeSet<String> {
    let is_loaded_next = |(slot, seen): &(&Slot, &Observed)| {
        let is_under_way = |running: &Running| matches!(running.phase, WorkerPhase::Starting | WorkerPhase::Loading);
        desired.get(*slot).is_some_and(Desired::loads) && seen.is_on_disk() && seen.running().is_none_or(is_under_way)
    };
    let found = observed.iter().filter(is_loaded_next);
    found
        .flat_map(|(_, seen)| seen.slice.devices().map(str::to_owned))
        .collect()
}

/// The devices on which something is that is not desired any more, and is about to end.
pub fn leaving(desired: &DesiredShards, observed: &ObservedShards) -> BTreeSet<String> {
    let leaves = |(slot, seen): &(&Slot, &Observed)| seen.holds_memory() && !desired.contains_key(*slot);
    let found = observed.iter().filter(leaves);
    found
        .flat_map(|(_, seen)| seen.slice.devices().map(str::to_owned))
        .collect()
}

fn holding(wanted: &Desired, seen: &Observed) -> Holding {
    Holding {
        device: seen.slice.device.clone(),
        namespace: wanted.model.0.clone(),
        model: wanted.model.1.clone(),
        layers: format!("{}-{}", seen.slice.first_layer, seen.slice.end_layer - 1),
        memory_bytes: wanted.memory_budget_bytes,
    }
}

#[cfg(test)]
mod tests;
