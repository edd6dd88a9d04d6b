//! What is read from certificates: the SPIFFE id, the validity, the chain in a PEM file.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::spiffe::{SpiffeId, SpiffeIdError};

/// Longest PEM text that is read: a chain or bundle of ours has a few kilobytes.
pub(crate) const MAX_PEM_BYTES: usize = 256 * 1024;

/// Why a certificate tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// The PEM text cannot be read.
    #[error("certificates in PEM cannot be read: {cause}")]
    Pem {
        /// What the reader says.
        cause: String,
    },
    /// The PEM text has no certificate.
    #[error("no certificate in the PEM text")]
    Empty,
    /// Larger than any chain or bundle of ours.
    #[error("PEM text has {length} bytes, at most {MAX_PEM_BYTES} are read")]
    TooLarge {
        /// Bytes found.
        length: usize,
    },
    /// Not X.509.
    #[error("certificate cannot be read: {cause}")]
    Malformed {
        /// What the reader says.
        cause: String,
    },
    /// Not exactly one URI among the subject's alternative names.
    #[error("certificate names {count} URIs, a SPIFFE certificate names exactly one")]
    UriCount {
        /// URIs found.
        count: usize,
    },
    /// The URI is no id of ours.
    #[error("certificate names no usable SPIFFE id: {0}")]
    SpiffeId(#[from] SpiffeIdError),
}

/// The certificates of a PEM text, at least one.
pub(crate) fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(CertificateError::TooLarge { length: pem.len() });
    }
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CertificateError::Pem {
            cause: error.to_string(),
        })?;
    if chain.is_empty() {
        Err(CertificateError::Empty)
    } else {
        Ok(chain)
    }
}

/// The one SPIFFE id that a certificate carries.
pub(crate) fn spiffe_id(der: &[u8]) -> Result<SpiffeId, CertificateError> {
    Ok(single_uri(&parse(der)?)?.parse()?)
}

/// The one URI that a certificate carries.
pub(crate) fn single_uri(certificate: &X509Certificate<'_>) -> Result<String, CertificateError> {
    let names = certificate.subject_alternative_name().map_err(malformed)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        })
        .collect();
    match uris[..] {
        [uri] => Ok(uri.to_owned()),
        _ => Err(CertificateError::UriCount { count: uris.len() }),
    }
}

/// From when, and until when, a certificate may be used.
pub(crate) fn validity(der: &[u8]) -> Result<(SystemTime, SystemTime), CertificateError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    let time = |unix_s: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_s).unwrap_or(0));
    Ok((
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    ))
}

/// Reads one DER certificate.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(malformed)
}

fn malformed(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Malformed {
        cause: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
