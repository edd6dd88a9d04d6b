//! Every architecture that may be cut gives the whole model's numbers at every cut, shown on models with random
//! weights and the published layer counts.
//!
//! For each case, llama.cpp's own loop runs on the whole file, and the slices on the pieces of it. Logits are compared
//! bit for bit at every position of the prompt and of the greedy answer. One size of an architecture is cut at every
//! allowed point; further sizes at both ends and at some points between. Each is also run whole and in three slices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod comparison;

use comparison::{Cuts, compare, notice};
use gguf::Value;
use modelgen::{Experts, Feature, Recipe};

/// A model of `architecture` with its usual tiny widths and `layers` layers.
fn model(architecture: &str, layers: u32) -> Recipe {
    let mut recipe = Recipe::new(architecture).unwrap();
    recipe.layers = layers;
    recipe
}

/// The shape that most architectures allow: heads whose length is not width / heads.
fn long_heads(architecture: &str, layers: u32) -> Recipe {
    let mut recipe = model(architecture, layers);
    recipe.head_length = Some(24);
    recipe
}

fn untied(mut recipe: Recipe) -> Recipe {
    recipe.tied = false;
    recipe
}

fn with_window(mut recipe: Recipe, window: Option<u32>) -> Recipe {
    recipe.window = window;
    recipe
}

fn with_feature(mut recipe: Recipe, feature: Feature) -> Recipe {
    recipe.features.push(feature);
    recipe
}

fn mixture(mut recipe: Recipe, leading_dense: u32) -> Recipe {
    recipe.experts = Some(Experts {
        count: 8,
        used: 2,
        feed_forward: 32,
        leading_dense,
    });
    recipe
}

/// Rotary scaling that a model states for contexts beyond `original` positions.
fn scaled_rotation(recipe: Recipe, kind: &str, original: u32) -> Recipe {
    recipe
        .with("rope.scaling.type", Value::string(kind))
        .with("rope.scaling.factor", Value::F32(4.0))
        .with("rope.scaling.original_context_length", Value::U32(original))
}

/// One test for each model, so that each shows by name.
macro_rules! split_equals_whole {
    ($($name:ident: $cuts:ident, $recipe:expr;)*) => {
        $(
            #[test]
            fn $name() {
                compare(&$recipe, Cuts::$cuts);
            }
        )*
    };
}

