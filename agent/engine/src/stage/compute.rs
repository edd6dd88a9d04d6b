//! One decode, and what is taken out of it.

use super::companion::{Batch, parts};
use super::{Row, Stage, StepInput, signed};
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
        if self.divided {
            return self.compute_parts(input, show).map(|()| Vec::new());
        }
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

    /// The step of a model that runs whole, part by part. The next decode takes the logits of the one before, so they are kept
    /// until all can be shown in order.
    fn compute_parts(
        &mut self,
        input: &StepInput<'_>,
        mut show: impl FnMut(usize, &[f32]) -> Result<(), String>,
    ) -> Result<(), String> {
        let width = input.activations.len() / input.rows.len();
        let mut kept = Vec::new();
        for part in parts(input.rows) {
            let rows: Vec<Row> = part.iter().map(|row| input.rows[*row]).collect();
            let wants: Vec<bool> = part.iter().map(|row| input.wants[*row]).collect();
            let activations = part
                .iter()
                .flat_map(|row| &input.activations[row * width..(row + 1) * width]);
            let activations: Vec<f32> = activations.copied().collect();
            self.decode(&StepInput {
                rows: &rows,
                activations: &activations,
                wants: &wants,
            })?;
            for (place, row) in part.into_iter().enumerate().filter(|(_, row)| input.wants[*row]) {
                let logits = self.context.logits(place);
                let logits = logits.ok_or_else(|| format!("row {row} gave no logits"))?;
                kept.push((row, logits.to_vec()));
            }
        }
        kept.sort_by_key(|(row, _)| *row);
        kept.iter().try_for_each(|(row, logits)| show(*row, logits))
    }

    /// Decodes the rows, in company where a lone one needs it.
    fn decode(&mut self, input: &StepInput<'_>) -> Result<(), String> {
        let accompanied = self.accompanied && input.rows.len() == 1;
        let mut batch = Batch::of(input);
        if accompanied {
            batch = batch.with_companion(self.scratch_sequence);
        }
        if self.grouped {
            batch = batch.with_an_output();
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
