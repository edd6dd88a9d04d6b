//! Health, readiness and metrics over HTTPS.

use crate::devices::Devices;
use crate::leaves::Ends;
use crate::links::Seen;
use crate::metrics;
use crate::models::Counters;
use crate::shard::drive::View;
use crate::worker::scrape::Scraper;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use identity::{Credentials, SubjectName, TlsListener, seconds_until, serve_https, tls};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
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
    /// What the workers count.
    pub workers: Arc<Scraper>,
    /// What was fetched.
    pub fetched: Counters,
    /// The links.
    pub links: watch::Receiver<Arc<Seen>>,
    /// Whether metrics have NVIDIA's names, too.
    pub dcgm_metrics: bool,
    /// Who the agent is, once it is enrolled.
    pub credentials: watch::Receiver<Option<Credentials>>,
    /// When its workers' leaves end.
    pub worker_ends: Ends,
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

/// Serves under a certificate of its own until the agent is enrolled, and under the agent's leaf from then on.
///
/// # Errors
/// The port cannot be bound.
pub async fn serve(address: SocketAddr, sources: Sources, stop: CancellationToken) -> Result<(), AdminError> {
    let bind_failed = |cause| AdminError::Bind { address, cause };
    let mut credentials = sources.credentials.clone();
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
        .route("/metrics", get(metrics_of_all))
        .with_state(sources)
}

/// Ready when the devices are known and the operator can reach the node.
async fn readyz(State(sources): State<Sources>) -> (StatusCode, String) {
    if !sources.devices.borrow().ready {
        return (StatusCode::SERVICE_UNAVAILABLE, "devices are being probed\n".to_owned());
    }
    if !*sources.attached.borrow() {
        let ended = sources.ended(SystemTime::now()).unwrap_or_default();
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not attached to the operator{ended}\n"),
        );
    }
    (StatusCode::OK, "ready\n".to_owned())
}

async fn metrics_of_all(State(sources): State<Sources>) -> (StatusCode, String) {
    let serving = sources.view.borrow().serving.clone();
    let workers = sources.workers.all(&serving).await;
    match sources.metrics(SystemTime::now()) {
        Ok(text) => (StatusCode::OK, text + &metrics::workers::text(&workers)),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

impl Sources {
    fn own_end(&self) -> Option<SystemTime> {
        self.credentials.borrow().as_ref().map(Credentials::not_after)
    }

    /// That the agent's certificate has ended, if it has.
    fn ended(&self, now: SystemTime) -> Option<String> {
        let remaining_s = seconds_until(self.own_end()?, now);
        (remaining_s < 0).then(|| {
            format!(
                ": the certificate ended {} s ago, and it is refused until the operator issues another one",
                -remaining_s
            )
        })
    }

    fn metrics(&self, now: SystemTime) -> Result<String, prometheus::Error> {
        let devices = self.devices.borrow().clone();
        let view = self.view.borrow().clone();
        let attached = *self.attached.borrow();
        let links = self.links.borrow().clone();
        let text = metrics::text(
            &self.node,
            &devices,
            &view,
            attached,
            &self.fetched,
            &links,
            self.dcgm_metrics,
        )?;
        let own = self.own_end().map(|end| ("own", end));
        let workers = self.worker_ends.first().map(|end| ("workers", end));
        let ends: Vec<(&str, SystemTime)> = own.into_iter().chain(workers).collect();
        Ok(text + &metrics::certificates(&ends, now)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::{Authority, Identity, KeyPair, Role, SpiffeId};
    use std::path::PathBuf;
    use std::time::Duration;

    /// What a node tells, and the ends by which it changes.
    struct Node {
        sources: Sources,
        devices: watch::Sender<Arc<Devices>>,
        attached: watch::Sender<bool>,
        credentials: watch::Sender<Option<Credentials>>,
    }

    fn node() -> Node {
        let devices = watch::Sender::new(Arc::new(Devices::default()));
        let attached = watch::Sender::new(false);
        let credentials = watch::Sender::new(None);
        let sources = Sources {
            node: "node-a".to_owned(),
            devices: devices.subscribe(),
            view: watch::Sender::new(Arc::default()).subscribe(),
            attached: attached.subscribe(),
            workers: Arc::new(Scraper::new(PathBuf::new())),
            fetched: Counters::new(),
            links: watch::Sender::new(Arc::default()).subscribe(),
            dcgm_metrics: true,
            credentials: credentials.subscribe(),
            worker_ends: Ends::default(),
        };
        Node {
            sources,
            devices,
            attached,
            credentials,
        }
    }

    fn ready() -> Arc<Devices> {
        Arc::new(Devices {
            ready: true,
            ..Devices::default()
        })
    }

    /// A certificate of an hour that was issued then.
    fn issued(at: SystemTime) -> Credentials {
        let authority = Authority::generate("shardwright", at).unwrap();
        let id = SpiffeId::new("shardwright", Role::Agent { node: "node-a".into() }).unwrap();
        let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
        let leaf = authority
            .issue(&csr_der, &id, &[], Duration::from_secs(3600), at)
            .unwrap();
        let identity = Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        };
        Credentials::new(identity).unwrap()
    }

    #[tokio::test]
    async fn a_node_is_ready_once_its_devices_are_known_and_the_operator_reaches_it() {
        let node = node();
        let asked = || readyz(State(node.sources.clone()));
        let unready = |text: &str| (StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
        assert_eq!(asked().await, unready("devices are being probed\n"));
        node.devices.send_replace(ready());
        assert_eq!(asked().await, unready("not attached to the operator\n"));
        node.attached.send_replace(true);
        assert_eq!(asked().await, (StatusCode::OK, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn a_node_whose_certificate_has_ended_says_so_and_for_how_long() {
        let (node, now) = (node(), SystemTime::now());
        node.devices.send_replace(ready());
        node.credentials.send_replace(Some(issued(now)));
        let (_, text) = readyz(State(node.sources.clone())).await;
        assert_eq!(text, "not attached to the operator\n");
        let earlier = now - Duration::from_secs(2 * 3600);
        node.credentials.send_replace(Some(issued(earlier)));
        let (status, text) = readyz(State(node.sources.clone())).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            text.contains("the certificate ended 36") && text.contains("until the operator issues another one"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_flag_and_what_the_system_says() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let refused = serve(address, node().sources, CancellationToken::new()).await;
        let told = refused.unwrap_err().to_string();
        assert!(
            told.starts_with(&format!("--admin-listen {address}: Address already in use")),
            "{told}"
        );
    }

    #[tokio::test]
    async fn a_node_without_devices_has_metrics_all_the_same() {
        let node = node();
        node.attached.send_replace(true);
        let (status, text) = metrics_of_all(State(node.sources)).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("shardwright_agent_"), "{text}");
    }

    #[test]
    fn what_is_left_of_each_certificate_is_a_metric_once_there_is_one() {
        let node = node();
        let text = node.sources.metrics(SystemTime::now()).unwrap();
        assert!(!text.contains("certificate"), "{text}");
        let end = {
            let credentials = issued(SystemTime::now());
            node.credentials.send_replace(Some(credentials.clone()));
            credentials.not_after()
        };
        for (at, told) in [
            (end - Duration::from_secs(60), "60"),
            (end + Duration::from_secs(7), "-7"),
        ] {
            let text = node.sources.metrics(at).unwrap();
            let line = format!("shardwright_agent_certificate_remaining_seconds{{certificate=\"own\"}} {told}\n");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }
}
