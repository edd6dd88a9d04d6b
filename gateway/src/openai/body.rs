//! Request bodies of bounded size and time.

use std::time::Duration;

use axum::extract::Request;
use futures::StreamExt;
use http::header;

use super::error::ApiError;

/// Bytes of a request body: the tokeniser's limit on text.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Bytes past the limit that are read and thrown away, so that the client gets to read the refusal and not a broken
/// connection.
const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;
/// Longest wait for a whole body: 4 MiB take a second on the slowest links in use.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// The whole body.
///
/// # Errors
/// 413, 408, or 400 when the client broke off.
pub async fn read(request: Request) -> Result<Vec<u8>, ApiError> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > (MAX_BODY_BYTES + MAX_DISCARDED_BYTES) as u64) {
        return Err(ApiError::body_too_large(MAX_BODY_BYTES));
    }
    match tokio::time::timeout(BODY_LIMIT, collect(request)).await {
        Ok(body) => body,
        Err(_) => Err(ApiError::body_timeout(format!(
            "the request body did not arrive within {} s",
            BODY_LIMIT.as_secs()
        ))),
    }
}

async fn collect(request: Request) -> Result<Vec<u8>, ApiError> {
    let mut chunks = request.into_body().into_data_stream();
    let mut body = Vec::new();
    let mut received = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::malformed("the request body broke off"))?;
        received = received.saturating_add(chunk.len());
        if received > MAX_BODY_BYTES + MAX_DISCARDED_BYTES {
            break;
        }
        if received <= MAX_BODY_BYTES {
            body.extend_from_slice(&chunk);
        } else {
            body = Vec::new();
        }
    }
    if received > MAX_BODY_BYTES {
        Err(ApiError::body_too_large(MAX_BODY_BYTES))
    } else {
        Ok(body)
    }
}
