//! Time mixing as `rwkv` has it: each token is written into a matrix for each head, which forgets.

use super::state::State;
use super::{FeedForward, Fill, Tensors};
use crate::Recipe;
use crate::weights::Format;

/// Channels of a head, as published models have them: llama.cpp's loops for processors take as many at once.
const HEAD: u32 = 64;
/// Width of what lies between two narrow matrices.
const RANK: u32 = 32;

/// Mixtures of a token and the one before, each with a share of its own: for decay, key, value, receptance and gate.
const SIXTH_MIXTURES: u32 = 5;
/// The same and for the rate of learning.
const SEVENTH_MIXTURES: u32 = 6;

/// What a model says of it.
pub(super) fn keys(recipe: &Recipe) -> Vec<(&'static str, u32)> {
    // The time mixing keeps the token before, and a feed-forward network that mixes keeps another.
    let shifts = match recipe.family.feed_forward {
        FeedForward::Shifted { .. } => 2,
        FeedForward::Gated | FeedForward::Packed | FeedForward::Plain => 1,
    };
    let mut all = vec![("wkv.head_size", HEAD), ("token_shift_count", shifts)];
    if recipe.family.state == State::SeventhTimeMix {
        all.extend([
            ("attention.decay_lora_rank", RANK),
            ("attention.iclr_lora_rank", RANK),
            ("attention.value_residual_mix_lora_rank", RANK),
            ("attention.gate_lora_rank", RANK),
        ]);
    } else {
        all.extend([("time_mix_extra_dim", RANK), ("time_decay_extra_dim", RANK)]);
    }
    all
}

impl Tensors<'_> {
    /// How much of a token counts, and how much of the one before.
    pub(super) fn share(&mut self, name: &str, dimensions: &[u32]) {
        self.around(name, dimensions, 0.5, 0.4);
    }

    /// Published files never quantise these.
    fn narrow(&mut self, name: &str, dimensions: &[u32]) {
        self.push(name, dimensions, Format::F32, Fill::Matrix);
    }

    /// `bonus`: what a token counts for itself has a weight, and what comes out a norm.
    pub(super) fn sixth_time_mix(&mut self, bonus: bool) {
        let width = self.recipe.width;
        self.narrow("time_mix_w1.weight", &[width, SIXTH_MIXTURES * RANK]);
        self.narrow("time_mix_w2.weight", &[RANK, width, SIXTH_MIXTURES]);
        self.share("time_mix_lerp_x.weight", &[width]);
        self.share("time_mix_lerp_fused.weight", &[width, 1, 1, SIXTH_MIXTURES]);
        // Of the logarithm of what is forgotten, the logarithm: slowly, so that old positions count.
        self.around("time_mix_decay.weight", &[width], -2.0, 1.0);
        self.narrow("time_mix_decay_w1.weight", &[width, RANK]);
        self.narrow("time_mix_decay_w2.weight", &[RANK, width]);
        self.matrix("time_mix_gate.weight", &[width, width]);
        self.squares();
        if bonus {
            self.around("time_mix_first.weight", &[HEAD, width / HEAD], 0.0, 0.5);
            self.time_mix_norm();
        }
    }

    pub(super) fn seventh_time_mix(&mut self) {
        let width = self.recipe.width;
        // Decay, which fades as above, rate of learning, and how much of the first layer's values is added.
        for (part, middle) in [("w", -2.0), ("a", 0.0), ("v", 0.0)] {
            self.around(&format!("time_mix_{part}0.weight"), &[width], middle, 0.5);
            self.narrow(&format!("time_mix_{part}1.weight"), &[width, RANK]);
            self.narrow(&format!("time_mix_{part}2.weight"), &[RANK, width]);
        }
        self.narrow("time_mix_g1.weight", &[width, RANK]);
        self.narrow("time_mix_g2.weight", &[RANK, width]);
        self.share("time_mix_lerp_fused.weight", &[width, 1, 1, SEVENTH_MIXTURES]);
        self.around("time_mix_k_k.weight", &[width], 0.8, 0.2);
        self.around("time_mix_k_a.weight", &[width], 1.0, 0.2);
        self.around("time_mix_r_k.weight", &[width], 0.0, 0.3);
        self.squares();
        self.time_mix_norm();
    }

    fn squares(&mut self) {
        let width = self.recipe.width;
        for part in ["key", "value", "receptance", "output"] {
            self.matrix(&format!("time_mix_{part}.weight"), &[width, width]);
        }
    }

    /// Its bias is there whether other norms have one or not.
    fn time_mix_norm(&mut self) {
        let width = self.recipe.width;
        self.around("time_mix_ln.weight", &[width], 1.0, 0.3);
        self.bias("time_mix_ln", &[width]);
    }
}
