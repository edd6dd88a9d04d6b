//! A state directory that cannot be written: whole disks, and other users.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lonely;

use lonely::{Lonely, lonely, until};
use scarcity::disk::Disk;
use std::os::unix::process::CommandExt;

/// Nobody's, on every system.
const NOBODY: u32 = 65534;

#[test]
fn on_a_full_disk_an_agent_runs_says_what_it_cannot_keep_and_keeps_it_once_there_is_room() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    disk.fill_but(0).unwrap();
    let mut running = Lonely::start(disk.path());
    let said = running.until("the registry of devices cannot be saved");
    let complaint = said.last().unwrap();
    assert!(
        complaint.contains("devices.json") && complaint.contains("No space left on device"),
        "{complaint}"
    );
    assert!(!disk.path().join("devices.json").exists());
    disk.make_room().unwrap();
    running.until("the registry of devices is saved again");
    assert!(disk.path().join("devices.json").is_file() && !disk.path().join("devices.json.new").exists());
}

#[test]
fn a_read_only_state_directory_ends_the_start_with_64_and_is_named() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    let refused = |named: &str| {
        // What an earlier life had open may not be closed yet.
        until("a read-only disk", || disk.set_read_only(true).is_ok());
        let output = lonely(disk.path()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{complaint}");
        let folder = disk.path().join(named).display().to_string();
        for part in [folder.as_str(), "Read-only file system", "runs as user"] {
            assert!(complaint.contains(part), "{part} in {complaint}");
        }
        disk.set_read_only(false).unwrap();
    };
    refused("models");
    Lonely::start(disk.path()).until("not enrolled yet");
    refused("lock");
}

#[test]
fn a_state_directory_of_somebody_else_ends_the_start_with_64_and_names_who_needs_it() {
    // Made by us: others may not write there.
    let ours = tempfile::tempdir().unwrap();
    let output = match lonely(ours.path()).uid(NOBODY).gid(NOBODY).output() {
        Ok(output) => output,
        Err(error) => return println!("SKIPPED: no agent can be started as another user: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    let folder = ours.path().display().to_string();
    let user = format!("runs as user {NOBODY} and needs it for itself, with mode 0700");
    for part in [folder.as_str(), "Permission denied", user.as_str()] {
        assert!(complaint.contains(part), "{part} in {complaint}");
    }
}
