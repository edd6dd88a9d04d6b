use super::*;
use apiclient::events::MESSAGE_BYTES_MAX;
use crds::conditions::{NewCondition, set_condition};
use crds::{DeviceKind, HeldShard};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

const YES: ConditionStatus = ConditionStatus::True;
const NO: ConditionStatus = ConditionStatus::False;
const OPEN: ConditionStatus = ConditionStatus::Unknown;

fn status(of: &[(&str, ConditionStatus, &str)], shards: usize) -> DeviceGPUStateStatus {
    let mut status: DeviceGPUStateStatus = serde_json::from_value(serde_json::json!({
        "node": "n", "vendor": "nvidia", "model": "m", "backend": "cuda", "backendIndex": 0,
        "kind": DeviceKind::Discrete, "memoryPool": "p",
        "memoryTotalBytes": 0, "memoryFreeBytes": 0, "memoryUsableBytes": 0,
    }))
    .unwrap();
    for (kind, value, reason) in of {
        let new = NewCondition {
            kind,
            status: *value,
            reason,
            message: reason,
        };
        set_condition(&mut status.conditions, new, Some(1), &Time(Timestamp::UNIX_EPOCH));
    }
    let shard = HeldShard {
        model: "m".into(),
        namespace: "d".into(),
        layers: "0-1".into(),
        memory_bytes: 1,
    };
    status.shards = vec![shard; shards];
    status
}

fn reasons(before: Option<&DeviceGPUStateStatus>, after: &DeviceGPUStateStatus) -> Vec<(bool, String)> {
    transitions(before, after)
        .into_iter()
        .map(|note| (note.warning, note.reason))
        .collect()
}

fn healthy(value: ConditionStatus, reason: &str) -> DeviceGPUStateStatus {
    let ready = if value == YES {
        (kind::READY, YES, "Available")
    } else {
        (kind::READY, NO, reason)
    };
    status(
        &[
            ready,
            (kind::HEALTHY, value, reason),
            (kind::VERIFIED, YES, "SelfTestPassed"),
        ],
        0,
    )
}

#[test]
fn a_device_in_order_is_no_event_when_it_is_first_seen_and_one_in_trouble_is() {
    assert!(reasons(None, &healthy(YES, "NoFault")).is_empty());
    assert!(reasons(None, &healthy(OPEN, "Unproven")).is_empty());
    assert_eq!(reasons(None, &healthy(NO, "ProbeHung")), [(true, "ProbeHung".into())]);
}

#[test]
fn each_turn_is_told_once_and_the_way_back_is_no_warning() {
    let way = [
        healthy(YES, "NoFault"),
        healthy(NO, "FellOffBus"),
        healthy(NO, "FellOffBus"),
        healthy(NO, "Recovering"),
        healthy(NO, "HeldDown"),
        healthy(NO, "Recovering"),
        healthy(YES, "NoFault"),
        healthy(YES, "NoFault"),
    ];
    let told: Vec<(bool, String)> = way
        .windows(2)
        .flat_map(|pair| reasons(Some(&pair[0]), &pair[1]))
        .collect();
    let expected = [
        (true, "FellOffBus"),
        (false, "Recovering"),
        (true, "HeldDown"),
        (false, "Recovering"),
        (false, "Recovered"),
    ];
    assert_eq!(told, expected.map(|(warning, reason)| (warning, reason.to_owned())));
}

#[test]
fn a_failed_test_is_told_once_though_two_conditions_tell_of_it() {
    let failed = status(
        &[
            (kind::HEALTHY, NO, "SelfTestFailed"),
            (kind::VERIFIED, NO, "SelfTestFailed"),
        ],
        0,
    );
    assert_eq!(
        reasons(Some(&healthy(YES, "NoFault")), &failed),
        [(true, "SelfTestFailed".into())]
    );
}

#[test]
fn a_note_about_a_device_in_use_is_told_once_and_its_end_is_not() {
    let (calm, noted) = (healthy(YES, "NoFault"), healthy(YES, "UnknownXid"));
    assert_eq!(reasons(Some(&calm), &noted), [(true, "UnknownXid".into())]);
    assert!(reasons(Some(&noted), &noted).is_empty());
    assert!(reasons(Some(&noted), &calm).is_empty());
}

#[test]
fn a_sensor_that_lies_is_told_and_an_agents_restart_is_not() {
    let calm = healthy(YES, "NoFault");
    assert_eq!(
        reasons(Some(&calm), &healthy(OPEN, "SensorInvalid")),
        [(true, "SensorInvalid".into())]
    );
    assert!(reasons(Some(&calm), &healthy(OPEN, "Unproven")).is_empty());
    assert!(reasons(Some(&healthy(OPEN, "Unproven")), &calm).is_empty());
}

#[test]
fn a_device_that_held_layers_was_preempted_and_an_idle_one_was_merely_given_away() {
    let foreign = |shards| {
        let conditions = [(kind::READY, NO, "Foreign"), (kind::HEALTHY, YES, "NoFault")];
        status(&conditions, shards)
    };
    let ours = |shards| {
        let conditions = [(kind::READY, YES, "Available"), (kind::HEALTHY, YES, "NoFault")];
        status(&conditions, shards)
    };
    let preempted = [(true, "DevicePreempted".to_owned())];
    assert_eq!(reasons(Some(&ours(1)), &foreign(1)), preempted);
    assert_eq!(
        reasons(Some(&ours(1)), &foreign(0)),
        preempted,
        "moved before it was written"
    );
    assert_eq!(reasons(Some(&ours(0)), &foreign(0)), [(false, "Foreign".to_owned())]);
    assert_eq!(
        reasons(Some(&ours(0)), &foreign(1)),
        preempted,
        "placed in the same moment"
    );
    assert!(reasons(Some(&foreign(1)), &foreign(0)).is_empty());
}

#[test]
fn heat_is_told_when_it_begins_to_slow_the_device() {
    let throttled = |value, reason| status(&[(kind::THROTTLED, value, reason)], 0);
    let hot = [(true, "DeviceThrottled".to_owned())];
    assert_eq!(
        reasons(Some(&throttled(NO, "FullSpeed")), &throttled(YES, "Thermal")),
        hot
    );
    assert!(reasons(Some(&throttled(YES, "Thermal")), &throttled(YES, "PowerBrake")).is_empty());
    assert!(reasons(Some(&throttled(YES, "Thermal")), &throttled(NO, "FullSpeed")).is_empty());
}

#[test]
fn a_note_fits_an_event() {
    let mut sick = healthy(NO, "FellOffBus");
    sick.conditions[1].message = "ö".repeat(2000);
    let notes = transitions(None, &sick);
    assert_eq!(notes[0].message.len(), MESSAGE_BYTES_MAX);
}
