//! Events on a device's transitions (pure), and where they go without holding up what is written.

use apiclient::events::{Note, Queue};
use crds::conditions::{self, ConditionStatus, device as kind, reason};
use crds::{DeviceGPUStateStatus, names};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio_util::sync::CancellationToken;

/// Events that wait to be sent: a fault of every device of a large node, and its end.
const QUEUE: usize = 128;

/// What two statuses of a device, written one after the other, have between them. A device that is in order when it is
/// seen for the first time is no event; what was written before an agent's restart is not told again after it.
pub fn transitions(before: Option<&DeviceGPUStateStatus>, after: &DeviceGPUStateStatus) -> Vec<Note> {
    let turned = |kind: &str| -> Option<(Option<&Condition>, &Condition)> {
        let old = before.and_then(|status| conditions::find(&status.conditions, kind));
        let new = conditions::find(&after.conditions, kind)?;
        let same = old.is_some_and(|old| old.status == new.status && old.reason == new.reason);
        (!same).then_some((old, new))
    };
    let mut notes = Vec::new();
    notes.extend(turned(kind::HEALTHY).and_then(|(old, new)| health(old, new)));
    let unhealthy =
        conditions::find(&after.conditions, kind::HEALTHY).is_some_and(|healthy| is(healthy, ConditionStatus::False));
    if let Some((_, new)) = turned(kind::VERIFIED)
        && is(new, ConditionStatus::False)
        && !unhealthy
    {
        notes.push(Note::new(true, &new.reason, "Verify", &new.message));
    }
    if let Some((_, new)) = turned(kind::READY)
        && new.reason == reason::FOREIGN
    {
        // What it holds now is being moved; what it held before may be gone already.
        let held = !after.shards.is_empty() || before.is_some_and(|before| !before.shards.is_empty());
        let name = if held {
            reason::DEVICE_PREEMPTED
        } else {
            reason::FOREIGN
        };
        notes.push(Note::new(held, name, "Yield", &new.message));
    }
    if let Some((old, new)) = turned(kind::THROTTLED)
        && is(new, ConditionStatus::True)
        && !old.is_some_and(|old| is(old, ConditionStatus::True))
    {
        notes.push(Note::new(true, reason::DEVICE_THROTTLED, "Watch", &new.message));
    }
    notes
}

fn health(old: Option<&Condition>, new: &Condition) -> Option<Note> {
    let was = |status| old.is_some_and(|old| is(old, status));
    let warning = if is(new, ConditionStatus::False) {
        new.reason != reason::RECOVERING
    } else if new.reason == reason::NO_FAULT {
        // An end of trouble, or of a mere note.
        let recovered = was(ConditionStatus::False);
        return recovered.then(|| Note::new(false, reason::RECOVERED, "Return", &new.message));
    } else {
        // A note about a device that stays in use, or a sensor that cannot be believed.
        new.reason != reason::UNPROVEN
    };
    // A device that has yet to be verified for the first time is in no trouble.
    (warning || is(new, ConditionStatus::False)).then(|| Note::new(warning, &new.reason, "Watch", &new.message))
}

fn is(condition: &Condition, status: ConditionStatus) -> bool {
    condition.status == status.as_str()
}

/// Where notes go. Equal notes about one device within minutes become one event with a count.
#[derive(Debug, Clone)]
pub struct Events(Queue);

impl Events {
    /// Sends for as long as the value or a clone of it is kept. `instance`: name of this pod.
    pub fn start(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: format!("{}/agent", names::GROUP),
            instance: Some(instance.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        let send = move |event, about| send(recorder.clone(), event, about);
        Self(Queue::start(QUEUE, CancellationToken::new(), send))
    }

    /// Queues; what finds no room is lost, and logged.
    pub fn publish(&self, about: &ObjectReference, notes: Vec<Note>) {
        for note in notes {
            if let Err(error) = self.0.push(note, about.clone()) {
                tracing::warn!(%error, "an event is lost");
            }
        }
    }
}

async fn send(recorder: Recorder, event: Event, about: ObjectReference) {
    if let Err(error) = recorder.publish(&event, &about).await {
        tracing::warn!(%error, reason = event.reason, "an event is lost");
    }
}

#[cfg(test)]
mod tests;
