use std::sync::Arc;

use crds::conditions::find;
use k8s_openapi::jiff::Timestamp;
use proto::control::v1::ShardPhase;

use super::*;
use crate::model::inspect::Failure;
use crate::model::{fixture, stages};

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

struct Case {
    model: InferenceModel,
    resolution: Resolution,
    resolved: Option<ResolvedModel>,
    unreachable: Option<Why>,
    learned: Option<LearnedMemory>,
    placed: Placed,
    yielded: Option<Yielded>,
    held: Option<&'static str>,
    away: Away,
    in_force: Option<(InForce, Vec<StageSight>)>,
}

impl Case {
    /// Resolved and placed on two nodes, which report the given phases.
    fn placed(phases: [ShardPhase; 2]) -> Self {
        let in_force = fixture::in_force(4, &["a", "b"]);
        let mut agents = fixture::agents(&["a", "b"]);
        for (stage, (node, phase)) in ["a", "b"].into_iter().zip(phases).enumerate() {
            fixture::report(&mut agents, node, 4, stage as u32, phase);
        }
        let sights = stages::look(&in_force, &agents);
        Self {
            model: fixture::model(),
            resolution: Resolution::Resolved(Arc::new(fixture::facts())),
            resolved: Some(resolved_model(&fixture::facts())),
            unreachable: None,
            learned: None,
            placed: Placed::Yes,
            yielded: None,
            held: None,
            away: Away::default(),
            in_force: Some((in_force, sights)),
        }
    }

    fn unresolved(resolution: Resolution) -> Self {
        Self {
            model: fixture::model(),
            resolution,
            resolved: None,
            unreachable: None,
            learned: None,
            placed: Placed::NotYet(Why::new(reason::NOT_RESOLVED, "the source is not known yet")),
            yielded: None,
            held: None,
            away: Away::default(),
            in_force: None,
        }
    }

    fn status(&self) -> InferenceModelStatus {
        self.after(None, &at(1))
    }

    fn after(&self, previous: Option<&InferenceModelStatus>, now: &Time) -> InferenceModelStatus {
        let sight = Sight {
            model: &self.model,
            resolution: &self.resolution,
            resolved: self.resolved.as_ref(),
            unreachable: self.unreachable.as_ref(),
            learned: self.learned,
            learned_pace: &[],
            placed: &self.placed,
            yielded: self.yielded.as_ref(),
            note: None,
            held: self.held,
            unheard: None,
            away: &self.away,
            recovery: (ConditionStatus::Unknown, Why::new("NotServing", "")),
            in_force: self
                .in_force
                .as_ref()
                .map(|(in_force, sights)| (in_force, sights.as_slice())),
        };
        status(&sight, previous, now)
    }
}

fn condition(status: &InferenceModelStatus, kind: &str) -> (String, String, String) {
    let condition = find(&status.conditions, kind).unwrap();
    (
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    )
}

fn brief(status: &InferenceModelStatus, kind: &str) -> (String, String) {
    let (value, reason, _) = condition(status, kind);
    (value, reason)
}

fn pair(value: &str, reason: &str) -> (String, String) {
    (value.into(), reason.into())
}

#[test]
fn every_condition_is_set_from_the_first_visit_with_the_generation() {
    let status = Case::unresolved(Resolution::NoAgent).status();
    for kind in kind::ALL {
        assert_eq!(
            find(&status.conditions, kind).unwrap().observed_generation,
            Some(1),
            "{kind}"
        );
    }
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(brief(&status, kind::RESOLVED), pair("Unknown", "NoAgent"));
    assert_eq!(brief(&status, kind::READY), pair("False", "NoAgent"));
    assert_eq!(brief(&status, kind::LOADED), pair("Unknown", "NotPlaced"));
}

#[test]
fn all_stages_serving_is_ready_with_an_endpoint() {
    let status = Case::placed([ShardPhase::Serving; 2]).status();
    for kind in [kind::RESOLVED, kind::PLACED, kind::LOADED, kind::READY] {
        assert_eq!(condition(&status, kind).0, "True", "{kind}");
    }
    assert_eq!(brief(&status, kind::DEGRADED), pair("False", "AsExpected"));
    assert_eq!(status.stages_ready.as_deref(), Some("2/2"));
    assert_eq!(status.endpoint.as_deref(), Some("a:7000"));
    assert_eq!(status.placement.unwrap().stages[1].phase, StagePhase::Serving);
}

#[test]
fn a_stage_that_loads_is_named() {
    let status = Case::placed([ShardPhase::Serving, ShardPhase::Loading]).status();
    let (value, why, message) = condition(&status, kind::READY);
    assert_eq!((value.as_str(), why.as_str()), ("False", "Loading"));
    assert_eq!(message, "1 of 2 stages serve; stage 1 on b-cpu0 loads");
    assert_eq!((status.stages_ready.as_deref(), status.endpoint), (Some("1/2"), None));
}

