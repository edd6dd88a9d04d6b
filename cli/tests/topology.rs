//! The tool, run on objects as agents write them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use rig::{fail, succeed};
use serde_json::{Value, json};

fn device(node: &str) -> Value {
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "Good", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let conditions = ["Ready", "Healthy", "Verified"].map(condition);
    json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "DeviceGPUState", "metadata": { "name": format!("{node}-cpu0") },
        "spec": {},
        "status": {
            "node": node, "vendor": "intel", "model": "CPU", "backend": "cpu", "backendIndex": 0, "kind": "Cpu",
            "memoryPool": format!("{node}-host"), "memoryTotalBytes": 1_u64 << 30, "memoryFreeBytes": 1_u64 << 30,
            "memoryUsableBytes": 1_u64 << 30, "conditions": conditions,
        },
    })
}

fn links() -> Value {
    json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "NodeLinkState", "metadata": { "name": "a" }, "spec": {},
        "status": { "node": "a", "peers": [{
            "node": "b", "kind": "Ethernet", "state": "Measured", "latencyP50Us": 120, "latencyP99Us": 300,
            "sendBytesPerSecond": 117_000_000, "receiveBytesPerSecond": 90_000_000, "samples": 3,
            // Never old.
            "measuredAt": "9000-01-01T00:00:00Z",
        }] },
    })
}

#[test]
fn the_cluster_is_shown_with_its_links_for_people_and_for_programs() {
    let folder = tempfile::tempdir().unwrap();
    let list = json!({ "kind": "List", "items": [device("a"), device("b"), links()] });
    std::fs::write(folder.path().join("list.json"), list.to_string()).unwrap();
    let text = succeed(folder.path(), &["topology", "--file", "list.json"]);
    assert!(
        text.starts_with("2 devices on 2 nodes, 2.0 GiB for new shards"),
        "{text}"
    );
    assert!(text.contains("2 of 2 links measured"), "{text}");
    assert!(
        text.contains("slowest: b → a 90.0 MB/s, 120 µs (p99 300 µs), Ethernet"),
        "{text}"
    );
    let shown: Value =
        serde_json::from_str(&succeed(folder.path(), &["topology", "-f", "list.json", "-O", "json"])).unwrap();
    assert_eq!(shown["devices"], 2);
    assert_eq!(shown["links"][0]["bytes_per_second"], 117_000_000);
}

/// One of two cards of node a.
fn card(index: u32) -> Value {
    let name = format!("a-cuda{index}");
    let mut card = device("a");
    card["metadata"]["name"] = json!(name);
    let status = &mut card["status"];
    (status["backend"], status["kind"], status["memoryPool"]) = (json!("cuda"), json!("Discrete"), json!(name));
    card
}

#[test]
fn devices_that_work_as_one_are_shown_with_what_they_hold_and_read_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut links = links();
    let at = "9000-01-01T00:00:00Z";
    links["status"]["groups"] = json!([{
        "devices": ["a-cuda0", "a-cuda1"], "backend": "cuda", "measuredAt": at,
        "stepRates": {
            "stepNs": 10_000, "layerNs": 1000, "samples": 3, "measuredAt": at,
            "reading": [{ "bits": 5, "bytesPerSecond": 36_000_000_000_u64 }],
        },
    }]);
    let list = json!({ "kind": "List", "items": [card(0), card(1), device("b"), links] });
    std::fs::write(folder.path().join("list.json"), list.to_string()).unwrap();
    let text = succeed(folder.path(), &["topology", "--file", "list.json"]);
    assert!(text.starts_with("3 devices on 2 nodes"), "{text}");
    assert!(text.contains("work as one: a-cuda0+a-cuda1, 2.0 GiB"), "{text}");
    let shown: Value =
        serde_json::from_str(&succeed(folder.path(), &["topology", "-f", "list.json", "-O", "json"])).unwrap();
    assert_eq!(shown["devices"], 3);
    let group = &shown["groups"][0];
    assert_eq!(group["devices"], json!(["a-cuda0", "a-cuda1"]));
    assert_eq!(
        (&group["usable_bytes"], &group["bandwidth_bytes_per_second"]),
        (&json!(2_u64 << 30), &json!(36_000_000_000_u64))
    );
}

#[test]
fn what_is_no_list_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("list.json"), "{").unwrap();
    fail(folder.path(), &["topology", "--file", "list.json"], 65);
    fail(folder.path(), &["topology", "--file", "nowhere.json"], 66);
    let message = fail(folder.path(), &["topology", "--file", "."], 74);
    assert!(message.contains("reading . failed: Is a directory"), "{message}");
}
