//! What the architectures' models consist of: a table of their differences, and the tensors that follow from it.

mod attention;
mod feed_forward;
pub(crate) mod state;
mod table;
mod time_mix;

use gguf::Value;

use crate::weights::Format;
use crate::{Experts, Recipe};
use state::State;

/// A part that only some models of an architecture have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// One factor for each rotary frequency, for all layers.
    RotaryFactors,
    /// Two such sets, for short and for long contexts.
    LongRotaryFactors,
    /// Norms of keys and queries with weights of their own for each head.
    NormPerHead,
    /// Queries that are not compressed, where others are.
    PlainQueries,
    /// A last layer, with attention, that only predicts further tokens.
    PredictingLayer,
}

/// A value in the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stated {
    Float(f32),
    Count(u32),
    Truth(bool),
}

impl Stated {
    pub(crate) fn value(self) -> Value {
        match self {
            Self::Float(value) => Value::F32(value),
            Self::Count(value) => Value::U32(value),
            Self::Truth(value) => Value::Bool(value),
        }
    }
}

/// Lengths of compressed attention.
pub(crate) mod latent {
    /// Of compressed queries.
    pub(crate) const QUERY_RANK: u32 = 64;
    /// Of compressed keys and values.
    pub(crate) const RANK: u32 = 32;
    /// Of the part of a key with a rotary position.
    pub(crate) const ROTARY: u32 = 16;
    /// Of the part of a key without.
    pub(crate) const PLAIN: u32 = 32;
    /// Of a value.
    pub(crate) const VALUE: u32 = 16;
}

/// Norms of keys and queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyNorm {
    None,
    /// The same weights for every head.
    Head,
    /// Over all heads together.
    Wide,
}

/// The feed-forward network of a layer without experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedForward {
    /// Gate and up, then down.
    Gated,
    /// Gate and up in one matrix.
    Packed,
    /// Up, then down.
    Plain,
    /// Up, then down, of a token and the one before.
    Shifted {
        /// What comes out is gated by both tokens.
        gated: bool,
    },
}

/// Layers with experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mixture {
    /// None, unless the recipe has experts: then as wide as the feed-forward network.
    Optional,
    /// As wide as the feed-forward network.
    Wide,
    /// Of their own width.
    Own,
    /// Of their own width, beside shared ones of the same.
    Shared,
    /// Of their own width, beside one as wide as the feed-forward network with a gate of its own.
    GatedShared,
}

/// What the layers consist of, and how a file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Attention and a feed-forward network.
    Attention,
    /// A state, and nothing else.
    State,
    /// A state and a feed-forward network.
    StateBeforeFeedForward,
    /// Attention and a state side by side, and a feed-forward network.
    Both,
    /// Attention in every second layer, a state in the others, and a feed-forward network in all. The number of key and value
    /// heads of each layer tells them apart.
    InTurnByHeads,
    /// The same, but all layers have the same heads and the period is stated.
    InTurnByPeriod,
    /// One of the three in each layer; heads and widths of each layer tell.
    OneOfThree,
}

impl Parts {
    /// Whether a layer keeps a state, has attention, and has a feed-forward network.
    pub(crate) fn of(self, layer: u32) -> (bool, bool, bool) {
        match self {
            Self::Attention => (false, true, true),
            Self::State => (true, false, false),
            Self::StateBeforeFeedForward => (true, false, true),
            Self::Both => (true, true, true),
            Self::InTurnByHeads | Self::InTurnByPeriod => {
                let attention = layer % ATTENTION_PERIOD == ATTENTION_PERIOD - 1;
                (!attention, attention, true)
            }
            Self::OneOfThree => {
                let is = |place| layer % 3 == place;
                (is(0), is(1), is(2))
            }
        }
    }
}

/// Of so many layers that take turns the last has attention.
pub(crate) const ATTENTION_PERIOD: u32 = 2;

/// Whether the embedding is the output matrix too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tied {
    Always,
    Never,
    Either,
}

/// How an architecture differs from `llama`.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) parts: Parts,
    pub(crate) state: State,
    pub(crate) any_head_length: bool,
    /// As many key and value heads as heads.
    pub(crate) all_heads: bool,
    pub(crate) packed_attention: bool,
    /// Queries come with a gate of the same size for what attention gives.
    pub(crate) gated_queries: bool,
    /// Keys and values are compressed together, and usually queries too.
    pub(crate) latent: bool,
    /// Queries never are.
    pub(crate) plain_queries: bool,
    pub(crate) attention_bias: bool,
    pub(crate) attention_output_bias: bool,
    pub(crate) key_norm: KeyNorm,
    pub(crate) sinks: bool,
    pub(crate) norm_bias: bool,
    /// Names of a layer's norms over the residual stream's width.
    pub(crate) norms: &'static [&'static str],
    /// Further ones, which are stored without `.weight` behind their names.
    pub(crate) bare_norms: &'static [&'static str],
    /// Looked-up rows have a norm.
    pub(crate) embedding_norm: bool,
    /// Name of the norm before the output.
    pub(crate) output_norm: &'static str,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_bias: bool,
    pub(crate) mixture: Mixture,
    pub(crate) expert_bias: bool,
    pub(crate) expert_choice_bias: bool,
    pub(crate) tied: Tied,
    pub(crate) output_bias: bool,
    pub(crate) windowed: bool,
    pub(crate) keys: &'static [(&'static str, Stated)],
}

