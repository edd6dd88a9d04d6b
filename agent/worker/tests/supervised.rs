//! Real workers under a real agent: what is proposed is loaded beside what serves, and comes into force without being loaded
//! again. Prints SKIPPED where there is no model.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::assignment::Ledger;
use agent::devices::Devices;
use agent::leaves::WorkerLeaves;
use agent::models::{Counters, Models};
use agent::shard::Slot;
use agent::shard::drive::{self, View};
use agent::shard::observed::Fault;
use agent::shard::step::DesiredShards;
use agent::worker::places::Places;
use engine::STRICT_STEP_ROWS;
use identity::Identity;
use identity::sign::store_keys;
use prost::Message as _;
use proto::control::v1::{Assignment, Assignments, Purpose, Route, ShardPhase, ShardStatus};
use proto::placement::v1::{Placement, Source, Stage};
use proto::shard::v1::generate_event::Event;
use rig::gateway::{Gateway, next, request};
use rig::process::model;
use rig::realm::{Realm, TRUST_DOMAIN, worker_id};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const NODE: &str = "node-0";
const DEVICE: &str = "node-0-cpu0";
/// For a few loads on a machine that has much else to do.
const SLOW_LIMIT: std::time::Duration = std::time::Duration::from_secs(240);
const TOKENS: u32 = 24;
/// So many that their stream outlives the installing of a placement by far.
const MANY_TOKENS: u32 = 160;
const PROMPT: [i32; 9] = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649];

/// What the operator would issue, without asking it.
struct Leaves {
    identity: Identity,
    keys: Vec<Vec<u8>>,
}

impl WorkerLeaves for Leaves {
    async fn ensure(&self, _model_uid: &str, directory: &Path) -> Result<(), Fault> {
        std::fs::create_dir_all(directory).unwrap();
        self.identity.store(directory).unwrap();
        store_keys(directory, &self.keys).unwrap();
        Ok(())
    }
}

/// A model as its index has it.
struct Weights {
    uri: String,
    digest: gguf::Digest,
    pieces: gguf::Index,
}

/// The model with its index beside it.
fn weights(model: &Path, path: &Path) -> Weights {
    std::fs::copy(model, path).unwrap();
    let set = gguf::parse::split::FileSet::open(path).unwrap();
    let mut files = vec![std::fs::File::open(path).unwrap()];
    let index = gguf::index::build(&mut files, &set.gguf, &set.names).unwrap();
    let beside = format!("{}.index.json", path.file_name().unwrap().to_str().unwrap());
    std::fs::write(path.with_file_name(beside), index.to_bytes()).unwrap();
    Weights {
        uri: format!("file://{}", path.display()),
        digest: index.digest(),
        pieces: index.piece_digests(&gguf::pieces(&set.gguf).unwrap()).unwrap(),
    }
}

