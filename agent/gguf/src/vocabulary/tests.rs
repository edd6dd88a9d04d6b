use super::*;
use crate::fixture::{TOKENS, llama, parse, real_model};
use crate::value::Array;

#[test]
fn the_vocabulary_has_tokens_and_template_and_no_tensors() {
    let source = llama(2).with_kv_heads(&[1, 1]).gguf();
    let bytes = vocabulary(&source).unwrap();
    let found = parse(&bytes);
    assert!(found.tensors.is_empty());
    assert_eq!(found.metadata.string("general.architecture"), Ok("llama"));
    assert_eq!(
        found.metadata.array("tokenizer.ggml.tokens").unwrap().len(),
        u64::from(TOKENS)
    );
    assert_eq!(found.metadata.string("tokenizer.chat_template"), Ok("{{ messages }}"));
    assert_eq!(found.metadata.u32("llama.context_length"), Ok(128));
    assert!(found.metadata.get("llama.attention.head_count_kv").is_none());
    assert_eq!(bytes, vocabulary(&source).unwrap());
}

#[test]
fn a_model_without_a_vocabulary_is_refused() {
    let source = llama(1).gguf();
    let replaced = |key: &str, value: Value| {
        let mut gguf = source.clone();
        gguf.metadata = crate::Metadata::default();
        for (known, old) in source.metadata.iter() {
            gguf.metadata
                .insert(known, if known == key { value.clone() } else { old.clone() });
        }
        vocabulary(&gguf).unwrap_err()
    };
    let error = replaced("tokenizer.ggml.model", Value::string("none"));
    assert_eq!(
        error,
        VocabularyError::NoVocabulary {
            tokenizer: "none".to_owned()
        }
    );
    let error = replaced("tokenizer.ggml.tokens", Value::Array(Array::of_u32([])));
    assert_eq!(
        error,
        VocabularyError::NoVocabulary {
            tokenizer: "gpt2".to_owned()
        }
    );
    let mut bare = source.clone();
    bare.metadata = crate::Metadata::default();
    for (key, value) in source.metadata.iter().filter(|(key, _)| !key.starts_with("tokenizer.")) {
        bare.metadata.insert(key, value.clone());
    }
    let error = vocabulary(&bare).unwrap_err().to_string();
    assert!(error.contains("converted together with its tokenizer"), "{error}");
    assert!(matches!(
        replaced("tokenizer.ggml.tokens", Value::U8(1)),
        VocabularyError::Metadata(_)
    ));
}

#[test]
fn a_vocabulary_that_does_not_fit_is_refused() {
    let large = "x".repeat(MAX_VOCABULARY_BYTES);
    let error = vocabulary(&llama(1).with("tokenizer.extra", Value::string(&large)).gguf()).unwrap_err();
    assert!(matches!(error, VocabularyError::TooLarge { bytes } if bytes > MAX_VOCABULARY_BYTES));
}

#[test]
fn a_real_vocabulary_is_small_and_complete() {
    let Some(path) = real_model() else { return };
    let source = Gguf::open(&path).unwrap();
    let found = parse(&vocabulary(&source).unwrap());
    for (key, value) in source.metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        assert_eq!(found.metadata.get(key), Some(value), "{key}");
    }
}
