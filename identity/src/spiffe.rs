//! SPIFFE ids: the names our processes are known by.
//!
//! ```text
//! spiffe://<trust domain>/operator/<pod>
//! spiffe://<trust domain>/agent/<node>
//! spiffe://<trust domain>/worker/<node>/<model uid>
//! spiffe://<trust domain>/gateway/<pod>
//! ```

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest trust domain, by the SPIFFE specification.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Longest path segment: Kubernetes names have at most 253 characters.
const MAX_SEGMENT_BYTES: usize = 253;
/// Longest id that is read at all, by the SPIFFE specification.
const MAX_ID_BYTES: usize = 2048;

/// The name of one process: unique, and never ambiguous as text.
///
/// [`SpiffeId::new`] and [`FromStr`] accept only well-formed ids, and for those `to_string().parse()` gives the same id back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// Lower-case name of the installation's authority, for example `shardwright`.
    pub trust_domain: String,
    /// What the process is, and which one of its kind.
    pub role: Role,
}

/// What a process is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Decides and publishes placements.
    Operator {
        /// Name of its pod.
        pod: String,
    },
    /// Reports a node's devices and supervises its workers.
    Agent {
        /// Name of the Kubernetes node.
        node: String,
    },
    /// Holds one shard.
    Worker {
        /// Name of the Kubernetes node.
        node: String,
        /// `metadata.uid` of the `InferenceModel`.
        model_uid: String,
    },
    /// Serves the users' endpoint.
    Gateway {
        /// Name of its pod.
        pod: String,
    },
}

/// Why a text is no SPIFFE id of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// More than 2048 bytes.
    #[error("SPIFFE id has {length} bytes, at most {MAX_ID_BYTES} are read")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// Some other URI.
    #[error("{id:?} does not begin with \"spiffe://\"")]
    NotSpiffe {
        /// The text.
        id: String,
    },
    /// Empty, too long, or with a character that is not allowed (a port and user information included).
    #[error("trust domain {trust_domain:?} is not 1 to {MAX_TRUST_DOMAIN_BYTES} of a-z 0-9 . - _")]
    TrustDomain {
        /// The part that offends.
        trust_domain: String,
    },
    /// Empty, `.`, `..`, too long, or with a character that is not allowed (`%`, `?` and `#` included).
    #[error("path segment {segment:?} is not 1 to {MAX_SEGMENT_BYTES} of A-Z a-z 0-9 . - _ and not \".\" or \"..\"")]
    Segment {
        /// The part that offends.
        segment: String,
    },
    /// Well-formed, but not one of the four roles.
    #[error("path {path:?} is not operator/<pod>, agent/<node>, worker/<node>/<model uid> or gateway/<pod>")]
    UnknownRole {
        /// The path.
        path: String,
    },
}

impl SpiffeId {
    /// An id whose parts are known to be well-formed.
    ///
    /// # Errors
    /// The first part that is not.
    pub fn new(trust_domain: impl Into<String>, role: Role) -> Result<Self, SpiffeIdError> {
        let id = Self {
            trust_domain: trust_domain.into(),
            role,
        };
        id.validate()?;
        Ok(id)
    }

    /// Checks the parts of an id that was put together field by field.
    ///
    /// # Errors
    /// The first part that is not well-formed.
    pub fn validate(&self) -> Result<(), SpiffeIdError> {
        check_trust_domain(&self.trust_domain)?;
        let (_, segments) = self.role.parts();
        segments.into_iter().flatten().try_for_each(check_segment)
    }
}

impl Role {
    /// The role's word in the path, and the names that follow it.
    fn parts(&self) -> (&'static str, [Option<&str>; 2]) {
        match self {
            Self::Operator { pod } => ("operator", [Some(pod), None]),
            Self::Agent { node } => ("agent", [Some(node), None]),
            Self::Worker { node, model_uid } => ("worker", [Some(node), Some(model_uid)]),
            Self::Gateway { pod } => ("gateway", [Some(pod), None]),
        }
    }

    /// `operator`, `agent`, `worker` or `gateway`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.parts().0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, segments) = self.role.parts();
        write!(f, "spiffe://{}/{name}", self.trust_domain)?;
        segments
            .into_iter()
            .flatten()
            .try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong { length: text.len() });
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| SpiffeIdError::NotSpiffe { id: text.into() })?;
        let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut segments = path.split('/').map(str::to_owned);
        let unknown = || SpiffeIdError::UnknownRole { path: path.into() };
        let (name, first) = (
            segments.next().ok_or_else(unknown)?,
            segments.next().ok_or_else(unknown)?,
        );
        let (second, end) = (segments.next(), segments.next());
        let role = match (name.as_str(), second, end) {
            ("operator", None, None) => Role::Operator { pod: first },
            ("agent", None, None) => Role::Agent { node: first },
            ("worker", Some(model_uid), None) => Role::Worker { node: first, model_uid },
            ("gateway", None, None) => Role::Gateway { pod: first },
            _ => return Err(unknown()),
        };
        Self::new(trust_domain, role)
    }
}

/// Whether `text` can be a trust domain.
pub(crate) fn check_trust_domain(text: &str) -> Result<(), SpiffeIdError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if (1..=MAX_TRUST_DOMAIN_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(SpiffeIdError::TrustDomain {
        trust_domain: text.into(),
    })
}

fn check_segment(text: &str) -> Result<(), SpiffeIdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let sound = (1..=MAX_SEGMENT_BYTES).contains(&text.len()) && text.bytes().all(allowed);
    if sound && text != "." && text != ".." {
        return Ok(());
    }
    Err(SpiffeIdError::Segment { segment: text.into() })
}

#[cfg(test)]
mod tests;
