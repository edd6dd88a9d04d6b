//! One stage's part of the contract: steps strictly in order, refused before anything changes, undone by number.

mod journal;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::activations;
use super::link::Deadlines;
use crate::compute::{Compute, ComputeError, Facts, Output};
use crate::head::schedule::Limits;
use crate::step::{KvOperation, MAX_OPERATIONS_PER_SLOT, PrefixCopy, Reason, Removal, Row, Sampled, Step, StepFault};
use journal::Journal;

/// What a shard is to any pipeline that it stands in, and what the placement fixes for all stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Has the first layer: embeds tokens and owns the schedule.
    pub head: bool,
    /// Has the last layer: samples.
    pub tail: bool,
    /// Slots, context and rows.
    pub limits: Limits,
    /// How long other stages are waited for.
    pub deadlines: Deadlines,
}

impl Place {
    /// The place of what was loaded: no prefixes are kept where none can be shared.
    pub fn with(mut self, facts: Facts) -> Self {
        if !facts.shares_prefixes {
            self.limits.prefix_sequences = 0;
        }
        self
    }
}

/// What a step leaves for the next stage, or for the head.
#[derive(Clone, Debug, PartialEq)]
pub enum Yield {
    /// Activations as they travel.
    Activations(Bytes),
    /// The tail's tokens, in row order.
    Tokens(Vec<Sampled>),
}

/// A step that was executed.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// What it leaves.
    pub yields: Yield,
    /// Time in the engine, embedding and sampling included, microseconds.
    pub compute_us: u64,
}

/// A stage's sequences as it accounts for them, over whatever computes.
pub struct Executor {
    place: Place,
    compute: Box<dyn Compute>,
    /// The number that must come next; any when a stream begins.
    next: Option<u64>,
    /// Positions held, per sequence slot.
    lengths: Vec<u32>,
    journal: Journal,
    /// Set when a clean-up failed: what the cache holds is unknown until a reset succeeds.
    damaged: bool,
    /// Set when nothing but loading again helps.
    broken: Option<String>,
}

impl Executor {
    /// A stage that holds nothing.
    pub fn new(place: Place, compute: Box<dyn Compute>) -> Self {
        let lengths = vec![0; place.limits.slots()];
        Self {
            place,
            compute,
            next: None,
            lengths,
            journal: Journal::default(),
            damaged: false,
            broken: None,
        }
    }

    /// Forgets every sequence; the next step may have any number.
    pub fn reset(&mut self) -> Result<(), StepFault> {
        self.damaged = true;
        for sequence in 0..self.lengths.len() as u32 {
            let removed = self.compute.remove(sequence, 0, None);
            removed.map_err(|error| self.damage(&error))?;
        }
        self.lengths.fill(0);
        self.journal = Journal::default();
        (self.next, self.damaged) = (None, false);
        Ok(())
    }

    /// Why this stage can never compute again, once it cannot.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Sequences of which the stage holds anything; kept prefixes do not count.
    pub fn active_sequences(&self) -> usize {
        let parallel = self.place.limits.parallel_sequences as usize;
        self.lengths.iter().take(parallel).filter(|length| **length > 0).count()
    }

    /// Executes the step that follows. A refused step changes nothing; a failed one adds nothing to any sequence, but what it
    /// removed stays removed (the head removes it again).
    ///
    /// `activations` is empty on the head, which embeds the tokens itself.
    pub fn execute(&mut self, step: &Step, activations: &[u8]) -> Result<Executed, StepFault> {
        let started = Instant::now();
        self.check_order(step)?;
        // Whatever becomes of it: what comes after a first step that failed may not be taken for the first.
        self.next.get_or_insert(step.number);
        self.check_shape(step)?;
        let input = self.check_activations(step, activations)?;
        for operation in &step.operations {
            let done = match operation {
                KvOperation::Remove(removal) => {
                    let length = &mut self.lengths[removal.sequence as usize];
                    *length = removal.from.min(*length);
                    self.compute.remove(removal.sequence, removal.from, removal.end)
                }
                KvOperation::Copy(copy) => {
                    self.lengths[copy.to as usize] = copy.end;
                    self.compute.copy_prefix(copy.from, copy.to, copy.end)
                }
            };
            done.map_err(|error| self.damage(&error))?;
        }
        let yields = self.run(step, input).inspect_err(|_| self.undo(step))?;
        for row in &step.rows {
            self.lengths[row.sequence as usize] = row.position + 1;
        }
        self.journal.record(step);
        self.next = Some(step.number + 1);
        Ok(Executed {
            yields,
            compute_us: elapsed_us(started),
        })
    }

