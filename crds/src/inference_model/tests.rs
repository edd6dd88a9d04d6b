use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::names::{MAX_GROUP_DEVICES, MAX_NAME_BYTES};

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
    assert_eq!(model.spec.priority, 0);
}

#[test]
fn a_full_spec_is_admitted() {
    model(json!({
        "source": {
            "uri": "https://models.example.org/a..b.gguf",
            "sha256": "0f".repeat(32),
            "indexSha256": "0e".repeat(32),
            "secretRef": {"name": "access"},
            "proxyURL": "http://proxy:3128",
        },
        "contextLength": 4096,
        "parallelSequences": 8,
        "kvCacheTokens": 8192,
        "prefixCache": {"maxPrefixes": 4},
        "kvType": "Q8_0",
        "objective": "Throughput",
        "placement": {
            "minDevices": 3,
            "maxDevices": 3,
            "maxGroupDevices": 4,
            "allowSoftwareDevices": true,
            "vendors": ["amd", "mesa"],
            "nodeSelector": {"zone": "a"},
            "pinnedLayers": [{"backend": "vulkan", "minLayers": 2, "maxLayers": 4}, {"node": "node-b"}],
            "tolerations": [
                {"key": "example.com/lent", "value": "lab", "effect": "NoPlace"},
                {"key": "repair", "operator": "Exists"},
                {"operator": "Exists", "effect": "Evict"},
            ],
        },
    }))
    .validate_cel()
    .expect("admitted");
}

