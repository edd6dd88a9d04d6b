//! A worker's life: listen to the agent, load, serve, drain.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Credentials, PlacementVerifier, TlsListener, grpc_server, tls};
use proto::shard::v1::head_server::HeadServer;
use proto::shard::v1::stage_server::StageServer;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::awake::Awake;
use crate::compute::{LoadError, Loader};
use crate::config::{self, WorkerConfig};
use crate::control;
use crate::head::drive::{Driver, MAX_SUBMISSIONS};
use crate::head::service::{GenerateService, max_request_bytes};
use crate::identity_dir::IdentityDir;
use crate::memory::Observation;
use crate::metrics::Metrics;
use crate::placement::{Fence, FenceError, Installer};
use crate::shard::Shard;
use crate::stage::carry::CarryService;
use crate::stage::link::{MAX_MESSAGE_BYTES, STAGE_STEP_LIMIT, max_step_bytes};
use crate::stage::thread::{self, ComputeHandle, Loading};

/// How long running sequences may take to finish once the worker drains.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// How often a draining worker looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long the engine may be at one job. A stage that takes longer for a step than it may is given up by the head; one that
/// does not come back even then blocks every attempt to open the pipeline again, and only a new process helps.
const ENGINE_LIMIT: Duration = STAGE_STEP_LIMIT.saturating_mul(2);
/// For the last events to leave the process.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// How long a failed worker stays so that its agent can ask why.
const FAILED_LIMIT: Duration = Duration::from_secs(5);
/// How often a renewed leaf is looked for, at least: leaves live for hours.
const RENEWAL_POLL: Duration = Duration::from_secs(60);

/// How a worker ended; the number is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Drained.
    Drained = 0,
    /// The configuration cannot be used.
    Config = 64,
    /// The weights were refused.
    Weights = 65,
    /// The backend or its device is unavailable.
    Device = 69,
    /// The engine cannot go on.
    Engine = 70,
    /// The shard does not fit its memory budget.
    Memory = 71,
    /// The processor lacks instructions that the build needs.
    UnsupportedCpu = 78,
}

