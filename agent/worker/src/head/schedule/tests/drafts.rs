//! Rows of tokens that are not known yet, on stages that would idle.

use super::*;

/// Two equal stages: a second step costs nobody time.
const HALVES: RoundTrip = RoundTrip {
    round_us: 2100,
    busy_us: 2000,
    slowest_us: 1000,
    crowded_us: 1000,
    prompt_row_us: None,
};

fn speculating(depth: usize) -> Schedule {
    let tuning = Tuning {
        speculates: true,
        ..with_depth(LIMITS, depth).tuning
    };
    let mut schedule = Schedule::new(LIMITS, tuning);
    schedule.measured(HALVES);
    schedule
}

/// `1 2 3 1 2`, whose prompt is computed and answered by 3: the row of that is under way.
fn repeating(schedule: &mut Schedule, max_tokens: u32) -> Step {
    schedule.admit(asking(1, vec![1, 2, 3, 1, 2], max_tokens), 0).unwrap();
    let prompt = schedule.compose(0).unwrap();
    assert_eq!(schedule.compose(0), None, "no prompt is drafted at");
    done(schedule, &prompt, 3);
    schedule.compose(0).unwrap()
}

fn row(position: u32, token: i32) -> Row {
    Row {
        sequence: 0,
        position,
        token,
        sample: Some(GREEDY),
    }
}

fn token(token: i32, position: u32) -> Event {
    Event::Token { id: 1, token, position }
}

#[test]
fn a_right_draft_is_under_way_when_its_token_comes_and_is_not_computed_again() {
    let mut schedule = speculating(2);
    let known = repeating(&mut schedule, 9);
    assert_eq!(known.rows, [row(5, 3)]);
    let draft = schedule.compose(0).unwrap();
    assert_eq!((&draft.operations[..], &draft.rows[..]), (&[][..], &[row(6, 1)][..]));
    assert_eq!(schedule.compose(0), None, "a third step would keep others waiting");

    assert_eq!(done(&mut schedule, &known, 1), [token(1, 6)]);
    let next = schedule.compose(0).unwrap();
    assert_eq!(next.rows, [row(7, 2)], "and this is a draft again");
    assert_eq!(done(&mut schedule, &draft, 2), [token(2, 7)]);
    assert_eq!(schedule.tally().drafts, 2);
    assert_eq!(schedule.tally().accepted_drafts, 2);
}

#[test]
fn what_follows_from_a_wrong_draft_is_not_told_and_forgotten_before_the_next_row() {
    let mut schedule = speculating(2);
    let known = repeating(&mut schedule, 9);
    let draft = schedule.compose(0).unwrap();
    assert_eq!(done(&mut schedule, &known, 8), [token(8, 6)]);
    let right = schedule.compose(0).unwrap();
    let cut = KvOperation::Remove(crate::step::Removal {
        sequence: 0,
        from: 6,
        end: None,
    });
    assert_eq!((&right.operations[..], &right.rows[..]), (&[cut][..], &[row(6, 8)][..]));
    assert_eq!(done(&mut schedule, &draft, 5), []);
    assert_eq!(done(&mut schedule, &right, 5), [token(5, 7)]);
    assert_eq!((schedule.tally().drafts, schedule.tally().accepted_drafts), (1, 0));
}

#[test]
fn wrong_drafts_never_hold_up_the_right_row() {
    let mut schedule = speculating(2);
    schedule.measured(RoundTrip {
        round_us: 4000,
        busy_us: 2000,
        slowest_us: 1000,
        crowded_us: 1000,
        prompt_row_us: None,
    });
    let known = repeating(&mut schedule, 9);
    let drafts: Vec<Step> = std::iter::from_fn(|| schedule.compose(0)).collect();
    let rows: Vec<Row> = drafts.iter().flat_map(|step| step.rows.clone()).collect();
    assert_eq!(
        rows,
        [row(6, 1), row(7, 2), row(8, 3)],
        "links are long: four steps fit"
    );
    done(&mut schedule, &known, 8);
    assert_eq!(
        schedule.compose(0).unwrap().rows,
        [row(6, 8)],
        "behind three that are idle"
    );
}

#[test]
fn nothing_is_drafted_unless_stages_would_idle() {
    let next = |prepare: fn(&mut Schedule)| {
        let mut schedule = speculating(2);
        repeating(&mut schedule, 9);
        prepare(&mut schedule);
        schedule.compose(0).map(|step| step.rows)
    };
    assert_eq!(next(|_| ()), Some(vec![row(6, 1)]));
    assert_eq!(next(|schedule| schedule.round_trip = None), None, "nothing is measured");
    assert_eq!(next(|schedule| schedule.tuning.speculates = false), None);
    assert_eq!(
        next(|schedule| schedule.tuning.restarts = true),
        None,
        "it cannot be cut back"
    );
    let alone = RoundTrip {
        round_us: 1000,
        busy_us: 1000,
        slowest_us: 1000,
        crowded_us: 1000,
        prompt_row_us: None,
    };
    let mut schedule = speculating(2);
    schedule.measured(alone);
    repeating(&mut schedule, 9);
    assert_eq!(schedule.compose(0), None, "one stage has the whole model");
    let mut schedule = speculating(2);
    repeating(&mut schedule, 9);
    schedule.admit(request(2, 3, 2), 0).unwrap();
    let step = schedule.compose(0).unwrap();
    assert_eq!(step.rows[0].sequence, 1, "another one has rows to compute");
    assert_eq!(schedule.compose(0), None);
}

#[test]
fn nothing_is_drafted_beyond_the_last_token_that_is_wanted() {
    let mut schedule = speculating(2);
    repeating(&mut schedule, 3);
    assert_eq!(
        schedule.compose(0).unwrap().rows,
        [row(6, 1)],
        "the third token follows it"
    );
    let mut schedule = speculating(2);
    repeating(&mut schedule, 2);
    assert_eq!(schedule.compose(0), None, "the second token is the last");
}

#[test]
fn a_draft_that_cannot_be_computed_is_nobodys_fault() {
    let mut schedule = speculating(2);
    let known = repeating(&mut schedule, 9);
    let draft = schedule.compose(0).unwrap();
    done(&mut schedule, &known, 1);
    let failure = schedule.fail(draft.number, &fault(Reason::Compute));
    assert_eq!(failure, Failure::Isolated(vec![]));
    let again = schedule.compose(0).unwrap();
    assert_eq!((again.number, &again.rows[..]), (draft.number, &[row(6, 1)][..]));
    assert_eq!(schedule.compose(0), None, "it runs alone first");
    assert_eq!(done(&mut schedule, &again, 2), [token(2, 7)]);
}

#[test]
fn a_sequence_that_ends_takes_its_drafts_along() {
    let mut schedule = speculating(2);
    let known = repeating(&mut schedule, 9);
    let draft = schedule.compose(0).unwrap();
    let events = done(&mut schedule, &known, -1);
    assert!(matches!(
        events[..],
        [Event::Finished {
            finish: Finish::Stop,
            ..
        }]
    ));
    let last = schedule.compose(0).unwrap();
    assert_eq!(last.operations, [KvOperation::forget(0)]);
    assert_eq!(done(&mut schedule, &draft, 4), []);
    assert_eq!(done(&mut schedule, &last, 0), []);
    assert!(schedule.is_idle());
}
