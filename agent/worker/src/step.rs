//! One step as the head composes it and every stage executes it, apart from its encoding.

use bytes::Bytes;
use engine::sample::Sampling;
use proto::shard::v1 as wire;
use proto::shard::v1::kv_operation::Operation;

/// One row of a step: a token at its position in a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Sequence slot, below the placement's `parallel_sequences` and `prefix_sequences` together.
    pub sequence: u32,
    /// Position in the sequence; rows of one sequence follow each other without a gap.
    pub position: u32,
    /// The token at this position.
    pub token: i32,
    /// Set when the tail must sample the token that follows.
    pub sample: Option<Sampling>,
}

/// Forget positions `[from, end)` of a sequence; `end` `None` means all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Sequence slot.
    pub sequence: u32,
    /// First position to forget.
    pub from: u32,
    /// First position to keep again.
    pub end: Option<u32>,
}

/// Give the empty sequence `to` positions `[0, end)` of `from`, which keeps them: the cells are shared, no data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixCopy {
    /// Sequence slot that holds at least `end` positions.
    pub from: u32,
    /// Another slot, which holds nothing.
    pub to: u32,
    /// Positions to share, at least one.
    pub end: u32,
}

/// What a step does to the KV caches before its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvOperation {
    /// See [`Removal`].
    Remove(Removal),
    /// See [`PrefixCopy`].
    Copy(PrefixCopy),
}

/// Operations of one step for each slot of the KV caches, at most: when every sequence ends at once, is kept in the place of another
/// prefix and followed by a sequence that begins with a third one, six of them are needed.
pub const MAX_OPERATIONS_PER_SLOT: usize = 8;

/// What all stages do in one go: operations in order, then one micro-batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Counts up by one.
    pub number: u64,
    /// Done before the rows.
    pub operations: Vec<KvOperation>,
    /// May be empty: then the step only changes what is held.
    pub rows: Vec<Row>,
}

/// A token that the tail sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Sequence slot.
    pub sequence: u32,
    /// Position that the token takes.
    pub position: u32,
    /// Its id in the vocabulary.
    pub token: i32,
}

/// Why a step failed: one word that travels, and decides what the head does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its number or a position does not follow.
    OutOfOrder,
    /// Rows, sequences or activations are not what the placement allows.
    WrongShape,
    /// The KV cache has no room for its rows.
    KvFull,
    /// The engine failed.
    Compute,
    /// A later stage did not answer.
    Unreachable,
    /// It is of another epoch than the one installed.
    WrongEpoch,
}

impl Reason {
    /// The word on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfOrder => "OutOfOrder",
            Self::WrongShape => "WrongShape",
            Self::KvFull => "KvFull",
            Self::Compute => "Compute",
            Self::Unreachable => "Unreachable",
            Self::WrongEpoch => "WrongEpoch",
        }
    }

    /// Unknown words count as `Unreachable`: the pipeline cannot be trusted with another step.
    fn parse(word: &str) -> Self {
        match word {
            "OutOfOrder" => Self::OutOfOrder,
            "WrongShape" => Self::WrongShape,
            "KvFull" => Self::KvFull,
            "Compute" => Self::Compute,
            "WrongEpoch" => Self::WrongEpoch,
            _ => Self::Unreachable,
        }
    }

    /// Whether the fault is of the step's own sequences, so that the others can go on after a rollback.
    pub fn is_of_the_step(self) -> bool {
        matches!(self, Self::KvFull | Self::Compute)
    }
}

/// A step that a stage could not execute. It had no effect on that stage's rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stage {stage}: {}: {message}", reason.as_str())]
pub struct StepFault {
    /// Index of the stage in its pipeline.
    pub stage: u32,
    /// What kind of failure.
    pub reason: Reason,
    /// For a person.
    pub message: String,
}

impl StepFault {
    /// The fault as it travels.
    pub fn to_wire(&self) -> wire::StepError {
        wire::StepError {
            stage: self.stage,
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
        }
    }

    /// The fault that a later stage reports.
    pub fn from_wire(error: wire::StepError) -> Self {
        Self {
            stage: error.stage,
            reason: Reason::parse(&error.reason),
            message: error.message,
        }
    }
}

impl Step {
    /// The step with its activations, ready for the next stage.
    pub fn to_wire(&self, epoch: u64, activations: Bytes) -> wire::Step {
        wire::Step {
            epoch,
            number: self.number,
            kv_operations: self.operations.iter().copied().map(KvOperation::to_wire).collect(),
            rows: self.rows.iter().map(Row::to_wire).collect(),
            activations,
        }
    }

    /// Splits a received step into its epoch, itself and its activations. The message says what is malformed.
    pub fn from_wire(step: wire::Step) -> Result<(u64, Self, Bytes), String> {
        let unknown = || format!("step {}: a KV operation of an unknown kind", step.number);
        let operations = step
            .kv_operations
            .iter()
            .map(|operation| {
                operation
                    .operation
                    .as_ref()
                    .map(KvOperation::from_wire)
                    .ok_or_else(unknown)
            })
            .collect::<Result<_, _>>()?;
        let rows = step.rows.iter().map(Row::from_wire).collect();
        Ok((
            step.epoch,
            Self {
                number: step.number,
                operations,
                rows,
            },
            step.activations,
        ))
    }
}

impl KvOperation {
    /// Forget a whole sequence.
    pub fn forget(sequence: u32) -> Self {
        Self::Remove(Removal {
            sequence,
            from: 0,
            end: None,
        })
    }

    fn to_wire(self) -> wire::KvOperation {
        let operation = match self {
            Self::Remove(range) => Operation::Remove(wire::RemoveRange {
                sequence: range.sequence,
                from: range.from,
                end: range.end.unwrap_or(0),
            }),
            Self::Copy(copy) => Operation::Copy(wire::CopyPrefix {
                from_sequence: copy.from,
                to_sequence: copy.to,
                end: copy.end,
            }),
        };
        wire::KvOperation {
            operation: Some(operation),
        }
    }

    fn from_wire(operation: &Operation) -> Self {
        match operation {
            Operation::Remove(range) => Self::Remove(Removal {
                sequence: range.sequence,
                from: range.from,
                end: (range.end != 0).then_some(range.end),
            }),
            Operation::Copy(copy) => Self::Copy(PrefixCopy {
                from: copy.from_sequence,
                to: copy.to_sequence,
                end: copy.end,
            }),
        }
    }
}

impl Row {
    fn to_wire(&self) -> wire::Row {
        wire::Row {
            sequence: self.sequence,
            position: self.position,
            token: self.token,
            sample: self.sample.map(|sampling| wire::Sampling {
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                top_k: sampling.top_k,
                seed: sampling.seed,
            }),
        }
    }

    fn from_wire(row: &wire::Row) -> Self {
        Self {
            sequence: row.sequence,
            position: row.position,
            token: row.token,
            sample: row.sample.as_ref().map(sampling_from_wire),
        }
    }
}

/// The sampling parameters as the engine takes them; not checked.
pub fn sampling_from_wire(sampling: &wire::Sampling) -> Sampling {
    Sampling {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        seed: sampling.seed,
    }
}

impl Sampled {
    /// The token as it travels back.
    pub fn to_wire(self) -> wire::SampledToken {
        wire::SampledToken {
            sequence: self.sequence,
            position: self.position,
            token: self.token,
        }
    }

    /// The token that the tail reports.
    pub fn from_wire(token: &wire::SampledToken) -> Self {
        Self {
            sequence: token.sequence,
            position: token.position,
            token: token.token,
        }
    }
}

#[cfg(test)]
mod tests;
