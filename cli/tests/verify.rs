//! `model verify`, on models that differ from their index in other ways than their weights.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::path::Path;

use rig::{fail, names, succeed, write};

/// A model in this many files, in a folder of its own, with an index.
fn indexed(folder: &Path, parts: usize) -> String {
    fs::create_dir_all(folder).unwrap();
    write(folder, parts);
    let first = names(parts)[0].clone();
    succeed(folder, &["model", "index", &first, "-o", "index.json"]);
    first
}

#[test]
fn a_model_in_another_number_of_files_is_not_the_one_in_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    indexed(&whole, 1);
    let first = indexed(folder.path(), 3);
    let message = fail(
        folder.path(),
        &["model", "verify", &first, "--index", "whole/index.json"],
        65,
    );
    assert!(message.contains("3 files in place of 1"), "{message}");
    assert!(message.contains(" bytes in place of "), "{message}");
    assert!(message.contains("tiny.gguf: another header"), "{message}");
}

#[test]
fn what_was_appended_to_a_model_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let first = indexed(folder.path(), 1);
    let path = folder.path().join(&first);
    let mut bytes = fs::read(&path).unwrap();
    let right = bytes.len();
    bytes.extend([0; 32]);
    fs::write(&path, &bytes).unwrap();
    let message = fail(folder.path(), &["model", "verify", &first, "--index", "index.json"], 65);
    let expected = format!("{first}: {} bytes in place of {right}", right + 32);
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn what_is_no_index_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let first = indexed(folder.path(), 1);
    let message = fail(folder.path(), &["model", "verify", &first, "--index", "."], 65);
    assert!(
        message.contains(". is no weight index: no file of at most 16 MiB"),
        "{message}"
    );
    let message = fail(folder.path(), &["model", "verify", &first, "--index", &first], 65);
    assert!(message.contains(&first), "{message}");
}