    /// Undoes every executed step from this number on: what their rows and copies added is forgotten, what they removed stays
    /// removed. Numbers that were not executed are fine.
    pub fn rollback(&mut self, from_number: u64) -> Result<(), StepFault> {
        let Some(next) = self.next else { return Ok(()) };
        if from_number >= next {
            return Ok(());
        }
        let undone = self.journal.take_from(from_number).ok_or_else(|| {
            let message = format!("step {from_number} is too long ago to be rolled back");
            self.fault(Reason::OutOfOrder, message)
        })?;
        self.forget(&undone).map_err(|error| self.damage(&error))?;
        self.next = Some(from_number);
        Ok(())
    }

    fn check_order(&self, step: &Step) -> Result<(), StepFault> {
        if self.damaged {
            let message = "an earlier clean-up failed; open a new stream".to_owned();
            return Err(self.fault(Reason::Unreachable, message));
        }
        let follows = self.next.is_none_or(|next| next == step.number) && step.number < u64::MAX;
        if !follows {
            let next = self.next.unwrap_or_default();
            let message = format!("step {} does not follow; next is {next}", step.number);
            return Err(self.fault(Reason::OutOfOrder, message));
        }
        Ok(())
    }

    /// Sequences and positions, played through on a copy of the lengths.
    fn check_shape(&self, step: &Step) -> Result<(), StepFault> {
        let limits = self.place.limits;
        let shape = |message| Err(self.fault(Reason::WrongShape, message));
        let too_many = |what, count: usize, most: usize| {
            shape(format!(
                "step {} has {count} {what}, at most {most} are allowed",
                step.number
            ))
        };
        if step.rows.len() > limits.max_step_rows as usize {
            return too_many("rows", step.rows.len(), limits.max_step_rows as usize);
        }
        let most = MAX_OPERATIONS_PER_SLOT * self.lengths.len();
        if step.operations.len() > most {
            return too_many("KV operations", step.operations.len(), most);
        }
        let mut lengths = self.lengths.clone();
        for operation in &step.operations {
            play(operation, &mut lengths).or_else(shape)?;
        }
        for Row { sequence, position, .. } in &step.rows {
            let Some(length) = lengths.get_mut(*sequence as usize) else {
                return shape(format!("there is no sequence {sequence}"));
            };
            if *position >= limits.context_length {
                return shape(format!("position {position} is beyond the context"));
            }
            if position != length {
                let message = format!("sequence {sequence} has {length} positions, the row is at {position}");
                return Err(self.fault(Reason::OutOfOrder, message));
            }
            *length += 1;
        }
        Ok(())
    }

