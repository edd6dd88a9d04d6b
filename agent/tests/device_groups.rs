//! How fast a node's devices are, and groups of equal ones: measured by processes, a script in the place of the worker.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lonely;

use agent::devices::Devices;
use agent::groups;
use agent::rates::{self, ByDevice, Lines, Setting};
use agent::shard::drive::View;
use agent::shard::report::Holding;
use device::{Answer, Backend, GpuDevice, Kind, Verification, merge};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Nothing here takes longer on a machine that works.
const LIMIT: Duration = Duration::from_secs(60);
/// Of a group that is measured as it should be.
const WELL: &str = ":";
/// Mesa's driver that computes on the processors, where distributions have it.
const SOFTWARE: &str = "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json";

/// A node's disk, and what it measures with.
struct Node(tempfile::TempDir);

impl Node {
    /// `group`: what the worker does before it answers where it is given more than one device; `$device` is the first of them.
    fn new(group: &str) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        node.install(group);
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Written by another process: a child that a test beside this one forks would inherit our descriptor, and nothing that is
    /// open for writing can be executed.
    fn install(&self, group: &str) {
        let text = format!(
            "#!/bin/sh\n\
             device= others=\n\
             while [ $# -gt 0 ]; do\n\
             case $1 in --device-index) device=$2; shift;; --group-index) others=\"$others $2\"; shift;; esac\n\
             shift\n\
             done\n\
             echo \"$device$others, seen $GGML_VK_VISIBLE_DEVICES\" >> {log}\n\
             if [ -n \"$others\" ]; then {group}; fi\n\
             echo '{{\"step_ns\":5,\"layer_ns\":7,\"reading\":[{{\"bits\":5,\"bytes_per_second\":9}}],\"samples\":4,\
             \"times\":{{}},\"improved\":false}}'\n",
            log = self.path("log").display()
        );
        std::fs::write(self.path("text"), text).unwrap();
        let installed = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([self.path("text"), self.path("worker")])
            .status();
        assert!(installed.unwrap().success());
    }

    /// Which devices were measured together, in this order, and which ones the worker could see.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn setting(&self) -> Setting {
        Setting {
            node: "n".to_owned(),
            worker: self.path("worker"),
            threads: 2,
            state_dir: self.0.path().to_owned(),
            pause: Duration::ZERO,
        }
    }

    /// Measures all that there is to measure of devices that never change, on a node that holds nothing.
    async fn life(&self, devices: Devices) -> (Arc<ByDevice>, Vec<groups::Seen>) {
        let (told, grouped) = (watch::Sender::new(Arc::default()), watch::Sender::new(None));
        let lines = Lines {
            devices: watch::Sender::new(Arc::new(devices)).subscribe(),
            view: watch::Sender::new(Arc::default()).subscribe(),
            told: told.clone(),
            groups: grouped.clone(),
        };
        let done = tokio::time::timeout(LIMIT, rates::run(self.setting(), lines)).await;
        done.expect("all is measured in time");
        let grouped = grouped.borrow().clone().expect("it is known which groups there are");
        (told.borrow().clone(), grouped.to_vec())
    }
}

fn card(index: u32) -> GpuDevice {
    GpuDevice::new(Backend::Vulkan, index, Kind::Discrete)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what} did not come about in time");
        tokio::task::yield_now().await;
    }
}

fn has_rates(seen: &groups::Seen) -> bool {
    seen.measured.as_ref().is_some_and(Result::is_ok)
}

#[tokio::test]
async fn two_equal_cards_are_measured_by_themselves_then_as_one_and_never_again() {
    let node = Node::new(WELL);
    let cards = || Devices::of([card(0), card(1)]);
    let (alone, together) = node.life(cards()).await;
    assert_eq!(alone.len(), 2);
    assert_eq!(together.len(), 1);
    assert_eq!(together[0].devices, ["n-vulkan0", "n-vulkan1"]);
    assert!(has_rates(&together[0]), "{together:?}");
    let all = [
        "0, seen 0",
        "1, seen 1",
        "0, seen 0",
        "1, seen 1",
        "0 1, seen 0,1",
        "0 1, seen 0,1",
    ];
    assert_eq!(node.log(), all);
    assert_eq!(
        node.life(cards()).await.1,
        together,
        "another life knows it from the disk"
    );
    assert_eq!(node.log(), all);
}

