use super::*;
use crate::models::{Counters, Setting};
use tokio::sync::watch;

fn inspection(uri: &str, sha256: &[u8]) -> inspection::Result {
    let root = tempfile::tempdir().unwrap();
    let request = Inspect {
        model_uid: "u".into(),
        generation: 1,
        uri: uri.into(),
        sha256: sha256.to_vec(),
        ..Inspect::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let setting = Setting {
            root: root.path().join("models"),
            sources: crate::source::Setting::default(),
            cache_bytes: None,
            disk_reserve_bytes: 0,
        };
        let models = Models::open(setting, watch::Sender::new(None).subscribe(), None, Counters::new());
        let inspector = Arc::new(Inspector::new(Arc::new(models)));
        inspector.inspect(request).await.result.unwrap()
    })
}

fn reason(uri: &str) -> (String, String) {
    match inspection(uri, &[]) {
        inspection::Result::Error(error) => (error.reason, error.message),
        inspection::Result::Facts(_) => panic!("{uri} is no model"),
    }
}

#[test]
fn a_later_generation_calls_off_the_earlier_one_of_its_model_alone() {
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let setting = Setting {
        root: root.path().join("models"),
        sources: crate::source::Setting::default(),
        cache_bytes: None,
        disk_reserve_bytes: 0,
    };
    let models = Models::open(setting, watch::Sender::new(None).subscribe(), None, Counters::new());
    let inspector = Inspector::new(Arc::new(models));
    let (first, other) = (inspector.begin("a", 1), inspector.begin("b", 1));
    let again = inspector.begin("a", 1);
    assert!(!first.is_cancelled() && !again.is_cancelled());
    let second = inspector.begin("a", 2);
    assert!(first.is_cancelled() && again.is_cancelled() && !other.is_cancelled());
    // What ends late takes nothing from its successor, and what comes late is not begun.
    inspector.end("a", 1);
    assert!(inspector.begin("a", 1).is_cancelled());
    assert!(!second.is_cancelled());
    inspector.end("a", 2);
    assert!(inspector.under_way.lock().unwrap().keys().eq(["b"]));
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
    let disguised = file("model.gguf", b"\x10\0\0\0\0\0\0\0{\"a\":{}}");
    let link = directory.path().join("link.safetensors");
    for (uri, expected) in [
        ("file:///nonexistent/model.gguf", "SourceNotFound"),
        ("http://example.org/model.gguf", "Unreadable"),
        ("file://relative.gguf", "Unreadable"),
        ("file:///dev/zero", "Unreadable"),
        ("file:///", "Unreadable"),
        ("pvc://claim/model.gguf", "SourceNotFound"),
        (text.as_str(), "NotGGUF"),
        (short.as_str(), "Truncated"),
        (disguised.as_str(), "UnsupportedFormat"),
        (&format!("file://{}", link.display()), "UnsupportedFormat"),
    ] {
        let (reason, message) = reason(uri);
        assert_eq!(reason, expected, "{uri}: {message}");
        let path = uri.trim_start_matches("file://");
        assert!(message.contains(path), "{uri}: {message}");
    }
}
