//! A certificate of the administrator's, for a port that demands none of its clients, replaceable while connections are open.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate;
use crate::credentials::certified_key;
use crate::tls::TlsError;

/// A cheap handle on the certificate in use: a replacement counts from the next handshake on.
#[derive(Clone)]
pub struct GivenCertificate {
    current: Arc<ArcSwap<CertifiedKey>>,
}

impl fmt::Debug for GivenCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenCertificate").finish_non_exhaustive()
    }
}

impl GivenCertificate {
    /// Takes a chain (leaf first) and its key into use, PEM.
    ///
    /// # Errors
    /// When either cannot be read or they are not a pair. Dates are not judged here: clients do that.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(certified_key(chain_pem, key_pem)?)),
        })
    }

    /// Takes a renewed one into use for all handshakes from now on; whether it is another one.
    ///
    /// # Errors
    /// As for [`new`](Self::new); the old certificate then stays in use.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<bool, TlsError> {
        let offered = certified_key(chain_pem, key_pem)?;
        let changed = offered.cert != self.current.load().cert;
        if changed {
            self.current.store(Arc::new(offered));
        }
        Ok(changed)
    }

    /// When the certificate in use ends, where it can be read.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        let current = self.current.load();
        let (_, not_after) = certificate::validity(current.cert.first()?).ok()?;
        Some(not_after)
    }
}

impl ResolvesServerCert for GivenCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}
