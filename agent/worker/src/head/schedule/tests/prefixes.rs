//! Which prefixes are kept, and who begins with them.

use super::*;

const KEEPING: Limits = Limits {
    parallel_sequences: 2,
    context_length: 200,
    max_step_rows: 16,
    kv_cells: 0,
    prefix_sequences: 2,
};

/// So many tokens of a text, and then some that only this prompt has.
fn prompt(text: i32, alike: i32, own: i32, other: i32) -> Vec<i32> {
    let alike = (0..alike).map(|at| text * 1000 + at);
    alike.chain((0..other).map(|at| 100_000 + own * 1000 + at)).collect()
}

fn cached(events: &[Event]) -> Vec<(RequestId, u32)> {
    let finished = events.iter().filter_map(|event| match event {
        Event::Finished { id, cached_tokens, .. } => Some((*id, *cached_tokens)),
        _ => None,
    });
    finished.collect()
}

fn computed(steps: &[Step]) -> usize {
    steps.iter().map(|step| step.rows.len()).sum()
}

#[test]
fn what_a_sequence_held_is_kept_and_the_next_one_begins_with_it() {
    let mut schedule = one_at_a_time(KEEPING);
    schedule.admit(asking(1, prompt(1, 50, 1, 10), 4), 0).unwrap();
    let (steps, events) = run_out(&mut schedule, 5);
    assert_eq!(cached(&events), [(1, 0)]);
    // The last token was sampled, but not computed.
    assert_eq!(
        steps.last().unwrap().operations,
        [copy(0, 2, 63), KvOperation::forget(0)]
    );
    assert!(schedule.is_idle());
    assert_eq!((schedule.kept_prefixes(), schedule.cells().kept), (1, 63));

    schedule.admit(asking(2, prompt(1, 50, 2, 10), 1), 0).unwrap();
    let (steps, events) = run_out(&mut schedule, 5);
    assert_eq!(cached(&events), [(2, 50)]);
    assert_eq!(steps[0].operations, [copy(2, 0, 50)]);
    assert_eq!(steps[0].rows[0].position, 50);
    assert_eq!(computed(&steps), 10);
    let tally = schedule.tally();
    assert_eq!((tally.prefix_hits, tally.reused_tokens), (1, 50));
}

#[test]
fn the_last_position_of_a_prompt_is_always_computed() {
    let mut schedule = one_at_a_time(KEEPING);
    for id in 1..=2 {
        schedule.admit(asking(id, prompt(1, 60, 0, 0), 1), 0).unwrap();
        let (_, events) = run_out(&mut schedule, 5);
        assert_eq!(cached(&events), [(id, if id == 1 { 0 } else { 59 })]);
    }
    assert_eq!(schedule.kept_prefixes(), 1, "the same positions are not kept twice");
}

#[test]
fn prefixes_are_not_shared_between_scopes() {
    let mut schedule = one_at_a_time(KEEPING);
    for (id, scope) in [(1, b"a"), (2, b"b"), (3, b"a")] {
        let scoped = Request {
            prefix_scope: scope.to_vec(),
            ..asking(id, prompt(1, 60, 0, 0), 1)
        };
        schedule.admit(scoped, 0).unwrap();
        let (_, events) = run_out(&mut schedule, 5);
        assert_eq!(cached(&events), [(id, if id == 3 { 59 } else { 0 })]);
    }
}

#[test]
fn short_prefixes_are_neither_kept_nor_shared() {
    let mut schedule = one_at_a_time(KEEPING);
    let short = MIN_PREFIX as i32 - 1;
    for id in 1..=2 {
        schedule
            .admit(asking(id, prompt(1, short, id as i32, 40), 1), 0)
            .unwrap();
        let (_, events) = run_out(&mut schedule, 5);
        assert_eq!(cached(&events), [(id, 0)]);
    }
    schedule.admit(asking(3, prompt(2, short, 0, 0), 1), 0).unwrap();
    run_out(&mut schedule, 5);
    assert_eq!(schedule.kept_prefixes(), 2);
}

#[test]
fn a_longer_prefix_takes_the_place_of_the_one_that_it_begins_with() {
    let mut schedule = one_at_a_time(KEEPING);
    for alike in [40, 60, 80] {
        schedule
            .admit(asking(alike as u64, prompt(1, alike, 0, 0), 1), 0)
            .unwrap();
        run_out(&mut schedule, 5);
        assert_eq!((schedule.kept_prefixes(), schedule.cells().kept), (1, alike as u64));
    }
    assert_eq!(schedule.tally().evictions, 0);
}

