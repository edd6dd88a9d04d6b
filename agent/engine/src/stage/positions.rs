//! How long each sequence is, and which rows follow: pure bookkeeping, ahead of the cache.

use super::Row;
use crate::error::EngineError;

#[cfg(test)]
mod tests;

/// Lengths of all sequences of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Positions {
    lengths: Vec<u32>,
    context_length: u32,
}

impl Positions {
    pub(super) fn new(sequences: u32, context_length: u32) -> Self {
        Self {
            lengths: vec![0; sequences as usize],
            context_length,
        }
    }

    /// Positions that each sequence may have.
    pub(super) fn context_length(&self) -> u32 {
        self.context_length
    }

    /// Number of sequences.
    pub(super) fn sequences(&self) -> usize {
        self.lengths.len()
    }

    /// Positions held by `sequence`; 0 for an unknown one.
    pub(super) fn length(&self, sequence: u32) -> u32 {
        self.lengths.get(sequence as usize).copied().unwrap_or(0)
    }

    /// Positions held by all sequences together.
    pub(super) fn total(&self) -> u64 {
        self.lengths.iter().map(|length| u64::from(*length)).sum()
    }

    /// Positions that all sequences together may still get.
    pub(super) fn room(&self) -> u32 {
        let all = u64::from(self.context_length) * self.lengths.len() as u64;
        u32::try_from(all.saturating_sub(self.total())).unwrap_or(u32::MAX)
    }

    /// Checks that every row is the next one of its sequence; gives the sequences of the step with
    /// the length each has now, to return to if the step fails.
    pub(super) fn admit(&self, rows: &[Row]) -> Result<Vec<(u32, u32)>, EngineError> {
        let mut next: Vec<(u32, u32)> = Vec::new();
        let limit = self.lengths.len() as u32;
        for row in rows {
            let sequence = row.sequence;
            if sequence >= limit {
                return Err(EngineError::UnknownSequence { sequence, limit });
            }
            let index = match next.iter().position(|(known, _)| *known == sequence) {
                Some(index) => index,
                None => {
                    next.push((sequence, self.length(sequence)));
                    next.len() - 1
                }
            };
            let expected = next[index].1;
            if row.position != expected {
                let position = row.position;
                return Err(EngineError::DoesNotFollow {
                    sequence,
                    position,
                    expected,
                });
            }
            if expected >= self.context_length {
                let context_length = self.context_length;
                return Err(EngineError::ContextFull {
                    sequence,
                    context_length,
                });
            }
            next[index].1 += 1;
        }
        Ok(next
            .into_iter()
            .map(|(sequence, _)| (sequence, self.length(sequence)))
            .collect())
    }

    /// Notes rows that [`Positions::admit`] let pass and the cache now holds.
    pub(super) fn commit(&mut self, rows: &[Row]) {
        for row in rows {
            if let Some(length) = self.lengths.get_mut(row.sequence as usize) {
                *length = row.position + 1;
            }
        }
    }

    /// Whether removing `from..end` removes anything; an error where it would leave a hole.
    pub(super) fn check_removal(&self, sequence: u32, from: u32, end: u32) -> Result<bool, EngineError> {
        let limit = self.lengths.len() as u32;
        if sequence >= limit {
            return Err(EngineError::UnknownSequence { sequence, limit });
        }
        let length = self.length(sequence);
        if from >= length || from >= end {
            return Ok(false);
        }
        if end < length {
            return Err(EngineError::NotASuffix {
                sequence,
                from,
                end,
                length,
            });
        }
        Ok(true)
    }

    /// Checks that `to` is empty and `from` has `end` positions.
    pub(super) fn check_prefix(&self, from: u32, to: u32, end: u32) -> Result<(), EngineError> {
        let limit = self.lengths.len() as u32;
        if let Some(sequence) = [from, to].into_iter().find(|sequence| *sequence >= limit) {
            return Err(EngineError::UnknownSequence { sequence, limit });
        }
        let refused = |cause: String| Err(EngineError::PrefixRefused { from, to, end, cause });
        if self.length(to) > 0 {
            return refused(format!("it holds {} already", self.length(to)));
        }
        if end > self.length(from) || end == 0 {
            return refused(format!("there are {}", self.length(from)));
        }
        Ok(())
    }

    /// Notes that the empty sequence `to` has `end` positions now.
    pub(super) fn share(&mut self, to: u32, end: u32) {
        if let Some(held) = self.lengths.get_mut(to as usize) {
            *held = end;
        }
    }

    /// Notes that `sequence` ends at `length` now.
    pub(super) fn truncate(&mut self, sequence: u32, length: u32) {
        if let Some(held) = self.lengths.get_mut(sequence as usize) {
            *held = length.min(*held);
        }
    }
}
