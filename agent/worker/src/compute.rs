//! What a stage computes with: the engine in production, plain arithmetic in tests.

mod llama;
mod loading;

pub use llama::{device, engine_device, engine_loader};

use engine::Sampling;
use engine::sample::{any_nan, sample};

use crate::step::Row;

/// Facts about what was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Width of the residual stream: one row of activations.
    pub embedding_length: usize,
    /// Tokens that the embedding has rows for; 0 on stages that are not the head.
    pub vocabulary_size: u64,
    /// Sequences can begin with positions of others, and be cut back to any length. Models that cannot run as one stage.
    pub shares_prefixes: bool,
}

/// Why compute could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// The KV cache has no room for the rows.
    #[error("the KV cache is full: {0}")]
    KvFull(String),
    /// Anything else; the rows of the call had no effect. Without [`Facts::shares_prefixes`] their sequences are empty now.
    #[error("{0}")]
    Failed(String),
    /// The shard can never compute again; only loading it anew helps.
    #[error("{0}")]
    Broken(String),
}

/// What comes out of the stage's last layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The residual stream of every row, for the next stage.
    Activations(Vec<f32>),
    /// The tokens of the rows that sample, in row order; from the tail. See [`choose_token`].
    Tokens(Vec<i32>),
}

/// A loaded shard. All calls come from one thread, in the order in which their effects must appear.
pub trait Compute {
    /// What was loaded.
    fn facts(&self) -> Facts;

    /// The embedding of each token, one row after another; on the head only. Nothing where the shard is a whole model that
    /// looks up the tokens of a step's rows itself.
    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError>;

    /// Runs the rows through the stage's layers in one micro-batch. The caller has checked shape and positions.
    fn step(&mut self, rows: &[Row], activations: &[f32]) -> Result<Output, ComputeError>;

    /// Forgets positions `[from, end)` of a sequence; `end` `None` means all that follow. Positions that are not held are fine.
    fn remove(&mut self, sequence: u32, from: u32, end: Option<u32>) -> Result<(), ComputeError>;

    /// Gives the empty sequence `to` positions `[0, end)` of `from`, which keeps them; no data moves. The caller has checked that
    /// `from` holds them.
    fn copy_prefix(&mut self, from: u32, to: u32, end: u32) -> Result<(), ComputeError>;
}

/// Samples the token that follows `row`, from its logits; the largest where the row does not say how.
///
/// # Errors
/// When one is not a number: such a model has gone astray.
pub fn choose_token(row: &Row, logits: &[f32]) -> Result<i32, ComputeError> {
    if any_nan(logits) {
        let message = format!("logits of sequence {} are not numbers", row.sequence);
        return Err(ComputeError::Failed(message));
    }
    let sampling = row.sample.unwrap_or(Sampling::GREEDY);
    Ok(sample(logits, &sampling, row.position + 1))
}

/// Why a shard could not be loaded; decides the process's exit code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The files cannot be loaded as the slice they should be.
    #[error("the weights were refused: {0}")]
    Weights(String),
    /// It does not fit its memory budget, or the largest step does not.
    #[error("the shard does not fit: {0}")]
    Memory(String),
    /// The backend or its device is not there.
    #[error("the device is unavailable: {0}")]
    Device(String),
    /// The processor lacks instructions that the build needs.
    #[error("this processor cannot run the engine: {0}")]
    UnsupportedCpu(String),
}

/// Loads the shard, on the thread that will compute.
pub type Loader = Box<dyn FnOnce() -> Result<Box<dyn Compute>, LoadError> + Send>;
