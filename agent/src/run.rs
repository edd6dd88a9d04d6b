//! The life of an agent, in order: one per state directory, what an earlier life left is ended, devices, identity, stream;
//! and at a signal: drain, leave, end.

use crate::admin;
use crate::args::{EXIT_BAD_CONFIGURATION, Settings};
use crate::assignment::Ledger;
use crate::control::{self, Control};
use crate::discovery::publish::Publisher;
use crate::discovery::{lease, report};
use crate::enrolment::Enrolment;
use crate::leaves::{OperatorLeaves, PlacementKeys};
use crate::models::{Counters, Models, serve};
use crate::probe;
use crate::shard::drive::{self, View};
use crate::worker::leftovers;
use device::{GpuDevice, merge};
use std::fs::File;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Running sequences finish within this, after which workers are killed; a pod has 30 s in all by default, so its grace
/// period has to be longer than this.
const DRAIN_LIMIT: Duration = Duration::from_secs(35);

/// Closing a stream takes a round trip.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("state directory {path}: {cause}", path = path.display())]
    StateDir {
        path: std::path::PathBuf,
        cause: std::io::Error,
    },
    #[error("state directory {path} is in use by another agent; give each its own --state-dir", path = path.display())]
    InUse { path: std::path::PathBuf },
    #[error(transparent)]
    Ledger(#[from] crate::assignment::LedgerError),
    #[error("{0}")]
    Own(String),
    #[error("the system gives no {0}: {1}")]
    System(&'static str, std::io::Error),
}

/// Runs the agent until a signal.
pub fn start(settings: Settings) -> ExitCode {
    lifecycle::log::to_stderr(settings.log_format);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::System("threads", error))
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(settings));
            // A task that reads from a disk that hangs must not hold up the end.
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (StartError::InUse { .. } | StartError::StateDir { .. })) => {
            eprintln!("shardwright-agent: {error}");
            ExitCode::from(EXIT_BAD_CONFIGURATION)
        }
        Err(error) => {
            eprintln!("shardwright-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| StartError::System("signals", error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| StartError::System("signals", error))?;
    let _lock = prepare_state_dir(&settings)?;
    let workers = settings.state_dir.join("workers");
    // Its memory must be free again before the devices are asked what is free.
    let _ended = tokio::task::spawn_blocking(move || leftovers::end_all(&workers)).await;
    let ledger = Ledger::open(&settings.node, &settings.state_dir)?;
    let own = probe::own_executable().map_err(StartError::Own)?;

    let wires = Wires::new();
    let stop = CancellationToken::new();
    let life = async {
        let admin = tokio::spawn(serve_admin(
            settings.clone(),
            wires.sources(&settings),
            wires.credentials.subscribe(),
            stop.clone(),
        ));
        let devices = Arc::new(devices(&own, &settings).await);
        wires.devices.send_replace(Some(Arc::clone(&devices)));
        live(&settings, &wires, devices, ledger, stop.clone(), async {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("terminated; draining"),
                _ = interrupt.recv() => tracing::info!("interrupted; draining"),
            }
        })
        .await;
        stop.cancel();
        // What it served last does not matter any more.
        let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
    };
    life.await;
    Ok(())
}

/// What the parts tell each other.
struct Wires {
    devices: watch::Sender<Option<Arc<Vec<GpuDevice>>>>,
    credentials: watch::Sender<Option<identity::Credentials>>,
    view: watch::Sender<Arc<View>>,
    attached: watch::Sender<bool>,
    fetched: Counters,
}

impl Wires {
    fn new() -> Self {
        Self {
            devices: watch::Sender::new(None),
            credentials: watch::Sender::new(None),
            view: watch::Sender::new(Arc::default()),
            attached: watch::Sender::new(false),
            fetched: Counters::new(),
        }
    }

    fn sources(&self, settings: &Settings) -> admin::Sources {
        admin::Sources {
            node: settings.node.clone(),
            devices: self.devices.subscribe(),
            view: self.view.subscribe(),
            attached: self.attached.subscribe(),
            fetched: self.fetched.clone(),
        }
    }
}

/// Publishes, enrols, attaches and drives until `ended`; then drains.
async fn live(
    settings: &Settings,
    wires: &Wires,
    devices: Arc<Vec<GpuDevice>>,
    ledger: Ledger,
    stop: CancellationToken,
    ended: impl Future<Output = ()>,
) {
    let publishing = publish(settings, wires, &devices, &stop);
    tokio::pin!(ended);
    let keys = PlacementKeys::default();
    let enrolment = Arc::new(Enrolment::new(settings));
    let credentials = tokio::select! {
        credentials = enrolment.first(&keys) => credentials,
        () = &mut ended => {
            stop.cancel();
            return;
        }
    };
    wires.credentials.send_replace(Some(credentials.clone()));
    let (keeper, kept, kept_keys) = (Arc::clone(&enrolment), credentials.clone(), keys.clone());
    let token = stop.clone();
    let renewing = tokio::spawn(async move { token.run_until_cancelled(keeper.keep(&kept, &kept_keys)).await });

    let channel = watch::Sender::new(None);
    // Removes what an earlier life has left, which may be much.
    let models = Arc::new(tokio::task::block_in_place(|| {
        Models::open(
            settings.models.clone(),
            channel.subscribe(),
            Some(credentials.clone()),
            wires.fetched.clone(),
        )
    }));
    let weights_endpoint = serve_weights(settings, &credentials, &models, &stop).await;
    let leaves = OperatorLeaves {
        node: settings.node.clone(),
        credentials: credentials.clone(),
        keys: keys.clone(),
        channel: channel.subscribe(),
    };
    let (desired, unload) = (watch::Sender::new(Arc::default()), CancellationToken::new());
    let driving = tokio::spawn(drive::run(
        setting(settings, &devices),
        Arc::new(leaves),
        Arc::clone(&models),
        drive::Lines {
            desired: desired.subscribe(),
            view: wires.view.clone(),
            unload: unload.clone(),
        },
    ));
    let lines = control::Lines {
        desired,
        view: wires.view.subscribe(),
        channel,
        attached: wires.attached.clone(),
        models,
        weights_endpoint,
    };
    let leave = CancellationToken::new();
    let control = Control::new(settings.clone(), credentials, keys, enrolment, ledger, lines);
    let attached = tokio::spawn(control.run(leave.clone()));
    ended.await;
    drain(&unload, driving, &leave, attached).await;
    stop.cancel();
    // Cancelled just now.
    let _ = renewing.await;
    let _ = publishing.await;
}

