//! Workers as processes: started, told, watched, ended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake_worker;
mod rig;
mod tiny_model;

use agent::devices::Devices;
use agent::leaves::WorkerLeaves;
use agent::models::{Counters, Models};
use agent::shard::drive::{self, Lines, Setting, View};
use agent::shard::observed::{Event, Fault, Installed, WorkerPhase};
use agent::shard::step::DesiredShards;
use agent::shard::{Desired, InForce, Place, Purpose, Slice, Slot};
use agent::worker::leftovers;
use agent::worker::places::Places;
use agent::worker::process::{self, Launch, Order, Patience, Worker};
use fake_worker::{Manner, executable, told};
use proto::control::v1::ShardPhase;
use proto::placement::v1::Runtime;
use proto::worker::{Backend, KvType, PressureConfig, RuntimeConfig, SliceFiles, WorkerConfig};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer on a machine that works.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_fake_worker_itself() {
    fake_worker::be_if_asked();
}

fn slot() -> Slot {
    Slot {
        model_uid: "uid".into(),
        slice: "0-9".into(),
    }
}

/// One worker process, without the rest of the agent.
struct Bench {
    directory: tempfile::TempDir,
    places: Places,
    worker: Worker,
    events: mpsc::Receiver<(Slot, Event)>,
}

impl Bench {
    fn start(manner: Manner) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let launch = Launch {
            slot: slot(),
            name: "ns/model:0-9".into(),
            executable: executable(directory.path(), manner),
            config: config(&places),
            places: places.clone(),
            vulkan_indices: vec![3],
            patience: patience(manner),
        };
        let (worker, inbox) = process::orders();
        let (sender, events) = mpsc::channel(64);
        tokio::spawn(process::run(launch, inbox, sender));
        Self {
            directory,
            places,
            worker,
            events,
        }
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(LIMIT, self.events.recv())
            .await
            .expect("an event in time")
            .expect("the worker is watched")
            .1
    }

    async fn exit(&mut self) -> Fault {
        loop {
            if let Event::Exited(fault) = self.event().await {
                return fault;
            }
        }
    }
}

/// Who never speaks is soon found out. The others may take their time, on a machine that has much else to do.
fn patience(manner: Manner) -> Patience {
    let limit = match manner {
        Manner::Mute | Manner::Hanging | Manner::Freezing => Duration::from_millis(600),
        _ => LIMIT,
    };
    Patience {
        start: limit,
        silence: limit,
    }
}

fn places(state_dir: &Path) -> Places {
    let places = Places::new(state_dir, &slot());
    std::fs::create_dir_all(&places.identity).unwrap();
    std::fs::create_dir_all(places.socket.parent().unwrap()).unwrap();
    places
}

fn config(places: &Places) -> WorkerConfig {
    WorkerConfig {
        model_uid: "uid".into(),
        node: "node".into(),
        device: "node-cpu0".into(),
        first_layer: 0,
        end_layer: 1,
        total_layers: 1,
        backend: Backend::Cpu,
        device_index: 0,
        group_indices: Vec::new(),
        threads: 1,
        memory_budget_bytes: 0,
        slice: SliceFiles {
            header: "h".into(),
            parts: vec![],
        },
        embedding: None,
        embedding_length: 1,
        runtime: RuntimeConfig {
            context_length: 2,
            parallel_sequences: 1,
            kv_type: KvType::F16,
            max_step_rows: 2,
            kv_cells: 0,
            prefix_sequences: 0,
        },
        listen: "127.0.0.1:0".into(),
        advertise_ip: "127.0.0.1".into(),
        control_socket: places.socket.clone(),
        identity_dir: places.identity.clone(),
        trust_domain: "shardwright".into(),
        orphan_grace_s: 10,
        pressure: PressureConfig::default(),
        keep_awake: true,
        speculate: true,
    }
}

