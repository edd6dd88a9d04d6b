use super::probe::{Order, ProbeFault, ask};
use super::watch::{self, Heard, WatchChild};
use super::*;
use crate::Answer;
use std::time::Duration;

/// Longer than any of the scripts that end need.
const PATIENCE: Duration = Duration::from_secs(60);

/// An executable that does as a shell script says.
fn child_that(script: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (text, path) = (directory.path().join("text"), directory.path().join("child"));
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

fn within(limit: Duration) -> Order {
    Order {
        limit,
        ..Order::default()
    }
}

/// Whatever goes wrong as an answer without devices that says so.
async fn answer_of(executable: &Path, backend: Backend, order: &Order) -> Answer {
    let outcome = ask(executable, backend, order, &Quota::new(backend)).await;
    outcome.unwrap_or_else(|fault| Answer::nothing(backend, fault.to_string()))
}

async fn note_of(script: &str, limit: Duration) -> String {
    let (_directory, path) = child_that(script);
    let answer = answer_of(&path, Backend::Vulkan, &within(limit)).await;
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
    let note = note_of("echo 'assertion failed' >&2; kill -SEGV $$", PATIENCE).await;
    assert!(
        note.contains("took its probe down") && note.contains("assertion failed"),
        "{note}"
    );
}

#[tokio::test]
async fn only_what_a_process_does_to_itself_is_a_crash() {
    for (script, crashed) in [
        ("kill -SEGV $$", true),
        ("kill -ABRT $$", true),
        ("kill -KILL $$", false),
        ("exit 3", false),
    ] {
        let (_directory, path) = child_that(script);
        let quota = Quota::new(Backend::Vulkan);
        let fault = ask(&path, Backend::Vulkan, &within(PATIENCE), &quota)
            .await
            .unwrap_err();
        let as_expected = match &fault {
            ProbeFault::Crashed(_) => crashed,
            ProbeFault::Broken(_) => !crashed,
            ProbeFault::Hung(_) | ProbeFault::Starved(_) => false,
        };
        assert!(as_expected, "{script}: {fault:?}");
        assert!(
            fault.to_string().starts_with("the vulkan driver took its probe down ("),
            "{script}: {fault}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_not_json_costs_a_note() {
    let note = note_of("echo hello", PATIENCE).await;
    assert!(note.contains("cannot be read"), "{note}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_refused() {
    let note = note_of("head -c 3000000 /dev/zero", PATIENCE).await;
    assert!(note.contains("cannot be read"), "{note}");
}

#[tokio::test]
async fn an_executable_that_is_missing_costs_a_note() {
    let answer = answer_of(Path::new("/nonexistent"), Backend::Cpu, &Order::default()).await;
    assert!(answer.note.unwrap().contains("could not be started"));
}

#[tokio::test]
async fn an_answer_comes_back_as_it_was_given() {
    let (_directory, path) = child_that(r#"echo '[{"backend":"vulkan","devices":[],"note":"no card"}]'"#);
    let answer = answer_of(&path, Backend::Vulkan, &within(PATIENCE)).await;
    assert_eq!(answer, Answer::nothing(Backend::Vulkan, "no card"));
}

#[tokio::test]
async fn a_child_is_told_what_to_measure_what_is_known_and_where_to_look() {
    let (_directory, path) = child_that(r#"echo "[{\"backend\":\"rocm\",\"devices\":[],\"note\":\"$*\"}]""#);
    let order = Order {
        measure_budget: Duration::from_millis(1500),
        known: Some("/state/devices.json".into()),
        only: crate::Selection::one("0000:01:00.0"),
        root: "/tree".into(),
        ..within(PATIENCE)
    };
    let note = answer_of(&path, Backend::Rocm, &order).await.note.unwrap();
    assert_eq!(
        note,
        "probe --json --with-parent --backends rocm --measure-budget-ms 1500 --sysfs-root /tree --only 0000:01:00.0 --known /state/devices.json"
    );
}

#[tokio::test]
async fn processes_that_cannot_be_ended_are_counted_and_no_more_are_made() {
    let (_directory, path) = child_that("exec sleep 60");
    let quota = Quota::new(Backend::Cuda);
    let held: Vec<_> = (0..PROCESSES_MAX).map(|_| quota.take().unwrap()).collect();
    let refused = ask(&path, Backend::Cuda, &Order::default(), &quota).await.unwrap_err();
    assert!(
        matches!(&refused, ProbeFault::Broken(message) if message.contains("hang in the cuda driver")),
        "{refused}"
    );
    drop(held);
    let hung = ask(&path, Backend::Cuda, &within(Duration::from_millis(50)), &quota).await;
    assert!(matches!(hung, Err(ProbeFault::Hung(_))));
}

#[tokio::test]
async fn a_child_that_was_ended_gives_its_place_back() {
    let (_directory, path) = child_that("exec sleep 60");
    let quota = Quota::new(Backend::Cuda);
    for _ in 0..3 {
        let hung = ask(&path, Backend::Cuda, &within(Duration::from_millis(20)), &quota).await;
        assert!(matches!(hung, Err(ProbeFault::Hung(_))));
    }
    let all = u32::try_from(PROCESSES_MAX).unwrap();
    let returned = tokio::time::timeout(PATIENCE, quota.permits.acquire_many(all)).await;
    assert!(returned.is_ok_and(|permits| permits.is_ok()));
}

const LINE: &str = r#"echo '{"backend":"cuda","samples":[{"device":"uuid:a","temperatureCelsius":41.5}]}'"#;

async fn first_two(script: &str, silence: Duration) -> [Heard; 2] {
    let (_directory, path) = child_that(script);
    let order = watch::Order {
        interval: Duration::from_secs(1),
        only: crate::Selection::All,
        root: "/".into(),
    };
    let mut child = WatchChild::start(&path, Backend::Cuda, &order, &Quota::new(Backend::Cuda)).unwrap();
    let first = child.next(PATIENCE).await;
    let second = loop {
        match child.next(silence).await {
            // By this machine, which has much else to do.
            Heard::Starved => {}
            heard => break heard,
        }
    };
    [first, second]
}

#[tokio::test]
async fn readings_come_line_by_line_and_a_good_end_is_no_fault() {
    let [Heard::Reading(reading), end] = first_two(LINE, PATIENCE).await else {
        panic!("no reading");
    };
    assert_eq!(reading.samples[0].temperature_celsius, Some(41.5));
    assert_eq!(end, Heard::Finished);
}

#[tokio::test]
async fn a_watcher_that_says_nothing_more_is_silent() {
    let [first, second] = first_two(&format!("{LINE}; exec sleep 60"), Duration::from_millis(50)).await;
    assert!(matches!(first, Heard::Reading(_)));
    assert_eq!(second, Heard::Silence);
}

#[tokio::test]
async fn a_watcher_that_crashes_leaves_its_last_words() {
    let [_, end] = first_two(&format!("{LINE}; echo one >&2; echo two >&2; kill -SEGV $$"), PATIENCE).await;
    let Heard::Broken(reason) = end else {
        panic!("{end:?}");
    };
    assert!(
        reason.contains("took its watcher down") && reason.ends_with("two"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_watcher_that_talks_nonsense_is_broken() {
    for nonsense in [
        "echo hello",
        r#"echo '{"backend":"rocm","samples":[]}'"#,
        "head -c 3000000 /dev/zero",
    ] {
        let [_, second] = first_two(&format!("{LINE}; {nonsense}"), PATIENCE).await;
        assert!(matches!(second, Heard::Broken(_)), "{nonsense}: {second:?}");
    }
}

#[test]
fn last_words_are_short_and_printable() {
    let loud = format!("first\n{}\u{1b}[31m\n\n", "x".repeat(2 * LAST_WORDS_CHARACTERS));
    assert_eq!(last_words(loud.as_bytes()).len(), LAST_WORDS_CHARACTERS);
    assert_eq!(last_words("a\u{7}b".as_bytes()), "ab");
    assert_eq!(last_words(b""), "it said nothing");
}
