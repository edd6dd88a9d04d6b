//! The certificate authority of one installation: it decides which names exist.
//!
//! A leaf carries the id that the issuer was told, never what the request asks for: only the public key of a request is used.
//!
//! While one authority takes another's place both are trusted: see [`Authority::beside`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateSigningRequestDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;

use crate::certificate::{self, CertificateError};
use crate::spiffe::{self, SpiffeId, SpiffeIdError};
use crate::trust::{self, Fingerprint};

/// How long a leaf lives unless told otherwise: renewed from half life, it outlasts half a day without an operator.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Leaves are valid from a little before now, so that a node whose clock is behind can use them.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Of the authority's own certificate. Before its end another takes its place, without anybody asking for it.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Our requests have 300 bytes.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// The most that RFC 5280 allows is 20; 16 random bytes never meet twice.
const SERIAL_BYTES: usize = 16;

/// Why the authority cannot be read, or refuses a request.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The authority's certificate is of some other kind.
    #[error("the authority's certificate names {uri:?}, not a trust domain such as \"spiffe://shardwright\"")]
    NotAuthority {
        /// The URI it names.
        uri: String,
    },
    /// The authority's key cannot be read.
    #[error("the authority's key is none ({0}); restore it with its certificate from the same backup")]
    Key(rcgen::Error),
    /// Certificate and key are not a pair.
    #[error("the authority's key does not belong to its certificate; restore both from the same backup")]
    KeyMismatch,
    /// An id or trust domain that cannot be written.
    #[error(transparent)]
    SpiffeId(#[from] SpiffeIdError),
    /// The id belongs to another installation.
    #[error("{id} is not in trust domain {trust_domain:?}")]
    ForeignTrustDomain {
        /// The id asked for.
        id: SpiffeId,
        /// The authority's own.
        trust_domain: String,
    },
    /// The other authority is of another installation.
    #[error("the other authority is of trust domain {theirs:?}, not of {trust_domain:?}")]
    ForeignAuthority {
        /// Its own.
        theirs: String,
        /// The authority's.
        trust_domain: String,
    },
    /// The request is larger than any of ours.
    #[error("certificate request has {length} bytes, at most {MAX_REQUEST_BYTES} are read")]
    RequestTooLarge {
        /// Bytes found.
        length: usize,
    },
    /// The request has a key that we do not certify.
    #[error("key type {algorithm} is not allowed; use ECDSA P-256, P-384 or Ed25519")]
    KeyType {
        /// What the key is.
        algorithm: String,
    },
    /// The request cannot be read, or is not signed by its own key.
    #[error("certificate request is refused: {cause}")]
    Request {
        /// What is wrong with it.
        cause: rcgen::Error,
    },
    /// A key or certificate cannot be made.
    #[error("certificate cannot be made: {0}")]
    Issue(#[from] rcgen::Error),
}

/// A name that clients may dial: in a leaf beside the SPIFFE id, for those that check names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl FromStr for SubjectName {
    type Err = AuthorityError;

    /// An address if it reads as one, else a DNS name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        rustls_pki_types::DnsName::try_from(text)
            .map(|name| Self::Dns(name.as_ref().to_owned()))
            .map_err(|_| AuthorityError::Issue(rcgen::Error::InvalidNameType))
    }
}

impl SubjectName {
    pub(crate) fn to_san(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// PEM, leaf first.
    pub certificate_chain_pem: String,
    /// PEM, the authorities to trust.
    pub bundle_pem: String,
    /// When the leaf ends, seconds since the Unix epoch.
    pub not_after_unix_s: i64,
}

impl From<Leaf> for proto::control::v1::Leaf {
    fn from(leaf: Leaf) -> Self {
        let Leaf {
            certificate_chain_pem,
            bundle_pem,
            not_after_unix_s,
        } = leaf;
        Self {
            certificate_chain_pem,
            bundle_pem,
            not_after_unix_s,
        }
    }
}

/// The installation's authority, key included.
pub struct Authority {
    trust_domain: String,
    certificate_pem: String,
    fingerprint: Fingerprint,
    not_before: SystemTime,
    not_after: SystemTime,
    other: Option<Other>,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

/// Another authority, whose leaves are good as well.
struct Other {
    certificate_pem: String,
    fingerprint: Fingerprint,
    not_after: SystemTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority (ECDSA P-256, ten years).
    ///
    /// # Errors
    /// When the trust domain is not well-formed, or the system has no random numbers.
    pub fn generate(trust_domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        spiffe::check_trust_domain(trust_domain)?;
        let key = rcgen::KeyPair::generate()?;
        // Each authority has a name of its own, so that a leaf of another one is told apart before its signature is tried.
        let name = format!("Shardwright authority {}", random_serial()?);
        let mut params = params(&name, now, now + AUTHORITY_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        let certificate = params.self_signed(&key)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// The authority that [`cert_pem`](Self::cert_pem) and [`key_pem`](Self::key_pem) once gave.
    ///
    /// # Errors
    /// When either cannot be read, they are not a pair, or the certificate is not an authority's.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let chain = certificate::chain(certificate_pem)?;
        let parsed = certificate::parse(&chain[0])?;
        let trust_domain = trust_domain_of(&parsed)?;
        let key = rcgen::KeyPair::from_pem(key_pem).map_err(AuthorityError::Key)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::KeyMismatch);
        }
        let (not_before, not_after) = certificate::validity(&chain[0])?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)?;
        Ok(Self {
            trust_domain,
            certificate_pem: certificate_pem.to_owned(),
            fingerprint: Fingerprint::of(&chain[0]),
            not_before,
            not_after,
            other: None,
            issuer,
        })
    }

