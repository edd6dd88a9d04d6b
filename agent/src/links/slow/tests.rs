use super::*;
use crds::{LinkKind, LinkState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

const GIGABIT: i64 = 117_500_000;
const TEN_MEGABIT: i64 = 1_175_000;

/// A link that sends so much, by so many rounds, and receives a gigabit.
fn link(node: &str, send: i64, samples: i32) -> PeerLink {
    PeerLink {
        node: node.to_owned(),
        kind: LinkKind::Ethernet,
        state: LinkState::Measured,
        latency_p50_us: Some(100),
        latency_p99_us: Some(200),
        send_bytes_per_second: Some(send),
        receive_bytes_per_second: Some(GIGABIT),
        send_bytes_per_second_before: None,
        receive_bytes_per_second_before: None,
        samples: Some(samples),
        measured_at: Some(Time(Timestamp::UNIX_EPOCH)),
        message: None,
    }
}

/// The link as it is written next, when it sends so much by three rounds.
fn then(known: &PeerLink, send: i64) -> PeerLink {
    PeerLink {
        send_bytes_per_second_before: before(Some(known), Way::To, Some(send)),
        ..link(&known.node, send, 3)
    }
}

fn status(peers: &[PeerLink]) -> NodeLinkStateStatus {
    NodeLinkStateStatus {
        node: "node-a".to_owned(),
        peers: peers.to_vec(),
        ..NodeLinkStateStatus::default()
    }
}

fn notes(before: &[PeerLink], after: &[PeerLink]) -> Vec<String> {
    let news = news(Some(&status(before)), &status(after)).into_iter();
    news.map(|note| format!("{} {}", note.reason, note.message)).collect()
}

#[test]
fn a_link_that_becomes_slow_is_told_once_with_both_figures() {
    let well = link("node-b", GIGABIT, 8);
    let slow = then(&well, TEN_MEGABIT);
    let told = judge(std::slice::from_ref(&slow));
    let expected = "9.4 Mbit/s (was 940) to node-b".to_owned();
    assert_eq!(told, (ConditionStatus::True, "LinkSlow", expected));
    assert_eq!(
        notes(std::slice::from_ref(&well), std::slice::from_ref(&slow)),
        ["LinkSlow 9.4 Mbit/s (was 940) to node-b"]
    );
    let still = then(&slow, TEN_MEGABIT * 2);
    assert_eq!(
        still.slow_to_peer().unwrap().before,
        GIGABIT,
        "what it was is not forgotten"
    );
    assert_eq!(notes(&[slow], &[still]), [] as [&str; 0]);
}

#[test]
fn a_link_is_slow_from_a_quarter_down_and_no_more_from_a_half_up() {
    let mut link = link("node-b", GIGABIT, 8);
    let quarter = GIGABIT / 4;
    for (send, is_slow) in [
        (quarter, false),
        (quarter - 1, true),
        (quarter + 1, true),
        (GIGABIT / 2 - 1, true),
        (GIGABIT / 2, false),
        (GIGABIT / 3, false),
    ] {
        // As often as it is found so.
        for _ in 0..2 {
            let mut known = link.clone();
            known.send_bytes_per_second = Some(GIGABIT);
            link = then(&known, send);
            assert_eq!(link.slow_to_peer().is_some(), is_slow, "{send}");
        }
    }
    assert_eq!(judge(&[link]).0, ConditionStatus::False);
}

#[test]
fn what_was_written_of_too_few_rounds_and_what_is_not_known_make_nothing_slow() {
    let disturbed = link("node-b", GIGABIT, 2);
    assert_eq!(then(&disturbed, TEN_MEGABIT).slow_to_peer(), None);
    assert_eq!(before(None, Way::To, Some(1)), None);
    assert_eq!(before(Some(&disturbed), Way::From, None), None);
    assert_eq!(news(None, &status(&[disturbed])), []);
}

#[test]
fn a_link_that_became_slow_while_its_agent_was_started_again_is_told_when_three_rounds_say_so() {
    let well = link("node-b", GIGABIT, 8);
    let mut first = then(&well, TEN_MEGABIT);
    first.samples = Some(1);
    assert_eq!(judge(std::slice::from_ref(&first)).0, ConditionStatus::False);
    let third = then(&first, TEN_MEGABIT);
    assert_eq!(notes(&[first], &[third]), ["LinkSlow 9.4 Mbit/s (was 940) to node-b"]);
}

#[test]
fn of_many_slow_links_the_condition_names_three_and_each_has_its_event() {
    let well = ["b", "c", "d", "e"].map(|node| link(node, GIGABIT, 8));
    let slow = well.each_ref().map(|link| then(link, TEN_MEGABIT));
    let (_, _, message) = judge(&slow);
    assert!(message.ends_with("(was 940) to d, and 1 more"), "{message}");
    assert_eq!(notes(&well, &slow).len(), 4);
}
