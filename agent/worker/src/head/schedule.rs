//! The schedule of a pipeline, as a pure state machine: which sequences run, and what the next step is.
//!
//! ```text
//!  admit ──▶ queue ──▶ slot: prompt ──▶ slot: decode ──▶ Finished
//!                        │ compose → Step → complete │
//!                        └── cancel · fail ──────────┴──▶ the next step keeps its positions as a prefix, or forgets them
//! ```
//!
//! The same calls in the same order give the same steps. Several steps are under way at once, and answered in their order. What
//! is kept here is what every stage will hold once all of them are executed; when one fails, it and all later ones are void, and
//! what they did is taken back.
//!
//! Cells of the KV caches are never over-committed: each running sequence has all that it may come to fill set aside, and each kept
//! prefix counts in full, although it may share cells with others. Prefixes make way for sequences.

mod chunk;
mod compose;
mod draft;
mod event;
mod flight;
mod mix;
mod prefixes;
mod queue;
mod request;
mod sequence;

use std::collections::VecDeque;

use crate::step::{Reason, Sampled, StepFault};
pub use draft::RoundTrip;
pub use event::{CellUse, Event, Failure, Finish, Mismatch, Relief, Tally};
use flight::{Flight, Part};
pub use prefixes::MIN_PREFIX;
use prefixes::Prefixes;
use queue::Queue;
pub use queue::{MAX_OVERTAKINGS, MAX_WAIT_US, MAX_WAITING};
pub use request::{Limits, MAX_DEPTH, Refusal, Request, RequestId, Tuning};
use sequence::{Sequence, Slot};

/// The state: slots, the queue before them, kept prefixes, and the steps under way.
#[derive(Clone, Debug)]
pub struct Schedule {
    limits: Limits,
    tuning: Tuning,
    relief: Relief,
    round_trip: Option<RoundTrip>,
    slots: Vec<Slot>,
    queue: Queue,
    prefixes: Prefixes,
    /// Oldest first; numbers follow each other.
    under_way: VecDeque<Flight>,
    next_number: u64,
    /// Sequences that were ever seated.
    seated: u64,
    /// Shares of steps that were ever given.
    turns: u64,
    tally: Tally,
    /// How long those waited who were seated since it was asked last.
    waits_us: Vec<u64>,
}

impl Schedule {
    /// An idle pipeline whose stages hold nothing.
    pub fn new(limits: Limits, tuning: Tuning) -> Self {
        Self {
            limits,
            tuning,
            relief: Relief::None,
            round_trip: None,
            slots: vec![Slot::default(); limits.parallel_sequences as usize],
            queue: Queue::default(),
            prefixes: Prefixes::new(limits.parallel_sequences..limits.slots() as u32),
            under_way: VecDeque::new(),
            next_number: 1,
            seated: 0,
            turns: 0,
            tally: Tally::default(),
            waits_us: Vec::new(),
        }
    }

    /// Takes a request in, to be seated by a later `compose`. `now_us` is any monotonic clock.
    ///
    /// # Errors
    /// When it can never run, or the queue is full.
    pub fn admit(&mut self, mut request: Request, now_us: u64) -> Result<(), Refusal> {
        let context = self.limits.longest_sequence();
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
        let free = self.slots.len() - self.running();
        // Answers that were running elsewhere come all at once, and are no more than that pipeline had seats.
        let spare = if request.resumed { self.slots.len() } else { 0 };
        if self.queue.len() >= free + MAX_WAITING + spare {
            let CellUse { reserved, cells, .. } = self.cells();
            return Err(Refusal::Full {
                running: self.running(),
                slots: self.slots.len(),
                reserved,
                cells,
                waiting: self.queue.len(),
            });
        }
        // The prompt is shorter than the context, a u32.
        request.max_tokens = request.max_tokens.min(context - prompt as u32);
        let needs = prompt as u32 + request.max_tokens;
        self.queue.push(request, needs, now_us);
        Ok(())
    }

