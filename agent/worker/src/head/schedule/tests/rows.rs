//! Which rows a step has.

use super::*;

#[test]
fn a_prompt_is_computed_in_chunks_and_then_decoded_row_by_row() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 10, 2), 0).unwrap();
    let first = schedule.compose(0).unwrap();
    assert_eq!(first.rows.len(), 8);
    assert!(first.rows.iter().all(|row| row.sample.is_none()));
    assert_eq!(schedule.compose(0), None, "as many steps are under way as may");
    assert_eq!(done(&mut schedule, &first, 0), vec![]);

    let second = schedule.compose(0).unwrap();
    assert_eq!(second.number, first.number + 1);
    assert_eq!(second.rows.iter().map(|row| row.position).collect::<Vec<_>>(), [8, 9]);
    let token = |token, position| Event::Token { id: 1, token, position };
    assert_eq!(done(&mut schedule, &second, 7), [token(7, 10)]);

    let third = schedule.compose(0).unwrap();
    let row = Row {
        sequence: 0,
        position: 10,
        token: 7,
        sample: Some(GREEDY),
    };
    assert_eq!(third.rows, [row]);
    let finished = Event::Finished {
        id: 1,
        finish: Finish::Length,
        prompt_tokens: 10,
        completion_tokens: 2,
        cached_tokens: 0,
    };
    assert_eq!(done(&mut schedule, &third, 9), [token(9, 11), finished]);

    let last = schedule.compose(0).unwrap();
    assert_eq!(last.operations, [KvOperation::forget(0)]);
    assert!(last.rows.is_empty(), "an idle pipeline forgets by a step without rows");
    done(&mut schedule, &last, 0);
    assert!(schedule.is_idle());
    assert_eq!(schedule.compose(0), None);
}

#[test]
fn a_stop_token_ends_the_sequence_and_is_not_emitted() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 2, 5), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    let finished = Event::Finished {
        id: 1,
        finish: Finish::Stop,
        prompt_tokens: 2,
        completion_tokens: 0,
        cached_tokens: 0,
    };
    assert_eq!(done(&mut schedule, &step, -1), [finished]);
}

#[test]
fn the_end_of_the_context_is_a_finish_by_length() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 31, 100), 0).unwrap();
    let (steps, events) = run_out(&mut schedule, 3);
    let positions = steps.iter().flat_map(|step| &step.rows).map(|row| row.position);
    assert!(positions.max().unwrap() < LIMITS.context_length);
    let last = Event::Finished {
        id: 1,
        finish: Finish::Length,
        prompt_tokens: 31,
        completion_tokens: 1,
        cached_tokens: 0,
    };
    assert_eq!(events.last(), Some(&last));
}

#[test]
fn half_of_the_rows_for_prompts_go_to_the_one_that_is_nearest_its_end() {
    let mut schedule = one_at_a_time(LIMITS);
    for (id, prompt) in [(1, 20), (2, 12), (3, 20)] {
        schedule.admit(request(id, prompt, 1), 0).unwrap();
    }
    let step = schedule.compose(0).unwrap();
    assert_eq!(rows_by_sequence(&step), BTreeMap::from([(0, 1), (1, 6), (2, 1)]));
}

#[test]
fn prompts_that_come_at_once_are_done_one_after_the_other() {
    let mut schedule = one_at_a_time(LIMITS);
    for id in 1..=3 {
        schedule.admit(request(id, 24, 1), 0).unwrap();
    }
    let mut done_at = Vec::new();
    for number in 1..=9 {
        let step = schedule.compose(0).unwrap();
        let finished = |event: &Event| matches!(event, Event::Finished { .. });
        let ended = done(&mut schedule, &step, 5)
            .iter()
            .filter(|event| finished(event))
            .count();
        done_at.extend(std::iter::repeat_n(number, ended));
    }
    // In equal parts alone: [8, 9, 9].
    assert_eq!(done_at, [4, 8, 9]);
}

