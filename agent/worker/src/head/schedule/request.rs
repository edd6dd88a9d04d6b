//! What is asked of the schedule, and within which limits.

use engine::sample::Sampling;
use thiserror::Error;

/// What the placement fixes for every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequence slots; at least one.
    pub parallel_sequences: u32,
    /// Positions of one sequence.
    pub context_length: u32,
    /// Rows of one step; at least two, so that prompts and decodes can share a step.
    pub max_step_rows: u32,
}

/// Names a request for as long as the process lives.
pub type RequestId = u64;

/// One prompt and how to go on from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Chosen by the caller, never twice.
    pub id: RequestId,
    /// At least one token, and shorter than the context.
    pub prompt: Vec<i32>,
    /// Tokens to emit at most; at least one.
    pub max_tokens: u32,
    /// How the tail samples.
    pub sampling: Sampling,
    /// Tokens that end the sequence and are not emitted.
    pub stop_tokens: Vec<i32>,
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Nothing to continue.
    #[error("the prompt has no tokens; send at least one")]
    EmptyPrompt,
    /// Nothing to emit.
    #[error("max_tokens is 0; ask for at least one token")]
    NothingWanted,
    /// Prompt and one token are more than the context.
    #[error("the prompt has {prompt} tokens, the context {context}: shorten the prompt to {} tokens or fewer", context - 1)]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Positions of a sequence.
        context: u32,
    },
    /// All slots are taken and the queue is full.
    #[error("all {slots} sequences are taken and {waiting} requests wait; try again later")]
    Full {
        /// Slots of the pipeline.
        slots: usize,
        /// Requests in the queue.
        waiting: usize,
    },
}
