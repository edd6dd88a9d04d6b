use super::super::observed::{Event, Fault, Installed, Measured};
use super::super::{InForce, Slice};
use super::*;
use proto::placement::v1::Runtime;
use std::sync::Arc;

fn slot() -> Slot {
    Slot::of("uid", &slice())
}

/// The first of two stages.
fn slice() -> Slice {
    Slice {
        index: gguf::Digest([0; 32]),
        first_layer: 0,
        end_layer: 10,
        total_layers: 20,
        device: "node-cpu0".to_owned(),
        backend: "cpu".to_owned(),
        runtime: Runtime::default(),
        weight_root: [0; 32],
    }
}

fn place(epoch: u64, stage: u32, purpose: Purpose) -> Place {
    Place {
        epoch,
        pipeline: 0,
        stage,
        purpose,
    }
}

/// In force in epoch 3.
fn desired() -> DesiredShards {
    let in_force = InForce {
        epoch: 3,
        pipeline_epoch: 3,
        envelope: Arc::default(),
        next: None,
    };
    let desired = Desired {
        slice: slice(),
        places: vec![place(3, 0, Purpose::Serve)],
        in_force: Some(in_force),
        uri: String::new(),
        access: crate::source::Access::default(),
        peers: vec![],
        model: ("ns".to_owned(), "model".to_owned()),
        memory_budget_bytes: 8,
    };
    [(slot(), desired)].into()
}

