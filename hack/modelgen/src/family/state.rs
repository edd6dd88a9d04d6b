//! Layers that keep a state: what they are made of, and what a model says of them.

use gguf::{Array, Value};

use super::{Tensors, time_mix};
use crate::Recipe;

/// How a state is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    None,
    /// A selective state space for each channel, as `mamba` has it.
    Channels {
        /// Time steps and both projections of the state have norms.
        norms: bool,
    },
    /// One for each head of channels, as `mamba2` has it.
    Heads,
    /// The last inputs of a short convolution.
    Convolution,
    /// A matrix for each head that follows the delta rule.
    Delta {
        /// Both of its gates are in one matrix.
        packed_gates: bool,
    },
    /// The same with a decay for each channel, as `kimi-linear` has it.
    ChannelDelta,
    /// A matrix for each head whose decays follow from the token, as `rwkv6` has it.
    SixthTimeMix {
        /// A token counts for itself by a weight of its own.
        bonus: bool,
    },
    /// The same with a rate of learning, as `rwkv7` has it.
    SeventhTimeMix,
}

/// Positions that a convolution sees.
const KERNEL: u32 = 4;
/// Values of the state for each inner channel.
const STATES: u32 = 16;
/// Of the compressed time steps: a block of the quantised formats.
const TIME_STEP_RANK: u32 = 32;
/// Groups of heads that share what goes into a state and out of it.
const GROUPS: u32 = 2;
/// Channels of a head with a state.
const HEAD: u32 = 16;
/// Channels of a head that follows the delta rule; its state is a square of them.
const DELTA_HEAD: u32 = 32;

/// Inner channels; llama.cpp knows no other expansion.
fn inner(recipe: &Recipe) -> u32 {
    2 * recipe.width
}

/// What a model says of its states.
pub(crate) fn keys(recipe: &Recipe) -> Vec<(&'static str, Value)> {
    let inner = inner(recipe);
    let scan = |states, rank| {
        vec![
            ("ssm.conv_kernel", KERNEL),
            ("ssm.inner_size", inner),
            ("ssm.state_size", states),
            ("ssm.time_step_rank", rank),
        ]
    };
    let mut numbers = match recipe.family.state {
        State::None => Vec::new(),
        State::Channels { .. } => scan(STATES, TIME_STEP_RANK),
        State::Heads => scan(STATES, inner / HEAD),
        State::Convolution => vec![("shortconv.l_cache", KERNEL)],
        State::Delta { .. } => scan(DELTA_HEAD, inner / DELTA_HEAD),
        State::ChannelDelta => vec![("ssm.conv_kernel", KERNEL), ("kda.head_dim", DELTA_HEAD)],
        State::SixthTimeMix { .. } | State::SeventhTimeMix => time_mix::keys(recipe),
    };
    if matches!(recipe.family.state, State::Heads | State::Delta { .. }) {
        numbers.push(("ssm.group_count", GROUPS));
    }
    let mut all: Vec<_> = numbers
        .into_iter()
        .map(|(key, number)| (key, Value::U32(number)))
        .collect();
    if recipe.family.state == (State::Delta { packed_gates: false }) {
        // Of the pairs of a head's values: for time, height, width and nothing.
        let half = recipe.head() / 2;
        let sections = [half - 2 * (half / 3), half / 3, half / 3, 0];
        all.push(("rope.dimension_sections", Value::Array(Array::of_u32(sections))));
    }
    all
}

