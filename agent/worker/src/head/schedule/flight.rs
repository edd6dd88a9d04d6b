//! Steps under way: what each will have done, for when it is answered or void.

use super::request::RequestId;
use crate::step::KvOperation;

/// Rows of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) slot: usize,
    pub(super) id: RequestId,
    /// Its first position.
    pub(super) from: u32,
    /// Position that the sampled token takes, when its last row samples.
    pub(super) samples: Option<u32>,
    /// Its row is that of a draft token.
    pub(super) draft: bool,
    /// It counts for nothing: another token stands where it took one for granted.
    pub(super) idle: bool,
}

/// A step that was composed and not answered.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) operations: Vec<KvOperation>,
    pub(super) parts: Vec<Part>,
}

impl Flight {
    /// Nothing comes of it any more: it is rows that count for nothing.
    pub(super) fn is_idle(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.idle)
    }

    /// Tokens that the tail samples.
    pub(super) fn samples(&self) -> usize {
        self.parts.iter().filter(|part| part.samples.is_some()).count()
    }

    /// Slots that the step forgets or fills by its operations.
    pub(super) fn touched(&self) -> impl Iterator<Item = u32> {
        self.operations.iter().filter_map(|operation| match operation {
            KvOperation::Remove(removal) => (removal.from == 0).then_some(removal.sequence),
            KvOperation::Copy(copy) => Some(copy.to),
        })
    }

    /// Slots that the step cuts back by its operations.
    pub(super) fn cut_back(&self) -> impl Iterator<Item = u32> {
        self.operations.iter().filter_map(|operation| match operation {
            KvOperation::Remove(removal) => (removal.from > 0).then_some(removal.sequence),
            KvOperation::Copy(_) => None,
        })
    }
}
