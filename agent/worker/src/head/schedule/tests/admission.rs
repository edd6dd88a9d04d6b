//! Who may run, who waits, and who is turned away.

use super::*;

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let mut schedule = one_at_a_time(LIMITS);
    assert_eq!(schedule.admit(request(1, 0, 1), 0), Err(Refusal::EmptyPrompt));
    assert_eq!(schedule.admit(request(1, 1, 0), 0), Err(Refusal::NothingWanted));
    let too_long = schedule.admit(request(1, 32, 1), 0).unwrap_err();
    let expected = Refusal::PromptTooLong {
        prompt: 32,
        context: 32,
    };
    assert_eq!(too_long, expected);
    assert!(too_long.to_string().contains("31 tokens or fewer"));
    for id in 0..(3 + MAX_WAITING as u64) {
        schedule.admit(request(id, 1, 1), 0).unwrap();
    }
    schedule.compose(0).unwrap();
    let full = schedule.admit(request(999, 1, 1), 0).unwrap_err();
    let expected = Refusal::Full {
        running: 3,
        slots: 3,
        reserved: 6,
        cells: 96,
        waiting: MAX_WAITING,
    };
    assert_eq!(full, expected);
    assert!(full.to_string().contains("6 of 96 cache positions"), "{full}");
}

#[test]
fn a_request_that_waits_too_long_is_turned_away() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 1, 1), 0).unwrap();
    let patient = MAX_WAIT_US * 2;
    let hasty = Request {
        max_wait_us: 10,
        ..request(2, 1, 1)
    };
    let endless = Request {
        max_wait_us: patient,
        ..request(3, 1, 1)
    };
    schedule.admit(hasty, 5).unwrap();
    schedule.admit(endless, 5).unwrap();
    assert_eq!(schedule.next_deadline_us(), Some(15));
    assert_eq!(schedule.expire(15), vec![]);
    assert_eq!(schedule.expire(16), vec![Event::TimedOut { id: 2, waited_us: 11 }]);
    assert_eq!(schedule.expire(MAX_WAIT_US), vec![]);
    let late = schedule.expire(MAX_WAIT_US + 6);
    let turned_away = |id, since_us| Event::TimedOut {
        id,
        waited_us: MAX_WAIT_US + 6 - since_us,
    };
    assert_eq!(late, [turned_away(1, 0), turned_away(3, 5)]);
    assert!(schedule.is_idle());
}

#[test]
fn with_slot_and_cells_free_a_request_is_seated_even_while_no_step_can_be_composed() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 2, 3), 0).unwrap();
    let first = schedule.compose(0).unwrap();
    for id in 2..=4 {
        schedule.admit(request(id, 2, 3), 0).unwrap();
    }
    assert_eq!(schedule.compose(5), None);
    assert_eq!((schedule.running(), schedule.waiting()), (3, 1));
    assert_eq!(schedule.take_waits_us(), [0, 5, 5]);
    done(&mut schedule, &first, 5);
    assert_eq!(rows_by_sequence(&schedule.compose(6).unwrap()).len(), 3);
}

#[test]
fn a_sequence_is_seated_only_when_all_cells_that_it_may_fill_are_free() {
    let limits = Limits { kv_cells: 40, ..LIMITS };
    let mut schedule = one_at_a_time(limits);
    schedule.admit(request(1, 4, 20), 0).unwrap();
    schedule.admit(request(2, 4, 20), 0).unwrap();
    let (steps, events) = run_out(&mut schedule, 5);
    let together = steps.iter().any(|step| rows_by_sequence(step).len() > 1);
    assert!(!together, "two of 24 cells do not fit 40");
    let finished = events.iter().filter(|event| matches!(event, Event::Finished { .. }));
    assert_eq!(finished.count(), 2);
}

#[test]
fn with_fewer_cells_than_context_the_cells_are_the_context() {
    let limits = Limits { kv_cells: 20, ..LIMITS };
    let mut schedule = one_at_a_time(limits);
    let refused = schedule.admit(request(1, 20, 1), 0).unwrap_err();
    assert!(refused.to_string().contains("19 tokens or fewer"), "{refused}");
    schedule.admit(request(1, 10, 100), 0).unwrap();
    let (_, events) = run_out(&mut schedule, 5);
    let tokens = events.iter().filter(|event| matches!(event, Event::Token { .. }));
    assert_eq!(tokens.count(), 10);
}

/// A request for nearly all cells, while one that holds some of them runs and small ones keep coming.
#[test]
fn small_requests_pass_a_big_one_a_bounded_number_of_times() {
    let limits = Limits { kv_cells: 32, ..LIMITS };
    let mut schedule = one_at_a_time(limits);
    schedule.admit(request(1, 1, 14), 0).unwrap();
    let first = schedule.compose(0).unwrap();
    done(&mut schedule, &first, 5);
    schedule.admit(request(2, 10, 10), 0).unwrap();
    let mut before = 0;
    for id in 3.. {
        schedule.admit(request(id, 1, 1), 0).unwrap();
        let step = schedule.compose(0).unwrap();
        if step.rows.iter().any(|row| row.token >= 200 && row.token < 300) {
            break;
        }
        before += step.rows.iter().filter(|row| row.token >= 300).count() as u32;
        done(&mut schedule, &step, 5);
    }
    assert_eq!(before, MAX_OVERTAKINGS);
}

#[test]
fn under_pressure_nobody_is_seated_and_those_that_run_go_on() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 2, 3), 0).unwrap();
    let first = schedule.compose(0).unwrap();
    done(&mut schedule, &first, 5);
    schedule.relieve(Relief::SeatNobody);
    schedule.admit(request(2, 2, 3), 7).unwrap();
    run_out(&mut schedule, 5);
    assert_eq!((schedule.running(), schedule.waiting()), (0, 1));
    assert_eq!(schedule.compose(100), None);
    schedule.relieve(Relief::None);
    assert_eq!(schedule.compose(107).unwrap().rows.len(), 2);
    assert_eq!(schedule.take_waits_us(), [0, 100]);
    assert!(schedule.take_waits_us().is_empty(), "each is told once");
}

#[test]
fn a_cancelled_sequence_is_forgotten_by_the_next_step_and_its_slot_used_again() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 3, 20), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    schedule.cancel(1);
    assert_eq!(done(&mut schedule, &step, 5), vec![]);
    schedule.admit(request(2, 2, 1), 0).unwrap();
    let next = schedule.compose(0).unwrap();
    assert_eq!(next.operations, [KvOperation::forget(0)]);
    let row = Row {
        sequence: 0,
        position: 0,
        token: 200,
        sample: None,
    };
    assert_eq!(next.rows[0], row);
}
