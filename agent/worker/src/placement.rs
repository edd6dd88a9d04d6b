//! The placement that a worker obeys: when one may be installed, and who may speak under it.

mod fence;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use identity::{PlacementVerifier, Role, SpiffeId};
use prost::Message;
use proto::placement::v1 as wire;
use thiserror::Error;
use tokio::sync::watch;

use crate::config::{self, WorkerConfig};
pub use fence::{Fence, FenceError};

/// What the installed placement says about this worker's surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Of the pipeline: what the data plane speaks of. While it stays, so do the streams.
    pub epoch: u64,
    /// Of the placement.
    pub placement_epoch: u64,
    /// Index of this worker's stage in its pipeline.
    pub stage: u32,
    /// All stages of the pipeline, this one among them.
    stages: Vec<wire::Stage>,
    /// Who may open `Stage.Carry` here; none on the head.
    pub previous: Option<SpiffeId>,
    /// Who must answer where the next stage is dialled; none on the tail.
    pub next: Option<SpiffeId>,
    /// Where the next stage is thought to listen: a hint, until it is known none.
    pub next_endpoint: Option<String>,
    /// Ids that may not speak, whatever certificate they hold.
    denied: Vec<String>,
    /// The placement without its time to be installed, serialised.
    undated: Vec<u8>,
}

/// Where a worker stands in its pipeline, for as long as the pipeline does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Of the pipeline.
    pub epoch: u64,
    /// Index in the pipeline.
    pub stage: u32,
    /// Stages of the pipeline.
    pub stages: u32,
}

/// A stage of a placement.
struct Mine<'a> {
    pipeline: &'a wire::Pipeline,
    stage: usize,
}

/// Why a placement is not installed. The variant's name is the reason on the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InstallError {
    /// A higher epoch, or another placement of the same one, was accepted before.
    #[error("{0}")]
    StaleEpoch(String),
    /// The envelope does not stand.
    #[error("{0}")]
    BadSignature(String),
    /// It says something else about this worker than its configuration.
    #[error("{0}")]
    NotMine(String),
    /// Its time to be installed is over.
    #[error("{0}")]
    Expired(String),
    /// The accepted epoch cannot be kept.
    #[error("{0}")]
    Unwritable(String),
}

impl InstallError {
    /// One CamelCase word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::StaleEpoch(_) => "StaleEpoch",
            Self::BadSignature(_) => "BadSignature",
            Self::NotMine(_) => "NotMine",
            Self::Expired(_) => "Expired",
            Self::Unwritable(_) => "Unwritable",
        }
    }
}

/// Accepts placements, and publishes the one in force. A worker is known by what it holds: wherever a placement has its layers
/// on its device, that is its stage.
#[derive(Debug)]
pub struct Installer {
    config: Arc<WorkerConfig>,
    verifier: PlacementVerifier,
    fence: Fence,
    current: watch::Sender<Option<Arc<Installed>>>,
}

impl Installer {
    /// Nothing is installed, but the fence of an earlier life holds.
    pub fn new(config: Arc<WorkerConfig>, verifier: PlacementVerifier, fence: Fence) -> Self {
        Self {
            config,
            verifier,
            fence,
            current: watch::Sender::new(None),
        }
    }

