use super::*;
use crate::devices::Devices;
use crate::links::history::Figures;
use crds::LinkKind;
use device::{Backend, Figure, GpuDevice, Kind, PeerCopy};
use std::collections::BTreeMap;

fn link(standing: Standing, latency_us: u64, mb: u64) -> SeenLink {
    SeenLink {
        standing,
        kind: LinkKind::Ethernet,
        figures: (standing == Standing::Measured).then_some(Figures {
            latency_p50_us: latency_us,
            latency_p99_us: latency_us * 2,
            send_bytes_per_second: mb * 1_000_000,
            receive_bytes_per_second: mb * 2_000_000,
            samples: 3,
            unix_s: 60,
        }),
        message: (standing == Standing::Unreachable).then(|| "no connection within 5000 ms".to_owned()),
    }
}

fn seen(links: &[(&str, SeenLink)]) -> Seen {
    Seen {
        told: true,
        links: links
            .iter()
            .map(|(node, link)| ((*node).to_owned(), link.clone()))
            .collect::<BTreeMap<_, _>>(),
        tally: super::super::Tally::default(),
    }
}

fn report(seen: &Seen, wishes: &Wishes) -> NodeLinkStateStatus {
    status("a", seen, &[], wishes, None, Some(1), Timestamp::UNIX_EPOCH)
}

