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
            "launchUs": 7,
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
    assert_eq!((report.cordoned, report.max_memory_percent), (true, Some(50)));
    assert_eq!((report.verified, report.fault), (true, None));
}

#[test]
fn a_device_is_verified_only_where_a_condition_says_so() {
    let silent = DeviceReport::from_state(&state(&json!({}), &json!([]))).expect("a report");
    assert_eq!((silent.verified, silent.fault), (false, None));
    let conditions = json!([
        condition("Verified", "Unknown", ""),
        condition("Healthy", "False", "ECC")
    ]);
    let sick = DeviceReport::from_state(&state(&json!({}), &conditions)).expect("a report");
    assert_eq!((sick.verified, sick.fault.as_deref()), (false, Some("ECC")));
}

#[test]
fn an_object_without_a_status_reports_nothing() {
    let mut object = state(&json!({}), &json!([]));
    object.status = None;
    assert_eq!(DeviceReport::from_state(&object), None);
}
