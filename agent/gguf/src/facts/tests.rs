use super::*;
use crate::fixture::{TOKENS, WIDTH, llama, real_model};
use crate::value::Value;

#[test]
fn facts_come_from_the_header() {
    let facts = model_facts(&llama(3).untied().with_rotary_factors().gguf()).unwrap();
    assert_eq!(
        (facts.architecture.as_str(), facts.layers, facts.quantisation.as_str()),
        ("llama", 3, "Q4_1")
    );
    assert_eq!((facts.embedding_length, facts.vocabulary_size), (WIDTH, TOKENS));
    assert_eq!(
        (facts.heads, facts.kv_heads, facts.key_length, facts.value_length),
        (2, 1, 32, 32)
    );
    assert_eq!(facts.kv_elements_per_token_per_layer, 64);
    assert_eq!(facts.context_length_trained, 128);
    assert_eq!(facts.layer_bytes, [256 + 120; 3]);
    assert_eq!(facts.layer_active_bytes, facts.layer_bytes, "a token reads all of them");
    assert_eq!(
        (facts.embedding_bytes, facts.output_bytes, facts.shared_bytes),
        (200, 256 + 200, 64)
    );
    assert_eq!(facts.parameters, 2 * 64 * 5 + 16 + 3 * (64 + 192) + 64);
    assert_eq!(
        (facts.allowed_cuts, facts.whole_because, facts.tied),
        (vec![1, 2], None, false)
    );
    assert!(facts.group_sizes.is_empty(), "its layers have no attention");
}

#[test]
fn kv_follows_the_layer_with_the_most_heads_and_the_stated_head_length() {
    let model = llama(3)
        .with_kv_heads(&[1, 4, 2])
        .with("llama.attention.key_length", Value::U32(48));
    let facts = model_facts(&model.gguf()).unwrap();
    assert_eq!(
        (facts.kv_heads, facts.kv_elements_per_token_per_layer),
        (4, 4 * (48 + 32))
    );
    assert_eq!(facts.layer_kv_elements, [80, 4 * 80, 2 * 80], "each layer its own");
    assert_eq!(facts.layer_state_bytes, [0; 3]);
}

/// A model of an architecture with numbers under these keys, and so many key and value heads in its layers.
fn keeping(architecture: &'static str, kv_heads: &[u32], numbers: &[(&str, u32)]) -> Facts {
    let mut model = llama(kv_heads.len() as u32).of(architecture).with_kv_heads(kv_heads);
    for (key, number) in numbers {
        model = model.with(&format!("{architecture}.{key}"), Value::U32(*number));
    }
    model_facts(&model.gguf()).unwrap()
}

/// Keys and values of one token, at one head of 32 + 32.
const KV: u32 = 64;

/// A kernel of 4 over 8 channels with 3 values each; 2 groups.
const SCAN: [(&str, u32); 4] = [
    ("ssm.conv_kernel", 4),
    ("ssm.inner_size", 8),
    ("ssm.state_size", 3),
    ("ssm.group_count", 2),
];

#[test]
fn layers_without_key_and_value_heads_keep_a_state_and_the_others_keys_and_values() {
    let facts = keeping("jamba", &[0, 1, 0], &SCAN);
    assert_eq!(facts.layer_kv_elements, [0, KV, 0]);
    let state = 4 * (3 * 8 + 8 * 3);
    assert_eq!(
        facts.layer_state_bytes,
        [state, 0, state],
        "its groups are not convolved"
    );
    assert_eq!(facts.kv_elements_per_token_per_layer, KV);

    let facts = keeping("granitehybrid", &[0, 1, 0], &SCAN);
    let state = 4 * (3 * (8 + 2 * 2 * 3) + 8 * 3);
    assert_eq!(facts.layer_state_bytes, [state, 0, state]);

    let facts = keeping("lfm2", &[0, 1, 0], &[("shortconv.l_cache", 3)]);
    let state = 4 * 2 * u64::from(WIDTH);
    assert_eq!(facts.layer_state_bytes, [state, 0, state]);

    let facts = keeping(
        "kimi-linear",
        &[0, 1, 0],
        &[("ssm.conv_kernel", 4), ("kda.head_dim", 16)],
    );
    let state = 4 * (3 * 3 * (2 * 16) + 2 * 16 * 16);
    assert_eq!(facts.layer_state_bytes, [state, 0, state]);
    assert_eq!(facts.layer_kv_elements, [0, KV, 0]);
}

