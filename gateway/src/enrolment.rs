//! The gateway's own identity: obtained at start, renewed for as long as it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use identity::{Credentials, EnrolOptions, Identity, PlacementVerifier, Role, Wishes, seconds_until, trust};
use proto::control::v1::Role as EnrolRole;

use crate::args::IdentitySource;
use lifecycle::backoff::{Backoff, Policy};

/// Pauses between attempts to enrol.
const ENROL_RETRY: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(10),
};
/// How often a leaf's age and an identity directory are looked at, at least: far below half a leaf's life.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Bytes of a trust bundle: a hundred certificates.
const MAX_BUNDLE_BYTES: usize = 256 * 1024;

/// Who we are and whose placements we believe; both change in place.
#[derive(Debug, Clone)]
pub struct Identified {
    /// For TLS.
    pub credentials: Credentials,
    /// For placements.
    pub verifier: Arc<ArcSwap<PlacementVerifier>>,
    /// Whom the operator wants it to trust.
    pub wishes: Wishes,
}

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(String);

impl IdentityError {
    fn new(error: &dyn std::error::Error) -> Self {
        Self(identity::connect::causes(error))
    }
}

/// Obtains identities and keeps the last one.
#[derive(Debug)]
pub struct Enroller {
    /// Where they come from.
    pub source: IdentitySource,
    /// Where an enrolled one is kept, so that a restart during an outage of the operator has one.
    pub directory: PathBuf,
    /// An identity kept by another pod is not ours.
    pub pod_name: Option<String>,
}