#[tokio::test]
async fn a_good_worker_is_heard_told_and_drained() {
    let mut bench = Bench::start(Manner::Good);
    assert_eq!(bench.event().await, Event::Done(agent::shard::observed::Work::Spawn));
    let serving = Event::Status {
        phase: WorkerPhase::Serving,
        endpoint: Some("127.0.0.1:7000".into()),
    };
    assert_eq!(bench.event().await, serving);
    let offered = Installed {
        epoch: 4,
        pipeline_epoch: 4,
        next: Some("b:1".into()),
    };
    bench.worker.order(Order::Install {
        offered: offered.clone(),
        envelope: Arc::new(b"envelope".to_vec()),
    });
    assert_eq!(bench.event().await, Event::Accepted(offered));
    let said = &told(&bench.places.config())[0];
    assert_eq!(
        (said["next"].as_str(), said["envelope"].as_str()),
        (Some("b:1"), Some("ZW52ZWxvcGU="))
    );
    bench.worker.order(Order::Drain);
    let fault = bench.exit().await;
    assert_eq!(fault.reason, "Exited");
    assert!(!bench.places.socket.exists());
}

#[tokio::test]
async fn a_worker_that_never_speaks_or_stops_speaking_is_ended() {
    for manner in [Manner::Mute, Manner::Hanging, Manner::Freezing] {
        let fault = Bench::start(manner).exit().await;
        assert_eq!(fault.reason, "Hung", "{}", fault.message);
    }
}

#[tokio::test]
async fn the_exit_code_becomes_a_reason_with_the_workers_last_words() {
    let fault = Bench::start(Manner::BadWeights).exit().await;
    assert_eq!(fault.reason, "BadWeights");
    assert!(fault.message.contains("tensor blk.0"), "{}", fault.message);
}

#[tokio::test]
async fn a_worker_whose_supervisor_is_gone_is_ended() {
    let mut bench = Bench::start(Manner::Good);
    bench.event().await;
    let (worker, _) = process::orders();
    drop(std::mem::replace(&mut bench.worker, worker));
    bench.exit().await;
}

#[tokio::test]
async fn an_executable_that_is_missing_is_a_failed_spawn() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(directory.path());
    let launch = Launch {
        slot: slot(),
        name: "n".into(),
        executable: "/nonexistent/worker".into(),
        config: config(&places),
        places,
        vulkan_indices: vec![],
        patience: Patience::default(),
    };
    let (_worker, inbox) = process::orders();
    let (sender, mut events) = mpsc::channel(1);
    process::run(launch, inbox, sender).await;
    let Some((_, Event::WorkFailed(_, fault))) = events.recv().await else {
        panic!("failed")
    };
    assert_eq!(fault.reason, "SpawnFailed");
    assert!(fault.message.contains("/nonexistent/worker"), "{}", fault.message);
}

#[tokio::test]
async fn workers_of_an_earlier_life_are_ended_and_strangers_with_their_number_are_not() {
    let mut bench = Bench::start(Manner::Good);
    bench.event().await;
    bench.event().await;
    let workers = bench.directory.path().join("workers");
    let note = bench.places.directory.join("process.json");
    let true_note = std::fs::read_to_string(&note).unwrap();
    let mut stranger: serde_json::Value = serde_json::from_str(&true_note).unwrap();
    stranger["start_ticks"] = 1.into();
    std::fs::write(&note, stranger.to_string()).unwrap();
    assert!(
        leftovers::living(&workers).is_empty(),
        "another start time is another process"
    );
    std::fs::write(&note, true_note).unwrap();
    let left = leftovers::living(&workers);
    assert_eq!(left.len(), 1);
    tokio::task::spawn_blocking(move || leftovers::end(left)).await.unwrap();
    assert_eq!(bench.exit().await.reason, "Crashed");
}

/// Leaves are not what is tested here.
struct NoLeaves;

impl WorkerLeaves for NoLeaves {
    async fn ensure(&self, _model_uid: &str, directory: &Path) -> Result<(), Fault> {
        std::fs::create_dir_all(directory).map_err(|error| Fault::new("Unwritable", error.to_string()))
    }
}

