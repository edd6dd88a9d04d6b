//! Whom processes trust and whose leaves they use, by digests: what the operator and they tell each other while one authority takes
//! another's place.
//!
//! ```text
//!  operator ── Wanted ──▶ Wishes ──▶ whoever renews the identity: a new leaf brings the certificates of all that are trusted
//!           ◀── Held ──────────────┘
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use proto::control::v1::{TrustHeld, TrustWanted};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::authority::Authority;
use crate::certificate::{self, CertificateError};
use crate::leaf::Identity;
use crate::spiffe::SpiffeId;

/// Authorities that are read of one message: there are two while one takes the other's place.
const AUTHORITIES_MAX: usize = 8;
/// Renewals are spread over no longer time, whatever is said.
const SPREAD_MAX: Duration = Duration::from_secs(600);

/// SHA-256 of an authority's certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of an authority that is none of those that are trusted.
    const STRANGER: Self = Self([0; 32]);

    pub(crate) fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        <[u8; 32]>::try_from(bytes).ok().map(Self)
    }
}

/// Enough of it to tell two apart.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whom a process trusts, and whose leaf it uses; or several processes that count as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Those that each of them trusts.
    pub authorities: BTreeSet<Fingerprint>,
    /// Those that issued their leaves.
    pub issuers: BTreeSet<Fingerprint>,
}

impl Held {
    /// Of whoever uses this identity.
    ///
    /// # Errors
    /// When leaf or bundle cannot be read.
    pub fn of(identity: &Identity) -> Result<Self, CertificateError> {
        let chain = certificate::chain(&identity.certificate_chain_pem)?;
        let leaf = certificate::parse(&chain[0])?;
        let (mut authorities, mut issuer) = (BTreeSet::new(), Fingerprint::STRANGER);
        for der in certificate::chain(&identity.bundle_pem)? {
            let fingerprint = Fingerprint::of(&der);
            // Each authority has a name of its own; whether the signature stands is judged in handshakes.
            if certificate::parse(&der)?.subject().as_raw() == leaf.issuer().as_raw() {
                issuer = fingerprint;
            }
            authorities.insert(fingerprint);
        }
        Ok(Self {
            authorities,
            issuers: BTreeSet::from([issuer]),
        })
    }

    /// Of both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.authorities
            .retain(|authority| other.authorities.contains(authority));
        self.issuers.extend(&other.issuers);
        self
    }

    /// Whether it is just that, and nothing has to be renewed.
    #[must_use]
    pub fn is(&self, wanted: &Wanted) -> bool {
        self.authorities == wanted.authorities && self.issuers.iter().eq([&wanted.issuer])
    }
}

impl From<TrustHeld> for Held {
    /// What is no digest is left out.
    fn from(message: TrustHeld) -> Self {
        Self {
            authorities: fingerprints(&message.authorities),
            issuers: fingerprints(&message.issuers),
        }
    }
}

impl From<&Held> for TrustHeld {
    fn from(held: &Held) -> Self {
        Self {
            authorities: digests(&held.authorities),
            issuers: digests(&held.issuers),
        }
    }
}

/// Whom all processes of the installation shall trust, and whose leaves they shall use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// These, and no others.
    pub authorities: BTreeSet<Fingerprint>,
    /// The one of them that issues.
    pub issuer: Fingerprint,
    /// All are told at once; each renews within so long, when its turn comes.
    pub spread: Duration,
}

impl Wanted {
    /// As this authority's leaves have it.
    #[must_use]
    pub fn of(authority: &Authority, spread: Duration) -> Self {
        Self {
            authorities: authority.trusted(),
            issuer: authority.fingerprint(),
            spread,
        }
    }

    /// What the operator says, where that is anything.
    #[must_use]
    pub fn read(message: &TrustWanted) -> Option<Self> {
        Some(Self {
            authorities: Some(fingerprints(&message.authorities)).filter(|authorities| !authorities.is_empty())?,
            issuer: Fingerprint::read(&message.issuer)?,
            spread: Duration::from_millis(message.spread_ms.into()).min(SPREAD_MAX),
        })
    }

    /// Whether the same is wanted, however the renewals are spread.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.authorities, self.issuer) == (&other.authorities, other.issuer)
    }

    /// How long this process waits before it renews: always the same for the same wish, and for each process another part of the time
    /// over which all are spread.
    #[must_use]
    pub fn turn(&self, who: &SpiffeId) -> Duration {
        let mut hash = Sha256::new_with_prefix(who.to_string());
        for authority in &self.authorities {
            hash.update(authority.0);
        }
        hash.update(self.issuer.0);
        let digest = hash.finalize();
        let part = digest[..4]
            .iter()
            .fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
        self.spread.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }
}

