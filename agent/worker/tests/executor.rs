//! A stage's executor: steps in order, refusals without effect, rollback by number.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use bytes::Bytes;
use engine::Sampling;
use rig::fake::{Fake, LAYERS, POISON, WIDTH};
use worker::compute::{Compute, ComputeError, Facts, Output};
use worker::head::schedule::Limits;
use worker::stage::activations;
use worker::stage::executor::{Executor, Place, Yield};
use worker::stage::link::Deadlines;
use worker::step::{KvOperation, MAX_OPERATIONS_PER_SLOT, PrefixCopy, Reason, Removal, Row, Step};

const LIMITS: Limits = Limits {
    parallel_sequences: 2,
    context_length: 16,
    max_step_rows: 4,
    kv_cells: 0,
    prefix_sequences: 1,
};

fn whole() -> Executor {
    whole_of(Fake::new(0, LAYERS).poisoned())
}

fn whole_of(compute: impl Compute + 'static) -> Executor {
    Executor::new(
        Place {
            head: true,
            tail: true,
            limits: LIMITS,
            deadlines: Deadlines::default(),
        },
        Box::new(compute),
    )
}

fn middle() -> Executor {
    Executor::new(
        Place {
            head: false,
            tail: false,
            limits: LIMITS,
            deadlines: Deadlines::default(),
        },
        Box::new(Fake::new(2, 4)),
    )
}

fn row(sequence: u32, position: u32, token: i32) -> Row {
    Row {
        sequence,
        position,
        token,
        sample: Some(Sampling::GREEDY),
    }
}

fn step(number: u64, rows: &[Row]) -> Step {
    Step {
        number,
        operations: Vec::new(),
        rows: rows.to_vec(),
    }
}

fn run(executor: &mut Executor, step: &Step) -> Result<Yield, Reason> {
    executor
        .execute(step, &[])
        .map(|executed| executed.yields)
        .map_err(|fault| fault.reason)
}

#[test]
fn a_step_that_does_not_follow_is_refused_and_changes_nothing() {
    let (mut executor, mut undisturbed) = (whole(), whole());
    let first = step(7, &[row(0, 0, 3), row(1, 0, 4)]);
    let second = step(8, &[row(0, 1, 5), row(1, 1, 6)]);
    run(&mut executor, &first).unwrap();
    run(&mut undisturbed, &first).unwrap();
    let refused = [
        (step(7, &second.rows), Reason::OutOfOrder),
        (step(9, &second.rows), Reason::OutOfOrder),
        (step(8, &[row(0, 2, 5)]), Reason::OutOfOrder),
        (step(8, &[row(0, 0, 5)]), Reason::OutOfOrder),
        (step(8, &[row(3, 0, 5)]), Reason::WrongShape),
        (
            step(8, &[1, 2, 3, 4, 5].map(|position| row(0, position, 5))),
            Reason::WrongShape,
        ),
        (
            Step {
                operations: vec![KvOperation::forget(9)],
                ..second.clone()
            },
            Reason::WrongShape,
        ),
        (
            Step {
                operations: vec![KvOperation::forget(0); 3 * MAX_OPERATIONS_PER_SLOT + 1],
                ..second.clone()
            },
            Reason::WrongShape,
        ),
        (step(8, &[row(0, 1, 5), row(1, 1, POISON)]), Reason::Compute),
    ];
    for (refused, reason) in refused {
        assert_eq!(run(&mut executor, &refused), Err(reason), "{refused:?}");
    }
    assert_eq!(
        executor.execute(&second, &[0; 4]).unwrap_err().reason,
        Reason::WrongShape
    );
    assert_eq!(run(&mut executor, &second), run(&mut undisturbed, &second));
}

/// A shard whose cache takes one row of a step.
struct Crowded(Fake);

impl Compute for Crowded {
    fn facts(&self) -> Facts {
        self.0.facts()
    }

    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError> {
        self.0.embed(tokens)
    }

    fn step(&mut self, rows: &[Row], activations: &[f32]) -> Result<Output, ComputeError> {
        match rows {
            [_] => self.0.step(rows, activations),
            _ => Err(ComputeError::KvFull("there is room for one row".to_owned())),
        }
    }

    fn remove(&mut self, sequence: u32, from: u32, end: Option<u32>) -> Result<(), ComputeError> {
        self.0.remove(sequence, from, end)
    }

    fn copy_prefix(&mut self, from: u32, to: u32, end: u32) -> Result<(), ComputeError> {
        self.0.copy_prefix(from, to, end)
    }
}

