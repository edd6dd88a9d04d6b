//! A stage without the worker around it: the head's end of a pipeline without the schedule that drives it, or a later stage.

use std::sync::Arc;

use identity::{Credentials, Identity, PlacementVerifier, TlsListener, grpc_server, tls};
use proto::shard::v1::stage_server::{Stage, StageServer};
use tokio::sync::watch;
use worker::awake::Awake;
use worker::compute::Loader;
use worker::config::{self, WorkerConfig};
use worker::head::pipeline::Pipeline;
use worker::metrics::Metrics;
use worker::placement::{Fence, Installed, Installer, decode_envelope};
use worker::stage::carry::CarryService;
use worker::stage::link::Deadlines;
use worker::stage::thread::{self, ComputeHandle};

use super::realm::{Realm, unix_s};

/// What a worker holds; as the head it opens a pipeline again and again.
pub struct Head {
    pub compute: ComputeHandle,
    credentials: Credentials,
    installer: Installer,
    installed: Arc<Installed>,
    metrics: Metrics,
    _alive: watch::Receiver<()>,
}

impl Head {
    /// Loads the own stage. `next` is where the one after it listens, if there is one.
    pub async fn start(realm: &Realm, config: WorkerConfig, loader: Loader, next: Option<String>) -> Self {
        Self::start_within(realm, config, loader, next, Deadlines::default()).await
    }

    /// As `start`, waiting no longer for other stages than that.
    pub async fn start_within(
        realm: &Realm,
        config: WorkerConfig,
        loader: Loader,
        next: Option<String>,
        deadlines: Deadlines,
    ) -> Self {
        let config = Arc::new(config);
        let credentials = Credentials::new(Identity::load(&config.identity_dir).unwrap()).unwrap();
        let verifier = PlacementVerifier::load(&config.identity_dir).unwrap();
        let fence = Fence::open(config.epoch_file()).unwrap();
        let mut installer = Installer::new(Arc::clone(&config), verifier, fence);
        let envelope = decode_envelope(&realm.envelope(1)).unwrap();
        installer.install(&envelope, next, unix_s()).unwrap();
        let installed = installer.watch().borrow().clone().unwrap();
        let mut place = config::place(&config);
        place.deadlines = deadlines;
        let (loading, alive) = thread::start(place, loader, Awake::for_stage(&config)).unwrap();
        Self {
            compute: loading.await.unwrap().unwrap(),
            credentials,
            installer,
            installed,
            metrics: Metrics::new().unwrap(),
            _alive: alive,
        }
    }

    pub async fn open(&self) -> Result<Pipeline, String> {
        Pipeline::open(&self.compute, &self.credentials, &self.installed, self.metrics.clone()).await
    }

    /// Serves the stage before it for as long as the test lasts; where it listens.
    pub async fn serve(&self) -> String {
        let carry = CarryService::new(
            self.compute.clone(),
            self.credentials.clone(),
            self.installer.watch(),
            self.metrics.clone(),
        );
        serve(&self.credentials, carry).await
    }
}

/// Serves a stage as whoever that is for as long as the test lasts; where it listens.
pub async fn serve(credentials: &Credentials, stage: impl Stage) -> String {
    let listener = TlsListener::bind("127.0.0.1:0", tls::server_config(credentials))
        .await
        .unwrap();
    let endpoint = listener.local_addr().to_string();
    let server = grpc_server().add_service(StageServer::new(stage));
    tokio::spawn(server.serve_with_incoming(listener.incoming()));
    endpoint
}
