//! Workers that crash again and again.

use super::*;

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
        "the worker ended 6 times within 15 s and is started again, later each time; the last time: Crashed: signal 6";
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