    /// The placement in force, now and whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Installed>>> {
        self.current.subscribe()
    }

    /// Installs a placement, or renews the hint where the next stage listens. Installing the same one again is no change, nor
    /// is one that differs only in its time to be installed: the operator prolongs that under the same epoch. A newer one that
    /// leaves this worker's pipeline as it is disturbs no stream.
    ///
    /// # Errors
    /// See [`InstallError`]; what was in force stays so.
    pub fn install(
        &mut self,
        envelope: &wire::Envelope,
        next_endpoint: Option<String>,
        now_unix_s: i64,
    ) -> Result<(), InstallError> {
        let verified = self.verifier.verify(envelope);
        let placement = verified.map_err(|error| InstallError::BadSignature(error.to_string()))?;
        let undated = undated(&placement);
        let in_force = self.current.borrow().clone();
        if let Some(installed) = in_force.filter(|installed| installed.undated == undated) {
            let renewed = Installed {
                next_endpoint,
                ..(*installed).clone()
            };
            self.publish(renewed);
            return Ok(());
        }
        let mine = self.check(&placement, now_unix_s)?;
        let mut installed = self.neighbours(&placement, mine, undated, next_endpoint);
        self.check_pipeline(&mut installed)?;
        let accepted = self.fence.accept(placement.epoch);
        accepted.map_err(|error| InstallError::Unwritable(error.to_string()))?;
        let (epoch, pipeline_epoch, stage) = (placement.epoch, installed.epoch, installed.stage);
        tracing::info!(epoch, pipeline_epoch, stage, "placement installed");
        self.publish(installed);
        Ok(())
    }

    fn publish(&self, installed: Installed) {
        self.current.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&installed);
            *current = Some(Arc::new(installed));
            changed
        });
    }

    /// This worker's stage, if the placement may be installed.
    fn check<'a>(&self, placement: &'a wire::Placement, now_unix_s: i64) -> Result<Mine<'a>, InstallError> {
        let (epoch, highest) = (placement.epoch, self.fence.highest());
        if epoch < highest {
            let message = format!("epoch {epoch} is lower than {highest}, which was accepted before");
            return Err(InstallError::StaleEpoch(message));
        }
        if self
            .current
            .borrow()
            .as_ref()
            .is_some_and(|installed| installed.placement_epoch == epoch)
        {
            let message = format!("another placement of epoch {epoch} is installed");
            return Err(InstallError::StaleEpoch(message));
        }
        if placement.not_after_unix_s < now_unix_s {
            let age_s = now_unix_s.saturating_sub(placement.not_after_unix_s);
            let message = format!("the placement could be installed until {age_s} s ago");
            return Err(InstallError::Expired(message));
        }
        self.check_is_mine(placement).map_err(InstallError::NotMine)
    }

    /// Streams of an epoch go on by what they began with: it must not mean anything else now. Where the next stage listens is
    /// remembered with it, as long as nothing newer is known.
    fn check_pipeline(&self, installed: &mut Installed) -> Result<(), InstallError> {
        let (epoch, above) = (installed.epoch, installed.placement_epoch);
        if epoch > above {
            let message = format!("the pipeline's epoch {epoch} is above the placement's, {above}");
            return Err(InstallError::NotMine(message));
        }
        let current = self.current.borrow();
        let Some(known) = current.as_ref().filter(|known| known.epoch == epoch) else {
            return Ok(());
        };
        if known.stages != installed.stages {
            let message = format!("a pipeline of other stages was installed under its epoch {epoch}");
            return Err(InstallError::StaleEpoch(message));
        }
        if installed.next_endpoint.is_none() {
            installed.next_endpoint.clone_from(&known.next_endpoint);
        }
        Ok(())
    }

    /// Everything the placement says about this shard must be what was loaded.
    fn check_is_mine<'a>(&self, placement: &'a wire::Placement) -> Result<Mine<'a>, String> {
        let config = &self.config;
        same("model", &placement.model_uid, &config.model_uid)?;
        let mine = self.find(placement)?;
        let runtime = placement.runtime.as_ref().ok_or("the runtime is missing")?;
        let loaded = &config.runtime;
        same("context length", &runtime.context_length, &loaded.context_length)?;
        same(
            "number of sequences",
            &runtime.parallel_sequences,
            &loaded.parallel_sequences,
        )?;
        same("rows of a step", &runtime.max_step_rows, &loaded.max_step_rows)?;
        same("number of cells", &runtime.kv_cells, &loaded.kv_cells)?;
        same(
            "number of kept prefixes",
            &runtime.prefix_sequences,
            &loaded.prefix_sequences,
        )?;
        same("KV type", &runtime.kv_type(), &wire::KvType::from(loaded.kv_type))?;
        if placement.denied.contains(&config::spiffe_id(config).to_string()) {
            return Err("this worker is denied".to_owned());
        }
        Ok(mine)
    }

    /// The stage with this worker's layers on its device.
    fn find<'a>(&self, placement: &'a wire::Placement) -> Result<Mine<'a>, String> {
        let config = &self.config;
        let ours = |stage: &wire::Stage| {
            (stage.node.as_str(), stage.device.as_str()) == (&config.node, &config.device)
                && (stage.first_layer, stage.end_layer) == (config.first_layer, config.end_layer)
        };
        let found = placement.pipelines.iter().find_map(|pipeline| {
            let stage = pipeline.stages.iter().position(ours)?;
            Some(Mine { pipeline, stage })
        });
        let (first, end, device) = (config.first_layer, config.end_layer, &config.device);
        let mine = found.ok_or_else(|| format!("the placement has no layers [{first}, {end}) on {device}"))?;
        let (stage, stages) = (mine.stage, mine.pipeline.stages.len());
        if (stage == 0, stage + 1 == stages) != (config.is_head(), config.is_tail()) {
            let total = config.total_layers;
            return Err(format!(
                "the placement has layers [{first}, {end}) of {total} as stage {stage} of {stages}"
            ));
        }
        Ok(mine)
    }

    fn neighbours(
        &self,
        placement: &wire::Placement,
        Mine { pipeline, stage }: Mine<'_>,
        undated: Vec<u8>,
        next_endpoint: Option<String>,
    ) -> Installed {
        let worker = |index: Option<usize>| {
            let stage = pipeline.stages.get(index?)?;
            let (node, model_uid) = (stage.node.clone(), placement.model_uid.clone());
            let role = Role::Worker { node, model_uid };
            Some(SpiffeId {
                trust_domain: self.config.trust_domain.clone(),
                role,
            })
        };
        Installed {
            epoch: pipeline.epoch_in(placement),
            placement_epoch: placement.epoch,
            stage: u32::try_from(stage).unwrap_or(u32::MAX),
            stages: pipeline.stages.clone(),
            previous: worker(stage.checked_sub(1)),
            next: worker(stage.checked_add(1)),
            next_endpoint,
            denied: placement.denied.clone(),
            undated,
        }
    }
}

