use serde_json::Value;

use super::*;

fn parsed() -> Vec<(String, Value)> {
    manifests()
        .expect("manifests")
        .into_iter()
        .map(|m| (m.file_name, serde_saphyr::from_str(&m.yaml).expect("YAML")))
        .collect()
}

/// Calls `visit` with every object inside a value.
fn each_object(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            visit(map);
            map.values().for_each(|v| each_object(v, visit));
        }
        Value::Array(items) => items.iter().for_each(|v| each_object(v, visit)),
        _ => {}
    }
}

#[test]
fn the_chart_holds_what_the_types_say() {
    let charted = [
        include_str!("../../../charts/shardwright/crds/shardwright.dev_devicegpustates.yaml"),
        include_str!("../../../charts/shardwright/crds/shardwright.dev_inferencemodels.yaml"),
        include_str!("../../../charts/shardwright/crds/shardwright.dev_nodelinkstates.yaml"),
    ];
    for (manifest, charted) in manifests().expect("manifests").iter().zip(charted) {
        assert_eq!(
            manifest.yaml, charted,
            "{} is out of date: {HEADER}",
            manifest.file_name
        );
    }
}

#[test]
fn nothing_is_nullable_unsigned_or_a_floating_number() {
    for (name, value) in parsed() {
        each_object(&value, &mut |map| {
            assert!(!map.contains_key("nullable"), "{name}: {map:?}");
            assert_ne!(
                map.get("type").and_then(Value::as_str),
                Some("number"),
                "{name}: {map:?}"
            );
            let format = map.get("format").and_then(Value::as_str).unwrap_or_default();
            assert!(!format.starts_with("uint"), "{name}: {map:?}");
        });
    }
}

#[test]
fn every_text_list_and_map_of_a_spec_has_a_limit() {
    for (name, value) in parsed() {
        let spec = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        each_object(spec, &mut |map| {
            let limited = |key: &str| map.contains_key(key);
            match map.get("type").and_then(Value::as_str) {
                Some("string") => assert!(limited("maxLength") || limited("enum"), "{name}: {map:?}"),
                Some("array") => assert!(limited("maxItems"), "{name}: {map:?}"),
                Some("object") => {
                    let is_map = map.contains_key("additionalProperties");
                    assert!(!is_map || limited("maxProperties"), "{name}: {map:?}");
                }
                _ => {}
            }
        });
    }
}

#[test]
fn conditions_merge_by_type_and_have_the_limits_of_kubernetes_own() {
    for (name, value) in parsed() {
        let status = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        let conditions = &status["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{name}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"][0], "type", "{name}");
        assert_eq!(
            conditions["items"]["properties"]["message"]["maxLength"], 32768,
            "{name}"
        );
    }
}
