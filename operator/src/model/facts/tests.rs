use proto::control::v1::LayerFacts;

use super::*;

fn message() -> ModelFacts {
    let vocabulary = b"GGUF".to_vec();
    ModelFacts {
        sha256: vec![7; 32],
        file_bytes: 1000,
        architecture: "llama".into(),
        quantisation: "Q4_1".into(),
        parameters: 10,
        embedding_length: 8,
        vocabulary_size: 16,
        context_length_trained: 64,
        kv_elements_per_token_per_layer: 4,
        layers: vec![
            LayerFacts {
                weight_bytes: 100,
                digest: vec![1; 32]
            };
            3
        ],
        embedding: Some(PieceFacts {
            weight_bytes: 50,
            digest: vec![2; 32],
        }),
        output: Some(PieceFacts {
            weight_bytes: 60,
            digest: vec![3; 32],
        }),
        vocabulary_sha256: Sha256::digest(&vocabulary).to_vec(),
        vocabulary,
        allowed_cuts: vec![1, 2],
    }
}

#[test]
fn sound_facts_are_taken_with_their_vocabulary() {
    let (facts, vocabulary) = accept(message(), Some(&"07".repeat(32))).unwrap();
    assert_eq!(
        (
            facts.layer_bytes.len(),
            facts.output_bytes,
            facts.allowed_cuts.as_slice()
        ),
        (3, 60, &[1, 2][..])
    );
    assert_eq!(vocabulary, "GGUF");
}

#[test]
fn another_file_than_asked_for_is_a_digest_mismatch() {
    let error = accept(message(), Some(&"00".repeat(32))).unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
    assert!(error.to_string().contains(&"07".repeat(32)) && error.to_string().contains(&"00".repeat(32)));
}

#[test]
fn nonsense_is_refused_by_name() {
    type Spoil = fn(&mut ModelFacts);
    let cases: [(&str, Spoil); 9] = [
        ("sha256", |m| m.sha256.truncate(31)),
        ("0 layers", |m| m.layers.clear()),
        ("513 layers", |m| m.layers = vec![m.layers[0].clone(); 513]),
        ("cuts [3]", |m| m.allowed_cuts = vec![3]),
        ("cuts [2, 1]", |m| m.allowed_cuts = vec![2, 1]),
        ("no output", |m| m.output = None),
        ("embedding of 5000", |m| {
            m.embedding.as_mut().unwrap().weight_bytes = 5000
        }),
        ("vocabulary has another digest", |m| m.vocabulary.push(0)),
        ("empty embedding", |m| m.embedding_length = 0),
    ];
    for (expected, spoil) in cases {
        let mut spoiled = message();
        spoil(&mut spoiled);
        let error = accept(spoiled, None).unwrap_err();
        assert_eq!(error.reason(), "Unreadable");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
