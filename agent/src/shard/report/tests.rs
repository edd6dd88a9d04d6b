use super::super::Slice;
use super::super::observed::{Event, Fault, Installed};
use super::*;
use proto::placement::v1::Runtime;
use std::sync::Arc;

fn slot() -> Slot {
    Slot {
        model_uid: "uid".to_owned(),
        pipeline: 0,
        stage: 0,
    }
}

/// The first of two stages, in epoch 3.
fn desired() -> DesiredShards {
    let slice = Slice {
        index: gguf::Digest([0; 32]),
        first_layer: 0,
        end_layer: 10,
        total_layers: 20,
        stages: 2,
        device: "node-cpu0".to_owned(),
        backend: "cpu".to_owned(),
        runtime: Runtime::default(),
        weight_root: [0; 32],
    };
    let desired = Desired {
        slice,
        epoch: 3,
        envelope: Arc::default(),
        uri: String::new(),
        access: crate::source::Access::default(),
        peers: vec![],
        model: ("ns".to_owned(), "model".to_owned()),
        memory_budget_bytes: 8,
        next: None,
    };
    [(slot(), desired)].into()
}

fn done() -> Done {
    Done {
        bytes: 4,
        total_bytes: 9,
        note: "fetching".to_owned(),
    }
}

fn observed(events: &[Event]) -> ObservedShards {
    let mut seen = Observed::new(&desired()[&slot()]);
    for event in events {
        if let Event::Done(work) | Event::WorkFailed(work, _) = event {
            seen.state = State::Busy(*work);
        }
        seen.apply(event.clone(), 1, 0.0);
    }
    [(slot(), seen)].into()
}

fn report(events: &[Event]) -> ShardStatus {
    statuses(&desired(), &observed(events), |_| done()).remove(0)
}

fn serving(next: Option<&str>) -> Vec<Event> {
    let endpoint = Some("a:1".to_owned());
    let installed = Installed {
        epoch: 3,
        next: next.map(str::to_owned),
    };
    vec![
        Event::Done(Work::Spawn),
        Event::Status {
            phase: WorkerPhase::Serving,
            endpoint,
        },
        Event::Accepted(installed),
    ]
}

#[test]
fn a_stage_serves_once_it_knows_whom_to_pass_its_results_to_and_its_endpoint_is_known_before() {
    let waiting = report(&serving(None));
    assert_eq!(
        (waiting.phase(), waiting.reason.as_str()),
        (ShardPhase::Loading, "WaitingForNext")
    );
    assert_eq!(waiting.endpoint, "a:1");
    let ready = report(&serving(Some("b:2")));
    assert_eq!((ready.phase(), ready.epoch), (ShardPhase::Serving, 3));
}

#[test]
fn a_worker_that_has_not_taken_the_placement_does_not_serve() {
    assert_eq!(report(&serving(None)[..2]).phase(), ShardPhase::Loading);
    let mut events = serving(None);
    events[2] = Event::Refused(Installed { epoch: 3, next: None }, Fault::new("Expired", "too late"));
    let refused = report(&events);
    assert_eq!(
        (refused.phase(), refused.reason.as_str()),
        (ShardPhase::Failed, "Expired")
    );
    events[2] = Event::Refused(Installed { epoch: 3, next: None }, Fault::new(UNREACHABLE, "not yet"));
    assert_eq!(report(&events).phase(), ShardPhase::Loading);
}

#[test]
fn work_tells_its_progress_and_failures_their_reason() {
    let mut busy = observed(&[]);
    busy.values_mut()
        .for_each(|seen| seen.state = State::Busy(Work::Verify));
    let status = statuses(&desired(), &busy, |_| done()).remove(0);
    assert_eq!(
        (status.phase(), status.bytes_done, status.bytes_total),
        (ShardPhase::Verifying, 4, 9)
    );
    let failed = report(&[Event::WorkFailed(Work::Fetch, Fault::new("DiskFull", "make room"))]);
    assert_eq!(
        (failed.phase(), failed.reason.as_str(), failed.message.as_str()),
        (ShardPhase::Failed, "DiskFull", "make room")
    );
}

#[test]
fn what_is_not_desired_drains_and_is_held_no_more_in_the_devices_object() {
    let seen = observed(&serving(Some("b:2")));
    assert_eq!(holdings(&desired(), &seen)[0].layers, "0-9");
    let nothing = DesiredShards::new();
    assert_eq!(
        statuses(&nothing, &seen, |_| Done::default())[0].phase(),
        ShardPhase::Draining
    );
    assert!(holdings(&nothing, &seen).is_empty());
}

#[test]
fn what_a_worker_says_of_its_memory_and_its_pace_is_passed_on() {
    use super::super::observed::Measured;
    let memory = proto::control::v1::MemoryUse {
        weights_bytes: 1,
        kv_bytes: 2,
        compute_bytes: 3,
    };
    let pace = proto::control::v1::ObservedPace {
        decode_token_ns: 4,
        decode_samples: 200,
        ..Default::default()
    };
    let status = report(&[
        Event::Done(Work::Spawn),
        Event::Measured(Measured {
            memory: Some(memory),
            pressure: "EvictingPrefixes".to_owned(),
            pace: Some(pace),
        }),
    ]);
    assert_eq!(
        (status.memory, status.pressure.as_str(), status.pace),
        (Some(memory), "EvictingPrefixes", Some(pace))
    );
}

#[test]
fn what_a_worker_took_before_it_was_refused_is_passed_on_after_its_end() {
    use super::super::observed::Measured;
    let memory = proto::control::v1::MemoryUse {
        weights_bytes: 1,
        kv_bytes: 2,
        compute_bytes: 3,
    };
    let measured = Measured {
        memory: Some(memory),
        ..Measured::default()
    };
    let refused = report(&[
        Event::Done(Work::Spawn),
        Event::Measured(measured),
        Event::Exited(Fault::new("InsufficientMemory", "too large")),
    ]);
    assert_eq!(
        (refused.phase(), refused.reason.as_str(), refused.memory),
        (ShardPhase::Failed, "InsufficientMemory", Some(memory))
    );
    let unmeasured = report(&[
        Event::Done(Work::Spawn),
        Event::Exited(Fault::new("InsufficientMemory", "an allocation failed")),
    ]);
    assert_eq!((unmeasured.phase(), unmeasured.memory), (ShardPhase::Failed, None));
}