impl Enroller {
    /// The first identity. Enrolment is tried until it succeeds; while it does not, the one kept from before serves.
    ///
    /// # Errors
    /// When a given directory has no usable identity: that is a matter of configuration.
    pub async fn first(&self) -> Result<Identified, IdentityError> {
        let mut backoff = Backoff::new(ENROL_RETRY);
        loop {
            match self.obtain(None).await {
                Ok((identity, keys)) => return identified(identity, &keys),
                Err(error) if matches!(self.source, IdentitySource::Directory(_)) => return Err(error),
                Err(error) => tracing::warn!(%error, "not enrolled; trying again"),
            }
            match self.kept() {
                Some((identity, keys)) => match identified(identity, &keys) {
                    Ok(identified) => {
                        tracing::info!(id = %identified.credentials.spiffe_id(), "using the identity kept from before");
                        return Ok(identified);
                    }
                    Err(error) => tracing::warn!(%error, "the identity kept from before cannot be used"),
                },
                None => tracing::debug!("no identity kept from before"),
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    /// Renews for ever: an enrolled identity from half its life and when others are to be trusted, one from a directory when its files
    /// change. `seen` is told at each look how many seconds are left of it.
    pub async fn follow(&self, identified: &Identified, seen: impl Fn(i64)) {
        let (mut backoff, mut told) = (Backoff::new(ENROL_RETRY), false);
        let mut wished = identified.wishes.changes();
        // The operator may have been heard already.
        wished.mark_changed();
        loop {
            let (now, credentials) = (SystemTime::now(), &identified.credentials);
            let remaining_s = seconds_until(credentials.not_after(), now);
            seen(remaining_s);
            let ended = remaining_s < 0;
            if ended && !told {
                tracing::warn!(
                    "the own certificate has ended: connections that stand go on, and others refuse new ones until it is renewed"
                );
            }
            told = ended;
            tokio::select! {
                () = tokio::time::sleep(credentials.identity().next_look(now, CHECK_INTERVAL)) => {}
                // All gateways hear of it at the same moment.
                Ok(()) = wished.changed() => identified.wishes.turn(&credentials.identity()).await,
            }
            match self.renew(identified, SystemTime::now()).await {
                Ok(()) => {
                    backoff.succeeded();
                    // Where the clocks differ by half a day, every new one is due at once.
                    if identified.credentials.identity().needs_renewal(SystemTime::now()) {
                        tokio::time::sleep(CHECK_INTERVAL).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, remaining_s, "identity not renewed; trying again");
                    tokio::time::sleep(backoff.failed()).await;
                }
            }
        }
    }

    /// Renews what is due at `now`.
    ///
    /// # Errors
    /// When a new identity cannot be had or used; the present one stays.
    pub async fn renew(&self, identified: &Identified, now: SystemTime) -> Result<(), IdentityError> {
        let present = identified.credentials.identity();
        if let IdentitySource::Enrolment { trust_bundle, .. } = &self.source
            && !present.needs_renewal(now)
            && !differs(identified, trust_bundle, &present)
        {
            return Ok(());
        }
        let (identity, keys) = self.obtain(Some((identified, &present))).await?;
        replace(identified, &present, identity, &keys)
    }

    /// Another identity, in the place of the present one where there is one.
    async fn obtain(
        &self,
        present: Option<(&Identified, &Identity)>,
    ) -> Result<(Identity, Vec<Vec<u8>>), IdentityError> {
        match &self.source {
            IdentitySource::Directory(directory) => load(directory),
            IdentitySource::Enrolment {
                endpoint,
                trust_bundle,
                token,
            } => {
                let mounted = identity::store::read_text(trust_bundle, MAX_BUNDLE_BYTES)
                    .map_err(|error| IdentityError::new(&error))?;
                let bundle_pem = match present {
                    Some((identified, present)) => identified.wishes.roots(mounted, Some(present)),
                    None => mounted,
                };
                let options = EnrolOptions {
                    endpoint: endpoint.clone(),
                    bundle_pem,
                    token_path: token.clone(),
                    role: EnrolRole::Gateway,
                };
                let (identity, keys) = identity::enrol(options)
                    .await
                    .map_err(|error| IdentityError::new(&error))?;
                if let Err(error) = self.keep(&identity, &keys) {
                    tracing::warn!(path = %self.directory.display(), %error, "identity cannot be kept");
                }
                Ok((identity, keys))
            }
        }
    }

    fn keep(&self, identity: &Identity, keys: &[Vec<u8>]) -> Result<(), IdentityError> {
        std::fs::create_dir_all(&self.directory).map_err(|error| IdentityError::new(&error))?;
        identity::sign::store_keys(&self.directory, keys).map_err(|error| IdentityError::new(&error))?;
        identity
            .store(&self.directory)
            .map_err(|error| IdentityError::new(&error))
    }

    /// An identity of this pod that has not expired.
    fn kept(&self) -> Option<(Identity, Vec<Vec<u8>>)> {
        let (identity, keys) = load(&self.directory).ok()?;
        let alive = identity.not_after().ok()? > SystemTime::now();
        let ours = match (identity.spiffe_id().ok()?.role, &self.pod_name) {
            (Role::Gateway { pod }, Some(name)) => pod == *name,
            (Role::Gateway { .. }, None) => true,
            _ => false,
        };
        (alive && ours).then_some((identity, keys))
    }
}

/// Whether others are to be trusted, or another's leaf to be used: as the operator says, and while it is not heard, where somebody is
/// mounted who is not trusted yet, or whoever issued the present leaf is mounted no more: a gateway that was away while one authority took
/// another's place is refused by all until it has another leaf. A bundle that is not mounted at present says nothing.
fn differs(identified: &Identified, mounted: &Path, present: &Identity) -> bool {
    identified.wishes.differ_from(present).unwrap_or_else(|| {
        identity::store::read_text(mounted, MAX_BUNDLE_BYTES)
            .is_ok_and(|mounted| trust::lacks(&present.bundle_pem, &mounted) || trust::disowns(&mounted, present))
    })
}

fn load(directory: &Path) -> Result<(Identity, Vec<Vec<u8>>), IdentityError> {
    let identity = Identity::load(directory).map_err(|error| IdentityError::new(&error))?;
    let keys = identity::sign::load_keys(directory).map_err(|error| IdentityError::new(&error))?;
    Ok((identity, keys))
}

fn identified(identity: Identity, keys: &[Vec<u8>]) -> Result<Identified, IdentityError> {
    let verifier = PlacementVerifier::new(keys).map_err(|error| IdentityError::new(&error))?;
    let credentials = Credentials::new(identity).map_err(|error| IdentityError::new(&error))?;
    Ok(Identified {
        credentials,
        verifier: Arc::new(ArcSwap::from_pointee(verifier)),
        wishes: Wishes::default(),
    })
}

fn replace(
    identified: &Identified,
    present: &Identity,
    identity: Identity,
    keys: &[Vec<u8>],
) -> Result<(), IdentityError> {
    identified.verifier.store(Arc::new(
        PlacementVerifier::new(keys).map_err(|error| IdentityError::new(&error))?,
    ));
    if identity == *present {
        return Ok(());
    }
    identified
        .credentials
        .replace(identity)
        .map_err(|error| IdentityError::new(&error))?;
    identified.wishes.renewed();
    tracing::info!(id = %identified.credentials.spiffe_id(), "identity renewed");
    Ok(())
}
