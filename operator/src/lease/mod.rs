//! Which replica leads: a `coordination.k8s.io` Lease, taken and renewed with optimistic concurrency.
//!
//! ```text
//! get Lease ─▶ decide (pure) ─▶ create / replace ─▶ leading: true until two thirds of the lease passed unrenewed
//! ```
//!
//! Only the leader serves enrolment, agents and gateways and runs the control loop; the others wait, ready to take over.

pub mod decide;

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Wall};
use crate::error::{CallError, call};
use decide::{Move, Record, Sighting, acts_until, decide, renewed_at};

/// The Lease that operators compete for.
pub const LEASE_NAME: &str = crds::names::LEADER_LEASE;
/// Longest pause between two looks at the lease: bounds how late its release is noticed.
const POLL_MAX: Duration = Duration::from_secs(2);
/// Shortest one.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// What became of one look at the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Ours, written just now.
    Held,
    /// Another's.
    Other,
    /// Somebody wrote at the same time: look again.
    Contended,
}

/// Takes part in the election under one name.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    me: String,
    lease: Duration,
    wall: Wall,
    seen: Option<Sighting>,
    current: Option<Lease>,
    /// `current` is ours as far as we know: it was written by us, and nobody has been seen to write it since.
    holds: bool,
    /// The highest version of the lease that was seen.
    version: u64,
    /// The lease was seen in a lower version than before, and nobody was told yet.
    went_back: bool,
}

impl Elector {
    /// A candidate that has not looked yet.
    #[must_use]
    pub fn new(api: Api<Lease>, me: String, lease: Duration, wall: Wall) -> Self {
        Self {
            api,
            me,
            lease,
            wall,
            seen: None,
            current: None,
            holds: false,
            version: 0,
            went_back: false,
        }
    }

