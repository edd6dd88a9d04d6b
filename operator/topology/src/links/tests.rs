use super::*;
use crate::{Input, build};
use serde_json::{Value, json};

const HOUR_S: u64 = 3600;

fn report(from: &str, to: &str, latency_us: u64, mb: u64) -> LinkReport {
    LinkReport {
        from_node: from.to_owned(),
        to_node: to.to_owned(),
        latency_us,
        bandwidth_bytes_per_second: mb * 1_000_000,
        latency_p99_us: Some(latency_us * 2),
        samples: 5,
        age_s: 60,
        kind: LinkKind::Ethernet,
        unreachable: false,
    }
}

fn links(reports: &[LinkReport]) -> Links {
    Links::build(reports, &[])
}

fn link(reports: &[LinkReport]) -> Option<KnownLink> {
    links(reports).get("a", "b").copied()
}

#[test]
fn a_fresh_figure_of_several_rounds_is_believed_in_full() {
    let known = link(&[report("a", "b", 50, 900)]).unwrap();
    assert_eq!(
        (known.link.latency_us, known.link.rate.bytes_per_second),
        (50, 900_000_000)
    );
    assert_eq!(
        (known.link.rate.origin, known.confidence),
        (Origin::Measured, Confidence::High)
    );
    let once = LinkReport {
        samples: 1,
        ..report("a", "b", 50, 900)
    };
    let known = link(&[once]).unwrap();
    assert_eq!((known.link.latency_us, known.confidence), (50, Confidence::Low));
}

#[test]
fn an_ageing_figure_counts_only_where_it_is_worse_than_what_would_be_assumed() {
    let aged = |latency_us, mb, age_s| LinkReport {
        age_s,
        ..report("a", "b", latency_us, mb)
    };
    let fast = link(&[aged(50, 900, 13 * HOUR_S)]).unwrap();
    assert_eq!((fast.link, fast.confidence), (prior::UNKNOWN, Confidence::Low));
    let slow = link(&[aged(20_000, 2, 13 * HOUR_S)]).unwrap().link;
    assert_eq!((slow.latency_us, slow.rate.bytes_per_second), (20_000, 2_000_000));
    assert_eq!(link(&[aged(20_000, 2, 25 * HOUR_S)]), None, "too old to say anything");
}

#[test]
fn nothing_of_the_age_is_in_the_graph_until_it_matters() {
    let aged = |age_s| LinkReport {
        age_s,
        ..report("a", "b", 50, 900)
    };
    assert_eq!(links(&[aged(1)]), links(&[aged(11 * HOUR_S)]));
    assert_ne!(links(&[aged(1)]), links(&[aged(13 * HOUR_S)]));
}

#[test]
fn of_what_both_ends_say_the_better_founded_holds_and_else_the_worse() {
    let ours = report("a", "b", 50, 900);
    let theirs = report("a", "b", 80, 950);
    let both = link(&[ours.clone(), theirs.clone()]).unwrap();
    assert_eq!(link(&[theirs, ours.clone()]), Some(both), "in any order");
    assert_eq!(
        (both.link.latency_us, both.link.rate.bytes_per_second),
        (80, 900_000_000)
    );
    let once = LinkReport {
        samples: 1,
        ..report("a", "b", 5000, 1)
    };
    assert_eq!(link(&[once, ours]).unwrap().link.latency_us, 50);
}

#[test]
fn who_does_not_get_through_is_put_last_whatever_was_measured_before() {
    let broken = LinkReport {
        unreachable: true,
        ..report("a", "b", 50, 900)
    };
    let known = link(&[report("a", "b", 50, 900), broken]).unwrap();
    assert!(known.unreachable);
    assert_eq!(known.link, prior::UNREACHABLE);
}

#[test]
fn a_figure_that_makes_no_sense_leaves_the_link_unknown() {
    let mut nonsense = report("a", "b", 0, 0);
    assert_eq!(link(std::slice::from_ref(&nonsense)), None);
    nonsense.bandwidth_bytes_per_second = prior::LEAST_LINK_BYTES_PER_SECOND - 1;
    assert_eq!(link(&[nonsense]), None);
}

fn state(peer: &Value) -> NodeLinkState {
    serde_json::from_value(json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "NodeLinkState", "metadata": { "name": "a" }, "spec": {},
        "status": {
            "node": "a",
            "peers": [peer],
            "devicePairs": [{
                "from": "a-cuda0", "to": "a-cuda1", "peerToPeer": true, "bytesPerSecond": 20_000_000_000_i64,
                "samples": 3, "measuredAt": "1970-01-01T00:00:00Z",
            }],
        },
    }))
    .unwrap()
}

#[test]
fn an_object_tells_of_both_directions() {
    let peer = json!({
        "node": "b", "kind": "Ethernet", "state": "Measured", "latencyP50Us": 50, "latencyP99Us": 90,
        "sendBytesPerSecond": 9_000_000, "receiveBytesPerSecond": 8_000_000, "samples": 4,
        "measuredAt": "1970-01-01T00:01:00Z",
    });
    let reports = LinkReport::from_state(&state(&peer), 100);
    assert_eq!(reports.len(), 2);
    let seen = |report: &LinkReport| {
        (
            report.from_node.clone(),
            report.bandwidth_bytes_per_second,
            report.age_s,
        )
    };
    assert_eq!(seen(&reports[0]), ("a".to_owned(), 9_000_000, 40));
    assert_eq!(seen(&reports[1]), ("b".to_owned(), 8_000_000, 40));
    assert_eq!(
        (reports[0].latency_us, reports[0].latency_p99_us, reports[0].samples),
        (50, Some(90), 4)
    );
    let early = LinkReport::from_state(&state(&peer), 1);
    assert_eq!(early[0].age_s, 0, "its clock is ahead of ours");
}

#[test]
fn what_was_not_measured_is_no_report_and_what_broke_says_nothing_of_the_way_back() {
    let pending = json!({ "node": "b", "kind": "Unknown", "state": "Pending" });
    assert_eq!(LinkReport::from_state(&state(&pending), 0), []);
    let broken = json!({ "node": "b", "kind": "Unknown", "state": "Unreachable", "message": "refused" });
    let reports = LinkReport::from_state(&state(&broken), 0);
    let links = links(&reports);
    assert!(links.get("a", "b").unwrap().unreachable);
    assert_eq!(links.get("b", "a"), None);
    let to_itself = json!({ "node": "a", "kind": "Unknown", "state": "Unreachable" });
    assert_eq!(LinkReport::from_state(&state(&to_itself), 0), []);
}

#[test]
fn links_come_into_the_graph_with_the_input() {
    let input = Input {
        links: vec![report("a", "b", 50, 900)],
        device_pairs: DevicePair::from_state(&state(&json!({ "node": "b", "kind": "Unknown", "state": "Pending" }))),
        ..Input::default()
    };
    let topology = build(&input);
    assert_eq!(topology.link("a", "b").latency_us, 50);
    assert_eq!(topology.link("b", "a"), prior::UNKNOWN);
    assert_eq!(topology.links.device_pairs().len(), 1);
}
