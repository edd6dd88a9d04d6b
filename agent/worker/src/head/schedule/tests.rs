use std::collections::BTreeMap;

use engine::sample::Sampling;
use proptest::prelude::*;

use super::*;
use crate::step::{Reason, Row};

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    top_k: 0,
    seed: 0,
};
const LIMITS: Limits = Limits {
    parallel_sequences: 3,
    context_length: 32,
    max_step_rows: 8,
};

fn request(id: RequestId, prompt: usize, max_tokens: u32) -> Request {
    let prompt = (0..prompt as i32).map(|token| token + 100 * id as i32).collect();
    Request {
        id,
        prompt,
        max_tokens,
        sampling: GREEDY,
        stop_tokens: vec![-1],
    }
}

/// What the tail would answer: any token will do, as long as it is a function of the row.
fn answer(step: &Step, token: i32) -> Vec<Sampled> {
    let sampled = step.rows.iter().filter(|row| row.sample.is_some());
    sampled
        .map(|row| Sampled {
            sequence: row.sequence,
            position: row.position + 1,
            token,
        })
        .collect()
}

fn fault(reason: Reason) -> StepFault {
    StepFault {
        stage: 1,
        reason,
        message: "test".into(),
    }
}

fn rows_by_sequence(step: &Step) -> BTreeMap<u32, usize> {
    let mut rows = BTreeMap::new();
    for row in &step.rows {
        *rows.entry(row.sequence).or_default() += 1;
    }
    rows
}

#[test]
fn a_prompt_is_computed_in_chunks_and_then_decoded_row_by_row() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 10, 2), 0).unwrap();
    let first = schedule.compose().unwrap();
    assert_eq!(first.rows.len(), 8);
    assert!(first.rows.iter().all(|row| row.sample.is_none()));
    assert_eq!(schedule.compose(), None, "one step is under way at most");
    assert_eq!(schedule.complete(first.number, &[]).unwrap(), vec![]);

    let second = schedule.compose().unwrap();
    assert_eq!(second.number, first.number + 1);
    assert_eq!(second.rows.iter().map(|row| row.position).collect::<Vec<_>>(), [8, 9]);
    let events = schedule.complete(second.number, &answer(&second, 7)).unwrap();
    assert_eq!(
        events,
        [Event::Token {
            id: 1,
            token: 7,
            position: 10
        }]
    );

    let third = schedule.compose().unwrap();
    let row = Row {
        sequence: 0,
        position: 10,
        token: 7,
        sample: Some(GREEDY),
    };
    assert_eq!(third.rows, [row]);
    let events = schedule.complete(third.number, &answer(&third, 9)).unwrap();
    let finished = Event::Finished {
        id: 1,
        finish: Finish::Length,
        prompt_tokens: 10,
        completion_tokens: 2,
    };
    assert_eq!(
        events,
        [
            Event::Token {
                id: 1,
                token: 9,
                position: 11
            },
            finished
        ]
    );

    let last = schedule.compose().unwrap();
    assert_eq!(
        last.removals,
        [Removal {
            sequence: 0,
            from: 0,
            end: None
        }]
    );
    assert!(last.rows.is_empty(), "an idle pipeline forgets by a step without rows");
    schedule.complete(last.number, &[]).unwrap();
    assert!(schedule.is_idle());
    assert_eq!(schedule.compose(), None);
}

#[test]
fn a_stop_token_ends_the_sequence_and_is_not_emitted() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 2, 5), 0).unwrap();
    let step = schedule.compose().unwrap();
    let events = schedule.complete(step.number, &answer(&step, -1)).unwrap();
    let finished = Event::Finished {
        id: 1,
        finish: Finish::Stop,
        prompt_tokens: 2,
        completion_tokens: 0,
    };
    assert_eq!(events, [finished]);
}