impl Installed {
    /// A number for the pipeline and the address of the next stage: what was found out about one says nothing of another. A stage that was
    /// started again has the same pipeline and another address.
    pub fn route(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.epoch, &self.next_endpoint).hash(&mut hasher);
        hasher.finish()
    }

    /// Where this worker stands.
    pub fn stand(&self) -> Stand {
        Stand {
            epoch: self.epoch,
            stage: self.stage,
            stages: u32::try_from(self.stages.len()).unwrap_or(u32::MAX),
        }
    }

    /// Whether a peer may open `Stage.Carry` here; the message says why not.
    pub fn may_carry(&self, peer: &SpiffeId) -> Result<(), String> {
        self.not_denied(peer)?;
        let Some(previous) = &self.previous else {
            return Err("this worker is the head of its pipeline: no stage comes before it".to_owned());
        };
        if peer != previous {
            return Err(format!(
                "{peer} does not come before this stage in epoch {}",
                self.epoch
            ));
        }
        Ok(())
    }

    /// Whether a peer may call `Head.Generate` here; the message says why not.
    pub fn may_generate(&self, peer: &SpiffeId) -> Result<(), String> {
        self.not_denied(peer)?;
        if self.previous.is_some() {
            return Err("this worker is not the head of its pipeline".to_owned());
        }
        match peer.role {
            Role::Gateway { .. } => Ok(()),
            _ => Err(format!("{peer} is not a gateway")),
        }
    }

    fn not_denied(&self, peer: &SpiffeId) -> Result<(), String> {
        if self.denied.iter().any(|denied| *denied == peer.to_string()) {
            return Err(format!("{peer} is denied by the placement of epoch {}", self.epoch));
        }
        Ok(())
    }
}

/// Reads the envelope that the agent hands over.
pub fn decode_envelope(encoded: &[u8]) -> Result<wire::Envelope, InstallError> {
    wire::Envelope::decode(encoded)
        .map_err(|error| InstallError::BadSignature(format!("the envelope cannot be read: {error}")))
}

fn undated(placement: &wire::Placement) -> Vec<u8> {
    let undated = wire::Placement {
        not_after_unix_s: 0,
        ..placement.clone()
    };
    undated.encode_to_vec()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, placed: &T, loaded: &T) -> Result<(), String> {
    if placed == loaded {
        return Ok(());
    }
    Err(format!(
        "the placement's {what} is {placed:?}, this worker's {loaded:?}"
    ))
}
