//! What the operator and people are told of the shards. Pure.

use super::observed::{Observed, Progress, Refusal, State, UNREACHABLE, Work, WorkerPhase};
use super::step::{DesiredShards, ObservedShards};
use super::{Desired, Slot};
use proto::control::v1::{ShardPhase, ShardStatus};

/// A shard on a device, as `DeviceGPUState` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Name of the DeviceGPUState.
    pub device: String,
    /// Namespace of the model.
    pub namespace: String,
    /// Name of the model.
    pub model: String,
    /// "0-9".
    pub layers: String,
    /// What it may use.
    pub memory_bytes: u64,
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

/// The status of every slot. `progress` tells of the work a slot is busy with.
pub fn statuses(
    desired: &DesiredShards,
    observed: &ObservedShards,
    progress: impl Fn(&Slot) -> Done,
) -> Vec<ShardStatus> {
    observed
        .iter()
        .map(|(slot, seen)| status(slot, desired.get(slot), seen, progress(slot)))
        .collect()
}

fn status(slot: &Slot, wanted: Option<&Desired>, seen: &Observed, progress: Done) -> ShardStatus {
    let kept = wanted.filter(|wanted| wanted.slice == seen.slice);
    let mut status = ShardStatus {
        model_uid: slot.model_uid.clone(),
        epoch: kept.map_or(seen.epoch, |wanted| wanted.epoch),
        pipeline: slot.pipeline,
        stage: slot.stage,
        ..ShardStatus::default()
    };
    let phase = match &seen.state {
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
        State::Idle(_) if kept.is_none() => ShardPhase::Draining,
        State::Idle(_) | State::Busy(Work::Prepare | Work::Spawn) => ShardPhase::Loading,
        State::Running(_) => running(&mut status, kept, seen),
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

/// A worker serves when it listens, has accepted the newest placement and knows whom to pass its results to.
fn running(status: &mut ShardStatus, kept: Option<&Desired>, seen: &Observed) -> ShardPhase {
    let Some(running) = seen.running() else {
        return ShardPhase::Loading;
    };
    if let Some(measured) = &running.measured {
        status.memory = measured.memory;
        status.pressure.clone_from(&measured.pressure);
        status.pace = measured.pace;
    }
    let Some(wanted) = kept.filter(|_| running.stop.is_none()) else {
        return ShardPhase::Draining;
    };
    match running.phase {
        WorkerPhase::Draining => return ShardPhase::Draining,
        WorkerPhase::Starting | WorkerPhase::Loading | WorkerPhase::Failed => return ShardPhase::Loading,
        WorkerPhase::Serving => {}
    }
    status.endpoint = running.endpoint.clone().unwrap_or_default();
    let said_no = |refusal: &&Refusal| refusal.offered.epoch == wanted.epoch && refusal.fault.reason != UNREACHABLE;
    if let Some(refusal) = running.refused.as_ref().filter(said_no) {
        status.reason.clone_from(&refusal.fault.reason);
        status.message.clone_from(&refusal.fault.message);
        return ShardPhase::Failed;
    }
    match &running.installed {
        Some(held) if held.epoch == wanted.epoch && (seen.slice.is_tail() || held.next.is_some()) => {
            ShardPhase::Serving
        }
        Some(held) if held.epoch == wanted.epoch => {
            status.reason = "WaitingForNext".to_owned();
            status.message = "the next stage does not serve yet".to_owned();
            ShardPhase::Loading
        }
        _ => ShardPhase::Loading,
    }
}

/// What the devices hold.
pub fn holdings(desired: &DesiredShards, observed: &ObservedShards) -> Vec<Holding> {
    observed
        .iter()
        .filter(|(_, seen)| seen.holds_memory())
        .filter_map(|(slot, seen)| {
            let wanted = desired.get(slot)?;
            Some(Holding {
                device: seen.slice.device.clone(),
                namespace: wanted.model.0.clone(),
                model: wanted.model.1.clone(),
                layers: format!("{}-{}", seen.slice.first_layer, seen.slice.end_layer - 1),
                memory_bytes: wanted.memory_budget_bytes,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