/// A worker that is nobody's child but the test's.
struct Stray(std::process::Child);

impl Stray {
    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One life of a drive.
struct Life {
    desired: watch::Sender<Arc<DesiredShards>>,
    view: watch::Receiver<Arc<View>>,
    unload: CancellationToken,
    driving: tokio::task::JoinHandle<()>,
}

impl Life {
    fn begin(
        state: &Path,
        worker: &Path,
        devices: &watch::Sender<Arc<Devices>>,
        threads: u32,
        left: Vec<leftovers::Left>,
    ) -> Self {
        let operator = watch::Sender::new(None).subscribe();
        let models = Models::open(rig::setting(state), operator, None, Counters::new());
        let setting = Setting {
            node: "node".into(),
            state_dir: state.to_owned(),
            worker: worker.to_owned(),
            trust_domain: "shardwright".into(),
            listen_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            threads,
            devices: devices.subscribe(),
        };
        let (desired, view) = (watch::Sender::new(Arc::default()), watch::Sender::new(Arc::default()));
        let unload = CancellationToken::new();
        let seen = view.subscribe();
        let lines = Lines {
            desired: desired.subscribe(),
            view,
            unload: unload.clone(),
            left,
        };
        let driving = tokio::spawn(drive::run(setting, Arc::new(NoLeaves), Arc::new(models), lines));
        Self {
            desired,
            view: seen,
            unload,
            driving,
        }
    }
}

/// The drive with a tiny model and fake workers.
struct Node {
    state: tempfile::TempDir,
    worker: std::path::PathBuf,
    source: gguf::Index,
    index: gguf::Digest,
    uri: String,
    desired: watch::Sender<Arc<DesiredShards>>,
    view: watch::Receiver<Arc<View>>,
    devices: watch::Sender<Arc<Devices>>,
    unload: CancellationToken,
    driving: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start(manner: Manner) -> Self {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join("run")).unwrap();
        let path = state.path().join("tiny.gguf");
        tiny_model::write(&path);
        let built = gguf::parse::split::FileSet::open(&path).unwrap();
        let mut files = vec![std::fs::File::open(&path).unwrap()];
        let index = gguf::index::build(&mut files, &built.gguf, &built.names).unwrap();
        let source = index.piece_digests(&gguf::pieces(&built.gguf).unwrap()).unwrap();
        // As an operator that gave the index would have left it.
        std::fs::write(state.path().join("tiny.gguf.index.json"), index.to_bytes()).unwrap();
        let devices = watch::Sender::new(Arc::new(Devices::of([processors()])));
        let worker = executable(state.path(), manner);
        let life = Life::begin(state.path(), &worker, &devices, 1, Vec::new());
        Self {
            uri: format!("file://{}", path.display()),
            source,
            index: index.digest(),
            worker,
            state,
            desired: life.desired,
            view: life.view,
            devices,
            unload: life.unload,
            driving: life.driving,
        }
    }

    /// Ends this life of the drive, and begins another one that finds the worker of the whole model living: as if the first had been
    /// killed. `threads` is what workers are started with now.
    async fn is_killed_and_begins_again(&mut self, threads: u32) -> Stray {
        let places = self.places(tiny_model::LAYERS);
        let config = std::fs::read(places.config()).unwrap();
        // As an earlier version of the agent wrote it, which knew less.
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        for field in ["keep_awake", "speculate"] {
            config.as_object_mut().unwrap().remove(field).expect("it is written");
        }
        self.unload.cancel();
        self.until("the end", |view| view.statuses.is_empty()).await;
        std::fs::create_dir_all(&places.identity).unwrap();
        std::fs::write(places.config(), serde_json::to_vec(&config).unwrap()).unwrap();
        let mut command = std::process::Command::new(&self.worker);
        let stray = command.arg("--config").arg(places.config()).spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(stray.id() as i32).unwrap();
        let stray = Stray(stray);
        // It is known by its command line, which it has for good once it is the program that listens: a script becomes its interpreter
        // first, and is nobody in between.
        let listens = async {
            while !places.socket.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, listens).await.expect("the stray listens");
        leftovers::note(&places.directory, pid, "stray");
        let left = leftovers::living(&self.state.path().join("workers"));
        assert_eq!(left.len(), 1, "the stray is found");
        let life = Life::begin(self.state.path(), &self.worker, &self.devices, threads, left);
        (self.desired, self.view) = (life.desired, life.view);
        (self.unload, self.driving) = (life.unload, life.driving);
        stray
    }