split_equals_whole! {
    // Llama 3.2 1B and 3B, TinyLlama, Llama 3 8B and Mistral 7B, Llama 70B, Mixtral 8x7B.
    llama_16_layers_rotary_factors: Every, with_feature(model("llama", 16), Feature::RotaryFactors);
    llama_22_layers_untied: Spread, untied(long_heads("llama", 22));
    llama_28_layers: Spread, with_feature(long_heads("llama", 28), Feature::RotaryFactors);
    llama_32_layers_untied_yarn: Spread, untied(scaled_rotation(long_heads("llama", 32), "yarn", 64));
    llama_80_layers_untied_linear: Spread, untied(scaled_rotation(model("llama", 80), "linear", 64));
    llama_32_layers_experts: Spread, untied(mixture(model("llama", 32), 0));
    // Ministral 3B, Mistral Small 24B.
    mistral3_26_layers: Every, scaled_rotation(long_heads("mistral3", 26), "yarn", 32);
    mistral3_40_layers_untied: Spread, untied(long_heads("mistral3", 40));
    // 0.5B, 7B, 3B, 14B, 72B.
    qwen2_24_layers: Every, model("qwen2", 24);
    qwen2_28_layers_untied: Spread, untied(model("qwen2", 28));
    qwen2_36_layers: Spread, model("qwen2", 36);
    qwen2_48_layers_untied: Spread, untied(model("qwen2", 48));
    qwen2_80_layers_untied: Spread, untied(model("qwen2", 80));
    // A2.7B.
    qwen2moe_24_layers: Every, mixture(model("qwen2moe", 24), 0);
    // 0.6B and 1.7B, 4B and 8B, 32B.
    qwen3_28_layers: Every, long_heads("qwen3", 28);
    qwen3_36_layers_untied: Spread, untied(long_heads("qwen3", 36));
    qwen3_64_layers_untied: Spread, untied(long_heads("qwen3", 64));
    // 30B-A3B, 235B-A22B.
    qwen3moe_48_layers_untied: Every, untied(mixture(long_heads("qwen3moe", 48), 0));
    qwen3moe_94_layers: Spread, mixture(long_heads("qwen3moe", 94), 0);
    // 2B, 7B.
    gemma_18_layers: Every, long_heads("gemma", 18);
    gemma_28_layers: Spread, long_heads("gemma", 28);
    // 2B, 9B.
    gemma2_26_layers: Every, long_heads("gemma2", 26);
    gemma2_42_layers: Spread, long_heads("gemma2", 42);
    // 270M, 1B, 4B, 12B.
    gemma3_18_layers: Every, long_heads("gemma3", 18);
    gemma3_26_layers: Every, long_heads("gemma3", 26);
    gemma3_34_layers_stated_pattern: Spread, with_pattern(long_heads("gemma3", 34), 6);
    gemma3_48_layers_untied: Spread, untied(long_heads("gemma3", 48));
    gemma3_32_layers_without_window: Spread, with_window(long_heads("gemma3", 32), None);
    // phi-1.5, phi-2.
    phi2_24_layers: Every, model("phi2", 24);
    phi2_32_layers: Spread, model("phi2", 32);
    // Phi-3 mini and Phi-4 mini, Phi-3 medium and Phi-4; beyond and within the context they were first trained for.
    phi3_32_layers_long_factors: Every, with_feature(scaled_phi(model("phi3", 32), 64), Feature::LongRotaryFactors);
    phi3_32_layers_short_factors_untied:
        Spread, untied(with_feature(scaled_phi(model("phi3", 32), 4096), Feature::LongRotaryFactors));
    phi3_40_layers_untied_window: Spread, with_window(untied(model("phi3", 40)), Some(16));
    phimoe_32_layers: Every, with_feature(mixture(scaled_phi(model("phimoe", 32), 64), 0), Feature::LongRotaryFactors);
    // 2B and 8B, 3B code.
    granite_40_layers: Every, long_heads("granite", 40);
    granite_32_layers_untied: Spread, untied(long_heads("granite", 32));
    // 1B-A400M, 3B-A800M.
    granitemoe_24_layers: Every, mixture(long_heads("granitemoe", 24), 0);
    granitemoe_32_layers_untied: Spread, untied(mixture(long_heads("granitemoe", 32), 0));
    // 2B, 1B.
    minicpm_40_layers: Every, long_heads("minicpm", 40);
    minicpm_52_layers_untied: Spread, untied(long_heads("minicpm", 52));
    // 1B, 7B, 32B; the third generation has windows.
    olmo2_16_layers: Every, model("olmo2", 16);
    olmo2_32_layers_windows: Every, with_window(scaled_rotation(model("olmo2", 32), "yarn", 64), Some(16));
    olmo2_64_layers_windows: Spread, with_window(model("olmo2", 64), Some(16));
    olmo2_40_layers: Spread, model("olmo2", 40);
    olmoe_16_layers: Every, mixture(model("olmoe", 16), 0);
    smollm3_36_layers: Every, long_heads("smollm3", 36);
    smollm3_36_layers_untied: Spread, untied(long_heads("smollm3", 36));
    // 3B, 7B, 15B.
    starcoder2_30_layers: Every, model("starcoder2", 30);
    starcoder2_32_layers_untied: Spread, untied(model("starcoder2", 32));
    starcoder2_40_layers: Spread, model("starcoder2", 40);
    // 2 1.6B, 3B, 2 12B.
    stablelm_24_layers: Every, model("stablelm", 24);
    stablelm_32_layers: Spread, model("stablelm", 32);
    stablelm_40_layers_norm_per_head: Spread, with_feature(model("stablelm", 40), Feature::NormPerHead);
    // 1.8B, 7B, 20B.
    internlm2_24_layers: Every, model("internlm2", 24);
    internlm2_48_layers: Spread, model("internlm2", 48);
    command_r_40_layers: Every, model("command-r", 40);
    // R7B, A.
    cohere2_32_layers: Every, model("cohere2", 32);
    cohere2_64_layers: Spread, model("cohere2", 64);
    // 7.8B, 2.4B, 32B.
    exaone_32_layers_untied: Every, untied(with_feature(long_heads("exaone", 32), Feature::RotaryFactors));
    exaone_30_layers: Spread, long_heads("exaone", 30);
    exaone_64_layers_untied: Spread, untied(long_heads("exaone", 64));
    exaone4_30_layers: Every, with_feature(model("exaone4", 30), Feature::RotaryFactors);
    // Minitron 4B and 8B, 15B is of the same number.
    nemotron_32_layers: Every, model("nemotron", 32);
    arcee_36_layers_untied: Every, untied(scaled_rotation(long_heads("arcee", 36), "yarn", 64));
    seed_oss_64_layers_untied: Every, untied(long_heads("seed_oss", 64));
    ernie4_5_18_layers: Every, long_heads("ernie4_5", 18);
    // 0.5B, 1.8B to 7B.
    hunyuan_dense_24_layers: Every, long_heads("hunyuan-dense", 24);
    hunyuan_dense_32_layers: Spread, long_heads("hunyuan-dense", 32);
    deepseek_28_layers_untied: Every, untied(mixture(model("deepseek", 28), 1));
    // V2 Lite, V2, V3 and R1.
    deepseek2_27_layers_untied_lite: Every, with_feature(untied(mixture(model("deepseek2", 27), 1)), Feature::PlainQueries);
    deepseek2_60_layers: Every, mixture(model("deepseek2", 60), 1);
    deepseek2_61_layers_untied: Every, untied(scaled_rotation(mixture(model("deepseek2", 61), 3), "yarn", 64));
    dots1_62_layers: Every, mixture(long_heads("dots1", 62), 1);
    minimax_m2_62_layers: Every, mixture(long_heads("minimax-m2", 62), 0);
    // 20B, 120B.
    gpt_oss_24_layers: Every, scaled_rotation(mixture(long_heads("gpt-oss", 24), 0), "yarn", 64);
    gpt_oss_36_layers: Spread, mixture(long_heads("gpt-oss", 36), 0);
}

