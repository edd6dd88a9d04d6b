//! One sick card of several never condemns its neighbours: the agent's own children on fake cards, through the loader that
//! loads the real libraries.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use agent::devices::decide::ProofAges;
use agent::devices::drive::{self, Lines, Setting};
use agent::devices::watcher::Patience;
use agent::devices::{Availability, DeviceState, Devices};
use agent::discovery::report::object_name;
use agent::neighbours::Neighbours;
use agent::shard::drive::View;
use device::Backend;
use device::health::Standing;
use fakegpu::{Library, SCRIPT_VARIABLE, Script};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const NODE: &str = "node";
/// Nothing here takes longer on a machine that works: a card that hangs is waited for several times.
const LIMIT: Duration = Duration::from_secs(180);
/// Who says nothing for so long hangs; far more than a child takes on a machine that has much else to do.
const SILENT: Duration = Duration::from_secs(10);

/// The agent's view of a node of fake cards, each on the bus.
struct Node {
    script: Script,
    devices: watch::Receiver<Arc<Devices>>,
    /// What the node's shards do.
    view: watch::Sender<Arc<View>>,
    driving: JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Node {
    fn start(cards: u32, values: &[(&str, &str)]) -> Self {
        Self::checking(ProofAges::default(), cards, values)
    }

    /// One whose cards are verified once more when their proof is that old.
    fn checking(proof_ages: ProofAges, cards: u32, values: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut script = Script::create(folder.path().join("script")).unwrap();
        script.set([("cards", cards.to_string())]).unwrap();
        script
            .set(values.iter().map(|(key, value)| (*key, (*value).to_owned())))
            .unwrap();
        let root = folder.path().join("root");
        (0..cards).for_each(|card| plug(&root, card));
        std::fs::create_dir(root.join("dev")).unwrap();
        std::fs::write(root.join("dev/kmsg"), "").unwrap();
        let sender = watch::Sender::new(Arc::default());
        let devices = sender.subscribe();
        // Of a card that never said its identity there is only the address.
        let ours = |card| [identity(card), format!("pci:{}", address(card))].map(|name| (name, Availability::Ours));
        let neighbours = Neighbours {
            claims: (0..cards).flat_map(ours).collect(),
            ..Neighbours::default()
        };
        let setting = Setting {
            node: NODE.to_owned(),
            executable: agent_with_fakes(folder.path(), script.path()),
            backends: vec![Backend::Cuda],
            root,
            poll: Duration::from_millis(200),
            memory_limit_bytes: None,
            registry: folder.path().join("devices.json"),
            patience: Patience {
                answer: SILENT,
                silence: SILENT,
            },
            proof_ages,
        };
        let view = watch::Sender::new(Arc::default());
        let lines = Lines {
            devices: sender,
            view: view.subscribe(),
            neighbours: watch::Sender::new(Some(Arc::new(neighbours))).subscribe(),
        };
        Self {
            script,
            devices,
            view,
            driving: tokio::spawn(drive::run(setting, lines)),
            folder,
        }
    }

    /// The kernel's log gets one record more: each read of its reader must find one, as it does in the real log.
    fn logs(&self, record: &str) {
        let log = self.folder.path().join("root/dev/kmsg");
        let mut log = File::options().append(true).open(log).unwrap();
        log.write_all(format!("{record}\n").as_bytes()).unwrap();
    }

    fn set(&mut self, key: &str, value: &str) {
        self.script.set([(key, value.to_owned())]).unwrap();
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Devices) -> bool) -> Arc<Devices> {
        let found = tokio::time::timeout(LIMIT, self.devices.wait_for(|devices| is(devices)))
            .await
            .ok()
            .map(|found| Arc::clone(&found.unwrap()));
        found.unwrap_or_else(|| panic!("{what} did not come about: {:#?}", self.devices.borrow()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

fn libraries() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sick_cards");
        std::fs::create_dir_all(&folder).unwrap();
        fakegpu::build(&folder, &[Library::Nvml, Library::Cuda]).unwrap();
        folder
    })
}

/// The agent's executable where it finds the fakes. Installed by another process: a child that a test beside this one
/// forks would inherit our descriptor, and nothing that is open for writing can be executed.
fn agent_with_fakes(folder: &Path, script: &Path) -> PathBuf {
    let (text, path) = (folder.join("text"), folder.join("agent"));
    let said = format!(
        "#!/bin/sh\nexport LD_LIBRARY_PATH='{}' {SCRIPT_VARIABLE}='{}'\nunset CUDA_VISIBLE_DEVICES\nexec '{}' \"$@\"\n",
        libraries().display(),
        script.display(),
        env!("CARGO_BIN_EXE_shardwright-agent"),
    );
    std::fs::write(&text, said).unwrap();
    let installed = std::process::Command::new("install")
        .args(["-m", "755"])
        .args([&text, &path])
        .status();
    assert!(installed.unwrap().success());
    path
}

fn plug(root: &Path, card: u32) {
    let folder = root.join("sys/bus/pci/devices").join(address(card));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("class"), "0x030200\n").unwrap();
    std::fs::write(folder.join("vendor"), "0x10de\n").unwrap();
}