    fn want(&self, epoch: u64, end_layer: u32) {
        self.want_all([self.desired(Purpose::Serve, epoch, end_layer)]);
    }

    fn want_all(&self, all: impl IntoIterator<Item = Desired>) {
        let mut desired = DesiredShards::new();
        for wanted in all {
            let slot = Slot::of("uid", &wanted.slice);
            match desired.get_mut(&slot) {
                Some(known) => Desired::join(known, wanted),
                None => drop(desired.insert(slot, wanted)),
            }
        }
        self.desired.send_replace(Arc::new(desired));
    }

    fn slice(&self, end_layer: u32) -> Slice {
        Slice {
            index: self.index,
            first_layer: 0,
            end_layer,
            total_layers: tiny_model::LAYERS,
            device: "node-cpu0".into(),
            backend: "cpu".into(),
            runtime: Runtime {
                context_length: 8,
                parallel_sequences: 1,
                kv_type: 1,
                max_step_rows: 4,
                ..Runtime::default()
            },
            weight_root: self.source.stage_root(0, end_layer).unwrap().0,
        }
    }

    fn desired(&self, purpose: Purpose, epoch: u64, end_layer: u32) -> Desired {
        let in_force = (purpose == Purpose::Serve).then(|| InForce {
            epoch,
            pipeline_epoch: epoch,
            envelope: Arc::new(vec![epoch as u8]),
            next: (end_layer < tiny_model::LAYERS).then(|| "b:1".to_owned()),
        });
        Desired {
            slice: self.slice(end_layer),
            places: vec![Place {
                epoch,
                pipeline: 0,
                stage: 0,
                purpose,
            }],
            in_force,
            uri: self.uri.clone(),
            access: agent::source::Access::default(),
            peers: vec![],
            model: ("ns".into(), "model".into()),
            memory_budget_bytes: 7,
        }
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&View) -> bool) -> Arc<View> {
        let found = tokio::time::timeout(LIMIT, self.view.wait_for(|view| condition(view))).await;
        found
            .unwrap_or_else(|_| panic!("{what} did not come about in time"))
            .expect("the drive runs")
            .clone()
    }

    async fn until_serving(&mut self, epoch: u64) -> Arc<View> {
        self.until_in(epoch, ShardPhase::Serving).await
    }

    async fn until_in(&mut self, epoch: u64, phase: ShardPhase) -> Arc<View> {
        let there = |view: &View| {
            let mut statuses = view.statuses.iter();
            statuses.any(|status| status.phase() == phase && status.epoch == epoch)
        };
        self.until(phase.as_str_name(), there).await
    }

    async fn until_failed(&mut self, reason: &str) -> Arc<View> {
        self.until(reason, |view| {
            let failed = |status: &proto::control::v1::ShardStatus| {
                status.phase() == ShardPhase::Failed && status.reason == reason
            };
            view.statuses.iter().any(failed)
        })
        .await
    }

    fn places(&self, end_layer: u32) -> Places {
        Places::new(self.state.path(), &Slot::of("uid", &self.slice(end_layer)))
    }

    /// What the worker of the whole model was told.
    fn told(&self) -> Vec<serde_json::Value> {
        told(&self.places(tiny_model::LAYERS).config())
    }

    /// The processes that hold layers up to this one.
    fn processes(&self, end_layer: u32) -> Option<String> {
        std::fs::read_to_string(self.places(end_layer).directory.join("process.json")).ok()
    }
}

