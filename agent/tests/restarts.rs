//! A command that crashes comes back, and one that is told to end does not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes longer on a machine that works.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts a shell script under supervision, in a folder where it notes its lives.
fn start(folder: &Path, script: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_shardwright-supervise"))
        .args(["sh", "-c", &format!("echo life >> lives; {script}")])
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn lives(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("lives")).unwrap_or_default();
    text.lines().count()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about in time");
        std::thread::yield_now();
    }
}

#[test]
fn a_command_that_is_killed_is_started_again_and_its_own_end_is_ours() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), "[ $(wc -l < lives) = 3 ] && exit 0; kill -9 $$");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(lives(folder.path()), 3);
}

#[test]
fn what_crashes_by_habit_is_given_up_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), "kill -9 $$");
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(lives(folder.path()), 5);
}

#[test]
fn a_signal_to_end_is_passed_on_and_nothing_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(
        folder.path(),
        "trap 'echo told >> said; exit 7' TERM; touch ready; while :; do read -t 1 x < /dev/zero; done",
    );
    until("a life", || folder.path().join("ready").exists());
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(folder.path().join("said").exists());
    assert_eq!(lives(folder.path()), 1);
}

#[test]
fn a_command_that_cannot_be_started_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_shardwright-supervise"))
        .arg("/nonexistent/agent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent/agent"), "{said}");
    assert_eq!(output.status.code(), Some(64));
}
