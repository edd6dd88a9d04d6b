mod never;

use identity::Heard;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::model::fixture;

/// As an agent writes it at a second of its own clock.
fn lease(node: &str, second: i64, is_apart: bool) -> Lease {
    let noted = is_apart.then(|| BTreeMap::from([(APART.to_owned(), "true".to_owned())]));
    Lease {
        metadata: ObjectMeta {
            name: Some(agent_lease(node)),
            annotations: noted,
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            renew_time: Some(MicroTime(Timestamp::from_second(second).unwrap())),
            ..Default::default()
        }),
    }
}

/// Agents whose streams end in silence.
fn silenced(nodes: &[&str]) -> Vec<(String, AgentView)> {
    fixture::agents(nodes).into_iter().collect()
}

/// The nodes that count where these are attached.
fn counted(unheard: &mut Unheard, mut attached: BTreeMap<String, AgentView>, now: Instant) -> Vec<String> {
    unheard.fill(&mut attached, now);
    attached.into_keys().collect()
}

/// The same once others fell silent, after `seconds`.
fn after(unheard: &mut Unheard, attached: &[&str], silent: &[&str], start: Instant, seconds: u64) -> Vec<String> {
    let (attached, now) = (fixture::agents(attached), start + Duration::from_secs(seconds));
    unheard.look(&attached, silenced(silent), now);
    counted(unheard, attached, now)
}

/// These say at a second that they are there.
fn say(unheard: &mut Unheard, nodes: &[&str], start: Instant, second: i64) {
    let leases: Vec<Lease> = nodes.iter().map(|node| lease(node, second, true)).collect();
    unheard.learn(&leases, start + Duration::from_secs(second.unsigned_abs()));
}

#[test]
fn most_that_fall_silent_count_while_they_say_that_they_are_there_and_for_a_moment_before() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    let seconds = |count| start + Duration::from_secs(count);
    assert_eq!(after(&mut unheard, &["a"], &["b", "c"], start, 1), ["a", "b", "c"]);
    // The one is there, the other says nothing since.
    let leases = [lease("b", 100, true), lease("c", 90, false)];
    unheard.learn(&leases, seconds(2));
    assert_eq!(after(&mut unheard, &["a"], &[], start, 5), ["a", "b", "c"]);
    assert_eq!(
        after(&mut unheard, &["a"], &[], start, 9),
        ["a", "b", "c"],
        "what it says by now is not known"
    );
    unheard.learn(&leases, seconds(9));
    assert_eq!(after(&mut unheard, &["a"], &[], start, 9), ["a", "b"]);
}

#[test]
fn while_nothing_can_be_read_they_count_for_half_a_minute_and_no_longer() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    for second in [1, 9, 30] {
        let silent: &[&str] = if second == 1 { &["b", "c"] } else { &[] };
        assert_eq!(after(&mut unheard, &["a"], silent, start, second), ["a", "b", "c"]);
    }
    assert_eq!(after(&mut unheard, &["a"], &[], start, 31), ["a"]);
}

#[test]
fn they_count_for_as_long_as_their_leases_are_renewed_and_no_longer() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    after(&mut unheard, &["a"], &["b", "c"], start, 1);
    for second in [2, 20, 40] {
        say(&mut unheard, &["b", "c"], start, second);
        let counted = after(&mut unheard, &["a"], &[], start, second.unsigned_abs());
        assert_eq!(counted, ["a", "b", "c"]);
    }
    let note = unheard.note(&fixture::in_force(1, &["a", "b"])).expect("a note");
    assert!(note.contains("2 of 3 agents") && note.contains("that of b"), "{note}");
    assert_eq!(
        after(&mut unheard, &["a"], &[], start, 71),
        ["a"],
        "nothing was said for long"
    );
    assert_eq!(unheard.note(&fixture::in_force(1, &["a", "b"])), None);
}

#[test]
fn those_that_said_that_they_are_there_are_waited_for_while_they_come_back_one_after_the_other() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    let (in_force, all) = (fixture::in_force(1, &["d", "e"]), ["a", "b", "c", "d", "e", "f", "g"]);
    let silent = ["c", "d", "e", "f", "g"];
    after(&mut unheard, &["a", "b"], &silent, start, 1);
    say(&mut unheard, &silent, start, 2);
    assert_eq!(after(&mut unheard, &["a", "b"], &[], start, 2), all);
    let told = unheard.note(&in_force).expect("a note");
    let back = ["a", "b", "c", "f", "g"];
    assert_eq!(after(&mut unheard, &back, &[], start, 3), all, "they are few by now");
    assert_eq!(
        unheard.note(&in_force),
        Some(told),
        "nothing new is written with each that is back"
    );
    // Who falls silent by itself meanwhile says nothing.
    let back = ["a", "c", "f", "g"];
    assert_eq!(after(&mut unheard, &back, &["b"], start, 4), all);
    say(&mut unheard, &["d", "e"], start, 5);
    let but_b = ["a", "c", "d", "e", "f", "g"];
    assert_eq!(after(&mut unheard, &back, &[], start, 5), but_b);
    // Who stays apart alone is lost like any other.
    say(&mut unheard, &["d", "e"], start, 30);
    assert_eq!(after(&mut unheard, &back, &[], start, 31), but_b);
    assert_eq!(after(&mut unheard, &back, &[], start, 32), back);
    assert_eq!(unheard.note(&in_force), None);
}

#[test]
fn the_first_that_is_given_up_counts_where_others_are_overdue_with_it() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut attached = fixture::agents(&["a", "b", "c"]);
    for (node, heard_ms) in [("a", 1900), ("b", 400), ("c", 300)] {
        let heard = Heard::since(start);
        heard.note(at(heard_ms));
        attached.get_mut(node).expect("attached").heard = heard;
    }
    let mut unheard = Unheard::default();
    unheard.look(&attached, silenced(&["d"]), at(2000));
    unheard.learn(&[], at(2000));
    assert_eq!(counted(&mut unheard, attached.clone(), at(2000)), ["a", "b", "c", "d"]);
    assert!(["b", "c", "d"].iter().all(|node| unheard.is(node)) && !unheard.is("a"));
    // They were late, and are heard again: the one is lost.
    for node in ["b", "c"] {
        attached[node].heard.note(at(2900));
    }
    unheard.look(&attached, Vec::new(), at(3000));
    assert_eq!(counted(&mut unheard, attached, at(3000)), ["a", "b", "c"]);
}

#[test]
fn few_that_fall_silent_and_those_that_asked_to_leave_are_lost_at_once() {
    let (mut unheard, start) = (Unheard::default(), Instant::now());
    assert_eq!(after(&mut unheard, &["a", "b"], &["c"], start, 1), ["a", "b"]);
    let mut unheard = Unheard::default();
    let mut left = silenced(&["b", "c"]);
    for (_, view) in &mut left {
        view.leaving = true;
    }
    let attached = fixture::agents(&["a"]);
    unheard.look(&attached, left, start);
    assert_eq!(counted(&mut unheard, attached, start), ["a"]);
}
