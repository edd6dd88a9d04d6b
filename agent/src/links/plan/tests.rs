use super::*;
use crate::links::allowance::Allowance;
use crate::links::history::{ECHO_BYTES, Round};

const MINUTE_MS: u64 = 60_000;

struct Scene {
    now_ms: u64,
    peers: BTreeMap<String, Progress>,
    wishes: Wishes,
    serves: bool,
    allowed_ms: u64,
}

fn scene(nodes: &[&str]) -> Scene {
    Scene {
        now_ms: MINUTE_MS,
        peers: nodes
            .iter()
            .map(|node| ((*node).to_owned(), Progress::default()))
            .collect(),
        wishes: Wishes::default(),
        serves: false,
        allowed_ms: 0,
    }
}

impl Scene {
    fn decide(&self) -> Next {
        decide(&Situation {
            now_ms: self.now_ms,
            seed: 7,
            peers: &self.peers,
            wishes: &self.wishes,
            serves: self.serves,
            allowed_ms: self.allowed_ms,
        })
    }

    fn tried(&mut self, node: &str, change: impl FnOnce(&mut Progress)) {
        let progress = self.peers.get_mut(node).unwrap();
        progress.tried_ms = Some(self.now_ms);
        change(progress);
    }

    /// How long from now until the link is looked at.
    fn wait_ms(&self) -> u64 {
        match self.decide() {
            Next::Measure(_) | Next::Glance(_) => 0,
            Next::Wait { until_ms } => until_ms - self.now_ms,
        }
    }
}

#[test]
fn a_link_that_nothing_is_known_of_comes_first() {
    let mut scene = scene(&["a", "b"]);
    scene.tried("a", |progress| progress.rounds = 3);
    assert_eq!(scene.decide(), Next::Measure("b".into()));
    assert_eq!(scene.decide(), scene.decide(), "the same situation, the same answer");
}

#[test]
fn a_link_is_measured_three_times_soon_and_then_seldom() {
    let mut scene = scene(&["a"]);
    for rounds in 1..ROUNDS_FIRST {
        scene.tried("a", |progress| progress.rounds = rounds);
        assert!(
            (SOON_MS..=2 * SOON_MS).contains(&scene.wait_ms()),
            "{}",
            scene.wait_ms()
        );
    }
    scene.tried("a", |progress| progress.rounds = ROUNDS_FIRST);
    assert!(
        (STEADY_MS..=2 * STEADY_MS).contains(&scene.wait_ms()),
        "{}",
        scene.wait_ms()
    );
}

#[test]
fn a_peer_that_is_gone_is_asked_ever_more_seldom() {
    let mut scene = scene(&["a"]);
    let mut longest = 0;
    for failures in 1..40 {
        scene.tried("a", |progress| progress.failures = failures);
        let wait_ms = scene.wait_ms();
        assert!((FAILED_MS..=2 * FAILED_MAX_MS).contains(&wait_ms), "{wait_ms}");
        longest = longest.max(wait_ms);
    }
    assert!(longest >= FAILED_MAX_MS);
    assert!(scene.peers["a"].is_gone());
}

#[test]
fn a_peer_that_puts_us_off_is_asked_again_soon_and_not_in_step() {
    let mut scene = scene(&["a"]);
    let mut waits = Vec::new();
    for put_off in 1..PUT_OFF_MANY {
        scene.tried("a", |progress| progress.put_off = put_off);
        waits.push(scene.wait_ms());
    }
    assert!(
        waits.iter().all(|wait| (PUT_OFF_MS..=2 * PUT_OFF_MS).contains(wait)),
        "{waits:?}"
    );
    waits.dedup();
    assert!(waits.len() > 3, "{waits:?}");
    scene.tried("a", |progress| progress.put_off = PUT_OFF_MANY);
    assert!(scene.wait_ms() >= PUT_OFF_LONG_MS);
}

#[test]
fn an_unknown_link_is_not_measured_while_a_shard_serves_and_none_while_paused_or_excluded_or_without_allowance() {
    let mut scene = scene(&["a"]);
    scene.serves = true;
    assert_eq!(scene.decide(), Next::Wait { until_ms: u64::MAX });
    scene.serves = false;
    scene.wishes.paused = true;
    assert_eq!(
        scene.decide(),
        Next::Wait {
            until_ms: scene.now_ms + LOOK_AGAIN_MS
        }
    );
    scene.wishes.paused = false;
    scene.wishes.excluded = vec!["a".into()];
    assert_eq!(scene.decide(), Next::Wait { until_ms: u64::MAX });
    scene.wishes.excluded.clear();
    scene.allowed_ms = scene.now_ms + 5;
    assert_eq!(
        scene.decide(),
        Next::Wait {
            until_ms: scene.now_ms + 5
        }
    );
    scene.allowed_ms = scene.now_ms;
    assert_eq!(scene.decide(), Next::Measure("a".into()));
    scene.peers.clear();
    assert_eq!(scene.decide(), Next::Wait { until_ms: u64::MAX });
}