#[test]
fn stages_that_fetch_say_how_far_they_are() {
    let mut case = Case::placed([ShardPhase::Fetching, ShardPhase::Verifying]);
    let bytes = |done, total| crate::model::progress::Bytes { total, done };
    case.in_force.as_mut().unwrap().1[0].bytes = bytes(29_000_000, 61 << 20);
    let (_, why, message) = condition(&case.status(), kind::LOADED);
    assert_eq!(why, "Fetching");
    assert_eq!(
        message,
        "a: layers 0-2, 45 % of 61.0 MiB; b: layers 3-5, verifies its weights"
    );
    case.in_force.as_mut().unwrap().1[1].bytes = bytes(1, 2);
    assert!(
        condition(&case.status(), kind::LOADED)
            .2
            .ends_with("b: layers 3-5, 50 % of 2 B verified")
    );
}

#[test]
fn the_memory_of_a_loaded_stage_and_its_pressure_are_shown() {
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    let sight = &mut case.in_force.as_mut().unwrap().1[0];
    sight.memory = Some(proto::control::v1::MemoryUse {
        weights_bytes: 1,
        kv_bytes: 2,
        compute_bytes: u64::MAX,
    });
    sight.pressure = "EvictingPrefixes".into();
    case.learned = Some(LearnedMemory {
        compute_bytes: 212 << 20,
        estimated_compute_bytes: 180 << 20,
        ..Default::default()
    });
    let status = case.status();
    assert!(
        condition(&status, kind::PLACED)
            .2
            .contains("measured 212.0 MiB, estimated 180.0 MiB")
    );
    assert_eq!(status.learned, case.learned);
    let stages = status.placement.unwrap().stages;
    let used = stages[0].memory_used_bytes.unwrap();
    assert_eq!((used.weights, used.kv, used.compute), (1, 2, i64::MAX));
    assert_eq!(stages[0].pressure.as_deref(), Some("EvictingPrefixes"));
    assert_eq!((stages[1].memory_used_bytes, &stages[1].pressure), (None, &None));
}

#[test]
fn a_stage_that_was_refused_its_memory_tells_both_figures() {
    let mut case = Case::placed([ShardPhase::Serving, ShardPhase::Failed]);
    let sight = &mut case.in_force.as_mut().unwrap().1[1];
    sight.reason = "InsufficientMemory".into();
    sight.memory = Some(proto::control::v1::MemoryUse {
        weights_bytes: 40 << 20,
        ..Default::default()
    });
    let (_, _, message) = condition(&case.status(), kind::LOADED);
    assert_eq!(
        message,
        "stage 1 on b-cpu0 failed: InsufficientMemory (measured 40.0 MiB, the placement allows 30.0 MiB)"
    );
}

#[test]
fn a_secret_that_is_missing_is_why_the_source_is_not_resolved_and_what_serves_goes_on() {
    let mut case = Case::unresolved(Resolution::NoAgent);
    case.unreachable = Some(Why::new(
        reason::SECRET_NOT_FOUND,
        "Secret default/access does not exist",
    ));
    assert_eq!(brief(&case.status(), kind::RESOLVED), pair("False", "SecretNotFound"));
    assert_eq!(brief(&case.status(), kind::READY), pair("False", "SecretNotFound"));
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    case.unreachable = Some(Why::new(
        reason::SECRET_NOT_FOUND,
        "Secret default/access does not exist",
    ));
    assert_eq!(brief(&case.status(), kind::RESOLVED), pair("False", "SecretNotFound"));
    assert_eq!(brief(&case.status(), kind::READY), pair("True", "Serving"));
}

#[test]
fn a_stage_that_failed_is_named_with_its_reason() {
    let status = Case::placed([ShardPhase::Serving, ShardPhase::Failed]).status();
    assert_eq!(
        condition(&status, kind::LOADED).2,
        "stage 1 on b-cpu0 failed: OutOfMemory"
    );
    assert_eq!(brief(&status, kind::READY), pair("False", "LoadFailed"));
    assert_eq!(brief(&status, kind::DEGRADED), pair("True", "LoadFailed"));
}

#[test]
fn a_stage_whose_worker_crashes_by_habit_gives_the_model_that_reason_and_says_how_often() {
    let mut case = Case::placed([ShardPhase::Serving, ShardPhase::Failed]);
    let sight = &mut case.in_force.as_mut().unwrap().1[1];
    sight.reason = "CrashLoop".into();
    sight.message = "the worker ended 5 times within 31 s".into();
    let status = case.status();
    for kind in [kind::LOADED, kind::READY] {
        assert_eq!(brief(&status, kind), pair("False", "CrashLoop"));
    }
    assert_eq!(brief(&status, kind::DEGRADED), pair("True", "CrashLoop"));
    assert_eq!(
        condition(&status, kind::READY).2,
        "stage 1 on b-cpu0 failed: CrashLoop: the worker ended 5 times within 31 s"
    );
}