fn said(status: &NodeLinkStateStatus) -> (&str, &str, &str) {
    let condition = &status.conditions[0];
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_measured_link_has_every_figure_and_the_worst_ones_are_named_for_people() {
    let two = seen(&[
        ("b", link(Standing::Measured, 100, 900)),
        ("c", link(Standing::Measured, 20_000, 3)),
    ]);
    let status = report(&two, &Wishes::default());
    let b = &status.peers[0];
    assert_eq!(
        (b.node.as_str(), b.state, b.samples),
        ("b", LinkState::Measured, Some(3))
    );
    assert_eq!((b.latency_p50_us, b.latency_p99_us), (Some(100), Some(200)));
    assert_eq!(
        (b.send_bytes_per_second, b.receive_bytes_per_second),
        (Some(900_000_000), Some(1_800_000_000))
    );
    assert_eq!(b.measured_at.as_ref().unwrap().0.as_second(), 60);
    assert_eq!(status.peers_measured.as_deref(), Some("2/2"));
    assert_eq!(status.worst_latency.as_deref(), Some("20.0 ms c"));
    assert_eq!(status.worst_bandwidth.as_deref(), Some("3.0 MB/s c"));
    assert_eq!(said(&status), ("True", "AllMeasured", "2 links were measured"));
}

#[test]
fn what_is_not_known_is_absent_and_the_condition_says_why() {
    let pending = report(&seen(&[("b", link(Standing::Pending, 0, 0))]), &Wishes::default());
    assert_eq!(pending.peers[0].latency_p50_us, None);
    assert_eq!(
        said(&pending),
        ("Unknown", "Measuring", "1 of 1 links are still to be measured")
    );
    let names = ["b", "c", "d", "e"];
    let gone: Vec<(&str, SeenLink)> = names.map(|node| (node, link(Standing::Unreachable, 0, 0))).to_vec();
    let gone = report(&seen(&gone), &Wishes::default());
    let (status, reason, message) = said(&gone);
    assert_eq!((status, reason), ("False", "PeerUnreachable"));
    assert!(
        message.starts_with("b, c, d and 1 more cannot be reached (no connection"),
        "{message}"
    );
    assert_eq!(said(&report(&Seen::default(), &Wishes::default())).1, "NoPeers");
}

#[test]
fn what_the_administrator_says_is_heeded_and_shows() {
    let spec: NodeLinkStateSpec =
        serde_json::from_value(serde_json::json!({ "paused": true, "excludedPeers": [{ "node": "b" }] })).unwrap();
    let wishes = wishes(&spec);
    let links = seen(&[
        ("b", link(Standing::Pending, 0, 0)),
        ("c", link(Standing::Measured, 1, 1)),
    ]);
    let status = report(&links, &wishes);
    assert_eq!(status.peers.len(), 1, "b is not measured");
    assert_eq!(said(&status).1, "Paused");
}

#[test]
fn every_status_is_one_that_the_api_accepts() {
    let links = seen(&[
        ("b", link(Standing::Pending, 0, 0)),
        ("c", link(Standing::Unreachable, 0, 0)),
        ("d", link(Standing::Measured, 0, 0)),
    ]);
    let status = report(&links, &Wishes::default());
    let mut object = crds::NodeLinkState::new("a", NodeLinkStateSpec::default());
    object.status = Some(status);
    object.validate_cel().expect("admitted");
}

#[test]
fn what_an_earlier_life_measured_stays_until_the_link_has_its_turn() {
    let before = report(&seen(&[("b", link(Standing::Measured, 100, 900))]), &Wishes::default());
    let again = |link| {
        let links = seen(&[("b", link)]);
        status(
            "a",
            &links,
            &[],
            &Wishes::default(),
            Some(&before),
            Some(1),
            Timestamp::UNIX_EPOCH,
        )
    };
    assert_eq!(again(link(Standing::Pending, 0, 0)).peers, before.peers);
    assert_eq!(again(link(Standing::Measured, 50, 5)).peers[0].latency_p50_us, Some(50));
    assert_eq!(
        again(link(Standing::Unreachable, 0, 0)).peers[0].state,
        LinkState::Unreachable
    );
}

#[test]
fn a_link_that_became_slow_is_slow_until_it_is_well_again_and_the_api_accepts_it() {
    let said = |before: Option<&NodeLinkStateStatus>, mb| {
        let links = seen(&[("b", link(Standing::Measured, 100, mb))]);
        let now = Timestamp::UNIX_EPOCH;
        status("a", &links, &[], &Wishes::default(), before, Some(1), now)
    };
    let slow = |status: &NodeLinkStateStatus| -> (String, String) {
        let found = crds::conditions::find(&status.conditions, "Slow").expect("it is set");
        (found.status.clone(), found.message.clone())
    };
    let well = said(None, 100);
    assert_eq!(slow(&well).0, "False");
    // It receives twice of what it sends.
    let now = said(Some(&well), 1);
    let message = "8.0 Mbit/s (was 800) to b, 16.0 Mbit/s (was 1600) from b";
    assert_eq!(slow(&now), ("True".to_owned(), message.to_owned()));
    let mut object = crds::NodeLinkState::new("a", NodeLinkStateSpec::default());
    object.status = Some(now.clone());
    object.validate_cel().expect("admitted");
    let still = said(Some(&now), 40);
    assert_eq!(slow(&still).0, "True");
    assert_eq!(slow(&said(Some(&still), 60)).0, "False");
}

#[test]
fn copies_between_cards_are_told_by_the_names_of_their_objects() {
    let card = |index: u32, to: &str, direct| {
        let mut card = GpuDevice {
            uuid: Some(format!("GPU-{index}")),
            ordinal: index,
            ..GpuDevice::new(Backend::Cuda, index, Kind::Discrete)
        };
        let bytes_per_second = Figure {
            value: 7_000_000_000,
            samples: 5,
            measured_unix_s: 60,
        };
        card.measured.peers = vec![PeerCopy {
            to: to.to_owned(),
            direct,
            bytes_per_second,
        }];
        card
    };
    let devices = Devices::of([
        card(0, "uuid:GPU-1", true),
        card(1, "uuid:GPU-0", false),
        card(2, "uuid:gone", true),
    ]);
    let pairs = device_pairs("a", &devices.states);
    let told: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.from.as_str(), pair.to.as_str(), pair.peer_to_peer))
        .collect();
    assert_eq!(told, [("a-cuda0", "a-cuda1", true), ("a-cuda1", "a-cuda0", false)]);
}
