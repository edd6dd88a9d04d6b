//! Health, readiness and metrics over HTTPS.

use crate::devices::Devices;
use crate::links::Seen;
use crate::metrics;
use crate::models::Counters;
use crate::shard::drive::View;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use identity::{Credentials, SubjectName, TlsListener, serve_https, tls};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the answers are made of.
#[derive(Clone)]
pub struct Sources {
    /// Name of the node.
    pub node: String,
    /// Its devices.
    pub devices: watch::Receiver<Arc<Devices>>,
    /// What the shards do.
    pub view: watch::Receiver<Arc<View>>,
    /// Whether the stream to the operator stands.
    pub attached: watch::Receiver<bool>,
    /// What was fetched.
    pub fetched: Counters,
    /// The links.
    pub links: watch::Receiver<Arc<Seen>>,
    /// Whether metrics have NVIDIA's names, too.
    pub dcgm_metrics: bool,
}

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Most likely taken.
    #[error("--admin-listen {address}: {cause}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// No certificate.
    #[error("the admin port has no certificate: {0}")]
    Tls(#[from] tls::TlsError),
}

/// Serves under a certificate of its own until `credentials` has a value, and under the agent's leaf from then on.
///
/// # Errors
/// The port cannot be bound.
pub async fn serve(
    address: SocketAddr,
    sources: Sources,
    mut credentials: watch::Receiver<Option<Credentials>>,
    stop: CancellationToken,
) -> Result<(), AdminError> {
    let bind_failed = |cause| AdminError::Bind { address, cause };
    let router = router(sources);
    // One socket for both certificates: a second bind would race with the end of the first listener.
    let socket = std::net::TcpListener::bind(address).map_err(bind_failed)?;
    socket.set_nonblocking(true).map_err(bind_failed)?;
    let bound = socket.local_addr().map_err(bind_failed)?;
    tracing::info!(address = %bound, "health and metrics are served");
    let listener = |config| TlsListener::from_tcp(TcpListener::from_std(socket.try_clone()?)?, config);
    let config = tls::self_signed(&[SubjectName::Dns("localhost".to_owned())])?;
    let enrolled = async {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = credentials.wait_for(Option::is_some) => {}
        }
    };
    serve_https(listener(config).map_err(bind_failed)?, router.clone(), enrolled).await;
    let Some(leaf) = credentials.borrow().clone().filter(|_| !stop.is_cancelled()) else {
        return Ok(());
    };
    let config = tls::server_config_open(&leaf, tls::ALPN_HTTPS);
    serve_https(listener(config).map_err(bind_failed)?, router, stop.cancelled_owned()).await;
    Ok(())
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(sources)
}

/// Ready when the devices are known and the operator can reach the node.
async fn readyz(State(sources): State<Sources>) -> (StatusCode, &'static str) {
    if !sources.devices.borrow().ready {
        return (StatusCode::SERVICE_UNAVAILABLE, "devices are being probed\n");
    }
    if !*sources.attached.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not attached to the operator\n");
    }
    (StatusCode::OK, "ready\n")
}

async fn scrape(State(sources): State<Sources>) -> (StatusCode, String) {
    let devices = sources.devices.borrow().clone();
    let view = sources.view.borrow().clone();
    let attached = *sources.attached.borrow();
    let links = sources.links.borrow().clone();
    match metrics::text(
        &sources.node,
        &devices,
        &view,
        attached,
        &sources.fetched,
        &links,
        sources.dcgm_metrics,
    ) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a node tells, and the ends by which it changes.
    fn node() -> (Sources, watch::Sender<Arc<Devices>>, watch::Sender<bool>) {
        let devices = watch::Sender::new(Arc::new(Devices::default()));
        let attached = watch::Sender::new(false);
        let sources = Sources {
            node: "node-a".to_owned(),
            devices: devices.subscribe(),
            view: watch::Sender::new(Arc::default()).subscribe(),
            attached: attached.subscribe(),
            fetched: Counters::new(),
            links: watch::Sender::new(Arc::default()).subscribe(),
            dcgm_metrics: true,
        };
        (sources, devices, attached)
    }

    #[tokio::test]
    async fn a_node_is_ready_once_its_devices_are_known_and_the_operator_reaches_it() {
        let (sources, devices, attached) = node();
        let asked = || readyz(State(sources.clone()));
        let (status, text) = asked().await;
        assert_eq!(
            (status, text),
            (StatusCode::SERVICE_UNAVAILABLE, "devices are being probed\n")
        );
        devices.send_replace(Arc::new(Devices {
            ready: true,
            ..Devices::default()
        }));
        let (status, text) = asked().await;
        assert_eq!(
            (status, text),
            (StatusCode::SERVICE_UNAVAILABLE, "not attached to the operator\n")
        );
        attached.send_replace(true);
        assert_eq!(asked().await, (StatusCode::OK, "ready\n"));
    }

    #[tokio::test]
    async fn a_node_without_devices_has_metrics_all_the_same() {
        let (sources, _devices, attached) = node();
        attached.send_replace(true);
        let (status, text) = scrape(State(sources)).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("shardwright_agent_"), "{text}");
    }
}