#[test]
fn a_step_that_the_cache_has_no_room_for_is_told_as_that_and_changes_nothing() {
    let (mut executor, mut undisturbed) = (whole_of(Crowded(Fake::new(0, LAYERS))), whole());
    let first = step(7, &[row(0, 0, 3)]);
    assert_eq!(run(&mut executor, &first), run(&mut undisturbed, &first));
    let fault = executor
        .execute(&step(8, &[row(0, 1, 5), row(1, 0, 4)]), &[])
        .unwrap_err();
    assert_eq!(fault.reason, Reason::KvFull);
    assert_eq!(fault.message, "the KV cache is full: there is room for one row");
    let second = step(8, &[row(0, 1, 5)]);
    assert_eq!(run(&mut executor, &second), run(&mut undisturbed, &second));
}

#[test]
fn rolled_back_steps_leave_no_trace() {
    let (mut executor, mut undisturbed) = (whole(), whole());
    for number in 0..4 {
        run(&mut executor, &step(number, &[row(0, number as u32, 3)])).unwrap();
    }
    executor.rollback(1).unwrap();
    run(&mut undisturbed, &step(0, &[row(0, 0, 3)])).unwrap();
    let again = step(1, &[row(0, 1, 9), row(1, 0, 9)]);
    assert_eq!(run(&mut executor, &again), run(&mut undisturbed, &again));
    assert_eq!(executor.active_sequences(), 2);
}

#[test]
fn rolling_back_what_was_never_executed_is_fine_and_what_is_too_long_ago_is_not() {
    let mut executor = whole();
    executor.rollback(5).unwrap();
    for number in 1..=100 {
        let operations = vec![KvOperation::forget(0)];
        run(
            &mut executor,
            &Step {
                number,
                operations,
                rows: vec![row(0, 0, 3)],
            },
        )
        .unwrap();
    }
    executor.rollback(101).unwrap();
    assert_eq!(executor.rollback(2).unwrap_err().reason, Reason::OutOfOrder);
    executor.rollback(99).unwrap();
    assert!(run(&mut executor, &step(100, &[])).is_err());
    assert!(run(&mut executor, &step(99, &[row(0, 0, 3)])).is_ok());
}

#[test]
fn a_removal_makes_room_before_the_rows_of_its_step() {
    let (mut executor, mut fresh) = (whole(), whole());
    run(&mut executor, &step(1, &[row(0, 0, 3), row(0, 1, 4)])).unwrap();
    let operations = vec![KvOperation::forget(0)];
    let reused = Step {
        number: 2,
        operations,
        rows: vec![row(0, 0, 8)],
    };
    assert_eq!(run(&mut executor, &reused), run(&mut fresh, &step(1, &[row(0, 0, 8)])));
    assert_eq!(
        run(
            &mut executor,
            &Step {
                rows: vec![],
                number: 3,
                ..reused
            }
        ),
        Ok(Yield::Tokens(vec![]))
    );
    assert_eq!(executor.active_sequences(), 0);
}

#[test]
fn a_reset_forgets_everything_and_takes_any_number() {
    let mut executor = whole();
    let first = step(1, &[row(0, 0, 3)]);
    let yielded = run(&mut executor, &first);
    executor.reset().unwrap();
    assert_eq!(executor.active_sequences(), 0);
    assert_eq!(run(&mut executor, &Step { number: 70, ..first }), yielded);
}

#[test]
fn activations_must_be_one_finite_row_for_each_row() {
    let mut executor = middle();
    let rows = step(1, &[row(0, 0, 3), row(0, 1, 4)]);
    for wrong in [
        Bytes::new(),
        activations::encode(vec![1.0; WIDTH]),
        Bytes::from_static(&[0; 7]),
    ] {
        assert_eq!(executor.execute(&rows, &wrong).unwrap_err().reason, Reason::WrongShape);
    }
    let mut values = [1.0; WIDTH * 2];
    values[5] = f32::NAN;
    assert_eq!(
        executor
            .execute(&rows, &activations::encode(values.to_vec()))
            .unwrap_err()
            .reason,
        Reason::Compute
    );
    values[5] = 2.0;
    let executed = executor.execute(&rows, &activations::encode(values.to_vec())).unwrap();
    assert!(matches!(executed.yields, Yield::Activations(bytes) if bytes.len() == values.len() * 4));
}

fn copy(from: u32, to: u32, end: u32) -> KvOperation {
    KvOperation::Copy(PrefixCopy { from, to, end })
}

fn with(operations: &[KvOperation], step: Step) -> Step {
    Step {
        operations: operations.to_vec(),
        ..step
    }
}

/// Three positions in sequence 0, and the rest empty.
fn begun() -> Executor {
    let mut executor = whole();
    run(
        &mut executor,
        &step(1, &[3, 4, 5].map(|token| row(0, token as u32 - 3, token))),
    )
    .unwrap();
    executor
}

