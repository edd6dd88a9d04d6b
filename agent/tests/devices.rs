//! The devices' life with children that hang, crash and talk nonsense: shell scripts in the place of the agent's own
//! executable.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use agent::devices::decide::ProofAges;
use agent::devices::drive::{self, Lines, Setting};
use agent::devices::watcher::Patience;
use agent::devices::{Availability, DeviceState, Devices};
use agent::neighbours::Neighbours;
use device::health::Standing;
use device::telemetry::{Reading, Sample};
use device::{Answer, Backend, Figure, GpuDevice, Kind, Verification};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Nothing here takes longer on a machine that works.
const LIMIT: Duration = Duration::from_secs(60);
/// Who says nothing for so long hangs; far more than a script takes on a machine that has much else to do.
const SILENT: Duration = Duration::from_secs(10);

/// A node whose drivers are files and scripts in a folder.
struct Node {
    folder: tempfile::TempDir,
    devices: watch::Receiver<Arc<Devices>>,
    driving: JoinHandle<()>,
}

impl Node {
    /// `probe` and `watch` are what the children do, in the folder, with the backend in `$backend`.
    fn start(backends: &[Backend], probe: &str, watch: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let executable = script(folder.path(), probe, watch);
        let setting = Setting {
            node: "node".to_owned(),
            executable,
            backends: backends.to_vec(),
            root: folder.path().to_owned(),
            poll: Duration::from_millis(100),
            memory_limit_bytes: None,
            registry: folder.path().join("devices.json"),
            patience: Patience {
                answer: SILENT,
                silence: SILENT,
            },
            proof_ages: ProofAges::default(),
        };
        let sender = watch::Sender::new(Arc::default());
        let devices = sender.subscribe();
        let neighbours = Neighbours {
            claims: (0..3).map(|number| (identity(number), Availability::Ours)).collect(),
            ..Neighbours::default()
        };
        let lines = Lines {
            devices: sender,
            view: watch::Sender::new(Arc::default()).subscribe(),
            neighbours: watch::Sender::new(Some(Arc::new(neighbours))).subscribe(),
        };
        Self {
            folder,
            devices,
            driving: tokio::spawn(drive::run(setting, lines)),
        }
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Devices) -> bool) -> Arc<Devices> {
        let found = tokio::time::timeout(LIMIT, self.devices.wait_for(|devices| is(devices)))
            .await
            .ok()
            .map(|found| Arc::clone(&found.unwrap()));
        found.unwrap_or_else(|| panic!("{what} did not come about: {:#?}", self.devices.borrow()))
    }

    fn write(&self, name: &str, cards: &[u32]) {
        write(self.folder.path(), name, cards);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

/// Written by another process: a child that a test beside this one forks would inherit our descriptor, and nothing that is
/// open for writing can be executed.
fn script(folder: &Path, probe: &str, watch: &str) -> PathBuf {
    let (text, path) = (folder.join("text"), folder.join("agent"));
    let text_of = format!(
        "#!/bin/sh\ncd {}\nfor word; do case $word in cpu|vulkan|cuda|rocm|intel) backend=$word;; esac; done\n\
         case $1 in\nprobe)\n{probe}\n;;\nwatch)\n{watch}\n;;\nesac\n",
        folder.display()
    );
    std::fs::write(&text, text_of).unwrap();
    let installed = std::process::Command::new("install")
        .args(["-m", "755"])
        .args([&text, &path])
        .status();
    assert!(installed.unwrap().success());
    path
}

fn identity(number: u32) -> String {
    format!("uuid:GPU-{number}")
}

fn card(number: u32) -> GpuDevice {
    let mut card = GpuDevice {
        vendor: "nvidia".into(),
        model: "A card".into(),
        uuid: Some(format!("GPU-{number}")),
        memory_total_bytes: 8 << 30,
        memory_free_bytes: 8 << 30,
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cuda, number, Kind::Discrete)
    };
    card.measured.bandwidth_bytes_per_second = Some(Figure {
        value: 1_000_000_000,
        samples: 1,
        measured_unix_s: 1,
    });
    card
}

/// What a probe and a reader say of the cards, replaced as a whole.
fn write(folder: &Path, name: &str, cards: &[u32]) {
    let answer = Answer {
        backend: Backend::Cuda,
        devices: cards.iter().copied().map(card).collect(),
        note: None,
    };
    let sample = |number: &u32| Sample {
        device: identity(*number),
        temperature_celsius: Some(40.0),
        ..Sample::default()
    };
    let reading = Reading {
        backend: Backend::Cuda,
        samples: cards.iter().map(sample).collect(),
        events: Vec::new(),
        kernel_faults: Vec::new(),
        spoofed: 0,
        fault: None,
    };
    let text = if name == "reading" {
        serde_json::to_string(&reading).unwrap()
    } else {
        serde_json::to_string(&[answer]).unwrap()
    };
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, text + "\n").unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

fn state(devices: &Devices, number: u32) -> Option<&DeviceState> {
    let identity = identity(number);
    devices.states.iter().find(|state| state.device.identity() == identity)
}

