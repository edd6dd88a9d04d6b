//! What can go wrong outside the process, each with a static category: the label of its metric.

use std::future::Future;
use std::time::Duration;

use apiclient::brief;
use apiclient::pause::Paused;

/// No answer from the Kubernetes API for this long is a failure: its own limit for a request is 60 s, and a placement
/// must not wait that long behind one slow call.
pub const API_TIMEOUT: Duration = Duration::from_secs(5);

/// A call to the Kubernetes API that brought no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API refused or could not be reached.
    #[error("{doing}: {}", brief(source))]
    Api {
        /// Verb and object, for the reader.
        doing: String,
        /// What the client library says.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer within [`API_TIMEOUT`].
    #[error("{doing}: the Kubernetes API gave no answer within {API_TIMEOUT:?}")]
    Timeout {
        /// Verb and object, for the reader.
        doing: String,
    },
}

impl CallError {
    /// One of a few fixed words.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "api_timeout",
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match status.code {
                    401 | 403 => "api_forbidden",
                    404 => "api_not_found",
                    409 => "api_conflict",
                    422 => "api_invalid",
                    429 | 500.. => "api_unavailable",
                    _ => "api_refused",
                },
                kube::Error::Service(cause) if cause.is::<Paused>() => "api_unavailable",
                _ => "api_unreachable",
            },
        }
    }

    /// The object, or its kind, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.category() == "api_not_found"
    }

    /// The operator has no right to it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.category() == "api_forbidden"
    }

    /// The object exists already, or changed since it was read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.category() == "api_conflict"
    }
}

/// Runs one call to the Kubernetes API with its time limit. `doing` names verb and object: "get Secret a/b".
pub async fn call<T>(
    doing: impl Into<String>,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(API_TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(CallError::Api {
            doing: doing.into(),
            source: Box::new(source),
        }),
        Err(_) => Err(CallError::Timeout { doing: doing.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16) -> CallError {
        let status = kube::core::Status {
            code,
            ..Default::default()
        };
        CallError::Api {
            doing: "get Secret a/b".into(),
            source: Box::new(kube::Error::Api(Box::new(status))),
        }
    }

    #[test]
    fn every_answer_of_the_api_has_a_fixed_category() {
        let categories: Vec<_> = [400, 403, 404, 409, 422, 429, 503]
            .map(|code| api(code).category())
            .into();
        assert_eq!(
            categories,
            [
                "api_refused",
                "api_forbidden",
                "api_not_found",
                "api_conflict",
                "api_invalid",
                "api_unavailable",
                "api_unavailable"
            ]
        );
    }

    #[test]
    fn a_silent_api_is_a_timeout_that_names_the_call() {
        let error = CallError::Timeout {
            doing: "get Lease a/b".into(),
        };
        assert_eq!(error.category(), "api_timeout");
        assert!(error.to_string().contains("get Lease a/b"));
    }

    #[test]
    fn a_pause_of_the_api_server_is_told_from_a_connection_that_broke() {
        let category = |cause: Box<dyn std::error::Error + Send + Sync>| {
            let source = Box::new(kube::Error::Service(cause));
            let doing = "get Secret a/b".into();
            CallError::Api { doing, source }.category()
        };
        let left = Duration::from_secs(20);
        assert_eq!(category(Box::new(Paused { left })), "api_unavailable");
        assert_eq!(category("connection reset".into()), "api_unreachable");
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server_after_the_call() {
        let status = kube::core::Status {
            code: 409,
            message: "no".into(),
            reason: "Conflict".into(),
            ..Default::default()
        };
        let source = Box::new(kube::Error::Api(Box::new(status)));
        let doing = "get Secret a/b".into();
        let told = CallError::Api { doing, source }.to_string();
        assert_eq!(told, "get Secret a/b: no (409 Conflict)");
    }
}
