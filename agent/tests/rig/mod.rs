//! A node without operator: its models, and what a shard asks of them.
#![allow(dead_code, reason = "each test file uses its part")]

use agent::inspect::Inspector;
use agent::models::{Counters, Models, Setting, Wanted};
use agent::shard::observed::Fault;
use agent::shard::weights::{Gauge, Weights};
use agent::shard::{Slice, Slot};
use agent::source::{self, Access, Patience};
use gguf::Digest;
use gguf::index::WeightIndex;
use identity::Credentials;
use lifecycle::backoff::Policy;
use proto::control::v1::{Inspect, ModelFacts, SourceAccess, inspection};
use proto::placement::v1::Runtime as Agreed;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Failures are met at once, so that tests wait for nothing. A busy machine is slow, and that is no failure.
pub fn hasty() -> Patience {
    Patience {
        progress: Duration::from_secs(30),
        attempts: 3,
        backoff: Policy {
            first: Duration::from_millis(1),
            cap: Duration::from_millis(4),
        },
        retry_after_max: Duration::from_secs(2),
    }
}

pub fn setting(state: &Path) -> Setting {
    Setting {
        root: state.join("models"),
        sources: source::Setting {
            patience: hasty(),
            ..source::Setting::default()
        },
        cache_bytes: None,
        disk_reserve_bytes: 0,
    }
}

pub fn models(runtime: &Runtime, setting: Setting, credentials: Option<Credentials>) -> Arc<Models> {
    let _inside = runtime.enter();
    let operator = watch::Sender::new(None).subscribe();
    Arc::new(Models::open(setting, operator, credentials, Counters::new()))
}

/// A node's state on a disk of its own.
pub struct Node {
    pub state: tempfile::TempDir,
    pub models: Arc<Models>,
}

impl Node {
    pub fn new(runtime: &Runtime) -> Self {
        Self::with(runtime, |_| {}, None)
    }

    pub fn with(runtime: &Runtime, change: impl FnOnce(&mut Setting), credentials: Option<Credentials>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut setting = setting(state.path());
        change(&mut setting);
        let models = models(runtime, setting, credentials);
        Self { state, models }
    }

    /// The same disk in another life.
    pub fn restart(self, runtime: &Runtime) -> Self {
        let setting = self.models.setting().clone();
        let models = models(runtime, setting, None);
        Self {
            state: self.state,
            models,
        }
    }
}

pub fn inspect(
    runtime: &Runtime,
    models: &Arc<Models>,
    uri: &str,
    access: Option<SourceAccess>,
    index_sha256: &[u8],
) -> Result<ModelFacts, Fault> {
    let request = Inspect {
        model_uid: "u".into(),
        generation: 1,
        uri: uri.to_owned(),
        index_sha256: index_sha256.to_vec(),
        access,
        ..Inspect::default()
    };
    ask(runtime, models, request)
}

pub fn ask(runtime: &Runtime, models: &Arc<Models>, request: Inspect) -> Result<ModelFacts, Fault> {
    let inspector = Arc::new(Inspector::new(Arc::clone(models)));
    match runtime.block_on(inspector.inspect(request)).result.unwrap() {
        inspection::Result::Facts(facts) => Ok(facts),
        inspection::Result::Error(error) => Err(Fault::new(&error.reason, error.message)),
    }
}

pub fn wanted(facts: &ModelFacts, uri: &str, access: Option<SourceAccess>) -> Wanted {
    Wanted {
        index: Digest::try_from(facts.index_sha256.as_slice()).unwrap(),
        uri: uri.to_owned(),
        access: Access::from(access.unwrap_or_default()),
        peers: vec![],
    }
}

/// A shard of layers `[first, end)` as the placement would ask for it.
pub fn weights(models: &Arc<Models>, facts: &ModelFacts, wanted: Wanted, first_layer: u32, end_layer: u32) -> Weights {
    let digest = |bytes: &[u8]| Digest::try_from(bytes).unwrap();
    let index = gguf::Index {
        embedding: digest(&facts.embedding.as_ref().unwrap().digest),
        layers: facts.layers.iter().map(|layer| digest(&layer.digest)).collect(),
        output: digest(&facts.output.as_ref().unwrap().digest),
    };
    let slice = Slice {
        index: wanted.index,
        first_layer,
        end_layer,
        total_layers: facts.layers.len() as u32,
        device: "node-cpu0".into(),
        backend: "cpu".into(),
        runtime: Agreed::default(),
        weight_root: index.stage_root(first_layer, end_layer).unwrap().0,
    };
    Weights {
        models: Arc::clone(models),
        slot: Slot::of("uid", &slice),
        slice,
        wanted,
    }
}

pub fn fetched_and_verified(weights: &Weights) -> Result<(), Fault> {
    weights.fetch(&Gauge::default())?;
    weights.verify(&Gauge::default())
}

/// Names of the pieces under their final names.
pub fn pieces(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".gguf") && !name.starts_with("header-"))
        .collect();
    names.sort();
    names
}

/// Fails unless every tensor of every piece under a final name is what the index says.
pub fn check_folder(folder: &Path, index: &WeightIndex, headers: &[Vec<u8>]) -> usize {
    let gguf = index.read_headers(headers).unwrap();
    let all = gguf::pieces(&gguf).unwrap();
    let mut checked = 0;
    for piece in all.all() {
        let path = gguf::cache::piece_path(folder, piece);
        let Ok(mut file) = std::fs::File::open(&path) else {
            continue;
        };
        assert!(
            gguf::cache::is_piece_complete(folder, &all, piece),
            "{} has another length",
            path.display()
        );
        for (tensor, place) in gguf::slice::places(&all, piece) {
            let found = gguf::cache::range_digest(&mut file, place, tensor.size_bytes).unwrap();
            let expected = index.entry(tensor).unwrap().sha256;
            assert_eq!(found, expected, "{} in {}", tensor.name, path.display());
        }
        checked += 1;
    }
    checked
}

pub fn path_of(models: &Models, facts: &ModelFacts) -> PathBuf {
    models.folder(&Digest::try_from(facts.index_sha256.as_slice()).unwrap())
}