fn is_ready(devices: &Devices, number: u32) -> bool {
    state(devices, number).is_some_and(DeviceState::takes_layers)
}

fn failed_by(devices: &Devices, number: u32, reason: &str) -> bool {
    state(devices, number)
        .is_some_and(|state| matches!(&state.standing, Standing::Failed { fault } if fault.reason == reason))
}

const READS: &str = "while cat reading; do sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn drivers_that_hang_crash_and_talk_nonsense_cost_notes_and_leave_the_others_ready() {
    let probe = "case $backend in cuda) cat answer;; rocm) kill -SEGV $$;; vulkan) echo nonsense;; intel) exec sleep 600;; esac";
    let all = [Backend::Cuda, Backend::Rocm, Backend::Vulkan, Backend::Intel];
    let mut node = Node::start(&all, probe, "exit 0", |folder| write(folder, "answer", &[0]));
    let devices = node.until("the first look", |devices| devices.ready).await;
    assert!(is_ready(&devices, 0));
    let devices = node.until("an answer of everybody", |devices| devices.complete).await;
    for (backend, words) in [
        (Backend::Rocm, "took its probe down"),
        (Backend::Vulkan, "cannot be read"),
        (Backend::Intel, "did not answer"),
    ] {
        let said = devices
            .notes
            .iter()
            .any(|(of, note)| *of == backend && note.contains(words));
        assert!(said, "{words} is missing in {:?}", devices.notes);
    }
    assert!(is_ready(&devices, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_plugged_in_is_found_and_one_that_is_pulled_out_is_gone() {
    let prepare = |folder: &Path| {
        write(folder, "answer", &[0]);
        write(folder, "reading", &[0]);
    };
    let mut node = Node::start(&[Backend::Cuda], "cat answer", READS, prepare);
    node.until("a reading", |devices| {
        state(devices, 0).is_some_and(|state| state.sample.is_some())
    })
    .await;
    node.write("answer", &[0, 1]);
    node.write("reading", &[0, 1]);
    let devices = node.until("the second card", |devices| is_ready(devices, 1)).await;
    assert!(is_ready(&devices, 0));
    node.write("answer", &[1]);
    node.write("reading", &[1]);
    let devices = node.until("its loss", |devices| failed_by(devices, 0, "Gone")).await;
    assert!(is_ready(&devices, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_hangs_while_it_is_read_fails_its_devices_and_is_read_again() {
    let prepare = |folder: &Path| {
        write(folder, "answer", &[0]);
        write(folder, "reading", &[0]);
    };
    let watch = "cat reading; while test -e well; do sleep 0.1; cat reading; done; exec sleep 600";
    let mut node = Node::start(&[Backend::Cuda], "cat answer", watch, prepare);
    node.until("the silence", |devices| failed_by(devices, 0, "ProbeHung"))
        .await;
    std::fs::write(node.folder.path().join("well"), "").unwrap();
    let devices = node
        .until("another reader", |devices| devices.counters.readings > 3)
        .await;
    assert!(devices.counters.watchers_restarted[&Backend::Cuda] >= 1);
    node.until("its proof", |devices| {
        state(devices, 0).is_some_and(|state| matches!(state.standing, Standing::Recovering { .. }))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_crashes_or_talks_nonsense_is_started_again_and_condemns_nothing() {
    for end in ["kill -SEGV $$", "echo nonsense"] {
        let prepare = |folder: &Path| {
            write(folder, "answer", &[0]);
            write(folder, "reading", &[0]);
        };
        let watch = format!("cat reading; {end}");
        let mut node = Node::start(&[Backend::Cuda], "cat answer", &watch, prepare);
        let devices = node
            .until("two lives of the reader", |devices| devices.counters.readings >= 2)
            .await;
        assert!(is_ready(&devices, 0));
        assert!(devices.counters.watchers_restarted[&Backend::Cuda] >= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_keeps_its_name_in_the_next_life_of_the_agent_though_its_index_is_another() {
    let mut node = Node::start(&[Backend::Cuda], "cat answer", "exit 0", |folder| {
        write(folder, "answer", &[0, 1]);
    });
    let name = |devices: &Devices| state(devices, 1).map(|state| (state.device.short_name(), state.device.index));
    let devices = node.until("the first look", |devices| devices.ready).await;
    let (before, index) = name(&devices).unwrap();
    assert_eq!(index, 1);
    let registry = std::fs::read(node.folder.path().join("devices.json")).unwrap();
    let renumbered = |folder: &Path| {
        std::fs::write(folder.join("devices.json"), registry).unwrap();
        let mut only = card(1);
        only.index = 0;
        let answer = Answer {
            backend: Backend::Cuda,
            devices: vec![only],
            note: None,
        };
        std::fs::write(folder.join("answer"), serde_json::to_string(&[answer]).unwrap()).unwrap();
    };
    let mut node = Node::start(&[Backend::Cuda], "cat answer", "exit 0", renumbered);
    let devices = node.until("the first look", |devices| devices.ready).await;
    assert_eq!(name(&devices), Some((before, 0)));
}