/// A node whose operator is the test.
struct Node {
    realm: Realm,
    state: PathBuf,
    weights: Weights,
    ledger: Ledger,
    desired: watch::Sender<Arc<DesiredShards>>,
    view: watch::Receiver<Arc<View>>,
    unload: CancellationToken,
    driving: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start(model: &Path) -> Self {
        let mut realm = Realm::new(&[30]);
        realm.runtime.context_length = 512;
        realm.runtime.max_step_rows = STRICT_STEP_ROWS;
        let state = realm.path("state");
        for folder in ["models", "workers", "run"] {
            std::fs::create_dir_all(state.join(folder)).unwrap();
        }
        let leaves = Leaves {
            identity: realm.identity(&worker_id(NODE)),
            keys: realm.placement_keys(),
        };
        let models = agent::models::Setting {
            root: state.join("models"),
            sources: agent::source::Setting::default(),
            cache_bytes: None,
            disk_reserve_bytes: 0,
        };
        let models = Models::open(models, watch::Sender::new(None).subscribe(), None, Counters::new());
        let processors = device::GpuDevice::new(device::Backend::Cpu, 0, device::Kind::Cpu);
        let setting = drive::Setting {
            node: NODE.to_owned(),
            state_dir: state.clone(),
            worker: env!("CARGO_BIN_EXE_shardwright-worker").into(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            listen_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            threads: 1,
            devices: watch::Sender::new(Arc::new(Devices::of([processors]))).subscribe(),
        };
        let (desired, view) = (watch::Sender::new(Arc::default()), watch::Sender::new(Arc::default()));
        let (seen, unload) = (view.subscribe(), CancellationToken::new());
        let lines = drive::Lines {
            desired: desired.subscribe(),
            unload: unload.clone(),
            left: Vec::new(),
            view,
        };
        Self {
            weights: weights(model, &realm.path("model.gguf")),
            ledger: Ledger::open(NODE, &state).unwrap(),
            realm,
            state,
            desired,
            view: seen,
            unload,
            driving: tokio::spawn(drive::run(setting, Arc::new(leaves), Arc::new(models), lines)),
        }
    }

    /// One pipeline, cut after these layers, all of it on this node's device.
    fn placement(&self, epoch: u64, pipeline_epoch: u64, ends: &[u32]) -> Placement {
        let mut placement = self.realm.placement(epoch);
        let mut first_layer = 0;
        let stage = |end_layer: &u32| {
            let first = std::mem::replace(&mut first_layer, *end_layer);
            Stage {
                node: NODE.to_owned(),
                device: DEVICE.to_owned(),
                backend: "cpu".to_owned(),
                first_layer: first,
                end_layer: *end_layer,
                weight_root: self.weights.pieces.stage_root(first, *end_layer).unwrap().0.to_vec(),
                memory_budget_bytes: 256 << 20,
            }
        };
        placement.pipelines[0].stages = ends.iter().map(stage).collect();
        placement.pipelines[0].epoch = pipeline_epoch;
        placement.source = Some(Source {
            uri: self.weights.uri.clone(),
            index_sha256: self.weights.digest.0.to_vec(),
            ..Source::default()
        });
        placement
    }

    fn assignment(&self, placement: &Placement, purpose: Purpose) -> Assignment {
        let of = |status: &&ShardStatus| !status.endpoint.is_empty();
        let routes = |status: &ShardStatus| Route {
            pipeline: status.pipeline,
            stage: status.stage,
            endpoint: status.endpoint.clone(),
        };
        let view = self.view.borrow();
        let known = view
            .statuses
            .iter()
            .filter(of)
            .filter(|known| known.epoch == placement.epoch);
        let envelope = self.realm.sign(placement);
        Assignment {
            envelope: Some(proto::placement::v1::Envelope::decode(envelope.as_slice()).unwrap()),
            routes: known.map(routes).collect(),
            purpose: purpose.into(),
            ..Assignment::default()
        }
    }

    fn assign(&mut self, placements: &[(&Placement, Purpose)]) {
        let assignment = |(placement, purpose): &(&Placement, Purpose)| self.assignment(placement, *purpose);
        let assignments = placements.iter().map(assignment).collect();
        let outcome = self
            .ledger
            .accept(
                &Assignments {
                    assignments,
                    leave_now: false,
                },
                &self.realm.verifier(),
            )
            .unwrap();
        assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
        self.desired.send_replace(Arc::new(outcome.desired));
    }

    /// Waits until all stages of an epoch are in this phase; where they listen.
    async fn until(&self, epoch: u64, stages: usize, phase: ShardPhase) -> Vec<String> {
        let there = |view: &View| {
            let of = view.statuses.iter().filter(|status| status.epoch == epoch);
            of.filter(|status| status.phase() == phase).count() == stages
        };
        let mut view = self.view.clone();
        let found = timeout(SLOW_LIMIT, view.wait_for(|view| there(view))).await;
        let Ok(found) = found else {
            panic!(
                "epoch {epoch} never came to {phase:?}: {:?}",
                self.view.borrow().statuses
            )
        };
        let found = found.unwrap();
        let of = found.statuses.iter().filter(|status| status.epoch == epoch);
        let by_stage: BTreeMap<u32, String> = of.map(|status| (status.stage, status.endpoint.clone())).collect();
        by_stage.into_values().collect()
    }

    /// The processes of all workers, as their supervisor noted them.
    fn processes(&self) -> BTreeMap<Slot, String> {
        let note = |slot: &Slot| {
            let note = Places::new(&self.state, slot).directory.join("process.json");
            Some((slot.clone(), std::fs::read_to_string(note).ok()?))
        };
        self.desired.borrow().keys().filter_map(note).collect()
    }

    async fn gateway(&self, endpoint: &str, epoch: u64) -> Gateway {
        let gateway = Gateway::dial(&self.realm, 0, endpoint).await;
        gateway.ready(epoch).await;
        gateway
    }

    async fn end(self) {
        self.unload.cancel();
        timeout(SLOW_LIMIT, self.driving)
            .await
            .expect("every worker ends")
            .unwrap();
    }
}

async fn answer(gateway: &Gateway, epoch: u64, tokens: u32) -> Vec<i32> {
    let reply = timeout(SLOW_LIMIT, gateway.generate(request(epoch, &PROMPT, tokens))).await;
    reply.expect("an answer").unwrap().tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_loaded_while_streams_go_on_and_serves_in_the_processes_that_loaded_it() {
    let Some(model) = model() else { return };
    let mut node = tokio::task::block_in_place(|| Node::start(&model));
    let whole = node.placement(1, 1, &[30]);
    node.assign(&[(&whole, Purpose::Serve)]);
    let head = node.until(1, 1, ShardPhase::Serving).await.remove(0);
    let gateway = node.gateway(&head, 1).await;
    let expected = answer(&gateway, 1, MANY_TOKENS).await;
    let alone = node.processes();

    let split = node.placement(2, 2, &[12, 30]);
    node.assign(&[(&whole, Purpose::Serve), (&split, Purpose::Load)]);
    let heads = {
        let loaded = node.until(2, 2, ShardPhase::Loaded);
        tokio::pin!(loaded);
        loop {
            tokio::select! {
                heads = &mut loaded => break heads,
                tokens = answer(&gateway, 1, TOKENS) => assert_eq!(tokens, expected[..TOKENS as usize], "while it loads"),
            }
        }
    };
    assert_eq!(
        answer(&gateway, 1, TOKENS).await,
        expected[..TOKENS as usize],
        "beside what is loaded"
    );
    let all = node.processes();
    assert_eq!(all.len(), 3);
    assert!(alone.iter().all(|(slot, process)| all.get(slot) == Some(process)));

    node.assign(&[(&split, Purpose::Serve)]);
    assert_eq!(
        node.until(2, 2, ShardPhase::Serving).await,
        heads,
        "where they were loaded"
    );
    let kept = node.processes();
    assert_eq!(kept.len(), 2);
    assert!(
        kept.iter().all(|(slot, process)| all.get(slot) == Some(process)),
        "no process is new"
    );
    let gateway = node.gateway(&heads[0], 2).await;

    let mut stream = gateway.start(request(2, &PROMPT, MANY_TOKENS)).await.unwrap();
    let mut tokens = Vec::new();
    let mut newer = Some(node.placement(3, 2, &[12, 30]));
    while let Event::Token(token) = timeout(SLOW_LIMIT, next(&mut stream)).await.expect("a token").unwrap() {
        tokens.push(token.id);
        if let Some(newer) = newer.take() {
            // Nobody knows the routes of the new epoch yet.
            node.assign(&[(&newer, Purpose::Serve)]);
            node.until(3, 2, ShardPhase::Serving).await;
        }
    }
    assert_eq!(tokens, expected, "the stream went on over the newer placement");
    assert_eq!(node.processes(), kept);
    node.end().await;
}
