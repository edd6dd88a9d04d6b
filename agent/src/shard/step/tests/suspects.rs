//! Devices that may compute what is wrong, and the shards that are placed on them.

use super::*;

fn exited(bench: &mut Bench) {
    bench.event(Event::Exited(Fault::new("Crashed", "the worker was ended by signal 9")));
}

/// What a failed shard says, and how often it failed.
fn failed(bench: &Bench) -> Option<(&str, u32)> {
    let seen = &bench.observed[&slot()];
    match &seen.state {
        State::Failed { fault, .. } => Some((fault.message.as_str(), seen.failures)),
        _ => None,
    }
}

#[test]
fn a_worker_whose_device_may_compute_what_is_wrong_is_ended_at_once_and_that_is_no_failure_of_its_own() {
    let mut bench = Bench::one(1).serving(1);
    bench.suspect("cpu0");
    assert_eq!(bench.step(), [Action::Condemn(suspicion("cpu0"))]);
    assert!(bench.step().is_empty(), "once");
    bench.now_ms += KILL_AGAIN_MS;
    assert_eq!(bench.step(), [Action::Kill], "its end was not heard");
    exited(&mut bench);
    assert_eq!(failed(&bench), Some(("cpu0: UncorrectableEcc", 0)));
}

#[test]
fn on_a_suspect_device_nothing_is_started_until_it_is_ready_again_however_long_that_takes() {
    let mut bench = Bench::one(1).serving(1);
    bench.suspect("cpu0");
    bench.step();
    exited(&mut bench);
    for _ in 0..100 {
        assert!(bench.step().is_empty(), "the operator finds another place");
        bench.now_ms += 60_000;
    }
    bench.suspects.clear();
    assert_eq!(bench.step(), [Action::Retry]);
    assert_eq!(bench.step(), [Action::Start(Work::Spawn)]);
}

#[test]
fn a_shard_that_comes_to_a_suspect_device_is_fetched_and_says_why_it_is_not_loaded() {
    let mut bench = Bench::one(1);
    bench.suspect("cpu0");
    bench.step();
    for work in [Work::Fetch, Work::Verify, Work::Prepare] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event(Event::Done(work));
    }
    assert_eq!(bench.step(), [Action::Condemn(suspicion("cpu0"))]);
    assert_eq!(failed(&bench), Some(("cpu0: UncorrectableEcc", 0)));
    assert!(bench.step().is_empty());
}

#[test]
fn a_worker_that_crashed_before_its_device_was_suspect_waits_for_the_device_and_says_so() {
    let mut bench = Bench::one(1).serving(1);
    exited(&mut bench);
    bench.suspect("cpu0");
    assert_eq!(bench.step(), [Action::Retry]);
    assert_eq!(bench.step(), [Action::Condemn(suspicion("cpu0"))]);
    assert_eq!(failed(&bench), Some(("cpu0: UncorrectableEcc", 1)));
    assert!(bench.step().is_empty());
}

#[test]
fn a_worker_that_was_being_started_is_ended_as_soon_as_it_lives() {
    let mut bench = Bench::one(1);
    bench.step();
    for work in [Work::Fetch, Work::Verify, Work::Prepare] {
        bench.step();
        bench.event(Event::Done(work));
    }
    assert_eq!(bench.step(), [Action::Start(Work::Spawn)]);
    bench.suspect("cpu0");
    assert!(bench.step().is_empty());
    bench.event(Event::Done(Work::Spawn));
    assert_eq!(bench.step(), [Action::Condemn(suspicion("cpu0"))]);
}

#[test]
fn a_worker_that_finishes_its_streams_is_ended_too_and_then_forgotten() {
    let mut bench = Bench::one(1).serving(1);
    bench.desired.clear();
    assert!(matches!(bench.step()[..], [Action::Drain { .. }]));
    bench.suspect("cpu0");
    assert_eq!(bench.step(), [Action::Condemn(suspicion("cpu0"))]);
    exited(&mut bench);
    assert_eq!(bench.step(), [Action::Forget]);
}

#[test]
fn workers_of_other_devices_serve_on() {
    let mut bench = Bench::one(1).serving(1);
    bench.suspect("vulkan0");
    assert!(bench.step().is_empty());
    assert_eq!(failed(&bench), None);
}

#[test]
fn what_stands_by_on_a_suspect_device_is_fetched_all_the_same() {
    let mut bench = Bench::new([wanted_for(Purpose::Fetch, 2, slice(0, 10, "cpu0"), None)]);
    bench.suspect("cpu0");
    bench.step();
    for work in [Work::Fetch, Work::Verify] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event(Event::Done(work));
    }
    assert!(bench.step().is_empty());
}

#[test]
fn a_worker_on_a_group_is_ended_for_any_of_its_devices_and_the_message_names_that_one() {
    for member in ["cuda0", "cuda1"] {
        let group = slice(0, 10, "cuda0+cuda1");
        let mut bench = Bench::new([wanted(1, group.clone(), None)]);
        bench.step();
        for work in [Work::Fetch, Work::Verify, Work::Prepare, Work::Spawn] {
            assert_eq!(bench.step(), [Action::Start(work)]);
            bench.event_of(&slot_of(&group), Event::Done(work));
        }
        bench.suspect("cuda2");
        assert!(bench.step().is_empty());
        bench.suspect(member);
        assert_eq!(bench.step(), [Action::Condemn(suspicion(member))]);
    }
}