/// Why a worker cannot even begin.
#[derive(Debug, Error)]
pub enum SetupError {
    /// Who we are cannot be read or used.
    #[error("identity in {directory}: {cause}")]
    Identity {
        /// `identity_dir`.
        directory: std::path::PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The fence cannot be read.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// The metrics contradict each other.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The system has no thread left.
    #[error("the compute thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// The data plane cannot listen.
    #[error("data plane on {address}: {cause}")]
    Listen {
        /// `listen`.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// Runs a worker until it has drained or failed. `shutdown` asks for the drain, as the agent may. `memory` is what the
/// loader's gauge tells of the shard's memory.
///
/// # Errors
/// When it cannot begin: the caller tells why and ends with [`Exit::Config`].
pub async fn run_observed(
    config: Arc<WorkerConfig>,
    loader: Loader,
    memory: Observation,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Exit, SetupError> {
    let identity = own_identity(&config)?;
    let credentials = identity.credentials.clone();
    let shard = Arc::new(shard(&config, memory, identity)?);
    let listener = TlsListener::bind(&config.listen, tls::server_config(&credentials)).await;
    let address = config.listen.clone();
    let listener = listener.map_err(|cause| SetupError::Listen { address, cause })?;
    let socket = control::bind(&config.control_socket)?;
    let awake = Awake::for_stage(&config);
    let (loading, engine) = thread::start(config::place(&config), loader, awake).map_err(SetupError::Thread)?;

    // Dropped at the end, and its tasks with it.
    let mut tasks = JoinSet::new();
    tasks.spawn(control::serve(socket, Arc::clone(&shard)));
    tasks.spawn(renew(shard.identity.clone()));
    tasks.spawn(watch_over(Arc::clone(&shard), shutdown));

    let exit = match load(&shard, loading).await {
        Loaded::Drained => Exit::Drained,
        Loaded::Refused(exit) => exit,
        Loaded::Ready(compute) => {
            let data_plane = DataPlane {
                shard: &shard,
                credentials,
                listener,
                compute,
            };
            data_plane.serve(engine, &mut tasks).await
        }
    };
    // Best effort: the next worker replaces a socket that is left behind.
    let _ = std::fs::remove_file(&config.control_socket);
    Ok(exit)
}

fn own_identity(config: &WorkerConfig) -> Result<IdentityDir, SetupError> {
    let refused = |cause: String| SetupError::Identity {
        directory: config.identity_dir.clone(),
        cause,
    };
    let identity = IdentityDir::open(&config.identity_dir).map_err(refused)?;
    let (found, expected) = (identity.credentials.spiffe_id(), config::spiffe_id(config));
    if found != expected {
        return Err(refused(format!("the leaf names {found}, the configuration {expected}")));
    }
    Ok(identity)
}

fn shard(config: &Arc<WorkerConfig>, memory: Observation, identity: IdentityDir) -> Result<Shard, SetupError> {
    let verifier = PlacementVerifier::load(&config.identity_dir).map_err(|error| SetupError::Identity {
        directory: config.identity_dir.clone(),
        cause: error.to_string(),
    })?;
    let fence = Fence::open(config.epoch_file())?;
    let installer = Installer::new(Arc::clone(config), verifier, fence);
    let metrics = Metrics::new()?;
    Ok(Shard::new(Arc::clone(config), installer, metrics, memory, identity))
}

/// Takes renewed leaves into use, and tells once that one has ended without a successor.
async fn renew(identity: IdentityDir) {
    let credentials = &identity.credentials;
    let (mut told, mut failing) = (false, String::new());
    loop {
        let look = credentials.identity().next_look(SystemTime::now(), RENEWAL_POLL);
        tokio::time::sleep(look).await;
        let failed = identity.take().err().unwrap_or_default();
        // It is looked every second while a renewal is due.
        if !failed.is_empty() && failed != failing {
            tracing::warn!("{failed}; the old leaf stays in use");
        }
        failing = failed;
        let ended = credentials.not_after() < SystemTime::now();
        if ended && !told {
            tracing::warn!(
                "the leaf has ended and no renewed one is there: connections that stand go on, and others refuse new ones until the \
                 agent has got another leaf from the operator"
            );
        }
        told = ended;
    }
}

/// Drains when asked to by a signal, or when no agent has been there for the grace period.
async fn watch_over(shard: Arc<Shard>, shutdown: impl Future<Output = ()>) {
    let grace = shard.config.orphan_grace();
    let mut agents = shard.agents.subscribe();
    let orphaned = async {
        // The sender lives in the shard, which outlives this.
        while agents.wait_for(|count| *count == 0).await.is_ok() {
            if timeout(grace, agents.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = shutdown => shard.drain("a signal asked for it"),
        () = orphaned => shard.drain("no agent is there"),
    }
}

enum Loaded {
    Ready(ComputeHandle),
    Refused(Exit),
    /// Asked to end before it was loaded.
    Drained,
}

async fn load(shard: &Shard, loading: Loading) -> Loaded {
    let loaded = tokio::select! {
        loaded = loading => loaded,
        () = shard.draining.cancelled() => return Loaded::Drained,
    };
    let (exit, reason, message) = match loaded {
        Ok(Ok(compute)) => return Loaded::Ready(compute),
        Ok(Err(error)) => {
            let (exit, reason) = match &error {
                LoadError::Weights(_) => (Exit::Weights, "LoadRefused"),
                LoadError::Memory(_) => (Exit::Memory, "InsufficientMemory"),
                LoadError::Device(_) => (Exit::Device, "DeviceUnavailable"),
                LoadError::UnsupportedCpu(_) => (Exit::UnsupportedCpu, "UnsupportedCPU"),
            };
            (exit, reason, error.to_string())
        }
        Err(_) => (Exit::Engine, "EngineEnded", "the engine ended while loading".to_owned()),
    };
    fail(shard, reason, &message).await;
    Loaded::Refused(exit)
}

/// Tells why, and stays until the agent has asked or a limit is reached.
async fn fail(shard: &Shard, reason: &str, message: &str) {
    let mut answered = shard.answered.subscribe();
    shard.fails(reason, message);
    if timeout(FAILED_LIMIT, answered.changed()).await.is_err() {
        tracing::warn!("no agent asked why");
    }
}

struct DataPlane<'a> {
    shard: &'a Arc<Shard>,
    credentials: Credentials,
    listener: TlsListener,
    compute: ComputeHandle,
}

impl DataPlane<'_> {
    async fn serve(self, mut engine: watch::Receiver<()>, tasks: &mut JoinSet<()>) -> Exit {
        let Self {
            shard,
            credentials,
            listener,
            compute,
        } = self;
        let is_head = compute.place().head;
        let endpoint = endpoint(&shard.config, listener.local_addr().port());
        let (submit, submissions) = mpsc::channel(MAX_SUBMISSIONS);
        let wake = Arc::new(Notify::new());
        let (installed, metrics) = (shard.installed(), shard.metrics.clone());
        let generate = GenerateService::new(
            Arc::clone(&shard.config),
            compute.facts(),
            installed.clone(),
            submit,
            Arc::clone(&wake),
        );
        let carry = CarryService::new(compute.clone(), credentials.clone(), installed.clone(), metrics.clone());
        if is_head {
            let driver = Driver {
                compute: compute.clone(),
                credentials,
                installed,
                submissions,
                wake,
                draining: shard.draining.clone(),
                load: shard.load.clone(),
                speculates: shard.config.speculate,
                pressure: shard.memory.pressure.clone(),
                metrics,
            };
            tasks.spawn(driver.run());
        }
        let head =
            HeadServer::new(generate).max_decoding_message_size(max_request_bytes(shard.config.runtime.context_length));
        let stage = StageServer::new(carry)
            .max_decoding_message_size(max_step_bytes(compute.place().limits, compute.facts().embedding_length))
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let closing = CancellationToken::new();
        let closed = closing.clone().cancelled_owned();
        let server = grpc_server().add_service(head).add_service(stage);
        let server = server.serve_with_incoming_shutdown(listener.incoming(), closed);
        let mut server = tokio::spawn(server);
        tracing::info!(%endpoint, "serving");
        shard.serves(endpoint, compute.clone());

        let failure = tokio::select! {
            () = drained(shard) => None,
            // Nothing is ever sent: an error says that the thread has ended.
            _ = engine.changed() => Some("the engine ended"),
            () = compute.stuck(ENGINE_LIMIT) => Some("the engine does not come back from a job"),
            _ = &mut server => Some("the data plane ended"),
        };
        if let Some(message) = failure {
            fail(shard, "EngineEnded", message).await;
            return Exit::Engine;
        }
        closing.cancel();
        // Stages before this one keep their streams open for as long as they live; clients of a head end theirs.
        if is_head && timeout(FLUSH_LIMIT, &mut server).await.is_err() {
            tracing::warn!("some clients have not taken their last events");
        }
        server.abort();
        Exit::Drained
    }
}

fn endpoint(config: &WorkerConfig, port: u16) -> String {
    // An IPv6 address needs brackets; `validate` has seen that it is an address.
    match config.advertise_ip.parse() {
        Ok(ip) => std::net::SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{}:{port}", config.advertise_ip),
    }
}

/// Returns once a drain was asked for and nothing runs any more, or its limit is over.
async fn drained(shard: &Shard) {
    shard.draining.cancelled().await;
    let idle = async {
        while shard.active_sequences() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    if timeout(DRAIN_LIMIT, idle).await.is_err() {
        let running = shard.active_sequences();
        tracing::warn!(running, "draining took too long; the rest is cut off");
    }
}