/// In force nowhere.
fn ahead(places: &[Place]) -> DesiredShards {
    let mut desired = desired();
    let wanted = desired.get_mut(&slot()).unwrap();
    wanted.in_force = None;
    wanted.places = places.to_vec();
    desired
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

fn installed(next: Option<&str>) -> Installed {
    Installed {
        epoch: 3,
        pipeline_epoch: 3,
        next: next.map(str::to_owned),
    }
}

fn serving(next: Option<&str>) -> Vec<Event> {
    let endpoint = Some("a:1".to_owned());
    let installed = installed(next);
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
fn a_worker_that_does_not_reach_the_next_stage_serves_and_says_why() {
    let mut events = serving(Some("b:2"));
    events.push(Event::Measured(Measured {
        next_unreachable: Some("b:2 cannot be reached: no connection within 5000 ms".to_owned()),
        ..Measured::default()
    }));
    let cut = report(&events);
    assert_eq!((cut.phase(), cut.reason.as_str()), (ShardPhase::Serving, "LinkDown"));
    assert!(cut.message.starts_with("b:2 cannot be reached"), "{}", cut.message);
    events.push(Event::Measured(Measured::default()));
    assert_eq!(report(&events).reason, "");
}

#[test]
fn a_worker_that_has_not_taken_the_placement_does_not_serve() {
    assert_eq!(report(&serving(None)[..2]).phase(), ShardPhase::Loading);
    let mut events = serving(None);
    events[2] = Event::Refused(installed(None), Fault::new("Expired", "too late"));
    let refused = report(&events);
    assert_eq!(
        (refused.phase(), refused.reason.as_str()),
        (ShardPhase::Failed, "Expired")
    );
    events[2] = Event::Refused(installed(None), Fault::new(UNREACHABLE, "not yet"));
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

/// Epoch, stage and phase of each status.
fn told(desired: &DesiredShards, observed: &ObservedShards) -> Vec<(u64, u32, ShardPhase)> {
    let statuses = statuses(desired, observed, |_| Done::default());
    let told = |status: &ShardStatus| (status.epoch, status.stage, status.phase());
    statuses.iter().map(told).collect()
}

#[test]
fn a_shard_is_told_of_once_for_each_placement_that_has_it() {
    use ShardPhase::{Fetched, Fetching, Loaded, Loading, Serving};
    let mut desired = desired();
    let wanted = desired.get_mut(&slot()).unwrap();
    wanted
        .places
        .extend([place(4, 2, Purpose::Load), place(5, 1, Purpose::Fetch)]);
    let at = |phases: [ShardPhase; 3]| [(3, 0, phases[0]), (4, 2, phases[1]), (5, 1, phases[2])];
    assert_eq!(told(&desired, &observed(&[])), at([Fetching; 3]));
    let all = serving(Some("b:2"));
    assert_eq!(told(&desired, &observed(&all[..1])), at([Loading, Loading, Fetched]));
    assert_eq!(told(&desired, &observed(&all[..2])), at([Loading, Loaded, Fetched]));
    assert_eq!(told(&desired, &observed(&all)), at([Serving, Loaded, Fetched]));
    let refused = Event::Refused(installed(None), Fault::new("Expired", "too late"));
    let refused = observed(&[&all[..2], &[refused]].concat());
    assert_eq!(told(&desired, &refused), at([ShardPhase::Failed, Loaded, Fetched]));
    let endpoints = statuses(&desired, &observed(&all[..2]), |_| Done::default());
    assert_eq!(endpoints[1].endpoint, "a:1", "known before the cut-over");
}

#[test]
fn a_worker_that_ends_is_loaded_no_more_and_what_stands_by_is_there_whatever_becomes_of_it() {
    let mut seen = observed(&serving(Some("b:2")));
    let State::Running(running) = &mut seen.get_mut(&slot()).unwrap().state else {
        panic!("running")
    };
    running.stop = Some(crate::shard::observed::Stop {
        since_ms: 0,
        limit_ms: 0,
        killed: false,
        failed: false,
    });
    let places = [place(4, 0, Purpose::Load), place(5, 0, Purpose::Fetch)];
    let phases = [(4, 0, ShardPhase::Draining), (5, 0, ShardPhase::Fetched)];
    assert_eq!(told(&ahead(&places), &seen), phases);
    assert_eq!(told(&ahead(&places[1..]), &seen), phases[1..]);
}

#[test]
fn only_what_is_in_force_counts_as_serving() {
    let seen = observed(&serving(Some("b:2")));
    let [one] = &super::serving(&desired(), &seen)[..] else {
        panic!("one worker serves");
    };
    assert_eq!((&one.slot, one.holding.layers.as_str()), (&slot(), "0-9"));
    assert!(super::serving(&ahead(&[place(4, 0, Purpose::Load)]), &seen).is_empty());
    assert!(super::serving(&DesiredShards::new(), &seen).is_empty());
}

#[test]
fn a_device_is_told_as_being_loaded_from_when_its_weights_lie_on_the_disk_until_its_worker_serves() {
    let serves = serving(None);
    let starts = Event::Done(Work::Spawn);
    let reads = Event::Status {
        phase: WorkerPhase::Loading,
        endpoint: None,
    };
    let crashed = Event::Exited(Fault::new("Crashed", "signal 6"));
    let told = |desired: &DesiredShards, events: &[Event]| loading(desired, &observed(events));
    let is_loading = |events: &[Event]| told(&desired(), events).contains("node-cpu0");
    assert!(!is_loading(&[]), "nothing is here yet");
    assert!(!is_loading(&[Event::Done(Work::Fetch)]), "nor verified");
    assert!(is_loading(&[Event::Done(Work::Verify)]));
    assert!(is_loading(std::slice::from_ref(&starts)));
    assert!(is_loading(&[starts.clone(), reads]));
    assert!(is_loading(&[starts, crashed]), "it is started again");
    assert!(!is_loading(&serves));
    let verified = [Event::Done(Work::Verify)];
    assert!(!told(&ahead(&[place(4, 0, Purpose::Load)]), &verified).is_empty());
    let stands_by = ahead(&[place(4, 0, Purpose::Fetch)]);
    assert!(told(&stands_by, &verified).is_empty());
    assert!(told(&DesiredShards::new(), &verified).is_empty());
}

#[test]
fn a_shard_on_a_group_is_held_under_the_groups_name_and_loaded_on_each_of_its_devices() {
    let group = Slice {
        device: "node-cuda0+node-cuda1".to_owned(),
        ..slice()
    };
    let slot = Slot::of("uid", &group);
    let wanted = desired().into_values().map(|wanted| Desired {
        slice: group.clone(),
        ..wanted
    });
    let desired: DesiredShards = wanted.map(|wanted| (slot.clone(), wanted)).collect();
    let mut seen = Observed::new(&desired[&slot]);
    seen.state = State::Busy(Work::Spawn);
    let observed: ObservedShards = [(slot, seen)].into();
    let loaded: Vec<String> = loading(&desired, &observed).into_iter().collect();
    assert_eq!(loaded, ["node-cuda0", "node-cuda1"]);
    assert_eq!(holdings(&desired, &observed)[0].device, "node-cuda0+node-cuda1");
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
    let left: Vec<String> = leaving(&nothing, &seen).into_iter().collect();
    assert_eq!(left, [slice().device], "its device is not free yet");
    assert!(leaving(&desired(), &seen).is_empty());
}

#[test]
fn what_a_worker_says_of_its_memory_and_its_pace_is_passed_on() {
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
            next_unreachable: None,
        }),
    ]);
    assert_eq!(
        (status.memory, status.pressure.as_str(), status.pace),
        (Some(memory), "EvictingPrefixes", Some(pace))
    );
}

#[test]
fn what_a_worker_took_before_it_was_refused_is_passed_on_after_its_end() {
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