#[test]
fn prompts_share_what_the_decodes_leave() {
    let mut schedule = one_at_a_time(LIMITS);
    schedule.admit(request(1, 1, 20), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    done(&mut schedule, &step, 5);
    schedule.admit(request(2, 20, 1), 0).unwrap();
    schedule.admit(request(3, 2, 1), 0).unwrap();
    let mixed = schedule.compose(0).unwrap();
    assert_eq!(rows_by_sequence(&mixed), BTreeMap::from([(0, 1), (1, 5), (2, 2)]));
}

#[test]
fn beside_decodes_a_prompt_takes_no_more_than_its_part_of_a_step() {
    let tuning = Tuning::new(1, &LIMITS);
    assert_eq!(tuning.prompt_rows_beside_decodes, 2);
    let mut schedule = Schedule::new(LIMITS, tuning);
    schedule.admit(request(1, 1, 20), 0).unwrap();
    let alone = schedule.compose(0).unwrap();
    done(&mut schedule, &alone, 5);
    schedule.admit(request(2, 20, 1), 0).unwrap();
    let mixed = schedule.compose(0).unwrap();
    assert_eq!(rows_by_sequence(&mixed), BTreeMap::from([(0, 1), (1, 2)]));
}

#[test]
fn beside_decodes_an_answer_that_was_interrupted_is_computed_again_in_whole_steps() {
    let mut schedule = Schedule::new(LIMITS, Tuning::new(1, &LIMITS));
    schedule.admit(request(1, 1, 20), 0).unwrap();
    let alone = schedule.compose(0).unwrap();
    done(&mut schedule, &alone, 5);
    schedule.admit(request(2, 9, 10), 0).unwrap();
    let interrupted = Request {
        resumed: true,
        ..request(3, 9, 10)
    };
    schedule.admit(interrupted, 0).unwrap();
    let mut rows = Vec::new();
    for _ in 0..5 {
        let step = schedule.compose(0).unwrap();
        rows.push(step.rows.len());
        done(&mut schedule, &step, 5);
    }
    // Whole steps until it goes on, then a decode row for each that decodes, and two for the prompt that is left.
    assert_eq!(rows, [8, 8, 4, 4, 3]);
}

#[test]
fn the_chunks_of_a_prompt_follow_each_other_through_the_steps_under_way() {
    let mut schedule = with_depth(LIMITS, 3);
    schedule.admit(request(1, 20, 4), 0).unwrap();
    let steps: Vec<Step> = std::iter::from_fn(|| schedule.compose(0)).collect();
    let positions = steps.iter().map(|step| (step.rows[0].position, step.rows.len()));
    assert_eq!(positions.collect::<Vec<_>>(), [(0, 8), (8, 8), (16, 4)]);
    assert!(steps[2].rows[3].sample.is_some());
    assert_eq!(schedule.in_flight(), 3);
    for step in &steps {
        done(&mut schedule, step, 5);
    }
    assert_eq!(schedule.compose(0).unwrap().rows[0].position, 20);
}

#[test]
fn while_nobody_decodes_one_more_step_is_under_way_than_there_are_stages() {
    let mut schedule = with_depth(LIMITS, 2);
    schedule.admit(request(1, 1, 9), 0).unwrap();
    let first = schedule.compose(0).unwrap();
    schedule.admit(request(2, 31, 1), 0).unwrap();
    assert!(schedule.compose(0).is_some());
    assert_eq!(
        (schedule.compose(0), schedule.in_flight()),
        (None, 2),
        "the first has only to decode"
    );
    schedule.cancel(1);
    assert!(schedule.compose(0).is_some());
    assert_eq!(
        (schedule.compose(0), schedule.in_flight()),
        (None, 3),
        "the second has only its prompt"
    );
    done(&mut schedule, &first, 5);
}

#[test]
fn decoding_sequences_are_spread_over_the_steps_under_way() {
    let limits = Limits {
        parallel_sequences: 7,
        ..LIMITS
    };
    let mut schedule = with_depth(limits, 3);
    for id in 1..=7 {
        schedule.admit(request(id, 1, 20), 0).unwrap();
    }
    let prompts = schedule.compose(0).unwrap();
    assert_eq!(
        schedule.compose(0),
        None,
        "nothing is due until the prompts are answered"
    );
    done(&mut schedule, &prompts, 5);
    let mut under_way: Vec<Step> = std::iter::from_fn(|| schedule.compose(0)).collect();
    let sizes = |steps: &[Step]| steps.iter().map(|step| step.rows.len()).collect::<Vec<_>>();
    assert_eq!(sizes(&under_way), [3, 3, 1]);
    for _ in 0..9 {
        let oldest = under_way.remove(0);
        done(&mut schedule, &oldest, 5);
        under_way.push(schedule.compose(0).unwrap());
        let mut decoding: Vec<u32> = under_way
            .iter()
            .flat_map(|step| &step.rows)
            .map(|row| row.sequence)
            .collect();
        decoding.sort_unstable();
        assert_eq!(decoding, [0, 1, 2, 3, 4, 5, 6], "each sequence is in one step");
    }
}

#[test]
fn with_more_decodes_than_rows_all_take_their_turns() {
    let limits = Limits {
        parallel_sequences: 20,
        ..LIMITS
    };
    let mut schedule = one_at_a_time(limits);
    for id in 1..=20 {
        schedule.admit(request(id, 1, 31), 0).unwrap();
    }
    // Until all have been through with their prompts.
    for _ in 0..12 {
        let step = schedule.compose(0).unwrap();
        done(&mut schedule, &step, 5);
    }
    let mut served = BTreeMap::new();
    for _ in 0..20 {
        let step = schedule.compose(0).unwrap();
        for row in &step.rows {
            *served.entry(row.sequence).or_insert(0) += 1;
        }
        done(&mut schedule, &step, 5);
    }
    let (least, most) = (served.values().min().unwrap(), served.values().max().unwrap());
    assert_eq!(served.len(), 20);
    assert!(most - least <= 1, "{served:?}");
}

#[test]
fn a_prompt_goes_on_beside_more_decodes_than_rows() {
    let limits = Limits {
        parallel_sequences: 20,
        ..LIMITS
    };
    let mut schedule = Schedule::new(limits, Tuning::new(1, &limits));
    for id in 1..20 {
        schedule.admit(request(id, 1, 31), 0).unwrap();
    }
    for _ in 0..12 {
        let step = schedule.compose(0).unwrap();
        done(&mut schedule, &step, 5);
    }
    schedule.admit(request(20, 30, 1), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    assert_eq!((rows_by_sequence(&step)[&19], step.rows.len()), (2, 8));
}

#[test]
fn a_long_prompt_among_many_short_ones_goes_on() {
    let limits = Limits {
        parallel_sequences: 12,
        context_length: 200,
        max_step_rows: 4,
        ..LIMITS
    };
    let mut schedule = one_at_a_time(limits);
    schedule.admit(request(1, 100, 1), 0).unwrap();
    let mut steps = 0;
    let finished = |events: &[Event]| {
        events
            .iter()
            .any(|event| matches!(event, Event::Finished { id: 1, .. }))
    };
    for id in 2.. {
        // Somebody with a short prompt comes with every step.
        schedule.admit(request(id, 1, 1), 0).unwrap();
        let step = schedule.compose(0).unwrap();
        steps += 1;
        if finished(&done(&mut schedule, &step, 5)) {
            break;
        }
        assert!(steps < 100, "the long prompt starves");
    }
}

#[test]
fn an_answer_that_is_not_to_the_oldest_step_is_a_mismatch() {
    let mut schedule = with_depth(LIMITS, 2);
    assert!(schedule.complete(1, &[]).is_err());
    schedule.admit(request(1, 2, 9), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    let mut state = schedule.clone();
    assert!(state.complete(step.number + 1, &answer(&step, 1)).is_err());
    let mut state = schedule.clone();
    assert!(state.complete(step.number, &[]).is_err());
    let elsewhere = Sampled {
        sequence: 2,
        position: 2,
        token: 1,
    };
    assert!(schedule.complete(step.number, &[elsewhere]).is_err());
}
