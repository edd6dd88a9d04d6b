//! The schedule of a pipeline, as a pure state machine: which sequences run, and what the next step is.
//!
//! ```text
//!  admit ──▶ waiting ──▶ slot: prompt ──▶ slot: decode ──▶ Finished
//!                          │ compose → Step → complete │
//!                          └── cancel · fail ──────────┴──▶ slot is forgotten by the next step
//! ```
//!
//! The same calls in the same order give the same steps. At most one step is under way: `compose` answers `None` until
//! `complete` or `fail` was called for it. A sequence advances on `complete` alone, so a failed step needs no undo here.

mod mix;
mod request;
mod slot;

use std::collections::VecDeque;

use crate::step::{Removal, Sampled, Step, StepFault};
pub use request::{Limits, Refusal, Request, RequestId};
use slot::{Sequence, Slot};

/// Requests that wait for a sequence slot. At some seconds a request this is minutes of waiting already: better told at
/// once that there is no room than answered after the client has gone.
pub const MAX_WAITING: usize = 64;

/// How long a request waits for a slot before it is turned away: longer than people and their clients wait for a first token.
pub const MAX_WAIT_US: u64 = 60_000_000;

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was sampled.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// Something to tell the one who asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The next token.
    Token {
        /// Whose.
        id: RequestId,
        /// Id in the vocabulary.
        token: i32,
        /// Position in the sequence, prompt included.
        position: u32,
    },
    /// The last event of a request that ended as it should.
    Finished {
        /// Whose.
        id: RequestId,
        /// Why it ended.
        finish: Finish,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens emitted.
        completion_tokens: u32,
    },
    /// The last event of a request whose step failed.
    Failed {
        /// Whose.
        id: RequestId,
        /// What failed.
        fault: StepFault,
    },
    /// The last event of a request that waited for a slot longer than [`MAX_WAIT_US`].
    TimedOut {
        /// Whose.
        id: RequestId,
    },
}

/// What must happen after a failed step, beside rolling it back.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The pipeline goes on; tell these requests.
    Isolated(Vec<Event>),
    /// No sequence can be blamed: the caller must rebuild the chain and end everything with [`Schedule::abandon`].
    Broken,
}

/// A result that does not answer the step under way: the later stages disagree about what they run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {number} is answered by {got}, expected {expected}")]
pub struct Mismatch {
    number: u64,
    got: String,
    expected: String,
}

/// Rows of one sequence in the step under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    slot: usize,
    id: RequestId,
    rows: u32,
    /// Position that the sampled token takes, when its last row samples.
    samples: Option<u32>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    number: u64,
    removed: Vec<usize>,
    parts: Vec<Part>,
}

/// The state: slots, the queue before them, and the step under way.
#[derive(Clone, Debug)]
pub struct Schedule {
    limits: Limits,
    slots: Vec<Slot>,
    waiting: VecDeque<(Request, u64)>,
    under_way: Option<UnderWay>,
    next_number: u64,
    /// Where the round over the slots starts: moves on with every step, so that no slot is always last.
    turn: usize,
}