fn processors() -> device::GpuDevice {
    device::GpuDevice::new(device::Backend::Cpu, 0, device::Kind::Cpu)
}

#[tokio::test]
async fn a_desired_shard_comes_to_serve_and_a_newer_epoch_keeps_its_worker() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    let view = node.until_serving(1).await;
    assert_eq!(view.statuses[0].endpoint, "127.0.0.1:7000");
    assert_eq!(view.holdings[0].layers, "0-5");
    node.want(2, tiny_model::LAYERS);
    let view = node.until_serving(2).await;
    assert_eq!(view.worker_failures, 0);
    assert_eq!(node.told().len(), 2, "two installs and no drain");
}

#[tokio::test]
async fn a_worker_of_an_earlier_life_serves_on_and_is_started_anew_once_it_ends() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    let mut stray = node.is_killed_and_begins_again(1).await;
    node.want(1, tiny_model::LAYERS);
    let view = node.until_serving(1).await;
    assert!(!stray.has_ended());
    assert_eq!(view.worker_failures, 0);
    let taken = node.processes(tiny_model::LAYERS).expect("it is noted");
    assert!(taken.contains(&stray.0.id().to_string()), "{taken}");

    drop(stray);
    let view = node
        .until("another worker", |view| {
            let serves = view.statuses.iter().any(|status| status.phase() == ShardPhase::Serving);
            serves && view.worker_failures > 0
        })
        .await;
    assert_eq!(view.holdings[0].layers, "0-5");
    assert_ne!(node.processes(tiny_model::LAYERS), Some(taken));
}

#[tokio::test]
async fn a_worker_of_an_earlier_life_that_would_be_started_otherwise_now_is_ended_first() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    let mut stray = node.is_killed_and_begins_again(2).await;
    node.want(1, tiny_model::LAYERS);
    let view = node.until_serving(1).await;
    assert!(stray.has_ended());
    assert_eq!(view.worker_failures, 0, "nobody failed");
    let config = std::fs::read_to_string(node.places(tiny_model::LAYERS).config()).unwrap();
    assert!(config.contains("\"threads\": 2"), "{config}");
}

#[tokio::test]
async fn a_worker_of_an_earlier_life_that_nobody_wants_is_ended() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    let mut stray = node.is_killed_and_begins_again(1).await;
    node.want_all([]);
    tokio::time::timeout(LIMIT, async {
        while !stray.has_ended() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("its end");
}

#[tokio::test]
async fn another_cut_ends_the_worker_and_starts_one_with_the_new_layers() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    node.want(2, 3);
    let view = node.until_serving(2).await;
    assert_eq!(view.holdings[0].layers, "0-2");
    let said = told(&node.places(3).config());
    assert_eq!((said.len(), said[0]["next"].as_str()), (1, Some("b:1")));
    assert!(
        !node.places(tiny_model::LAYERS).directory.exists(),
        "nothing is left of the other cut"
    );
}

#[tokio::test]
async fn a_proposal_is_loaded_beside_what_serves_and_comes_into_force_in_the_same_process() {
    let mut node = Node::start(Manner::Good);
    let serving = node.desired(Purpose::Serve, 1, tiny_model::LAYERS);
    let proposed = node.desired(Purpose::Load, 2, 3);
    node.want_all([serving.clone()]);
    node.until_serving(1).await;
    let holder = node.processes(tiny_model::LAYERS).expect("a process");
    node.want_all([serving, proposed]);
    let view = node.until_in(2, ShardPhase::Loaded).await;
    let phases: Vec<_> = view
        .statuses
        .iter()
        .map(|status| (status.epoch, status.phase()))
        .collect();
    assert_eq!(phases, [(2, ShardPhase::Loaded), (1, ShardPhase::Serving)]);
    assert_eq!(view.serving.len(), 1);
    assert!(told(&node.places(3).config()).is_empty(), "no placement is handed over");
    let loaded = node.processes(3).expect("a process");
    assert_ne!(loaded, holder);

    node.want(2, 3);
    node.until_serving(2).await;
    assert_eq!(node.processes(3), Some(loaded));
    node.until("the end of the other", |view| view.statuses.len() == 1)
        .await;
    assert_eq!(node.processes(tiny_model::LAYERS), None);
}

