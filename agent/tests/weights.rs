//! Fetch, verify and prepare from a file of this node, on a tiny model and on a real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;
mod tiny_model;

use agent::shard::weights::{Gauge, Weights};
use gguf::{Digest, Gguf};
use proto::control::v1::{Inspect, ModelFacts};
use rig::{Node, ask, fetched_and_verified, path_of, pieces, wanted, weights};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

struct Bench {
    runtime: Runtime,
    node: Node,
    directory: tempfile::TempDir,
    path: PathBuf,
    facts: ModelFacts,
}

impl Bench {
    fn of(path: PathBuf, directory: tempfile::TempDir) -> Self {
        let runtime = rig::runtime();
        let node = Node::new(&runtime);
        let facts = rig::inspect(&runtime, &node.models, &uri(&path), None, &[]).unwrap();
        Self {
            runtime,
            node,
            directory,
            path,
            facts,
        }
    }

    fn tiny() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny.gguf");
        tiny_model::write(&path);
        Self::of(path, directory)
    }

    /// The model that the other tests and the demo use, where it is.
    fn real() -> Option<Self> {
        let named = std::env::var_os("SHARDWRIGHT_TEST_MODEL").map(PathBuf::from);
        let cached = || {
            let home = std::env::var_os("HOME")?;
            Some(Path::new(&home).join(".cache/shardwright/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
        };
        let Some(path) = named.or_else(cached).filter(|path| path.is_file()) else {
            println!("SKIPPED: no model; set SHARDWRIGHT_TEST_MODEL to a .gguf file");
            return None;
        };
        Some(Self::of(path, tempfile::tempdir().unwrap()))
    }

    fn weights(&self, first: u32, end: u32) -> Weights {
        let wanted = wanted(&self.facts, &uri(&self.path), None);
        weights(&self.node.models, &self.facts, wanted, first, end)
    }

    fn folder(&self) -> PathBuf {
        path_of(&self.node.models, &self.facts)
    }
}

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Changes the last byte of a tensor.
fn damage(path: &Path, tensor: &str) {
    let tensor = Gguf::open(path).unwrap().tensor(tensor).cloned().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[(tensor.offset_bytes + tensor.size_bytes - 1) as usize] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn facts_say_among_how_many_devices_layers_can_be_divided() {
    let Some(bench) = Bench::real() else { return };
    assert_eq!(bench.facts.group_sizes, [3], "it has three key and value heads");
}

#[test]
fn only_the_own_range_is_fetched_and_what_was_fetched_is_what_was_inspected() {
    let bench = Bench::tiny();
    let weights = bench.weights(2, 4);
    let gauge = Gauge::default();
    weights.fetch(&gauge).unwrap();
    let (done, total) = gauge.read();
    assert!(done == total && total > 0);
    weights.verify(&gauge).unwrap();
    assert_eq!(
        pieces(&bench.folder()),
        ["layer-00002.gguf", "layer-00003.gguf", "shared.gguf"]
    );
}

#[test]
fn slices_are_prepared_with_what_their_place_needs() {
    let bench = Bench::tiny();
    for (first, end) in [(0, 2), (2, 4), (4, 6)] {
        let weights = bench.weights(first, end);
        fetched_and_verified(&weights).unwrap();
        let prepared = weights.prepare().unwrap();
        assert_eq!(prepared.embedding_length, bench.facts.embedding_length);
        assert_eq!(prepared.files.embedding.is_some(), first == 0);
        assert!(prepared.files.header.is_file() && prepared.files.parts.iter().all(|part| part.is_file()));
        Gguf::open(&prepared.files.header).unwrap();
    }
}

#[test]
fn a_new_cut_of_fetched_layers_needs_no_source_and_moves_no_weights() {
    let bench = Bench::tiny();
    let (first, second) = (bench.weights(0, 4), bench.weights(1, 3));
    fetched_and_verified(&first).unwrap();
    let held = first.prepare().unwrap();
    std::fs::remove_file(&bench.path).unwrap();
    let before = pieces(&bench.folder());
    fetched_and_verified(&second).unwrap();
    assert_eq!(pieces(&bench.folder()), before);
    let beside = second.prepare().unwrap();
    let layer = |files: &gguf::SliceFiles| {
        let part = files
            .parts
            .iter()
            .find(|part| part.ends_with("layer-00002.gguf"))
            .unwrap();
        inode(part)
    };
    let pool = inode(&bench.folder().join("layer-00002.gguf"));
    assert!(
        layer(&held.files) == pool && layer(&beside.files) != pool,
        "two living slices"
    );
    bench.node.models.release(&first.slot.key());
    bench.node.models.release(&second.slot.key());
    let alone = second.prepare().unwrap();
    assert_eq!(layer(&alone.files), pool, "one living slice");
}

#[test]
fn a_source_that_changed_after_its_inspection_is_a_digest_mismatch_that_names_the_tensor() {
    let bench = Bench::tiny();
    let weights = bench.weights(2, 4);
    damage(&bench.path, "blk.3.ffn_up.weight");
    let fault = weights.fetch(&Gauge::default()).unwrap_err();
    assert_eq!(fault.reason, "DigestMismatch");
    assert!(
        fault.message.contains("blk.3.ffn_up.weight") && fault.message.contains("tiny.gguf"),
        "{}",
        fault.message
    );
    assert!(!pieces(&bench.folder()).contains(&"layer-00003.gguf".to_owned()));
    assert!(weights.prepare().is_err(), "the files are not there");
    let elsewhere = bench.weights(0, 2);
    fetched_and_verified(&elsewhere).expect("other layers are not concerned");
}

#[test]
fn a_piece_damaged_on_disk_is_moved_aside_and_mended_by_the_next_fetch() {
    let bench = Bench::tiny();
    let weights = bench.weights(2, 4);
    fetched_and_verified(&weights).unwrap();
    let path = bench.folder().join("layer-00002.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    let place = bytes.len() - 100;
    bytes[place] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let fault = weights.verify(&Gauge::default()).unwrap_err();
    assert_eq!(fault.reason, "DigestMismatch");
    assert!(fault.message.contains("blk.2."), "{}", fault.message);
    assert!(!path.exists() && path.with_extension("gguf.corrupt").exists());
    fetched_and_verified(&weights).unwrap();
}

#[test]
fn a_truncated_source_is_truncated_and_a_source_of_another_shape_has_changed() {
    let bench = Bench::tiny();
    let mut weights = bench.weights(2, 4);
    let bytes = std::fs::read(&bench.path).unwrap();
    std::fs::write(&bench.path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(weights.fetch(&Gauge::default()).unwrap_err().reason, "Truncated");
    let again = rig::inspect(&bench.runtime, &bench.node.models, &uri(&bench.path), None, &[]);
    assert_eq!(again.unwrap_err().reason, "Truncated");
    std::fs::write(&bench.path, bytes).unwrap();
    weights.slice.total_layers += 1;
    assert_eq!(weights.fetch(&Gauge::default()).unwrap_err().reason, "SourceChanged");
}

#[test]
fn a_placement_with_another_root_is_refused_before_anything_is_read() {
    let bench = Bench::tiny();
    let mut weights = bench.weights(2, 4);
    weights.slice.weight_root = [9; 32];
    let fault = weights.fetch(&Gauge::default()).unwrap_err();
    assert_eq!(fault.reason, "DigestMismatch");
    assert!(fault.message.contains("layers 2 to 4"), "{}", fault.message);
    assert!(pieces(&bench.folder()).is_empty());
}

#[test]
fn a_wrong_digest_in_the_spec_is_a_mismatch_that_names_both() {
    let bench = Bench::tiny();
    let request = |sha256: Vec<u8>| Inspect {
        uri: uri(&bench.path),
        sha256,
        ..Inspect::default()
    };
    let fault = ask(&bench.runtime, &bench.node.models, request(vec![0xAB; 32])).unwrap_err();
    assert_eq!(fault.reason, "DigestMismatch");
    let found = Digest::try_from(&bench.facts.sha256[..]).unwrap().to_string();
    assert!(fault.message.contains(&"ab".repeat(32)) && fault.message.contains(&found));
    ask(&bench.runtime, &bench.node.models, request(bench.facts.sha256.clone())).unwrap();
}

#[test]
fn an_index_beside_the_model_makes_reading_the_weights_needless() {
    let bench = Bench::tiny();
    let other = Node::new(&bench.runtime);
    let beside = bench.directory.path().join("tiny.gguf.index.json");
    let ask = || {
        rig::inspect(
            &bench.runtime,
            &other.models,
            &uri(&bench.path),
            None,
            &bench.facts.index_sha256,
        )
    };
    assert_eq!(ask().unwrap_err().reason, "NoIndex");
    std::fs::write(&beside, b"{}").unwrap();
    assert_eq!(ask().unwrap_err().reason, "NoIndex");
    std::fs::write(&beside, &bench.facts.index).unwrap();
    assert_eq!(ask().unwrap(), bench.facts);
    let read = other.models.counters().bytes(agent::source::Kind::File);
    assert!(read < bench.facts.file_bytes, "{read}");
}

#[test]
fn cancelled_work_ends_at_once() {
    let bench = Bench::tiny();
    let gauge = Gauge::default();
    gauge.cancel();
    assert_eq!(bench.weights(0, 6).fetch(&gauge).unwrap_err().reason, "Cancelled");
}

#[test]
fn a_disk_without_room_is_said_with_both_numbers_before_anything_is_written() {
    let bench = Bench::tiny();
    let full = Node::with(&bench.runtime, |setting| setting.disk_reserve_bytes = 1 << 60, None);
    let index = bench.folder().join("index.json");
    let folder = path_of(&full.models, &bench.facts);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(index, folder.join("index.json")).unwrap();
    // Unused, and kept: without it there would be no room either.
    std::fs::create_dir(folder.with_file_name("0".repeat(64))).unwrap();
    let wanted = wanted(&bench.facts, &uri(&bench.path), None);
    full.models.keep(HashSet::from([wanted.index]));
    let fault = weights(&full.models, &bench.facts, wanted, 0, 6)
        .fetch(&Gauge::default())
        .unwrap_err();
    assert_eq!(fault.reason, "DiskFull");
    assert!(
        fault.message.contains("need ") && fault.message.contains(" 0.0 MiB free in"),
        "{}",
        fault.message
    );
    assert!(pieces(&folder).is_empty() && folder.with_file_name("0".repeat(64)).exists());
}

#[test]
fn what_an_earlier_life_wrote_needs_no_room_and_goes_where_there_is_none() {
    let bench = Bench::tiny();
    let full = Node::with(&bench.runtime, |setting| setting.disk_reserve_bytes = 1 << 60, None);
    let folder = path_of(&full.models, &bench.facts);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(bench.folder().join("index.json"), folder.join("index.json")).unwrap();
    let wanted = wanted(&bench.facts, &uri(&bench.path), None);
    full.models.keep(HashSet::from([wanted.index]));
    let shard = weights(&full.models, &bench.facts, wanted, 2, 4);
    let fill = |names: &[&str]| {
        for name in names {
            let file = std::fs::File::create(folder.join(format!("{name}.gguf.filling"))).unwrap();
            std::io::Write::write_all(&mut &file, &vec![0xAA; 1 << 20]).unwrap();
            file.sync_all().unwrap();
        }
    };
    let filling = || {
        let entries = std::fs::read_dir(&folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".filling")).count()
    };
    fill(&["layer-00002", "shared"]);
    assert_eq!(shard.fetch(&Gauge::default()).unwrap_err().reason, "DiskFull");
    assert_eq!(filling(), 0);
    fill(&["layer-00002", "layer-00003", "shared"]);
    fetched_and_verified(&shard).unwrap();
}

#[test]
fn a_model_that_was_removed_from_the_disk_is_brought_back_with_its_index() {
    let bench = Bench::tiny();
    std::fs::write(bench.directory.path().join("tiny.gguf.index.json"), &bench.facts.index).unwrap();
    let weights = bench.weights(2, 4);
    fetched_and_verified(&weights).unwrap();
    std::fs::remove_dir_all(bench.folder()).unwrap();
    fetched_and_verified(&weights).unwrap();
    for name in ["index.json", "header-0.gguf"] {
        assert!(bench.folder().join(name).is_file(), "{name}");
    }
}

#[test]
fn a_model_that_nobody_describes_leaves_no_folder() {
    let bench = Bench::tiny();
    let mut wanted = wanted(&bench.facts, &uri(&bench.path), None);
    wanted.index = Digest([5; 32]);
    let fault = bench.node.models.know(&wanted, &Gauge::default()).unwrap_err();
    assert_eq!(fault.reason, "NoIndex");
    assert!(!bench.node.models.folder(&wanted.index).exists());
}

#[test]
fn a_piece_that_cannot_be_read_is_moved_aside_and_fetched_anew() {
    let bench = Bench::tiny();
    let weights = bench.weights(2, 4);
    fetched_and_verified(&weights).unwrap();
    // Opens, and fails to be read.
    let path = bench.folder().join("layer-00002.gguf");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(weights.verify(&Gauge::default()).unwrap_err().reason, "Unreadable");
    assert!(!path.exists());
    fetched_and_verified(&weights).unwrap();
}

#[test]
fn the_secret_part_of_an_address_is_in_no_message() {
    let bench = Bench::tiny();
    let mut weights = bench.weights(2, 4);
    weights.wanted.uri = "https://host.example/tiny.gguf?signature=hush".to_owned();
    weights.slice.weight_root = [9; 32];
    let root = weights.fetch(&Gauge::default()).unwrap_err();
    weights.slice.total_layers += 1;
    let shape = weights.fetch(&Gauge::default()).unwrap_err();
    for message in [root.message, shape.message] {
        assert!(
            message.contains("https://host.example/tiny.gguf") && !message.contains("hush"),
            "{message}"
        );
    }
}

#[test]
fn files_that_proved_wrong_make_room_before_models_do() {
    let runtime = rig::runtime();
    let node = Node::with(&runtime, |setting| setting.disk_reserve_bytes = u64::MAX, None);
    let folder = node.models.folder(&Digest([1; 32]));
    std::fs::create_dir_all(&folder).unwrap();
    let corrupt = folder.join("layer-00000.gguf.corrupt");
    let write = |path: &Path| {
        let file = std::fs::File::create(path).unwrap();
        std::io::Write::write_all(&mut &file, &vec![0xAA; 1 << 20]).unwrap();
        file.sync_all().unwrap();
    };
    write(&corrupt);
    write(&folder.join("layer-00000.gguf"));
    node.models.keep(HashSet::from([Digest([1; 32])]));
    assert!(node.models.reserve(2 << 20).is_err());
    assert!(corrupt.exists(), "it would not have been enough");
    // The disk stays full whatever is removed, for all of it is kept free.
    assert!(node.models.reserve(1 << 20).is_err());
    assert!(!corrupt.exists() && folder.join("layer-00000.gguf").exists());
}

#[test]
fn models_that_nothing_uses_are_kept_up_to_a_few_or_to_a_budget() {
    let runtime = rig::runtime();
    let fill = |node: &Node| {
        for index in 0..6_u8 {
            let folder = node.models.folder(&Digest([index; 32]));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("index.json"), vec![index; 8192]).unwrap();
            std::fs::write(folder.join("layer-00000.gguf"), vec![index; 8192]).unwrap();
            let age = std::time::Duration::from_secs(1000 - u64::from(index) * 10);
            let file = std::fs::File::options()
                .append(true)
                .open(folder.join("index.json"))
                .unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
        }
        // Inspected alone: neither in the way of the others nor removed for them.
        std::fs::create_dir(node.models.folder(&Digest([9; 32]))).unwrap();
        node.models.keep(HashSet::from([Digest([0; 32]), Digest([1; 32])]));
        node.models.prune();
        (0..6_u8)
            .filter(|index| node.models.folder(&Digest([*index; 32])).exists())
            .collect::<Vec<_>>()
    };
    assert_eq!(fill(&Node::new(&runtime)), [0, 1, 4, 5]);
    let generous = Node::with(&runtime, |setting| setting.cache_bytes = Some(1 << 30), None);
    assert_eq!(fill(&generous), [0, 1, 2, 3, 4, 5]);
    let strict = Node::with(&runtime, |setting| setting.cache_bytes = Some(0), None);
    assert_eq!(fill(&strict), [0, 1], "what is used is never removed");
}

#[test]
fn a_real_model_in_three_slices_is_what_its_inspection_said() {
    let Some(bench) = Bench::real() else { return };
    assert_eq!(bench.facts.architecture, "llama");
    assert!(bench.facts.vocabulary.len() > 1000 && bench.facts.parameters > 0);
    let layers = bench.facts.layers.len() as u32;
    let cuts = [0, layers / 3, 2 * layers / 3, layers];
    for range in cuts.windows(2) {
        let weights = bench.weights(range[0], range[1]);
        fetched_and_verified(&weights).unwrap();
        weights.prepare().unwrap();
    }
    let written: u64 = std::fs::read_dir(bench.folder())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .filter(std::fs::Metadata::is_file)
        .map(|found| found.len())
        .sum();
    let embedding = bench.facts.embedding.as_ref().unwrap().weight_bytes;
    let most = bench.facts.file_bytes + embedding + bench.facts.file_bytes / 10;
    assert!(
        written < most,
        "{written} bytes on disk for a file of {}",
        bench.facts.file_bytes
    );
}
