//! Workers inside the test's process, each on a runtime of its own so that it can be killed as a whole.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use tokio::runtime::Runtime;
use worker::compute::Loader;
use worker::config::{WorkerConfig, validate};
use worker::memory::{Observation, observation};
use worker::run::{Exit, run_observed};

use super::agent::Agent;
use super::fake::Fake;
use super::gateway::Gateway;
use super::realm::Realm;
use super::{LIMIT, wait_for};

pub struct LocalWorker {
    runtime: Option<Runtime>,
    exit: Receiver<Exit>,
    pub agent: Agent,
}

impl LocalWorker {
    pub async fn start(config: WorkerConfig, loader: Loader) -> Self {
        let (_, unmeasured) = observation();
        Self::start_observed(config, loader, unmeasured).await
    }

    /// A worker whose memory somebody measures.
    pub async fn start_observed(config: WorkerConfig, loader: Loader, memory: Observation) -> Self {
        validate(&config).unwrap();
        let socket = config.control_socket.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (ended, exit) = channel();
        runtime.spawn(async move {
            let shutdown = std::future::pending();
            let exit = run_observed(Arc::new(config), loader, memory, shutdown).await.unwrap();
            let _ = ended.send(exit);
        });
        let agent = Agent::attach(&socket).await;
        Self {
            runtime: Some(runtime),
            exit,
            agent,
        }
    }

    /// As `kill -9`: connections break, nothing is said. Nobody answers any more when this returns.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread that may wait. What its tasks say at their end is of no matter.
            let _ = std::thread::spawn(move || runtime.shutdown_timeout(LIMIT)).join();
        }
    }

    pub async fn exited(&self) -> Exit {
        wait_for("the worker ends", || async { self.exit.try_recv().ok() }).await
    }
}

impl Drop for LocalWorker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pipeline of fakes, installed in one epoch.
pub struct Chain {
    pub realm: Realm,
    pub workers: Vec<LocalWorker>,
}

impl Chain {
    pub async fn start(realm: Realm) -> Self {
        Self::start_with(realm, |_, fake| fake).await
    }

    /// `prepare` may change the fake of each stage.
    pub async fn start_with(realm: Realm, mut prepare: impl FnMut(usize, Fake) -> Fake) -> Self {
        let mut workers = Vec::new();
        for (index, at) in realm.stages.iter().enumerate() {
            let fake = prepare(index, Fake::new(at.first_layer, at.end_layer));
            workers.push(LocalWorker::start(realm.config(index, ""), fake.loader()).await);
        }
        let chain = Self { realm, workers };
        chain.install(1).await;
        chain
    }

    pub async fn install(&self, epoch: u64) {
        let envelope = self.realm.envelope(epoch);
        self.install_envelope(&envelope).await;
    }

    /// From the tail to the head, as endpoints become known.
    pub async fn install_envelope(&self, envelope: &[u8]) {
        let mut next = None;
        for worker in self.workers.iter().rev() {
            worker.agent.install(envelope, next.as_deref()).await.unwrap();
            next = Some(worker.agent.endpoint().await);
        }
    }

    pub async fn endpoint(&self, stage: usize) -> String {
        self.workers[stage].agent.endpoint().await
    }

    /// A gateway, once the pipeline answers.
    pub async fn gateway(&self, epoch: u64) -> Gateway {
        let gateway = Gateway::dial(&self.realm, 0, &self.endpoint(0).await).await;
        gateway.ready(epoch).await;
        gateway
    }

    /// A worker that takes the place of one that was killed, at another endpoint.
    pub async fn replace(&mut self, stage: usize, incarnation: &str) {
        let at = &self.realm.stages[stage];
        let fake = Fake::new(at.first_layer, at.end_layer);
        let config = self.realm.config(stage, incarnation);
        self.workers[stage] = LocalWorker::start(config, fake.loader()).await;
    }
}

/// Fails the test when something takes longer than everything should.
pub async fn within_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}
