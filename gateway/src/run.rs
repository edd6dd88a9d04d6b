//! The gateway from start to end.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use identity::tls::{ALPN_HTTPS, GivenCertificate, self_signed, server_config_given, server_config_open};
use identity::{TlsListener, serve_https};
use rustls::ServerConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Readiness};
use crate::args::{Args, EXIT_BAD_CONFIGURATION, UserCertificate};
use crate::context::{Gateway, MAX_ANSWERS, MAX_PREPARING};
use crate::enrolment::{Enroller, Identified};
use crate::generate::Heads;
use crate::keys::ApiKeys;
use crate::metrics::Metrics;
use crate::occupancy::Occupancy;
use crate::openai;
use crate::routes::Table;
use crate::routes::watch::Control;
use crate::state_dir;
use crate::user_certificate;
use crate::vocabulary::{Source, Vocabularies};

/// How long answers in progress may take once the end was asked for. Below the 30 s that connections get, so
/// that what is cut off is told so, and below a pod's usual grace.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Why the gateway could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that was configured cannot be used; starting again will not help.
    #[error("{0}")]
    Config(String),
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

impl RunError {
    /// 64 for a matter of configuration.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(EXIT_BAD_CONFIGURATION),
            Self::System { .. } => ExitCode::FAILURE,
        }
    }

    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, error }
    }
}

/// Done when SIGTERM or SIGINT comes.
///
/// # Errors
/// When signals cannot be handled.
pub fn termination() -> Result<impl Future<Output = ()> + Send + 'static, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::system("SIGINT"))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Tasks that end with the gateway.
#[derive(Default)]
struct Background(Vec<JoinHandle<()>>);

impl Background {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// The ports that were bound.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// For users.
    pub user: SocketAddr,
    /// For probes and metrics.
    pub admin: SocketAddr,
}

/// Serves until `shutdown` is done, then lets answers in progress finish for at most 25 seconds.
/// `serving` is called once both ports answer.
///
/// # Errors
/// See [`RunError`]; an operator that is away is none: it is waited for.
pub async fn run(
    args: Args,
    shutdown: impl Future<Output = ()> + Send + 'static,
    serving: impl FnOnce(Addresses),
) -> Result<(), RunError> {
    tracing::info!(pod = args.pod_name, namespace = args.namespace, "starting");
    let stopping = CancellationToken::new();
    let mut background = Background::default();
    let signalled = stopping.clone();
    background.spawn(async move {
        shutdown.await;
        tracing::info!("stopping");
        signalled.cancel();
    });

    // 1. What needs nobody else.
    state_dir::prepare(&args.state_dir).await.map_err(|error| {
        let (path, user) = (args.state_dir.display(), rustix::process::geteuid().as_raw());
        RunError::Config(format!(
            "--state-dir {path}: {error}; the gateway runs as user {user} and has to write there"
        ))
    })?;
    let keys = ApiKeys::load(&args.api_keys)
        .await
        .map_err(|error| RunError::Config(format!("--api-keys {}: {error}", args.api_keys.display())))?;
    let metrics = Arc::new(Metrics::new().map_err(|error| RunError::Config(error.to_string()))?);
    let admin_port = bind(args.admin_listen)?;
    let given = args.user_certificate.as_ref().map(user_certificate::load).transpose();
    let given = given.map_err(RunError::Config)?;

    // 2. Who we are. Until then the admin port answers with a certificate of its own making.
    let enroller = Enroller {
        source: args.identity.clone(),
        directory: args.state_dir.join("identity"),
        pod_name: args.pod_name.clone(),
    };
    let Some(identified) = identify(&enroller, &admin_port, &metrics, &stopping).await? else {
        return Ok(());
    };

    // 3. What there is to serve.
    let (gateway, source, control, tables) = assemble(&args, keys, metrics, &identified).await;
    background.spawn(follow_tables(Arc::clone(&gateway), source));
    background.spawn(follow_operator(control, tables, Arc::clone(&gateway.metrics)));
    let followed = Arc::clone(&gateway);
    background.spawn(async move { followed.keys.follow().await });
    let metrics = Arc::clone(&gateway.metrics);
    background.spawn(follow_own(enroller, identified.clone(), Arc::clone(&metrics)));
    if let (Some(files), Some(given)) = (args.user_certificate.clone(), given.clone()) {
        background.spawn(follow_given(files, given, metrics));
    }
    background.spawn(cut_off_late(stopping.clone(), gateway.cut_off.clone()));

    // 4. The two ports, until the end.
    let own = server_config_open(&identified.credentials, ALPN_HTTPS);
    let admin_listener = listen(&admin_port, Arc::clone(&own))?;
    let user_tls = given.as_ref().map_or(own, server_config_given);
    let user_listener = TlsListener::bind(args.listen, user_tls)
        .await
        .map_err(RunError::system(format!("--listen {}", args.listen)))?;
    let addresses = Addresses {
        user: user_listener.local_addr(),
        admin: admin_listener.local_addr(),
    };
    serving(addresses);
    tracing::info!(?addresses, id = %identified.credentials.spiffe_id(), "serving");
    serve(gateway, user_listener, admin_listener, stopping).await;
    Ok(())
}