    /// Takes part until `stop`, telling `leading` of every change. Does not release: see [`Elector::release`].
    pub async fn run(&mut self, leading: &watch::Sender<bool>, stop: &CancellationToken) {
        let mut renewed: Option<Instant> = None;
        let mut told_waiting = false;
        loop {
            let began = clock::now();
            let deadline = renewed.map(|at| acts_until(at, self.lease));
            let limit = deadline.map_or(self.lease / 3, |at| at.saturating_duration_since(began));
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = tokio::time::timeout(limit, self.look()) => outcome,
            };
            match outcome {
                Ok(Ok(Outcome::Held)) => {
                    told_waiting = false;
                    if renewed.replace(began).is_none() {
                        tracing::info!(lease = LEASE_NAME, me = %self.me, "leading");
                        leading.send_replace(true);
                    }
                }
                Ok(Ok(Outcome::Other)) => {
                    if !told_waiting {
                        told_waiting = true;
                        tracing::info!(lease = LEASE_NAME, holder = %self.holder(), "another replica leads; waiting");
                    }
                    if renewed.take().is_some() {
                        tracing::warn!(lease = LEASE_NAME, holder = %self.holder(), "another holds the lease: no longer leading");
                        leading.send_replace(false);
                    }
                }
                Ok(Ok(Outcome::Contended)) => {}
                Ok(Err(ref error)) => tracing::warn!(%error, "cannot look at the lease; trying again"),
                Err(_) => tracing::warn!(
                    lease = LEASE_NAME,
                    "the Kubernetes API was silent about the lease; trying again"
                ),
            }
            if renewed.is_some_and(|at| clock::now() >= acts_until(at, self.lease)) {
                renewed = None;
                tracing::error!(
                    lease = LEASE_NAME,
                    "could not renew the lease in time: no longer leading"
                );
                leading.send_replace(false);
            }
            if std::mem::take(&mut self.went_back) && renewed.take().is_some() {
                tracing::error!(
                    lease = LEASE_NAME,
                    "the API server's objects are older than they were, as after the restore of a snapshot of etcd: everything is read anew"
                );
                leading.send_replace(false);
            }
            let well = matches!(outcome, Ok(Ok(Outcome::Held)));
            let pause = self.pause(renewed.is_some(), well, clock::now().saturating_duration_since(began));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Gives the lease back, if it is ours, so that another replica need not wait for it to lapse.
    pub async fn release(&mut self) -> Result<(), CallError> {
        self.observe().await?;
        let Some(mut lease) = self.current.clone().filter(|_| self.holder() == self.me) else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.replace(lease).await?;
        tracing::info!(lease = LEASE_NAME, "lease released");
        Ok(())
    }

    /// `took`: how long the last look took. A renewal counts from its begin, and so does the time to the next one: where the API
    /// server takes seconds for an answer, there is time enough for it.
    fn pause(&self, leading: bool, well: bool, took: Duration) -> Duration {
        let longest = if leading && well {
            (self.lease / 3).saturating_sub(took)
        } else {
            (self.lease / 6).min(POLL_MAX)
        };
        match decide(&self.me, self.seen.as_ref(), clock::now()) {
            Move::Wait(left) => left.min(longest).max(PAUSE_MIN),
            _ => longest.max(PAUSE_MIN),
        }
    }

    fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |seen| &seen.record.holder)
    }

    /// One request to renew what is ours, and two to take it: that nobody else has written it is what the API server finds out.
    async fn look(&mut self) -> Result<Outcome, CallError> {
        if !std::mem::take(&mut self.holds) {
            self.observe().await?;
        }
        let written = match decide(&self.me, self.seen.as_ref(), clock::now()) {
            Move::Wait(_) => return Ok(Outcome::Other),
            Move::Create => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(LEASE_NAME.to_owned()),
                        ..Default::default()
                    },
                    spec: Some(self.claim(None)),
                };
                let params = PostParams::default();
                call(format!("create Lease {LEASE_NAME}"), self.api.create(&params, &lease)).await
            }
            Move::Take | Move::Renew => {
                let mut lease = self.current.clone().unwrap_or_default();
                lease.spec = Some(self.claim(lease.spec.as_ref()));
                self.replace(lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.remember(lease);
                self.holds = true;
                Ok(Outcome::Held)
            }
            Err(error) if error.is_conflict() => Ok(Outcome::Contended),
            Err(error) => Err(error),
        }
    }

    async fn observe(&mut self) -> Result<(), CallError> {
        match call(format!("get Lease {LEASE_NAME}"), self.api.get_opt(LEASE_NAME)).await? {
            Some(lease) => self.remember(lease),
            None => (self.seen, self.current) = (None, None),
        }
        Ok(())
    }

    fn remember(&mut self, lease: Lease) {
        let spec = lease.spec.clone().unwrap_or_default();
        let record = Record {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(1)).unwrap_or(1)),
            renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
        };
        // Versions only grow, but where the store behind the API server is set back. Watches that stand then tell nothing until its
        // versions have reached theirs, so that whoever leads has to begin again.
        let version = lease.metadata.resource_version.as_deref();
        if let Some(version) = version.and_then(|version| version.parse::<u64>().ok()) {
            self.went_back |= version < self.version;
            self.version = version;
        }
        self.seen = Some(Sighting::update(self.seen.as_ref(), record, clock::now()));
        self.current = Some(lease);
    }

    fn claim(&self, previous: Option<&LeaseSpec>) -> LeaseSpec {
        let ours = previous.filter(|spec| spec.holder_identity.as_deref() == Some(&self.me));
        let before = ours.and_then(|spec| spec.renew_time.as_ref()).map(|at| at.0);
        let now = MicroTime(renewed_at(self.wall.timestamp(), before));
        let mut spec = previous.cloned().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.me.clone());
        spec.lease_duration_seconds = i32::try_from(self.lease.as_secs()).ok();
        spec.renew_time = Some(now);
        spec
    }

    /// Refused by the API where the lease changed since it was read: `lease` carries its resourceVersion.
    async fn replace(&self, lease: Lease) -> Result<Lease, CallError> {
        let params = PostParams::default();
        call(
            format!("replace Lease {LEASE_NAME}"),
            self.api.replace(LEASE_NAME, &params, &lease),
        )
        .await
    }
}

#[cfg(test)]
mod tests;
