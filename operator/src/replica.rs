//! One replica without its ports: what it knows, and what it does while it leads.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::Health;
use crate::agents::{Agents, ControlService};
use crate::authority::{self, KeysError};
use crate::context::{Context, Keys, Leadership, Names};
use crate::enrolment::EnrolmentService;
use crate::metrics::Metrics;
use crate::model;
use crate::reservation;
use crate::retry;
use crate::routes::{Routes, RoutesService, TrustService};
use lifecycle::backoff::Backoff;

/// Everything that serves, and the way to end it.
#[derive(Debug)]
pub struct Replica {
    /// Names, client, keys and metrics.
    pub context: Context,
    /// The agents.
    pub agents: Arc<Agents>,
    /// The gateways.
    pub routes: Arc<Routes>,
    /// What the probes are told.
    pub health: Arc<Health>,
    leadership: Leadership,
    reservation: reservation::Settings,
    stop: CancellationToken,
}

impl Replica {
    /// One that nobody is attached to. It leads while `leading` says so, until `stop`.
    #[must_use]
    pub fn new(
        context: Context,
        reservation: reservation::Settings,
        leading: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            context,
            agents: Arc::default(),
            routes: Arc::default(),
            health: Arc::default(),
            leadership: Leadership::new(leading),
            reservation,
            stop,
        }
    }

    /// What new processes enrol at.
    #[must_use]
    pub fn enrolment(&self) -> EnrolmentService {
        EnrolmentService::new(self.context.clone(), self.leadership.clone())
    }

    /// What agents attach to.
    #[must_use]
    pub fn control_service(&self) -> ControlService {
        let (context, leadership) = (self.context.clone(), self.leadership.clone());
        ControlService::new(context, leadership, self.agents.clone(), self.stop.clone())
    }

    /// What gateways attach to.
    #[must_use]
    pub fn routes_service(&self) -> RoutesService {
        let (context, leadership) = (self.context.clone(), self.leadership.clone());
        RoutesService::new(context, leadership, self.routes.clone(), self.stop.clone())
    }

    /// Where gateways say whom they trust.
    #[must_use]
    pub fn trust_service(&self) -> TrustService {
        TrustService::new(self.context.clone(), self.leadership.clone(), self.stop.clone())
    }

    /// Runs the control loop for as long as this replica leads, again and again, and follows the authority, until told to stop.
    pub async fn control(&self) {
        tokio::select! {
            () = self.lead() => {}
            () = authority::follow(&self.context, self.leadership.clone()) => {}
        }
    }

    async fn lead(&self) {
        let Self {
            context,
            agents,
            routes,
            health,
            reservation,
            stop,
            ..
        } = self;
        let mut leadership = self.leadership.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = leadership.begins() => {}
            }
            context.metrics.leader.set(1);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = leadership.ends() => {}
                () = model::lead(context, agents, routes, health) => {}
                () = reservation::lead(context, reservation) => {}
            }
            context.metrics.leader.set(0);
            // The next leader counts what is held.
            context.metrics.devices_held.set(0);
            context.metrics.agents_unheard.set(0);
            health.beat(None);
            agents.clear();
            routes.clear();
        }
    }
}

/// The installation's keys; tries on while the API server cannot be reached, `None` when told to stop.
///
/// # Errors
/// A key that is there cannot be used.
pub async fn keys(
    client: &Client,
    names: &Names,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<Option<Keys>, KeysError> {
    let mut backoff = Backoff::new(retry::API);
    loop {
        let made = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            made = authority::bootstrap(client, names) => made,
        };
        match made {
            Ok(keys) => return Ok(Some(keys)),
            Err(KeysError::Call(error)) => {
                metrics.errors.with_label_values(&[error.category()]).inc();
                let wait = backoff.failed();
                tracing::error!(%error, ?wait, "cannot read or make the installation's keys; trying again");
                tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    () = tokio::time::sleep(wait) => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
}
