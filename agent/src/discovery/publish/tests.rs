use super::*;

fn object(name: &str, backend: &str, node_uid: &str) -> DeviceGPUState {
    serde_json::from_value(json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "DeviceGPUState",
        "metadata": {
            "name": name,
            "labels": { BACKEND_LABEL: backend, NODE_LABEL: "n", "of": "somebody else" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n", "uid": node_uid }],
        },
        "spec": { "cordoned": true },
    }))
    .unwrap()
}

#[test]
fn an_object_that_says_what_would_be_applied_is_not_written_again() {
    let labels = BTreeMap::from([(BACKEND_LABEL, "cpu"), (NODE_LABEL, "n")]);
    let is_as_applied = |object: &DeviceGPUState| is_as_applied(object, "n-cpu0", &labels, "7");
    assert!(is_as_applied(&object("n-cpu0", "cpu", "7")));
    assert!(!is_as_applied(&object("n-cpu1", "cpu", "7")), "another device");
    assert!(!is_as_applied(&object("n-cpu0", "vulkan", "7")), "a label was changed");
    assert!(!is_as_applied(&object("n-cpu0", "cpu", "6")), "the Node was made anew");
}