fn address(card: u32) -> String {
    format!("0000:{:02x}:00.0", card + 1)
}

fn identity(card: u32) -> String {
    format!("uuid:GPU-00000000-0000-0000-0000-0000000000{:02x}", card + 1)
}

fn state(devices: &Devices, card: u32) -> Option<&DeviceState> {
    devices
        .states
        .iter()
        .find(|state| state.device.pci_address == Some(address(card)))
}

fn is_ready(devices: &Devices, card: u32) -> bool {
    state(devices, card).is_some_and(DeviceState::takes_layers)
}

fn failed_by(devices: &Devices, card: u32, reason: &str) -> bool {
    state(devices, card)
        .is_some_and(|state| matches!(&state.standing, Standing::Failed { fault } if fault.reason == reason))
}

fn is_measured(devices: &Devices, card: u32) -> bool {
    state(devices, card).is_some_and(|state| state.device.measured.bandwidth_bytes_per_second.is_some())
}

fn is_read(devices: &Devices, card: u32) -> bool {
    state(devices, card).is_some_and(|state| state.sample.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_hangs_from_the_start_is_failed_alone_and_its_neighbour_is_verified_measured_and_read() {
    let mut node = Node::start(2, &[("1.hang", "cuMemAlloc_v2")]);
    let devices = node
        .until("the verdict", |devices| {
            failed_by(devices, 1, "ProbeHung") && is_ready(devices, 0)
        })
        .await;
    let note = devices.notes.iter().find(|(_, note)| note.contains(&address(1)));
    assert!(
        note.is_some_and(|(_, note)| note.contains("did not answer")),
        "{:?}",
        devices.notes
    );
    let devices = node
        .until("its neighbour's figures and readings", |devices| {
            is_measured(devices, 0) && is_read(devices, 0)
        })
        .await;
    assert!(is_ready(&devices, 0) && failed_by(&devices, 1, "ProbeHung"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_eight_cards_that_begins_to_hang_while_it_is_read_is_failed_alone_and_the_seven_are_read_on() {
    let mut node = Node::start(8, &[]);
    node.until("eight cards in order", |devices| {
        (0..8).all(|card| is_ready(devices, card) && is_read(devices, card))
    })
    .await;
    node.set("3.hang", "nvmlDeviceGetTemperature");
    let devices = node
        .until("the verdict", |devices| failed_by(devices, 3, "ProbeHung"))
        .await;
    let well = (0..8).filter(|card| *card != 3);
    assert!(
        well.clone().all(|card| is_ready(&devices, card)),
        "{:#?}",
        devices.states
    );
    let before = devices.counters.readings;
    let devices = node
        .until("readings of the seven", |devices| {
            devices.counters.readings > before + 3
        })
        .await;
    assert!(
        well.clone()
            .all(|card| is_ready(&devices, card) && is_read(&devices, card))
    );
    assert!(devices.states.len() == 8 && failed_by(&devices, 3, "ProbeHung"));
    assert_eq!(state(&devices, 3).unwrap().device.identity(), identity(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_whose_driver_crashes_is_failed_alone_and_says_how() {
    let mut node = Node::start(2, &[("0.crash", "cuLaunchKernel")]);
    let devices = node
        .until("the verdict", |devices| {
            failed_by(devices, 0, "SelfTestFailed") && is_ready(devices, 1)
        })
        .await;
    let fault = state(&devices, 0).and_then(|state| state.last_fault.clone()).unwrap();
    assert!(fault.message.contains("took its probe down"), "{}", fault.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_says_of_a_card_reaches_that_card_alone_and_what_a_process_says_reaches_none() {
    let mut node = Node::start(2, &[]);
    node.until("two cards in order", |devices| {
        (0..2).all(|card| is_ready(devices, card) && is_read(devices, card))
    })
    .await;
    let off_the_bus = "NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus.";
    // Facility 1: whoever may write to the log.
    node.logs(&format!("12,1,1,-;{off_the_bus}"));
    let devices = node
        .until("the count of what a process wrote", |devices| {
            devices.counters.spoofed_events == 1
        })
        .await;
    assert!((0..2).all(|card| is_ready(&devices, card)), "{:#?}", devices.states);
    assert!(devices.counters.xids.is_empty(), "{:?}", devices.counters.xids);
    node.logs("4,2,2,-;NVRM: Xid (PCI:0000:02:00): 31, pid=1, name=python3, MMU fault");
    let devices = node
        .until("the order to start its shards again", |devices| {
            state(devices, 1).is_some_and(|state| state.restart_shards == 1)
        })
        .await;
    assert!((0..2).all(|card| is_ready(&devices, card)), "{:#?}", devices.states);
    node.logs(&format!("4,3,3,-;{off_the_bus}"));
    let devices = node
        .until("the verdict", |devices| failed_by(devices, 0, "FellOffBus"))
        .await;
    assert!(is_ready(&devices, 1), "{:#?}", devices.states);
    let restarts: Vec<u32> = devices.states.iter().map(|state| state.restart_shards).collect();
    assert_eq!(restarts.iter().sum::<u32>(), 1, "{restarts:?}");
    assert_eq!(devices.counters.spoofed_events, 1);
    let doubtful = [0, 1].map(|card| state(&devices, card).unwrap().spoiled_by.as_ref());
    assert_eq!(
        doubtful.map(|fault| fault?.xid),
        [Some(79), None],
        "what the cards compute"
    );
    let fault = state(&devices, 0).and_then(|state| state.last_fault.clone()).unwrap();
    assert_eq!(fault.xid, Some(79));
    assert_eq!(
        fault.message,
        "GPU has fallen off the bus: pid=1, GPU has fallen off the bus."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_hangs_for_every_card_condemns_them_all() {
    let mut node = Node::start(2, &[]);
    node.until("two cards in order", |devices| {
        (0..2).all(|card| is_ready(devices, card) && is_read(devices, card))
    })
    .await;
    node.set("0.hang", "any");
    node.set("1.hang", "any");
    node.until("the verdict", |devices| {
        (0..2).all(|card| failed_by(devices, card, "ProbeHung"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_answers_again_is_watched_with_the_others_again() {
    let mut node = Node::start(2, &[("1.hang", "cuMemAlloc_v2")]);
    node.until("the verdict", |devices| failed_by(devices, 1, "ProbeHung"))
        .await;
    node.script.unset("1.hang").unwrap();
    let devices = node
        .until("its proof and a reading", |devices| {
            let passed = |state: &DeviceState| matches!(state.standing, Standing::Recovering { .. });
            state(devices, 1).is_some_and(passed) && is_read(devices, 1)
        })
        .await;
    assert!(is_ready(&devices, 0));
}

/// Once both cards are in order, and everything was asked of them that is asked at the start.
async fn in_order(node: &mut Node) -> Arc<Devices> {
    node.until("two cards in order", |devices| {
        (0..2).all(|card| is_ready(devices, card) && is_measured(devices, card) && is_read(devices, card))
    })
    .await
}

/// It fails by name with everything that it computes, and says what it got wrong.
async fn found_out(node: &mut Node, card: u32) -> Arc<Devices> {
    let devices = node
        .until("the verdict", |devices| failed_by(devices, card, "SelfTestFailed"))
        .await;
    let fault = state(&devices, card)
        .and_then(|state| state.spoiled_by.clone())
        .unwrap();
    assert!(
        fault.message.contains("numbers of a 128x128 product are wrong"),
        "{}",
        fault.message
    );
    devices
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_card_that_begins_to_compute_what_is_wrong_is_found_out_by_its_next_check_and_its_neighbour_stays() {
    let ages = ProofAges {
        idle: Duration::from_millis(100),
        loading: Duration::from_secs(3600),
    };
    let mut node = Node::checking(ages, 2, &[]);
    in_order(&mut node).await;
    node.set("1.wrong", "product");
    let devices = found_out(&mut node, 1).await;
    assert!(is_ready(&devices, 0), "{:#?}", devices.states);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_went_wrong_unnoticed_is_found_out_beside_the_loading_of_layers_and_no_other_card_is_touched() {
    let ages = ProofAges {
        idle: Duration::from_secs(3600),
        loading: Duration::ZERO,
    };
    let mut node = Node::checking(ages, 2, &[]);
    let devices = in_order(&mut node).await;
    node.set("0.wrong", "product");
    node.set("1.wrong", "product");
    let loaded = object_name(NODE, &state(&devices, 1).unwrap().device);
    node.view.send_replace(Arc::new(View {
        loading: [loaded].into(),
        ..View::default()
    }));
    let devices = found_out(&mut node, 1).await;
    assert!(is_ready(&devices, 0), "nobody asked the other: {:#?}", devices.states);
}
