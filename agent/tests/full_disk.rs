//! Fetches onto disks that fill up under them, and onto one that takes what it cannot keep.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inspected;
mod rig;
mod tiny_model;

use agent::models::Models;
use agent::shard::observed::Fault;
use agent::shard::weights::{Gauge, Weights};
use agent::source::Kind;
use inspected::Inspected;
use origin::Manner;
use rig::{fetched_and_verified, pieces};
use scarcity::disk::{Disk, Thin, forget_cached};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use tokio::runtime::Runtime;

/// Layers of 1.6 MB, six of them.
const ROWS: u64 = 20_000;
/// No request but one for weights is for so many bytes.
const WEIGHTS_BYTES_MIN: u64 = 100_000;

/// A node whose models are on a disk.
struct Bench {
    model: Inspected,
    models: Arc<Models>,
    _runtime: Runtime,
}

impl Bench {
    fn on(disk: &Path) -> Self {
        let runtime = rig::runtime();
        let model = Inspected::of_rows(&runtime, ROWS);
        let models = rig::models(&runtime, rig::setting(disk), None);
        // It is wanted here: what is there of it makes no room for the rest.
        models.keep(HashSet::from([model.wanted().index]));
        Self {
            model,
            models,
            _runtime: runtime,
        }
    }

    fn weights(&self) -> Weights {
        let Inspected { facts, .. } = &self.model;
        rig::weights(&self.models, facts, self.model.wanted(), 0, tiny_model::LAYERS)
    }

    fn folder(&self) -> PathBuf {
        rig::path_of(&self.models, &self.model.facts)
    }

    /// Does something once, when weights are asked for: the room for them is promised by then.
    fn at_the_first_weights(&self, act: impl Fn() + Send + Sync + 'static) {
        let once = Once::new();
        self.model.server.behave(move |seen| {
            let long = seen.range.is_some_and(|(first, last)| last - first > WEIGHTS_BYTES_MIN);
            if long && !seen.path.ends_with("json") {
                once.call_once(&act);
            }
            Manner::Serve
        });
    }

    /// Files that are begun.
    fn begun(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| [".filling", ".partial", ".draft"].iter().any(|end| name.ends_with(end)))
            .collect()
    }

    /// All of it is there, and right.
    fn comes_to_its_end(&self) {
        let weights = self.weights();
        fetched_and_verified(&weights).unwrap();
        weights.prepare().unwrap();
        let there = pieces(&self.folder()).len();
        assert!(there > tiny_model::LAYERS as usize);
        assert_eq!((self.model.check(&self.folder()), self.begun()), (there, Vec::new()));
    }
}

/// The number of MiB behind a word of a message.
fn mebibytes(fault: &Fault, word: &str) -> f64 {
    let number = fault
        .message
        .split_once(word)
        .and_then(|(_, rest)| rest.split_once(" MiB"));
    let number = number.and_then(|(number, _)| number.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {word} in {}", fault.message))
}

fn says(fault: &Fault, parts: &[&str]) {
    assert_eq!(fault.reason, "DiskFull", "{}", fault.message);
    for part in parts {
        assert!(fault.message.contains(part), "{part} in {}", fault.message);
    }
}

#[test]
fn a_disk_that_others_fill_in_the_midst_of_a_fetch_is_said_with_what_is_missing_and_with_room_it_comes_to_its_end() {
    let Some(disk) = Disk::of(16 << 20).map(Arc::new) else {
        return;
    };
    let bench = Bench::on(disk.path());
    let filled = Arc::clone(&disk);
    bench.at_the_first_weights(move || filled.fill_but(1 << 20).unwrap());
    let root = disk.path().join("models").display().to_string();

    let fault = bench.weights().fetch(&Gauge::default()).unwrap_err();
    says(
        &fault,
        &[root.as_str(), "No space left on device", "make room", "--state-dir"],
    );
    let (need, free) = (mebibytes(&fault, "need "), mebibytes(&fault, "MiB, "));
    assert!(need > 1.0 && need < 10.0 && free < need, "{}", fault.message);
    assert!(bench.begun().is_empty(), "{:?}", bench.begun());
    bench.model.check(&bench.folder());

    // As long as it is full nothing is begun again.
    let fault = bench.weights().fetch(&Gauge::default()).unwrap_err();
    says(&fault, &[root.as_str(), "need ", "kept free", "make room"]);
    assert!(bench.begun().is_empty(), "{:?}", bench.begun());

    disk.make_room().unwrap();
    bench.comes_to_its_end();
}

#[test]
fn where_not_even_the_index_finds_room_nothing_is_left_and_with_room_the_fetch_comes_to_its_end() {
    let Some(disk) = Disk::of(16 << 20) else { return };
    let bench = Bench::on(disk.path());
    disk.fill_but(0).unwrap();
    let fault = bench.weights().fetch(&Gauge::default()).unwrap_err();
    let index = bench.folder().join("index.json").display().to_string();
    says(&fault, &[index.as_str(), "No space left on device", "make room"]);
    assert_eq!(std::fs::read_dir(bench.folder()).unwrap().count(), 0);
    disk.make_room().unwrap();
    bench.comes_to_its_end();
}

#[test]
fn what_a_disk_took_and_could_not_keep_is_not_believed_and_is_fetched_again() {
    let Some(disk) = Thin::of(32 << 20).map(Arc::new) else {
        return;
    };
    let bench = Bench::on(disk.path());
    let exhausted = Arc::clone(&disk);
    bench.at_the_first_weights(move || exhausted.exhaust().unwrap());

    let fault = bench.weights().fetch(&Gauge::default()).unwrap_err();
    says(&fault, &["syncing ", "No space left on device", "make room"]);
    assert!(bench.begun().is_empty(), "{:?}", bench.begun());
    forget_cached(&bench.folder()).unwrap();
    bench.model.check(&bench.folder());

    disk.relieve().unwrap();
    let received = || bench.models.counters().bytes(Kind::Https);
    let before = received();
    bench.comes_to_its_end();
    let layers: u64 = bench.model.facts.layers.iter().map(|layer| layer.weight_bytes).sum();
    assert!(received() - before >= layers, "every layer came again");
    forget_cached(&bench.folder()).unwrap();
    bench.model.check(&bench.folder());
}