#[test]
fn of_keys_and_values_that_are_compressed_together_keys_alone_are_kept() {
    // As DeepSeek-V3 and Kimi Linear have them: 512 compressed values, 64 with a rotary position, one head.
    let compressed = [("attention.key_length", 576), ("attention.value_length", 512)];
    let decompressed = [("attention.key_length_mla", 192), ("attention.value_length_mla", 128)];
    let numbers = [compressed, decompressed].concat();
    let facts = keeping("deepseek2", &[1, 1], &numbers);
    assert_eq!(facts.layer_kv_elements, [576; 2]);
    assert_eq!((facts.key_length, facts.value_length), (576, 512), "as the file says");

    // Two heads of 128 in layers with states: three convolutions of 4, and a square for each head.
    let states = [("ssm.conv_kernel", 4), ("kda.head_dim", 128)];
    let facts = keeping("kimi-linear", &[0, 1, 0], &[&numbers[..], &states].concat());
    let state = 4 * (3 * 3 * (2 * 128) + 2 * 128 * 128);
    assert_eq!(facts.layer_kv_elements, [0, 576, 0]);
    assert_eq!(facts.layer_state_bytes, [state, 0, state]);

    // Older files have them decompressed, and other architectures read no such lengths.
    let facts = keeping("deepseek2", &[1, 1], &compressed);
    assert_eq!(facts.layer_kv_elements, [576 + 512; 2]);
    let facts = keeping("llama", &[1, 1], &numbers);
    assert_eq!(facts.layer_kv_elements, [576 + 512; 2]);
}

#[test]
fn layers_that_only_predict_further_tokens_keep_nothing() {
    let predicting = ("nextn_predict_layers", 1);
    for architecture in ["glm4moe", "deepseek2"] {
        let facts = keeping(architecture, &[1; 3], &[predicting]);
        assert_eq!(facts.layer_kv_elements, [KV, KV, 0], "{architecture}");
    }
    let numbers = [&SCAN[..], &[predicting, ("full_attention_interval", 2)]].concat();
    for architecture in ["qwen3next", "qwen35", "qwen35moe"] {
        let facts = keeping(architecture, &[1; 4], &numbers);
        assert_eq!(facts.layer_kv_elements, [0, KV, 0, 0], "{architecture}");
        let keeps: Vec<_> = facts.layer_state_bytes.iter().map(|bytes| *bytes > 0).collect();
        assert_eq!(keeps, [true, false, true, false], "{architecture}");
    }
    // A draft model has no others.
    let facts = keeping("glm4moe", &[1], &[predicting]);
    assert_eq!(facts.layer_kv_elements, [KV]);
}

#[test]
fn a_model_of_states_alone_keeps_no_keys_and_values_whatever_heads_it_states() {
    let facts = keeping("mamba", &[1, 1], &SCAN);
    assert_eq!(facts.layer_state_bytes, [4 * (3 * 8 + 8 * 3); 2]);
    assert_eq!(facts.layer_kv_elements, [0; 2]);
    assert_eq!(facts.kv_elements_per_token_per_layer, 0);

    let facts = keeping("rwkv7", &[1, 1], &[("wkv.head_size", 16)]);
    let width = u64::from(WIDTH);
    assert_eq!(facts.layer_state_bytes, [4 * (2 * width + 16 * width); 2]);
    let facts = keeping(
        "rwkv6qwen2",
        &[1, 1],
        &[("wkv.head_size", 16), ("token_shift_count", 1)],
    );
    assert_eq!(facts.layer_state_bytes, [4 * (width + 16 * width); 2]);
}

#[test]
fn a_layer_may_keep_both_or_nothing() {
    let state = 4 * (3 * (8 + 2 * 2 * 3) + 8 * 3);
    let facts = keeping("falcon-h1", &[1, 1], &SCAN);
    assert_eq!(
        (facts.layer_kv_elements, facts.layer_state_bytes),
        (vec![KV; 2], vec![state; 2])
    );

    let model = llama(3).of("nemotron_h").with_kv_heads(&[0, 1, 0]).with(
        "nemotron_h.feed_forward_length",
        Value::Array(crate::Array::of_u32([0, 0, 96])),
    );
    let model = SCAN.iter().fold(model, |model, (key, number)| {
        model.with(&format!("nemotron_h.{key}"), Value::U32(*number))
    });
    let facts = model_facts(&model.gguf()).unwrap();
    assert_eq!(
        (facts.layer_kv_elements, facts.layer_state_bytes),
        (vec![0, KV, 0], vec![state, 0, 0])
    );
}

