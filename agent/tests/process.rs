//! The executable itself: configuration, probing, and a life without operator and API server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lonely;

use device::{Answer, Backend, Platform};
use lonely::{LIMIT, Lonely, agent, lonely};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

fn run(arguments: &[&str]) -> Output {
    agent().args(arguments).output().unwrap()
}

#[test]
fn bad_configuration_ends_with_64_and_names_what_is_wrong() {
    for (arguments, named) in [
        (&["--node-name", "Not A Name"][..], "--node-name"),
        (&["--node-name", "a", "--threads", "none"][..], "--threads"),
        (&["--backends", "abacus", "--node-name", "a"][..], "abacus"),
        (&[][..], "node-name"),
    ] {
        let output = run(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {complaint}");
        assert!(complaint.contains(named), "{arguments:?}: {complaint}");
    }
}

#[test]
fn a_state_directory_that_cannot_be_had_is_bad_configuration() {
    let output = lonely(Path::new("/proc/shardwright")).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    let user = rustix::process::geteuid().as_raw();
    let whose = format!("runs as user {user} and needs it for itself, with mode 0700");
    assert!(
        complaint.contains("/proc/shardwright") && complaint.contains(&whose),
        "{complaint}"
    );
}

#[test]
fn what_is_in_the_way_in_the_state_directory_is_named() {
    for name in ["models", "identity", "lock"] {
        let state_dir = tempfile::tempdir().unwrap();
        let in_the_way = state_dir.path().join(name);
        // A folder where a file must be, and the other way round.
        if name == "lock" {
            std::fs::create_dir(&in_the_way).unwrap();
        } else {
            std::fs::write(&in_the_way, "").unwrap();
        }
        let output = lonely(state_dir.path()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{complaint}");
        assert!(complaint.contains(&in_the_way.display().to_string()), "{complaint}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("state");
    let output = lonely(&below).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    assert!(complaint.contains(&below.display().to_string()), "{complaint}");
}

#[test]
fn accepted_epochs_that_cannot_be_read_end_the_start_and_are_named_with_what_to_do() {
    let state_dir = tempfile::tempdir().unwrap();
    let epochs = state_dir.path().join("epochs.json");
    std::fs::write(&epochs, "{").unwrap();
    let output = lonely(state_dir.path()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    for part in [epochs.display().to_string().as_str(), "restore it, or remove it"] {
        assert!(complaint.contains(part), "{part} in {complaint}");
    }
}

#[test]
fn a_registry_of_devices_that_cannot_be_saved_is_told_once_and_so_is_that_it_is_saved_again() {
    let state_dir = tempfile::tempdir().unwrap();
    // Where the new file is written before it takes the old one's place.
    let in_the_way = state_dir.path().join("devices.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let mut running = Lonely::start(state_dir.path());
    running.until("the registry of devices cannot be saved");
    // It waits for longer each time: seconds, in which the file is tried several times.
    let said: Vec<String> = (0..4).flat_map(|_| running.until("not enrolled yet")).collect();
    assert!(said.iter().all(|line| !line.contains("cannot be saved")), "{said:#?}");
    std::fs::remove_dir(&in_the_way).unwrap();
    running.until("the registry of devices is saved again");
    assert!(state_dir.path().join("devices.json").is_file());
}

#[test]
fn probing_as_json_answers_for_every_backend_that_was_asked_for() {
    let output = run(&["probe", "--json"]);
    let answers: Vec<Answer> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        answers.iter().map(|answer| answer.backend).collect::<Vec<_>>(),
        Platform::current().order()
    );
    let processors = answers.iter().find(|answer| answer.backend == Backend::Cpu).unwrap();
    assert_eq!(processors.devices.len(), 1);
    for answer in answers {
        assert!(
            !answer.devices.is_empty() || answer.note.is_some(),
            "nothing is never without a reason"
        );
    }
}

#[test]
fn a_vulkan_loader_that_finds_no_driver_is_told_with_what_to_install() {
    // By the names that the loader has for it today, and had before.
    let nowhere = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(|name| (name, "/nonexistent/driver.json"));
    let output = agent()
        .args(["probe", "--json", "--backends", "vulkan"])
        .env_remove("VK_ADD_DRIVER_FILES")
        .envs(nowhere)
        .output()
        .unwrap();
    let answers: Vec<Answer> = serde_json::from_slice(&output.stdout).unwrap();
    let note = answers[0].note.as_deref().unwrap();
    if note.starts_with("no Vulkan loader: ") {
        assert!(
            note.ends_with("install libvulkan1 where a GPU should be used by Vulkan"),
            "{note}"
        );
        return println!("SKIPPED: {note}");
    }
    assert!(
        note.starts_with("no Vulkan driver: ") && note.contains("install the card's Vulkan driver"),
        "{note}"
    );
}

#[test]
fn probing_prints_a_table_and_a_limit_is_seen_in_it() {
    let output = run(&["probe", "--backends", "cpu", "--memory-limit-bytes", "1073741824"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let device = text.lines().find(|line| line.starts_with("cpu0")).unwrap();
    assert!(device.contains("1.0 GiB") && device.ends_with("yes"), "{text}");
}

#[test]
fn a_watcher_ends_when_its_input_closes() {
    for backend in Backend::ALL {
        let mut watcher = agent()
            .args(["watch", "--backend", backend.name(), "--interval-ms", "100"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(watcher.stdin.take());
        let start = Instant::now();
        while watcher.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < LIMIT, "{backend}: it did not end");
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_devices_are_remembered_in_the_state_directory() {
    let state_dir = tempfile::tempdir().unwrap();
    Lonely::start(state_dir.path()).until("not enrolled yet");
    let registry = std::fs::read_to_string(state_dir.path().join("devices.json")).unwrap();
    assert!(
        registry.contains("\"cpu:0\"") || registry.contains("\"backend\""),
        "{registry}"
    );
}

#[test]
fn without_operator_and_api_server_the_agent_waits_and_a_signal_ends_it_well() {
    let state_dir = tempfile::tempdir().unwrap();
    let mut first = Lonely::start(state_dir.path());
    first.until("not enrolled yet");
    let second = lonely(state_dir.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another agent"));
    let status = first.terminated();
    assert!(status.success(), "{status}");
}

#[test]
fn an_agent_that_knows_of_no_api_server_says_so_with_what_to_set() {
    let state_dir = tempfile::tempdir().unwrap();
    let said = Lonely::start(state_dir.path()).until("devices are not published");
    let complaint = said.last().unwrap();
    assert!(
        complaint.contains("no way to the Kubernetes API: ") && complaint.contains("; run in a pod or set KUBECONFIG"),
        "{complaint}"
    );
}

#[test]
fn what_an_agent_has_in_its_environment_does_not_keep_its_children_from_probing() {
    let output = agent()
        .args(["probe", "--json", "--backends", "cpu", "--measure-budget-ms", "0"])
        .envs([("SYSFS_ROOT", "/"), ("POD_RESOURCES_SOCKET", "/nonexistent")])
        .output()
        .unwrap();
    let answers: Vec<Answer> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers[0].devices.len(), 1);
}
