//! Files of the node as sources, when they are not what they should be.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use agent::source::{Access, Setting, Source, SourceError};
use proto::control::v1::SourceAccess;
use std::fs::OpenOptions;
use std::path::Path;

fn open(path: &Path) -> Result<Source, SourceError> {
    let uri = format!("file://{}", path.display());
    let access = Access::from(SourceAccess::default());
    rig::runtime().block_on(Source::open(&Setting::default(), &uri, &access))
}

#[test]
fn a_file_that_gets_shorter_while_it_is_read_is_told_with_both_lengths() {
    let runtime = rig::runtime();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, vec![7; 1000]).unwrap();
    let uri = format!("file://{}", path.display());
    let access = Access::from(SourceAccess::default());
    let read = runtime.block_on(async {
        let source = Source::open(&Setting::default(), &uri, &access).await?;
        let file = source.file(source.first()).await?;
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(400)
            .unwrap();
        file.read_all(300, 500).await
    });
    let message = read.unwrap_err().to_string();
    assert!(
        message.ends_with("ends at byte 400 of 1000; restore the file"),
        "{message}"
    );
}

#[test]
fn a_path_that_leads_through_a_file_is_told_with_what_the_system_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    std::fs::write(&file, vec![7; 1000]).unwrap();
    let below = file.join("n.gguf");
    let source = open(&below).unwrap();
    let opened = rig::runtime().block_on(source.file(source.first()));
    let error = opened.unwrap_err();
    assert!(matches!(error, SourceError::Io { .. }), "{error}");
    assert_eq!(error.reason(), "Unreadable");
    let told = format!("opening {} failed: Not a directory", below.display());
    assert!(error.to_string().starts_with(&told), "{error}");
}

#[test]
fn an_image_layout_whose_index_is_no_file_or_far_too_large_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("oci-layout"), b"{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    let index = folder.path().join("index.json");
    std::fs::create_dir(&index).unwrap();
    let message = open(folder.path()).err().unwrap().to_string();
    assert!(message.contains("index.json: it is not a regular file"), "{message}");
    std::fs::remove_dir(&index).unwrap();
    let length = (4 << 20) + 1;
    std::fs::File::create(&index).unwrap().set_len(length).unwrap();
    let message = open(folder.path()).err().unwrap().to_string();
    assert!(
        message.contains(&format!("it has {length} bytes, more than a manifest may have")),
        "{message}"
    );
}
