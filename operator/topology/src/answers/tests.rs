use super::*;
use crate::links::{LinkKind, LinkReport};
use crate::{DeviceReport, Input, Kind, build};

const GIB: u64 = 1 << 30;

fn device(name: &str, node: &str) -> DeviceReport {
    serde_json::from_value(serde_json::json!({
        "name": name, "node": node, "backend": "cuda", "kind": Kind::Discrete, "memory_pool": name,
        "memory_usable_bytes": 8 * GIB, "bandwidth_bytes_per_second": 100_000_000_000_u64,
    }))
    .unwrap()
}

fn measured(from: &str, to: &str, mb: u64) -> LinkReport {
    LinkReport {
        from_node: from.into(),
        to_node: to.into(),
        latency_us: 100,
        bandwidth_bytes_per_second: mb * 1_000_000,
        latency_p99_us: Some(250),
        samples: 4,
        age_s: 0,
        kind: LinkKind::Ethernet,
        unreachable: false,
    }
}

/// Two cards on `a`, one on `b`, one on `c` that is cordoned; `a` and `b` measured, `b` does not reach `c`.
fn topology() -> Topology {
    let mut cordoned = device("c-cuda0", "c");
    cordoned.cordoned = true;
    let broken = LinkReport {
        unreachable: true,
        ..measured("b", "a", 1)
    };
    build(&Input {
        devices: vec![
            device("a-cuda0", "a"),
            device("a-cuda1", "a"),
            device("b-cuda0", "b"),
            cordoned,
        ],
        attached_nodes: ["a", "b", "c"].map(String::from).into(),
        links: vec![measured("a", "b", 100), broken, measured("a", "gone", 5)],
        device_pairs: vec![
            pair("a-cuda0", "a-cuda1", true),
            pair("a-cuda1", "a-cuda0", false),
            pair("a-cuda0", "lost", true),
        ],
        ..Input::default()
    })
}

fn pair(from: &str, to: &str, peer_to_peer: bool) -> DevicePair {
    DevicePair {
        from_device: from.into(),
        to_device: to.into(),
        peer_to_peer,
        bytes_per_second: 20_000_000_000,
    }
}

#[test]
fn bandwidth_is_that_of_the_link_of_the_node_or_of_the_memory() {
    let topology = topology();
    let rate = |from: &str, to: &str| topology.bandwidth(from, to).map(|rate| rate.bytes_per_second);
    assert_eq!(rate("a-cuda0", "b-cuda0"), Some(100_000_000));
    assert_eq!(
        rate("a-cuda0", "a-cuda1"),
        Some(crate::prior::SAME_NODE.rate.bytes_per_second)
    );
    assert_eq!(rate("a-cuda0", "a-cuda0"), Some(100_000_000_000));
    assert_eq!(
        rate("a-cuda0", "c-cuda0"),
        Some(crate::prior::UNKNOWN.rate.bytes_per_second)
    );
    assert_eq!(rate("a-cuda0", "nobody"), None);
}

#[test]
fn a_transfer_takes_the_latency_and_the_bytes() {
    let topology = topology();
    assert_eq!(
        topology.transfer_time_ns("a-cuda0", "b-cuda0", 1_000_000),
        Some(100_000 + 10_000_000)
    );
    assert_eq!(topology.transfer_time_ns("a-cuda0", "a-cuda0", 1_000_000), Some(0));
    assert_eq!(topology.transfer_time_ns("nobody", "a-cuda0", 1), None);
    assert_eq!(
        topology.transfer_time_ns("a-cuda0", "b-cuda0", u64::MAX),
        Some(u64::MAX)
    );
}

#[test]
fn peer_to_peer_pairs_are_those_that_copy_directly_and_are_here() {
    let topology = topology();
    let pairs: Vec<_> = topology
        .peer_to_peer_pairs()
        .iter()
        .map(|pair| (pair.from_device.as_str(), pair.to_device.as_str()))
        .collect();
    assert_eq!(pairs, [("a-cuda0", "a-cuda1")]);
}

#[test]
fn totals_count_what_can_be_used() {
    let totals = topology().totals();
    assert_eq!((totals.nodes, totals.devices, totals.excluded), (2, 3, 1));
    assert_eq!(totals.usable_bytes, 24 * GIB);
    assert_eq!(totals.bandwidth_bytes_per_second, 300_000_000_000);
    assert_eq!((totals.links, totals.links_measured), (2, 1));
}

#[test]
fn the_summary_names_what_is_slow_missing_and_left_out() {
    assert_eq!(
        topology().summary(),
        "3 devices on 2 nodes, 24.0 GiB for new shards, read at 300.0 GB/s in all\n  \
         without: c-cuda0 is cordoned\n\
         1 of 2 links measured; of the others 100.0 MB/s and 1000 µs are assumed\n  \
         slowest: a → b 100.0 MB/s, 100 µs (p99 250 µs), Ethernet\n  \
         unreachable: b → a\n  \
         peer to peer: a-cuda0 → a-cuda1 20.0 GB/s\n"
    );
    assert!(build(&Input::default()).summary().starts_with("0 devices on 0 nodes"));
}
