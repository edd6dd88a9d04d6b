//! What the last steps added to sequences, for undoing them.

use std::collections::{BTreeMap, VecDeque};

use crate::step::{KvOperation, Step};

/// Steps that can be undone. The head keeps far fewer under way, and rolls back none that was answered before they were sent.
pub const MAX_STEPS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Journal {
    steps: VecDeque<(u64, BTreeMap<u32, u32>)>,
}

impl Journal {
    pub(super) fn record(&mut self, step: &Step) {
        if self.steps.len() == MAX_STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back((step.number, first_positions(step)));
    }

    /// Takes out the steps from this number on: per sequence, the first position they added.
    /// `None`, and nothing is taken, when the step is no longer known.
    pub(super) fn take_from(&mut self, number: u64) -> Option<BTreeMap<u32, u32>> {
        let start = self.steps.iter().position(|(recorded, _)| *recorded == number)?;
        let mut undone = BTreeMap::new();
        for (_, written) in self.steps.drain(start..) {
            for (sequence, from) in written {
                let first = undone.entry(sequence).or_insert(from);
                *first = from.min(*first);
            }
        }
        Some(undone)
    }
}

/// Per sequence, the first position that a step adds: by its rows, or by sharing a prefix with a sequence that was empty.
pub(super) fn first_positions(step: &Step) -> BTreeMap<u32, u32> {
    let copied = step.operations.iter().filter_map(|operation| match operation {
        KvOperation::Copy(copy) => Some((copy.to, 0)),
        KvOperation::Remove(_) => None,
    });
    let written = step.rows.iter().map(|row| (row.sequence, row.position));
    let mut first = BTreeMap::new();
    for (sequence, position) in copied.chain(written) {
        let from = first.entry(sequence).or_insert(position);
        *from = position.min(*from);
    }
    first
}
