//! What every request passes first: an id, a count, and the bearer key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::error::ApiError;
use crate::context::Gateway;
use crate::keys::KeyId;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a client's own request id; longer ones are replaced by ours.
const MAX_REQUEST_ID: usize = 128;

/// Names one request in answers and logs: the client's own, or a new one.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

pub(super) async fn guard(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match check_key(&gateway, request.headers()) {
        Ok(key) => {
            request.extensions_mut().insert(key);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    };
    let status = response.status();
    gateway.metrics.requests.with_label_values(&[status.as_str()]).inc();
    tracing::debug!(request_id = %id, %method, path = %super::error::shortened(&path), %status, "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn request_id(headers: &HeaderMap) -> String {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let offered = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match offered {
        Some(id) if !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(harmless) => id.to_owned(),
        _ => format!("req-{}", uuid::Uuid::new_v4().simple()),
    }
}

fn check_key(gateway: &Gateway, headers: &HeaderMap) -> Result<KeyId, ApiError> {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return Err(ApiError::unauthenticated(
            "no API key; send the header `Authorization: Bearer <key>`",
        ));
    };
    let mut words = authorization.to_str().unwrap_or_default().splitn(2, ' ');
    match (words.next(), words.next().map(str::trim)) {
        (Some(scheme), Some(key)) if scheme.eq_ignore_ascii_case("bearer") && !key.is_empty() => {
            gateway.keys.identify(key).ok_or_else(|| {
                ApiError::unauthenticated("this API key is not accepted; ask whoever runs this server for one")
            })
        }
        _ => Err(ApiError::unauthenticated(
            "the header Authorization must be `Bearer <key>`",
        )),
    }
}
