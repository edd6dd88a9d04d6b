//! The next step: what is forgotten, kept and shared by its operations, and then its rows.

use super::event::Relief;
use super::flight::{Flight, Part};
use super::prefixes::{MIN_PREFIX, shared_positions};
use super::queue::Waiting;
use super::request::MAX_DEPTH;
use super::sequence::{Remains, Seat, Sequence, Slot};
use super::{Schedule, draft, mix};
use crate::step::{KvOperation, PrefixCopy, Removal, Row, Step};

/// Where the first positions of a sequence can come from.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// A slot, and the positions to share of it: none, or [`MIN_PREFIX`] and more.
    now: Option<(u32, u32)>,
    /// More positions can be shared later: of a sequence whose prompt is being computed, and is as far already.
    more_later: bool,
}

impl Schedule {
    /// The next step, or `None` when nothing is due or enough steps are under way. `now_us` is the clock of `admit`.
    pub fn compose(&mut self, now_us: u64) -> Option<Step> {
        if self.is_full() {
            self.seat_where_nothing_is_to_do(now_us);
            return self.draft();
        }
        let mut operations = Vec::new();
        self.forget_stale(&mut operations);
        self.forget_astray(&mut operations);
        self.settle_those_that_left(&mut operations);
        self.seat(now_us, &mut operations);
        self.start_those_seated(&mut operations);
        let shares = mix::shares(&self.slots, &self.limits, &self.tuning, self.round_trip);
        let mut rows = Vec::new();
        let mut parts = Vec::with_capacity(shares.len());
        for share in &shares {
            self.turns += 1;
            parts.extend(mix::rows(&mut self.slots, share, self.turns, &mut rows));
        }
        if operations.is_empty() && parts.is_empty() {
            return self.draft();
        }
        Some(self.depart(operations, rows, parts))
    }

    fn depart(&mut self, operations: Vec<KvOperation>, rows: Vec<Row>, parts: Vec<Part>) -> Step {
        let number = self.next_number;
        self.next_number += 1;
        self.under_way.push_back(Flight {
            number,
            operations: operations.clone(),
            parts,
        });
        Step {
            number,
            operations,
            rows,
        }
    }

    /// The step of a draft token, where nothing is due and the steps under way leave stages idle.
    fn draft(&mut self) -> Option<Step> {
        let trip = self
            .round_trip
            .filter(|_| self.tuning.speculates && !self.tuning.restarts)?;
        // Steps for prompts take longer than what was measured, and a right token must find room behind a wrong one.
        let decodes = |sequence: &Sequence| sequence.emitted() > 0 && sequence.due() == 0 && !sequence.suspect;
        let all_decode = self.slots.iter().filter_map(Slot::sequence).all(decodes);
        if !all_decode || self.under_way.len() + 1 >= MAX_DEPTH {
            return None;
        }
        let needed = trip.needed(self.under_way.len());
        let slots = (0..).zip(&self.slots);
        let drafts = slots.filter_map(|(slot, held)| {
            let sequence = held.sequence()?;
            let draft = draft::next(sequence, needed)?;
            Some(((sequence.drafts.len(), sequence.served), slot, draft))
        });
        // The shorter a chain of drafts is, the likelier it is accepted.
        let (_, slot, token) = drafts.min_by_key(|(order, ..)| *order)?;
        self.turns += 1;
        self.tally.drafts += 1;
        let mut rows = Vec::new();
        let part = mix::draft_row(&mut self.slots, slot, token, self.turns, &mut rows)?;
        Some(self.depart(Vec::new(), rows, vec![part]))
    }

    /// A suspect's step runs alone: what came after it would be void if it failed.
    fn is_full(&self) -> bool {
        let running = || self.slots.iter().filter_map(Slot::sequence);
        let depth = if running().any(|sequence| sequence.suspect) {
            1
        } else if self.tuning.depth > 1 && !running().any(Sequence::decodes) {
            (self.tuning.depth + 1).min(MAX_DEPTH)
        } else {
            self.tuning.depth
        };
        let of_use = self.under_way.iter().filter(|flight| !flight.is_idle()).count();
        of_use >= depth || self.under_way.len() >= MAX_DEPTH
    }