#[tokio::test]
async fn without_two_equal_accelerators_no_process_is_started_but_those_of_each_device() {
    let node = Node::new(WELL);
    let other = GpuDevice {
        model: "another".to_owned(),
        ..card(1)
    };
    let processors = GpuDevice::new(Backend::Cpu, 0, Kind::Cpu);
    let (alone, together) = node.life(Devices::of([card(0), other, processors])).await;
    assert_eq!((alone.len(), together), (3, vec![]));
    let log = node.log();
    assert_eq!(log.len(), 6, "twice each: {log:?}");
    assert!(log.iter().all(|line| !line.starts_with("0 1")), "{log:?}");
}

#[tokio::test]
async fn devices_that_cannot_work_as_one_are_told_with_the_last_words_and_tried_again_in_another_life() {
    let node = Node::new("echo 'numbers are not those of the processor' >&2; exit 69");
    let cards = || Devices::of([card(0), card(1)]);
    let (alone, together) = node.life(cards()).await;
    assert_eq!(alone.len(), 2, "each by itself is as good as before");
    let Some(Err(failed)) = &together[0].measured else {
        panic!("{together:?}");
    };
    assert_eq!(failed.cause, "exit status: 69: numbers are not those of the processor");
    assert!(failed.at_unix_s > 0);
    node.install(WELL);
    let (_, together) = node.life(cards()).await;
    assert!(has_rates(&together[0]), "{together:?}");
}

#[tokio::test]
async fn a_shard_that_comes_to_a_member_has_it_for_itself_at_once_and_groups_beside_it_are_measured() {
    let node = Node::new("[ $device = 0 ] && exec sleep 600");
    let (view, grouped) = (watch::Sender::new(Arc::default()), watch::Sender::new(None));
    let devices = watch::Sender::new(Arc::new(Devices::of((0..4).map(card))));
    let lines = Lines {
        devices: devices.subscribe(),
        view: view.subscribe(),
        told: watch::Sender::new(Arc::default()),
        groups: grouped.clone(),
    };
    let measuring = tokio::spawn(rates::run(node.setting(), lines));
    until("the first group's measurement", || {
        node.log().iter().any(|line| line.starts_with("0 1,"))
    })
    .await;
    view.send_replace(Arc::new(View {
        holdings: vec![Holding {
            device: "n-vulkan1".to_owned(),
            namespace: "ns".to_owned(),
            model: "m".to_owned(),
            layers: "0-9".to_owned(),
            memory_bytes: 1,
        }],
        ..View::default()
    }));
    let mut told = grouped.subscribe();
    let second_has_rates = |told: &groups::Told| told.as_ref().is_some_and(|all| all.get(1).is_some_and(has_rates));
    let found = tokio::time::timeout(LIMIT, told.wait_for(second_has_rates)).await;
    let all = found
        .expect("the second group's rates in time")
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(all[1].devices, ["n-vulkan2", "n-vulkan3"]);
    assert_eq!(all[0].measured, None, "a member holds layers");
    measuring.abort();
}

#[test]
fn mesas_software_driver_listed_twice_is_two_equal_devices_that_may_work_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let second = folder.path().join("second.json");
    if let Err(error) = std::fs::copy(SOFTWARE, &second) {
        return println!("SKIPPED: {SOFTWARE}: {error}");
    }
    // By the names that the loader has for it today, and had before.
    let twice = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(|name| (name, format!("{SOFTWARE}:{}", second.display())));
    let output = lonely::agent()
        .args(["probe", "--json", "--backends", "vulkan", "--measure-budget-ms", "0"])
        .env_remove("VK_ADD_DRIVER_FILES")
        .envs(twice)
        .output()
        .unwrap();
    let answers: Vec<Answer> = serde_json::from_slice(&output.stdout).unwrap();
    let found = merge::merge(&answers, None);
    let renderers = found.into_iter().filter(|device| device.kind == Kind::Software);
    let devices = Devices::of(renderers);
    let mut verified = devices.states.iter().map(|state| &state.device.verification);
    assert!(verified.all(|found| *found == Verification::Verified), "{devices:#?}");
    let groups = groups::of("n", &devices);
    let names = groups
        .iter()
        .flat_map(|group| group.members.iter().map(|member| member.name.as_str()));
    assert_eq!(names.collect::<Vec<_>>(), ["n-vulkan0", "n-vulkan1"]);
}
