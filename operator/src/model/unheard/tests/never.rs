//! A leader that has just begun, and agents that do not attach to it.

use super::*;
use crate::model::stages;

/// What counts, so many seconds after a leader began, where these are attached and those never were.
fn begun(unheard: &mut Unheard, attached: &[&str], missing: &[&str], start: Instant, seconds: u64) -> Vec<String> {
    let (attached, now) = (fixture::agents(attached), start + Duration::from_secs(seconds));
    unheard.look(&attached, Vec::new(), now);
    unheard.miss(fixture::agents(missing), start);
    counted(unheard, attached, now)
}

/// What is read at a second: the nodes' Leases, each renewed at a second of its agent's clock, if its agent says that it is apart.
fn read(unheard: &mut Unheard, start: Instant, seconds: u64, said: &[(&str, Option<i64>)]) {
    let lease = |(node, at): &(&str, Option<i64>)| lease(node, at.unwrap_or(1), at.is_some());
    let leases: Vec<Lease> = said.iter().map(lease).collect();
    unheard.learn(&leases, start + Duration::from_secs(seconds));
}

#[test]
fn where_most_never_attach_and_say_anew_that_they_are_apart_they_count_and_who_says_nothing_is_lost() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    let missing = ["b", "c", "d"];
    begun(&mut unheard, &["a"], &missing, start, 0);
    // Two of them said it to the last leader, or since.
    read(
        &mut unheard,
        start,
        1,
        &[("b", Some(100)), ("c", Some(100)), ("d", None)],
    );
    read(
        &mut unheard,
        start,
        9,
        &[("b", Some(110)), ("c", Some(100)), ("d", None)],
    );
    assert_eq!(begun(&mut unheard, &["a"], &missing, start, 9), ["a"]);
    assert!(!unheard.awaits("b"), "they are on their way");
    assert_eq!(begun(&mut unheard, &["a"], &missing, start, 10), ["a"]);
    assert!(["b", "c"].iter().all(|node| unheard.awaits(node)) && !unheard.awaits("d"));
    assert!(!unheard.has_concluded(), "the one may say it yet");
    read(
        &mut unheard,
        start,
        11,
        &[("b", Some(110)), ("c", Some(110)), ("d", None)],
    );
    assert_eq!(begun(&mut unheard, &["a"], &missing, start, 11), ["a", "b", "c"]);
    assert!(unheard.has_concluded() && ["b", "c", "d"].iter().all(|node| !unheard.awaits(node)));
    assert!(unheard.is("b") && !unheard.is("a"));
    let note = unheard.note(&fixture::in_force(1, &["a", "b"])).expect("a note");
    assert!(note.contains("2 of 3 agents") && note.contains("that of b"), "{note}");
    // From now on they are like those that fell silent.
    read(&mut unheard, start, 30, &[("b", Some(130)), ("c", Some(110))]);
    assert_eq!(after(&mut unheard, &["a"], &[], start, 40), ["a", "b", "c"]);
    read(&mut unheard, start, 41, &[("b", Some(130)), ("c", Some(110))]);
    assert_eq!(
        after(&mut unheard, &["a"], &[], start, 41),
        ["a", "b"],
        "it said nothing anew for long"
    );
}

#[test]
fn what_was_said_before_the_leader_began_and_never_anew_is_waited_for_no_longer_than_that_takes() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    let missing = ["b", "c"];
    begun(&mut unheard, &["a"], &missing, start, 0);
    for second in [1, 5, 14] {
        read(&mut unheard, start, second, &[("b", Some(100)), ("c", Some(100))]);
    }
    assert_eq!(begun(&mut unheard, &["a"], &missing, start, 14), ["a"]);
    assert!(unheard.awaits("b") && unheard.awaits("c"));
    read(&mut unheard, start, 15, &[("b", Some(100)), ("c", Some(100))]);
    assert_eq!(begun(&mut unheard, &["a"], &missing, start, 15), ["a"]);
    assert!(unheard.has_concluded() && !unheard.awaits("b") && !unheard.is("b"));
}

