//! Events on transitions (pure), and where they go without holding anybody up.

pub use apiclient::events::Note;
use apiclient::events::Queue;
use crds::conditions::{ConditionStatus, find, model as kind, reason};
use crds::{InferenceModel, InferenceModelStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::call;
use crate::metrics::Metrics;

/// Events that wait to be sent: a change of every model of a large installation at once.
const QUEUE: usize = 256;

/// The transitions between two statuses of a model.
#[must_use]
pub fn transitions(before: Option<&InferenceModelStatus>, after: &InferenceModelStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    let was = |kind: &str| before.and_then(|status| find(&status.conditions, kind));
    let epoch = |status: &InferenceModelStatus| status.placement.as_ref().map(|placement| placement.epoch);
    let (yes, no) = (ConditionStatus::True.as_str(), ConditionStatus::False.as_str());
    for condition in &after.conditions {
        let old = was(&condition.type_);
        let turned = old.map(|old| old.status.as_str()) != Some(&condition.status);
        let new_reason = turned || old.map(|old| &old.reason) != Some(&condition.reason);
        let (warning, action) = match (condition.type_.as_str(), condition.status.as_str()) {
            (kind::RESOLVED, status) if status == yes && turned => (false, "Resolve"),
            (kind::RESOLVED, status) if status == no && new_reason => (true, "Resolve"),
            (kind::PLACED, status) if status == yes && before.and_then(epoch) != epoch(after) => (false, "Place"),
            (kind::PLACED, status) if status == no && new_reason => (true, "Place"),
            (kind::LOADED, status) if status == no && new_reason && has_failed(&condition.reason) => (true, "Load"),
            (kind::READY, status) if status == yes && turned => (false, "Serve"),
            (kind::READY, status) if status == no && turned && old.is_some_and(|old| old.status == yes) => {
                (true, "Serve")
            }
            (kind::DEGRADED, status)
                if status == yes && new_reason && condition.reason == reason::QUARANTINE_LIMIT_REACHED =>
            {
                (true, "Hold")
            }
            // These stand for the moment until the layers are elsewhere.
            (kind::DEGRADED, status) if status == yes && new_reason && condition.reason == reason::LINK_DOWN => {
                (true, "Leave")
            }
            (kind::DEGRADED, status) if status == yes && new_reason && condition.reason == reason::STAGE_LOST => {
                (true, "Replace")
            }
            _ => continue,
        };
        let new = Note::new(warning, &condition.reason, action, &condition.message);
        // Ready repeats the reason of whatever keeps it from being true.
        if !notes
            .iter()
            .any(|note: &Note| note.reason == new.reason && note.message == new.message)
        {
            notes.push(new);
        }
    }
    notes
}

/// Of a stage that failed, and not of one that is on its way.
fn has_failed(reason: &str) -> bool {
    [reason::LOAD_FAILED, reason::CRASH_LOOP].contains(&reason)
}

/// Where notes go.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Queue,
    context: Context,
}

impl Events {
    /// Sends until `stop`.
    #[must_use]
    pub fn start(context: &Context, stop: CancellationToken) -> Self {
        let reporter = Reporter {
            controller: "shardwright.dev/operator".to_owned(),
            instance: Some(context.names.pod_name.clone()),
        };
        let recorder = Recorder::new(context.client.0.clone(), reporter);
        let metrics = context.metrics.clone();
        let send = move |event, about| send(recorder.clone(), metrics.clone(), event, about);
        Self {
            queue: Queue::start(QUEUE, stop, send),
            context: context.clone(),
        }
    }

    /// Queues; drops and counts when too many wait.
    pub fn publish(&self, model: &InferenceModel, notes: Vec<Note>) {
        self.publish_about(&model.object_ref(&()), notes);
    }

    /// The same about any object.
    pub fn publish_about(&self, about: &ObjectReference, notes: impl IntoIterator<Item = Note>) {
        for note in notes {
            if self.queue.push(note, about.clone()).is_err() {
                self.context.metrics.events_dropped.inc();
            }
        }
    }
}

async fn send(recorder: Recorder, metrics: Metrics, event: Event, about: ObjectReference) {
    if let Err(error) = call("publish Event", recorder.publish(&event, &about)).await {
        metrics.errors.with_label_values(&[error.category()]).inc();
        tracing::warn!(%error, reason = event.reason, "an event is lost");
    }
}

