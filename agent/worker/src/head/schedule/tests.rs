//! The schedule by itself, and against stages that know nothing but the contract.

mod admission;
mod drafts;
mod faults;
mod model;
mod prefixes;
mod rows;
mod stages;

use std::collections::BTreeMap;

use engine::sample::Sampling;

use super::*;
use crate::step::{KvOperation, PrefixCopy, Row, Step};

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
    kv_cells: 0,
    prefix_sequences: 0,
};

fn one_at_a_time(limits: Limits) -> Schedule {
    with_depth(limits, 1)
}

fn with_depth(limits: Limits, depth: usize) -> Schedule {
    let tuning = Tuning {
        depth,
        prompt_rows_beside_decodes: limits.max_step_rows,
        prompt_rows_alone: limits.max_step_rows,
        restarts: false,
        speculates: false,
    };
    Schedule::new(limits, tuning)
}

/// A prompt that no other request shares anything with.
fn request(id: RequestId, prompt: usize, max_tokens: u32) -> Request {
    let prompt = (0..prompt as i32).map(|token| token + 100 * id as i32).collect();
    asking(id, prompt, max_tokens)
}

fn asking(id: RequestId, prompt: Vec<i32>, max_tokens: u32) -> Request {
    Request {
        id,
        prompt,
        max_tokens,
        sampling: GREEDY,
        stop_tokens: vec![-1],
        max_wait_us: MAX_WAIT_US,
        prefix_scope: Vec::new(),
        resumed: false,
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

/// Answers a step of a schedule that has nothing else to expect.
fn done(schedule: &mut Schedule, step: &Step, token: i32) -> Vec<Event> {
    schedule.complete(step.number, &answer(step, token)).unwrap()
}

/// Composes and answers until nothing is due.
fn run_out(schedule: &mut Schedule, token: i32) -> (Vec<Step>, Vec<Event>) {
    let (mut steps, mut events) = (Vec::new(), Vec::new());
    while let Some(step) = schedule.compose(0) {
        events.extend(done(schedule, &step, token));
        steps.push(step);
    }
    (steps, events)
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

fn copy(from: u32, to: u32, end: u32) -> KvOperation {
    KvOperation::Copy(PrefixCopy { from, to, end })
}

#[test]
fn a_prompt_alone_goes_through_several_stages_in_smaller_steps_than_through_one() {
    let limits = Limits {
        context_length: 512,
        max_step_rows: 128,
        kv_cells: 512,
        ..LIMITS
    };
    for (stages, rows) in [(1, 128), (2, 64)] {
        let mut schedule = Schedule::new(limits, Tuning::new(stages, &limits));
        schedule.admit(request(1, 300, 1), 0).unwrap();
        assert_eq!(schedule.compose(0).unwrap().rows.len(), rows);
    }
}
