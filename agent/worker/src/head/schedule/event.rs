//! What the schedule tells its caller.

use super::request::RequestId;
use crate::step::StepFault;

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was sampled.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// Something to tell the one who asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The next token.
    Token {
        /// Whose.
        id: RequestId,
        /// Id in the vocabulary.
        token: i32,
        /// Position in the sequence, prompt included.
        position: u32,
    },
    /// The last event of a request that ended as it should.
    Finished {
        /// Whose.
        id: RequestId,
        /// Why it ended.
        finish: Finish,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens emitted.
        completion_tokens: u32,
        /// Tokens of the prompt whose keys and values were taken from another sequence.
        cached_tokens: u32,
    },
    /// The last event of a request whose step failed.
    Failed {
        /// Whose.
        id: RequestId,
        /// What failed.
        fault: StepFault,
    },
    /// The last event of a request that waited for a seat longer than it may.
    TimedOut {
        /// Whose.
        id: RequestId,
        /// How long that was, microseconds.
        waited_us: u64,
    },
}

/// What must happen after a failed step, beside rolling it back.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The pipeline goes on; tell these requests.
    Isolated(Vec<Event>),
    /// No sequence can be blamed: the caller must rebuild the chain and end everything with [`super::Schedule::abandon`].
    Broken,
}

/// A result that does not answer the oldest step under way: the later stages disagree about what they run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {number} is answered by {got}, expected {expected}")]
pub struct Mismatch {
    number: u64,
    got: String,
    expected: String,
}

impl Mismatch {
    pub(super) fn new(number: u64, got: &str, expected: &str) -> Self {
        Self {
            number,
            got: got.to_owned(),
            expected: expected.to_owned(),
        }
    }
}

/// What was counted since the schedule began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sequences that began with a prefix of another one.
    pub prefix_hits: u64,
    /// Positions that these did not compute.
    pub reused_tokens: u64,
    /// Kept prefixes that were given up for cells, slots or memory.
    pub evictions: u64,
    /// Draft tokens that were computed.
    pub drafts: u64,
    /// Of these, the ones that the tail sampled too.
    pub accepted_drafts: u64,
}

/// How the cells of every stage's cache are used, in positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellUse {
    /// That are filled once all steps under way are executed; shared ones count for each sequence.
    pub used: u64,
    /// Set aside for running sequences, filled or not.
    pub reserved: u64,
    /// Of kept prefixes, and of sequences that ended, until it is settled what becomes of these.
    pub kept: u64,
    /// That there are.
    pub cells: u64,
}

/// What the schedule gives up for memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relief {
    /// Nothing.
    #[default]
    None,
    /// Nobody is seated.
    SeatNobody,
    /// Nobody is seated, no prefix is kept.
    ForgetPrefixes,
}
