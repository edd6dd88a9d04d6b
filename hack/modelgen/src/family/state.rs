//! Layers that keep a state: a selective state space, as `mamba` has it.

use super::Tensors;
use crate::Recipe;

/// Positions that the convolution sees.
const KERNEL: u32 = 4;
/// Values of the state for each inner channel.
const STATES: u32 = 16;
/// Of the compressed time steps: a block of the quantised formats.
const TIME_STEP_RANK: u32 = 32;

/// Inner channels; llama.cpp knows no other expansion.
fn inner(recipe: &Recipe) -> u32 {
    2 * recipe.width
}

/// What a model with such layers says of them.
pub(crate) fn keys(recipe: &Recipe) -> [(&'static str, u32); 4] {
    [
        ("ssm.conv_kernel", KERNEL),
        ("ssm.inner_size", inner(recipe)),
        ("ssm.state_size", STATES),
        ("ssm.time_step_rank", TIME_STEP_RANK),
    ]
}

impl Tensors<'_> {
    pub(super) fn state(&mut self) {
        let (width, inner) = (self.recipe.width, inner(self.recipe));
        self.matrix("ssm_in.weight", &[width, 2 * inner]);
        self.around("ssm_conv1d.weight", &[KERNEL, inner], 0.0, 0.8);
        self.bias("ssm_conv1d", &[inner]);
        self.matrix("ssm_x.weight", &[inner, TIME_STEP_RANK + 2 * STATES]);
        self.matrix("ssm_dt.weight", &[TIME_STEP_RANK, inner]);
        self.bias("ssm_dt", &[inner]);
        // Negative: a state fades, and never grows by itself. Slowly, so that old positions count.
        self.around("ssm_a", &[STATES, inner], -0.5, 0.4);
        self.around("ssm_d", &[inner], 1.0, 0.5);
        self.matrix("ssm_out.weight", &[inner, width]);
    }
}