#[test]
fn the_end_of_the_context_is_a_finish_by_length() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 31, 100), 0).unwrap();
    let mut events = Vec::new();
    while let Some(step) = schedule.compose() {
        assert!(step.rows.iter().all(|row| row.position < LIMITS.context_length));
        events.extend(schedule.complete(step.number, &answer(&step, 3)).unwrap());
    }
    let finish = Finish::Length;
    let last = Event::Finished {
        id: 1,
        finish,
        prompt_tokens: 31,
        completion_tokens: 1,
    };
    assert_eq!(events.last(), Some(&last));
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let mut schedule = Schedule::new(LIMITS);
    assert_eq!(schedule.admit(request(1, 0, 1), 0), Err(Refusal::EmptyPrompt));
    assert_eq!(schedule.admit(request(1, 1, 0), 0), Err(Refusal::NothingWanted));
    let too_long = schedule.admit(request(1, 32, 1), 0).unwrap_err();
    assert_eq!(
        too_long,
        Refusal::PromptTooLong {
            prompt: 32,
            context: 32
        }
    );
    assert!(too_long.to_string().contains("31 tokens or fewer"));
    for id in 0..(3 + MAX_WAITING as u64) {
        schedule.admit(request(id, 1, 1), 0).unwrap();
    }
    let full = Refusal::Full {
        slots: 3,
        waiting: MAX_WAITING,
    };
    assert_eq!(schedule.admit(request(999, 1, 1), 0), Err(full));
}

#[test]
fn prompts_share_what_the_decodes_leave_in_equal_parts() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 1, 20), 0).unwrap();
    let step = schedule.compose().unwrap();
    schedule.complete(step.number, &answer(&step, 5)).unwrap();
    schedule.admit(request(2, 20, 1), 0).unwrap();
    schedule.admit(request(3, 2, 1), 0).unwrap();
    let mixed = schedule.compose().unwrap();
    assert_eq!(rows_by_sequence(&mixed), BTreeMap::from([(0, 1), (1, 5), (2, 2)]));
}

#[test]
fn a_cancelled_sequence_is_forgotten_by_the_next_step_and_its_slot_used_again() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 3, 20), 0).unwrap();
    let step = schedule.compose().unwrap();
    schedule.cancel(1);
    assert_eq!(schedule.complete(step.number, &answer(&step, 5)).unwrap(), vec![]);
    schedule.admit(request(2, 2, 1), 0).unwrap();
    let next = schedule.compose().unwrap();
    assert_eq!(
        next.removals,
        [Removal {
            sequence: 0,
            from: 0,
            end: None
        }]
    );
    assert_eq!(
        next.rows[0],
        Row {
            sequence: 0,
            position: 0,
            token: 200,
            sample: None
        }
    );
}

#[test]
fn a_request_that_waits_too_long_is_turned_away() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 1, 1), 0).unwrap();
    assert_eq!(schedule.expire(MAX_WAIT_US), vec![]);
    assert_eq!(schedule.expire(MAX_WAIT_US + 1), vec![Event::TimedOut { id: 1 }]);
    assert!(schedule.is_idle());
}

#[test]
fn a_failed_step_is_tried_again_one_sequence_at_a_time_and_only_the_guilty_one_ends() {
    let mut schedule = Schedule::new(LIMITS);
    for id in 1..=3 {
        schedule.admit(request(id, 2, 1), 0).unwrap();
    }
    let together = schedule.compose().unwrap();
    assert_eq!(rows_by_sequence(&together).len(), 3);
    assert_eq!(schedule.fail(&fault(Reason::Compute)), Failure::Isolated(vec![]));
    let mut ended = Vec::new();
    while let Some(step) = schedule.compose() {
        assert!(step.number >= together.number);
        assert!(rows_by_sequence(&step).len() <= 1);
        if step.rows.iter().any(|row| row.sequence == 1) {
            let Failure::Isolated(events) = schedule.fail(&fault(Reason::Compute)) else {
                panic!("the others can go on")
            };
            ended.extend(events);
        } else {
            ended.extend(schedule.complete(step.number, &answer(&step, -1)).unwrap());
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
fn a_failed_step_repeats_its_removals_under_the_same_number() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 2, 9), 0).unwrap();
    let step = schedule.compose().unwrap();
    schedule.complete(step.number, &answer(&step, 5)).unwrap();
    schedule.cancel(1);
    schedule.admit(request(2, 2, 9), 0).unwrap();
    let failing = schedule.compose().unwrap();
    schedule.fail(&fault(Reason::KvFull));
    let next = schedule.compose().unwrap();
    assert_eq!((next.number, &next.removals), (failing.number, &failing.removals));
}

#[test]
fn a_fault_that_is_not_of_the_step_breaks_the_chain() {
    let mut schedule = Schedule::new(LIMITS);
    schedule.admit(request(1, 2, 9), 0).unwrap();
    schedule.compose().unwrap();
    schedule.admit(request(2, 2, 9), 0).unwrap();
    assert_eq!(schedule.fail(&fault(Reason::Unreachable)), Failure::Broken);
    assert_eq!(schedule.abandon(), [1, 2]);
    assert!(schedule.is_idle());
}