#[test]
fn a_copied_prefix_goes_on_as_if_it_had_been_computed() {
    let mut executor = begun();
    let shared = with(&[copy(0, 1, 2)], step(2, &[row(1, 2, 9)]));
    let mut computed = begun();
    let rows = [row(1, 0, 3), row(1, 1, 4)];
    run(&mut computed, &step(2, &rows)).unwrap();
    let (shared, computed) = (
        run(&mut executor, &shared),
        run(&mut computed, &step(3, &[row(1, 2, 9)])),
    );
    assert_eq!(shared.unwrap(), computed.unwrap());
    // The sequence that shares goes on too, and a kept prefix outlives both.
    let kept = with(
        &[
            copy(0, 2, 3),
            KvOperation::forget(0),
            KvOperation::forget(1),
            copy(2, 0, 3),
        ],
        step(3, &[row(0, 3, 6)]),
    );
    let kept = run(&mut executor, &kept).unwrap();
    assert_eq!(kept, run(&mut begun(), &step(2, &[row(0, 3, 6)])).unwrap());
    assert_eq!(executor.active_sequences(), 1);
}

#[test]
fn a_copy_that_cannot_be_meant_is_refused_and_changes_nothing() {
    let mut executor = begun();
    run(&mut executor, &step(2, &[row(1, 0, 7)])).unwrap();
    let refused = [
        vec![copy(0, 1, 1)],
        vec![copy(0, 0, 1)],
        vec![copy(0, 2, 4)],
        vec![copy(0, 2, 0)],
        vec![copy(3, 2, 1)],
        vec![copy(0, 3, 1)],
        vec![KvOperation::forget(0), copy(0, 2, 1)],
        vec![copy(0, 2, 1), copy(1, 2, 1)],
        vec![KvOperation::forget(2); 3 * MAX_OPERATIONS_PER_SLOT + 1],
        vec![KvOperation::Remove(Removal {
            sequence: 0,
            from: 0,
            end: Some(2),
        })],
    ];
    for operations in refused {
        let refused = with(&operations, step(3, &[row(0, 3, 5)]));
        assert_eq!(run(&mut executor, &refused), Err(Reason::WrongShape), "{operations:?}");
    }
    let mut undisturbed = begun();
    run(&mut undisturbed, &step(2, &[row(1, 0, 7)])).unwrap();
    let next = with(&[copy(0, 2, 3)], step(3, &[row(0, 3, 5), row(1, 1, 5)]));
    assert_eq!(run(&mut executor, &next), run(&mut undisturbed, &next));
}

#[test]
fn rolling_back_and_failing_undo_copies_and_leave_the_lengths_as_they_were() {
    for failed in [false, true] {
        let mut executor = begun();
        let token = if failed { POISON } else { 9 };
        let shared = with(
            &[copy(0, 1, 2), copy(0, 2, 3)],
            step(2, &[row(1, 2, token), row(0, 3, 8)]),
        );
        assert_eq!(run(&mut executor, &shared).is_err(), failed);
        if !failed {
            run(&mut executor, &step(3, &[row(1, 3, 9)])).unwrap();
            executor.rollback(2).unwrap();
        }
        assert_eq!(executor.active_sequences(), 1);
        // Sequences 1 and 2 are empty, sequence 0 has its three positions: the same step does the same.
        let again = with(&[copy(0, 1, 2), copy(0, 2, 3)], step(2, &[row(1, 2, 9), row(0, 3, 8)]));
        assert_eq!(run(&mut executor, &again).unwrap(), run(&mut begun(), &again).unwrap());
    }
}

#[test]
fn kept_prefixes_do_not_count_as_active_and_a_reset_forgets_them() {
    let mut executor = begun();
    run(
        &mut executor,
        &with(&[copy(0, 2, 3), KvOperation::forget(0)], step(2, &[])),
    )
    .unwrap();
    assert_eq!(executor.active_sequences(), 0);
    executor.reset().unwrap();
    let gone = with(&[copy(2, 0, 3)], step(1, &[]));
    assert_eq!(run(&mut executor, &gone), Err(Reason::WrongShape));
}

#[test]
fn what_follows_a_first_step_that_failed_is_not_taken_for_the_first() {
    let first = step(1, &[row(0, 0, POISON)]);
    let second = step(2, &[row(1, 0, 4)]);
    let mut executor = whole();
    assert_eq!(run(&mut executor, &first), Err(Reason::Compute));
    assert_eq!(run(&mut executor, &second), Err(Reason::OutOfOrder));
    executor.rollback(1).unwrap();
    let again = Step { number: 1, ..second };
    assert_eq!(run(&mut executor, &again), run(&mut whole(), &again));
}
