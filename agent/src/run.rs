//! The life of an agent, in order: one per state directory, what an earlier life left is ended, devices, identity, stream;
//! and at a signal: drain, leave, end.

use crate::admin;
use crate::args::{EXIT_BAD_CONFIGURATION, Settings};
use crate::assignment::Ledger;
use crate::control::{self, Control};
use crate::devices::{self, Devices};
use crate::discovery::lease;
use crate::discovery::publish::Publisher;
use crate::enrolment::Enrolment;
use crate::groups;
use crate::kubernetes::Way;
use crate::leaves::{Ends, OperatorLeaves, PlacementKeys};
use crate::links::{self, gate::Gate};
use crate::models::{Counters, Models, serve};
use crate::neighbours::{self, Neighbours};
use crate::probe;
use crate::rates;
use crate::shard::drive::{self, View};
use crate::worker::leftovers::{self, Left};
use crate::worker::scrape::Scraper;
use std::fs::File;
use std::path::PathBuf;
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
    #[error(
        "state directory {path}: {cause}; the agent runs as user {user} and needs it for itself, with mode 0700",
        path = path.display(),
        user = rustix::process::geteuid().as_raw()
    )]
    StateDir { path: PathBuf, cause: std::io::Error },
    #[error("state directory {path} is in use by another agent; give each its own --state-dir", path = path.display())]
    InUse { path: PathBuf },
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
    let left = leftovers::living(&settings.state_dir.join("workers"));
    let ledger = Ledger::open(&settings.node, &settings.state_dir)?;
    let own = probe::own_executable().map_err(StartError::Own)?;

    let wires = Wires::new();
    let stop = CancellationToken::new();
    let life = async {
        let admin = tokio::spawn(serve_admin(settings.clone(), wires.sources(&settings), stop.clone()));
        let watching = watch_devices(&settings, own, &wires, &stop);
        let mut devices = wires.devices.subscribe();
        let ended = async {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("terminated; draining"),
                _ = interrupt.recv() => tracing::info!("interrupted; draining"),
            }
        };
        tokio::pin!(ended);
        // What is waited for is borrowed, and whoever writes it waits for the loan's end: not for as long as we live.
        let ready = async { devices.wait_for(|devices| devices.ready).await.is_ok() };
        tokio::select! {
            // Its sender is ours.
            _ = ready => {
                live(&settings, &wires, (ledger, left), stop.clone(), ended).await;
            }
            () = &mut ended => end_left(left).await,
        }
        stop.cancel();
        // What it served last does not matter any more.
        let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
        // Cancelled just now; its children end with it.
        let _ = watching.await;
    };
    life.await;
    Ok(())
}

/// What the parts tell each other, and their way to the API server.
struct Wires {
    way: Way,
    devices: watch::Sender<Arc<Devices>>,
    neighbours: watch::Sender<Option<Arc<Neighbours>>>,
    credentials: watch::Sender<Option<identity::Credentials>>,
    view: watch::Sender<Arc<View>>,
    attached: watch::Sender<bool>,
    fetched: Counters,
    links: watch::Sender<Arc<links::Seen>>,
    rates: watch::Sender<Arc<rates::ByDevice>>,
    groups: watch::Sender<groups::Told>,
    worker_ends: Ends,
}

impl Wires {
    fn new() -> Self {
        Self {
            way: Way::default(),
            devices: watch::Sender::new(Arc::default()),
            neighbours: watch::Sender::new(None),
            credentials: watch::Sender::new(None),
            view: watch::Sender::new(Arc::default()),
            attached: watch::Sender::new(false),
            fetched: Counters::new(),
            links: watch::Sender::new(Arc::default()),
            rates: watch::Sender::new(Arc::default()),
            groups: watch::Sender::new(None),
            worker_ends: Ends::default(),
        }
    }

    fn sources(&self, settings: &Settings) -> admin::Sources {
        admin::Sources {
            node: settings.node.clone(),
            devices: self.devices.subscribe(),
            view: self.view.subscribe(),
            attached: self.attached.subscribe(),
            workers: Arc::new(Scraper::new(settings.state_dir.clone())),
            fetched: self.fetched.clone(),
            links: self.links.subscribe(),
            dcgm_metrics: settings.dcgm_metrics,
            credentials: self.credentials.subscribe(),
            worker_ends: self.worker_ends.clone(),
        }
    }
}