#[tokio::test]
async fn a_proposal_that_is_withdrawn_ends_its_own_worker_alone() {
    let mut node = Node::start(Manner::Good);
    let serving = node.desired(Purpose::Serve, 1, tiny_model::LAYERS);
    node.want_all([serving.clone(), node.desired(Purpose::Load, 2, tiny_model::LAYERS)]);
    node.until_serving(1).await;
    let holder = node.processes(tiny_model::LAYERS);
    node.want_all([serving.clone(), node.desired(Purpose::Load, 3, 3)]);
    node.until_in(3, ShardPhase::Loaded).await;
    node.want_all([serving]);
    let view = node.until("its end", |view| view.statuses.len() == 1).await;
    assert_eq!(view.statuses[0].phase(), ShardPhase::Serving);
    assert_eq!(node.processes(tiny_model::LAYERS), holder);
    assert_eq!(node.told().len(), 1, "told once, and not drained");
}

#[tokio::test]
async fn what_stands_by_is_on_the_disk_and_has_no_worker_and_a_source_is_not_needed_any_more() {
    let mut node = Node::start(Manner::Good);
    node.want_all([node.desired(Purpose::Fetch, 2, 3)]);
    let view = node.until_in(2, ShardPhase::Fetched).await;
    assert!(view.holdings.is_empty() && node.processes(3).is_none());
    std::fs::remove_file(node.state.path().join("tiny.gguf")).unwrap();
    node.want(3, 3);
    node.until_serving(3).await;
}

#[tokio::test]
async fn a_worker_that_crashes_is_started_again() {
    let mut node = Node::start(Manner::CrashingOnce);
    node.want(1, tiny_model::LAYERS);
    let view = node.until_serving(1).await;
    assert_eq!(view.worker_failures, 1);
}

#[tokio::test]
async fn a_worker_on_a_device_where_an_application_failed_is_started_again_and_comes_to_serve() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    let mut devices = Devices::of([processors()]);
    devices.states[0].restart_shards = 1;
    node.devices.send_replace(Arc::new(devices));
    let config = node.places(tiny_model::LAYERS).config();
    let view = node
        .until("another life of the worker", |view| {
            let serving = view.statuses.iter().any(|status| status.phase() == ShardPhase::Serving);
            serving && told(&config).len() == 2
        })
        .await;
    assert_eq!(view.holdings[0].layers, "0-5");
}

#[tokio::test]
async fn a_shard_for_a_device_that_is_not_on_the_node_is_refused_by_name() {
    let mut node = Node::start(Manner::Good);
    let mut elsewhere = node.desired(Purpose::Serve, 1, tiny_model::LAYERS);
    elsewhere.slice.device = "node-cuda7".into();
    node.want_all([elsewhere]);
    let view = node.until_failed("DeviceMissing").await;
    let said = &view.statuses[0].message;
    assert!(
        said.contains("node-cuda7") && said.contains("not on this node"),
        "{said}"
    );
}

#[tokio::test]
async fn a_shard_for_a_device_in_trouble_is_refused_with_its_fault_and_starts_when_it_is_over() {
    let mut node = Node::start(Manner::Good);
    let mut devices = Devices::of([processors()]);
    let fault = device::health::Fault::new("SelfTestFailed", "byte 7 differs", device::health::Action::ResetDevice);
    devices.states[0].standing = device::health::Standing::Failed { fault };
    node.devices.send_replace(Arc::new(devices));
    node.want(1, tiny_model::LAYERS);
    let view = node.until_failed("DeviceNotReady").await;
    let said = &view.statuses[0].message;
    assert!(said.contains("SelfTestFailed: byte 7 differs"), "{said}");
    node.devices.send_replace(Arc::new(Devices::of([processors()])));
    node.until_serving(1).await;
}

