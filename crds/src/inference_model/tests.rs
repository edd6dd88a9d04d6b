use serde_json::{Value, json};

use super::*;

/// A model with the parts of the spec that a test wants otherwise.
fn model(spec: Value) -> InferenceModel {
    let mut merged = json!({"source": {"uri": "file:///models/model.gguf"}});
    if let (Value::Object(into), Value::Object(from)) = (&mut merged, spec) {
        into.extend(from);
    }
    serde_json::from_value(json!({
        "apiVersion": "shardwright.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": "m", "namespace": "default"},
        "spec": merged,
    }))
    .expect("an InferenceModel")
}

fn refused(spec: Value) -> String {
    model(spec).validate_cel().expect_err("the rules refuse it").to_string()
}

#[test]
fn a_source_alone_is_enough_and_the_rest_has_defaults() {
    let model = model(json!({}));
    model.validate_cel().expect("admitted");
    assert_eq!((model.spec.context_length, model.spec.parallel_sequences), (2048, 4));
    assert_eq!(
        (model.spec.kv_type, model.spec.objective),
        (KvType::F16, Objective::Latency)
    );
    assert_eq!(model.spec.placement, PlacementConstraints::default());
}

#[test]
fn a_full_spec_is_admitted() {
    model(json!({
        "source": {"uri": "file:///models/a..b.gguf", "sha256": "0f".repeat(32)},
        "contextLength": 4096,
        "parallelSequences": 8,
        "kvType": "Q8_0",
        "objective": "Throughput",
        "placement": {
            "minDevices": 3,
            "maxDevices": 3,
            "allowSoftwareDevices": true,
            "vendors": ["amd", "mesa"],
            "nodeSelector": {"zone": "a"},
            "pinnedLayers": [{"backend": "vulkan", "minLayers": 2, "maxLayers": 4}, {"node": "node-b"}],
        },
    }))
    .validate_cel()
    .expect("admitted");
}

#[test]
fn every_rule_refuses_with_a_message_that_names_the_field() {
    let cases = [
        (
            json!({"source": {"uri": "https://example.org/model.gguf"}}),
            "spec.source.uri must be a file:// URI with an absolute path",
        ),
        (
            json!({"source": {"uri": "file://models/model.gguf"}}),
            "spec.source.uri must be a file:// URI with an absolute path",
        ),
        (
            json!({"source": {"uri": "file:///models/../etc/shadow"}}),
            "spec.source.uri must not contain a '..' segment",
        ),
        (
            json!({"source": {"uri": "file:///m.gguf", "sha256": "ABC"}}),
            "spec.source.sha256 must be 64 lower-case hexadecimal digits",
        ),
        (
            json!({"contextLength": 1_048_576, "parallelSequences": 17}),
            "spec.contextLength times spec.parallelSequences must be at most 16777216 tokens",
        ),
        (
            json!({"placement": {"minDevices": 3, "maxDevices": 2}}),
            "spec.placement.minDevices must not exceed spec.placement.maxDevices",
        ),
        (
            json!({"placement": {"pinnedLayers": [{"minLayers": 2}]}}),
            "spec.placement.pinnedLayers must name a backend, a node or a device",
        ),
        (
            json!({"placement": {"pinnedLayers": [{"backend": "cpu", "minLayers": 4, "maxLayers": 2}]}}),
            "spec.placement.pinnedLayers: minLayers must not exceed maxLayers",
        ),
    ];
    for (spec, message) in cases {
        let errors = refused(spec.clone());
        assert!(errors.contains(message), "{spec}: {errors}");
    }
}

#[test]
fn the_example_of_the_documentation_is_a_model_that_the_rules_admit() {
    let text = include_str!("../../../docs/examples/inferencemodel-smollm2.yaml");
    let example: InferenceModel = serde_saphyr::from_str(text).expect("an InferenceModel");
    example.validate_cel().expect("admitted");
    let placement = &example.spec.placement;
    assert_eq!((placement.min_devices, placement.allow_software_devices), (3, true));
    let pins = placement.pinned_layers.as_deref().expect("pins");
    assert_eq!(pins[0].backend.as_deref(), Some("vulkan"));
    assert_eq!((pins[0].min_layers, pins[0].max_layers), (2, Some(4)));
}

#[test]
fn a_status_without_anything_is_written_as_nothing() {
    let empty = serde_json::to_value(InferenceModelStatus::default()).expect("JSON");
    assert_eq!(empty, json!({}));
}
