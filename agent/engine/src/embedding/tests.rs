use super::*;

#[test]
fn a_file_that_is_no_gguf_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("embedding.gguf");
    std::fs::write(&file, b"not a model").unwrap();
    let error = Embedding::open(&file).unwrap_err();
    assert!(matches!(error, EmbeddingError::Unreadable { .. }), "{error}");
    assert!(error.to_string().contains("embedding.gguf"), "{error}");
    let error = Embedding::open(&folder.path().join("absent.gguf")).unwrap_err();
    assert!(matches!(error, EmbeddingError::Io { .. }), "{error}");
}