/// Long rotary factors begin where a context exceeds `original` positions.
fn scaled_phi(recipe: Recipe, original: u32) -> Recipe {
    recipe
        .with("rope.scaling.original_context_length", Value::U32(original))
        .with("rope.scaling.attn_factor", Value::F32(1.19))
}

/// Says which layers have windows, as newer files do: all but each last of `period`.
fn with_pattern(recipe: Recipe, period: u32) -> Recipe {
    let windows = (0..recipe.layers).map(|layer| layer % period != period - 1);
    let pattern = gguf::Array::of_bools(windows.collect::<Vec<_>>());
    recipe.with("attention.sliding_window_pattern", Value::Array(pattern))
}

/// Each splittable architecture must have a case above: their names begin with the architecture's.
#[test]
fn no_architecture_is_splittable_without_a_case() {
    let cases = include_str!("main.rs");
    for name in gguf::architecture::splittable() {
        let begins = format!("    {}_", name.replace('-', "_"));
        let shown = cases
            .lines()
            .any(|line| line.starts_with(&begins) && line.contains("_layers"));
        assert!(shown, "{name}");
    }
}

#[test]
fn what_slices_say_in_place_of_implied_rules_matters() {
    notice(&long_heads("gemma3", 18), 6, "gemma3.attention.sliding_window_pattern");
    notice(&long_heads("gemma2", 26), 4, "gemma2.attention.sliding_window_pattern");
    notice(&long_heads("granite", 40), 7, "granite.embedding_scale");
    notice(&model("gpt-oss", 24), 2, "gpt-oss.attention.sliding_window_pattern");
}
