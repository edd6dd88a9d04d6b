//! PURE: what the Secret holds of the authority while another takes its place, and what the ConfigMap tells of it.
//!
//! | phase | `tls.crt`, `tls.key` | beside them | trusted |
//! |---|---|---|---|
//! | steady | issue | | it alone |
//! | prepared | issue | `next.crt`, `next.key` | both |
//! | active | the new one's, issue | `previous.crt`, without its key | both |
//!
//! A Secret of before there were phases is steady. Every step from one phase to the next is one write of the Secret, so that an operator
//! that dies between any two of its requests goes on where the Secret says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use crds::{moment, names};
use identity::Authority;
use identity::authority::AuthorityError;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// How far another authority has come in taking the place of the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is one.
    Steady,
    /// The new one is being trusted by all; the old one issues.
    Prepared,
    /// The new one issues; the old one is trusted still.
    Active,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Steady, Self::Prepared, Self::Active];

    /// As the ConfigMap and the metric have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => names::AUTHORITY_STEADY,
            Self::Prepared => names::AUTHORITY_PREPARED,
            Self::Active => names::AUTHORITY_ACTIVE,
        }
    }
}

/// An authority's certificate and key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    certificate_pem: String,
    key_pem: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(..)")
    }
}

impl Pair {
    fn of(authority: &Authority) -> Self {
        Self {
            certificate_pem: authority.cert_pem().to_owned(),
            key_pem: authority.key_pem(),
        }
    }
}

/// What the Secret says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    issuing: Pair,
    next: Option<Pair>,
    previous_pem: Option<String>,
    /// When the present phase began; unknown where nobody has written it, or what was written is no date.
    pub since: Option<SystemTime>,
    /// The wish for another authority that was honoured last.
    pub honoured: Option<String>,
}

impl Kept {
    /// Of one authority, in whose place there was no other.
    #[must_use]
    pub fn of(authority: &Authority) -> Self {
        Self {
            issuing: Pair::of(authority),
            next: None,
            previous_pem: None,
            since: None,
            honoured: None,
        }
    }

    /// What a Secret says.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn read(secret: &Secret) -> Result<Self, String> {
        let text = |key: &str| -> Result<Option<String>, String> {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let text = bytes.map(|bytes| String::from_utf8(bytes.0.clone()));
            text.transpose().map_err(|_| format!("key {key} is not text"))
        };
        let missing = |key: &str| format!("key {key} is missing");
        let must = |key: &str| -> Result<String, String> { text(key)?.ok_or_else(|| missing(key)) };
        let issuing = Pair {
            certificate_pem: must(names::TLS_CERT_KEY)?,
            key_pem: must(names::TLS_KEY_KEY)?,
        };
        let previous_pem = text(names::PREVIOUS_CERT_KEY)?;
        let next = match (text(names::NEXT_CERT_KEY)?, text(names::NEXT_KEY_KEY)?) {
            (None, None) => None,
            (Some(_), Some(_)) if previous_pem.is_some() => {
                return Err(format!(
                    "it has both {} and {}, and no rotation has",
                    names::NEXT_CERT_KEY,
                    names::PREVIOUS_CERT_KEY
                ));
            }
            (Some(certificate_pem), Some(key_pem)) => Some(Pair {
                certificate_pem,
                key_pem,
            }),
            (None, _) => return Err(missing(names::NEXT_CERT_KEY)),
            (_, None) => return Err(missing(names::NEXT_KEY_KEY)),
        };
        for (key, pem) in [
            (names::TLS_CERT_KEY, Some(&issuing.certificate_pem)),
            (names::NEXT_CERT_KEY, next.as_ref().map(|next| &next.certificate_pem)),
            (names::PREVIOUS_CERT_KEY, previous_pem.as_ref()),
        ] {
            only_certificates(key, pem.map_or("", String::as_str))?;
        }
        let annotation = |name: &str| annotation(&secret.metadata, name).map(str::to_owned);
        Ok(Self {
            issuing,
            next,
            previous_pem,
            since: annotation(names::AUTHORITY_SINCE).and_then(|text| moment::read(&text)),
            honoured: annotation(names::AUTHORITY_ROTATED_FOR),
        })
    }

    /// Has a Secret say this, and nothing of before.
    pub fn write(&self, secret: &mut Secret) {
        let data = secret.data.get_or_insert_default();
        let next = self.next.as_ref();
        for (key, text) in [
            (names::TLS_CERT_KEY, Some(&self.issuing.certificate_pem)),
            (names::TLS_KEY_KEY, Some(&self.issuing.key_pem)),
            (names::NEXT_CERT_KEY, next.map(|next| &next.certificate_pem)),
            (names::NEXT_KEY_KEY, next.map(|next| &next.key_pem)),
            (names::PREVIOUS_CERT_KEY, self.previous_pem.as_ref()),
        ] {
            match text {
                Some(text) => data.insert(key.to_owned(), ByteString(text.clone().into_bytes())),
                None => data.remove(key),
            };
        }
        let annotations = secret.metadata.annotations.get_or_insert_default();
        for (name, text) in self.dates() {
            match text {
                Some(text) => annotations.insert(name.to_owned(), text),
                None => annotations.remove(name),
            };
        }
    }

    /// In which phase it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (&self.next, &self.previous_pem) {
            (Some(_), _) => Phase::Prepared,
            (None, Some(_)) => Phase::Active,
            (None, None) => Phase::Steady,
        }
    }

    /// The authority that issues, and what its leaves tell to trust.
    ///
    /// # Errors
    /// A certificate or a key cannot be read, or they are no pair.
    pub fn authority(&self) -> Result<Authority, AuthorityError> {
        let issuing = Authority::from_pem(&self.issuing.certificate_pem, &self.issuing.key_pem)?;
        match (&self.next, &self.previous_pem) {
            (Some(next), _) => {
                // It has to be one that can issue when its turn comes.
                Authority::from_pem(&next.certificate_pem, &next.key_pem)?;
                issuing.beside(&next.certificate_pem)
            }
            (None, Some(previous_pem)) => issuing.beside(previous_pem),
            (None, None) => Ok(issuing),
        }
    }

    /// Another one beside it, which a wish may have asked for.
    #[must_use]
    pub fn prepared(&self, next: &Authority, wish: Option<&str>, now: SystemTime) -> Self {
        Self {
            next: Some(Pair::of(next)),
            since: Some(now),
            honoured: wish.map(str::to_owned).or_else(|| self.honoured.clone()),
            ..self.clone()
        }
    }

    /// The other one in its place. The key of the one that issued so far is gone with this.
    #[must_use]
    pub fn activated(&self, now: SystemTime) -> Self {
        let Some(next) = self.next.clone() else {
            return self.clone();
        };
        Self {
            previous_pem: Some(self.issuing.certificate_pem.clone()),
            issuing: next,
            next: None,
            since: Some(now),
            honoured: self.honoured.clone(),
        }
    }

    /// The one that issues alone.
    #[must_use]
    pub fn finished(&self, now: SystemTime) -> Self {
        Self {
            previous_pem: None,
            since: Some(now),
            ..self.clone()
        }
    }

    fn dates(&self) -> [(&'static str, Option<String>); 2] {
        [
            (names::AUTHORITY_SINCE, self.since.map(moment::written)),
            (names::AUTHORITY_ROTATED_FOR, self.honoured.clone()),
        ]
    }
}

