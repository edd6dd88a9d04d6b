use super::*;

/// An executable that answers a probe as a shell script says.
fn probe_that(script: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (text, path) = (directory.path().join("text"), directory.path().join("probe"));
    std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
    // Written by another process: a child that a test beside this one forks would inherit our descriptor, and nothing that is
    // open for writing can be executed.
    let installed = std::process::Command::new("install")
        .args(["-m", "755"])
        .args([&text, &path])
        .status();
    assert!(installed.unwrap().success());
    (directory, path)
}

async fn note_of(script: &str, limit: Duration) -> String {
    let (_directory, path) = probe_that(script);
    let answer = probe_in_child(&path, Backend::Vulkan, limit).await;
    assert!(answer.devices.is_empty());
    answer.note.unwrap()
}

#[tokio::test]
async fn a_driver_that_hangs_costs_a_note_and_the_limit() {
    let note = note_of("exec sleep 60", Duration::from_millis(100)).await;
    assert!(note.contains("did not answer"), "{note}");
}

#[tokio::test]
async fn a_driver_that_crashes_costs_a_note_with_its_last_words() {
    let note = note_of("echo 'assertion failed' >&2; kill -SEGV $$", PROBE_LIMIT).await;
    assert!(
        note.contains("took its probe down") && note.contains("assertion failed"),
        "{note}"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_json_costs_a_note() {
    let note = note_of("echo hello", PROBE_LIMIT).await;
    assert!(note.contains("cannot be read"), "{note}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_refused() {
    let note = note_of("head -c 3000000 /dev/zero", PROBE_LIMIT).await;
    assert!(note.contains("cannot be read"), "{note}");
}

#[tokio::test]
async fn an_executable_that_is_missing_costs_a_note() {
    let answer = probe_in_child(Path::new("/nonexistent"), Backend::Cpu, PROBE_LIMIT).await;
    assert!(answer.note.unwrap().contains("could not be started"));
}

#[tokio::test]
async fn an_answer_comes_back_as_it_was_given() {
    let (_directory, path) = probe_that(r#"echo '[{"backend":"vulkan","devices":[],"note":"no card"}]'"#);
    let answer = probe_in_child(&path, Backend::Vulkan, PROBE_LIMIT).await;
    assert_eq!(answer, Answer::nothing(Backend::Vulkan, "no card"));
}
