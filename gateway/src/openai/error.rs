//! Errors in the shape that OpenAI clients understand, as a response or inside a stream.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// What went wrong, for the client. Messages name the object, the cause and the remedy, and never an address inside the
/// cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct ApiError {
    /// HTTP status, if nothing has been sent yet.
    pub status: StatusCode,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.message`.
    pub message: String,
    /// `error.param`: the field at fault.
    pub param: Option<String>,
    /// `error.code`: a word for programs.
    pub code: Option<&'static str>,
    /// Value of `Retry-After`, seconds.
    pub retry_after_s: Option<u32>,
}

/// The code of [`ApiError::not_ready`].
pub(super) const NOT_READY: &str = "model_not_ready";

/// Seconds after which a client may ask again when every place is taken: about one short answer.
const RETRY_WHEN_BUSY_S: u32 = 1;
/// The same while a model loads or moves: status changes within seconds.
const RETRY_WHEN_NOT_READY_S: u32 = 2;

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            code,
            retry_after_s: None,
        }
    }

    /// 400: field `param` is wrong.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message);
        Self {
            param: Some(param.to_owned()),
            ..error
        }
    }

    /// 400: field `param` asks for something that this server does not do.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self {
            code: Some("unsupported_parameter"),
            ..Self::invalid(param, message)
        }
    }

    /// 400: the body is no request at all.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            Some("invalid_json"),
            message,
        )
    }

    /// 400: prompt and answer do not fit the model's context.
    pub fn context_length(message: impl Into<String>) -> Self {
        Self {
            code: Some("context_length_exceeded"),
            ..Self::invalid("messages", message)
        }
    }

    /// 401.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            Some("invalid_api_key"),
            message,
        )
    }

    /// 404: no such model.
    pub fn model_not_found(id: &str) -> Self {
        let message = format!(
            "the model {:?} does not exist; GET /v1/models lists those that do",
            shortened(id)
        );
        let error = Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("model_not_found"),
            message,
        );
        Self {
            param: Some("model".to_owned()),
            ..error
        }
    }

    /// 404 or 405: no such path, or not with this method.
    pub fn wrong_url(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", Some("unknown_url"), message)
    }

    /// 408: the body did not arrive in time.
    pub fn body_timeout(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            Some("request_timeout"),
            message,
        )
    }

    /// 413.
    pub fn body_too_large(limit_bytes: usize) -> Self {
        let message = format!("the request body has more than {limit_bytes} bytes");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("request_too_large"),
            message,
        )
    }

    /// 429: this client has as many answers in progress as it may have.
    pub fn too_many_streams(message: impl Into<String>) -> Self {
        Self {
            code: Some("concurrency_limit"),
            ..Self::busy(message)
        }
    }

    /// 429: no place left; nothing was begun.
    pub fn busy(message: impl Into<String>) -> Self {
        let error = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            Some("queue_full"),
            message,
        );
        Self {
            retry_after_s: Some(RETRY_WHEN_BUSY_S),
            ..error
        }
    }

    /// 503: the model exists but cannot answer now.
    pub fn not_ready(message: impl Into<String>) -> Self {
        let error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "service_unavailable",
            Some(NOT_READY),
            message,
        );
        Self {
            retry_after_s: Some(RETRY_WHEN_NOT_READY_S),
            ..error
        }
    }

    /// 503: an answer had begun and cannot go on.
    pub fn interrupted(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            ..Self::not_ready(message)
        }
    }

    /// 500: a fault of ours; the log has more under the request's id.
    pub fn internal(request_id: &str) -> Self {
        let message = format!("the server failed on this request; its log has more under request id {request_id}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            Some("internal_error"),
            message,
        )
    }

    /// The `{"error": ...}` object.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Characters of a client's own words that an error repeats.
const MAX_QUOTED: usize = 128;

/// `text`, cut where it is too long to be repeated in an error.
#[must_use]
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
