//! What a model says of itself.

use gguf::{Array, Value};

use crate::family::{Parts, latent, state};
use crate::vocabulary;
use crate::{Feature, Recipe};

/// All entries, each key once.
pub(crate) fn entries(recipe: &Recipe) -> Vec<(String, Value)> {
    let name = recipe.architecture();
    let mut entries = vec![
        ("general.architecture".to_owned(), Value::string(name)),
        ("general.name".to_owned(), Value::string("Random weights")),
        ("general.file_type".to_owned(), Value::U32(recipe.format.file_type())),
    ];
    for (key, value) in hyperparameters(recipe) {
        entries.push((format!("{name}.{key}"), value));
    }
    entries.extend(vocabulary::entries(recipe.vocabulary));
    entries
}

/// The recipe's own take the place of the usual ones.
fn hyperparameters(recipe: &Recipe) -> Vec<(String, Value)> {
    let mut all = recipe.hyperparameters.clone();
    for (key, value) in usual(recipe) {
        if all.iter().all(|(known, _)| known != key) {
            all.push((key.to_owned(), value));
        }
    }
    all
}

fn usual(recipe: &Recipe) -> Vec<(&'static str, Value)> {
    let mut all = vec![
        ("block_count", Value::U32(recipe.layers)),
        ("context_length", Value::U32(recipe.context_length)),
        ("embedding_length", Value::U32(recipe.width)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("attention.layer_norm_epsilon", Value::F32(1e-5)),
        ("vocab_size", Value::U32(recipe.vocabulary)),
    ];
    all.extend(state::keys(recipe));
    all.extend(layer_keys(recipe));
    if recipe.family.any_head_length {
        all.push(("attention.key_length", Value::U32(recipe.head())));
        all.push(("attention.value_length", Value::U32(recipe.head())));
    }
    if recipe.family.latent {
        all.extend(latent_keys(recipe));
    }
    all.extend(
        recipe
            .window
            .map(|window| ("attention.sliding_window", Value::U32(window))),
    );
    if let Some(experts) = recipe.experts {
        all.push(("expert_count", Value::U32(experts.count)));
        all.push(("expert_used_count", Value::U32(experts.used)));
        all.push(("expert_feed_forward_length", Value::U32(experts.feed_forward)));
        all.push(("leading_dense_block_count", Value::U32(experts.leading_dense)));
    }
    if recipe.features.contains(&Feature::PredictingLayer) {
        all.push(("nextn_predict_layers", Value::U32(1)));
    }
    all.extend(recipe.family.keys.iter().map(|(key, value)| (*key, value.value())));
    all
}

fn layer_keys(recipe: &Recipe) -> Vec<(&'static str, Value)> {
    let parts = recipe.family.parts;
    if matches!(parts, Parts::State | Parts::StateBeforeFeedForward) {
        // Such models say that they have no heads, and some that they have no feed-forward network either.
        let width = if parts == Parts::State { 0 } else { recipe.feed_forward };
        return vec![
            ("feed_forward_length", Value::U32(width)),
            ("attention.head_count", Value::U32(0)),
        ];
    }
    let kv_heads = if recipe.family.latent { 1 } else { recipe.kv_heads };
    let by_layer = |number: u32, has: fn((bool, bool, bool)) -> bool| {
        let of = |layer| if has(parts.of(layer)) { number } else { 0 };
        Value::Array(Array::of_u32((0..recipe.layers).map(of)))
    };
    let kv_heads = match parts {
        Parts::InTurnByHeads | Parts::OneOfThree => by_layer(kv_heads, |(_, attention, _)| attention),
        _ => Value::U32(kv_heads),
    };
    let feed_forward = match parts {
        Parts::OneOfThree => by_layer(recipe.feed_forward, |(_, _, feed_forward)| feed_forward),
        _ => Value::U32(recipe.feed_forward),
    };
    vec![
        ("feed_forward_length", feed_forward),
        ("attention.head_count", Value::U32(recipe.heads)),
        ("attention.head_count_kv", kv_heads),
        ("rope.freq_base", Value::F32(10_000.0)),
    ]
}

/// The cache holds what keys and values are computed from: one head's worth.
fn latent_keys(recipe: &Recipe) -> Vec<(&'static str, Value)> {
    let mut all = vec![
        ("attention.kv_lora_rank", latent::RANK),
        ("attention.key_length", latent::RANK + latent::ROTARY),
        ("attention.value_length", latent::RANK),
        ("attention.key_length_mla", latent::PLAIN + latent::ROTARY),
        ("attention.value_length_mla", latent::VALUE),
        ("rope.dimension_count", latent::ROTARY),
    ];
    if !recipe.has_plain_queries() {
        all.push(("attention.q_lora_rank", latent::QUERY_RANK));
    }
    all.into_iter().map(|(key, number)| (key, Value::U32(number))).collect()
}
