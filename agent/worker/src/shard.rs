//! What the parts of a worker know of each other: the phase, the placement, the wish to end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::control::{MemoryUse, Phase, Status};
use crate::identity_dir::IdentityDir;
use crate::memory::Observation;
use crate::metrics::Metrics;
use crate::placement::{InstallError, Installed, Installer, decode_envelope};
use crate::stage::thread::ComputeHandle;

/// The state of one worker.
#[derive(Debug)]
pub struct Shard {
    /// As the agent wrote it.
    pub config: Arc<WorkerConfig>,
    /// Counts.
    pub metrics: Metrics,
    /// Connections on the control socket.
    pub agents: watch::Sender<usize>,
    /// Lines answered on the control socket.
    pub answered: watch::Sender<u64>,
    /// Cancelled when the worker shall finish what runs and end.
    pub draining: CancellationToken,
    /// On the head: requests that run or wait.
    pub load: watch::Sender<usize>,
    /// What the shard takes, and how short memory is.
    pub memory: Observation,
    /// Where its identity comes from.
    pub identity: IdentityDir,
    life: watch::Sender<Life>,
    installer: Mutex<Installer>,
    installed: watch::Receiver<Option<Arc<Installed>>>,
}

#[derive(Clone, Debug)]
struct Life {
    phase: Phase,
    endpoint: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    compute: Option<ComputeHandle>,
}

impl Shard {
    /// A worker that is loading.
    pub fn new(
        config: Arc<WorkerConfig>,
        installer: Installer,
        metrics: Metrics,
        memory: Observation,
        identity: IdentityDir,
    ) -> Self {
        let installed = installer.watch();
        let life = Life {
            phase: Phase::Loading,
            endpoint: None,
            reason: None,
            message: None,
            compute: None,
        };
        Self {
            config,
            metrics,
            agents: watch::Sender::new(0),
            answered: watch::Sender::new(0),
            draining: CancellationToken::new(),
            load: watch::Sender::new(0),
            memory,
            identity,
            life: watch::Sender::new(life),
            installer: Mutex::new(installer),
            installed,
        }
    }

    /// The placement in force, now and whenever it changes.
    pub fn installed(&self) -> watch::Receiver<Option<Arc<Installed>>> {
        self.installed.clone()
    }

    /// See [`Installer::install`]; the time is now.
    ///
    /// # Errors
    /// Why the placement is refused.
    pub fn install(&self, envelope: &[u8], next: Option<String>) -> Result<(), InstallError> {
        let envelope = decode_envelope(envelope)?;
        // A panic while installing leaves what was published before, which is consistent.
        let mut installer = self.installer.lock().unwrap_or_else(PoisonError::into_inner);
        installer.install(&envelope, next, now_unix_s())
    }

    /// The data plane listens at this endpoint, over this stage.
    pub fn serves(&self, endpoint: String, compute: ComputeHandle) {
        self.life.send_modify(|life| {
            life.phase = Phase::Serving;
            life.endpoint = Some(endpoint);
            life.compute = Some(compute);
        });
    }

    /// The worker is about to end.
    pub fn fails(&self, reason: &str, message: &str) {
        tracing::error!(reason, message, "the worker fails");
        self.life.send_modify(|life| {
            life.phase = Phase::Failed;
            life.endpoint = None;
            life.reason = Some(reason.to_owned());
            life.message = Some(message.to_owned());
        });
    }

    /// Nothing new from here on.
    pub fn drain(&self, why: &str) {
        if self.draining.is_cancelled() {
            return;
        }
        tracing::info!(why, "draining");
        self.life.send_modify(|life| {
            if life.phase != Phase::Failed {
                life.phase = Phase::Draining;
                life.message = Some(why.to_owned());
            }
        });
        self.draining.cancel();
    }

    /// What runs, waits, or is held; see [`Status::active_sequences`].
    pub fn active_sequences(&self) -> usize {
        if self.config.is_head() {
            return *self.load.borrow();
        }
        self.life
            .borrow()
            .compute
            .as_ref()
            .map_or(0, ComputeHandle::active_sequences)
    }

    /// The metrics as text, gauges brought up to date.
    ///
    /// # Errors
    /// See [`Metrics::text`].
    pub fn metrics_text(&self) -> Result<String, prometheus::Error> {
        // The head's driver knows better which of its requests hold a slot.
        if !self.config.is_head() {
            let active = i64::try_from(self.active_sequences()).unwrap_or(i64::MAX);
            self.metrics.active_sequences.set(active);
        }
        self.metrics.text()
    }

    /// For the agent.
    pub fn status(&self) -> Status {
        let active_sequences = self.active_sequences();
        let installed = self.installed.borrow().clone();
        let life = self.life.borrow();
        Status {
            phase: life.phase,
            endpoint: life.endpoint.clone(),
            epoch: installed.as_ref().map(|installed| installed.placement_epoch),
            reason: life.reason.clone(),
            message: life.message.clone(),
            active_sequences,
            memory: self.memory.measured.borrow().map(|memory| MemoryUse {
                weights_bytes: memory.weights_bytes,
                kv_bytes: memory.kv_bytes,
                compute_bytes: memory.compute_bytes,
            }),
            pressure: self.memory.pressure.borrow().word().map(str::to_owned),
            pace: self.metrics.pace(Instant::now()),
            next_unreachable: installed.and_then(|installed| self.metrics.next_unreachable(installed.route())),
        }
    }
}

fn now_unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