#[test]
fn forty_peers_of_a_gigabit_link_are_each_measured_several_times_before_their_figures_grow_old() {
    let names: Vec<String> = (0..40).map(|number| format!("node-{number:02}")).collect();
    let mut scene = scene(&names.iter().map(String::as_str).collect::<Vec<_>>());
    scene.now_ms = 0;
    let mut allowance = Allowance::new(0);
    let (hours, round_us) = (12, 100_000);
    let mut spent_us = 0;
    while scene.now_ms < hours * 60 * MINUTE_MS {
        scene.allowed_ms = allowance.ready_at_ms();
        match scene.decide() {
            Next::Glance(node) => panic!("{node} is no neighbour"),
            Next::Measure(node) => {
                scene.tried(&node, |progress| progress.rounds += 1);
                allowance.spend(round_us, scene.now_ms);
                spent_us += round_us;
                scene.now_ms += 200;
            }
            Next::Wait { until_ms } => scene.now_ms = until_ms,
        }
    }
    let fewest = scene.peers.values().map(|progress| progress.rounds).min().unwrap();
    assert!(fewest >= 10, "{fewest} rounds in twelve hours");
    assert!(
        spent_us < hours * 60 * MINUTE_MS * 1000 / 400,
        "{spent_us} µs is more than a quarter of a percent"
    );
}

/// A link of which three rounds are known, the last of them made now.
fn known(scene: &mut Scene, node: &str, change: impl FnOnce(&mut Progress)) {
    let now_ms = scene.now_ms;
    scene.tried(node, |progress| {
        (progress.rounds, progress.seen_ms) = (ROUNDS_FIRST, now_ms);
        change(progress);
    });
}

impl Scene {
    /// Does what is decided for so long, finds something each time, and tells what was done and when.
    fn pass(&mut self, time_ms: u64) -> Vec<(u64, Next)> {
        let (mut done, end_ms) = (Vec::new(), self.now_ms + time_ms);
        while self.now_ms < end_ms {
            let next = self.decide();
            let (node, was_glance) = match &next {
                Next::Wait { until_ms } => {
                    self.now_ms = (*until_ms).min(end_ms);
                    continue;
                }
                Next::Measure(node) => (node, false),
                Next::Glance(node) => (node, true),
            };
            done.push((self.now_ms, next.clone()));
            self.now_ms += 10;
            let progress = self.peers.get_mut(node).unwrap();
            progress.found(was_glance, (node.as_str(), 7), self.now_ms);
        }
        done
    }
}

fn glances(done: &[(u64, Next)], at: &str) -> usize {
    let glance = Next::Glance(at.to_owned());
    done.iter().filter(|(_, next)| *next == glance).count()
}

#[test]
fn a_neighbour_is_glanced_at_twice_a_minute_whether_a_shard_computes_or_not_and_others_are_left_alone() {
    for serves in [false, true] {
        let mut scene = scene(&["a", "b"]);
        known(&mut scene, "a", |progress| progress.is_neighbour = true);
        known(&mut scene, "b", |_| {});
        scene.serves = serves;
        let done = scene.pass(10 * MINUTE_MS);
        assert!((10..=20).contains(&done.len()), "{done:?}");
        assert_eq!(glances(&done, "a"), done.len(), "{done:?}");
    }
}

#[test]
fn while_a_shard_computes_a_link_that_is_known_gets_a_glance_in_the_place_of_each_round() {
    let mut scene = scene(&["a", "b"]);
    known(&mut scene, "a", |_| {});
    scene.serves = true;
    let done = scene.pass(4 * 60 * MINUTE_MS);
    assert!((8..=16).contains(&glances(&done, "a")), "{done:?}");
    assert_eq!(glances(&done, "a"), done.len(), "b is not known: {done:?}");
}

#[test]
fn a_neighbour_gets_its_rounds_beside_the_glances_while_nothing_computes() {
    let mut scene = scene(&["a"]);
    known(&mut scene, "a", |progress| progress.is_neighbour = true);
    let done = scene.pass(4 * 60 * MINUTE_MS);
    let rounds = done.len() - glances(&done, "a");
    assert!((7..=16).contains(&rounds), "{rounds} rounds in four hours");
}

#[test]
fn a_link_that_may_have_become_another_one_is_glanced_at_soon_and_before_all_that_are_known() {
    let mut scene = scene(&["a", "b"]);
    known(&mut scene, "a", |_| {});
    known(&mut scene, "b", |progress| progress.is_in_doubt = true);
    let wait_ms = scene.wait_ms();
    assert!((DOUBT_MS..=2 * DOUBT_MS).contains(&wait_ms), "{wait_ms}");
    // The allowance was spent meanwhile, and the other one has waited longer.
    scene.now_ms += 30 * MINUTE_MS;
    assert_eq!(scene.decide(), Next::Glance("b".into()));
}

