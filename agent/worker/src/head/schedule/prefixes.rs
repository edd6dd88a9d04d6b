//! Prefixes that are kept for reuse: which tokens each slot after those of the sequences holds, alike on all stages.

use std::collections::BTreeSet;

use super::sequence::Remains;

/// Positions that are worth keeping and sharing: fewer cost less to compute than a step costs.
pub const MIN_PREFIX: u32 = 32;

#[derive(Clone, Debug)]
struct Entry {
    slot: u32,
    scope: Vec<u8>,
    tokens: Vec<i32>,
    /// When it was last of use, by [`Prefixes::clock`].
    used: u64,
}

/// The kept prefixes.
#[derive(Clone, Debug)]
pub(super) struct Prefixes {
    entries: Vec<Entry>,
    free: BTreeSet<u32>,
    /// Slots of which the stages may hold something, and not the same.
    stale: BTreeSet<u32>,
    clock: u64,
}

impl Prefixes {
    /// Nothing is kept; `slots` is where it can be.
    pub(super) fn new(slots: std::ops::Range<u32>) -> Self {
        Self {
            entries: Vec::new(),
            free: slots.collect(),
            stale: BTreeSet::new(),
            clock: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Cells that the kept prefixes fill, each counted by itself.
    pub(super) fn cells(&self) -> u64 {
        self.entries.iter().map(|entry| entry.tokens.len() as u64).sum()
    }

    /// The slot that shares most with these tokens, and how many positions that is.
    pub(super) fn longest(&self, scope: &[u8], tokens: &[i32]) -> Option<(u32, u32)> {
        let of_scope = self.entries.iter().filter(|entry| entry.scope == scope);
        let shared = of_scope.map(|entry| (entry.slot, shared_positions(&entry.tokens, tokens)));
        shared.max_by_key(|(_, positions)| *positions)
    }

    /// A prefix was of use.
    pub(super) fn touch(&mut self, slot: u32) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.slot == slot) {
            entry.used = clock;
        }
    }

    /// The prefix that was of no use for the longest time, another than `spared`.
    pub(super) fn least_used(&self, spared: Option<u32>) -> Option<u32> {
        let others = self.entries.iter().filter(|entry| Some(entry.slot) != spared);
        others.min_by_key(|entry| entry.used).map(|entry| entry.slot)
    }

    /// The slot of a prefix that these tokens are the beginning of.
    pub(super) fn holding(&self, remains: &Remains) -> Option<u32> {
        let of_scope = self.entries.iter().filter(|entry| entry.scope == remains.scope);
        let mut holding = of_scope.filter(|entry| entry.tokens.starts_with(&remains.tokens));
        holding.next().map(|entry| entry.slot)
    }

    /// The slots of prefixes that these tokens begin with.
    pub(super) fn held_by(&self, remains: &Remains) -> Vec<u32> {
        let of_scope = self.entries.iter().filter(|entry| entry.scope == remains.scope);
        let held = of_scope.filter(|entry| remains.tokens.starts_with(&entry.tokens));
        held.map(|entry| entry.slot).collect()
    }

    /// A slot that holds nothing.
    pub(super) fn vacant(&self) -> Option<u32> {
        self.free.first().copied()
    }

    /// From the step that is being composed on, a vacant slot holds these positions.
    pub(super) fn keep(&mut self, slot: u32, remains: Remains) {
        self.free.remove(&slot);
        self.clock += 1;
        self.entries.push(Entry {
            slot,
            scope: remains.scope,
            tokens: remains.tokens,
            used: self.clock,
        });
    }

    /// From the step that is being composed on, a slot holds nothing.
    pub(super) fn forget(&mut self, slot: u32) {
        self.entries.retain(|entry| entry.slot != slot);
        self.free.insert(slot);
    }

    /// A step that forgot or filled this slot is void: stages may hold what they held before it, or after it.
    pub(super) fn unsettle(&mut self, slot: u32) {
        self.entries.retain(|entry| entry.slot != slot);
        self.free.remove(&slot);
        self.stale.insert(slot);
    }

    /// Slots that must be forgotten first; from the step that is being composed on they are vacant.
    pub(super) fn take_stale(&mut self) -> Vec<u32> {
        let stale = std::mem::take(&mut self.stale);
        self.free.extend(&stale);
        stale.into_iter().collect()
    }

    #[cfg(test)]
    pub(super) fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }
}

/// Positions that two sequences have alike from their beginning on.
pub(super) fn shared_positions(one: &[i32], other: &[i32]) -> u32 {
    let alike = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    // Sequences are no longer than the context, a u32.
    alike as u32
}
