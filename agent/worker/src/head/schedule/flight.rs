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
}

/// A step that was composed and not answered.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) operations: Vec<KvOperation>,
    pub(super) parts: Vec<Part>,
}

impl Flight {
    /// Tokens that the tail samples.
    pub(super) fn samples(&self) -> usize {
        self.parts.iter().filter(|part| part.samples.is_some()).count()
    }

    /// Slots that the step forgets or fills by its operations.
    pub(super) fn touched(&self) -> impl Iterator<Item = u32> {
        self.operations.iter().map(|operation| match operation {
            KvOperation::Remove(removal) => removal.sequence,
            KvOperation::Copy(copy) => copy.to,
        })
    }
}