#[tokio::test]
async fn a_worker_whose_device_computes_what_is_wrong_is_ended_at_once_and_started_when_it_is_ready_again() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    let mut devices = Devices::of([processors()]);
    let fault = device::health::Fault::new("SelfTestFailed", "byte 7 differs", device::health::Action::ResetDevice);
    devices.states[0].spoiled_by = Some(fault.clone());
    devices.states[0].standing = device::health::Standing::Failed { fault };
    node.devices.send_replace(Arc::new(devices));
    let view = node.until_failed("DeviceSuspect").await;
    let said = &view.statuses[0].message;
    assert!(
        said.contains("node-cpu0") && said.contains("SelfTestFailed: byte 7 differs"),
        "{said}"
    );
    assert!(view.holdings.is_empty() && view.serving.is_empty());
    assert_eq!((node.processes(tiny_model::LAYERS), view.worker_failures), (None, 0));
    node.devices.send_replace(Arc::new(Devices::of([processors()])));
    node.until_serving(1).await;
    assert!(node.processes(tiny_model::LAYERS).is_some());
}

#[tokio::test]
async fn weights_that_do_not_load_are_reported_with_reason_and_last_words() {
    let mut node = Node::start(Manner::BadWeights);
    node.want(1, tiny_model::LAYERS);
    let view = node
        .until("failure", |view| {
            view.statuses.iter().any(|status| status.phase() == ShardPhase::Failed)
        })
        .await;
    assert_eq!(view.statuses[0].reason, "BadWeights");
    assert!(
        view.statuses[0].message.contains("blk.0"),
        "{}",
        view.statuses[0].message
    );
}

#[tokio::test]
async fn a_worker_that_finds_too_little_memory_is_reported_with_the_process_outside_that_has_it() {
    let mut node = Node::start(Manner::ShortOfMemory);
    let mut devices = Devices::of([processors()]);
    devices.states[0].stranger = Some("process 4121, which is not ours, uses 3174 MiB of its memory".into());
    node.devices.send_replace(Arc::new(devices));
    node.want(1, tiny_model::LAYERS);
    let view = node.until_failed("InsufficientMemory").await;
    let said = &view.statuses[0].message;
    assert!(said.contains("2 MiB are missing"), "{said}");
    assert!(
        said.ends_with("of node-cpu0: process 4121, which is not ours, uses 3174 MiB of its memory"),
        "{said}"
    );
}

#[tokio::test]
async fn weights_that_are_not_the_placements_never_reach_a_worker() {
    let mut node = Node::start(Manner::Good);
    node.source.layers[1] = gguf::Digest([0; 32]);
    node.want(1, tiny_model::LAYERS);
    let view = node
        .until("failure", |view| {
            view.statuses.iter().any(|status| status.phase() == ShardPhase::Failed)
        })
        .await;
    assert_eq!(view.statuses[0].reason, "DigestMismatch");
    assert!(node.told().is_empty() && !node.places(tiny_model::LAYERS).config().exists());
}

#[tokio::test]
async fn what_is_not_desired_any_more_is_drained_and_leaves_nothing_behind() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    node.desired.send_replace(Arc::default());
    node.until("nothing", |view| view.statuses.is_empty()).await;
    let places = node.places(tiny_model::LAYERS);
    assert!(!places.directory.exists() && !places.socket.exists());
}

#[tokio::test]
async fn a_stubborn_worker_is_killed_when_another_slice_takes_its_place() {
    let mut node = Node::start(Manner::Stubborn);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    node.want(2, 3);
    node.until_serving(2).await;
}

#[tokio::test]
async fn unloading_drains_everything_and_ends_the_drive() {
    let mut node = Node::start(Manner::Good);
    node.want(1, tiny_model::LAYERS);
    node.until_serving(1).await;
    node.unload.cancel();
    tokio::time::timeout(LIMIT, node.driving)
        .await
        .expect("the drive ends in time")
        .unwrap();
}