    /// The same authority, whose leaves tell to trust another one as well: the one that takes its place, or whose place it took.
    ///
    /// # Errors
    /// When the other certificate cannot be read, or is of no authority of this trust domain.
    pub fn beside(mut self, other_pem: &str) -> Result<Self, AuthorityError> {
        let chain = certificate::chain(other_pem)?;
        let parsed = certificate::parse(&chain[0])?;
        let theirs = trust_domain_of(&parsed)?;
        if theirs != self.trust_domain {
            return Err(AuthorityError::ForeignAuthority {
                theirs,
                trust_domain: self.trust_domain,
            });
        }
        let (_, not_after) = certificate::validity(&chain[0])?;
        self.other = Some(Other {
            certificate_pem: other_pem.to_owned(),
            fingerprint: Fingerprint::of(&chain[0]),
            not_after,
        });
        Ok(self)
    }

    /// The trust domain that this authority speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// When the authority's own certificate ends, and with it every leaf.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// How long the authority's own certificate lives in all.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        let issued = self.not_before + BACKDATE;
        self.not_after.duration_since(issued).unwrap_or_default()
    }

    /// When the other authority's certificate ends, where there is one.
    #[must_use]
    pub fn other_not_after(&self) -> Option<SystemTime> {
        self.other.as_ref().map(|other| other.not_after)
    }

    /// What the authority's certificate is told by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Every authority whose leaves are good.
    #[must_use]
    pub fn trusted(&self) -> BTreeSet<Fingerprint> {
        let other = self.other.as_ref().map(|other| other.fingerprint);
        other.into_iter().chain([self.fingerprint]).collect()
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key, PKCS#8 PEM. Whoever has it may be anyone.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// What to trust: every authority whose leaves are good, PEM, this one first.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        match &self.other {
            Some(other) => trust::joined(&self.certificate_pem, &other.certificate_pem),
            None => self.certificate_pem.clone(),
        }
    }

    /// A leaf for `id` and the request's key, good as server and client, from five minutes before `now` until
    /// `now + lifetime` or the authority's own end.
    ///
    /// # Errors
    /// When the request does not stand, its key is too weak, or the id is not of this trust domain.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        names: &[SubjectName],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Leaf, AuthorityError> {
        id.validate()?;
        if id.trust_domain != self.trust_domain {
            return Err(AuthorityError::ForeignTrustDomain {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        let request = read_request(csr_der)?;
        let not_after = (now + lifetime).min(self.not_after);
        let mut params = params(id.role.name(), now, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri(&id.to_string())?];
        for name in names {
            params.subject_alt_names.push(name.to_san()?);
        }
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Leaf {
            certificate_chain_pem: certificate.pem(),
            bundle_pem: self.bundle_pem(),
            not_after_unix_s: unix_s(not_after),
        })
    }
}

/// The trust domain that an authority's certificate speaks for.
fn trust_domain_of(certificate: &X509Certificate<'_>) -> Result<String, AuthorityError> {
    let uri = certificate::single_uri(certificate)?;
    let trust_domain = uri
        .strip_prefix("spiffe://")
        .filter(|_| certificate.is_ca())
        .map(str::to_owned);
    let trust_domain = trust_domain.ok_or(AuthorityError::NotAuthority { uri })?;
    spiffe::check_trust_domain(&trust_domain)?;
    Ok(trust_domain)
}

/// What every certificate of ours has.
fn params(common_name: &str, now: SystemTime, not_after: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATE).into();
    params.not_after = not_after.into();
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Shardwright");
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut serial = [0; SERIAL_BYTES];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| AuthorityError::Random)?;
    // Positive, and never with a leading zero byte.
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn read_request(csr_der: &[u8]) -> Result<CertificateSigningRequestParams, AuthorityError> {
    if csr_der.len() > MAX_REQUEST_BYTES {
        return Err(AuthorityError::RequestTooLarge { length: csr_der.len() });
    }
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
        .map_err(|cause| AuthorityError::Request { cause })?;
    let allowed = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    let algorithm = request.public_key.algorithm();
    if allowed.contains(&algorithm) {
        return Ok(request);
    }
    Err(AuthorityError::KeyType {
        algorithm: format!("{algorithm:?}"),
    })
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}

fn unix_s(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
