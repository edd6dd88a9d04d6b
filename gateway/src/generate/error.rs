//! What a head's refusal means for the request.

use std::time::Duration;

use identity::connect::causes;
use tonic::{Code, Status};

/// Metadata of a refusal: after how many seconds to ask again.
const RETRY_AFTER: &str = "retry-after";
/// Longest time that clients are sent away for, in seconds: a place that is free sooner shall not stay empty.
const LONGEST_RETRY_S: u32 = 600;

/// Why a request ended without its whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// Nothing was asked: no pipeline serves.
    #[error("{message}")]
    NotReady {
        /// The operator's reason.
        message: String,
    },
    /// The model was deleted.
    #[error("the model does not exist any more")]
    Gone,
    /// Every head is full.
    #[error("every place of the model is taken: {message}")]
    Busy {
        /// The last head's reason, with its numbers; empty where no head was left to ask.
        message: String,
        /// When the first of the heads expects a free place, in seconds; `None` where none said.
        retry_after_s: Option<u32>,
    },
    /// The workers were lost, or moved to another placement.
    #[error("the workers of the model were lost")]
    Lost,
    /// The model has other weights by now, which would not go on with what was begun.
    #[error("the model was changed meanwhile")]
    Replaced,
    /// The head refuses the request itself.
    #[error("{message}")]
    Refused {
        /// The head's reason.
        message: String,
    },
    /// No token came in time.
    #[error("no token came within {} s", waited.as_secs())]
    Stalled {
        /// How long was waited.
        waited: Duration,
    },
    /// A fault that asking again would not cure.
    #[error("the workers failed: {message}")]
    Internal {
        /// For the log.
        message: String,
    },
}

/// What one attempt at one head came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another head, or the same one later, may do it.
    Lost(String),
    /// Another head may do it now.
    Busy {
        message: String,
        /// What the head says, in seconds.
        retry_after_s: Option<u32>,
    },
    /// No head will.
    Refused(String),
    Stalled(Duration),
    Internal(String),
}

impl Failure {
    pub(super) fn into_error(self) -> GenerateError {
        match self {
            Self::Lost(_) => GenerateError::Lost,
            Self::Busy { message, retry_after_s } => GenerateError::Busy { message, retry_after_s },
            Self::Refused(message) => GenerateError::Refused { message },
            Self::Stalled(waited) => GenerateError::Stalled { waited },
            Self::Internal(message) => GenerateError::Internal { message },
        }
    }
}

/// A status of the head, or of the connection to it.
pub(super) fn classify(status: &Status) -> Failure {
    // Made on this side: the connection broke, whatever code that was given.
    if let Some(cause) = std::error::Error::source(status) {
        return Failure::Lost(format!("{:?}: {}", status.code(), causes(cause)));
    }
    let message = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::ResourceExhausted => Failure::Busy {
            message: status.message().to_owned(),
            retry_after_s: retry_after_s(status),
        },
        Code::InvalidArgument => Failure::Refused(status.message().to_owned()),
        Code::Unavailable
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Cancelled
        | Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated => Failure::Lost(message),
        _ => Failure::Internal(message),
    }
}

/// What the head says of when to ask again, within bounds.
fn retry_after_s(status: &Status) -> Option<u32> {
    let seconds: u32 = status.metadata().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.clamp(1, LONGEST_RETRY_S))
}