#[test]
fn the_first_thing_that_is_missing_is_why_a_model_is_not_ready() {
    let failure = Failure {
        reason: "Truncated".into(),
        message: "node a: 10 bytes are missing".into(),
    };
    let status = Case::unresolved(Resolution::Failed(failure)).status();
    assert_eq!(brief(&status, kind::RESOLVED), pair("False", "Truncated"));
    assert_eq!(condition(&status, kind::READY).2, "node a: 10 bytes are missing");

    let mut case = Case::placed([ShardPhase::Serving; 2]);
    case.placed = Placed::No(Why::new(reason::INSUFFICIENT_MEMORY, "12 bytes short"));
    case.in_force = None;
    let status = case.status();
    assert_eq!(brief(&status, kind::PLACED), pair("False", "InsufficientMemory"));
    assert_eq!(brief(&status, kind::READY), pair("False", "InsufficientMemory"));
    assert!(status.stages_ready.is_none() && status.placement.is_none());
}

#[test]
fn an_older_placement_that_still_serves_is_degraded_and_not_ready() {
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    case.placed = Placed::No(Why::new(reason::INSUFFICIENT_MEMORY, "12 bytes short"));
    let status = case.status();
    assert_eq!(brief(&status, kind::READY), pair("False", "InsufficientMemory"));
    let (value, _, message) = condition(&status, kind::DEGRADED);
    assert_eq!(value, "True");
    assert!(
        message.contains("epoch 4, of an earlier specification, still serves"),
        "{message}"
    );
    assert_eq!(status.endpoint.as_deref(), Some("a:7000"));
}

#[test]
fn a_lost_node_is_degraded_and_names_its_stage() {
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    case.in_force.as_mut().unwrap().1[1].attached = false;
    case.placed = Placed::No(Why::new(reason::INSUFFICIENT_MEMORY, "12 bytes short"));
    let status = case.status();
    assert_eq!(brief(&status, kind::DEGRADED), pair("True", "StageLost"));
    assert_eq!(brief(&status, kind::LOADED), pair("False", "StageLost"));
    assert!(condition(&status, kind::LOADED).2.starts_with("stage 1 on b-cpu0"));
}

#[test]
fn a_stage_whose_agent_is_away_is_told_with_since_when_and_then_with_where_its_layers_are_loaded() {
    const AWAY: &str = "stage 1 on b-cpu0: the node's agent is not attached since 1970-01-01T00:00:07Z";
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    let (before, sights) = case.in_force.as_mut().unwrap();
    let agents = fixture::agents(&["a"]);
    *sights = stages::look(before, &agents);
    case.away.look(Some(&*before), &agents, None, at(7).0);
    let lost = case.after(None, &at(7));
    for kind in [kind::LOADED, kind::DEGRADED] {
        let told = ("StageLost".to_owned(), AWAY.to_owned());
        let (_, reason, message) = condition(&lost, kind);
        assert_eq!((reason, message), told, "{kind}");
    }
    assert!(
        !differ(&lost, &case.after(Some(&lost), &at(600))),
        "time alone changes nothing"
    );

    let after = fixture::in_force(5, &["a", "c"]);
    let sights = stages::look(&after, &fixture::agents(&["a", "c"]));
    case.in_force = Some((after, sights));
    let replaced = case.after(Some(&lost), &at(601));
    assert_eq!(brief(&replaced, kind::LOADED), pair("False", "Loading"));
    let (value, reason, message) = condition(&replaced, kind::DEGRADED);
    assert_eq!((value, reason), pair("True", "StageLost"));
    assert_eq!(
        message,
        format!("{AWAY}; its layers are loaded in epoch 5: 3-5 on c-cpu0")
    );
    case.away.forget();
    assert_eq!(
        brief(&case.after(Some(&replaced), &at(602)), kind::DEGRADED),
        pair("False", "AsExpected")
    );
}

#[test]
fn a_link_that_is_down_is_told_with_both_its_ends_while_both_serve() {
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    let head = &mut case.in_force.as_mut().unwrap().1[0];
    (head.reason, head.message) = (reason::LINK_DOWN.into(), "no connection within 5000 ms".into());
    let status = case.status();
    assert_eq!(brief(&status, kind::DEGRADED), pair("True", "LinkDown"));
    assert_eq!(
        condition(&status, kind::DEGRADED).2,
        "the link from a to b is down: stage 0 on a-cpu0 does not reach stage 1 on b-cpu0: no connection within 5000 ms"
    );
}

