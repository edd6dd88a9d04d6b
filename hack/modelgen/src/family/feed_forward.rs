//! Feed-forward networks, with experts and without: what they are made of.

use super::{FeedForward, Fill, Mixture, Tensors};
use crate::Experts;
use crate::weights::Format;

impl Tensors<'_> {
    pub(super) fn feed_forward(&mut self, layer: u32) {
        let recipe = self.recipe;
        match recipe.experts {
            Some(experts) if layer >= experts.leading_dense => self.experts(experts),
            _ => self.dense(recipe.feed_forward),
        }
    }

    fn dense(&mut self, inner: u32) {
        let (family, width) = (self.recipe.family, self.recipe.width);
        let up = match family.feed_forward {
            FeedForward::Shifted { gated } => {
                self.shifted(inner, gated);
                return;
            }
            FeedForward::Packed => 2 * inner,
            FeedForward::Gated | FeedForward::Plain => inner,
        };
        if family.feed_forward == FeedForward::Gated {
            self.matrix("ffn_gate.weight", &[width, inner]);
        }
        self.matrix("ffn_up.weight", &[width, up]);
        self.matrix("ffn_down.weight", &[inner, width]);
        if family.feed_forward_bias {
            self.bias("ffn_up", &[up]);
            self.bias("ffn_down", &[width]);
        }
    }

    fn shifted(&mut self, inner: u32, gated: bool) {
        let width = self.recipe.width;
        self.share("channel_mix_lerp_k.weight", &[width]);
        self.matrix("channel_mix_key.weight", &[width, inner]);
        self.matrix("channel_mix_value.weight", &[inner, width]);
        if gated {
            self.share("channel_mix_lerp_r.weight", &[width]);
            self.matrix("channel_mix_receptance.weight", &[width, width]);
        }
    }

    fn experts(&mut self, experts: Experts) {
        let (recipe, family) = (self.recipe, self.recipe.family);
        let (width, count) = (recipe.width, experts.count);
        let inner = match family.mixture {
            Mixture::Optional | Mixture::Wide => recipe.feed_forward,
            Mixture::Own | Mixture::Shared | Mixture::GatedShared => experts.feed_forward,
        };
        self.push("ffn_gate_inp.weight", &[width, count], Format::F32, Fill::Matrix);
        self.matrix("ffn_gate_exps.weight", &[width, inner, count]);
        self.matrix("ffn_up_exps.weight", &[width, inner, count]);
        self.matrix("ffn_down_exps.weight", &[inner, width, count]);
        if family.expert_bias {
            self.bias("ffn_gate_inp", &[count]);
            self.bias("ffn_gate_exps", &[inner, count]);
            self.bias("ffn_up_exps", &[inner, count]);
            self.bias("ffn_down_exps", &[width, count]);
        }
        if family.expert_choice_bias {
            self.bias("exp_probs_b", &[count]);
        }
        let shared = match family.mixture {
            Mixture::Shared => inner,
            Mixture::GatedShared => recipe.feed_forward,
            Mixture::Optional | Mixture::Wide | Mixture::Own => return,
        };
        self.matrix("ffn_gate_shexp.weight", &[width, shared]);
        self.matrix("ffn_up_shexp.weight", &[width, shared]);
        self.matrix("ffn_down_shexp.weight", &[shared, width]);
        if family.mixture == Mixture::GatedShared {
            self.around("ffn_gate_inp_shexp.weight", &[width], 0.0, 0.2);
        }
    }
}
