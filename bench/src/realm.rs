//! An installation without its operator: who everyone is, and the placements that would be signed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::sign::store_keys;
use identity::{Authority, Credentials, Identity, KeyPair, PlacementSigner, Role, SpiffeId, SubjectName};
use proto::placement::v1 as placement;

use crate::error::{Result, failed, trying};

/// Authority of all names here.
pub const TRUST_DOMAIN: &str = "shardwright";

/// Longer than any measurement.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Issues identities and signs placements.
#[derive(Debug)]
pub struct Realm {
    authority: Authority,
    signer: PlacementSigner,
}

impl Realm {
    /// A fresh authority and a fresh signing key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self> {
        Ok(Self {
            authority: Authority::generate(TRUST_DOMAIN, SystemTime::now()).map_err(trying("the authority"))?,
            signer: PlacementSigner::generate().map_err(trying("the signing key"))?,
        })
    }

    /// A fresh leaf for `role`, which also answers as localhost.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub fn identity(&self, role: Role) -> Result<Identity> {
        let KeyPair { key_pem, csr_der } = KeyPair::generate().map_err(trying("a key"))?;
        let id = spiffe_id(role)?;
        let names = ["localhost", "127.0.0.1"].map(str::parse::<SubjectName>);
        let names: Vec<SubjectName> = names.into_iter().flatten().collect();
        let leaf = self.authority.issue(&csr_der, &id, &names, LIFETIME, SystemTime::now());
        let leaf = leaf.map_err(trying(format!("a leaf for {id}")))?;
        Ok(Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        })
    }

    /// The same, ready for connections.
    ///
    /// # Errors
    /// As [`Realm::identity`].
    pub fn credentials(&self, role: Role) -> Result<Credentials> {
        Credentials::new(self.identity(role)?).map_err(trying("credentials"))
    }

    /// The same as files, with the public key of placements, as a process reads them.
    ///
    /// # Errors
    /// As [`Realm::identity`], and the file system's.
    pub fn store(&self, role: Role, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).map_err(trying(directory.display().to_string()))?;
        let stored = self.identity(role)?.store(directory);
        stored.map_err(trying(directory.display().to_string()))?;
        let keys = [self.signer.public_key().to_vec()];
        store_keys(directory, &keys).map_err(trying(directory.display().to_string()))
    }

    /// The authority's certificates.
    pub fn bundle_pem(&self) -> String {
        self.authority.bundle_pem()
    }

    /// A signed placement.
    pub fn sign(&self, placement: &placement::Placement) -> placement::Envelope {
        self.signer.sign(placement)
    }
}

/// The id of a role here.
///
/// # Errors
/// When a name in it is malformed.
pub fn spiffe_id(role: Role) -> Result<SpiffeId> {
    SpiffeId::new(TRUST_DOMAIN, role).map_err(|error| failed("a SPIFFE id", error.to_string()))
}

/// Until when a placement signed now can be installed.
pub fn not_after_unix_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from((now + LIFETIME).as_secs()).unwrap_or(i64::MAX)
}
