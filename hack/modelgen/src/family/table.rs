//! The table of architectures.

mod stateful;

use super::Stated::{Count, Float, Truth};
use super::state::State;
use super::{Family, FeedForward, KeyNorm, Mixture, Parts, Tied};

const BEFORE: &[&str] = &["attn_norm", "ffn_norm"];

const LLAMA: Family = Family {
    name: "llama",
    parts: Parts::Attention,
    state: State::None,
    any_head_length: true,
    all_heads: false,
    packed_attention: false,
    gated_queries: false,
    latent: false,
    plain_queries: false,
    attention_bias: false,
    attention_output_bias: false,
    key_norm: KeyNorm::None,
    sinks: false,
    norm_bias: false,
    norms: BEFORE,
    bare_norms: &[],
    embedding_norm: false,
    output_norm: "output_norm",
    feed_forward: FeedForward::Gated,
    feed_forward_bias: false,
    mixture: Mixture::Optional,
    expert_bias: false,
    expert_choice_bias: false,
    tied: Tied::Either,
    output_bias: false,
    windowed: false,
    keys: &[],
};

const GRANITE_SCALES: &[(&str, super::Stated)] = &[
    ("logit_scale", Float(2.0)),
    ("residual_scale", Float(0.7)),
    ("embedding_scale", Float(2.3)),
    ("attention.scale", Float(0.15)),
];

/// With norms that have biases, and biases nearly everywhere.
const PHI2: Family = Family {
    name: "phi2",
    any_head_length: false,
    attention_bias: true,
    attention_output_bias: true,
    norm_bias: true,
    norms: &["attn_norm"],
    feed_forward: FeedForward::Plain,
    feed_forward_bias: true,
    tied: Tied::Never,
    output_bias: true,
    ..LLAMA
};

const GEMMA2: Family = Family {
    name: "gemma2",
    norms: &["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"],
    tied: Tied::Always,
    windowed: true,
    keys: &[
        ("attn_logit_softcapping", Float(50.0)),
        ("final_logit_softcapping", Float(30.0)),
    ],
    ..LLAMA
};

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(stateful::FAMILIES)
}

static FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        name: "mistral3",
        keys: &[("attention.temperature_scale", Float(0.1))],
        ..LLAMA
    },
    Family {
        name: "qwen2",
        any_head_length: false,
        attention_bias: true,
        ..LLAMA
    },
    Family {
        name: "qwen2moe",
        any_head_length: false,
        attention_bias: true,
        mixture: Mixture::GatedShared,
        tied: Tied::Never,
        ..LLAMA
    },
    Family {
        name: "qwen3",
        key_norm: KeyNorm::Head,
        ..LLAMA
    },
    Family {
        name: "qwen3moe",
        key_norm: KeyNorm::Head,
        mixture: Mixture::Own,
        ..LLAMA
    },
    Family {
        name: "gemma",
        tied: Tied::Always,
        ..LLAMA
    },
    GEMMA2,
    Family {
        name: "gemma3",
        key_norm: KeyNorm::Head,
        keys: &[
            ("rope.freq_base_swa", Float(10_000.0)),
            ("rope.freq_base", Float(1_000_000.0)),
        ],
        tied: Tied::Either,
        ..GEMMA2
    },
    PHI2,
    Family {
        name: "phi3",
        any_head_length: false,
        packed_attention: true,
        feed_forward: FeedForward::Packed,
        ..LLAMA
    },
    Family {
        name: "phimoe",
        norms: BEFORE,
        feed_forward: FeedForward::Gated,
        feed_forward_bias: false,
        mixture: Mixture::Wide,
        ..PHI2
    },
    Family {
        name: "granite",
        keys: GRANITE_SCALES,
        ..LLAMA
    },
    Family {
        name: "granitemoe",
        mixture: Mixture::Wide,
        keys: GRANITE_SCALES,
        ..LLAMA
    },
    Family {
        name: "minicpm",
        keys: GRANITE_SCALES,
        ..LLAMA
    },
    Family {
        name: "olmo2",
        any_head_length: false,
        key_norm: KeyNorm::Wide,
        norms: &["post_attention_norm", "post_ffw_norm"],
        tied: Tied::Never,
        ..LLAMA
    },
    Family {
        name: "olmoe",
        any_head_length: false,
        all_heads: true,
        key_norm: KeyNorm::Wide,
        mixture: Mixture::Wide,
        tied: Tied::Never,
        ..LLAMA
    },
    Family {
        name: "smollm3",
        ..LLAMA
    },
    Family {
        name: "starcoder2",
        norms: BEFORE,
        tied: Tied::Either,
        output_bias: false,
        ..PHI2
    },
    Family {
        name: "stablelm",
        any_head_length: false,
        norm_bias: true,
        tied: Tied::Never,
        keys: &[
            ("rope.dimension_count", Count(8)),
            ("use_parallel_residual", Truth(true)),
        ],
        ..LLAMA
    },
    Family {
        name: "internlm2",
        any_head_length: false,
        tied: Tied::Never,
        ..LLAMA
    },
    Family {
        name: "command-r",
        any_head_length: false,
        norms: &["attn_norm"],
        tied: Tied::Always,
        keys: &[("logit_scale", Float(0.0625))],
        ..LLAMA
    },
    Family {
        name: "cohere2",
        any_head_length: false,
        norms: &["attn_norm"],
        tied: Tied::Always,
        windowed: true,
        keys: &[("logit_scale", Float(0.25))],
        ..LLAMA
    },
    Family {
        name: "exaone",
        ..LLAMA
    },
    Family {
        name: "exaone4",
        any_head_length: false,
        key_norm: KeyNorm::Head,
        norms: &["post_attention_norm", "post_ffw_norm"],
        ..LLAMA
    },
    Family {
        name: "nemotron",
        any_head_length: false,
        norm_bias: true,
        feed_forward: FeedForward::Plain,
        tied: Tied::Never,
        keys: &[("rope.dimension_count", Count(8))],
        ..LLAMA
    },
    Family {
        name: "arcee",
        feed_forward: FeedForward::Plain,
        ..LLAMA
    },
    Family {
        name: "seed_oss",
        attention_bias: true,
        norms: &["attn_norm", "post_attention_norm"],
        ..LLAMA
    },
    Family {
        name: "ernie4_5",
        ..LLAMA
    },
    Family {
        name: "hunyuan-dense",
        key_norm: KeyNorm::Head,
        ..LLAMA
    },
    Family {
        name: "deepseek",
        any_head_length: false,
        mixture: Mixture::Shared,
        keys: &[("expert_shared_count", Count(1)), ("expert_weights_scale", Float(1.0))],
        ..LLAMA
    },
    Family {
        name: "deepseek2",
        any_head_length: false,
        latent: true,
        mixture: Mixture::Shared,
        expert_choice_bias: true,
        keys: &[
            ("expert_shared_count", Count(1)),
            ("expert_weights_scale", Float(2.5)),
            ("expert_weights_norm", Truth(true)),
            ("expert_gating_func", Count(2)),
        ],
        ..LLAMA
    },
    Family {
        name: "dots1",
        all_heads: true,
        key_norm: KeyNorm::Head,
        mixture: Mixture::Shared,
        expert_choice_bias: true,
        tied: Tied::Never,
        keys: &[
            ("expert_shared_count", Count(1)),
            ("expert_weights_scale", Float(2.5)),
            ("expert_weights_norm", Truth(true)),
            ("expert_gating_func", Count(2)),
        ],
        ..LLAMA
    },
    Family {
        name: "minimax-m2",
        key_norm: KeyNorm::Wide,
        mixture: Mixture::Wide,
        expert_choice_bias: true,
        tied: Tied::Never,
        keys: &[("expert_gating_func", Count(2)), ("rope.dimension_count", Count(8))],
        ..LLAMA
    },
    Family {
        name: "gpt-oss",
        attention_bias: true,
        attention_output_bias: true,
        sinks: true,
        norms: &["attn_norm", "post_attention_norm"],
        mixture: Mixture::Own,
        expert_bias: true,
        tied: Tied::Never,
        windowed: true,
        ..LLAMA
    },
];
