//! What every part of the operator is given: names without a client, and the client beside them.

use std::sync::Arc;

use identity::{PlacementSigner, SubjectName};
use proto::control::v1::NOT_THE_LEADER;
use tokio::sync::watch;
use tonic::Status;

use crate::args::Settings;
use crate::authority::{Current, Holders};
use crate::clock::Wall;
use crate::metrics::Metrics;
use crate::model::gain::Threshold;
use crate::model::quarantine::Limit;

/// Names of this installation.
#[derive(Debug, Clone)]
pub struct Names {
    /// Namespace of the installation.
    pub namespace: String,
    /// This replica.
    pub pod_name: String,
    /// Trust domain of every SPIFFE id.
    pub trust_domain: String,
    /// Names in this replica's certificate.
    pub server_names: Vec<SubjectName>,
    /// Names in gateways' certificates.
    pub gateway_names: Vec<SubjectName>,
}

impl Names {
    /// The names among the settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            namespace: settings.namespace.clone(),
            pod_name: settings.pod_name.clone(),
            trust_domain: settings.trust_domain.clone(),
            server_names: settings.server_names.clone(),
            gateway_names: settings.gateway_names.clone(),
        }
    }
}

/// The keys that the operator alone holds.
#[derive(Clone)]
pub struct Keys {
    /// Issues identities.
    pub authority: Current,
    /// Signs placements.
    pub signer: Arc<PlacementSigner>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Names, client, keys and metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Context {
    /// Names of this installation.
    pub names: Arc<Names>,
    /// Answers of the Kubernetes API.
    pub client: ClientHandle,
    /// The operator's keys.
    pub keys: Keys,
    /// Who trusts whom, of those that are connected.
    pub holders: Arc<Holders>,
    /// What is worth moving a model that serves.
    pub threshold: Threshold,
    /// How many devices may be left within minutes.
    pub quarantine: Limit,
    /// What is counted.
    pub metrics: Metrics,
    /// What date it is.
    pub wall: Wall,
}

/// A `kube::Client` with a `Debug` that shows nothing.
#[derive(Clone)]
pub struct ClientHandle(pub kube::Client);

impl std::fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client(..)")
    }
}

/// Whether this replica leads.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Follows the elector.
    #[must_use]
    pub fn new(leading: watch::Receiver<bool>) -> Self {
        Self(leading)
    }

    /// Refuses callers of a replica that does not lead; they try another.
    pub fn require(&self) -> Result<(), Status> {
        if *self.0.borrow() {
            Ok(())
        } else {
            Err(not_the_leader())
        }
    }

    /// Waits until this replica leads, or for ever once the elector is gone.
    pub async fn begins(&mut self) {
        if self.0.wait_for(|leading| *leading).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until this replica leads no longer; at once when the elector is gone.
    pub async fn ends(&mut self) {
        // An elector that is gone renews nothing.
        let _ = self.0.wait_for(|leading| !*leading).await;
    }
}

/// The answer of a replica that does not lead.
#[must_use]
pub fn not_the_leader() -> Status {
    Status::unavailable(NOT_THE_LEADER)
}