#[test]
fn who_said_it_before_is_not_given_up_while_nothing_can_be_read_any_more_but_for_half_a_minute_at_most() {
    let (missing, start) = (["b", "c"], Instant::now());
    let said = |at| [("b", Some(at)), ("c", Some(at))];
    let read_once = || {
        let mut unheard = Unheard::default();
        begun(&mut unheard, &["a"], &missing, start, 0);
        read(&mut unheard, start, 1, &said(100));
        for second in [10, 15, 30] {
            assert_eq!(begun(&mut unheard, &["a"], &missing, start, second), ["a"]);
            assert!(unheard.awaits("b") && unheard.awaits("c"), "after {second} s");
        }
        unheard
    };
    let mut unheard = read_once();
    assert_eq!(begun(&mut unheard, &["a"], &missing, start, 31), ["a"]);
    assert!(unheard.has_concluded() && !unheard.awaits("b") && !unheard.is("b"));
    let mut unheard = read_once();
    read(&mut unheard, start, 30, &said(120));
    assert_eq!(begun(&mut unheard, &["a"], &missing, start, 30), ["a", "b", "c"]);
    assert!(unheard.has_concluded() && unheard.is("b"));
}

#[test]
fn those_that_say_nothing_and_those_that_are_few_are_lost_once_they_had_the_time_to_attach() {
    let start = Instant::now();
    // Nodes that were lost together with the last leader.
    let mut unheard = Unheard::default();
    begun(&mut unheard, &["a"], &["b", "c"], start, 0);
    read(&mut unheard, start, 1, &[("b", None)]);
    assert_eq!(begun(&mut unheard, &["a"], &["b", "c"], start, 10), ["a"]);
    assert!(unheard.has_concluded() && !unheard.awaits("b"));
    // Few of all, whatever they say.
    let mut unheard = Unheard::default();
    let (heard, missing) = (["a", "d"], ["b", "c"]);
    begun(&mut unheard, &heard, &missing, start, 0);
    read(&mut unheard, start, 1, &[("b", None), ("c", None)]);
    read(&mut unheard, start, 9, &[("b", Some(100)), ("c", Some(100))]);
    assert_eq!(begun(&mut unheard, &heard, &missing, start, 10), heard);
    assert!(unheard.has_concluded() && !unheard.awaits("b"));
}

#[test]
fn while_no_lease_can_be_read_most_are_waited_for_half_a_minute_and_no_longer() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    for second in [0, 10, 29] {
        assert_eq!(begun(&mut unheard, &["a"], &["b", "c"], start, second), ["a"]);
    }
    assert!(unheard.awaits("b") && unheard.awaits("c"));
    assert_eq!(begun(&mut unheard, &["a"], &["b", "c"], start, 30), ["a"]);
    assert!(unheard.has_concluded() && !unheard.awaits("b"));
}

#[test]
fn who_attaches_meanwhile_is_missed_no_more() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    begun(&mut unheard, &[], &["a", "b", "c"], start, 0);
    let said = |at| ["a", "b", "c"].map(|node| (node, Some(at)));
    read(&mut unheard, start, 1, &said(100));
    read(&mut unheard, start, 9, &said(110));
    assert_eq!(begun(&mut unheard, &["a", "b"], &["c"], start, 10), ["a", "b"]);
    assert!(unheard.has_concluded());
    assert_eq!(unheard.note(&fixture::in_force(1, &["c"])), None);
}

#[test]
fn what_a_status_says_of_its_stages_is_what_their_agents_last_told() {
    let mut in_force = fixture::in_force(4, &["a", "b"]);
    let served = &mut in_force.view.stages[1];
    served.phase = crds::StagePhase::Serving;
    served.endpoint = Some("b:7000".to_owned());
    let told = |node: &str| (node.to_owned(), last_told(node, &[&in_force], Instant::now()));
    let agents = BTreeMap::from(["a", "b", "c"].map(told));
    let sights = stages::look(&in_force, &agents);
    assert!(sights[0].attached && !sights[0].serves(), "it did not serve yet");
    assert!(sights[1].serves());
    assert_eq!(sights[1].endpoint.as_deref(), Some("b:7000"));
    assert_eq!(agents["b"].epochs.get(fixture::UID), Some(&4));
    assert!(agents["c"].epochs.is_empty() && agents["c"].shards.is_empty());
}
