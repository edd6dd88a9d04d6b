mod flapping;

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

fn state(celsius: i32, ready: &str) -> DeviceGPUStateStatus {
    serde_json::from_value(json!({
        "node": "n", "vendor": "v", "model": "m", "backend": "cuda", "backendIndex": 0, "kind": "Discrete",
        "memoryPool": "p", "memoryTotalBytes": 0, "memoryFreeBytes": 0, "memoryUsableBytes": 0,
        "temperatureCelsius": celsius,
        "conditions": [{
            "type": "Ready", "status": ready, "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }],
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_drift_waits_for_calm_after_the_last_write_and_a_fault_does_not() {
    let mut written = Written::of(&object("n-cuda0", "cuda", "7"));
    assert!(written.wants(&state(40, "True")), "nothing was written yet");
    written.status = Some(state(40, "True"));
    written.at = Some(Instant::now());
    assert!(!written.wants(&state(40, "True")));
    assert!(!written.wants(&state(60, "True")), "it was written just now");
    assert!(written.wants(&state(60, "False")));
    assert!(!written.wants(&state(60, "True")));
    tokio::time::advance(thresholds::LASTING).await;
    assert!(!written.wants(&state(60, "True")), "it lasts, and it is too soon");
    written.at = None;
    assert!(written.wants(&state(60, "True")), "in an earlier life");
}

#[tokio::test(start_paused = true)]
async fn a_drift_that_passes_within_seconds_is_not_written_however_often_it_comes() {
    let mut written = Written::of(&object("n-cuda0", "cuda", "7"));
    written.status = Some(state(40, "True"));
    for _ in 0..10 {
        tokio::time::advance(thresholds::CALM).await;
        assert!(!written.wants(&state(60, "True")));
        tokio::time::advance(thresholds::LASTING - Duration::from_secs(1)).await;
        assert!(!written.wants(&state(60, "True")));
        assert!(!written.wants(&state(40, "True")), "as it was");
    }
}
