//! A state directory that cannot be written: on a full disk, on a read-only one, and of another user.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use std::os::unix::process::CommandExt;

use fakes::head::Script;
use fakes::{LIMIT, World, process, until};
use gateway::args::{Args, EXIT_BAD_CONFIGURATION};
use gateway::run::RunError;
use scarcity::disk::Disk;

/// Nobody's, on every system.
const NOBODY: u32 = 65534;

#[tokio::test]
async fn on_a_full_disk_a_model_is_not_ready_for_a_reason_that_is_said_and_serves_once_there_is_room() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    disk.fill_but(0).unwrap();
    let world = World::start_unready_in(Some(disk.path())).await;
    world.serve_model(1);
    until("the reason", || async {
        let answer = world.client.chat("Hi").await;
        answer.status == 503
            && answer
                .error("message")
                .contains("cannot be kept on this gateway's disk")
    })
    .await;
    let begun = || {
        let folders = [disk.path().to_owned(), disk.path().join("vocabularies")];
        let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.any(|name| name.ends_with(".partial"))
    };
    // It is tried again and again.
    until("a moment in which nothing is half written", || async { !begun() }).await;

    disk.make_room().unwrap();
    world.ready().await;
    world.serve_model(2);
    until("a table that is kept", || async {
        disk.path().join("routes.bin").is_file()
    })
    .await;
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_takes_nothing_from_a_gateway_that_serves() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    let world = World::start_unready_in(Some(disk.path())).await;
    world.serve_model(1);
    world.ready().await;
    // No file of it is being written any more.
    until("a read-only disk", || async { disk.set_read_only(true).is_ok() }).await;
    world.serve_model(2);
    until("the newer placement", || async {
        world.head.forget();
        world.head.expect(Script::text("still here"));
        let answer = world.client.chat("Hi").await;
        let epoch = world.head.requests().last().map(|request| request.epoch);
        answer.status == 200 && epoch == Some(2)
    })
    .await;
}

#[tokio::test]
async fn a_read_only_state_directory_ends_the_start_and_flag_path_and_user_are_named() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    disk.set_read_only(true).unwrap();
    let world = World::start_unready().await;
    for state_dir in [disk.path().to_owned(), disk.path().join("missing")] {
        let path = state_dir.display().to_string();
        let args = Args {
            state_dir,
            ..world.args()
        };
        let refused = gateway::run::run(args, std::future::pending(), |_| ()).await;
        let Err(RunError::Config(message)) = refused else {
            panic!("{refused:?}");
        };
        let begin = format!("--state-dir {path}: Read-only file system");
        assert!(
            message.starts_with(&begin) && message.contains("runs as user"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_state_directory_of_somebody_else_ends_the_start_with_64_and_names_who_has_to_write_there() {
    let world = World::start_unready().await;
    // Made by us: others may not write there.
    let ours = tempfile::tempdir().unwrap();
    let args = Args {
        state_dir: ours.path().to_owned(),
        ..world.args()
    };
    let mut command = process::command(&args);
    command.uid(NOBODY).gid(NOBODY);
    let mut command = tokio::process::Command::from(command);
    let ended = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output());
    let output = match ended.await.expect("an end in time") {
        Ok(output) => output,
        Err(error) => return println!("SKIPPED: no gateway can be started as another user: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(i32::from(EXIT_BAD_CONFIGURATION)),
        "{complaint}"
    );
    let named = format!("--state-dir {}: Permission denied", ours.path().display());
    let user = format!("runs as user {NOBODY}");
    assert!(complaint.contains(&named) && complaint.contains(&user), "{complaint}");
}