    /// The values behind `encoded`; none on the head.
    fn check_activations<'a>(&self, step: &Step, encoded: &'a [u8]) -> Result<Cow<'a, [f32]>, StepFault> {
        let width = self.compute.facts().embedding_length;
        let expected = if self.place.head { 0 } else { step.rows.len() * width };
        if encoded.len() != expected * size_of::<f32>() {
            let message = format!("{} bytes of activations for {expected} values", encoded.len());
            return Err(self.fault(Reason::WrongShape, message));
        }
        activations::decode(encoded).ok_or_else(|| {
            let message = "the stage before sent activations that are not finite".to_owned();
            self.fault(Reason::Compute, message)
        })
    }

    fn run(&mut self, step: &Step, mut input: Cow<'_, [f32]>) -> Result<Yield, StepFault> {
        if step.rows.is_empty() {
            return Ok(self.nothing());
        }
        if self.place.head {
            let tokens: Vec<i32> = step.rows.iter().map(|row| row.token).collect();
            let embedded = self.compute.embed(&tokens).map_err(|error| self.failed(&error))?;
            input = Cow::Owned(embedded);
        }
        let output = self
            .compute
            .step(&step.rows, &input)
            .map_err(|error| self.failed(&error))?;
        match output {
            Output::Activations(values) if !self.place.tail && values.len() == input.len() => {
                Ok(Yield::Activations(activations::encode(values)))
            }
            Output::Tokens(tokens) if self.place.tail => {
                let rows = step.rows.iter().filter(|row| row.sample.is_some());
                let sampled = rows.zip(tokens).map(|(row, token)| Sampled {
                    sequence: row.sequence,
                    position: row.position + 1,
                    token,
                });
                Ok(Yield::Tokens(sampled.collect()))
            }
            _ => Err(self.fault(Reason::Compute, "the engine's output has the wrong shape".into())),
        }
    }

    fn nothing(&self) -> Yield {
        if self.place.tail {
            Yield::Tokens(Vec::new())
        } else {
            Yield::Activations(Bytes::new())
        }
    }

    /// After a failure the engine may hold some of the step's rows, and holds its copies: back to the lengths before.
    fn undo(&mut self, step: &Step) {
        if let Err(error) = self.forget(&journal::first_positions(step)) {
            self.damage(&error);
        }
    }

    /// Forgets sequences from a position on.
    fn forget(&mut self, first: &BTreeMap<u32, u32>) -> Result<(), ComputeError> {
        for (sequence, from) in first {
            let length = &mut self.lengths[*sequence as usize];
            *length = (*length).min(*from);
            self.compute.remove(*sequence, *from, None)?;
        }
        Ok(())
    }

    fn damage(&mut self, error: &ComputeError) -> StepFault {
        self.damaged = true;
        if let ComputeError::Broken(cause) = error {
            self.broken = Some(cause.clone());
        }
        let message = format!("rows could not be forgotten: {error}");
        // Nothing but a new stream helps: not a fault that the step's own sequences can be blamed for.
        self.fault(Reason::Unreachable, message)
    }

    fn failed(&mut self, error: &ComputeError) -> StepFault {
        let reason = match error {
            ComputeError::KvFull(_) => Reason::KvFull,
            ComputeError::Failed(_) => Reason::Compute,
            ComputeError::Broken(_) => return self.damage(error),
        };
        self.fault(reason, error.to_string())
    }

    /// The index of the stage is filled in by the one who holds the session.
    fn fault(&self, reason: Reason, message: String) -> StepFault {
        let stage = 0;
        StepFault { stage, reason, message }
    }
}

/// What an operation does to the lengths; the message says why it cannot be done.
fn play(operation: &KvOperation, lengths: &mut [u32]) -> Result<(), String> {
    let held = |sequence: u32| lengths.get(sequence as usize).copied();
    let known = |sequence: u32| held(sequence).ok_or_else(|| format!("there is no sequence {sequence}"));
    match *operation {
        KvOperation::Remove(Removal { sequence, from, end }) => {
            let length = known(sequence)?;
            if end.is_some_and(|end| end < length) {
                return Err("removing from the middle of a sequence is not supported".to_owned());
            }
            lengths[sequence as usize] = from.min(length);
        }
        KvOperation::Copy(PrefixCopy { from, to, end }) => {
            let (source, target) = (known(from)?, known(to)?);
            if target != 0 || from == to {
                return Err(format!(
                    "a prefix cannot be copied to sequence {to}: it holds something"
                ));
            }
            if end == 0 || end > source {
                return Err(format!(
                    "sequence {from} has {source} positions, {end} cannot be shared"
                ));
            }
            lengths[to as usize] = end;
        }
    }
    Ok(())
}

/// Microseconds since an instant.
pub fn elapsed_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