impl Family {
    pub(crate) fn least_kv_heads(&self, wanted: u32, heads: u32) -> u32 {
        if self.all_heads { heads } else { wanted }
    }

    pub(crate) fn usual_experts(&self) -> Option<Experts> {
        let experts = Experts {
            count: 4,
            used: 2,
            feed_forward: 32,
            leading_dense: 0,
        };
        (self.mixture != Mixture::Optional).then_some(experts)
    }

    pub(crate) fn usual_window(&self) -> Option<u32> {
        self.windowed.then_some(16)
    }
}

/// The architectures that models can be made of.
pub fn families() -> impl Iterator<Item = &'static str> {
    table::all().map(|family| family.name)
}

pub(crate) fn find(name: &str) -> Option<&'static Family> {
    table::all().find(|family| family.name == name)
}

/// How a tensor's values are chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fill {
    /// Even around a middle.
    Around { middle: f32, spread: f32 },
    /// For a product that keeps sizes.
    Matrix,
}

/// A tensor to write.
#[derive(Debug)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) format: Format,
    pub(crate) fill: Fill,
}

struct Tensors<'a> {
    recipe: &'a Recipe,
    prefix: String,
    all: Vec<TensorSpec>,
}

/// All tensors of a recipe, in the order of the file.
pub(crate) fn tensors(recipe: &Recipe) -> Vec<TensorSpec> {
    let family = recipe.family;
    let mut tensors = Tensors {
        recipe,
        prefix: String::new(),
        all: Vec::new(),
    };
    // Large enough that what a layer adds leaves a token recognisable.
    let spread = Fill::Around {
        middle: 0.0,
        spread: 0.7,
    };
    tensors.push(
        "token_embd.weight",
        &[recipe.width, recipe.vocabulary],
        recipe.format,
        spread,
    );
    if family.embedding_norm {
        tensors.norm("token_embd_norm", recipe.width);
    }
    if recipe.features.contains(&Feature::RotaryFactors) {
        tensors.factors("rope_freqs.weight", recipe.head() / 2);
    }
    if recipe.features.contains(&Feature::LongRotaryFactors) {
        tensors.factors("rope_factors_long.weight", recipe.head() / 2);
        tensors.factors("rope_factors_short.weight", recipe.head() / 2);
    }
    for layer in 0..recipe.layers {
        tensors.prefix = format!("blk.{layer}.");
        for norm in family.norms {
            tensors.norm(norm, recipe.width);
        }
        for norm in family.bare_norms {
            tensors.around(norm, &[recipe.width], 1.0, 0.3);
        }
        let (state, attention, feed_forward) = family.parts.of(layer);
        if state {
            tensors.state();
        }
        if attention {
            tensors.attention();
        }
        if feed_forward {
            tensors.feed_forward(layer);
        }
        if layer + 1 == recipe.layers && recipe.features.contains(&Feature::PredictingLayer) {
            tensors.prediction();
        }
    }
    tensors.prefix = String::new();
    tensors.norm(family.output_norm, recipe.width);
    let tied = match family.tied {
        Tied::Always => true,
        Tied::Never => false,
        Tied::Either => recipe.tied,
    };
    if !tied {
        tensors.matrix("output.weight", &[recipe.width, recipe.vocabulary]);
    }
    if family.output_bias {
        tensors.bias("output", &[recipe.vocabulary]);
    }
    tensors.all
}

impl Tensors<'_> {
    fn push(&mut self, name: &str, dimensions: &[u32], format: Format, fill: Fill) {
        self.all.push(TensorSpec {
            name: format!("{}{name}", self.prefix),
            dimensions: dimensions.iter().map(|size| u64::from(*size)).collect(),
            format,
            fill,
        });
    }

    fn matrix(&mut self, name: &str, dimensions: &[u32]) {
        self.push(name, dimensions, self.recipe.format, Fill::Matrix);
    }

    fn around(&mut self, name: &str, dimensions: &[u32], middle: f32, spread: f32) {
        self.push(name, dimensions, Format::F32, Fill::Around { middle, spread });
    }

    fn bias(&mut self, name: &str, dimensions: &[u32]) {
        self.around(&format!("{name}.bias"), dimensions, 0.0, 0.03);
    }

    fn norm(&mut self, name: &str, width: u32) {
        self.around(&format!("{name}.weight"), &[width], 1.0, 0.3);
        if self.recipe.family.norm_bias {
            self.bias(name, &[width]);
        }
    }

    fn factors(&mut self, name: &str, count: u32) {
        self.around(name, &[count], 2.0, 0.9);
    }

    /// What brings a token's row and the residual stream together again.
    fn prediction(&mut self) {
        let width = self.recipe.width;
        self.matrix("nextn.eh_proj.weight", &[2 * width, width]);
        self.norm("nextn.enorm", width);
        self.norm("nextn.hnorm", width);
    }
}
