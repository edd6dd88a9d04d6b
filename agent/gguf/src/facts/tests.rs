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
}
