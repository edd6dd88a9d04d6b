//! Fetch, verify and prepare, on a tiny model and on a real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod tiny_model;

use agent::inspect::Inspector;
use agent::shard::Slice;
use agent::shard::observed::Fault;
use agent::shard::weights::{Gauge, Weights, prune};
use gguf::{Digest, Gguf, Index};
use proto::control::v1::{Inspect, ModelFacts, inspection};
use proto::placement::v1::Runtime;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Source {
    directory: tempfile::TempDir,
    path: PathBuf,
    facts: ModelFacts,
}

fn inspect(path: &Path, sha256: &[u8]) -> Result<ModelFacts, (String, String)> {
    let request = Inspect {
        model_uid: "u".into(),
        generation: 1,
        uri: format!("file://{}", path.display()),
        sha256: sha256.to_vec(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    match runtime
        .block_on(Arc::new(Inspector::default()).inspect(request))
        .result
        .unwrap()
    {
        inspection::Result::Facts(facts) => Ok(facts),
        inspection::Result::Error(error) => Err((error.reason, error.message)),
    }
}

impl Source {
    fn tiny() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny.gguf");
        tiny_model::write(&path);
        let facts = inspect(&path, &[]).unwrap();
        Self { directory, path, facts }
    }

    /// The model that the other tests and the demo use, where it is.
    fn real() -> Option<Self> {
        let named = std::env::var_os("SHARDWRIGHT_TEST_MODEL").map(PathBuf::from);
        let cached = || {
            let home = std::env::var_os("HOME")?;
            Some(Path::new(&home).join(".cache/shardwright/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
        };
        let path = named.or_else(cached).filter(|path| path.is_file());
        let Some(path) = path else {
            println!("SKIPPED: no model; set SHARDWRIGHT_TEST_MODEL to a .gguf file");
            return None;
        };
        let facts = inspect(&path, &[]).unwrap();
        Some(Self {
            directory: tempfile::tempdir().unwrap(),
            path,
            facts,
        })
    }

    fn index(&self) -> Index {
        let digest = |bytes: &[u8]| Digest::try_from(bytes).unwrap();
        Index {
            embedding: digest(&self.facts.embedding.as_ref().unwrap().digest),
            layers: self.facts.layers.iter().map(|layer| digest(&layer.digest)).collect(),
            output: digest(&self.facts.output.as_ref().unwrap().digest),
        }
    }

    fn weights(&self, first_layer: u32, end_layer: u32) -> Weights {
        let slice = Slice {
            sha256: self.facts.sha256.as_slice().try_into().unwrap(),
            first_layer,
            end_layer,
            total_layers: self.facts.layers.len() as u32,
            stages: 2,
            device: "node-cpu0".into(),
            backend: "cpu".into(),
            runtime: Runtime::default(),
            weight_root: self.index().stage_root(first_layer, end_layer).unwrap().0,
        };
        Weights::new(
            &self.directory.path().join("models"),
            &slice,
            &format!("file://{}", self.path.display()),
            0,
        )
    }
}

fn fetched_and_verified(weights: &Weights) -> Result<(), Fault> {
    weights.fetch(&Gauge::default())?;
    weights.verify(&Gauge::default())
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn bytes_of(directory: &Path) -> u64 {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

/// Changes the last byte of the weights of a layer.
fn damage(path: &Path, tensor: &str) {
    let tensor = Gguf::open(path).unwrap().tensor(tensor).cloned().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[(tensor.offset_bytes + tensor.size_bytes - 1) as usize] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn only_the_own_range_is_fetched_and_what_was_fetched_is_what_was_inspected() {
    let source = Source::tiny();
    let weights = source.weights(2, 4);
    let gauge = Gauge::default();
    weights.fetch(&gauge).unwrap();
    let (done, total) = gauge.read();
    assert!(done == total && total > 0);
    weights.verify(&gauge).unwrap();
    let names = files(&weights.directory);
    assert_eq!(
        names.iter().filter(|name| name.contains("layer")).count(),
        2,
        "{names:?}"
    );
    assert!(
        !names
            .iter()
            .any(|name| name.contains("embedding") || name.contains("output")),
        "{names:?}"
    );
}

#[test]
fn slices_are_prepared_with_what_their_place_needs() {
    let source = Source::tiny();
    for (first, end) in [(0, 2), (2, 4), (4, 6)] {
        let weights = source.weights(first, end);
        fetched_and_verified(&weights).unwrap();
        let prepared = weights.prepare().unwrap();
        assert_eq!(prepared.embedding_length, source.facts.embedding_length);
        assert_eq!(prepared.files.embedding.is_some(), first == 0);
        assert!(prepared.files.header.is_file() && prepared.files.parts.iter().all(|part| part.is_file()));
        Gguf::open(&prepared.files.header).unwrap();
    }
}

#[test]
fn a_new_cut_of_fetched_layers_copies_nothing_and_still_verifies() {
    let source = Source::tiny();
    let (first, second) = (source.weights(0, 4), source.weights(1, 3));
    fetched_and_verified(&first).unwrap();
    first.prepare().unwrap();
    std::fs::rename(&source.path, source.path.with_extension("kept")).unwrap();
    assert_eq!(second.fetch(&Gauge::default()).unwrap_err().reason, "SourceNotFound");
    std::fs::rename(source.path.with_extension("kept"), &source.path).unwrap();
    let before = files(&first.directory);
    fetched_and_verified(&second).unwrap();
    assert_eq!(files(&second.directory), before);
    second.prepare().unwrap();
    fetched_and_verified(&first).unwrap();
}

#[test]
fn a_source_that_changed_after_its_inspection_is_a_digest_mismatch_and_leaves_nothing_to_load() {
    let source = Source::tiny();
    let weights = source.weights(2, 4);
    damage(&source.path, "blk.3.ffn_up.weight");
    weights.fetch(&Gauge::default()).unwrap();
    let fault = weights.verify(&Gauge::default()).unwrap_err();
    assert_eq!(fault.reason, "DigestMismatch");
    assert!(fault.message.contains("layers 2 to 4"), "{}", fault.message);
    assert!(weights.prepare().is_err(), "the files are gone");
    let elsewhere = source.weights(0, 2);
    fetched_and_verified(&elsewhere).expect("other layers are not concerned");
}

#[test]
fn a_piece_damaged_on_disk_is_found_and_mended_by_the_next_fetch() {
    let source = Source::tiny();
    let weights = source.weights(2, 4);
    fetched_and_verified(&weights).unwrap();
    let layer = files(&weights.directory)
        .into_iter()
        .find(|name| name.contains("layer"))
        .unwrap();
    let path = weights.directory.join(layer);
    let mut bytes = std::fs::read(&path).unwrap();
    let place = bytes.len() - 100;
    bytes[place] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(weights.verify(&Gauge::default()).unwrap_err().reason, "DigestMismatch");
    fetched_and_verified(&weights).unwrap();
}

#[test]
fn a_truncated_source_is_truncated_and_a_source_of_another_shape_has_changed() {
    let source = Source::tiny();
    let mut weights = source.weights(2, 4);
    let bytes = std::fs::read(&source.path).unwrap();
    std::fs::write(&source.path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(weights.fetch(&Gauge::default()).unwrap_err().reason, "Truncated");
    assert_eq!(inspect(&source.path, &[]).unwrap_err().0, "Truncated");
    std::fs::write(&source.path, bytes).unwrap();
    weights.slice.total_layers += 1;
    assert_eq!(weights.fetch(&Gauge::default()).unwrap_err().reason, "SourceChanged");
}

#[test]
fn a_wrong_digest_in_the_spec_is_a_mismatch_that_names_both() {
    let source = Source::tiny();
    let (reason, message) = inspect(&source.path, &[0xAB; 32]).unwrap_err();
    assert_eq!(reason, "DigestMismatch");
    assert!(
        message.contains(&"ab".repeat(32))
            && message.contains(&Digest::try_from(&source.facts.sha256[..]).unwrap().to_string())
    );
    inspect(&source.path, &source.facts.sha256).unwrap();
}

#[test]
fn what_a_killed_fetch_left_behind_takes_no_room_after_the_next_one() {
    let source = Source::tiny();
    let weights = source.weights(0, 2);
    std::fs::create_dir_all(&weights.directory).unwrap();
    let left = weights.directory.join("layer-00000.gguf.77-0.partial");
    std::fs::write(&left, b"half a layer").unwrap();
    fetched_and_verified(&weights).unwrap();
    assert!(!left.exists());
}

#[test]
fn cancelled_work_ends_at_the_next_piece() {
    let source = Source::tiny();
    let gauge = Gauge::default();
    gauge.cancel();
    assert_eq!(source.weights(0, 6).fetch(&gauge).unwrap_err().reason, "Cancelled");
}

#[test]
fn models_that_nothing_uses_are_kept_up_to_a_few() {
    let models = tempfile::tempdir().unwrap();
    let digest = |index: u8| [index; 32];
    for index in 0..8 {
        let directory = models.path().join(Digest(digest(index)).to_string());
        std::fs::create_dir(&directory).unwrap();
    }
    let in_use = HashSet::from([digest(0), digest(1)]);
    prune(models.path(), &in_use).unwrap();
    let left = files(models.path());
    assert_eq!(left.len(), 6);
    assert!(left.contains(&Digest(digest(0)).to_string()) && left.contains(&Digest(digest(1)).to_string()));
}

#[test]
fn a_real_model_in_three_slices_is_what_its_inspection_said() {
    let Some(source) = Source::real() else { return };
    assert_eq!(source.facts.architecture, "llama");
    assert!(source.facts.vocabulary.len() > 1000 && source.facts.parameters > 0);
    let layers = source.facts.layers.len() as u32;
    let cuts = [0, layers / 3, 2 * layers / 3, layers];
    let mut written = 0;
    for range in cuts.windows(2) {
        let weights = source.weights(range[0], range[1]);
        fetched_and_verified(&weights).unwrap();
        weights.prepare().unwrap();
        written = bytes_of(&weights.directory);
    }
    let embedding = source.facts.embedding.as_ref().unwrap().weight_bytes;
    let most = source.facts.file_bytes + embedding + source.facts.file_bytes / 10;
    assert!(
        written < most,
        "{written} bytes on disk for a file of {}",
        source.facts.file_bytes
    );
}
