//! One process's identity: its key, its leaf and whom it trusts, in memory and on disk.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::CertificateParams;
use thiserror::Error;

use crate::authority::BACKDATE;
use crate::certificate::{self, CertificateError, MAX_PEM_BYTES};
use crate::spiffe::SpiffeId;
use crate::store::{self, StoreError};

/// File of the certificate chain in an identity's directory.
pub const LEAF_FILE: &str = "leaf.pem";
/// File of the private key.
pub const KEY_FILE: &str = "key.pem";
/// File of the authorities to trust.
pub const BUNDLE_FILE: &str = "bundle.pem";

/// The shortest pause between two looks whether a renewal is due: of leaves that live for seconds, too, none is missed.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);

/// Why an identity cannot be made, read or kept.
#[derive(Debug, Error)]
pub enum LeafError {
    /// A key cannot be made.
    #[error("key cannot be made: {0}")]
    Key(#[from] rcgen::Error),
    /// The leaf cannot be read.
    #[error("leaf: {0}")]
    Certificate(#[from] CertificateError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A fresh key, and the request for its leaf.
pub struct KeyPair {
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
    /// PKCS#10, DER, signed by the key. It asks for no name: the issuer knows who we are.
    pub csr_der: Vec<u8>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

impl KeyPair {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, LeafError> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        Ok(Self {
            key_pem: key.serialize_pem(),
            csr_der: request.der().to_vec(),
        })
    }
}

/// Key, leaf and bundle. Whoever has it is the process it names.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM, leaf first.
    pub certificate_chain_pem: String,
    /// The leaf's private key, PKCS#8 PEM.
    pub key_pem: String,
    /// PEM, the authorities to trust.
    pub bundle_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.spiffe_id().map(|id| id.to_string());
        f.debug_struct("Identity")
            .field("spiffe_id", &id)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads what [`store`](Self::store) wrote. Whether key and leaf belong together is checked by
    /// [`Credentials::new`](crate::Credentials::new).
    ///
    /// # Errors
    /// When a file is missing or the leaf is not ours.
    pub fn load(directory: &Path) -> Result<Self, LeafError> {
        let read = |name: &str| store::read_text(&directory.join(name), MAX_PEM_BYTES);
        let identity = Self {
            certificate_chain_pem: read(LEAF_FILE)?,
            key_pem: read(KEY_FILE)?,
            bundle_pem: read(BUNDLE_FILE)?,
        };
        identity.spiffe_id()?;
        Ok(identity)
    }

    /// Writes `leaf.pem`, `key.pem` and `bundle.pem`, each replaced as a whole with mode 0600. A crash in between leaves
    /// a key without its leaf, which is refused when it is used and healed by the next `store`.
    ///
    /// # Errors
    /// When the directory is missing or not writable.
    pub fn store(&self, directory: &Path) -> Result<(), LeafError> {
        store::write_private(&directory.join(BUNDLE_FILE), self.bundle_pem.as_bytes())?;
        store::write_private(&directory.join(KEY_FILE), self.key_pem.as_bytes())?;
        store::write_private(&directory.join(LEAF_FILE), self.certificate_chain_pem.as_bytes())?;
        Ok(())
    }

    /// Who the leaf says we are.
    ///
    /// # Errors
    /// When the leaf cannot be read or carries no single id of ours.
    pub fn spiffe_id(&self) -> Result<SpiffeId, CertificateError> {
        certificate::spiffe_id(&certificate::chain(&self.certificate_chain_pem)?[0])
    }

    /// When the leaf ends.
    ///
    /// # Errors
    /// When the leaf cannot be read.
    pub fn not_after(&self) -> Result<SystemTime, CertificateError> {
        self.validity().map(|(_, not_after)| not_after)
    }

    /// Whether half of the leaf's life is over; also true of a leaf that cannot be read.
    #[must_use]
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        self.until_renewal(now).is_zero()
    }

    /// How long to wait before it is looked again whether the leaf needs renewal: until it does, at least a second and at most
    /// `longest`.
    #[must_use]
    pub fn next_look(&self, now: SystemTime, longest: Duration) -> Duration {
        self.until_renewal(now).max(SHORTEST_LOOK).min(longest)
    }

    /// Until half of the life is over that the leaf has from when it was issued.
    fn until_renewal(&self, now: SystemTime) -> Duration {
        let Ok((not_before, not_after)) = self.validity() else {
            return Duration::ZERO;
        };
        let issued = (not_before + BACKDATE).min(not_after);
        let half_life = not_after.duration_since(issued).unwrap_or_default() / 2;
        (issued + half_life).duration_since(now).unwrap_or_default()
    }

    fn validity(&self) -> Result<(SystemTime, SystemTime), CertificateError> {
        certificate::validity(&certificate::chain(&self.certificate_chain_pem)?[0])
    }
}

/// Seconds from `now` until a certificate ends; below zero once it has ended.
#[must_use]
pub fn seconds_until(end: SystemTime, now: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => seconds(left),
        Err(error) => -seconds(error.duration()),
    }
}

#[cfg(test)]
mod tests;