    /// The one who asked has gone: no event follows for this request. Unknown ids are fine: it had ended already.
    pub fn cancel(&mut self, id: RequestId) {
        self.queue.cancel(id);
        let holds = |slot: &&mut Slot| slot.sequence().is_some_and(|sequence| sequence.request.id == id);
        if let Some(slot) = self.slots.iter_mut().find(holds) {
            slot.leave();
        }
    }

    /// Turns away requests that have waited too long.
    pub fn expire(&mut self, now_us: u64) -> Vec<Event> {
        self.queue.expire(now_us)
    }

    /// When `expire` will have something to do, if nobody is seated before.
    pub fn next_deadline_us(&self) -> Option<u64> {
        self.queue.next_deadline_us()
    }

    /// What to give up for memory, from the next `compose` on.
    pub fn relieve(&mut self, relief: Relief) {
        self.relief = relief;
    }

    /// What the stages were measured to take for a step, from the next `compose` on. There are no drafts before it is known.
    pub fn measured(&mut self, round_trip: RoundTrip) {
        self.round_trip = Some(round_trip);
    }

    /// The oldest step was executed by all stages; `tokens` are what the tail sampled, in row order.
    ///
    /// # Errors
    /// When that is no answer to it. Then the state is unusable but for [`Schedule::abandon`].
    pub fn complete(&mut self, number: u64, tokens: &[Sampled]) -> Result<Vec<Event>, Mismatch> {
        let Some(flight) = self.under_way.pop_front() else {
            return Err(Mismatch::new(number, "a result", "none: no step is under way"));
        };
        if flight.number != number {
            let got = format!("a result of step {number}");
            return Err(Mismatch::new(flight.number, &got, "its own"));
        }
        let wanted = flight.samples();
        if wanted != tokens.len() {
            let (got, expected) = (format!("{} tokens", tokens.len()), format!("{wanted}"));
            return Err(Mismatch::new(number, &got, &expected));
        }
        let mut tokens = tokens.iter();
        let mut events = Vec::new();
        for part in flight.parts {
            let sampled = match part.samples {
                None => None,
                Some(position) => {
                    let answer = tokens
                        .next()
                        .filter(|token| token.sequence as usize == part.slot && token.position == position);
                    let place = || format!("a token for sequence {} at {position}", part.slot);
                    Some(answer.ok_or_else(|| Mismatch::new(number, "a token for elsewhere", &place()))?)
                }
            };
            self.advance(&part, sampled.map(|token| token.token), &mut events);
        }
        Ok(events)
    }

    /// The oldest step failed: it and all later ones are rolled back on every stage, and their numbers are used again.
    ///
    /// A sequence that failed alone is told so, and kept prefixes that hold what it began with are given up where computing
    /// failed; several that failed together run alone until it is known whose fault it was.
    pub fn fail(&mut self, number: u64, fault: &StepFault) -> Failure {
        let void: Vec<Flight> = self.under_way.drain(..).collect();
        let Some(failed) = void.first().filter(|flight| flight.number == number) else {
            return Failure::Broken;
        };
        self.next_number = number;
        // A draft may be what no text says, and nobody asked for it.
        let alone = matches!(&failed.parts[..], [part] if !part.draft);
        let shared = match &failed.parts[..] {
            [part] if alone => self.sequence_of(part).and_then(|sequence| sequence.shared()),
            _ => None,
        };
        for flight in &void {
            self.undo(flight);
        }
        if !fault.reason.is_of_the_step() || failed.parts.is_empty() {
            return Failure::Broken;
        }
        let mut events = Vec::new();
        for part in &failed.parts {
            // A part that counts for nothing blames nobody, nor does one whose request was cancelled meanwhile.
            let Some(sequence) = self.sequence_of(part).filter(|_| !part.idle) else {
                continue;
            };
            if alone {
                events.push(Event::Failed {
                    id: part.id,
                    fault: fault.clone(),
                });
                self.slots[part.slot].discard();
            } else {
                (sequence.suspect, sequence.suspect_from) = (true, part.from.min(sequence.composed));
                if self.tuning.restarts {
                    self.slots[part.slot].unsettle();
                }
            }
        }
        // It may be what another one computed that cannot be gone on from.
        let blamed = !events.is_empty() && fault.reason == Reason::Compute;
        if let Some(shared) = shared.filter(|_| blamed) {
            while let Some(slot) = self.prefixes.holding(&shared) {
                self.prefixes.unsettle(slot);
            }
        }
        Failure::Isolated(events)
    }

