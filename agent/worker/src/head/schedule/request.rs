//! What is asked of the schedule, and within which limits.

use engine::sample::Sampling;
use thiserror::Error;

/// Steps under way at most, however long the pipeline: activations of all of them are in memory at once.
pub const MAX_DEPTH: usize = 8;

/// Of the rows of a step, the part that prompts may take while others decode: one in so many. On a device that is bound by
/// arithmetic a step takes the longer the more rows it has. Measured on one core (SmolLM2-135M, 63 rows a step at most): 435 ms
/// for 63 rows, 173 ms for 16, 113 ms for 8, 16 ms for one. A quarter makes the pause between two tokens of a stream 2.5 times
/// shorter than a full step would, and leaves prompts three quarters of their rate; less would cost them more than it gives.
/// On a device that is bound by memory a step takes hardly longer with more rows, and the weights are read once for all of them.
const PROMPT_PART: u32 = 4;

/// What the placement fixes for every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequence slots; at least one.
    pub parallel_sequences: u32,
    /// Positions of one sequence.
    pub context_length: u32,
    /// Rows of one step; at least two, so that prompts and decodes can share a step.
    pub max_step_rows: u32,
    /// Positions that every stage's cache holds, over all slots; 0: as many as all sequences can fill.
    pub kv_cells: u32,
    /// Slots after those of the sequences, for kept prefixes.
    pub prefix_sequences: u32,
}

impl Limits {
    /// Slots of the KV caches: sequences first, then kept prefixes.
    pub fn slots(&self) -> usize {
        self.parallel_sequences as usize + self.prefix_sequences as usize
    }

    /// Positions that every stage's cache holds.
    pub fn cells(&self) -> u64 {
        match self.kv_cells {
            0 => u64::from(self.context_length) * u64::from(self.parallel_sequences),
            cells => u64::from(cells),
        }
    }

    /// Positions that one sequence can have: the context, or all cells where those are fewer.
    pub fn longest_sequence(&self) -> u32 {
        u32::try_from(self.cells()).map_or(self.context_length, |cells| cells.min(self.context_length))
    }
}

/// How the schedule fills a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Steps under way at once, so that every stage has one to work on; at least 1, at most [`MAX_DEPTH`]. While nothing but
    /// prompts is computed by several stages it is one more: nobody waits for a token of the step before, and the first stage
    /// need not wait for the last one's answer.
    pub depth: usize,
    /// Rows of prompts in one step while others decode; at least 1.
    pub prompt_rows_beside_decodes: u32,
    /// Rows of prompts in one step while nobody decodes; at least 1. Over several stages fewer than a step could have: a prompt
    /// fills the pipeline the sooner, the more steps it takes, and from 64 rows on a CPU computes each as fast as any.
    pub prompt_rows_alone: u32,
    /// A failed step costs its sequences all that they held: they cannot be cut back. Then there are no drafts either.
    pub restarts: bool,
    /// Stages that would idle compute draft tokens.
    pub speculates: bool,
}

/// The fewest rows that ggml's attention computes in tiles on a CPU.
const PIPELINED_PROMPT_ROWS: u32 = 64;

impl Tuning {
    /// For a pipeline of so many stages.
    pub fn new(stages: u32, limits: &Limits) -> Self {
        Self {
            depth: (stages as usize).clamp(1, MAX_DEPTH),
            prompt_rows_beside_decodes: limits.max_step_rows.div_ceil(PROMPT_PART),
            prompt_rows_alone: match stages {
                0 | 1 => limits.max_step_rows,
                _ => limits.max_step_rows.min(PIPELINED_PROMPT_ROWS),
            },
            restarts: false,
            speculates: stages > 1,
        }
    }
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
    /// How long it may wait for a seat; the schedule's own limit when that is shorter.
    pub max_wait_us: u64,
    /// Prefixes are shared among requests of equal scope alone.
    pub prefix_scope: Vec<u8>,
    /// The prompt ends with a part of the answer that was given already.
    pub resumed: bool,
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
    /// The queue is full.
    #[error(
        "{running} of {slots} sequences run, {reserved} of {cells} cache positions are reserved and {waiting} requests wait, \
         which is as many as may; try again later"
    )]
    Full {
        /// Sequences that run.
        running: usize,
        /// Slots of the pipeline.
        slots: usize,
        /// Cache positions set aside for them.
        reserved: u64,
        /// Cache positions of every stage.
        cells: u64,
        /// Requests in the queue.
        waiting: usize,
    },
}
