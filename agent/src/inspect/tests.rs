use super::*;

fn inspection(uri: &str, sha256: &[u8]) -> inspection::Result {
    let request = Inspect {
        model_uid: "u".into(),
        generation: 1,
        uri: uri.into(),
        sha256: sha256.to_vec(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime
        .block_on(Arc::new(Inspector::default()).inspect(request))
        .result
        .unwrap()
}

fn reason(uri: &str) -> (String, String) {
    match inspection(uri, &[]) {
        inspection::Result::Error(error) => (error.reason, error.message),
        inspection::Result::Facts(_) => panic!("{uri} is no model"),
    }
}

#[test]
fn what_is_no_model_is_answered_with_a_reason_that_names_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        format!("file://{}", path.display())
    };
    let text = file("text.gguf", b"I am a text, not a model at all");
    let short = file("short.gguf", b"GGUF\x03\0\0\0");
    for (uri, expected) in [
        ("file:///nonexistent/model.gguf", "SourceNotFound"),
        ("https://example.org/model.gguf", "Unreadable"),
        ("file://relative.gguf", "Unreadable"),
        ("file:///dev/zero", "Unreadable"),
        ("file:///", "Unreadable"),
        (text.as_str(), "NotGGUF"),
        (short.as_str(), "Truncated"),
    ] {
        let (reason, message) = reason(uri);
        assert_eq!(reason, expected, "{uri}: {message}");
        let path = uri.trim_start_matches("file://");
        assert!(message.contains(path), "{uri}: {message}");
    }
}
