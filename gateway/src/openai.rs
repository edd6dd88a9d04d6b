//! The OpenAI API: models, chat completions, text completions.
//!
//! ```text
//!  guard ──▶ body ──▶ parameters ──▶ prompt ──▶ turn ──▶ answer
//!  id, key   limits   validated      template,   one      whole, or in pieces (SSE)
//!                                    tokens      generation
//! ```

pub mod answer;
pub mod body;
pub mod chat;
pub mod error;
pub mod fields;
mod guard;
pub mod models;
mod moment;
pub mod parameters;
pub mod patience;
pub mod prompt;
pub mod resume;
mod sending;
pub mod shape;
#[cfg(test)]
mod tests;
pub mod text;
pub mod turn;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{Method, StatusCode, Uri};
use tokio::time::Instant;

use crate::context::Gateway;
use crate::keys::KeyId;
use answer::Caller;
use chat::ChatRequest;
use error::ApiError;
use guard::RequestId;
use patience::Patience;
use prompt::Prompt;
use resume::Seen;
use text::TextRequest;
use turn::Kind;

/// Everything on the user port.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), guard::guard))
        .with_state(gateway)
}

async fn chat_completions(
    State(gateway): State<Arc<Gateway>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(key): Extension<KeyId>,
    request: Request,
) -> Response {
    let answer = async {
        let caller = caller(&gateway, id, key, &request)?;
        let admission = gateway.admit(key)?;
        let ChatRequest { parameters, messages } = ChatRequest::parse(&body::read(request).await?)?;
        let prompt = Prompt::Messages(messages);
        answer::answer(&gateway, Kind::Chat, caller, admission, parameters, prompt).await
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

async fn completions(
    State(gateway): State<Arc<Gateway>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(key): Extension<KeyId>,
    request: Request,
) -> Response {
    let answer = async {
        let caller = caller(&gateway, id, key, &request)?;
        let admission = gateway.admit(key)?;
        let TextRequest { parameters, prompt } = TextRequest::parse(&body::read(request).await?)?;
        answer::answer(&gateway, Kind::Text, caller, admission, parameters, prompt).await
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

fn caller(gateway: &Gateway, request_id: String, key: KeyId, request: &Request) -> Result<Caller, ApiError> {
    let started = Instant::now();
    Ok(Caller {
        request_id,
        key,
        started,
        patience: Patience::read(request.headers(), gateway.limits.request, started)?,
        seen: Seen::read(request.headers())?,
    })
}

async fn no_such_path(uri: Uri) -> ApiError {
    let message = format!(
        "there is nothing at {}; this server has /v1/models, /v1/chat/completions and /v1/completions",
        error::shortened(uri.path())
    );
    ApiError::wrong_url(StatusCode::NOT_FOUND, message)
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    ApiError::wrong_url(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not allowed at {}", error::shortened(uri.path())),
    )
}
