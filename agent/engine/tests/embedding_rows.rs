//! Looked-up rows on the real model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use engine::{Embedding, EmbeddingError};
use gguf::encode::HeaderBuilder;
use gguf::{TensorType, Value};

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

/// A file with nothing but an embedding of two rows.
fn small_table(folder: &Path, architecture: &str) -> PathBuf {
    let path = folder.join(format!("{architecture}.gguf"));
    let mut header = HeaderBuilder::new();
    header.entry("general.architecture", &Value::string(architecture));
    header.tensor("token_embd.weight", TensorType::F32, &[8, 2], 64);
    let mut file = header.finish();
    file.extend((0..16u8).flat_map(|value| (f32::from(value) * 0.37).to_le_bytes()));
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_file_without_a_usable_table_is_refused_by_its_path_and_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.gguf");
    let refused = |architecture: Option<&str>, dimensions: &[u64]| {
        let mut header = HeaderBuilder::new();
        if let Some(name) = architecture {
            header.entry("general.architecture", &Value::string(name));
        }
        if !dimensions.is_empty() {
            let bytes = dimensions.iter().product::<u64>() * 4;
            header.tensor("token_embd.weight", TensorType::F32, dimensions, bytes);
        }
        let mut file = header.finish();
        file.resize(file.len() + header.data_bytes() as usize, 0);
        std::fs::write(&path, file).unwrap();
        let error = Embedding::open(&path).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("{}: ", path.display())),
            "{error}"
        );
        error
    };
    let error = refused(None, &[8, 2]);
    assert!(matches!(error, EmbeddingError::Metadata { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("no key `general.architecture`; convert the model again"),
        "{error}"
    );
    for (dimensions, lacks) in [
        (&[][..], "there is no tensor token_embd.weight"),
        (&[8][..], "token_embd.weight has the shape [8]"),
        (&[8, 2, 2][..], "token_embd.weight has the shape [8, 2, 2]"),
    ] {
        let error = refused(Some("llama"), dimensions);
        assert!(matches!(error, EmbeddingError::Unusable { .. }), "{error}");
        assert!(
            error.to_string().ends_with(&format!("{lacks}; fetch the model again")),
            "{error}"
        );
    }
}

#[test]
fn rows_are_scaled_where_the_graph_scales_only_what_it_looks_up() {
    let folder = tempfile::tempdir().unwrap();
    let plain: Vec<f32> = (8..16u8).map(|value| f32::from(value) * 0.37).collect();
    for name in ["llama", "granite", "gemma2"] {
        let embedding = Embedding::open(&small_table(folder.path(), name)).unwrap();
        assert!(embedding.feeds_rows());
        assert_eq!(embedding.rows(&[1]).unwrap(), plain, "{name}");
    }
    let scale = 8f32.sqrt();
    let scaled: Vec<f32> = plain.iter().map(|value| value * scale).collect();
    let embedding = Embedding::open(&small_table(folder.path(), "gemma3")).unwrap();
    assert_eq!(embedding.rows(&[1]).unwrap(), scaled);
}

#[test]
fn models_that_take_tokens_are_given_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    let embedding = Embedding::open(&small_table(folder.path(), "glm4")).unwrap();
    assert!(!embedding.feeds_rows());
    assert_eq!(embedding.vocabulary_size(), 2);
    assert!(embedding.rows(&[1, 0]).unwrap().is_empty());
    let error = embedding.rows(&[2]).unwrap_err();
    assert!(
        matches!(error, EmbeddingError::UnknownToken { token: 2, .. }),
        "{error}"
    );
    let error = Embedding::open(&small_table(folder.path(), "clip")).unwrap_err();
    assert!(matches!(error, EmbeddingError::Architecture { .. }), "{error}");
}
