//! What travels with a row that would be alone in its step.
//!
//! llama.cpp computes the attention of a lone row otherwise than that of several: over more than 256 cells each thread takes
//! a part of them, and the parts' sums differ in the last bits from a sum over all. A row that is computed again after a
//! fault rarely is alone again. So a stage that promises equal numbers gives it a companion: the same row once more, as the
//! first position of the scratch sequence, which is emptied before the step ends. No sequence reads another one's cells,
//! nothing of the companion is taken out, and its cell is beyond those that callers may fill.
//!
//! Steps of a model that keeps a state beside attention are divided by llama.cpp itself, so that each sequence has as many rows
//! in a part, and a row may be left alone in one. There a step is divided before: see [`parts`].

use std::borrow::Cow;

use gguf::architecture::refuses_strict_steps;

use super::{Row, StageConfig, StepInput, signed};
use crate::error::EngineError;
use crate::ffi::model::CacheKind;
use crate::runtime::Device;

/// Cells of the cache that callers cannot fill.
pub(super) fn cells(config: &StageConfig) -> u32 {
    u32::from(promises_equal_numbers(config))
}

/// Whether lone rows of the model get a companion.
///
/// # Errors
/// `BadConfig` where equal numbers are asked for and cannot be had.
pub(super) fn needed(config: &StageConfig, kind: CacheKind, architecture: &str) -> Result<bool, EngineError> {
    if !promises_equal_numbers(config) {
        return Ok(false);
    }
    match kind {
        CacheKind::Plain | CacheKind::Windowed(_) => Ok(true),
        // Without attention: a state takes in one row after the other, however many come.
        CacheKind::Recurrent => Ok(false),
        CacheKind::Hybrid if !refuses_strict_steps(architecture) => Ok(true),
        // Whatever is beyond a window counts as free, and a state cannot be moved piece by piece.
        CacheKind::Hybrid | CacheKind::WindowedHybrid => Err(EngineError::BadConfig {
            cause: format!(
                "strict steps: `{architecture}` keeps a recurrent state beside attention, and it is not shown that its \
                 numbers depend on the tokens before and on nothing else"
            ),
        }),
    }
}

/// The rows of a step, by number, in parts that llama.cpp computes as one micro-batch each: all that are alone in their sequence,
/// and then each sequence of several rows.
pub(super) fn parts(rows: &[Row]) -> Vec<Vec<usize>> {
    let mut of_sequences: Vec<(u32, Vec<usize>)> = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        match of_sequences.iter_mut().find(|(sequence, _)| *sequence == row.sequence) {
            Some((_, numbers)) => numbers.push(number),
            None => of_sequences.push((row.sequence, vec![number])),
        }
    }
    let (lone, mut parts): (Vec<_>, Vec<_>) = of_sequences
        .into_iter()
        .map(|(_, numbers)| numbers)
        .partition(|numbers| numbers.len() == 1);
    if !lone.is_empty() {
        parts.insert(0, lone.concat());
    }
    parts
}

fn promises_equal_numbers(config: &StageConfig) -> bool {
    config.strict && matches!(config.device, Device::Cpu { .. })
}

/// A step as llama.cpp takes it.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) positions: Vec<i32>,
    pub(super) sequences: Vec<i32>,
    pub(super) tokens: Vec<i32>,
    pub(super) activations: Cow<'a, [f32]>,
    pub(super) wants: Cow<'a, [bool]>,
}

impl<'a> Batch<'a> {
    pub(super) fn of(input: &StepInput<'a>) -> Self {
        Self {
            positions: input.rows.iter().map(|row| signed(row.position)).collect(),
            sequences: input.rows.iter().map(|row| signed(row.sequence)).collect(),
            tokens: input.rows.iter().map(|row| row.token).collect(),
            activations: Cow::Borrowed(input.activations),
            wants: Cow::Borrowed(input.wants),
        }
    }

    /// Adds the only row once more, as the first of the empty sequence `scratch`.
    pub(super) fn with_companion(mut self, scratch: u32) -> Self {
        self.positions.push(0);
        self.sequences.push(signed(scratch));
        self.tokens.extend_from_within(..);
        let values = self.activations.len();
        self.activations.to_mut().extend_from_within(..values);
        self.wants.to_mut().push(false);
        self
    }

    /// Asks for the last row's logits where nobody wants any: what llama.cpp plans for devices that work as one is for steps with an
    /// output, and a step without leaves it a plan that the next one must not follow.
    pub(super) fn with_an_output(mut self) -> Self {
        if !self.wants.contains(&true)
            && let Some(last) = self.wants.to_mut().last_mut()
        {
            *last = true;
        }
        self
    }
}
