//! A sequence slot, and how far the sequence in it has come.

use super::request::Request;

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) request: Request,
    /// Positions that the KV caches hold.
    pub(super) computed: u32,
    /// Tokens emitted.
    pub(super) emitted: u32,
    /// The last token emitted: not yet computed.
    pub(super) last: i32,
    /// Took part in a failed step with others: runs alone until one step of its own succeeds or fails.
    pub(super) suspect: bool,
}

impl Sequence {
    /// Nothing of the prompt is computed yet.
    pub(super) fn new(request: Request) -> Self {
        Self {
            request,
            computed: 0,
            emitted: 0,
            last: 0,
            suspect: false,
        }
    }

    pub(super) fn prompt_tokens(&self) -> u32 {
        // The prompt is shorter than the context, a u32.
        self.request.prompt.len() as u32
    }

    /// Positions whose token is known.
    pub(super) fn known(&self) -> u32 {
        self.prompt_tokens() + self.emitted
    }

    pub(super) fn due(&self) -> u32 {
        self.known() - self.computed
    }

    pub(super) fn decodes(&self) -> bool {
        self.computed >= self.prompt_tokens()
    }

    pub(super) fn token_at(&self, position: u32) -> i32 {
        self.request.prompt.get(position as usize).copied().unwrap_or(self.last)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) sequence: Option<Sequence>,
    /// The KV caches hold rows of a sequence that ended.
    pub(super) stale: bool,
}
