//! Layers with attention: what they are made of.

use super::{Feature, KeyNorm, Tensors, latent};

impl Tensors<'_> {
    pub(super) fn attention(&mut self) {
        let (recipe, family) = (self.recipe, self.recipe.family);
        let (width, head) = (recipe.width, recipe.head());
        let queries = head * recipe.heads;
        let keys = head * recipe.kv_heads;
        if family.latent {
            self.latent_attention();
            return;
        }
        if family.packed_attention {
            self.matrix("attn_qkv.weight", &[width, queries + 2 * keys]);
        } else {
            let asked = if family.gated_queries { 2 * queries } else { queries };
            for (name, rows) in [("attn_q", asked), ("attn_k", keys), ("attn_v", keys)] {
                self.matrix(&format!("{name}.weight"), &[width, rows]);
                if family.attention_bias {
                    self.bias(name, &[rows]);
                }
            }
        }
        self.matrix("attn_output.weight", &[queries, width]);
        if family.attention_output_bias {
            self.bias("attn_output", &[width]);
        }
        let per_head = recipe.features.contains(&Feature::NormPerHead);
        for (name, heads) in [
            ("attn_q_norm.weight", recipe.heads),
            ("attn_k_norm.weight", recipe.kv_heads),
        ] {
            match family.key_norm {
                KeyNorm::None if !per_head => {}
                KeyNorm::None => self.around(name, &[head, heads], 1.0, 0.3),
                KeyNorm::Head => self.around(name, &[head], 1.0, 0.3),
                KeyNorm::Wide => self.around(name, &[head * heads], 1.0, 0.3),
            }
        }
        if family.sinks {
            self.around("attn_sinks.weight", &[recipe.heads], 0.0, 1.0);
        }
    }

    fn latent_attention(&mut self) {
        let (recipe, width, heads) = (self.recipe, self.recipe.width, self.recipe.heads);
        let queries = heads * (latent::PLAIN + latent::ROTARY);
        if recipe.has_plain_queries() {
            self.matrix("attn_q.weight", &[width, queries]);
        } else {
            self.matrix("attn_q_a.weight", &[width, latent::QUERY_RANK]);
            self.around("attn_q_a_norm.weight", &[latent::QUERY_RANK], 1.0, 0.3);
            self.matrix("attn_q_b.weight", &[latent::QUERY_RANK, queries]);
        }
        self.matrix("attn_kv_a_mqa.weight", &[width, latent::RANK + latent::ROTARY]);
        self.around("attn_kv_a_norm.weight", &[latent::RANK], 1.0, 0.3);
        self.matrix("attn_k_b.weight", &[latent::PLAIN, latent::RANK, heads]);
        self.matrix("attn_v_b.weight", &[latent::RANK, latent::VALUE, heads]);
        self.matrix("attn_output.weight", &[heads * latent::VALUE, width]);
    }
}