impl Schedule {
    /// An idle pipeline whose stages hold nothing.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: vec![Slot::default(); limits.parallel_sequences as usize],
            waiting: VecDeque::new(),
            under_way: None,
            next_number: 1,
            turn: 0,
        }
    }

    /// Takes a request in, to be seated by the next `compose`. `now_us` is any monotonic clock.
    pub fn admit(&mut self, mut request: Request, now_us: u64) -> Result<(), Refusal> {
        let context = self.limits.context_length;
        let prompt = request.prompt.len();
        if prompt == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if request.max_tokens == 0 {
            return Err(Refusal::NothingWanted);
        }
        if prompt >= context as usize {
            return Err(Refusal::PromptTooLong { prompt, context });
        }
        let free = self.slots.iter().filter(|slot| slot.sequence.is_none()).count();
        if self.waiting.len() >= free + MAX_WAITING {
            let waiting = self.waiting.len() - free;
            return Err(Refusal::Full {
                slots: self.slots.len(),
                waiting,
            });
        }
        request.max_tokens = request.max_tokens.min(context - prompt as u32);
        self.waiting.push_back((request, now_us));
        Ok(())
    }

    /// The one who asked has gone: no event follows for this request. Unknown ids are fine: it had ended already.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(request, _)| request.id != id);
        if let Some(slot) = self.slot_of(id) {
            self.release(slot);
        }
    }

    /// Turns away requests that have waited too long.
    pub fn expire(&mut self, now_us: u64) -> Vec<Event> {
        let mut events = Vec::new();
        self.waiting.retain(|(request, since_us)| {
            let keep = now_us.saturating_sub(*since_us) <= MAX_WAIT_US;
            if !keep {
                events.push(Event::TimedOut { id: request.id });
            }
            keep
        });
        events
    }

    /// The next step, or `None` when nothing is due or a step is under way.
    pub fn compose(&mut self) -> Option<Step> {
        if self.under_way.is_some() {
            return None;
        }
        self.seat();
        let removed = self.take_stale();
        let shares = mix::shares(&self.slots, self.turn, self.limits.max_step_rows);
        if removed.is_empty() && shares.is_empty() {
            return None;
        }
        let mut step = Step {
            number: self.next_number,
            ..Step::default()
        };
        for slot in &removed {
            step.removals.push(Removal {
                sequence: *slot as u32,
                from: 0,
                end: None,
            });
        }
        let parts: Vec<Part> = shares
            .iter()
            .filter_map(|share| mix::rows(&self.slots, share, &mut step.rows))
            .collect();
        self.next_number += 1;
        self.turn = (self.turn + 1) % self.slots.len();
        self.under_way = Some(UnderWay {
            number: step.number,
            removed,
            parts,
        });
        Some(step)
    }

    /// The step was executed by all stages; `tokens` are what the tail sampled, in row order.
    ///
    /// On a mismatch the state is unusable but for [`Schedule::abandon`].
    pub fn complete(&mut self, number: u64, tokens: &[Sampled]) -> Result<Vec<Event>, Mismatch> {
        let Some(under_way) = self.under_way.take() else {
            return Err(mismatch(number, "a result", "none: no step is under way"));
        };
        if under_way.number != number {
            return Err(mismatch(
                under_way.number,
                &format!("a result of step {number}"),
                "its own",
            ));
        }
        let wanted = under_way.parts.iter().filter(|part| part.samples.is_some()).count();
        if wanted != tokens.len() {
            let (got, expected) = (format!("{} tokens", tokens.len()), format!("{wanted}"));
            return Err(mismatch(number, &got, &expected));
        }
        let mut tokens = tokens.iter();
        let mut events = Vec::new();
        for part in under_way.parts {
            let sampled = match part.samples {
                None => None,
                Some(position) => {
                    let answer = tokens
                        .next()
                        .filter(|token| token.sequence as usize == part.slot && token.position == position);
                    let place = || format!("a token for sequence {} at {position}", part.slot);
                    Some(answer.ok_or_else(|| mismatch(number, "a token for elsewhere", &place()))?)
                }
            };
            self.advance(&part, sampled.map(|token| token.token), &mut events);
        }
        Ok(events)
    }

    /// The step failed and is rolled back on every stage: its number is used again.
    ///
    /// A sequence that failed alone is told so; several that failed together run alone until it is known whose fault it was.
    pub fn fail(&mut self, fault: &StepFault) -> Failure {
        let Some(under_way) = self.under_way.take() else {
            return Failure::Broken;
        };
        self.next_number = under_way.number;
        for slot in under_way.removed {
            self.slots[slot].stale = true;
        }
        if !fault.reason.is_of_the_step() || under_way.parts.is_empty() {
            return Failure::Broken;
        }
        let alone = under_way.parts.len() == 1;
        let mut events = Vec::new();
        for part in under_way.parts {
            let slot = &mut self.slots[part.slot];
            // A part whose request was cancelled meanwhile blames nobody.
            let Some(sequence) = slot.sequence.as_mut().filter(|s| s.request.id == part.id) else {
                continue;
            };
            if alone {
                events.push(Event::Failed {
                    id: part.id,
                    fault: fault.clone(),
                });
                self.release(part.slot);
            } else {
                sequence.suspect = true;
            }
        }
        Failure::Isolated(events)
    }

    /// Forgets everything: the stages were reset, or will be. The ids are those that still expect an event.
    pub fn abandon(&mut self) -> Vec<RequestId> {
        let running = self.slots.iter().filter_map(|slot| slot.sequence.as_ref());
        let mut ids: Vec<RequestId> = running.map(|sequence| sequence.request.id).collect();
        ids.extend(self.waiting.iter().map(|(request, _)| request.id));
        *self = Self::new(self.limits);
        ids
    }

    /// Sequences that hold a slot.
    pub fn running(&self) -> usize {
        self.slots.iter().filter(|slot| slot.sequence.is_some()).count()
    }

    /// Requests before the slots.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Nothing runs, waits or is left to forget.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_none()
            && self.waiting.is_empty()
            && self.slots.iter().all(|slot| slot.sequence.is_none() && !slot.stale)
    }

    /// First come, first seated.
    fn seat(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.sequence.is_none()) {
            let Some((request, _)) = self.waiting.pop_front() else {
                return;
            };
            slot.sequence = Some(Sequence::new(request));
        }
    }

    fn take_stale(&mut self) -> Vec<usize> {
        let stale = self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.stale);
        stale
            .map(|(index, slot)| {
                slot.stale = false;
                index
            })
            .collect()
    }

    fn slot_of(&self, id: RequestId) -> Option<usize> {
        let holds = |slot: &Slot| slot.sequence.as_ref().is_some_and(|s| s.request.id == id);
        self.slots.iter().position(holds)
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot] = Slot {
            sequence: None,
            stale: true,
        };
    }

    /// Records that a part's rows are computed, and what was sampled after them.
    fn advance(&mut self, part: &Part, sampled: Option<i32>, events: &mut Vec<Event>) {
        let slot = self.slots[part.slot].sequence.as_mut();
        let Some(sequence) = slot.filter(|s| s.request.id == part.id) else {
            return;
        };
        sequence.computed += part.rows;
        sequence.suspect = false;
        let Some(token) = sampled else { return };
        let finish = if sequence.request.stop_tokens.contains(&token) {
            Some(Finish::Stop)
        } else {
            let position = sequence.known();
            events.push(Event::Token {
                id: part.id,
                token,
                position,
            });
            sequence.emitted += 1;
            sequence.last = token;
            (sequence.emitted == sequence.request.max_tokens).then_some(Finish::Length)
        };
        if let Some(finish) = finish {
            events.push(Event::Finished {
                id: part.id,
                finish,
                prompt_tokens: sequence.prompt_tokens(),
                completion_tokens: sequence.emitted,
            });
            self.release(part.slot);
        }
    }
}

fn mismatch(number: u64, got: &str, expected: &str) -> Mismatch {
    Mismatch {
        number,
        got: got.to_owned(),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
mod tests;