/// Publishes, enrols, attaches and drives until `ended`; then drains.
async fn live(
    settings: &Settings,
    wires: &Wires,
    (ledger, left): (Ledger, Vec<Left>),
    stop: CancellationToken,
    ended: impl Future<Output = ()>,
) {
    let publishing = publish(settings, wires, &stop);
    tokio::pin!(ended);
    let keys = PlacementKeys::default();
    let enrolment = Arc::new(Enrolment::new(settings));
    let credentials = tokio::select! {
        credentials = enrolment.first(&keys) => credentials,
        () = &mut ended => {
            end_left(left).await;
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
    let gate = Arc::new(Gate::default());
    let weights_endpoint = serve_agents(settings, &credentials, &models, &gate, &stop).await;
    let peers = watch::Sender::new(None);
    let measuring = measure_links(settings, wires, &credentials, &gate, peers.subscribe(), &stop);
    let leaves = OperatorLeaves {
        node: settings.node.clone(),
        credentials: credentials.clone(),
        keys: keys.clone(),
        channel: channel.subscribe(),
        ends: wires.worker_ends.clone(),
        trust: enrolment.trust.clone(),
    };
    let (desired, unload) = (watch::Sender::new(Arc::default()), CancellationToken::new());
    let takes_over = !left.is_empty();
    let driving = tokio::spawn(drive::run(
        setting(settings, wires),
        Arc::new(leaves),
        Arc::clone(&models),
        drive::Lines {
            desired: desired.subscribe(),
            view: wires.view.clone(),
            unload: unload.clone(),
            left,
        },
    ));
    let (leaving, released) = (CancellationToken::new(), watch::Sender::new(true));
    let may_leave = released.subscribe();
    let lines = control::Lines {
        desired,
        view: wires.view.subscribe(),
        channel,
        attached: wires.attached.clone(),
        models,
        weights_endpoint,
        peers,
        takes_over,
        leaving: leaving.clone(),
        released,
    };
    let leave = CancellationToken::new();
    let control = Control::new(settings.clone(), credentials, keys, enrolment, ledger, lines);
    let attached = tokio::spawn(control.run(leave.clone()));
    ended.await;
    leaving.cancel();
    moved(settings, may_leave, wires.attached.subscribe()).await;
    drain(&unload, driving, &leave, attached).await;
    stop.cancel();
    // Cancelled just now.
    let _ = renewing.await;
    let _ = publishing.await;
    let _ = measuring.await;
}

/// Nobody will take them over.
async fn end_left(left: Vec<Left>) {
    // A task that panicked has ended what it could; the others end by themselves.
    let _ = tokio::task::spawn_blocking(move || leftovers::end(left)).await;
}

/// Keeps the devices' objects and the node's Lease until `stop`.
fn publish(settings: &Settings, wires: &Wires, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let publisher = Publisher {
        way: wires.way.clone(),
        node: settings.node.clone(),
        pod: settings.pod.clone(),
        devices: wires.devices.subscribe(),
        view: wires.view.subscribe(),
        rates: wires.rates.subscribe(),
    };
    let (node, pod, namespace) = (settings.node.clone(), settings.pod.clone(), settings.namespace.clone());
    let publishing = stop.clone().run_until_cancelled_owned(publisher.run());
    let rating = stop.clone().run_until_cancelled_owned(measure_steps(settings, wires));
    let (token, way, attached) = (stop.clone(), wires.way.clone(), wires.attached.subscribe());
    let leasing = async move {
        let renewing = lease::keep(&way, &node, (&pod, &namespace), attached);
        token.run_until_cancelled(renewing).await
    };
    tokio::spawn(async move {
        tokio::join!(publishing, leasing, rating);
    })
}

/// Measures how fast steps are on the node's devices, and on groups of them.
fn measure_steps(settings: &Settings, wires: &Wires) -> impl Future<Output = ()> + Send + use<> {
    let setting = rates::Setting {
        node: settings.node.clone(),
        worker: settings.worker.clone(),
        threads: settings.threads,
        state_dir: settings.state_dir.clone(),
        pause: rates::PAUSE,
    };
    let lines = rates::Lines {
        devices: wires.devices.subscribe(),
        view: wires.view.subscribe(),
        told: wires.rates.clone(),
        groups: wires.groups.clone(),
    };
    rates::run(setting, lines)
}

/// Measures the links to the nodes that the operator names and publishes them, until `stop`.
fn measure_links(
    settings: &Settings,
    wires: &Wires,
    credentials: &identity::Credentials,
    gate: &Arc<Gate>,
    peers: watch::Receiver<Option<Arc<links::Peers>>>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let setting = links::drive::Setting {
        node: settings.node.clone(),
        trust_domain: settings.trust_domain.clone(),
        advertise_ip: settings.advertise_ip,
        root: settings.sysfs_root.clone(),
    };
    let lines = links::drive::Lines {
        peers,
        seen: wires.links.clone(),
    };
    let publisher = links::publish::Publisher {
        way: wires.way.clone(),
        node: settings.node.clone(),
        pod: settings.pod.clone(),
        seen: wires.links.subscribe(),
        devices: wires.devices.subscribe(),
        groups: wires.groups.subscribe(),
        gate: Arc::clone(gate),
    };
    let measured = links::drive::run(setting, credentials.clone(), Arc::clone(gate), lines);
    let watched = links::load::watch(settings.state_dir.clone(), wires.view.subscribe(), Arc::clone(gate));
    let stop = stop.clone();
    tokio::spawn(async move {
        // Cancelled at the agent's end. Boxed: a round holds buffers of its stream.
        let all = Box::pin(async { tokio::join!(measured, watched, publisher.run()) });
        let _ = stop.run_until_cancelled_owned(all).await;
    })
}

/// Opens the port for other agents and tells where they find it; empty where it cannot be had, which costs nothing but
/// their reading from the source, and the links to this node.
async fn serve_agents(
    settings: &Settings,
    credentials: &identity::Credentials,
    models: &Arc<Models>,
    gate: &Arc<Gate>,
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
    let links = links::serve::Server::new(Arc::clone(gate));
    let stop = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = server.run(listener, Some(links), stop).await {
            tracing::warn!(%error, "other agents cannot read this node's pieces any more");
        }
    });
    endpoint
}

