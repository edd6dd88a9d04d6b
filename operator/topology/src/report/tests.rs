use serde_json::{Value, json};

use super::*;

fn state(spec: &Value, conditions: &Value) -> DeviceGPUState {
    serde_json::from_value(json!({
        "apiVersion": "shardwright.dev/v1alpha1",
        "kind": "DeviceGPUState",
        "metadata": {"name": "node-a-vulkan0"},
        "spec": spec,
        "status": {
            "node": "node-a", "vendor": "mesa", "model": "llvmpipe", "backend": "vulkan", "backendIndex": 0,
            "kind": "Software", "memoryPool": "node-a-host",
            "memoryTotalBytes": 1000, "memoryFreeBytes": 900, "memoryUsableBytes": 800,
            "bandwidthBytesPerSecond": {"value": 5, "measuredAt": "2026-01-02T03:04:05Z", "samples": 3},
            "bandwidthPrior": {"bytesPerSecond": 9, "source": "a table"},
            "launchNs": {"value": 6_001, "measuredAt": "2026-01-02T03:04:05Z", "samples": 3},
            "conditions": conditions,
        },
    }))
    .expect("a DeviceGPUState")
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": "R", "message": message,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    })
}

#[test]
fn what_the_agent_and_the_administrator_wrote_is_taken_over() {
    let object = state(
        &json!({"cordoned": true, "maxMemoryPercent": 50}),
        &json!([condition("Verified", "True", ""), condition("Healthy", "True", "")]),
    );
    let report = DeviceReport::from_state(&object).expect("a report");
    assert_eq!(
        (report.name.as_str(), report.node.as_str()),
        ("node-a-vulkan0", "node-a")
    );
    assert_eq!((report.kind, report.memory_usable_bytes), (Kind::Software, 800));
    assert_eq!(
        (report.bandwidth_bytes_per_second, report.launch_us),
        (Some(5), Some(7))
    );
    assert_eq!(report.prior_bandwidth_bytes_per_second, Some(9));
    assert_eq!((report.cordoned, report.max_memory_percent), (true, Some(50)));
    assert_eq!((report.verified, report.fault, report.throttled), (true, None, false));
    assert_eq!((report.barred, report.no_new_layers), (None, None));
}

#[test]
fn products_of_halves_count_before_those_of_singles() {
    let measured = |fields: &Value| {
        let mut object = serde_json::to_value(state(&json!({}), &json!([]))).expect("JSON");
        let status = object["status"].as_object_mut().expect("a status");
        status.extend(fields.as_object().expect("fields").clone());
        let report = DeviceReport::from_state(&serde_json::from_value(object).expect("a DeviceGPUState"));
        let report = report.expect("a report");
        (report.flops_per_second, report.temperature_celsius)
    };
    let value = |value: u64| json!({"value": value, "measuredAt": "2026-01-02T03:04:05Z", "samples": 3});
    assert_eq!(measured(&json!({})), (None, None));
    let singles = json!({"f32FlopsPerSecond": value(7), "temperatureCelsius": 60});
    assert_eq!(measured(&singles), (Some(7), Some(60)));
    let both = json!({"f32FlopsPerSecond": value(7), "f16FlopsPerSecond": value(9)});
    assert_eq!(measured(&both), (Some(9), None));
}

fn report(conditions: &Value) -> DeviceReport {
    DeviceReport::from_state(&state(&json!({}), conditions)).expect("a report")
}

#[test]
fn a_device_is_verified_only_where_a_condition_says_so() {
    let silent = report(&json!([]));
    assert_eq!((silent.verified, silent.fault), (false, None));
    let failed = report(&json!([condition("Verified", "False", "changed")]));
    assert!(!failed.verified);
}

#[test]
fn a_device_that_has_yet_to_be_verified_keeps_what_it_has() {
    let open = report(&json!([condition("Verified", "Unknown", "busy")]));
    assert_eq!((open.verified, open.fault.as_deref()), (true, None));
    assert_eq!(open.no_new_layers.as_deref(), Some("is not ready (R: busy)"));
    assert_eq!(open.for_what_it_holds().no_new_layers, None);
}

#[test]
fn a_fault_drives_layers_away_and_says_why() {
    let sick = report(&json!([
        condition("Verified", "Unknown", ""),
        condition("Healthy", "False", "ECC"),
        condition("Ready", "False", "ECC"),
    ]));
    assert_eq!((sick.fault.as_deref(), sick.no_new_layers), (Some("R: ECC"), None));
}

#[test]
fn a_device_that_was_given_away_must_be_left_and_one_that_is_unready_gets_nothing_new() {
    let ready = |reason: &str| {
        report(&json!([
            condition("Verified", "True", ""),
            condition("Healthy", "True", ""),
            {
                "type": "Ready", "status": "False", "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            },
        ]))
    };
    for away in ["Foreign", "Unclaimed"] {
        let told = ready(away);
        assert_eq!(told.barred, Some(format!("is not ours to use ({away}: m)")));
        assert_eq!((told.fault, told.no_new_layers), (None, None));
    }
    let hot = ready("SensorInvalid");
    assert_eq!(hot.no_new_layers.as_deref(), Some("is not ready (SensorInvalid: m)"));
    assert_eq!((hot.fault, hot.barred), (None, None));
}

#[test]
fn heat_is_no_fault() {
    let hot = report(&json!([
        condition("Verified", "True", ""),
        condition("Throttled", "True", "hot")
    ]));
    assert_eq!(
        (hot.throttled, hot.fault, hot.barred, hot.no_new_layers),
        (true, None, None, None)
    );
    let open = report(&json!([condition("Throttled", "Unknown", "")]));
    assert!(!open.throttled);
}

#[test]
fn taints_are_handed_on_and_those_that_only_keep_new_layers_away_do_not_count_for_layers_that_are_there() {
    let well = json!([condition("Verified", "True", "")]);
    let taints = json!({"taints": [
        {"key": "repair", "value": "fan", "effect": "NoPlace"},
        {"key": "example.com/lent", "effect": "Evict"},
    ]});
    let told = DeviceReport::from_state(&state(&taints, &well)).expect("a report");
    let written = |report: &DeviceReport| report.taints.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(written(&told), ["repair=fan:NoPlace", "example.com/lent:Evict"]);
    assert_eq!((&told.barred, &told.no_new_layers, &told.fault), (&None, &None, &None));
    assert_eq!(written(&told.for_what_it_holds()), ["example.com/lent:Evict"]);
}

#[test]
fn an_object_without_a_status_reports_nothing() {
    let mut object = state(&json!({}), &json!([]));
    object.status = None;
    assert_eq!(DeviceReport::from_state(&object), None);
}
