//! Who this agent is: an identity kept on disk, got by enrolment and renewed from half of its life, and when others are to be trusted.

use crate::args::Settings;
use crate::leaves::PlacementKeys;
use crate::retry;
use crate::trust::Trust;
use identity::{
    Credentials, EnrolOptions, Identity, PlacementVerifier, Role, SpiffeId, enrol, seconds_until, sign, store, trust,
};
use lifecycle::backoff::Backoff;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// A bundle of a few certificates.
const BUNDLE_BYTES_MAX: usize = 256 * 1024;
/// How often it is looked whether the leaf is half way through or the mounted bundle has changed, at least.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Where to enrol, and where the identity is kept.
pub struct Enrolment {
    endpoint: String,
    trust_bundle: PathBuf,
    token: PathBuf,
    directory: PathBuf,
    expected: SpiffeId,
    /// Told when the operator does not accept our identity.
    pub doubt: Notify,
    /// Whom the operator wants this node to trust.
    pub trust: Trust,
}

impl Enrolment {
    /// For these settings.
    pub fn new(settings: &Settings) -> Self {
        let role = Role::Agent {
            node: settings.node.clone(),
        };
        Self {
            endpoint: settings.operator_enrol.clone(),
            trust_bundle: settings.trust_bundle.clone(),
            token: settings.token.clone(),
            directory: settings.state_dir.join("identity"),
            expected: SpiffeId {
                trust_domain: settings.trust_domain.clone(),
                role,
            },
            doubt: Notify::new(),
            trust: Trust::default(),
        }
    }

    /// The identity of an earlier life, else a new one; tries until there is one. One that has ended is taken, too, and renewed at once:
    /// others refuse it, and what workers of that life serve among themselves goes on.
    pub async fn first(&self, keys: &PlacementKeys) -> Credentials {
        match self.held() {
            Some((credentials, held_keys)) => {
                let remaining_s = seconds_until(credentials.not_after(), SystemTime::now());
                tracing::info!(id = %credentials.spiffe_id(), remaining_s, "identity taken from disk");
                if remaining_s <= 0 {
                    self.doubt.notify_one();
                }
                keys.replace(held_keys);
                credentials
            }
            None => {
                let mut backoff = Backoff::new(retry::OPERATOR);
                loop {
                    match self
                        .enrol(keys, None)
                        .await
                        .and_then(|identity| Credentials::new(identity).map_err(|error| error.to_string()))
                    {
                        Ok(credentials) => return credentials,
                        Err(message) => {
                            let wait = backoff.failed();
                            tracing::warn!(message, wait_ms = wait.as_millis() as u64, "not enrolled yet");
                            tokio::time::sleep(wait).await;
                        }
                    }
                }
            }
        }
    }

    /// Renews for as long as it is polled.
    pub async fn keep(&self, credentials: &Credentials, keys: &PlacementKeys) {
        let (mut backoff, wishes) = (Backoff::new(retry::OPERATOR), &self.trust.wishes);
        let mut wished = wishes.changes();
        // The operator may have been heard already.
        wished.mark_changed();
        loop {
            let look = credentials.identity().next_look(SystemTime::now(), CHECK_EVERY);
            let doubted = tokio::select! {
                () = tokio::time::sleep(look) => false,
                () = self.doubt.notified() => true,
                Ok(()) = wished.changed() => {
                    // All nodes hear of it at the same moment.
                    wishes.turn(&credentials.identity()).await;
                    false
                }
            };
            let identity = credentials.identity();
            if !doubted && !identity.needs_renewal(SystemTime::now()) && !self.differs(&identity) {
                continue;
            }
            let renewed = self.enrol(keys, Some(&identity)).await;
            match renewed.and_then(|identity| credentials.replace(identity).map_err(|error| error.to_string())) {
                Ok(()) => {
                    backoff.succeeded();
                    wishes.renewed();
                    // Where the clocks differ by half a day, every new one is due at once.
                    if credentials.identity().needs_renewal(SystemTime::now()) {
                        tokio::time::sleep(CHECK_EVERY).await;
                    }
                }
                Err(message) => {
                    let wait = backoff.failed();
                    let remaining_s = seconds_until(credentials.not_after(), SystemTime::now());
                    tracing::warn!(
                        message,
                        remaining_s,
                        "the identity is not renewed; the present one is kept, and others refuse it once it has ended"
                    );
                    tokio::time::sleep(wait).await;
                    self.doubt.notify_one();
                }
            }
        }
    }

