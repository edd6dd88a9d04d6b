//! The head's end of a pipeline, without the schedule that drives it.

use std::sync::Arc;

use identity::{Credentials, Identity, PlacementVerifier};
use tokio::sync::watch;
use worker::compute::Loader;
use worker::config::WorkerConfig;
use worker::head::pipeline::Pipeline;
use worker::metrics::Metrics;
use worker::placement::{Fence, Installed, Installer, decode_envelope};
use worker::stage::thread::{self, ComputeHandle};

use super::realm::{Realm, unix_s};

/// What a worker that is the head holds; a pipeline can be opened over it again and again.
pub struct Head {
    pub compute: ComputeHandle,
    credentials: Credentials,
    installed: Arc<Installed>,
    metrics: Metrics,
    _alive: watch::Receiver<()>,
}

impl Head {
    /// Loads the own stage. `next` is where the second one listens, if there is one.
    pub async fn start(realm: &Realm, config: WorkerConfig, loader: Loader, next: Option<String>) -> Self {
        let config = Arc::new(config);
        let credentials = Credentials::new(Identity::load(&config.identity_dir).unwrap()).unwrap();
        let verifier = PlacementVerifier::load(&config.identity_dir).unwrap();
        let fence = Fence::open(config.epoch_file()).unwrap();
        let mut installer = Installer::new(Arc::clone(&config), verifier, fence);
        let envelope = decode_envelope(&realm.envelope(1)).unwrap();
        installer.install(&envelope, next, unix_s()).unwrap();
        let installed = installer.watch().borrow().clone().unwrap();
        let (loading, alive) = thread::start(config.place(), loader).unwrap();
        Self {
            compute: loading.await.unwrap().unwrap(),
            credentials,
            installed,
            metrics: Metrics::new().unwrap(),
            _alive: alive,
        }
    }

    pub async fn open(&self) -> Result<Pipeline, String> {
        Pipeline::open(&self.compute, &self.credentials, &self.installed, self.metrics.clone()).await
    }
}
