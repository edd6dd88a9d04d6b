use super::*;
use crate::fixture::{TOKENS, WIDTH, llama};
use crate::value::{Array, Value};

fn names(pieces: &Pieces<'_>, piece: Piece) -> Vec<String> {
    pieces.tensors(piece).iter().map(|tensor| tensor.name.clone()).collect()
}

#[test]
fn every_tensor_has_its_piece() {
    let gguf = llama(12).untied().with_rotary_factors().gguf();
    let pieces = pieces(&gguf).unwrap();
    assert_eq!(names(&pieces, Piece::Shared), ["rope_freqs.weight"]);
    assert_eq!(names(&pieces, Piece::Embedding), ["token_embd.weight"]);
    assert_eq!(
        names(&pieces, Piece::Layer(11)),
        ["blk.11.attn_norm.weight", "blk.11.ffn_up.weight"]
    );
    assert_eq!(
        names(&pieces, Piece::Layer(1)),
        ["blk.1.attn_norm.weight", "blk.1.ffn_up.weight"]
    );
    assert_eq!(names(&pieces, Piece::Layer(12)), Vec::<String>::new());
    assert_eq!(names(&pieces, Piece::Output), ["output.weight", "output_norm.weight"]);
    assert!(!pieces.tied());
    let counted: usize = pieces.all().into_iter().map(|piece| pieces.tensors(piece).len()).sum();
    assert_eq!(counted, gguf.tensors.len());
    assert_eq!((pieces.embedding_length(), pieces.vocabulary_size()), (WIDTH, TOKENS));
}

#[test]
fn tied_weights_are_in_the_embedding_and_in_the_output() {
    let gguf = llama(1).gguf();
    let pieces = pieces(&gguf).unwrap();
    assert!(pieces.tied());
    assert_eq!(names(&pieces, Piece::Embedding), ["token_embd.weight"]);
    assert_eq!(
        names(&pieces, Piece::Output),
        ["output_norm.weight", "token_embd.weight"]
    );
}

#[test]
fn a_llama_model_may_be_cut_between_any_two_layers() {
    let gguf = llama(4).with_rotary_factors().gguf();
    assert_eq!(pieces(&gguf).unwrap().allowed_cuts(), [1, 2, 3]);
}

#[test]
fn what_is_not_understood_keeps_the_model_whole() {
    let cases = [
        (llama(4).of("glm4"), "glm4"),
        (llama(4).with("llama.nextn_predict_layers", Value::U32(1)), "predict"),
        (
            llama(4).with("general.tensor_extra.name", Value::U32(1)),
            "general.tensor_extra.name",
        ),
        (
            llama(4).with_tensor("position_embd.weight", &[64]),
            "position_embd.weight",
        ),
        (llama(4).untied().with_tensor("output.scale", &[1]), "output.scale"),
    ];
    for (model, words) in cases {
        let gguf = model.gguf();
        let pieces = pieces(&gguf).unwrap();
        assert!(pieces.allowed_cuts().is_empty());
        let reason = pieces.whole_because().unwrap();
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn models_that_are_not_whole_or_consistent_are_refused() {
    let strays = llama(2).with_tensor("blk.2.attn_norm.weight", &[64]).gguf();
    assert!(matches!(
        pieces(&strays),
        Err(PieceError::StrayTensor { layers: 2, .. })
    ));
    let odd_name = llama(2).with_tensor("blk.01.attn_norm.weight", &[64]).gguf();
    assert!(matches!(pieces(&odd_name), Err(PieceError::StrayTensor { .. })));
    let uneven = llama(3).with_kv_heads(&[1, 1]).gguf();
    assert!(matches!(
        pieces(&uneven),
        Err(PieceError::ArrayLength {
            found: 2,
            layers: 3,
            ..
        })
    ));
    let many = llama(2).with("split.count", Value::U16(3)).gguf();
    assert!(matches!(pieces(&many), Err(PieceError::ManyFiles { count: 3 })));

    let mut hollow = llama(2).gguf();
    hollow.tensors.retain(|tensor| !tensor.name.starts_with("blk.1."));
    assert_eq!(pieces(&hollow).unwrap_err(), PieceError::EmptyLayer { layer: 1 });
    let mut headless = llama(2).gguf();
    headless.tensors.retain(|tensor| tensor.name != TOKEN_EMBEDDING);
    assert_eq!(
        pieces(&headless).unwrap_err(),
        PieceError::MissingTensor {
            tensor: TOKEN_EMBEDDING
        }
    );
    let mut normless = llama(2).gguf();
    normless.tensors.retain(|tensor| tensor.name != OUTPUT_NORM);
    assert_eq!(
        pieces(&normless).unwrap_err(),
        PieceError::MissingTensor { tensor: OUTPUT_NORM }
    );
}

#[test]
fn absurd_hyperparameters_are_refused() {
    let with = |key: &str, value: Value| {
        let mut gguf = llama(1).gguf();
        let mut metadata = crate::Metadata::default();
        for (known, old) in gguf.metadata.iter() {
            metadata.insert(known, if known == key { value.clone() } else { old.clone() });
        }
        gguf.metadata = metadata;
        pieces(&gguf).unwrap_err()
    };
    assert_eq!(
        with("llama.block_count", Value::U32(0)),
        PieceError::LayerCount { layers: 0 }
    );
    assert_eq!(
        with("llama.block_count", Value::U32(513)),
        PieceError::LayerCount { layers: 513 }
    );
    assert_eq!(
        with("llama.block_count", Value::U32(2)),
        PieceError::EmptyLayer { layer: 1 }
    );
    assert_eq!(
        with("llama.embedding_length", Value::U32(0)),
        PieceError::EmbeddingLength { found: 0 }
    );
    assert!(matches!(
        with("llama.embedding_length", Value::U32(32)),
        PieceError::EmbeddingShape { .. }
    ));
    assert!(matches!(
        with("llama.block_count", Value::string("1")),
        PieceError::Metadata(_)
    ));
    let fewer = Value::Array(Array::of_strings(["a"]));
    assert!(matches!(
        with("tokenizer.ggml.tokens", fewer),
        PieceError::EmbeddingShape { .. }
    ));
    assert!(matches!(
        with("general.architecture", Value::string("x")),
        PieceError::Architecture(_)
    ));
}
