//! The identity a process uses at this moment, replaceable while connections are open.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::certificate;
use crate::leaf::Identity;
use crate::spiffe::SpiffeId;
use crate::tls::TlsError;

/// A cheap handle on the identity in use: all clones see a replacement at once, handshakes in progress keep what they have.
#[derive(Clone)]
pub struct Credentials {
    current: Arc<ArcSwap<Loaded>>,
}

/// An identity made ready for handshakes.
pub(crate) struct Loaded {
    pub(crate) identity: Identity,
    pub(crate) id: SpiffeId,
    not_after: SystemTime,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) roots: RootCertStore,
    /// Checks a client's chain against the same roots.
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.current.load().id)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes an identity into use.
    ///
    /// # Errors
    /// When the key does not belong to the leaf, the leaf has no single id of ours, or the bundle has no authority.
    /// Expiry is not judged here: peers do that at each handshake.
    pub fn new(identity: Identity) -> Result<Self, TlsError> {
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(Loaded::new(identity)?)),
        })
    }

    /// Takes a renewed identity into use for all handshakes from now on.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and when it names another process; the old identity then stays in use.
    pub fn replace(&self, identity: Identity) -> Result<(), TlsError> {
        let loaded = Loaded::new(identity)?;
        let present = self.spiffe_id();
        if loaded.id != present {
            return Err(TlsError::AnotherIdentity {
                present: Box::new(present),
                offered: Box::new(loaded.id),
            });
        }
        self.current.store(Arc::new(loaded));
        Ok(())
    }

    /// The identity in use.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.current.load().identity.clone()
    }

    /// Who we are.
    #[must_use]
    pub fn spiffe_id(&self) -> SpiffeId {
        self.current.load().id.clone()
    }

    /// When the leaf in use ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    pub(crate) fn loaded(&self) -> Arc<Loaded> {
        self.current.load_full()
    }
}

impl Loaded {
    fn new(identity: Identity) -> Result<Self, TlsError> {
        let provider = provider();
        let id = identity.spiffe_id().map_err(TlsError::Leaf)?;
        let not_after = identity.not_after().map_err(TlsError::Leaf)?;
        let key = Arc::new(certified_key(&identity.certificate_chain_pem, &identity.key_pem)?);
        let roots = roots(&identity.bundle_pem)?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider)
            .build()
            .map_err(|error| TlsError::Bundle {
                cause: error.to_string(),
            })?;
        Ok(Self {
            identity,
            id,
            not_after,
            key,
            roots,
            clients,
        })
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The one crypto provider, named outright so that nothing depends on which one a process installed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A chain and its key, checked to be a pair.
pub(crate) fn certified_key(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, TlsError> {
    let chain = certificate::chain(chain_pem).map_err(TlsError::Leaf)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| TlsError::Key {
        cause: error.to_string(),
    })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Key {
        cause: error.to_string(),
    })
}

/// The authorities of a bundle, at least one.
pub(crate) fn roots(bundle_pem: &str) -> Result<RootCertStore, TlsError> {
    let bundle = |cause: String| TlsError::Bundle { cause };
    let mut roots = RootCertStore::empty();
    for authority in certificate::chain(bundle_pem).map_err(|error| bundle(error.to_string()))? {
        roots.add(authority).map_err(|error| bundle(error.to_string()))?;
    }
    Ok(roots)
}
