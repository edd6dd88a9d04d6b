//! TLS configurations. All are TLS 1.3 only, without resumption: every connection is a full handshake.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, ResolvesServerCert};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;

use crate::authority::SubjectName;
pub use crate::certificate::CertificateError;
pub use crate::credentials::Credentials;
use crate::credentials::{provider, roots};
pub use crate::given::GivenCertificate;
use crate::spiffe::SpiffeId;
use crate::verifier::{ClientVerifier, ServerVerifier};

/// HTTP/2 only: gRPC.
pub const ALPN_GRPC: &[&[u8]] = &[b"h2"];
/// HTTP/2 or HTTP/1.1: browsers, `curl`, probes.
pub const ALPN_HTTPS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Why an identity or a certificate cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificate cannot be read, or is not one of ours.
    #[error("certificate: {0}")]
    Leaf(CertificateError),
    /// The key cannot be read, or is not the certificate's.
    #[error("private key: {cause}")]
    Key {
        /// What is wrong with it.
        cause: String,
    },
    /// The bundle cannot be read or is empty. Trusting nobody is an error, never trusting everybody.
    #[error("trust bundle: {cause}")]
    Bundle {
        /// What is wrong with it.
        cause: String,
    },
    /// A renewed identity must name the same process.
    #[error("this process is {present}, the new identity is {offered}")]
    AnotherIdentity {
        /// Who we are.
        present: Box<SpiffeId>,
        /// Whom the new leaf names.
        offered: Box<SpiffeId>,
    },
    /// A self-signed certificate cannot be made.
    #[error("self-signed certificate cannot be made: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// For ports between our processes: demands a client certificate that chains to the bundle and carries exactly one SPIFFE
/// id of our trust domain. Which role may call what is the handler's business; see [`crate::peer`].
#[must_use]
pub fn server_config(credentials: &Credentials) -> Arc<ServerConfig> {
    let clients = Arc::new(ClientVerifier {
        credentials: credentials.clone(),
    });
    server(clients, Arc::new(credentials.clone()), ALPN_GRPC)
}

/// For ports that demand no client certificate: enrolment, HTTPS with bearer keys, probes and metrics.
#[must_use]
pub fn server_config_open(credentials: &Credentials, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    server(Arc::new(NoClientAuth), Arc::new(credentials.clone()), alpn)
}

/// For HTTPS with a certificate of the administrator's: chain (leaf first) and key, PEM.
///
/// # Errors
/// When either cannot be read or they are not a pair.
pub fn server_config_from_pem(chain_pem: &str, key_pem: &str) -> Result<Arc<ServerConfig>, TlsError> {
    Ok(server_config_given(&GivenCertificate::new(chain_pem, key_pem)?))
}

/// The same with one that may be replaced.
#[must_use]
pub fn server_config_given(certificate: &GivenCertificate) -> Arc<ServerConfig> {
    server(Arc::new(NoClientAuth), Arc::new(certificate.clone()), ALPN_HTTPS)
}

/// For HTTPS probes and metrics of a process that has no leaf yet. It proves nothing: those who ask do not verify it.
///
/// # Errors
/// When a name cannot be written in a certificate, or the system has no random numbers.
pub fn self_signed(names: &[SubjectName]) -> Result<Arc<ServerConfig>, TlsError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Shardwright, not yet enrolled");
    params.subject_alt_names = names.iter().map(SubjectName::to_san).collect::<Result<_, _>>()?;
    let certificate = params.self_signed(&key)?;
    server_config_from_pem(&certificate.pem(), &key.serialize_pem())
}

/// For calls between our processes: shows our leaf, and accepts servers that chain to the bundle and carry exactly one
/// SPIFFE id of our trust domain. Which one must answer is said to [`connect`](crate::connect()).
#[must_use]
pub fn client_config(credentials: &Credentials) -> Arc<ClientConfig> {
    let mut config = client_builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(credentials.clone())))
        .with_client_cert_resolver(Arc::new(credentials.clone()));
    finish(&mut config);
    Arc::new(config)
}

/// For enrolment: no client certificate; the server must chain to the bundle and carry the name that was dialled.
///
/// # Errors
/// When the bundle cannot be read or is empty.
pub fn bootstrap_client_config(bundle_pem: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client_builder()
        .with_root_certificates(roots(bundle_pem)?)
        .with_no_client_auth();
    finish(&mut config);
    Ok(Arc::new(config))
}

fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has cipher suites for TLS 1.3")
}

fn finish(config: &mut ClientConfig) {
    config.alpn_protocols = owned(ALPN_GRPC);
    config.resumption = Resumption::disabled();
    // The name would tell an onlooker which node is dialled; we have one certificate per port.
    config.enable_sni = false;
}

fn server(
    clients: Arc<dyn ClientCertVerifier>,
    certificate: Arc<dyn ResolvesServerCert>,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = owned(alpn);
    // A resumed session would skip the verifier, and so outlive a replaced bundle.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
