//! Everyone's identity, and the placements that the operator would sign.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::sign::store_keys;
use identity::{
    Authority, Credentials, DEFAULT_LEAF_LIFETIME, Identity, KeyPair, PlacementSigner, PlacementVerifier, Role,
    SpiffeId,
};
use prost::Message;
use proto::placement::v1 as placement;
use worker::config::{Backend, KvType, PressureConfig, RuntimeConfig, SliceFiles, WorkerConfig};

use super::fake::{LAYERS, WIDTH};

pub const TRUST_DOMAIN: &str = "shardwright";
pub const MODEL: &str = "model-1";

/// Layers of one stage, and the node that holds them.
#[derive(Clone, Debug)]
pub struct StageAt {
    pub node: String,
    pub first_layer: u32,
    pub end_layer: u32,
}

/// An installation of Shardwright, without its operator.
pub struct Realm {
    pub directory: tempfile::TempDir,
    /// Issues the leaves from now on.
    pub authority: Authority,
    signer: PlacementSigner,
    pub stages: Vec<StageAt>,
    pub runtime: RuntimeConfig,
    /// Of the leaves that are issued from now on.
    pub leaf_lifetime: Duration,
    /// Fixed, so that one epoch is one placement.
    not_after_unix_s: i64,
}

impl Realm {
    /// Stages of [`LAYERS`] layers in all, on nodes `node-0`, `node-1`, …
    pub fn new(ends: &[u32]) -> Self {
        let mut first_layer = 0;
        let stages = ends.iter().enumerate().map(|(index, end)| {
            let stage = StageAt {
                node: format!("node-{index}"),
                first_layer,
                end_layer: *end,
            };
            first_layer = *end;
            stage
        });
        Self {
            leaf_lifetime: DEFAULT_LEAF_LIFETIME,
            not_after_unix_s: unix_s() + 3600,
            stages: stages.collect(),
            directory: tempfile::tempdir().unwrap(),
            authority: Authority::generate(TRUST_DOMAIN, SystemTime::now()).unwrap(),
            signer: PlacementSigner::generate().unwrap(),
            runtime: RuntimeConfig {
                context_length: 256,
                parallel_sequences: 3,
                kv_type: KvType::F16,
                max_step_rows: 8,
                kv_cells: 0,
                prefix_sequences: 0,
            },
        }
    }

    /// Of what `sign` signs.
    pub fn verifier(&self) -> PlacementVerifier {
        PlacementVerifier::new([self.signer.public_key()]).unwrap()
    }

    pub fn placement_keys(&self) -> Vec<Vec<u8>> {
        vec![self.signer.public_key().to_vec()]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn worker_id(&self, stage: usize) -> SpiffeId {
        worker_id(&self.stages[stage].node)
    }

    /// A fresh leaf for whoever that is.
    pub fn identity(&self, id: &SpiffeId) -> Identity {
        let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
        let now = SystemTime::now();
        let leaf = self
            .authority
            .issue(&csr_der, id, &[], self.leaf_lifetime, now)
            .unwrap();
        Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        }
    }

    /// Puts a fresh leaf for a stage's worker where it looks for one.
    pub fn renew(&self, stage: usize, identity_dir: &Path) {
        self.identity(&self.worker_id(stage)).store(identity_dir).unwrap();
    }

    pub fn credentials(&self, id: &SpiffeId) -> Credentials {
        Credentials::new(self.identity(id)).unwrap()
    }

