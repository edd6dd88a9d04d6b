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
        "backends": ["vulkan", "cuda"],
        "supportLevel": "Untried",
        "clockMHz": 2100,
        "powerLimitWatts": 300,
        "memoryUsedByUsBytes": 1,
        "memoryUsedByOthersBytes": 2,
        "temperatureCelsius": 71,
        "powerWatts": 250,
        "utilisationPercent": 90,
        "throttleReasons": ["Thermal"],
        "eccUncorrected": 1,
        "bandwidthBytesPerSecond": {"value": 9_000_000_000_i64, "measuredAt": "2026-01-02T03:04:05Z", "samples": 8},
        "bandwidthPrior": {"bytesPerSecond": 12_000_000_000_i64, "source": "maker's data sheet"},
        "launchNs": {"value": 900, "measuredAt": "2026-01-02T03:04:05Z", "samples": 8},
        "shards": [{"model": "smollm2", "namespace": "default", "layers": "0-3", "memoryBytes": 5}],
    });
    let read: DeviceGPUStateStatus = serde_json::from_value(status.clone()).expect("a status");
    assert_eq!(serde_json::to_value(&read).expect("JSON"), status);
}

fn refusal(spec: &serde_json::Value) -> String {
    with_spec(spec)
        .validate_cel()
        .expect_err("the rules refuse it")
        .to_string()
}

#[test]
fn a_taint_has_a_name_and_says_which_field_is_wrong_where_it_has_none() {
    let taint = |key: &str, value: &str| json!({"taints": [{"key": key, "value": value, "effect": "Evict"}]});
    with_spec(&taint("example.com/repair", "until-Friday"))
        .validate_cel()
        .expect("admitted");
    let told = refusal(&taint("-repair", "x"));
    assert!(told.contains("spec.taints[0].key"), "{told}");
    let told = refusal(&taint("repair", "until Friday"));
    assert!(told.contains("spec.taints[0].value"), "{told}");
}

#[test]
fn an_effect_that_does_not_exist_is_no_spec() {
    let spec: Result<DeviceGPUStateSpec, _> =
        serde_json::from_value(json!({"taints": [{"key": "a", "effect": "NoSchedule"}]}));
    let error = spec.expect_err("NoSchedule is a word of Pods").to_string();
    assert!(error.contains("NoPlace"), "{error}");
}

/// The schema of `spec` or `status` as it is shipped.
fn schema(part: &str) -> serde_json::Value {
    let crd = serde_json::to_value(<DeviceGPUState as kube::CustomResourceExt>::crd()).expect("JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part].clone()
}

#[test]
fn numbers_and_lists_of_the_spec_are_bounded() {
    let spec = &schema("spec")["properties"];
    assert_eq!(spec["powerLimitWatts"]["maximum"], json!(10_000.0));
    assert_eq!(spec["powerLimitWatts"]["minimum"], json!(1.0));
    assert_eq!(spec["taints"]["maxItems"], json!(16));
    assert_eq!(spec["taints"]["x-kubernetes-list-map-keys"], json!(["key", "effect"]));
}

#[test]
fn every_field_of_the_api_is_described() {
    for part in ["spec", "status"] {
        let properties = schema(part)["properties"].clone();
        for (name, field) in properties.as_object().expect("properties") {
            assert!(field["description"].is_string(), "{part}.{name} says nothing");
        }
    }
}
