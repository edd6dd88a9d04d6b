//! Workers as the agent starts them: the executable, a configuration file, a control socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use gguf::{Gguf, Limits, SlicePlan, pieces, prepare_slice, write_piece};
use modelgen::Recipe;
use worker::config::{SliceFiles, WorkerConfig};

use super::agent::Agent;
use super::gateway::Gateway;
use super::realm::{Realm, write_config};
use super::wait_for;

/// The model of the tests, where there is one.
pub fn model() -> Option<PathBuf> {
    let named = std::env::var_os("SHARDWRIGHT_TEST_MODEL").map(PathBuf::from);
    let usual = std::env::home_dir().map(|home| home.join(".cache/shardwright/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let model = named.or(usual).filter(|path| path.is_file());
    if model.is_none() {
        println!("SKIPPED: no model; name one in SHARDWRIGHT_TEST_MODEL");
    }
    model
}

/// The worker. Examples, which share this rig and not this part of it, are compiled without its path.
fn executable() -> &'static Path {
    let path = option_env!("CARGO_BIN_EXE_shardwright-worker");
    Path::new(path.expect("cargo builds the executable for tests"))
}

/// Where the backends' shared objects are: beside the executable, or beside the test.
pub fn backend_directory() -> PathBuf {
    executable().parent().unwrap().to_owned()
}

/// The header of a model file.
pub fn read_model(model: &std::path::Path) -> Gguf {
    let mut file = std::fs::File::open(model).unwrap();
    let length = file.metadata().unwrap().len();
    Gguf::parse(&mut file, length, Limits::default()).unwrap()
}

/// The configurations of all stages of a small llama that `change` has changed.
pub fn llama(realm: &Realm, change: impl FnOnce(&mut Recipe)) -> Vec<WorkerConfig> {
    let model = realm.path("model.gguf");
    let mut recipe = Recipe::new("llama").unwrap();
    recipe.layers = realm.stages.last().unwrap().end_layer;
    change(&mut recipe);
    recipe.write(&model).unwrap();
    cut(realm, &model)
}

/// Writes the pieces that the realm's stages need, and gives the configurations of all stages.
pub fn cut(realm: &Realm, model: &std::path::Path) -> Vec<WorkerConfig> {
    let header = read_model(model);
    let pieces = pieces(&header).unwrap();
    let cache = realm.path("cache");
    std::fs::create_dir_all(&cache).unwrap();
    let mut source = std::fs::File::open(model).unwrap();
    let stages = realm.stages.iter().enumerate();
    stages
        .map(|(index, at)| {
            let plan = SlicePlan::new(&pieces, at.first_layer, at.end_layer).unwrap();
            for piece in plan.needs() {
                let path = cache.join(piece.file_name());
                if !path.exists() {
                    write_piece(&mut source, &pieces, piece, &path).unwrap();
                }
            }
            let files = prepare_slice(&cache, &header, at.first_layer, at.end_layer).unwrap();
            WorkerConfig {
                slice: SliceFiles {
                    header: files.header,
                    parts: files.parts,
                },
                embedding: files.embedding,
                embedding_length: pieces.embedding_length(),
                total_layers: pieces.layer_count(),
                // As in production.
                keep_awake: true,
                speculate: true,
                ..realm.config(index, "")
            }
        })
        .collect()
}

/// Installs the placement of epoch 1 from the tail to the head; a gateway once the pipeline stands.
pub async fn gateway(realm: &Realm, workers: &[WorkerProcess]) -> Gateway {
    let mut next = None;
    for worker in workers.iter().rev() {
        let endpoint = worker.agent.endpoint().await;
        worker.agent.install(&realm.envelope(1), next.as_deref()).await.unwrap();
        next = Some(endpoint);
    }
    let gateway = Gateway::dial(realm, 0, &next.unwrap()).await;
    gateway.ready(1).await;
    gateway
}

pub struct WorkerProcess {
    child: Child,
    pub agent: Agent,
}

impl WorkerProcess {
    pub async fn spawn(realm: &Realm, config: &WorkerConfig) -> Self {
        Self::start(Self::command(), realm, config).await
    }

    /// One whose log is written to this file.
    pub async fn spawn_logging(realm: &Realm, config: &WorkerConfig, log: &Path) -> Self {
        let mut command = Self::command();
        command.env_remove("SHARDWRIGHT_LOG");
        command.stderr(std::fs::File::create(log).unwrap());
        Self::start(command, realm, config).await
    }

    async fn start(mut command: Command, realm: &Realm, config: &WorkerConfig) -> Self {
        let path = realm.path(&format!("config{}.json", config.first_layer));
        write_config(config, &path);
        let child = command.arg("--config").arg(&path).spawn().unwrap();
        Self {
            child,
            agent: Agent::attach(&config.control_socket).await,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn command() -> Command {
        Command::new(executable())
    }

    /// What of its memory is in RAM now.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kib = |line: &str| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        };
        let resident = status.lines().find_map(kib);
        resident.expect("the kernel tells what is resident") << 10
    }

    pub async fn exited(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        wait_for("the process ends", || async { child.borrow_mut().try_wait().unwrap() }).await
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // Has ended already, in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