/// Waits until what the node serves is elsewhere, as long as there is an operator who sees to it.
async fn moved(settings: &Settings, mut released: watch::Receiver<bool>, mut attached: watch::Receiver<bool>) {
    let limit = settings.leave_within;
    tokio::select! {
        // Their senders live as long as the stream's task, which is ended after this.
        _ = released.wait_for(|released| *released) => {}
        _ = attached.wait_for(|attached| !*attached) => tracing::warn!("no operator could move what this node serves"),
        () = tokio::time::sleep(limit) => {
            tracing::warn!("what this node serves was not moved within {} s", limit.as_secs());
        }
    }
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

fn setting(settings: &Settings, wires: &Wires) -> drive::Setting {
    drive::Setting {
        node: settings.node.clone(),
        state_dir: settings.state_dir.clone(),
        worker: settings.worker.clone(),
        trust_domain: settings.trust_domain.clone(),
        listen_ip: settings.listen_ip,
        advertise_ip: settings.advertise_ip,
        threads: settings.threads,
        devices: wires.devices.subscribe(),
    }
}

/// The directories, for us alone, and the lock that keeps another agent out for as long as it is held.
fn prepare_state_dir(settings: &Settings) -> Result<File, StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |path: PathBuf| move |cause| StartError::StateDir { path, cause };
    let below = ["models", "workers", "run", "identity"].map(|name| settings.state_dir.join(name));
    for directory in std::iter::once(settings.state_dir.clone()).chain(below) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(failed(directory))?;
    }
    let path = settings.state_dir.join("lock");
    let lock = File::create(&path).map_err(failed(path.clone()))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::InUse {
            path: settings.state_dir.clone(),
        }),
        Err(error) => Err(failed(path)(error.into())),
    }
}

/// Finds and watches the devices, and who else holds them, until `stop`.
fn watch_devices(
    settings: &Settings,
    own: PathBuf,
    wires: &Wires,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let setting = devices::drive::Setting {
        node: settings.node.clone(),
        executable: own,
        backends: settings.backends.clone(),
        root: settings.sysfs_root.clone(),
        poll: settings.device_poll,
        memory_limit_bytes: settings.memory_limit_bytes,
        registry: settings.state_dir.join("devices.json"),
        patience: devices::watcher::Patience::default(),
        proof_ages: devices::decide::ProofAges::default(),
    };
    let lines = devices::drive::Lines {
        devices: wires.devices.clone(),
        view: wires.view.subscribe(),
        neighbours: wires.neighbours.subscribe(),
    };
    let neighbour_setting = neighbours::Setting {
        node: settings.node.clone(),
        pod: settings.pod.clone(),
        namespace: settings.namespace.clone(),
        socket: settings.neighbours.pod_resources_socket.clone(),
        sharing: settings.neighbours.device_sharing,
        root: settings.sysfs_root.clone(),
        workers: settings.state_dir.join("workers"),
    };
    let seen = watch::Sender::new(Arc::default());
    let (listed, told) = (seen.subscribe(), wires.neighbours.clone());
    let (devices, way) = (wires.devices.subscribe(), wires.way.clone());
    let all = async move {
        tokio::join!(
            devices::drive::run(setting, lines),
            devices::seen::tell(devices, seen),
            neighbours::watch(neighbour_setting, way, listed, told),
        );
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        // Cancelled at the agent's end.
        let _ = stop.run_until_cancelled_owned(all).await;
    })
}

async fn serve_admin(settings: Settings, sources: admin::Sources, stop: CancellationToken) {
    if let Err(error) = admin::serve(settings.admin_listen, sources, stop).await {
        tracing::error!(%error, "no health and metrics port");
    }
}