/// Every line of what is published is a certificate's: people paste a private key beside its certificate.
fn only_certificates(key: &str, pem: &str) -> Result<(), String> {
    let mut inside = false;
    for (number, line) in pem.lines().enumerate() {
        inside = match (inside, line.trim()) {
            (false, "") => false,
            (false, "-----BEGIN CERTIFICATE-----") => true,
            (true, "-----END CERTIFICATE-----") => false,
            (true, line) if !line.starts_with('-') => true,
            // What stands there may be secret.
            _ => {
                return Err(format!(
                    "key {key} has more than certificates (line {}), and all of it would be published: leave nothing \
                     but its CERTIFICATE blocks there",
                    number + 1
                ));
            }
        };
    }
    Ok(())
}

/// Annotations of the ConfigMap that tell what the Secret says.
const STATE: [&str; 3] = [
    names::AUTHORITY_PHASE,
    names::AUTHORITY_SINCE,
    names::AUTHORITY_ROTATED_FOR,
];

/// The ConfigMap that tells whom to trust, how far the rotation is and for whom it waits.
#[must_use]
pub fn trust_map(kept: &Kept, bundle_pem: String, waits_for: &str) -> ConfigMap {
    let mut annotations = BTreeMap::from([(names::AUTHORITY_PHASE.to_owned(), kept.phase().name().to_owned())]);
    let waits_for = Some(waits_for.to_owned()).filter(|names| !names.is_empty());
    let told = kept
        .dates()
        .into_iter()
        .chain([(names::AUTHORITY_WAITS_FOR, waits_for)]);
    annotations.extend(told.filter_map(|(name, text)| Some((name.to_owned(), text?))));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::TRUST_CONFIG_MAP.to_owned()),
            labels: Some(super::labels()),
            annotations: Some(annotations),
            ..Default::default()
        },
        data: Some(BTreeMap::from([(names::TRUST_BUNDLE_KEY.to_owned(), bundle_pem)])),
        ..Default::default()
    }
}

/// In what a ConfigMap differs from the one that tells what is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// In nothing.
    None,
    /// Others are waited for by now, and all else is the same.
    WaitsFor,
    /// In what counts.
    State,
}

/// Compares what is published with what is so.
#[must_use]
pub fn difference(published: Option<&ConfigMap>, wanted: &ConfigMap) -> Difference {
    let Some(published) = published else {
        return Difference::State;
    };
    let differs = |name: &str| annotation(&published.metadata, name) != annotation(&wanted.metadata, name);
    if bundle(published) != bundle(wanted) || STATE.into_iter().any(differs) {
        Difference::State
    } else if differs(names::AUTHORITY_WAITS_FOR) {
        Difference::WaitsFor
    } else {
        Difference::None
    }
}

/// The bundle that a ConfigMap publishes.
#[must_use]
pub fn bundle(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get(names::TRUST_BUNDLE_KEY).map(String::as_str)
}

/// The wish for another authority that people have set.
#[must_use]
pub fn wish(map: &ConfigMap) -> Option<&str> {
    annotation(&map.metadata, names::ROTATE_AUTHORITY).filter(|wish| !wish.is_empty())
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests;