/// Serves both ports; ends when the last answer has ended after `stopping`.
async fn serve(
    gateway: Arc<Gateway>,
    user_listener: TlsListener,
    admin_listener: TlsListener,
    stopping: CancellationToken,
) {
    let admin_router = admin::router(Arc::clone(&gateway.metrics), readiness(&gateway, &stopping));
    let admin = tokio::spawn(serve_https(
        admin_listener,
        admin_router,
        gateway.cut_off.clone().cancelled_owned(),
    ));
    serve_https(
        user_listener,
        openai::router(Arc::clone(&gateway)),
        stopping.cancelled_owned(),
    )
    .await;
    gateway.cut_off.cancel();
    // Probes need no answer any more.
    admin.abort();
}

async fn follow_operator(control: Arc<Control>, tables: Tables, metrics: Arc<Metrics>) {
    control
        .follow(&tables, |connected| {
            metrics.operator_connected.set(i64::from(connected))
        })
        .await;
}

async fn follow_own(enroller: Enroller, identified: Identified, metrics: Arc<Metrics>) {
    let remaining = metrics.certificate_remaining.with_label_values(&["own"]);
    enroller.follow(&identified, |left_s| remaining.set(left_s)).await;
}

async fn follow_given(files: UserCertificate, given: GivenCertificate, metrics: Arc<Metrics>) {
    let remaining = metrics.certificate_remaining.with_label_values(&["users"]);
    user_certificate::follow(&files, &given, |left_s| remaining.set(left_s)).await;
}

/// The first identity; `None` when the end came first.
async fn identify(
    enroller: &Enroller,
    admin_port: &std::net::TcpListener,
    metrics: &Arc<Metrics>,
    stopping: &CancellationToken,
) -> Result<Option<Identified>, RunError> {
    let config = self_signed(&[]).map_err(|error| RunError::Config(error.to_string()))?;
    let listener = listen(admin_port, config)?;
    let readiness: Readiness = Arc::new(|| Some("not enrolled with the operator yet".to_owned()));
    let identified = CancellationToken::new();
    let _end = identified.clone().drop_guard();
    tokio::spawn(serve_https(
        listener,
        admin::router(Arc::clone(metrics), readiness),
        identified.cancelled_owned(),
    ));
    tokio::select! {
        first = enroller.first() => first.map(Some).map_err(|error| RunError::Config(format!("identity: {error}"))),
        () = stopping.cancelled() => Ok(None),
    }
}

type Tables = watch::Sender<Option<Arc<Table>>>;

async fn assemble(
    args: &Args,
    keys: ApiKeys,
    metrics: Arc<Metrics>,
    identified: &Identified,
) -> (Arc<Gateway>, Arc<Source>, Arc<Control>, Tables) {
    let control = Arc::new(Control {
        endpoint: args.operator_control.clone(),
        credentials: identified.credentials.clone(),
        verifier: Arc::clone(&identified.verifier),
        wishes: identified.wishes.clone(),
        state_dir: args.state_dir.clone(),
        channel: ArcSwapOption::empty(),
    });
    let restored = control.restore().await;
    let (tables, watched) = watch::channel(restored.map(Arc::new));
    let gateway = Arc::new(Gateway {
        keys,
        tables: watched,
        vocabularies: Vocabularies::default(),
        heads: Arc::new(Heads::new(identified.credentials.clone())),
        metrics: Arc::clone(&metrics),
        limits: args.limits,
        preparing: Arc::new(Semaphore::new(MAX_PREPARING)),
        answers: Arc::new(Semaphore::new(MAX_ANSWERS)),
        by_key: Occupancy::default(),
        by_model: Occupancy::default(),
        cut_off: CancellationToken::new(),
    });
    let source = Arc::new(Source {
        control: Arc::clone(&control),
        tokenizer: args.tokenizer.clone(),
        renderer: args.renderer.clone(),
        directory: args.state_dir.join("vocabularies"),
        metrics,
    });
    (gateway, source, control, tables)
}

/// Keeps vocabularies and connections in step with the routes.
async fn follow_tables(gateway: Arc<Gateway>, source: Arc<Source>) {
    let mut tables = gateway.tables.clone();
    loop {
        let table = tables.borrow_and_update().clone();
        if let Some(table) = table {
            gateway.vocabularies.follow(&table, &source);
            gateway.heads.follow(&table);
        }
        if tables.changed().await.is_err() {
            return;
        }
    }
}

fn readiness(gateway: &Arc<Gateway>, stopping: &CancellationToken) -> Readiness {
    let (gateway, stopping) = (Arc::clone(gateway), stopping.clone());
    Arc::new(move || {
        if stopping.is_cancelled() {
            return Some("stopping".to_owned());
        }
        gateway
            .table()
            .is_none()
            .then(|| "no routes from the operator yet".to_owned())
    })
}

async fn cut_off_late(stopping: CancellationToken, cut_off: CancellationToken) {
    stopping.cancelled().await;
    tokio::time::sleep(DRAIN_LIMIT).await;
    tracing::warn!(
        "answers did not finish within {} s and are cut off",
        DRAIN_LIMIT.as_secs()
    );
    cut_off.cancel();
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener, RunError> {
    let bound = std::net::TcpListener::bind(address).and_then(|port| port.set_nonblocking(true).map(|()| port));
    bound.map_err(RunError::system(format!("--admin-listen {address}")))
}

/// Another listener on the same port: what one leaves in the queue the next one takes.
fn listen(port: &std::net::TcpListener, config: Arc<ServerConfig>) -> Result<TlsListener, RunError> {
    let listener = port
        .try_clone()
        .and_then(tokio::net::TcpListener::from_std)
        .and_then(|port| TlsListener::from_tcp(port, config));
    listener.map_err(RunError::system("admin port"))
}