/// What a round or a glance finds of a link that carries so much in both directions.
fn found(now_ms: u64, is_glance: bool, bytes_per_second: u64) -> Round {
    Round {
        unix_s: i64::try_from(now_ms / 1000).unwrap(),
        is_glance,
        echo_bytes: ECHO_BYTES,
        round_trips_us: vec![300],
        send_bytes_per_second: bytes_per_second,
        receive_bytes_per_second: bytes_per_second,
    }
}

const GIGABIT: u64 = 117_500_000;
/// Less than a quarter of it, and more than a glance can tell.
const FELL_TO: u64 = 20_000_000;

#[test]
fn an_idle_link_that_fell_to_what_no_glance_can_tell_is_known_by_three_rounds_in_a_row() {
    for is_neighbour in [true, false] {
        let mut scene = scene(&["a"]);
        known(&mut scene, "a", |progress| progress.is_neighbour = is_neighbour);
        let mut history = History::default();
        (0..ROUNDS_FIRST).for_each(|_| history.add(found(scene.now_ms, false, GIGABIT)));
        let mut rounds_ms = Vec::new();
        while history.figures().unwrap().send_bytes_per_second == GIGABIT {
            assert!(rounds_ms.len() < 3, "rounds at {rounds_ms:?} ms changed nothing");
            let was_glance = match scene.decide() {
                Next::Wait { until_ms } => {
                    scene.now_ms = until_ms;
                    continue;
                }
                Next::Glance(_) => true,
                Next::Measure(_) => {
                    rounds_ms.push(scene.now_ms);
                    false
                }
            };
            scene.now_ms += 10;
            history.add(found(scene.now_ms, was_glance, FELL_TO));
            let progress = scene.peers.get_mut("a").unwrap();
            progress.found(was_glance, ("a", 7), scene.now_ms);
            progress.doubt(&history, was_glance);
        }
        assert_eq!(history.figures().unwrap().send_bytes_per_second, FELL_TO);
        let took_ms = scene.now_ms - rounds_ms[0];
        assert!(took_ms < 4 * DOUBT_MS + 1000, "{rounds_ms:?}");
        assert!(!scene.peers["a"].is_in_doubt);
    }
}

#[test]
fn a_glance_in_the_place_of_a_round_that_alone_could_tell_is_not_followed_by_another_one_at_once() {
    let mut scene = scene(&["a"]);
    known(&mut scene, "a", |_| {});
    let mut history = History::default();
    (0..ROUNDS_FIRST).for_each(|_| history.add(found(scene.now_ms, false, GIGABIT)));
    let now_ms = scene.now_ms;
    let mut look = |scene: &mut Scene, was_glance: bool| {
        history.add(found(now_ms, was_glance, FELL_TO));
        scene.peers.get_mut("a").unwrap().doubt(&history, was_glance);
    };
    look(&mut scene, false);
    assert!((DOUBT_MS..=2 * DOUBT_MS).contains(&scene.wait_ms()));
    scene.now_ms += 2 * DOUBT_MS;
    assert_eq!(scene.decide(), Next::Measure("a".into()));
    scene.serves = true;
    assert_eq!(scene.decide(), Next::Glance("a".into()));
    look(&mut scene, true);
    assert!(scene.wait_ms() > 2 * DOUBT_MS, "{}", scene.wait_ms());
}

#[test]
fn a_peer_that_computes_all_the_time_is_glanced_at() {
    let mut scene = scene(&["a"]);
    known(&mut scene, "a", |progress| progress.put_off = PUT_OFF_GLANCE - 1);
    scene.now_ms += 2 * PUT_OFF_MS;
    assert_eq!(scene.decide(), Next::Measure("a".into()));
    scene.peers.get_mut("a").unwrap().was_put_off(scene.now_ms);
    scene.now_ms += 2 * PUT_OFF_MS;
    assert_eq!(scene.decide(), Next::Glance("a".into()));
}

#[test]
fn a_neighbour_that_fails_is_asked_as_seldom_as_any_other() {
    let mut scene = scene(&["a"]);
    known(&mut scene, "a", |progress| progress.is_neighbour = true);
    for _ in 0..GONE_AFTER {
        scene.peers.get_mut("a").unwrap().failed(scene.now_ms);
        scene.now_ms += 60 * MINUTE_MS;
    }
    assert!(scene.peers["a"].is_gone());
    scene.peers.get_mut("a").unwrap().failed(scene.now_ms);
    assert!(scene.wait_ms() >= 4 * FAILED_MS, "{}", scene.wait_ms());
}

#[test]
fn many_neighbours_leave_half_of_the_allowance_to_the_others() {
    let names: Vec<String> = (0..64).map(|number| format!("node-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut scene = scene(&names);
    for node in names {
        known(&mut scene, node, |progress| progress.is_neighbour = true);
    }
    scene.serves = true;
    let done = scene.pass(60 * MINUTE_MS);
    assert!(done.len() < 64 * 10, "{} glances in an hour", done.len());
    assert!(done.len() >= 64 * 3, "{} glances in an hour", done.len());
}