#[test]
fn layers_that_take_turns_are_listed_or_follow_a_period_and_those_that_only_predict_keep_no_state() {
    let state = 4 * (3 * (8 + 2 * 2 * 3) + 8 * 3);
    let keeps = |numbers: &[(&str, u32)]| {
        let numbers: Vec<_> = SCAN.iter().chain(numbers).copied().collect();
        let facts = keeping("qwen3next", &[1; 5], &numbers);
        facts
            .layer_state_bytes
            .iter()
            .map(|bytes| *bytes == state)
            .collect::<Vec<_>>()
    };
    assert_eq!(keeps(&[]), [true, true, true, false, true]);
    assert_eq!(
        keeps(&[("full_attention_interval", 2)]),
        [true, false, true, false, true]
    );
    assert_eq!(keeps(&[("nextn_predict_layers", 1)]), [true, true, true, false, false]);

    let listed = llama(3).of("qwen35").with(
        "qwen35.attention.recurrent_layers",
        Value::Array(crate::Array::of_bools([false, true, false])),
    );
    let listed = SCAN.iter().fold(listed, |model, (key, number)| {
        model.with(&format!("qwen35.{key}"), Value::U32(*number))
    });
    let facts = model_facts(&listed.gguf()).unwrap();
    assert_eq!(
        (facts.layer_kv_elements, facts.layer_state_bytes),
        (vec![KV, 0, KV], vec![0, state, 0])
    );
}

#[test]
fn of_a_mixture_of_experts_a_token_reads_those_it_is_sent_to() {
    let model = |used| {
        let experts = llama(2)
            .with("llama.expert_count", Value::U32(4))
            .with("llama.expert_used_count", Value::U32(used));
        let mut gguf = experts.gguf();
        for tensor in &mut gguf.tensors {
            tensor.name = tensor.name.replace("ffn_up.", "ffn_up_exps.");
        }
        gguf
    };
    let of_experts: u64 = model(1)
        .tensors
        .iter()
        .filter(|tensor| tensor.name.starts_with("blk.0.ffn_up_exps."))
        .map(|tensor| tensor.size_bytes)
        .sum();
    assert!(of_experts > 0);
    let facts = model_facts(&model(1)).unwrap();
    assert_eq!(facts.layer_active_bytes, [facts.layer_bytes[0] - of_experts * 3 / 4; 2]);
    let facts = model_facts(&model(4)).unwrap();
    assert_eq!(facts.layer_active_bytes, facts.layer_bytes);
}

#[test]
fn the_longer_heads_of_windowed_layers_count() {
    let model = llama(3).with("llama.attention.key_length_swa", Value::U32(256));
    let facts = model_facts(&model.gguf()).unwrap();
    assert_eq!((facts.key_length, facts.value_length), (256, 32));
    assert_eq!(facts.kv_elements_per_token_per_layer, 256 + 32);
}

#[test]
fn the_quantisation_is_found_without_a_stated_file_type() {
    let gguf = without(llama(20).gguf(), "general.file_type");
    assert_eq!(model_facts(&gguf).unwrap().quantisation, "F32");
}

#[test]
fn a_missing_hyperparameter_is_named() {
    let error = model_facts(&without(llama(1).gguf(), "llama.context_length")).unwrap_err();
    assert!(error.to_string().contains("`llama.context_length`"), "{error}");
}

fn without(mut gguf: Gguf, key: &str) -> Gguf {
    let mut metadata = crate::Metadata::default();
    for (known, value) in gguf.metadata.iter().filter(|(known, _)| *known != key) {
        metadata.insert(known, value.clone());
    }
    gguf.metadata = metadata;
    gguf
}

#[test]
fn a_real_model_has_the_facts_it_is_known_for() {
    let Some(path) = real_model() else { return };
    if !path.ends_with("SmolLM2-135M-Instruct.Q4_1.gguf") {
        println!("SKIPPED: {} is not the model these figures are of", path.display());
        return;
    }
    let facts = model_facts(&Gguf::open(&path).unwrap()).unwrap();
    assert_eq!(
        (facts.architecture.as_str(), facts.layers, facts.quantisation.as_str()),
        ("llama", 30, "Q4_1")
    );
    assert_eq!(
        (facts.embedding_length, facts.heads, facts.kv_heads, facts.key_length),
        (576, 9, 3, 64)
    );
    assert_eq!((facts.vocabulary_size, facts.parameters), (49_152, 134_515_008));
    assert_eq!((facts.kv_elements_per_token_per_layer, facts.tied), (384, true));
    assert_eq!(facts.allowed_cuts.len(), 29);
    assert_eq!(facts.group_sizes, [3], "it has three key and value heads");
}
