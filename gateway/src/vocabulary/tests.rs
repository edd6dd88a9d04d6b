use std::time::Duration;

use gguf::encode::HeaderBuilder;
use gguf::{Array, Gguf, Limits, Metadata, Value};
use tokio::time::Instant;

use super::{MAX_VOCABULARIES, Place, UNUSED_FOR, hex, place_for, read_facts};
use crate::tokenizer::Vocabulary;

fn metadata(entries: &[(&str, Value)]) -> Metadata {
    let mut header = HeaderBuilder::new();
    header.entry("general.architecture", &Value::string("llama"));
    for (key, value) in entries {
        header.entry(key, value);
    }
    let bytes = header.finish();
    Gguf::parse(&mut std::io::Cursor::new(&bytes), bytes.len() as u64, Limits::default())
        .unwrap()
        .metadata
}

#[test]
fn special_tokens_text_comes_from_the_file() {
    let metadata = metadata(&[
        (
            "tokenizer.ggml.tokens",
            Value::Array(Array::of_strings(["a", "<s>", "</s>"])),
        ),
        ("tokenizer.chat_template", Value::string("{{ bos_token }}")),
    ]);
    let vocabulary = Vocabulary {
        bos: Some(1),
        eos: Some(2),
        ..Vocabulary::default()
    };
    let facts = read_facts(&metadata, &vocabulary).unwrap();
    assert_eq!(
        (facts.special.bos.as_str(), facts.special.eos.as_str()),
        ("<s>", "</s>")
    );
    assert_eq!(facts.template_source.as_deref(), Some("{{ bos_token }}"));
    let without = read_facts(
        &metadata,
        &Vocabulary {
            bos: Some(-1),
            eos: Some(99),
            ..Vocabulary::default()
        },
    )
    .unwrap();
    assert_eq!((without.special.bos.as_str(), without.special.eos.as_str()), ("", ""));
}

#[test]
fn a_template_of_the_wrong_type_is_an_error_and_a_missing_one_is_none() {
    let tokens = ("tokenizer.ggml.tokens", Value::Array(Array::of_strings(["a"])));
    let vocabulary = Vocabulary::default();
    assert!(
        read_facts(&metadata(std::slice::from_ref(&tokens)), &vocabulary)
            .unwrap()
            .template_source
            .is_none()
    );
    let wrong = ("tokenizer.chat_template", Value::Bool(true));
    assert!(read_facts(&metadata(&[tokens, wrong]), &vocabulary).is_err());
}

#[test]
fn digests_are_written_as_64_digits() {
    assert_eq!(hex(&[0xa5; 32]), "a5".repeat(32));
}

#[test]
fn a_vocabulary_too_many_takes_the_place_of_the_one_unused_longest() {
    let now = Instant::now();
    let used = |byte: u8, ago: Duration| ([byte; 32], now - ago);
    let recent: Vec<_> = (0..MAX_VOCABULARIES as u8)
        .map(|byte| used(byte, Duration::ZERO))
        .collect();
    assert_eq!(place_for(recent[1..].iter().copied(), now), Place::Free);
    assert_eq!(place_for(recent.iter().copied(), now), Place::None);
    let mut some_old = recent.clone();
    some_old[3] = used(3, UNUSED_FOR);
    some_old[5] = used(5, UNUSED_FOR + Duration::from_secs(1));
    assert_eq!(place_for(some_old.iter().copied(), now), Place::Of([5; 32]));
    some_old[5] = used(5, Duration::ZERO);
    assert_eq!(place_for(some_old.iter().copied(), now), Place::Of([3; 32]));
}
