//! Those of the architectures whose layers keep states.

use super::{Count, Family, FeedForward, Float, KeyNorm, LLAMA, Mixture, Parts, State, Tied};
use crate::family::ATTENTION_PERIOD;

/// Mixes each token with the one before, in both parts of a layer.
const RWKV6: Family = Family {
    name: "rwkv6",
    parts: Parts::StateBeforeFeedForward,
    state: State::SixthTimeMix { bonus: true },
    any_head_length: false,
    norm_bias: true,
    norms: &["attn_norm", "attn_norm_2"],
    embedding_norm: true,
    feed_forward: FeedForward::Shifted { gated: true },
    tied: Tied::Never,
    ..LLAMA
};

/// The same in place of attention, in layers that are otherwise those of `qwen2`.
const RWKV_OF_QWEN2: Family = Family {
    parts: Parts::StateBeforeFeedForward,
    any_head_length: false,
    tied: Tied::Never,
    ..LLAMA
};

const LFM2: Family = Family {
    name: "lfm2",
    parts: Parts::InTurnByHeads,
    state: State::Convolution,
    any_head_length: false,
    key_norm: KeyNorm::Head,
    output_norm: "token_embd_norm",
    ..LLAMA
};

const QWEN35: Family = Family {
    name: "qwen35",
    parts: Parts::InTurnByPeriod,
    state: State::Delta { packed_gates: false },
    gated_queries: true,
    key_norm: KeyNorm::Head,
    norms: &["attn_norm", "post_attention_norm"],
    keys: &[("full_attention_interval", Count(ATTENTION_PERIOD))],
    ..LLAMA
};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "mamba",
        parts: Parts::State,
        state: State::Channels { norms: false },
        any_head_length: false,
        norms: &["attn_norm"],
        ..LLAMA
    },
    Family {
        name: "mamba2",
        parts: Parts::State,
        state: State::Heads,
        any_head_length: false,
        norms: &["attn_norm"],
        ..LLAMA
    },
    RWKV6,
    Family {
        name: "rwkv6qwen2",
        state: State::SixthTimeMix { bonus: false },
        ..RWKV_OF_QWEN2
    },
    Family {
        name: "rwkv7",
        state: State::SeventhTimeMix,
        feed_forward: FeedForward::Shifted { gated: false },
        ..RWKV6
    },
    Family {
        name: "arwkv7",
        state: State::SeventhTimeMix,
        ..RWKV_OF_QWEN2
    },
    Family {
        name: "jamba",
        parts: Parts::InTurnByHeads,
        state: State::Channels { norms: true },
        any_head_length: false,
        ..LLAMA
    },
    Family {
        name: "falcon-h1",
        parts: Parts::Both,
        state: State::Heads,
        norms: &["attn_norm"],
        bare_norms: &["ffn_norm"],
        ..LLAMA
    },
    Family {
        name: "granitehybrid",
        parts: Parts::InTurnByHeads,
        state: State::Heads,
        keys: &[("logit_scale", Float(2.0)), ("attention.scale", Float(0.15))],
        ..LLAMA
    },
    Family {
        name: "nemotron_h",
        parts: Parts::OneOfThree,
        state: State::Heads,
        norms: &["attn_norm"],
        feed_forward: FeedForward::Plain,
        ..LLAMA
    },
    LFM2,
    Family {
        name: "lfm2moe",
        mixture: Mixture::Own,
        expert_choice_bias: true,
        keys: &[("expert_gating_func", Count(2))],
        ..LFM2
    },
    Family {
        name: "qwen3next",
        parts: Parts::InTurnByPeriod,
        state: State::Delta { packed_gates: true },
        gated_queries: true,
        key_norm: KeyNorm::Head,
        norms: &["attn_norm", "post_attention_norm"],
        mixture: Mixture::GatedShared,
        keys: &[("full_attention_interval", Count(ATTENTION_PERIOD))],
        ..LLAMA
    },
    QWEN35,
    Family {
        name: "qwen35moe",
        mixture: Mixture::GatedShared,
        ..QWEN35
    },
    Family {
        name: "kimi-linear",
        parts: Parts::InTurnByHeads,
        state: State::ChannelDelta,
        any_head_length: false,
        latent: true,
        plain_queries: true,
        mixture: Mixture::Shared,
        expert_choice_bias: true,
        tied: Tied::Never,
        keys: &[
            ("expert_shared_count", Count(1)),
            ("expert_weights_scale", Float(2.5)),
            ("expert_gating_func", Count(2)),
        ],
        ..LLAMA
    },
];
