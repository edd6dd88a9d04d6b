use serde_json::{Value, json};

use super::*;

fn object(spec: &Value, peers: &Value) -> NodeLinkState {
    serde_json::from_value(json!({
        "apiVersion": "shardwright.dev/v1alpha1",
        "kind": "NodeLinkState",
        "metadata": { "name": "node-a" },
        "spec": spec,
        "status": { "node": "node-a", "peers": peers },
    }))
    .expect("a NodeLinkState")
}

fn peer() -> Value {
    json!({
        "node": "node-b",
        "kind": "Ethernet",
        "state": "Measured",
        "latencyP50Us": 120,
        "latencyP99Us": 300,
        "sendBytesPerSecond": 117_000_000,
        "receiveBytesPerSecond": 116_000_000,
        "samples": 3,
        "measuredAt": "2026-01-02T03:04:05Z",
    })
}

/// The same link, and what it carried before.
fn slowed(send: i64, before: i64) -> PeerLink {
    let mut peer = peer();
    peer["sendBytesPerSecond"] = json!(send);
    peer["sendBytesPerSecondBefore"] = json!(before);
    serde_json::from_value(peer).expect("a link")
}

/// Two cards that were measured as one.
fn group() -> Value {
    json!({
        "devices": ["node-a-cuda0", "node-a-cuda1"],
        "backend": "cuda",
        "stepRates": {
            "stepNs": 90_000, "layerNs": 21_000, "reading": [{ "bits": 5, "bytesPerSecond": 800_000_000_000_i64 }],
            "measuredAt": "2026-01-02T03:04:05Z", "samples": 60,
        },
        "measuredAt": "2026-01-02T03:04:05Z",
    })
}

fn without(field: &str) -> Value {
    let mut peer = peer();
    peer.as_object_mut().expect("an object").remove(field);
    peer
}

#[test]
fn an_empty_spec_is_good_and_stays_empty_when_written() {
    let object = object(&json!({}), &json!([]));
    object.validate_cel().expect("admitted");
    assert_eq!(serde_json::to_value(&object.spec).expect("JSON"), json!({}));
}

#[test]
fn a_status_survives_being_written_and_read() {
    let status = json!({
        "observedGeneration": 1,
        "node": "node-a",
        "peersMeasured": "1/2",
        "worstLatency": "0.1 ms node-b",
        "worstBandwidth": "116.0 MB/s node-b",
        "peers": [peer(), { "node": "node-c", "kind": "Unknown", "state": "Unreachable", "message": "refused" }],
        "devicePairs": [{
            "from": "node-a-cuda0", "to": "node-a-cuda1", "peerToPeer": true, "bytesPerSecond": 20_000_000_000_i64,
            "samples": 8, "measuredAt": "2026-01-02T03:04:05Z",
        }],
        "groups": [group(), { "devices": ["node-a-cuda2", "node-a-cuda3"], "backend": "cuda" }],
    });
    let read: NodeLinkStateStatus = serde_json::from_value(status.clone()).expect("a status");
    assert_eq!(serde_json::to_value(&read).expect("JSON"), status);
}

fn refusal(object: &NodeLinkState) -> String {
    object.validate_cel().expect_err("the rules refuse it").to_string()
}

#[test]
fn a_link_that_says_it_was_measured_has_every_figure() {
    object(&json!({}), &json!([peer()])).validate_cel().expect("admitted");
    for field in [
        "latencyP50Us",
        "sendBytesPerSecond",
        "receiveBytesPerSecond",
        "measuredAt",
        "samples",
    ] {
        let told = refusal(&object(&json!({}), &json!([without(field)])));
        assert!(told.contains("status.peers[].state"), "{field}: {told}");
    }
}

#[test]
fn the_slowest_of_a_hundred_is_no_faster_than_the_median() {
    let mut swapped = peer();
    swapped["latencyP99Us"] = json!(100);
    let told = refusal(&object(&json!({}), &json!([swapped])));
    assert!(told.contains("status.peers[].latencyP99Us"), "{told}");
}

#[test]
fn a_link_that_became_slow_is_told_with_both_figures_in_the_unit_that_people_use() {
    let told = |send, before| slowed(send, before).slow_to_peer().expect("slow").to_string();
    assert_eq!(told(1_175_000, 117_500_000), "9.4 Mbit/s (was 940)");
    assert_eq!(told(50_000, 11_750_000), "0.400 Mbit/s (was 94.0)");
    let link = slowed(1_175_000, 117_500_000);
    assert_eq!(link.slow_from_peer(), None, "the other direction is as it was");
    let object = object(&json!({}), &json!([link]));
    object.validate_cel().expect("admitted");
}

#[test]
fn a_link_is_not_slow_by_too_few_rounds_nor_while_nobody_gets_through() {
    let mut link = slowed(1_175_000, 117_500_000);
    link.samples = Some(2);
    assert_eq!(link.slow_to_peer(), None);
    link = slowed(1_175_000, 117_500_000);
    link.state = LinkState::Unreachable;
    assert_eq!(link.slow_to_peer(), None);
}

#[test]
fn devices_that_work_as_one_have_figures_or_a_reason_why_not_but_not_both() {
    let admitted = |group: &Value| {
        let mut object = object(&json!({}), &json!([]));
        let group: DeviceGroup = serde_json::from_value(group.clone()).expect("a group");
        object.status.as_mut().expect("a status").groups = vec![group];
        object.validate_cel().map_err(|error| error.to_string())
    };
    let (mut failed, mut both) = (group(), group());
    failed.as_object_mut().expect("an object").remove("stepRates");
    failed["error"] = json!("exit status: 69");
    both["error"] = json!("exit status: 69");
    assert_eq!(admitted(&group()), Ok(()));
    assert_eq!(admitted(&failed), Ok(()));
    let told = admitted(&both).expect_err("the rules refuse it");
    assert!(told.contains("status.groups[].error"), "{told}");
}

#[test]
fn a_peer_to_leave_out_is_named_as_nodes_are() {
    let told = refusal(&object(&json!({ "excludedPeers": [{ "node": "Node B" }] }), &json!([])));
    assert!(told.contains("spec.excludedPeers"), "{told}");
    let sound = json!({ "paused": true, "excludedPeers": [{ "node": "node-b.example.com" }] });
    object(&sound, &json!([])).validate_cel().expect("admitted");
}

#[test]
fn every_field_of_the_api_is_described() {
    let crd = serde_json::to_value(<NodeLinkState as kube::CustomResourceExt>::crd()).expect("JSON");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let of_list = |list: &str| &schema["status"]["properties"][list]["items"];
    for (part, schema) in [
        ("spec", &schema["spec"]),
        ("status", &schema["status"]),
        ("peer", of_list("peers")),
        ("group", of_list("groups")),
    ] {
        for (name, field) in schema["properties"].as_object().expect("properties") {
            assert!(field["description"].is_string(), "{part}.{name} says nothing");
        }
    }
}
