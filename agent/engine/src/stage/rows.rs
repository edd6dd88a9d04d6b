//! What goes into a step and what comes out.

/// One position of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The sequence, below [`super::StageConfig::parallel_sequences`].
    pub sequence: u32,
    /// Its position, counted from 0: always the next one of its sequence.
    pub position: u32,
    /// The token there. Stages compute on activations; the id travels beside them.
    pub token: i32,
}

/// A step: rows of any sequences in any mixture, each sequence's in order.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// The rows, at most [`super::Stage::max_step_rows`].
    pub rows: &'a [Row],
    /// One row of [`super::Stage::embedding_length`] values for each: looked-up embeddings on the first
    /// stage, the previous stage's output on any other. Empty to feed the rows' tokens instead,
    /// which a stage does that [`super::Stage::takes_tokens`].
    pub activations: &'a [f32],
    /// For each row whether the last stage shall give its logits; other stages ignore it.
    pub wants: &'a [bool],
}

/// Logits of the wanted rows, in the order of the step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logits {
    pub(super) values: Vec<f32>,
    pub(super) vocabulary_size: usize,
}

impl Logits {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.vocabulary_size).unwrap_or(0)
    }

    /// Whether no row was wanted.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The logits of the `index`-th wanted row, one for each token id.
    pub fn row(&self, index: usize) -> Option<&[f32]> {
        let start = index.checked_mul(self.vocabulary_size)?;
        self.values.get(start..start.checked_add(self.vocabulary_size)?)
    }

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary_size.max(1))
    }
}

/// What a step gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepOutput {
    /// The residual stream of all rows in the order of the step; empty on the last stage.
    pub activations: Vec<f32>,
    /// Logits of the wanted rows; empty on every other stage.
    pub logits: Logits,
}