#[cfg(test)]
mod tests {
    use crds::conditions::{NewCondition, set_condition};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn status(of: &[(&str, ConditionStatus, &str)]) -> InferenceModelStatus {
        let mut status = InferenceModelStatus::default();
        for (kind, value, reason) in of {
            let new = NewCondition {
                kind,
                status: *value,
                reason,
                message: "m",
            };
            set_condition(&mut status.conditions, new, Some(1), &Time(Timestamp::UNIX_EPOCH));
        }
        status
    }

    fn reasons(before: Option<&InferenceModelStatus>, after: &InferenceModelStatus) -> Vec<(bool, String)> {
        transitions(before, after)
            .into_iter()
            .map(|note| (note.warning, note.reason))
            .collect()
    }

    #[test]
    fn a_model_that_merely_begins_says_nothing() {
        let begun = status(&[
            (kind::RESOLVED, ConditionStatus::Unknown, "Inspecting"),
            (kind::READY, ConditionStatus::False, "Inspecting"),
        ]);
        assert!(reasons(None, &begun).is_empty());
    }

    #[test]
    fn transitions_are_told_and_repetitions_are_not() {
        let serving = status(&[(kind::READY, ConditionStatus::True, "Serving")]);
        let loading = status(&[(kind::READY, ConditionStatus::False, "StageLost")]);
        assert_eq!(reasons(Some(&loading), &serving), [(false, "Serving".into())]);
        assert_eq!(reasons(Some(&serving), &loading), [(true, "StageLost".into())]);
        assert!(reasons(Some(&serving), &serving).is_empty());
        assert!(reasons(Some(&loading), &loading).is_empty());
    }

    #[test]
    fn a_hold_a_lost_stage_and_a_link_that_is_down_are_told_of_what_is_degraded_and_fewer_replicas_are_not() {
        let sound = status(&[(kind::DEGRADED, ConditionStatus::False, "AsExpected")]);
        let fewer = status(&[(kind::DEGRADED, ConditionStatus::True, "FewerReplicas")]);
        assert!(reasons(Some(&sound), &fewer).is_empty());
        let lost = status(&[(kind::DEGRADED, ConditionStatus::True, "StageLost")]);
        let held = status(&[(kind::DEGRADED, ConditionStatus::True, "QuarantineLimitReached")]);
        assert_eq!(reasons(Some(&sound), &lost), [(true, "StageLost".into())]);
        assert!(reasons(Some(&lost), &lost).is_empty());
        assert_eq!(reasons(Some(&lost), &held), [(true, "QuarantineLimitReached".into())]);
        assert!(reasons(Some(&held), &held).is_empty());
        let apart = status(&[(kind::DEGRADED, ConditionStatus::True, "LinkDown")]);
        assert_eq!(reasons(Some(&sound), &apart), [(true, "LinkDown".into())]);
        assert!(reasons(Some(&apart), &apart).is_empty());
    }

    #[test]
    fn a_stage_that_failed_is_told_and_once_more_when_it_fails_by_habit_and_one_that_loads_is_not() {
        let not_loaded = |reason| status(&[(kind::LOADED, ConditionStatus::False, reason)]);
        let [loading, failed, habit] = ["Loading", "LoadFailed", "CrashLoop"].map(not_loaded);
        assert!(reasons(None, &loading).is_empty());
        assert_eq!(reasons(Some(&loading), &failed), [(true, "LoadFailed".into())]);
        assert_eq!(reasons(Some(&failed), &habit), [(true, "CrashLoop".into())]);
        assert!(reasons(Some(&habit), &habit).is_empty());
    }

    #[test]
    fn another_reason_for_the_same_failure_is_told_again() {
        let short = status(&[(kind::PLACED, ConditionStatus::False, "InsufficientMemory")]);
        let pinned = status(&[(kind::PLACED, ConditionStatus::False, "PinUnsatisfiable")]);
        assert_eq!(reasons(None, &short), [(true, "InsufficientMemory".into())]);
        assert_eq!(reasons(Some(&short), &pinned), [(true, "PinUnsatisfiable".into())]);
    }

    #[test]
    fn one_cause_is_told_once_even_if_two_conditions_name_it() {
        let serving = status(&[
            (kind::PLACED, ConditionStatus::True, "Placed"),
            (kind::READY, ConditionStatus::True, "Serving"),
        ]);
        let (no, why) = (ConditionStatus::False, "TooFewDevices");
        let lost = status(&[(kind::PLACED, no, why), (kind::READY, no, why)]);
        assert_eq!(reasons(Some(&serving), &lost), [(true, why.into())]);
    }
}
