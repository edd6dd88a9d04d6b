//! Signatures on placements: Ed25519, by a key apart from the authority's, over a domain separator and the payload's bytes.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use proto::placement::v1::{Envelope, Placement};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::store::{self, StoreError};

/// Largest serialised envelope, in bytes: what a status field may hold.
pub const MAX_ENVELOPE_BYTES: usize = 64 * 1024;
/// File of the public keys in an identity's directory: one base64 key per line.
pub const PLACEMENT_KEYS_FILE: &str = "placement.keys";
/// A key's signature on anything else can never pass for one on a placement.
const DOMAIN: &[u8] = b"shardwright.placement.v1\0";
/// Bytes of a raw Ed25519 public key.
const PUBLIC_KEY_BYTES: usize = 32;
/// Keys in use at once: the present one, and its predecessor and successor while they change.
const MAX_KEYS: usize = 8;
/// Room for `MAX_KEYS` lines.
const MAX_KEYS_FILE_BYTES: usize = 4 * 1024;

/// Why there is no signing key.
#[derive(Debug, Error)]
pub enum SignerError {
    /// A key cannot be made.
    #[error("the system gives no random numbers")]
    Random,
    /// A stored key cannot be read.
    #[error("the placement key is no Ed25519 key in PKCS#8: {cause}")]
    Malformed {
        /// What the reader says.
        cause: String,
    },
}

/// Why an envelope is refused, or keys cannot be used.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// Larger than any placement.
    #[error("envelope has {length} bytes, at most {MAX_ENVELOPE_BYTES} are read")]
    TooLarge {
        /// Bytes found.
        length: usize,
    },
    /// Signed by nobody we know.
    #[error("envelope is signed by key {key_id}, which is none of the {known} known placement keys")]
    UnknownKey {
        /// Beginning of the id, hexadecimal.
        key_id: String,
        /// How many keys we have.
        known: usize,
    },
    /// Changed after it was signed, or never signed as a placement.
    #[error("the envelope's signature does not belong to its payload")]
    BadSignature,
    /// Signed, but no placement.
    #[error("the signed payload is no placement: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A public key of the wrong kind.
    #[error("placement key has {length} bytes, an Ed25519 key has {PUBLIC_KEY_BYTES}")]
    KeyLength {
        /// Bytes found.
        length: usize,
    },
    /// More keys than are ever in use.
    #[error("more than {MAX_KEYS} placement keys")]
    TooManyKeys,
    /// The file of keys has a line that is no key.
    #[error("line {line} of the placement keys is not base64")]
    KeyText {
        /// Counted from 1.
        line: usize,
    },
    /// The file of keys cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Signs placements. Only the operator has one.
pub struct PlacementSigner {
    pkcs8: Vec<u8>,
    key: Ed25519KeyPair,
}

impl fmt::Debug for PlacementSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlacementSigner")
            .field("key_id", &hex_prefix(&key_id(self.public_key())))
            .finish_non_exhaustive()
    }
}

impl PlacementSigner {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, SignerError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SignerError::Random)?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// The key that [`pkcs8`](Self::pkcs8) once gave.
    ///
    /// # Errors
    /// When it is no Ed25519 key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, SignerError> {
        let key = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| SignerError::Malformed {
            cause: error.to_string(),
        })?;
        Ok(Self {
            pkcs8: pkcs8.to_vec(),
            key,
        })
    }

    /// The private key, PKCS#8 DER. Whoever has it decides what every node runs.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The raw public key, 32 bytes.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// The placement, serialised and signed. Verifiers refuse more than [`MAX_ENVELOPE_BYTES`], so compare
    /// `encoded_len()` before it is published.
    #[must_use]
    pub fn sign(&self, placement: &Placement) -> Envelope {
        let payload = placement.encode_to_vec();
        let signature = self.key.sign(&signed_bytes(&payload)).as_ref().to_vec();
        Envelope {
            payload,
            signature,
            key_id: key_id(self.public_key()),
        }
    }
}

/// Checks placements against the keys that enrolment gave.
#[derive(Debug, Clone)]
pub struct PlacementVerifier {
    keys: HashMap<Vec<u8>, Vec<u8>>,
}

impl PlacementVerifier {
    /// Trusts these raw Ed25519 public keys. Without any, every envelope is refused.
    ///
    /// # Errors
    /// When one has not 32 bytes, or there are more than are ever in use.
    pub fn new(keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Self, VerifyError> {
        let mut known = HashMap::new();
        for key in keys {
            let key = key.as_ref();
            if key.len() != PUBLIC_KEY_BYTES {
                return Err(VerifyError::KeyLength { length: key.len() });
            }
            known.insert(key_id(key), key.to_vec());
            if known.len() > MAX_KEYS {
                return Err(VerifyError::TooManyKeys);
            }
        }
        Ok(Self { keys: known })
    }

    /// Trusts the keys that [`store_keys`] wrote into an identity's directory.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn load(directory: &Path) -> Result<Self, VerifyError> {
        Self::new(load_keys(directory)?)
    }

    /// The placement, if one of our keys signed exactly these bytes. Size, key and signature are checked before anything
    /// is decoded.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, envelope: &Envelope) -> Result<Placement, VerifyError> {
        let length = envelope.encoded_len();
        if length > MAX_ENVELOPE_BYTES {
            return Err(VerifyError::TooLarge { length });
        }
        let key = self
            .keys
            .get(envelope.key_id.as_slice())
            .ok_or_else(|| VerifyError::UnknownKey {
                key_id: hex_prefix(&envelope.key_id),
                known: self.keys.len(),
            })?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(&signed_bytes(&envelope.payload), &envelope.signature)
            .map_err(|_| VerifyError::BadSignature)?;
        Ok(Placement::decode(envelope.payload.as_slice())?)
    }
}

/// Writes raw public keys into an identity's directory, for its worker.
///
/// # Errors
/// When the directory is missing or not writable.
pub fn store_keys(directory: &Path, keys: &[Vec<u8>]) -> Result<(), VerifyError> {
    let lines: String = keys.iter().map(|key| BASE64_STANDARD.encode(key) + "\n").collect();
    Ok(store::write_private(
        &directory.join(PLACEMENT_KEYS_FILE),
        lines.as_bytes(),
    )?)
}

/// Reads what [`store_keys`] wrote.
///
/// # Errors
/// When the file cannot be read or a line is not base64.
pub fn load_keys(directory: &Path) -> Result<Vec<Vec<u8>>, VerifyError> {
    let text = store::read_text(&directory.join(PLACEMENT_KEYS_FILE), MAX_KEYS_FILE_BYTES)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            BASE64_STANDARD
                .decode(line.trim())
                .map_err(|_| VerifyError::KeyText { line: index + 1 })
        })
        .collect()
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [DOMAIN, payload].concat()
}

fn key_id(public_key: &[u8]) -> Vec<u8> {
    Sha256::digest(public_key).to_vec()
}

fn hex_prefix(bytes: &[u8]) -> String {
    bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