impl From<&Wanted> for TrustWanted {
    fn from(wanted: &Wanted) -> Self {
        Self {
            authorities: digests(&wanted.authorities),
            issuer: wanted.issuer.0.to_vec(),
            spread_ms: u32::try_from(wanted.spread.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

fn fingerprints(digests: &[Vec<u8>]) -> BTreeSet<Fingerprint> {
    let read = digests.iter().take(AUTHORITIES_MAX);
    read.filter_map(|digest| Fingerprint::read(digest)).collect()
}

fn digests(fingerprints: &BTreeSet<Fingerprint>) -> Vec<Vec<u8>> {
    fingerprints.iter().map(|fingerprint| fingerprint.0.to_vec()).collect()
}

/// Two bundles as one.
#[must_use]
pub fn joined(one_pem: &str, other_pem: &str) -> String {
    format!("{}\n{}\n", one_pem.trim_end(), other_pem.trim_end())
}

/// Whether a bundle lacks an authority that another one has: a mounted one that has more is ahead, and one that has less may be behind.
/// What cannot be read has none.
#[must_use]
pub fn lacks(held_pem: &str, mounted_pem: &str) -> bool {
    let mounted = certificate::chain(mounted_pem).unwrap_or_default();
    let held = certificate::chain(held_pem).unwrap_or_default();
    mounted.iter().any(|authority| !held.contains(authority))
}

/// Whether a mounted bundle lacks the authority that issued an identity's leaf: others refuse that leaf, or will before long, though
/// everybody who is mounted is trusted. What cannot be read disowns nobody.
#[must_use]
pub fn disowns(mounted_pem: &str, identity: &Identity) -> bool {
    match (certificate::chain(mounted_pem), Held::of(identity)) {
        (Ok(mounted), Ok(held)) => !mounted
            .iter()
            .any(|authority| held.issuers.contains(&Fingerprint::of(authority))),
        _ => false,
    }
}

/// Whether two bundles have an authority in common. What cannot be read has none.
#[must_use]
pub fn overlap(one_pem: &str, other_pem: &str) -> bool {
    match (certificate::chain(one_pem), certificate::chain(other_pem)) {
        (Ok(one), Ok(other)) => one.iter().any(|authority| other.contains(authority)),
        _ => false,
    }
}

/// What the operator wishes of one process while it is heard; between whoever hears it and whoever renews the identity. Clones are of
/// the same process.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    wanted: watch::Sender<Option<Wanted>>,
    renewals: watch::Sender<u64>,
}

impl Wishes {
    /// The operator says so; nothing is wished for while it is not heard.
    pub fn tell(&self, wanted: Option<Wanted>) {
        self.wanted.send_if_modified(|known| {
            let changed = *known != wanted;
            *known = wanted;
            changed
        });
    }

    /// What is wished for, now and whenever that is something else.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Wanted>> {
        self.wanted.subscribe()
    }

    /// Whether something else is wished for than this identity; `None` while the operator is not heard.
    #[must_use]
    pub fn differ_from(&self, identity: &Identity) -> Option<bool> {
        let wanted = self.wanted.borrow();
        let wanted = wanted.as_ref()?;
        Some(!Held::of(identity).is_ok_and(|held| held.is(wanted)))
    }

    /// Waits for this process's turn to renew, where something else is wished for than this identity.
    pub async fn turn(&self, identity: &Identity) {
        let wanted = self.wanted.borrow().clone();
        if let (Some(wanted), Ok(who)) = (wanted, identity.spiffe_id())
            && self.differ_from(identity) == Some(true)
        {
            tokio::time::sleep(wanted.turn(&who)).await;
        }
    }

    /// By whom the operator's enrolment port is known. What is mounted follows the operator by a minute or two: while it is heard over a
    /// connection that stands, whoever is trusted there is trusted here as well.
    #[must_use]
    pub fn roots(&self, mounted_pem: String, held: Option<&Identity>) -> String {
        match held.filter(|_| self.wanted.borrow().is_some()) {
            Some(held) => joined(&mounted_pem, &held.bundle_pem),
            None => mounted_pem,
        }
    }

    /// The process uses another identity.
    pub fn renewed(&self) {
        self.renewals.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Wakes whenever it does.
    #[must_use]
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }
}

#[cfg(test)]
mod tests;