impl Tensors<'_> {
    pub(super) fn state(&mut self) {
        match self.recipe.family.state {
            State::None => {}
            State::Channels { norms } => self.channels(norms),
            State::Heads => self.heads(),
            State::Convolution => self.convolution(),
            State::Delta { packed_gates } => self.delta(packed_gates),
            State::ChannelDelta => self.channel_delta(),
            State::SixthTimeMix { bonus } => self.sixth_time_mix(bonus),
            State::SeventhTimeMix => self.seventh_time_mix(),
        }
    }

    fn channels(&mut self, norms: bool) {
        let (width, inner) = (self.recipe.width, inner(self.recipe));
        self.matrix("ssm_in.weight", &[width, 2 * inner]);
        self.around("ssm_conv1d.weight", &[KERNEL, inner], 0.0, 0.8);
        self.bias("ssm_conv1d", &[inner]);
        self.matrix("ssm_x.weight", &[inner, TIME_STEP_RANK + 2 * STATES]);
        self.matrix("ssm_dt.weight", &[TIME_STEP_RANK, inner]);
        self.bias("ssm_dt", &[inner]);
        if norms {
            self.around("ssm_dt_norm.weight", &[TIME_STEP_RANK], 1.0, 0.3);
            self.around("ssm_b_norm.weight", &[STATES], 1.0, 0.3);
            self.around("ssm_c_norm.weight", &[STATES], 1.0, 0.3);
        }
        // Negative: a state fades, and never grows by itself. Slowly, so that old positions count.
        self.around("ssm_a", &[STATES, inner], -0.5, 0.4);
        self.around("ssm_d", &[inner], 1.0, 0.5);
        self.matrix("ssm_out.weight", &[inner, width]);
    }

    fn heads(&mut self) {
        let (width, inner) = (self.recipe.width, inner(self.recipe));
        let heads = inner / HEAD;
        let convolved = inner + 2 * GROUPS * STATES;
        self.matrix("ssm_in.weight", &[width, inner + convolved + heads]);
        self.around("ssm_conv1d.weight", &[KERNEL, convolved], 0.0, 0.8);
        self.bias("ssm_conv1d", &[convolved]);
        self.bias("ssm_dt", &[heads]);
        // As above.
        self.around("ssm_a", &[1, heads], -0.5, 0.4);
        self.around("ssm_d", &[1, heads], 1.0, 0.5);
        self.around("ssm_norm.weight", &[inner / GROUPS, GROUPS], 1.0, 0.3);
        self.matrix("ssm_out.weight", &[inner, width]);
    }

    fn convolution(&mut self) {
        let width = self.recipe.width;
        self.around("shortconv.conv.weight", &[KERNEL, width], 0.0, 0.8);
        self.matrix("shortconv.in_proj.weight", &[width, 3 * width]);
        self.matrix("shortconv.out_proj.weight", &[width, width]);
    }

    fn delta(&mut self, packed_gates: bool) {
        let (width, values) = (self.recipe.width, inner(self.recipe));
        let heads = values / DELTA_HEAD;
        let convolved = 2 * GROUPS * DELTA_HEAD + values;
        self.matrix("attn_qkv.weight", &[width, convolved]);
        self.matrix("attn_gate.weight", &[width, values]);
        self.around("ssm_conv1d.weight", &[KERNEL, convolved], 0.0, 0.8);
        self.bias("ssm_dt", &[heads]);
        // As above.
        self.around("ssm_a", &[heads], -0.5, 0.4);
        if packed_gates {
            self.matrix("ssm_ba.weight", &[width, 2 * heads]);
        } else {
            self.matrix("ssm_beta.weight", &[width, heads]);
            self.matrix("ssm_alpha.weight", &[width, heads]);
        }
        self.around("ssm_norm.weight", &[DELTA_HEAD], 1.0, 0.3);
        self.matrix("ssm_out.weight", &[values, width]);
    }

    fn channel_delta(&mut self) {
        let (width, heads) = (self.recipe.width, self.recipe.heads);
        let inner = heads * DELTA_HEAD;
        for part in ["q", "k", "v"] {
            self.matrix(&format!("attn_{part}.weight"), &[width, inner]);
            self.around(&format!("ssm_conv1d_{part}.weight"), &[KERNEL, 1, inner], 0.0, 0.8);
        }
        // Decays and the gate of what comes out.
        for part in ["f", "g"] {
            self.matrix(&format!("ssm_{part}_a.weight"), &[width, DELTA_HEAD]);
            self.matrix(&format!("ssm_{part}_b.weight"), &[DELTA_HEAD, inner]);
        }
        self.bias("ssm_dt", &[inner]);
        // As above.
        self.around("ssm_a", &[1, heads], -0.5, 0.4);
        self.matrix("ssm_beta.weight", &[width, heads]);
        self.around("ssm_norm.weight", &[DELTA_HEAD], 1.0, 0.3);
        self.matrix("attn_output.weight", &[inner, width]);
    }
}
