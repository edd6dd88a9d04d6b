use super::*;
use serde_json::json;

fn status(p50_us: i64, send: i64, samples: i32, at: &str) -> NodeLinkStateStatus {
    serde_json::from_value(json!({
        "node": "a",
        "peersMeasured": "1/1",
        "worstLatency": format!("{p50_us}"),
        "peers": [{
            "node": "b", "kind": "Ethernet", "state": "Measured", "latencyP50Us": p50_us, "latencyP99Us": 5000,
            "sendBytesPerSecond": send, "receiveBytesPerSecond": 100_000_000, "samples": samples, "measuredAt": at,
        }],
        "conditions": [{
            "type": "Measured", "status": "True", "reason": "AllMeasured", "message": format!("{samples}"),
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }))
    .unwrap()
}

const NOON: &str = "2026-01-01T12:00:00Z";

fn written() -> NodeLinkStateStatus {
    status(1000, 100_000_000, 8, NOON)
}

#[test]
fn a_link_that_jitters_writes_nothing() {
    let written = written();
    for (p50_us, send) in [
        (1000, 100_000_000),
        (1290, 119_000_000),
        (720, 81_000_000),
        (999, 100_000_001),
    ] {
        let now = status(p50_us, send, 8, "2026-01-01T12:30:00Z");
        assert!(!is_news(&written, &now), "{p50_us} µs, {send} B/s");
    }
}

#[test]
fn a_link_that_changed_is_news() {
    let written = written();
    assert!(is_news(&written, &status(1300, 100_000_000, 8, NOON)));
    assert!(is_news(&written, &status(1000, 80_000_000, 8, NOON)));
    assert!(is_news(&written, &status(1000, 120_000_000, 8, NOON)));
    let short = status(50, 100_000_000, 8, NOON);
    assert!(
        !is_news(&short, &status(140, 100_000_000, 8, NOON)),
        "microseconds are nobody's news"
    );
}

#[test]
fn a_link_that_comes_goes_or_stops_being_measured_is_news() {
    let written = written();
    let mut now = written.clone();
    now.peers[0].state = LinkState::Unreachable;
    assert!(is_news(&written, &now));
    now = written.clone();
    now.peers[0].node = "c".into();
    assert!(is_news(&written, &now));
    now = written.clone();
    now.peers.clear();
    assert!(is_news(&written, &now));
    now = written.clone();
    now.peers[0].send_bytes_per_second = None;
    assert!(is_news(&written, &now));
    now = written.clone();
    now.observed_generation = Some(2);
    assert!(is_news(&written, &now));
}

#[test]
fn figures_that_did_not_change_are_written_again_when_the_written_ones_grow_old() {
    let written = written();
    assert!(!is_news(
        &written,
        &status(1000, 100_000_000, 8, "2026-01-01T17:59:00Z")
    ));
    assert!(is_news(&written, &status(1000, 100_000_000, 8, "2026-01-01T18:00:00Z")));
}

#[test]
fn the_third_round_is_news_and_no_other() {
    let after = |samples| status(1000, 100_000_000, samples, NOON);
    assert!(!is_news(&after(1), &after(2)));
    assert!(is_news(&after(2), &after(3)));
    assert!(!is_news(&after(3), &after(8)));
}

#[test]
fn what_placement_waits_for_is_urgent_and_what_drifts_can_wait() {
    let written = written();
    assert_eq!(news(&written, &written), News::None);
    assert_eq!(news(&written, &status(1000, 50_000_000, 8, NOON)), News::CanWait);
    let mut now = written.clone();
    now.peers[0].state = LinkState::Unreachable;
    assert_eq!(news(&written, &now), News::Urgent);
    let mut pending = now.peers[0].clone();
    pending.state = LinkState::Pending;
    pending.node = "c".into();
    now.peers.push(pending);
    assert_eq!(news(&written, &now), News::CanWait, "c has yet to have its turn");
    assert_eq!(news(&now, &written), News::Urgent, "it is gone");
}

#[test]
fn a_link_that_became_slow_is_urgent_and_so_is_that_it_is_well_again() {
    let written = written();
    let mut slow = status(1000, 1_000_000, 3, NOON);
    slow.peers[0].send_bytes_per_second_before = Some(100_000_000);
    assert_eq!(news(&written, &slow), News::Urgent);
    assert_eq!(news(&slow, &written), News::Urgent);
    let mut jittering = slow.clone();
    jittering.peers[0].send_bytes_per_second = Some(1_050_000);
    assert_eq!(news(&slow, &jittering), News::None);
}

#[test]
fn a_first_write_waits_only_for_links_that_have_not_had_their_turn() {
    let mut now = written();
    assert!(!may_gather(&now));
    now.peers[0].state = LinkState::Pending;
    assert!(may_gather(&now));
    now.peers.clear();
    assert!(may_gather(&now), "perhaps others are about to come");
}

/// Two cards of the node, with what is known of them as one.
fn grouped(known: &serde_json::Value) -> NodeLinkStateStatus {
    let mut group = json!({ "devices": ["a-cuda0", "a-cuda1"], "backend": "cuda" });
    let fields = known.as_object().into_iter().flatten();
    fields.for_each(|(name, value)| group[name.as_str()] = value.clone());
    let mut status = written();
    status.groups = vec![serde_json::from_value(group).unwrap()];
    status
}

fn rates(step_ns: i64, at: &str) -> serde_json::Value {
    let rates = json!({ "stepNs": step_ns, "layerNs": 1, "reading": [], "measuredAt": at, "samples": 9 });
    json!({ "stepRates": rates, "measuredAt": at })
}

#[test]
fn that_devices_work_as_one_or_cannot_is_told_soon_whatever_links_wait_for() {
    let (unknown, measured) = (grouped(&json!({})), grouped(&rates(900, NOON)));
    let failed = grouped(&json!({ "error": "exit status: 69" }));
    for (before, after) in [
        (written(), unknown.clone()),
        (unknown.clone(), measured.clone()),
        (unknown, failed.clone()),
        (failed, measured.clone()),
        (measured.clone(), written()),
    ] {
        assert_eq!(news(&before, &after), News::Urgent, "{:?}", after.groups);
        let alone = |status: NodeLinkStateStatus| NodeLinkStateStatus {
            peers: Vec::new(),
            ..status
        };
        assert_eq!(news(&alone(before), &alone(after)), News::Urgent, "a node alone");
    }
}

#[test]
fn devices_that_work_faster_as_one_than_was_told_can_wait_and_those_measured_again_say_nothing() {
    let before = grouped(&rates(900, NOON));
    assert_eq!(news(&before, &grouped(&rates(800, NOON))), News::CanWait);
    assert_eq!(news(&before, &grouped(&rates(900, "2026-01-01T12:01:00Z"))), News::None);
}