    /// The configuration that an agent writes for a stage. `incarnation` keeps workers of one stage apart.
    pub fn config(&self, stage: usize, incarnation: &str) -> WorkerConfig {
        let at = &self.stages[stage];
        let name = format!("{stage}{incarnation}");
        let identity_dir = self.path(&format!("id{name}"));
        std::fs::create_dir_all(&identity_dir).unwrap();
        self.renew(stage, &identity_dir);
        store_keys(&identity_dir, &self.placement_keys()).unwrap();
        WorkerConfig {
            model_uid: MODEL.to_owned(),
            node: at.node.clone(),
            device: format!("{}-cpu0", at.node),
            first_layer: at.first_layer,
            end_layer: at.end_layer,
            total_layers: self.stages.iter().map(|stage| stage.end_layer).max().unwrap_or(LAYERS),
            backend: Backend::Cpu,
            device_index: 0,
            group_indices: Vec::new(),
            threads: 1,
            memory_budget_bytes: 0,
            slice: SliceFiles {
                header: self.path("none"),
                parts: Vec::new(),
            },
            embedding: (at.first_layer == 0).then(|| self.path("none")),
            embedding_length: WIDTH as u32,
            runtime: self.runtime.clone(),
            listen: "127.0.0.1:0".to_owned(),
            advertise_ip: "127.0.0.1".to_owned(),
            control_socket: self.path(&format!("w{name}.sock")),
            identity_dir,
            trust_domain: TRUST_DOMAIN.to_owned(),
            orphan_grace_s: 30,
            pressure: PressureConfig::default(),
            keep_awake: false,
            speculate: false,
        }
    }

    pub fn placement(&self, epoch: u64) -> placement::Placement {
        let stage = |at: &StageAt| placement::Stage {
            node: at.node.clone(),
            device: format!("{}-cpu0", at.node),
            backend: "cpu".to_owned(),
            first_layer: at.first_layer,
            end_layer: at.end_layer,
            ..placement::Stage::default()
        };
        placement::Placement {
            epoch,
            model_uid: MODEL.to_owned(),
            not_after_unix_s: self.not_after_unix_s,
            runtime: Some(placement::Runtime {
                context_length: self.runtime.context_length,
                parallel_sequences: self.runtime.parallel_sequences,
                kv_type: placement::KvType::F16.into(),
                max_step_rows: self.runtime.max_step_rows,
                kv_cells: self.runtime.kv_cells,
                prefix_sequences: self.runtime.prefix_sequences,
                ..placement::Runtime::default()
            }),
            pipelines: vec![placement::Pipeline {
                stages: self.stages.iter().map(stage).collect(),
                epoch: 0,
            }],
            ..placement::Placement::default()
        }
    }

    /// A placement of several pipelines: the epoch of each, and which of the stages it has.
    pub fn placement_of(&self, epoch: u64, pipelines: &[(u64, &[usize])]) -> placement::Placement {
        let mut placement = self.placement(epoch);
        let all = placement.pipelines.remove(0).stages;
        let pipeline = |(epoch, stages): &(u64, &[usize])| placement::Pipeline {
            stages: stages.iter().map(|stage| all[*stage].clone()).collect(),
            epoch: *epoch,
        };
        placement.pipelines = pipelines.iter().map(pipeline).collect();
        placement
    }

    pub fn sign(&self, placement: &placement::Placement) -> Vec<u8> {
        self.signer.sign(placement).encode_to_vec()
    }

    /// A signed placement of the stages as they are.
    pub fn envelope(&self, epoch: u64) -> Vec<u8> {
        self.sign(&self.placement(epoch))
    }
}

pub fn worker_id(node: &str) -> SpiffeId {
    let role = Role::Worker {
        node: node.to_owned(),
        model_uid: MODEL.to_owned(),
    };
    SpiffeId::new(TRUST_DOMAIN, role).unwrap()
}

pub fn gateway_id() -> SpiffeId {
    SpiffeId::new(
        TRUST_DOMAIN,
        Role::Gateway {
            pod: "gateway-0".to_owned(),
        },
    )
    .unwrap()
}

pub fn unix_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A file of JSON, as the agent writes it.
pub fn write_config(config: &WorkerConfig, path: &Path) {
    std::fs::write(path, serde_json::to_vec_pretty(config).unwrap()).unwrap();
}