    /// Forgets everything, kept prefixes too: the stages were reset, or will be. The ids are those that still expect an event.
    pub fn abandon(&mut self) -> Vec<RequestId> {
        let running = self.slots.iter().filter_map(Slot::sequence);
        let mut ids: Vec<RequestId> = running.map(|sequence| sequence.request.id).collect();
        ids.extend(self.queue.ids());
        *self = Self::new(self.limits, self.tuning);
        ids
    }

    /// Sequences that hold a slot.
    pub fn running(&self) -> usize {
        self.slots.iter().filter_map(Slot::sequence).count()
    }

    /// Requests before the slots.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Steps composed and not answered.
    pub fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    /// Prefixes that are kept.
    pub fn kept_prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// How the caches are used.
    pub fn cells(&self) -> CellUse {
        let running = || self.slots.iter().filter_map(Slot::sequence);
        let left = self.slots.iter().map(Slot::left_cells).sum::<u64>();
        let kept = self.prefixes.cells() + left;
        CellUse {
            used: running().map(|sequence| u64::from(sequence.filled())).sum::<u64>() + kept,
            reserved: running().map(|sequence| u64::from(sequence.reserved)).sum(),
            kept,
            cells: self.limits.cells(),
        }
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// How long those waited, in microseconds, who were seated since this was asked last.
    pub fn take_waits_us(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waits_us)
    }

    /// Nothing runs, waits or is left to forget; prefixes may be kept.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.under_way.is_empty()
            && self.queue.len() == 0
            && self.slots.iter().all(|slot| slot.is_free() && !slot.stale)
            && !self.prefixes.has_stale()
    }

    fn sequence_of(&mut self, part: &Part) -> Option<&mut Sequence> {
        let sequence = self.slots[part.slot].sequence_mut()?;
        (sequence.request.id == part.id).then_some(sequence)
    }

    /// Records what was sampled after a part's rows.
    fn advance(&mut self, part: &Part, sampled: Option<i32>, events: &mut Vec<Event>) {
        if part.idle {
            return;
        }
        let Some(sequence) = self.sequence_of(part) else {
            return;
        };
        sequence.suspect &= part.from < sequence.suspect_from;
        let Some(token) = sampled else { return };
        let mut accepted = None;
        let finish = if sequence.request.stop_tokens.contains(&token) {
            Some(Finish::Stop)
        } else {
            events.push(Event::Token {
                id: part.id,
                token,
                position: sequence.known(),
            });
            accepted = sequence.emit(token);
            (sequence.emitted() == sequence.request.max_tokens).then_some(Finish::Length)
        };
        if let Some(finish) = finish {
            events.push(Event::Finished {
                id: part.id,
                finish,
                prompt_tokens: sequence.prompt_tokens(),
                completion_tokens: sequence.emitted(),
                cached_tokens: sequence.cached,
            });
            self.slots[part.slot].leave();
        }
        match accepted {
            Some(true) => self.tally.accepted_drafts += 1,
            Some(false) => self.idle_drafts(part.id),
            None => {}
        }
    }

    /// The steps under way that took another token for granted count for nothing.
    fn idle_drafts(&mut self, id: RequestId) {
        let parts = self.under_way.iter_mut().flat_map(|flight| &mut flight.parts);
        for part in parts.filter(|part| part.id == id) {
            part.idle = true;
        }
    }

    /// Takes back what a step did.
    fn undo(&mut self, flight: &Flight) {
        for slot in flight.cut_back() {
            if let Some(sequence) = self.slots.get_mut(slot as usize).and_then(Slot::sequence_mut) {
                sequence.astray = true;
            }
        }
        for slot in flight.touched() {
            match self.slots.get_mut(slot as usize) {
                Some(slot) => slot.unsettle(),
                None => self.prefixes.unsettle(slot),
            }
        }
        for part in &flight.parts {
            self.slots[part.slot].undo_rows(part.id, part.from);
        }
    }
}

#[cfg(test)]
mod tests;