#[test]
fn the_prefix_that_was_of_no_use_for_the_longest_time_makes_way_for_a_new_one() {
    let mut schedule = one_at_a_time(KEEPING);
    for (id, text) in [(1, 1), (2, 2), (3, 1), (4, 3), (5, 1), (6, 2)] {
        schedule.admit(asking(id, prompt(text, 40, 0, 0), 1), 0).unwrap();
        let (_, events) = run_out(&mut schedule, 5);
        let hit = matches!(id, 3 | 5);
        assert_eq!(cached(&events), [(id, if hit { 39 } else { 0 })]);
    }
    assert_eq!(schedule.tally().evictions, 2);
}

#[test]
fn prefixes_make_way_for_the_cells_of_a_sequence_and_its_own_goes_last() {
    let limits = Limits {
        kv_cells: 200,
        ..KEEPING
    };
    let mut schedule = one_at_a_time(limits);
    for (id, text) in [(1, 1), (2, 2)] {
        schedule.admit(asking(id, prompt(text, 60, 0, 0), 1), 0).unwrap();
        run_out(&mut schedule, 5);
    }
    assert_eq!(schedule.cells().kept, 120);
    // 160 cells are wanted: even one prefix of 60 is too many, but the sequence begins with it before it goes.
    schedule.admit(asking(3, prompt(1, 60, 3, 40), 60), 0).unwrap();
    let (steps, events) = run_out(&mut schedule, 5);
    let expected = [KvOperation::forget(3), copy(2, 0, 60), KvOperation::forget(2)];
    assert_eq!(steps[0].operations, expected);
    assert_eq!(cached(&events), [(3, 60)]);
}

#[test]
fn what_an_ended_sequence_holds_counts_until_it_is_settled() {
    let limits = Limits {
        kv_cells: 100,
        ..KEEPING
    };
    let mut schedule = with_depth(limits, 2);
    schedule.admit(asking(1, prompt(1, 40, 0, 0), 1), 0).unwrap();
    schedule.admit(asking(2, prompt(2, 30, 0, 0), 9), 0).unwrap();
    let steps: Vec<Step> = std::iter::from_fn(|| schedule.compose(0)).collect();
    schedule.cancel(1);
    // It leaves 18 positions, another sequence has 39 set aside: no 50 are left while no step can forget any.
    assert_eq!((schedule.cells().kept, schedule.cells().reserved), (18, 39));
    schedule.admit(asking(3, prompt(3, 40, 0, 0), 10), 0).unwrap();
    assert_eq!((schedule.compose(0), schedule.waiting()), (None, 1));
    for step in &steps {
        done(&mut schedule, step, 5);
    }
    run_out(&mut schedule, 5);
    assert!(schedule.is_idle());
}

#[test]
fn of_two_with_the_same_prompt_the_second_waits_and_computes_only_the_rest() {
    let mut schedule = with_depth(KEEPING, 2);
    schedule.admit(asking(1, prompt(1, 64, 1, 8), 1), 0).unwrap();
    schedule.admit(asking(2, prompt(1, 64, 2, 8), 1), 0).unwrap();
    let (mut under_way, mut rows, mut events) = (VecDeque::new(), 0, Vec::new());
    let mut copies = Vec::new();
    loop {
        while let Some(step) = schedule.compose(0) {
            rows += step.rows.len();
            copies.extend(
                step.operations
                    .iter()
                    .copied()
                    .filter(|o| matches!(o, KvOperation::Copy(_))),
            );
            under_way.push_back(step);
        }
        let Some(step) = under_way.pop_front() else { break };
        events.extend(done(&mut schedule, &step, 5));
    }
    assert_eq!(
        copies[0],
        copy(0, 1, 64),
        "from the running sequence, as soon as its steps are composed"
    );
    assert_eq!(rows, 72 + 8);
    let mut cached = cached(&events);
    cached.sort_unstable();
    assert_eq!(cached, [(1, 0), (2, 64)]);
}