    async fn enrol(&self, keys: &PlacementKeys, present: Option<&Identity>) -> Result<Identity, String> {
        let bundle_pem = self.trust.wishes.roots(read(&self.trust_bundle)?, present);
        let options = EnrolOptions {
            endpoint: self.endpoint.clone(),
            bundle_pem,
            token_path: self.token.clone(),
            role: proto::control::v1::Role::Agent,
        };
        let (identity, placement_keys) = enrol(options).await.map_err(|error| error.to_string())?;
        self.take(identity, placement_keys, keys)
    }

    /// Takes what the operator issued into use. A disk that does not take it must not end a node that could serve on with it.
    fn take(&self, identity: Identity, placement_keys: Vec<Vec<u8>>, keys: &PlacementKeys) -> Result<Identity, String> {
        let id = identity.spiffe_id().map_err(|error| error.to_string())?;
        if id != self.expected {
            return Err(format!(
                "the operator says this is {id}, --node-name says {}",
                self.expected
            ));
        }
        if let Err(cause) = self.store(&identity, &placement_keys) {
            tracing::warn!(
                cause,
                "the identity cannot be kept: an agent that starts anew has to enrol again; make room in --state-dir"
            );
        }
        keys.replace(placement_keys);
        tracing::info!(%id, "enrolled");
        Ok(identity)
    }

    fn store(&self, identity: &Identity, placement_keys: &[Vec<u8>]) -> Result<(), String> {
        std::fs::create_dir_all(&self.directory).map_err(|error| format!("{}: {error}", self.directory.display()))?;
        sign::store_keys(&self.directory, placement_keys).map_err(|error| error.to_string())?;
        identity.store(&self.directory).map_err(|error| error.to_string())
    }

    /// What is on disk, if it is ours and trusts an authority that is mounted. It may have ended.
    fn held(&self) -> Option<(Credentials, Vec<Vec<u8>>)> {
        let identity = Identity::load(&self.directory).ok()?;
        let keys = sign::load_keys(&self.directory).ok()?;
        PlacementVerifier::new(&keys).ok()?;
        let stands = identity.spiffe_id().ok()? == self.expected && !self.is_foreign(&identity);
        let credentials = Credentials::new(identity).ok()?;
        stands.then_some((credentials, keys))
    }

    /// Whether others are to be trusted, or another's leaf to be used: as the operator says, and while it is not heard, where somebody is
    /// mounted who is not trusted yet. A bundle that is not mounted at present is no reason for doubt.
    fn differs(&self, identity: &Identity) -> bool {
        let mounted = || read(&self.trust_bundle).is_ok_and(|mounted| trust::lacks(&identity.bundle_pem, &mounted));
        self.trust.wishes.differ_from(identity).unwrap_or_else(mounted)
    }

    /// Whether it trusts nobody who is mounted. While one authority takes another's place, what is mounted may be a little behind.
    fn is_foreign(&self, identity: &Identity) -> bool {
        read(&self.trust_bundle).is_ok_and(|mounted| !trust::overlap(&mounted, &identity.bundle_pem))
    }
}

fn read(path: &Path) -> Result<String, String> {
    store::read_text(path, BUNDLE_BYTES_MAX).map_err(|error| format!("trust bundle: {error}"))
}

#[cfg(test)]
mod tests;
