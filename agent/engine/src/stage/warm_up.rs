//! Proof of a stage's memory before its first step.

use std::time::{Duration, Instant};

use super::{Row, Stage, StepInput};
use crate::error::EngineError;

impl Stage {
    /// Runs the largest step that there may be on an unused stage and forgets it: what llama.cpp allocates only when it
    /// computes is allocated then, and its buffers are written to. A device that would need longer than `limit` for it, as
    /// renderers in software do, gets as many rows as it can compute meanwhile, at least one.
    ///
    /// # Errors
    /// As [`Stage::step`].
    pub fn warm_up(&mut self, limit: Duration) -> Result<(), EngineError> {
        // The first step also compiles what the device runs; the second tells how fast it is.
        self.run_and_forget(1)?;
        let started = Instant::now();
        self.run_and_forget(1)?;
        let affordable = limit.as_micros() / started.elapsed().as_micros().max(1);
        let rows = self.max_step_rows().min(self.positions.context_length() as usize);
        self.run_and_forget(rows.min(usize::try_from(affordable).unwrap_or(usize::MAX)).max(1))
    }

    /// One step of so many rows on sequence 0, which is empty before and after.
    fn run_and_forget(&mut self, count: usize) -> Result<(), EngineError> {
        let row = |position: u32| Row {
            sequence: 0,
            position,
            token: 0,
        };
        let rows: Vec<Row> = (0u32..).take(count).map(row).collect();
        let wants: Vec<bool> = (0..count).map(|row| row < self.positions.sequences()).collect();
        let values = if self.takes_tokens {
            0
        } else {
            count * self.embedding_length
        };
        // Any numbers but zero, whose scale would be lost in the norm.
        let activations = vec![1.0; values];
        let input = StepInput {
            rows: &rows,
            activations: &activations,
            wants: &wants,
        };
        self.step_with(&input, |_, _| Ok(()))?;
        self.remove(0, 0, u32::MAX)
    }
}
