//! Proof of a stage's memory before its first step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Row, Stage, StepInput};
use crate::error::EngineError;
use crate::ffi::context::Interrupt;

/// A processor's largest step is computed for so long, and then no further than it must.
const ENOUGH: Duration = Duration::from_millis(100);
/// So far it must be computed: one node of its graph in so many. Layers are computed in the same buffers, one after the other, and
/// where they are of several kinds, a quarter of them has all kinds.
const PART: u64 = 4;

impl Stage {
    /// Runs the largest step that there may be on an unused stage and forgets it: what llama.cpp allocates only when it
    /// computes is allocated then, and its buffers are written to. A device that would need longer than `limit` for it, as
    /// renderers in software do, gets as many rows as it can compute meanwhile, at least one.
    ///
    /// A processor computes the largest step only until its buffers have been written to, a quarter of it or 100 ms: streams may
    /// wait for the stage. Logits of several rows at once are not among what it writes then.
    ///
    /// # Errors
    /// As [`Stage::step`].
    pub fn warm_up(&mut self, limit: Duration) -> Result<(), EngineError> {
        // The first step also compiles what the device runs; the second tells how fast it is.
        self.run_and_forget(1)?;
        let counted = Arc::new(Interrupt::never());
        self.context.interrupt(Some(Arc::clone(&counted)));
        let started = Instant::now();
        let second = self.run_and_forget(1);
        let took = started.elapsed();
        self.context.interrupt(None);
        second?;
        let affordable = limit.as_micros() / took.as_micros().max(1);
        let rows = self.max_step_rows().min(self.positions.context_length() as usize);
        let rows = rows.min(usize::try_from(affordable).unwrap_or(usize::MAX)).max(1);
        if !self.on_host {
            return self.run_and_forget(rows);
        }
        let enough = Arc::new(Interrupt::after(counted.computed() / PART, Instant::now() + ENOUGH));
        self.context.interrupt(Some(Arc::clone(&enough)));
        let largest = self.run_and_forget(rows);
        self.context.interrupt(None);
        match largest {
            Err(EngineError::DecodeFailed { .. }) if enough.has_ended() => {
                // Its rows are gone; what comes first shall stand in the first cells.
                if let Some(cells) = &mut self.cells {
                    cells.clear();
                }
                self.context.clear();
                Ok(())
            }
            largest => largest,
        }
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
