//! From settings to a running operator, and to its end.

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use apiclient::pause::Pauses;
use identity::tls::{ALPN_GRPC, ALPN_HTTPS, server_config, server_config_open};
use identity::{Credentials, TlsListener, grpc_server, serve_https};
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::args::{EXIT_BAD_CONFIGURATION, Settings};
use crate::authority::{self, KeysError};
use crate::clock::Wall;
use crate::context::{ClientHandle, Context, Names};
use crate::enrolment;
use crate::lease::Elector;
use crate::metrics::Metrics;
use crate::replica::{self, Replica};

/// From the signal to the end: streams are told, a status write under way may finish, the lease is released.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(15);

/// Why the operator does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No API server is named, or its configuration cannot be used.
    #[error("no usable Kubernetes configuration: {0}; set KUBECONFIG, or run in a pod with a service account")]
    Configuration(String),
    /// A key cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Own certificate.
    #[error("cannot use the own certificate: {0}")]
    Certificate(#[from] identity::tls::TlsError),
    /// A port cannot be had.
    #[error("{flag}: cannot listen on {address}: {cause}")]
    Listen {
        /// Which one.
        flag: &'static str,
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The process cannot do what every process can.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A server ended by itself.
    #[error("the server of {0} ended")]
    ServerEnded(&'static str),
}

/// Runs until SIGTERM or SIGINT.
#[must_use]
pub fn start(settings: Settings) -> ExitCode {
    lifecycle::log::to_stderr(settings.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ StartError::Configuration(_)) => {
            tracing::error!("{error}");
            ExitCode::from(EXIT_BAD_CONFIGURATION)
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> Result<(), StartError> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pod = settings.pod_name,
        namespace = settings.namespace,
        "shardwright-operator starts"
    );
    let stop = stop_on_signals()?;
    let client = connect().await?;
    let names = Arc::new(Names::of(&settings));
    let metrics = Metrics::new();
    let Some(keys) = replica::keys(&client, &names, &metrics, &stop).await? else {
        return Ok(());
    };
    let wall = Wall::default();
    let credentials = Credentials::new(authority::own_identity(&keys, &names, wall.now())?)?;
    let (leading, leadership) = watch::channel(false);
    let context = Context {
        names: names.clone(),
        client: ClientHandle(client.clone()),
        keys: keys.clone(),
        holders: Arc::default(),
        threshold: settings.threshold,
        quarantine: settings.quarantine,
        metrics,
        wall,
    };
    let replica = Replica::new(context, settings.reservation.clone(), leadership, stop.clone());
    let mut servers = serve(&replica, &settings, &credentials, &stop).await?;
    let metrics = replica.context.metrics.clone();
    tokio::spawn(authority::renew(keys, names, credentials, metrics, stop.clone()));
    let leases = Api::namespaced(client, &settings.namespace);
    let mut elector = Elector::new(leases, settings.pod_name.clone(), settings.lease, wall);
    let health = replica.health.clone();
    health.ready(true);

    // A task of its own: the lease is renewed while the solver is at work.
    let mut controlling = JoinSet::new();
    controlling.spawn(async move { Box::pin(replica.control()).await });
    let ended = tokio::select! {
        ended = servers.join_next() => ended,
        ended = controlling.join_next() => ended.and_then(Result::err).map(Err),
        () = elector.run(&leading, &stop) => None,
    };
    health.ready(false);
    let failed = match ended {
        Some(Ok(name)) if !stop.is_cancelled() => Some(StartError::ServerEnded(name)),
        Some(Err(error)) => Some(StartError::System(io::Error::other(error))),
        _ => None,
    };
    stop.cancel();
    leading.send_replace(false);
    shut_down(&mut elector, controlling, servers).await;
    failed.map_or(Ok(()), Err)
}

async fn shut_down(elector: &mut Elector, mut controlling: JoinSet<()>, mut servers: JoinSet<&'static str>) {
    let drained = tokio::time::timeout(SHUTDOWN_LIMIT, async {
        // Whoever takes the lease next may act at once.
        while controlling.join_next().await.is_some() {}
        if let Err(error) = elector.release().await {
            tracing::warn!(%error, "cannot release the lease; it lapses by itself");
        }
        while servers.join_next().await.is_some() {}
    });
    match drained.await {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!("some connections did not end within {SHUTDOWN_LIMIT:?} and are cut off"),
    }
}

fn stop_on_signals() -> Result<CancellationToken, StartError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        told.cancel();
    });
    Ok(stop)
}

async fn connect() -> Result<Client, StartError> {
    let unusable = |error: &dyn std::fmt::Display| StartError::Configuration(error.to_string());
    let config = kube::Config::infer().await.map_err(|error| unusable(&error))?;
    tracing::info!(server = %config.cluster_url, "Kubernetes API");
    let user_agent = concat!("shardwright-operator/", env!("CARGO_PKG_VERSION"));
    apiclient::client(config, user_agent, &Pauses::default()).map_err(|error| unusable(&error))
}

/// Binds all ports before any is served, so that a port in use is an error at the start.
async fn serve(
    replica: &Replica,
    settings: &Settings,
    credentials: &Credentials,
    stop: &CancellationToken,
) -> Result<JoinSet<&'static str>, StartError> {
    let open = |flag, address, config| async move {
        let bound = TlsListener::bind(address, config).await;
        bound.map_err(|cause| StartError::Listen { flag, address, cause })
    };
    let enrol = open(
        "--enrol-listen",
        settings.enrol_listen,
        server_config_open(credentials, ALPN_GRPC),
    )
    .await?;
    let control = open("--control-listen", settings.control_listen, server_config(credentials)).await?;
    let admin = open(
        "--admin-listen",
        settings.admin_listen,
        server_config_open(credentials, ALPN_HTTPS),
    )
    .await?;
    tracing::info!(
        enrolment = %enrol.local_addr(),
        control = %control.local_addr(),
        admin = %admin.local_addr(),
        "listening"
    );
    let mut servers = JoinSet::new();
    let stopped = stop.clone().cancelled_owned();
    let server = enrolment::server()
        .add_service(replica.enrolment().into_server())
        .serve_with_incoming_shutdown(enrol.incoming(), stopped);
    servers.spawn(named("enrolment", server));
    let stopped = stop.clone().cancelled_owned();
    let server = grpc_server()
        .add_service(replica.control_service().into_server())
        .add_service(replica.routes_service().into_server())
        .add_service(replica.trust_service().into_server());
    servers.spawn(named(
        "control",
        server.serve_with_incoming_shutdown(control.incoming(), stopped),
    ));
    let router = admin::router(replica.health.clone(), replica.context.metrics.clone());
    let stopped = stop.clone().cancelled_owned();
    servers.spawn(async move {
        serve_https(admin, router, stopped).await;
        "admin"
    });
    Ok(servers)
}

async fn named<E: std::fmt::Display>(name: &'static str, server: impl Future<Output = Result<(), E>>) -> &'static str {
    if let Err(error) = server.await {
        tracing::error!(%error, server = name, "a server failed");
    }
    name
}

#[cfg(test)]
mod tests;
