//! Workers that crash again and again.

use super::*;
use crate::shard::departed::REMEMBERED_MS;

/// Its worker ends, and is started again when the time has come. What was said of it meanwhile.
fn crash(bench: &mut Bench) -> Fault {
    bench.event(Event::Exited(Fault::new("Crashed", "signal 6")));
    let State::Failed { fault, retry_at_ms, .. } = bench.observed[&slot()].state.clone() else {
        panic!("failed")
    };
    bench.now_ms = retry_at_ms;
    assert_eq!(bench.step(), [Action::Retry]);
    assert_eq!(bench.step(), [Action::Start(Work::Spawn)]);
    bench.event(Event::Done(Work::Spawn));
    fault
}

#[test]
fn a_worker_that_crashes_for_the_third_time_does_so_by_habit_until_it_has_served_for_a_minute() {
    let mut bench = Bench::one(1).serving(1);
    let reasons: Vec<String> = (0..5).map(|_| crash(&mut bench).reason).collect();
    assert_eq!(reasons, ["Crashed", "Crashed", "CrashLoop", "CrashLoop", "CrashLoop"]);
    let told = crash(&mut bench).message;
    // It was started again after 0, 1, 2, 4 and 8 s.
    let expected =
        "the worker ended 6 times within 15 s and is started again each time; the last time: Crashed: signal 6";
    assert_eq!(told, expected);
    bench.status(WorkerPhase::Serving);
    bench.now_ms += 59_999;
    assert_eq!(crash(&mut bench).reason, "CrashLoop");
    bench.status(WorkerPhase::Serving);
    bench.now_ms += 60_000;
    assert_eq!(crash(&mut bench).reason, "Crashed");
}

#[test]
fn what_failed_before_there_was_a_worker_is_no_crash_of_it() {
    let mut bench = Bench::one(1);
    bench.step();
    for _ in 0..5 {
        assert_eq!(bench.step(), [Action::Start(Work::Fetch)]);
        bench.event(Event::WorkFailed(Work::Fetch, Fault::new("SourceUnavailable", "")));
        bench.now_ms += 120_000;
        assert_eq!(bench.step(), [Action::Retry]);
    }
    for work in [Work::Fetch, Work::Verify, Work::Prepare, Work::Spawn] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event(Event::Done(work));
    }
    assert_eq!(crash(&mut bench).reason, "Crashed");
}

/// Nobody wants the shard any more, and its worker ends as it is asked.
fn leave(bench: &mut Bench) {
    bench.desired.clear();
    assert!(matches!(bench.step()[..], [Action::Drain { .. }]));
    bench.event(Event::Exited(Fault::new("Exited", "")));
    assert_eq!(bench.step(), [Action::Forget]);
    assert!(bench.observed.is_empty());
}

/// The slice is placed here, and its worker started. The reason that is told of its first crash, and how long it waits then.
fn first_crash_of(bench: &mut Bench, desired: Desired) -> (String, u64) {
    let slot = slot_of(&desired.slice);
    bench.want_only(desired);
    assert_eq!(bench.step(), [Action::Adopt]);
    for work in [Work::Fetch, Work::Verify, Work::Prepare, Work::Spawn] {
        assert_eq!(
            bench.step(),
            [Action::Start(work)],
            "layers that come back are loaded at once"
        );
        bench.event_of(&slot, Event::Done(work));
    }
    bench.event_of(&slot, Event::Exited(Fault::new("Crashed", "signal 6")));
    match &bench.observed[&slot].state {
        State::Failed { fault, retry_at_ms, .. } => (fault.reason.clone(), retry_at_ms - bench.now_ms),
        other => panic!("{other:?}"),
    }
}

/// A shard that crashed three times and left its device.
fn departed() -> Bench {
    let mut bench = Bench::one(1).serving(1);
    (0..3).for_each(|_| drop(crash(&mut bench)));
    leave(&mut bench);
    bench
}

#[test]
fn layers_that_come_back_to_a_device_that_was_left_go_on_with_the_count_of_their_crashes_and_with_the_waits() {
    let mut bench = departed();
    bench.now_ms += REMEMBERED_MS - 1;
    let again = wanted(2, slice(0, 10, "cpu0"), None);
    assert_eq!(first_crash_of(&mut bench, again), ("CrashLoop".to_owned(), 4000));
    let State::Failed { fault, .. } = &bench.observed[&slot()].state else {
        panic!("failed")
    };
    let count = "the worker ended 4 times within 31 min and is started again each time";
    assert!(fault.message.starts_with(count), "{}", fault.message);
}

#[test]
fn another_cut_of_the_layers_on_the_device_goes_on_with_the_count_too() {
    let another = wanted(2, slice(0, 15, "cpu0"), None);
    assert_eq!(first_crash_of(&mut departed(), another).0, "CrashLoop");
}

#[test]
fn what_comes_back_late_or_is_on_another_device_or_has_other_weights_begins_anew() {
    let fresh = ("Crashed".to_owned(), 500);
    let mut late = departed();
    late.now_ms += REMEMBERED_MS;
    let again = wanted(2, slice(0, 10, "cpu0"), None);
    assert_eq!(first_crash_of(&mut late, again), fresh);
    let elsewhere = wanted(2, slice(0, 10, "vulkan0"), None);
    assert_eq!(first_crash_of(&mut departed(), elsewhere), fresh);
    let other_weights = Slice {
        index: gguf::Digest([8; 32]),
        ..slice(0, 10, "cpu0")
    };
    assert_eq!(first_crash_of(&mut departed(), wanted(2, other_weights, None)), fresh);
}

#[test]
fn layers_that_left_after_they_served_for_a_minute_leave_no_count_behind() {
    let mut bench = Bench::one(1).serving(1);
    (0..3).for_each(|_| drop(crash(&mut bench)));
    bench.status(WorkerPhase::Serving);
    bench.now_ms += 60_000;
    leave(&mut bench);
    let again = wanted(2, slice(0, 10, "cpu0"), None);
    assert_eq!(first_crash_of(&mut bench, again), ("Crashed".to_owned(), 500));
}
