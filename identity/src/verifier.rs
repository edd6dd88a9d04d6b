//! Who is let in during a handshake: chain to the bundle, usage, dates, and one SPIFFE id of our trust domain.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;

use crate::certificate::{self, CertificateError};
use crate::credentials::{Credentials, provider};
use crate::spiffe::SpiffeId;

/// Why a certificate that chains to our bundle is refused all the same.
#[derive(Error)]
enum Refusal {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("{id} is not in trust domain {trust_domain:?}")]
    ForeignTrustDomain { id: SpiffeId, trust_domain: String },
}

/// In words: rustls shows a certificate error's inside by `Debug`.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(rustls::CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

fn check_id(der: &[u8], trust_domain: &str) -> Result<(), Refusal> {
    let id = certificate::spiffe_id(der)?;
    if id.trust_domain == trust_domain {
        return Ok(());
    }
    Err(Refusal::ForeignTrustDomain {
        id,
        trust_domain: trust_domain.to_owned(),
    })
}

fn no_tls12() -> rustls::Error {
    PeerIncompatible::Tls12NotOffered.into()
}

/// Admits clients of our trust domain, judged by the bundle in use at the handshake.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) credentials: Credentials,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: our clients have one certificate, and the bundle may change.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let loaded = self.credentials.loaded();
        let verified = loaded.clients.verify_client_cert(end_entity, intermediates, now)?;
        check_id(end_entity, &loaded.id.trust_domain)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.credentials
            .loaded()
            .clients
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.loaded().clients.supported_verify_schemes()
    }
}

/// Admits servers of our trust domain. Names are not compared: who must answer is checked by the connector, by SPIFFE id.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    credentials: Credentials,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let loaded = self.credentials.loaded();
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &loaded.roots, intermediates, now, self.algorithms.all)?;
        check_id(end_entity, &loaded.id.trust_domain)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