#[test]
fn one_that_waits_for_a_prompt_computes_it_when_the_other_goes() {
    let mut schedule = one_at_a_time(KEEPING);
    for id in 1..=2 {
        schedule.admit(asking(id, prompt(1, 64, id as i32, 8), 1), 0).unwrap();
    }
    let first = schedule.compose(0).unwrap();
    assert_eq!(rows_by_sequence(&first), BTreeMap::from([(0, 16)]));
    schedule.cancel(1);
    done(&mut schedule, &first, 5);
    let (steps, events) = run_out(&mut schedule, 5);
    assert_eq!(
        rows_by_sequence(&steps[0]),
        BTreeMap::from([(1, 16)]),
        "16 positions are too few to share"
    );
    assert_eq!(cached(&events), [(2, 0)]);
}

#[test]
fn under_pressure_no_prefix_is_kept() {
    let mut schedule = one_at_a_time(KEEPING);
    schedule.admit(asking(1, prompt(1, 60, 0, 0), 1), 0).unwrap();
    run_out(&mut schedule, 5);
    schedule.relieve(Relief::ForgetPrefixes);
    let step = schedule.compose(0).unwrap();
    assert_eq!(step.operations, [KvOperation::forget(2)]);
    done(&mut schedule, &step, 0);
    assert_eq!((schedule.kept_prefixes(), schedule.compose(0)), (0, None));
}

#[test]
fn what_a_void_step_kept_or_shared_is_forgotten_and_done_again() {
    let mut schedule = one_at_a_time(KEEPING);
    schedule.admit(asking(1, prompt(1, 60, 0, 0), 1), 0).unwrap();
    let keeping = loop {
        let step = schedule.compose(0).unwrap();
        if step.rows.is_empty() {
            break step;
        }
        done(&mut schedule, &step, 5);
    };
    assert_eq!(keeping.operations, [copy(0, 2, 60), KvOperation::forget(0)]);
    schedule.admit(asking(2, prompt(1, 60, 0, 0), 1), 0).unwrap();
    assert_eq!(schedule.fail(keeping.number, &fault(Reason::Compute)), Failure::Broken);

    let mut schedule = one_at_a_time(KEEPING);
    for id in 1..=2 {
        schedule.admit(asking(id, prompt(1, 60, 0, 0), 3), 0).unwrap();
        if id == 1 {
            run_out(&mut schedule, 5);
        }
    }
    let sharing = schedule.compose(0).unwrap();
    assert_eq!(sharing.operations, [copy(2, 0, 59)]);
    schedule.admit(asking(3, prompt(2, 60, 0, 0), 3), 0).unwrap();
    schedule.cancel(2);
    assert_eq!(
        schedule.fail(sharing.number, &fault(Reason::Compute)),
        Failure::Isolated(vec![])
    );
    let next = schedule.compose(0).unwrap();
    assert_eq!(
        next.operations,
        [KvOperation::forget(0)],
        "the cancelled sequence leaves nothing to keep"
    );
    assert_eq!(schedule.kept_prefixes(), 1, "what it began with is still there");
}

#[test]
fn a_sequence_that_fails_alone_takes_the_prefix_that_it_began_with_along() {
    let mut schedule = one_at_a_time(KEEPING);
    for id in 1..=2 {
        schedule.admit(asking(id, prompt(id as i32, 50, 1, 10), 1), 0).unwrap();
        run_out(&mut schedule, 5);
    }
    schedule.admit(asking(3, prompt(1, 50, 3, 10), 1), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    assert_eq!(step.operations, [copy(2, 0, 50)]);
    let failed = Event::Failed {
        id: 3,
        fault: fault(Reason::Compute),
    };
    assert_eq!(
        schedule.fail(step.number, &fault(Reason::Compute)),
        Failure::Isolated(vec![failed])
    );
    assert_eq!(schedule.kept_prefixes(), 1);
    schedule.admit(asking(4, prompt(1, 50, 4, 10), 1), 0).unwrap();
    let (steps, events) = run_out(&mut schedule, 5);
    assert_eq!(steps[0].operations, [KvOperation::forget(0), KvOperation::forget(2)]);
    assert_eq!(cached(&events), [(4, 0)]);
    schedule.admit(asking(5, prompt(2, 50, 5, 10), 1), 0).unwrap();
    let (_, events) = run_out(&mut schedule, 5);
    assert_eq!(cached(&events), [(5, 50)]);
}
