use serde_json::json;

use super::*;

fn with_spec(spec: &serde_json::Value) -> DeviceGPUState {
    serde_json::from_value(json!({
        "apiVersion": "shardwright.dev/v1alpha1",
        "kind": "DeviceGPUState",
        "metadata": {"name": "node-a-cpu0"},
        "spec": spec,
    }))
    .expect("a DeviceGPUState")
}

#[test]
fn an_empty_spec_is_good_and_stays_empty_when_written() {
    let object = with_spec(&json!({}));
    object.validate_cel().expect("admitted");
    assert_eq!(serde_json::to_value(&object.spec).expect("JSON"), json!({}));
}

#[test]
fn a_status_survives_being_written_and_read() {
    let status = json!({
        "observedGeneration": 1,
        "node": "node-a",
        "vendor": "mesa",
        "model": "llvmpipe",
        "backend": "vulkan",
        "backendIndex": 0,
        "kind": "Software",
        "memoryPool": "node-a-host",
        "memoryTotalBytes": 16_i64 << 30,
        "memoryFreeBytes": 8_i64 << 30,
        "memoryUsableBytes": 6_i64 << 30,
        "bandwidthBytesPerSecond": {"value": 9_000_000_000_i64, "measuredAt": "2026-01-02T03:04:05Z", "samples": 8},
        "shards": [{"model": "smollm2", "namespace": "default", "layers": "0-3", "memoryBytes": 5}],
    });
    let read: DeviceGPUStateStatus = serde_json::from_value(status.clone()).expect("a status");
    assert_eq!(serde_json::to_value(&read).expect("JSON"), status);
}
