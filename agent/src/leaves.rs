//! Leaves for this node's workers: issued by the operator over the agent's own connection, kept in the worker's directory.

use crate::shard::observed::Fault;
use crate::trust::Trust;
use identity::{Credentials, Held, Identity, KeyPair, Role, SpiffeId};
use proto::control::v1::IssueWorkerLeafRequest;
use proto::control::v1::agent_control_client::AgentControlClient;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tonic::transport::Channel;

/// An operator that leads answers from memory and a signature.
const ISSUE_LIMIT: Duration = Duration::from_secs(5);
/// A leaf that was not looked at for so long is of a worker that is gone: those that run are looked at twice a minute.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// Where workers' identities come from.
pub trait WorkerLeaves: Send + Sync + 'static {
    /// Makes sure that `directory` holds a leaf for a worker of the model, good for a while, and the keys that sign
    /// placements.
    fn ensure(&self, model_uid: &str, directory: &Path) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Whom this node trusts: workers' leaves follow the agent's own.
    fn trust(&self) -> Trust {
        Trust::default()
    }
}

/// The keys that sign placements, as last told by the operator.
#[derive(Clone, Default)]
pub struct PlacementKeys(Arc<watch::Sender<Vec<Vec<u8>>>>);

impl PlacementKeys {
    /// Takes newly told keys.
    pub fn replace(&self, keys: Vec<Vec<u8>>) {
        self.0.send_if_modified(|held| {
            let changed = *held != keys;
            *held = keys;
            changed
        });
    }

    /// The keys.
    pub fn get(&self) -> Vec<Vec<u8>> {
        self.0.borrow().clone()
    }

    /// Wakes when they change.
    pub fn changes(&self) -> watch::Receiver<Vec<Vec<u8>>> {
        self.0.subscribe()
    }
}

/// When the leaves of the workers that run end.
#[derive(Clone, Default)]
pub struct Ends(Arc<Mutex<BTreeMap<PathBuf, (SystemTime, Instant)>>>);

impl Ends {
    fn note(&self, directory: &Path, end: SystemTime) {
        self.with(|ends| ends.insert(directory.to_owned(), (end, Instant::now())));
    }

    /// The first of them.
    pub fn first(&self) -> Option<SystemTime> {
        self.with(|ends| {
            ends.retain(|_, (_, looked)| looked.elapsed() < FORGET_AFTER);
            ends.values().map(|(end, _)| *end).min()
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<PathBuf, (SystemTime, Instant)>) -> T) -> T {
        // Single calls: nothing is left half done by a panic.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Leaves from the operator.
pub struct OperatorLeaves {
    /// The node in the workers' names.
    pub node: String,
    /// Our own identity: the workers trust whom we trust.
    pub credentials: Credentials,
    /// For the workers' verification of placements.
    pub keys: PlacementKeys,
    /// The connection to the operator, while there is one.
    pub channel: watch::Receiver<Option<Channel>>,
    /// Told when the leaf of each worker ends.
    pub ends: Ends,
    /// Told what the workers hold.
    pub trust: Trust,
}

impl WorkerLeaves for OperatorLeaves {
    fn trust(&self) -> Trust {
        self.trust.clone()
    }

    async fn ensure(&self, model_uid: &str, directory: &Path) -> Result<(), Fault> {
        let unwritable = |error: &dyn std::fmt::Display| {
            Fault::new(
                "Unwritable",
                format!(
                    "the worker's identity cannot be kept in {}: {error}",
                    directory.display()
                ),
            )
        };
        std::fs::create_dir_all(directory).map_err(|error| unwritable(&error))?;
        let keys = self.keys.get();
        if identity::sign::load_keys(directory).ok().as_ref() != Some(&keys) {
            identity::sign::store_keys(directory, &keys).map_err(|error| unwritable(&error))?;
        }
        let now = SystemTime::now();
        let held = self.held(model_uid, directory);
        let end = held.as_ref().and_then(|held| held.not_after().ok());
        if let Some(end) = end {
            self.ends.note(directory, end);
        }
        if held.is_some_and(|held| !held.needs_renewal(now)) {
            return Ok(());
        }
        match self.issue(model_uid).await {
            Ok(identity) => {
                identity.store(directory).map_err(|error| unwritable(&error))?;
                if let Ok(end) = identity.not_after() {
                    self.ends.note(directory, end);
                }
                Ok(())
            }
            // While the operator is away a leaf that still stands is as good as a new one.
            Err(fault) if end.is_some_and(|end| end > now) => {
                tracing::warn!(model_uid, message = fault.message, "the worker keeps its present leaf");
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }
}

impl OperatorLeaves {
    /// The leaf in the directory, if it is this worker's, of the authority that our own is of, and trusts whom we trust. It may have ended.
    fn held(&self, model_uid: &str, directory: &Path) -> Option<Identity> {
        let own = self.credentials.spiffe_id();
        let role = Role::Worker {
            node: self.node.clone(),
            model_uid: model_uid.to_owned(),
        };
        let wanted = SpiffeId {
            trust_domain: own.trust_domain,
            role,
        };
        let held = Identity::load(directory).ok()?;
        let sound = held.spiffe_id().ok()? == wanted
            && Held::of(&held).ok()? == Held::of(&self.credentials.identity()).ok()?
            && Credentials::new(held.clone()).is_ok();
        sound.then_some(held)
    }

    async fn issue(&self, model_uid: &str) -> Result<Identity, Fault> {
        let failed = |cause: String| {
            Fault::new(
                "NoIdentity",
                format!("the operator issued no leaf for the worker: {cause}"),
            )
        };
        let channel = self
            .channel
            .borrow()
            .clone()
            .ok_or_else(|| failed("it is not connected".to_owned()))?;
        let KeyPair { key_pem, csr_der } = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        let mut request = tonic::Request::new(IssueWorkerLeafRequest {
            csr_der,
            model_uid: model_uid.to_owned(),
        });
        request.set_timeout(ISSUE_LIMIT);
        let answer = AgentControlClient::new(channel)
            .issue_worker_leaf(request)
            .await
            .map_err(|status| failed(status.message().to_owned()))?;
        let leaf = answer
            .into_inner()
            .leaf
            .ok_or_else(|| failed("the answer has none".to_owned()))?;
        let identity = Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        };
        Credentials::new(identity.clone()).map_err(|error| failed(error.to_string()))?;
        Ok(identity)
    }
}