#[test]
fn transition_times_move_only_with_the_status_and_alone_are_no_difference() {
    let case = Case::placed([ShardPhase::Serving; 2]);
    let first = case.after(None, &at(1));
    let second = case.after(Some(&first), &at(2));
    assert_eq!(first, second);
    assert!(!differ(&first, &case.after(None, &at(3))));
    let lost = Case::placed([ShardPhase::Serving, ShardPhase::Failed]).after(Some(&first), &at(4));
    assert!(differ(&first, &lost));
    assert_eq!(find(&lost.conditions, kind::READY).unwrap().last_transition_time, at(4));
    assert_eq!(
        find(&lost.conditions, kind::PLACED).unwrap().last_transition_time,
        at(1)
    );
}

/// Two replicas, on a and b and on c, of which these nodes serve.
fn two_replicas(serving: &[&str]) -> Case {
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    case.model.spec.replicas = 2;
    let in_force = fixture::replicas(4, &[&["a", "b"], &["c"]]);
    let mut agents = fixture::agents(&["a", "b", "c"]);
    for (node, at) in [("a", (0, 0)), ("b", (0, 1)), ("c", (1, 0))] {
        if serving.contains(&node) {
            fixture::report_of(&mut agents, node, 4, at, ShardPhase::Serving);
        } else {
            agents.remove(node);
        }
    }
    let sights = stages::look(&in_force, &agents);
    case.in_force = Some((in_force, sights));
    case
}

#[test]
fn all_replicas_serving_is_ready_and_nothing_is_degraded() {
    let status = two_replicas(&["a", "b", "c"]).status();
    assert_eq!(
        condition(&status, kind::READY),
        ("True".into(), "Serving".into(), "2 of 2 replicas serve epoch 4".into())
    );
    assert_eq!(brief(&status, kind::DEGRADED), pair("False", "AsExpected"));
    assert_eq!(status.replicas_ready.as_deref(), Some("2/2"));
    assert_eq!(status.stages_ready.as_deref(), Some("3/3"));
    assert!(condition(&status, kind::PLACED).2.contains("2 replicas, 3 stages"));
}

#[test]
fn one_replica_of_two_answers_and_what_is_lost_is_told() {
    let mut case = two_replicas(&["a", "c"]);
    for placed in [
        Placed::Yes,
        Placed::Fewer(Why::new(
            "TooFewDevices",
            "1 of 2 replicas fits; the second: needs 2 devices",
        )),
    ] {
        case.placed = placed;
        let status = case.status();
        assert_eq!(brief(&status, kind::READY), pair("True", "Serving"));
        assert_eq!(brief(&status, kind::LOADED), pair("False", "StageLost"));
        assert_eq!(brief(&status, kind::DEGRADED), pair("True", "StageLost"));
        let (.., message) = condition(&status, kind::DEGRADED);
        assert!(message.starts_with("1 of 2 replicas serves; "), "{message}");
        assert!(
            message.contains("replica 0, stage 1 on b-cpu0: the node's agent is not attached"),
            "{message}"
        );
        assert_eq!(status.endpoint.as_deref(), Some("c:7000"));
        assert_eq!(status.replicas_ready.as_deref(), Some("1/2"));
    }
    assert!(
        condition(&case.status(), kind::PLACED)
            .2
            .contains("1 of 2 replicas fits")
    );
    case.model.spec.replicas = 3;
    assert_eq!(case.status().replicas_ready.as_deref(), Some("1/3"));
}

#[test]
fn without_any_whole_replica_requests_are_not_answered() {
    let status = two_replicas(&["a"]).status();
    assert_eq!(condition(&status, kind::READY).0, "False");
    assert_eq!(status.endpoint, None);
}

#[test]
fn a_model_on_held_devices_serves_and_is_degraded_and_says_what_to_do() {
    let mut case = Case::placed([ShardPhase::Serving; 2]);
    case.held = Some("b-cpu0 is not healthy; what serves there stays");
    let status = case.status();
    assert_eq!(condition(&status, kind::READY).0, "True");
    assert_eq!(condition(&status, kind::PLACED).0, "True");
    let (degraded, reason, message) = condition(&status, kind::DEGRADED);
    assert_eq!(
        (degraded.as_str(), reason.as_str()),
        ("True", reason::QUARANTINE_LIMIT_REACHED)
    );
    assert_eq!(message, "b-cpu0 is not healthy; what serves there stays");
    // A loss does not hide it.
    let mut case = Case::placed([ShardPhase::Failed, ShardPhase::Serving]);
    case.held = Some("held");
    let (_, reason, message) = condition(&case.status(), kind::DEGRADED);
    assert_eq!(reason, reason::QUARANTINE_LIMIT_REACHED);
    assert!(message.starts_with("held; stage 0 on a-cpu0 failed"), "{message}");
}
