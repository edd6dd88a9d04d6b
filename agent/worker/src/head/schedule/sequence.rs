//! A sequence as the stages will hold it once every step under way is executed, and the slot it sits in.

use super::draft::Drafter;
use super::request::Request;

/// A running request.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) request: Request,
    /// Counts up with every seat: who came first.
    pub(super) order: u64,
    /// Of the prompt, then those emitted.
    tokens: Vec<i32>,
    prompt_tokens: u32,
    /// Positions that the caches hold once all steps under way are executed.
    pub(super) composed: u32,
    /// Of these, taken from another sequence.
    pub(super) cached: u32,
    /// It is settled where its first positions come from. Before, the caches hold nothing of it.
    pub(super) started: bool,
    /// Cells set aside for it.
    pub(super) reserved: u32,
    /// Its last turn to have rows in a step; turns are counted over all sequences.
    pub(super) served: u64,
    /// Took part in a failed step with others: runs alone until a step of its own from there on succeeds, or one fails.
    pub(super) suspect: bool,
    /// Its first position in that step.
    pub(super) suspect_from: u32,
    /// What may come next.
    pub(super) drafter: Drafter,
    /// Draft tokens of steps under way, which take them to follow what is known; their positions come behind those composed.
    pub(super) drafts: Vec<i32>,
    /// The caches hold, or may hold, positions behind those composed that count for nothing: forgotten before the next rows.
    pub(super) astray: bool,
}

impl Sequence {
    /// Nothing of the prompt is computed yet.
    pub(super) fn new(mut request: Request, order: u64, reserved: u32) -> Self {
        let tokens = std::mem::take(&mut request.prompt);
        Self {
            request,
            order,
            // The prompt is shorter than the context, a u32.
            prompt_tokens: tokens.len() as u32,
            tokens,
            composed: 0,
            cached: 0,
            started: false,
            reserved,
            served: 0,
            suspect: false,
            suspect_from: 0,
            drafter: Drafter::new(),
            drafts: Vec::new(),
            astray: false,
        }
    }

    pub(super) fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    pub(super) fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    pub(super) fn emitted(&self) -> u32 {
        self.known() - self.prompt_tokens
    }

    /// Positions whose token is known.
    pub(super) fn known(&self) -> u32 {
        // Prompt and answer fit the context, a u32.
        self.tokens.len() as u32
    }

    /// Positions that the caches hold once all steps under way are executed, drafts too.
    pub(super) fn filled(&self) -> u32 {
        self.composed + self.drafts.len() as u32
    }

    /// Positions known and in no step yet.
    pub(super) fn due(&self) -> u32 {
        self.known() - self.composed
    }

    /// The whole prompt is in some step.
    pub(super) fn decodes(&self) -> bool {
        self.composed >= self.prompt_tokens
    }

    /// The next token was sampled. Whether a draft of it was accepted, where there was one: if not, the steps of drafts count for
    /// nothing.
    pub(super) fn emit(&mut self, token: i32) -> Option<bool> {
        self.tokens.push(token);
        self.drafter.learn(&self.tokens);
        let accepted = *self.drafts.first()? == token;
        if accepted {
            self.drafts.remove(0);
            self.composed += 1;
        } else {
            self.reject_drafts();
        }
        Some(accepted)
    }

    /// Other tokens follow than the drafts, or the steps of these are void.
    pub(super) fn reject_drafts(&mut self) {
        self.astray |= !self.drafts.is_empty();
        self.drafts.clear();
    }

    /// Begins with positions of another sequence, or with none.
    pub(super) fn start(&mut self, cached: u32) {
        (self.started, self.cached, self.composed) = (true, cached, cached);
    }

    /// The caches hold nothing of it any more.
    pub(super) fn restart(&mut self) {
        (self.started, self.cached, self.composed) = (false, 0, 0);
        self.drafts.clear();
        self.astray = false;
    }

    /// The steps that computed positions from this one on are void.
    pub(super) fn undo(&mut self, from: u32) {
        self.reject_drafts();
        self.composed = self.composed.min(from);
        if self.composed == 0 {
            self.restart();
        }
    }

    /// The positions that it took from another sequence.
    pub(super) fn shared(&self) -> Option<Remains> {
        let tokens = self
            .tokens
            .get(..self.cached as usize)
            .filter(|tokens| !tokens.is_empty())?;
        let (scope, tokens) = (self.request.prefix_scope.clone(), tokens.to_vec());
        Some(Remains { scope, tokens })
    }

    /// The tokens whose positions are in the caches.
    pub(super) fn into_held(mut self) -> Vec<i32> {
        self.tokens.truncate(self.composed as usize);
        self.tokens
    }
}

/// What a sequence left behind, to be kept or forgotten by the next step.
#[derive(Clone, Debug)]
pub(super) struct Remains {
    pub(super) scope: Vec<u8>,
    /// Of the positions held.
    pub(super) tokens: Vec<i32>,
}

/// Who holds a slot's cells.
#[derive(Clone, Debug, Default)]
pub(super) enum Seat {
    /// Nobody.
    #[default]
    Free,
    /// A request.
    Taken(Box<Sequence>),
    /// One that ended.
    Left(Remains),
}

/// A sequence slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) seat: Seat,
    /// What the caches hold is of no use, and perhaps not the same on all stages: forgotten before anything else is done here.
    pub(super) stale: bool,
}

impl Slot {
    pub(super) fn sequence(&self) -> Option<&Sequence> {
        match &self.seat {
            Seat::Taken(sequence) => Some(sequence),
            Seat::Free | Seat::Left(_) => None,
        }
    }

    pub(super) fn sequence_mut(&mut self) -> Option<&mut Sequence> {
        match &mut self.seat {
            Seat::Taken(sequence) => Some(sequence),
            Seat::Free | Seat::Left(_) => None,
        }
    }

    /// Positions of a sequence that ended, until the next step settles what becomes of them.
    pub(super) fn left_cells(&self) -> u64 {
        match &self.seat {
            Seat::Left(remains) => remains.tokens.len() as u64,
            Seat::Free | Seat::Taken(_) => 0,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.seat, Seat::Free)
    }

    /// The sequence ended; what the caches hold of it may be kept.
    pub(super) fn leave(&mut self) {
        if let Seat::Taken(sequence) = std::mem::take(&mut self.seat)
            && sequence.started
        {
            let scope = sequence.request.prefix_scope.clone();
            let tokens = sequence.into_held();
            self.seat = Seat::Left(Remains { scope, tokens });
        }
    }

    /// The sequence ended; nobody knows what the caches hold of it.
    pub(super) fn discard(&mut self) {
        (self.seat, self.stale) = (Seat::Free, true);
    }

    /// A step that forgot or filled this slot is void.
    pub(super) fn unsettle(&mut self) {
        self.stale = true;
        match &mut self.seat {
            Seat::Taken(sequence) => sequence.restart(),
            Seat::Left(_) => self.seat = Seat::Free,
            Seat::Free => {}
        }
    }

    /// A step that computed positions of a request from this one on is void.
    pub(super) fn undo_rows(&mut self, id: u64, from: u32) {
        match &mut self.seat {
            Seat::Taken(sequence) if sequence.request.id == id => sequence.undo(from),
            Seat::Left(_) => self.discard(),
            Seat::Taken(_) | Seat::Free => {}
        }
    }
}
