use proto::control::v1::LayerFacts;

use super::*;
use crate::model::fixture;

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
                digest: vec![1; 32],
                ..Default::default()
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
        ..Default::default()
    }
}

fn source(sha256: Option<&str>, index_sha256: Option<&str>) -> ModelSource {
    ModelSource {
        sha256: sha256.map(|byte| byte.repeat(32)),
        index_sha256: index_sha256.map(|byte| byte.repeat(32)),
        ..fixture::source("file:///m.gguf")
    }
}

#[test]
fn numbers_of_devices_that_can_work_as_one_are_taken_in_order_and_within_what_is_possible() {
    let told = |sizes: &[u32]| {
        let message = ModelFacts {
            group_sizes: sizes.to_vec(),
            ..message()
        };
        accept(message, &source(None, None)).map(|(facts, _)| facts.group_sizes)
    };
    assert_eq!(told(&[]), Ok(vec![]), "an agent that does not say");
    assert_eq!(told(&[2, 4, 8]), Ok(vec![2, 4, 8]));
    for nonsense in [vec![1, 2], vec![9], vec![4, 2], vec![2, 2]] {
        let error = told(&nonsense).expect_err("nonsense");
        assert!(error.to_string().contains("groups of ["), "{error}");
    }
}

#[test]
fn sound_facts_are_taken_with_their_vocabulary() {
    let (facts, attached) = accept(message(), &source(Some("07"), None)).unwrap();
    assert_eq!(
        (
            facts.layer_bytes.len(),
            facts.output_bytes,
            facts.allowed_cuts.as_slice()
        ),
        (3, 60, &[1, 2][..])
    );
    assert_eq!(facts.layer_active_bytes, [100; 3], "the agent does not say otherwise");
    let mut of_experts = message();
    (of_experts.layers[1].active_bytes, of_experts.layers[2].active_bytes) = (40, 500);
    let (facts, _) = accept(of_experts, &source(Some("07"), None)).unwrap();
    assert_eq!(
        facts.layer_active_bytes,
        [100, 40, 100],
        "no token reads more than there is"
    );
    assert_eq!((attached.vocabulary, attached.index), ("GGUF".into(), Bytes::new()));
}

#[test]
fn what_each_layer_keeps_is_taken_and_an_agent_that_does_not_say_it_means_keys_and_values_in_all() {
    let (facts, _) = accept(message(), &source(Some("07"), None)).unwrap();
    assert_eq!(facts.layer_kv_elements, [4; 3]);
    assert_eq!(facts.layer_state_bytes, [0; 3]);

    let mut told = message();
    told.layers[0].kv_elements_per_token = Some(4);
    told.layers[1].kv_elements_per_token = Some(0);
    told.layers[1].state_bytes = 77;
    let (facts, _) = accept(told, &source(Some("07"), None)).unwrap();
    assert_eq!(facts.layer_kv_elements, [4, 0, 4]);
    assert_eq!(facts.layer_state_bytes, [0, 77, 0]);
}

#[test]
fn another_file_than_asked_for_is_a_digest_mismatch() {
    let error = accept(message(), &source(Some("00"), None)).unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
    assert!(error.to_string().contains(&"07".repeat(32)) && error.to_string().contains(&"00".repeat(32)));
    let error = accept(message(), &source(None, Some("00"))).unwrap_err();
    assert!(error.to_string().contains("spec.source.indexSha256"), "{error}");
}

#[test]
fn a_file_goes_without_a_digest_only_where_its_index_has_one() {
    let mut neither = message();
    neither.sha256.clear();
    let error = accept(neither, &source(None, None)).unwrap_err();
    assert!(error.to_string().contains("neither file nor index"), "{error}");
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
        let error = accept(spoiled, &source(None, None)).unwrap_err();
        assert_eq!(error.reason(), "Unreadable");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// An index of a file of 1000 bytes with these tensors, as it is written.
fn index(tensors: &[&str]) -> Vec<u8> {
    let digest = "07".repeat(32);
    let tensor = |(at, name): (usize, &&str)| {
        let offset = 100 + at * 4;
        format!(r#"{{"name":"{name}","file":0,"offset":{offset},"bytes":4,"sha256":"{digest}"}}"#)
    };
    let tensors: Vec<String> = tensors.iter().enumerate().map(tensor).collect();
    let file = format!(r#"{{"name":"m.gguf","bytes":1000,"header_bytes":100,"header_sha256":"{digest}"}}"#);
    let tensors = tensors.join(",");
    format!(r#"{{"version":1,"sha256":"{digest}","files":[{file}],"tensors":[{tensors}]}}"#).into_bytes()
}

const LAYERS: [&str; 4] = ["blk.0.w", "blk.1.w", "blk.2.w", "token_embd.weight"];

/// The facts with this index, which ends as every index does.
fn with_index(mut index: Vec<u8>) -> ModelFacts {
    index.push(b'\n');
    ModelFacts {
        index_sha256: Sha256::digest(&index).to_vec(),
        index,
        ..message()
    }
}

#[test]
fn an_index_is_taken_where_it_is_the_models_and_gives_the_files_digest() {
    let mut sound = with_index(index(&LAYERS));
    sound.sha256.clear();
    let error = accept(sound.clone(), &source(Some("07"), None)).unwrap_err();
    assert_eq!(
        error.reason(),
        "DigestMismatch",
        "nobody has read the file, and its index is not pinned"
    );
    let (facts, attached) = accept(sound.clone(), &source(None, None)).unwrap();
    assert_eq!(facts.sha256, Some(Digest([7; 32])));
    assert_eq!(facts.index_sha256.unwrap().0[..], sound.index_sha256);
    assert_eq!(attached.index, sound.index);
}

#[test]
fn an_index_of_another_model_or_in_another_form_is_refused_by_name() {
    type Spoil = fn(&mut ModelFacts);
    let cases: [(&str, Spoil); 5] = [
        ("another digest than stated", |m| m.index_sha256 = vec![9; 32]),
        ("canonical", |m| m.index.insert(1, b' ')),
        ("an index of 1000 bytes for a file of 1001", |m| m.file_bytes = 1001),
        ("other layers than the 2", |m| m.layers.truncate(2)),
        ("another digest than its index says", |m| m.sha256 = vec![8; 32]),
    ];
    for (expected, spoil) in cases {
        let mut spoiled = with_index(index(&LAYERS));
        spoiled.allowed_cuts = vec![1];
        spoil(&mut spoiled);
        let error = accept(spoiled, &source(None, None)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = accept(with_index(index(&LAYERS)), &source(Some("07"), Some("0a"))).unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
}