#[test]
fn every_rule_refuses_with_a_message_that_names_the_field() {
    let cases = [
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
fn a_toleration_is_refused_by_the_name_of_the_field_that_makes_no_sense() {
    let spec = |toleration: Value| json!({"placement": {"tolerations": [toleration]}});
    let alone: InferenceModel = model(spec(json!({"key": "repair"})));
    let toleration = alone.spec.placement.tolerations.expect("one").remove(0);
    assert_eq!(
        (toleration.operator, toleration.value, toleration.effect),
        (TolerationOperator::Equal, None, None)
    );
    for (toleration, message) in [
        (json!({}), "spec.placement.tolerations[].key must be set"),
        (json!({"value": "fan"}), "spec.placement.tolerations[].key must be set"),
        (
            json!({"key": "repair", "operator": "Exists", "value": "fan"}),
            "spec.placement.tolerations[].value must not be set where operator is Exists",
        ),
        (
            json!({"key": "-repair"}),
            "spec.placement.tolerations[].key must be a name",
        ),
        (
            json!({"key": "repair", "value": "the fan"}),
            "spec.placement.tolerations[].value must be letters",
        ),
    ] {
        let errors = refused(spec(toleration.clone()));
        assert!(errors.contains(message), "{toleration}: {errors}");
    }
    let unknown = json!({"key": "repair", "effect": "NoSchedule"});
    assert!(serde_json::from_value::<Toleration>(unknown).is_err());
}

/// A model of this source, pinned by an index.
fn pinned(uri: &str) -> InferenceModel {
    model(json!({"source": {"uri": uri, "indexSha256": "0f".repeat(32)}}))
}

#[test]
fn every_scheme_is_admitted_in_its_form() {
    for uri in [
        "file:///models/a.gguf",
        "pvc://models/llama/model-00001-of-00003.gguf",
        "https://models.example.org:8443/a/model.gguf",
        "hf://org/Model-1.5_GGUF/sub/model-Q4_K_M.gguf@refs%2Fpr%2F1",
        "hf://org/model/model.gguf",
        "oci://registry.example.org:5000/models/llama:1/model.gguf",
        "oci://registry.example.org/models/llama@sha256:0f/model.gguf",
    ] {
        pinned(uri)
            .validate_cel()
            .unwrap_or_else(|errors| panic!("{uri}: {errors}"));
    }
}

#[test]
fn a_source_in_any_other_form_is_refused_with_what_to_write_instead() {
    for (uri, message) in [
        ("http://example.org/m.gguf", "must not be http://"),
        ("s3://bucket/m.gguf", "must begin with file:///"),
        ("file://models/model.gguf", "must begin with file:///"),
        ("model.gguf", "must begin with file:///"),
        ("pvc://Models/m.gguf", "must be pvc://<claim>/<path>"),
        ("pvc://models/", "must be pvc://<claim>/<path>"),
        ("https:///m.gguf", "must be https://<host>/<path>"),
        ("hf://org/model", "must be hf://<organisation>/<repository>/<file>"),
        (
            "hf://org/model/@main",
            "must be hf://<organisation>/<repository>/<file>",
        ),
        ("oci://registry", "must be oci://<registry>/<repository>"),
        ("https://me:secret@example.org/m.gguf", "must not contain credentials"),
        ("https://example.org/m.gguf#x", "must not contain a fragment"),
        ("https://example.org/m m.gguf", "must not contain white space"),
        ("https://example.org/../m.gguf", "must not contain a '..' segment"),
        ("hf://org/model/model.safetensors@main", "convert_hf_to_gguf.py"),
        ("file:///models/model.safetensors", "convert_hf_to_gguf.py"),
    ] {
        let errors = pinned(uri).validate_cel().expect_err(uri).to_string();
        assert!(
            errors.contains(message) && errors.contains("spec.source.uri"),
            "{uri}: {errors}"
        );
    }
}

#[test]
fn weights_from_the_network_must_be_pinned_and_local_ones_need_not() {
    for uri in ["https://h/m.gguf", "hf://o/r/m.gguf", "oci://h/r:1"] {
        let errors = refused(json!({"source": {"uri": uri}}));
        assert!(errors.contains("kubectl-shardwright model index <uri>"), "{errors}");
        model(json!({"source": {"uri": uri, "sha256": "0f".repeat(32)}}))
            .validate_cel()
            .expect("admitted");
    }
    model(json!({"source": {"uri": "pvc://models/m.gguf"}}))
        .validate_cel()
        .expect("admitted");
}

#[test]
fn how_a_source_is_reached_has_rules_of_its_own() {
    let network = |more: Value| {
        let mut source = json!({"uri": "https://h/m.gguf", "indexSha256": "0f".repeat(32)});
        if let (Value::Object(into), Value::Object(from)) = (&mut source, more) {
            into.extend(from);
        }
        json!({"source": source})
    };
    for proxy in ["http://proxy:3128", "https://proxy.example.org/"] {
        let spec = network(json!({"proxyURL": proxy, "secretRef": {"name": "access"}}));
        model(spec).validate_cel().expect("admitted");
    }
    for (more, message) in [
        (
            json!({"proxyURL": "socks5://proxy:1"}),
            "spec.source.proxyURL must be http://host:port or https://host:port",
        ),
        (
            json!({"proxyURL": "http://me:secret@proxy:1"}),
            "spec.source.proxyURL must not contain credentials",
        ),
        (
            json!({"secretRef": {"name": "Not a name"}}),
            "spec.source.secretRef.name must be the name of a Secret",
        ),
        (
            json!({"indexSha256": "ABC"}),
            "spec.source.indexSha256 must be 64 lower-case hexadecimal digits",
        ),
    ] {
        let errors = refused(network(more.clone()));
        assert!(errors.contains(message), "{more}: {errors}");
    }
    for (field, value) in [
        ("secretRef", json!({"name": "access"})),
        ("proxyURL", json!("http://proxy:1")),
    ] {
        let errors = refused(json!({"source": {"uri": "file:///m.gguf", field: value}}));
        assert!(
            errors.contains(&format!("spec.source.{field} is for https://")),
            "{errors}"
        );
    }
}

#[test]
fn the_cache_is_between_one_full_sequence_and_all_of_them() {
    let spec = |tokens: i32| json!({"contextLength": 1024, "parallelSequences": 4, "kvCacheTokens": tokens});
    for tokens in [1024, 4096] {
        model(spec(tokens)).validate_cel().expect("admitted");
    }
    assert!(refused(spec(1023)).contains("spec.kvCacheTokens must be at least spec.contextLength"));
    assert!(refused(spec(4097)).contains("spec.kvCacheTokens must be at most spec.contextLength times"));
}

#[test]
fn sequences_and_prefixes_share_the_slots_of_one_cache() {
    assert_eq!(model(json!({})).spec.prefix_cache.max_prefixes, 8);
    let spec = |sequences: i32, prefixes: i32| json!({"contextLength": 16, "parallelSequences": sequences, "prefixCache": {"maxPrefixes": prefixes}});
    for (sequences, prefixes) in [(254, 0), (222, 32)] {
        model(spec(sequences, prefixes)).validate_cel().expect("admitted");
    }
    assert!(
        refused(spec(247, 8)).contains("spec.parallelSequences plus spec.prefixCache.maxPrefixes must be at most 254")
    );
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
fn the_example_of_a_model_on_a_server_is_one_that_the_rules_admit() {
    let text = include_str!("../../../docs/examples/inferencemodel-https.yaml");
    let model = text.split("\n---\n").nth(1).expect("a second document");
    let example: InferenceModel = serde_saphyr::from_str(model).expect("an InferenceModel");
    example.validate_cel().expect("admitted");
    assert_eq!(
        example.spec.source.secret_ref.as_ref().expect("a Secret").name,
        "model-server"
    );
}

#[test]
fn the_longest_names_of_as_many_devices_as_may_work_as_one_fit_a_status() {
    let definition = serde_json::to_value(InferenceModel::crd()).expect("JSON");
    let status = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    let separators = MAX_GROUP_DEVICES - 1;
    let longest = MAX_GROUP_DEVICES * MAX_NAME_BYTES + separators;
    for items in [&status["placement"]["properties"]["stages"], &status["learnedPace"]] {
        assert_eq!(items["items"]["properties"]["device"]["maxLength"], longest);
    }
}

#[test]
fn a_status_without_anything_is_written_as_nothing() {
    let empty = serde_json::to_value(InferenceModelStatus::default()).expect("JSON");
    assert_eq!(empty, json!({}));
}