#[test]
fn an_answer_that_is_not_to_the_step_under_way_is_a_mismatch() {
    let mut schedule = Schedule::new(LIMITS);
    assert!(schedule.complete(1, &[]).is_err());
    schedule.admit(request(1, 2, 9), 0).unwrap();
    let step = schedule.compose().unwrap();
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

/// What a user or a stage may do to the schedule.
#[derive(Clone, Debug)]
enum Act {
    Admit { prompt: usize, max_tokens: u32 },
    Cancel { nth: usize },
    Step { token: i32 },
    Fail,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (1usize..40, 1u32..12).prop_map(|(prompt, max_tokens)| Act::Admit { prompt, max_tokens }),
        1 => (0usize..16).prop_map(|nth| Act::Cancel { nth }),
        8 => (-1i32..30).prop_map(|token| Act::Step { token }),
        1 => Just(Act::Fail),
    ]
}

/// The stages as the contract describes them: they hold positions, and know nothing else.
#[derive(Default)]
struct Stages {
    lengths: BTreeMap<u32, u32>,
    next: u64,
}

impl Stages {
    fn execute(&mut self, step: &Step, limits: Limits) {
        assert_eq!(step.number, self.next.max(1), "numbers count up by one");
        assert!(step.rows.len() <= limits.max_step_rows as usize);
        for removal in &step.removals {
            self.lengths.insert(removal.sequence, 0);
        }
        for row in &step.rows {
            assert!(row.sequence < limits.parallel_sequences && row.position < limits.context_length);
            let length = self.lengths.entry(row.sequence).or_default();
            assert_eq!(*length, row.position, "positions follow without a gap");
            *length += 1;
        }
        self.next = step.number + 1;
    }
}

/// Plays the acts, then lets everything finish; returns every step that was composed.
fn play(acts: &[Act], limits: Limits) -> Vec<Step> {
    let (mut schedule, mut stages) = (Schedule::new(limits), Stages::default());
    let (mut steps, mut open, mut next_id) = (Vec::new(), Vec::new(), 0);
    let rest = std::iter::repeat_n(&Act::Step { token: 5 }, 4000);
    for act in acts.iter().chain(rest) {
        let mut events = Vec::new();
        match act {
            Act::Admit { prompt, max_tokens } => {
                next_id += 1;
                if schedule.admit(request(next_id, *prompt, *max_tokens), 0).is_ok() {
                    open.push(next_id);
                }
            }
            Act::Cancel { nth } if *nth < open.len() => schedule.cancel(open.remove(*nth)),
            Act::Cancel { .. } => {}
            Act::Step { token } => {
                let Some(step) = schedule.compose() else { continue };
                stages.execute(&step, limits);
                events = schedule.complete(step.number, &answer(&step, *token)).unwrap();
                steps.push(step);
            }
            Act::Fail => {
                let Some(step) = schedule.compose() else { continue };
                match schedule.fail(&fault(Reason::Compute)) {
                    Failure::Isolated(failed) => events = failed,
                    Failure::Broken => {
                        let abandoned = schedule.abandon();
                        open.retain(|id| !abandoned.contains(id));
                        stages = Stages::default();
                    }
                }
                steps.push(step);
            }
        }
        for event in events {
            if let Event::Finished { id, .. } | Event::Failed { id, .. } = event {
                assert!(open.contains(&id), "an ended request gets no event");
                open.retain(|other| *other != id);
            }
        }
    }
    assert!(open.is_empty(), "no request starves: {open:?}");
    assert!(schedule.is_idle(), "no slot leaks");
    assert!(
        stages.lengths.values().all(|length| *length == 0),
        "the stages hold nothing"
    );
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_step_can_be_executed_nothing_starves_and_no_slot_leaks(
        acts in prop::collection::vec(act(), 0..120),
        parallel_sequences in 1u32..6,
        max_step_rows in 2u32..10,
    ) {
        let limits = Limits { parallel_sequences, context_length: 32, max_step_rows };
        let steps = play(&acts, limits);
        prop_assert_eq!(steps, play(&acts, limits), "the same inputs give the same steps");
    }
}
