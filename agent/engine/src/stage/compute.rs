//! One decode, and what is taken out of it.

use super::companion::Batch;
use super::{Stage, StepInput, signed};
use crate::ffi::context::Input;

impl Stage {
    pub(super) fn feeds_tokens(&self, input: &StepInput<'_>) -> bool {
        self.takes_tokens && input.activations.is_empty()
    }

    /// The step itself, when all checks are done: activations, or logits for `show`.
    pub(super) fn compute(
        &mut self,
        input: &StepInput<'_>,
        mut show: impl FnMut(usize, &[f32]) -> Result<(), String>,
    ) -> Result<Vec<f32>, String> {
        self.decode(input)?;
        if !self.last {
            let mut rows = self.context.take_tapped()?;
            rows.truncate(input.rows.len() * self.embedding_length);
            return Ok(rows);
        }
        for row in (0..input.rows.len()).filter(|row| input.wants[*row]) {
            let logits = self.context.logits(row);
            show(row, logits.ok_or_else(|| format!("row {row} gave no logits"))?)?;
        }
        Ok(Vec::new())
    }

    /// Decodes the rows, in company where a lone one needs it.
    fn decode(&mut self, input: &StepInput<'_>) -> Result<(), String> {
        let accompanied = self.accompanied && input.rows.len() == 1;
        let mut batch = Batch::of(input);
        if accompanied {
            batch = batch.with_companion(self.scratch_sequence);
        }
        let fed = if self.feeds_tokens(input) {
            Input::Tokens(&batch.tokens)
        } else {
            Input::Activations(&batch.activations)
        };
        let decoded = self
            .context
            .decode(fed, &batch.positions, &batch.sequences, &batch.wants);
        if accompanied && !self.context.remove_from(signed(self.scratch_sequence), 0) {
            let cause = "the row that accompanied a lone one could not be removed".to_owned();
            return Err(self.broken.insert(cause).clone());
        }
        decoded
    }
}