/// Keeps the devices' objects and the node's Lease until `stop`.
fn publish(
    settings: &Settings,
    wires: &Wires,
    devices: &Arc<Vec<GpuDevice>>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let publisher = Publisher {
        node: settings.node.clone(),
        devices: Arc::clone(devices),
        view: wires.view.subscribe(),
    };
    let (node, pod, namespace) = (settings.node.clone(), settings.pod.clone(), settings.namespace.clone());
    let publishing = stop.clone().run_until_cancelled_owned(publisher.run());
    let token = stop.clone();
    let leasing = async move { token.run_until_cancelled(lease::keep(&node, &pod, &namespace)).await };
    tokio::spawn(async move {
        tokio::join!(publishing, leasing);
    })
}

/// Opens the port for other agents and tells where they find it; empty where it cannot be had, which costs nothing but
/// their reading from the source.
async fn serve_weights(
    settings: &Settings,
    credentials: &identity::Credentials,
    models: &Arc<Models>,
    stop: &CancellationToken,
) -> String {
    let listener = match serve::listen(settings.weights_listen, credentials).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(address = %settings.weights_listen, %error, "other agents cannot read this node's pieces");
            return String::new();
        }
    };
    let endpoint = std::net::SocketAddr::new(settings.advertise_ip, listener.local_addr().port()).to_string();
    let server = serve::Server::new(Arc::clone(models), settings.weights_bytes_per_second);
    let stop = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = server.run(listener, stop).await {
            tracing::warn!(%error, "other agents cannot read this node's pieces any more");
        }
    });
    endpoint
}

/// The stream stays while workers drain, so that the operator sees them drain; then the node leaves.
async fn drain(
    unload: &CancellationToken,
    mut driving: tokio::task::JoinHandle<()>,
    leave: &CancellationToken,
    attached: tokio::task::JoinHandle<()>,
) {
    unload.cancel();
    if tokio::time::timeout(DRAIN_LIMIT, &mut driving).await.is_err() {
        tracing::warn!("shards did not end within {} s; leaving them", DRAIN_LIMIT.as_secs());
        driving.abort();
    }
    leave.cancel();
    // The stream's end is heard by the operator in any case.
    let _ = tokio::time::timeout(LEAVE_LIMIT, attached).await;
}

fn setting(settings: &Settings, devices: &[GpuDevice]) -> drive::Setting {
    drive::Setting {
        node: settings.node.clone(),
        state_dir: settings.state_dir.clone(),
        worker: settings.worker.clone(),
        trust_domain: settings.trust_domain.clone(),
        listen_ip: settings.listen_ip,
        advertise_ip: settings.advertise_ip,
        threads: settings.threads,
        devices: report::indices(&settings.node, devices),
    }
}

/// The directories, for us alone, and the lock that keeps another agent out for as long as it is held.
fn prepare_state_dir(settings: &Settings) -> Result<File, StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |cause| StartError::StateDir {
        path: settings.state_dir.clone(),
        cause,
    };
    for directory in ["", "models", "workers", "run", "identity"] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(settings.state_dir.join(directory))
            .map_err(failed)?;
    }
    let lock = File::create(settings.state_dir.join("lock")).map_err(failed)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::InUse {
            path: settings.state_dir.clone(),
        }),
        Err(error) => Err(failed(error.into())),
    }
}

async fn devices(own: &std::path::Path, settings: &Settings) -> Vec<GpuDevice> {
    let answers = probe::ask(own, &settings.backends).await;
    for answer in &answers {
        if let Some(note) = &answer.note {
            tracing::info!(backend = answer.backend.name(), note, "no devices");
        }
    }
    let devices = merge::merge(&answers, settings.memory_limit_bytes);
    for device in &devices {
        tracing::info!(device = device.short_name(), model = device.model, kind = ?device.kind, verification = ?device.verification, "device");
    }
    devices
}

async fn serve_admin(
    settings: Settings,
    sources: admin::Sources,
    credentials: watch::Receiver<Option<identity::Credentials>>,
    stop: CancellationToken,
) {
    if let Err(error) = admin::serve(settings.admin_listen, sources, credentials, stop).await {
        tracing::error!(%error, "no health and metrics port");
    }
}
