//! What can go wrong while something is measured.

/// An error names what was tried and why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be set up or asked.
    #[error("{what}: {cause}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: String,
    },
    /// The local control plane's.
    #[error(transparent)]
    Plane(#[from] localplane::Error),
}

/// Shorthand of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names what was tried, for `map_err`.
pub fn trying<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |cause| Error::Failed {
        what: what.into(),
        cause: cause.to_string(),
    }
}

/// An error of our own finding.
pub fn failed(what: impl Into<String>, cause: impl Into<String>) -> Error {
    Error::Failed {
        what: what.into(),
        cause: cause.into(),
    }
}
