//! Looked-up rows on the real model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use engine::{Embedding, EmbeddingError};

#[test]
fn the_embedding_file_gives_the_rows_of_the_whole_model() {
    let Some(model) = support::model_file() else { return };
    let whole = Embedding::open(&model).unwrap();
    assert_eq!((whole.embedding_length(), whole.vocabulary_size()), (576, 49_152));
    let rows = whole.rows(&[0, 49_151, 17, 17]).unwrap();
    assert_eq!(rows.len(), 4 * 576);
    assert_eq!(rows[2 * 576..3 * 576], rows[3 * 576..]);
    assert_ne!(rows[..576], rows[576..2 * 576]);
    assert!(rows.iter().all(|value| value.is_finite()));

    let folder = tempfile::tempdir().unwrap();
    let piece = folder.path().join("embedding.gguf");
    let header = gguf::Gguf::open(&model).unwrap();
    let pieces = gguf::pieces(&header).unwrap();
    let mut source = std::fs::File::open(&model).unwrap();
    gguf::write_piece(&mut source, &pieces, gguf::Piece::Embedding, &piece).unwrap();
    assert_eq!(
        Embedding::open(&piece).unwrap().rows(&[0, 49_151, 17, 17]).unwrap(),
        rows
    );
}

#[test]
fn tokens_outside_the_vocabulary_and_too_many_rows_are_refused() {
    let Some(model) = support::model_file() else { return };
    let embedding = Embedding::open(&model).unwrap();
    for token in [-1, 49_152, i32::MAX, i32::MIN] {
        let error = embedding.rows(&[0, token]).unwrap_err();
        assert!(matches!(error, EmbeddingError::UnknownToken { .. }), "{error}");
    }
    let error = embedding.rows(&vec![0; 5_000]).unwrap_err();
    assert!(matches!(error, EmbeddingError::TooManyRows { rows: 5_000 }), "{error}");
    assert!(embedding.rows(&[]).unwrap().is_empty());
}
