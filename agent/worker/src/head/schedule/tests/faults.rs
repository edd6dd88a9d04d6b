//! What a failed step undoes, and whom it blames.

use super::*;

#[test]
fn a_failed_step_is_tried_again_one_sequence_at_a_time_and_only_the_guilty_one_ends() {
    let mut schedule = with_depth(LIMITS, 2);
    for id in 1..=3 {
        schedule.admit(request(id, 2, 1), 0).unwrap();
    }
    let together = schedule.compose(0).unwrap();
    assert_eq!(rows_by_sequence(&together).len(), 3);
    let failed = schedule.fail(together.number, &fault(Reason::Compute));
    assert_eq!(failed, Failure::Isolated(vec![]));
    let mut ended = Vec::new();
    while let Some(step) = schedule.compose(0) {
        assert!(step.number >= together.number);
        assert!(rows_by_sequence(&step).len() <= 1);
        if step.rows.iter().any(|row| row.sequence == 1) {
            assert_eq!(schedule.compose(0), None, "nothing comes after a suspect's step");
            let failed = schedule.fail(step.number, &fault(Reason::Compute));
            let Failure::Isolated(events) = failed else {
                panic!("the others can go on")
            };
            ended.extend(events);
        } else {
            ended.extend(done(&mut schedule, &step, -1));
        }
    }
    let failed = Event::Failed {
        id: 2,
        fault: fault(Reason::Compute),
    };
    assert!(ended.contains(&failed));
    assert_eq!(ended.len(), 3);
    assert!(schedule.is_idle());
}

#[test]
fn a_failed_step_repeats_its_operations_under_the_same_number() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 2, 9), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    done(&mut schedule, &step, 5);
    schedule.cancel(1);
    schedule.admit(request(2, 2, 9), 0).unwrap();
    let failing = schedule.compose(0).unwrap();
    schedule.fail(failing.number, &fault(Reason::KvFull));
    let next = schedule.compose(0).unwrap();
    assert_eq!((next.number, &next.operations), (failing.number, &failing.operations));
}

#[test]
fn steps_after_a_failed_one_are_void_and_composed_again() {
    let mut schedule = with_depth(LIMITS, 3);
    schedule.admit(request(1, 20, 4), 0).unwrap();
    let steps: Vec<Step> = std::iter::from_fn(|| schedule.compose(0)).collect();
    done(&mut schedule, &steps[0], 5);
    schedule.admit(request(2, 2, 1), 0).unwrap();
    let fourth = schedule.compose(0).unwrap();
    assert_eq!(rows_by_sequence(&fourth), BTreeMap::from([(1, 2)]));
    // The first sequence failed alone; the second was merely behind it.
    let failed = schedule.fail(steps[1].number, &fault(Reason::Compute));
    let expected = Event::Failed {
        id: 1,
        fault: fault(Reason::Compute),
    };
    assert_eq!(failed, Failure::Isolated(vec![expected]));
    let again = schedule.compose(0).unwrap();
    assert_eq!(again.number, steps[1].number);
    assert_eq!(again.operations, [KvOperation::forget(0)]);
    assert_eq!(again.rows, fourth.rows);
}

#[test]
fn a_fault_that_is_not_of_the_step_breaks_the_chain() {
    let mut schedule = with_depth(LIMITS, 2);
    schedule.admit(request(1, 2, 9), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    schedule.admit(request(2, 2, 9), 0).unwrap();
    let unreachable = fault(Reason::Unreachable);
    assert_eq!(
        schedule.clone().fail(step.number + 1, &fault(Reason::Compute)),
        Failure::Broken
    );
    assert_eq!(schedule.fail(step.number, &unreachable), Failure::Broken);
    assert_eq!(schedule.abandon(), [1, 2]);
    assert!(schedule.is_idle());
}

/// One step at a time; a failed one costs its sequences all that they held.
fn of_a_model_that_cannot_be_cut_back() -> Schedule {
    let tuning = Tuning {
        restarts: true,
        ..Tuning::new(1, &LIMITS)
    };
    Schedule::new(LIMITS, tuning)
}

#[test]
fn where_sequences_cannot_be_cut_back_those_of_a_failed_step_begin_anew() {
    let mut schedule = of_a_model_that_cannot_be_cut_back();
    for id in 1..=2 {
        schedule.admit(request(id, 2, 3), 0).unwrap();
    }
    let first = schedule.compose(0).unwrap();
    done(&mut schedule, &first, 5);
    let failing = schedule.compose(0).unwrap();
    assert_eq!(rows_by_sequence(&failing), BTreeMap::from([(0, 1), (1, 1)]));
    let failed = schedule.fail(failing.number, &fault(Reason::Compute));
    assert_eq!(failed, Failure::Isolated(vec![]));
    let (steps, events) = run_out(&mut schedule, 5);
    assert_eq!(steps[0].operations, [KvOperation::forget(0), KvOperation::forget(1)]);
    for (sequence, step) in [0, 1].into_iter().zip(&steps) {
        let rows: Vec<_> = step
            .rows
            .iter()
            .map(|row| (row.sequence, row.position, row.token))
            .collect();
        let prompt = 100 * (sequence as i32 + 1);
        let expected = [(sequence, 0, prompt), (sequence, 1, prompt + 1), (sequence, 2, 5)];
        assert_eq!(rows, expected);
    }
    let finished = events.iter().filter(|event| matches!(event, Event::Finished { .. }));
    assert_eq!(finished.count(), 2);
    assert!(schedule.is_idle());
}

#[test]
fn a_sequence_that_began_anew_runs_alone_until_it_is_past_the_failure() {
    let mut schedule = of_a_model_that_cannot_be_cut_back();
    for id in 1..=2 {
        schedule.admit(request(id, 20, 1), 0).unwrap();
    }
    let (mut ended, mut failures) = (Vec::new(), 0);
    while let Some(step) = schedule.compose(0) {
        if step.rows.iter().any(|row| row.token == 119) {
            failures += 1;
            assert!(failures <= 2, "they fail together again and again");
            let failed = schedule.fail(step.number, &fault(Reason::Compute));
            let Failure::Isolated(events) = failed else {
                panic!("the other can go on")
            };
            ended.extend(events);
        } else {
            ended.extend(done(&mut schedule, &step, -1));
        }
    }
    assert!(matches!(
        ended[..],
        [Event::Failed { id: 1, .. }, Event::Finished { id: 2, .. }]
            | [Event::Finished { id: 2, .. }, Event::Failed { id: 1, .. }]
    ));
    assert!(schedule.is_idle());
}