    fn forget_stale(&mut self, operations: &mut Vec<KvOperation>) {
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.stale) {
            slot.stale = false;
            operations.push(KvOperation::forget(index as u32));
        }
        operations.extend(self.prefixes.take_stale().into_iter().map(KvOperation::forget));
    }

    /// Sequences whose drafts were rejected are cut back to what is known.
    fn forget_astray(&mut self, operations: &mut Vec<KvOperation>) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(sequence) = slot.sequence_mut()
                && std::mem::take(&mut sequence.astray)
            {
                operations.push(KvOperation::Remove(Removal {
                    sequence: index as u32,
                    from: sequence.composed,
                    end: None,
                }));
            }
        }
    }

    /// What ended sequences held is kept as a prefix, or forgotten.
    fn settle_those_that_left(&mut self, operations: &mut Vec<KvOperation>) {
        if self.relief >= Relief::ForgetPrefixes {
            while let Some(slot) = self.prefixes.least_used(None) {
                self.evict(slot, operations);
            }
        }
        for index in 0..self.slots.len() {
            if !matches!(self.slots[index].seat, Seat::Left(_)) {
                continue;
            }
            if let Seat::Left(remains) = std::mem::take(&mut self.slots[index].seat) {
                self.keep(index as u32, remains, operations);
                operations.push(KvOperation::forget(index as u32));
            }
        }
    }

    /// Keeps positions of a slot whose sequence ended, where that is worth a slot for prefixes.
    fn keep(&mut self, from: u32, remains: Remains, operations: &mut Vec<KvOperation>) {
        let end = remains.tokens.len() as u32;
        if self.relief >= Relief::ForgetPrefixes || self.limits.prefix_sequences == 0 || end < MIN_PREFIX {
            return;
        }
        if let Some(slot) = self.prefixes.holding(&remains) {
            self.prefixes.touch(slot);
            return;
        }
        for slot in self.prefixes.held_by(&remains) {
            self.prefixes.forget(slot);
            operations.push(KvOperation::forget(slot));
        }
        if self.prefixes.vacant().is_none()
            && let Some(slot) = self.prefixes.least_used(None)
        {
            self.evict(slot, operations);
        }
        if let Some(to) = self.prefixes.vacant() {
            self.prefixes.keep(to, remains);
            operations.push(KvOperation::Copy(PrefixCopy { from, to, end }));
        }
    }

    fn evict(&mut self, slot: u32, operations: &mut Vec<KvOperation>) {
        self.prefixes.forget(slot);
        self.tally.evictions += 1;
        operations.push(KvOperation::forget(slot));
    }

    /// Seats those who wait, as far as slots and cells go.
    fn seat(&mut self, now_us: u64, operations: &mut Vec<KvOperation>) {
        while self.relief < Relief::SeatNobody
            && let Some(index) = self.slots.iter().position(Slot::is_free)
        {
            let cells = self.cells();
            let Some(waiting) = self.queue.next(cells.cells.saturating_sub(cells.reserved)) else {
                return;
            };
            let kept = self
                .prefixes
                .longest(&waiting.request.prefix_scope, &waiting.request.prompt);
            let spared = kept
                .filter(|(_, positions)| *positions >= MIN_PREFIX)
                .map(|(slot, _)| slot);
            self.take_seat(index, waiting, now_us);
            self.make_room(spared, operations);
            if self.is_over_committed() {
                // The prefix that it begins with is the last to go, and its cells become the sequence's own.
                self.start(index, operations);
                self.make_room(None, operations);
            }
        }
    }

    /// While no step can be composed: whoever is first and finds slot and cells need not wait for the next step to be seated.
    fn seat_where_nothing_is_to_do(&mut self, now_us: u64) {
        while self.relief < Relief::SeatNobody
            && let Some(index) = self.slots.iter().position(|slot| slot.is_free() && !slot.stale)
            && let Some(needs) = self.queue.first_needs()
        {
            let cells = self.cells();
            if cells.reserved + cells.kept + u64::from(needs) > cells.cells {
                return;
            }
            let Some(waiting) = self.queue.next(u64::from(needs)) else {
                return;
            };
            self.take_seat(index, waiting, now_us);
        }
    }

    fn take_seat(&mut self, index: usize, waiting: Waiting, now_us: u64) {
        self.waits_us.push(now_us.saturating_sub(waiting.since_us));
        self.seated += 1;
        let sequence = Sequence::new(waiting.request, self.seated, waiting.needs);
        self.slots[index].seat = Seat::Taken(Box::new(sequence));
    }

    fn is_over_committed(&self) -> bool {
        let cells = self.cells();
        cells.reserved + cells.kept > cells.cells
    }

    /// Kept prefixes make way for what is set aside.
    fn make_room(&mut self, spared: Option<u32>, operations: &mut Vec<KvOperation>) {
        while self.is_over_committed()
            && let Some(slot) = self.prefixes.least_used(spared)
        {
            self.evict(slot, operations);
        }
    }

    /// In the order of their seats, so that of two with the same prompt the first computes it, and the other waits.
    fn start_those_seated(&mut self, operations: &mut Vec<KvOperation>) {
        let seated = self.slots.iter().enumerate();
        let mut waiting: Vec<(u64, usize)> = seated
            .filter_map(|(index, slot)| Some((index, slot.sequence()?)))
            .filter(|(_, sequence)| !sequence.started)
            .map(|(index, sequence)| (sequence.order, index))
            .collect();
        waiting.sort_unstable();
        for (_, index) in waiting {
            self.start(index, operations);
        }
    }

    /// Settles where the first positions of a sequence come from, unless it is better to wait for one that computes them.
    fn start(&mut self, index: usize, operations: &mut Vec<KvOperation>) {
        let source = self.source(index);
        let Some(sequence) = self.slots[index].sequence_mut() else {
            return;
        };
        // Who computes the rest gets the rows that this one leaves: both are through sooner.
        if source.more_later && !sequence.suspect {
            return;
        }
        sequence.start(source.now.map_or(0, |(_, positions)| positions));
        if let Some((from, end)) = source.now {
            let to = index as u32;
            operations.push(KvOperation::Copy(PrefixCopy { from, to, end }));
            self.prefixes.touch(from);
            self.tally.prefix_hits += 1;
            self.tally.reused_tokens += u64::from(end);
        }
    }

    /// What a sequence that has not started could begin with. Its last position is always left to compute: the token after it is
    /// wanted.
    fn source(&self, index: usize) -> Source {
        let Some(sequence) = self.slots[index].sequence() else {
            return Source::default();
        };
        if self.limits.prefix_sequences == 0 {
            return Source::default();
        }
        let (scope, tokens, most) = (&sequence.request.prefix_scope, sequence.tokens(), sequence.known() - 1);
        let of_scope = |running: &Sequence| running.started && running.request.prefix_scope == *scope;
        let others: Vec<(u32, &Sequence, u32)> = (0..)
            .zip(&self.slots)
            .filter_map(|(slot, held)| Some((slot, held.sequence().filter(|running| of_scope(running))?)))
            .map(|(slot, running)| (slot, running, shared_positions(running.tokens(), tokens).min(most)))
            .collect();
        let kept = self.prefixes.longest(scope, tokens);
        let kept = kept.map(|(slot, positions)| (slot, positions.min(most)));
        let held = others
            .iter()
            .map(|(slot, running, alike)| (*slot, running.composed.min(*alike)));
        let longest = held.chain(kept).max_by_key(|(_, positions)| *positions);
        let now = longest.filter(|(_, positions)| *positions >= MIN_PREFIX);
        let shared = now.map_or(0, |(_, positions)| positions);
        let more_later = others.iter().any(|(_, running, alike)| {
            let later = running.prompt_tokens().min(*alike);
            !running.decodes() && running.composed >= shared && later > shared && later >= MIN_PREFIX
        });
        Source { now, more_later }
    }
}
