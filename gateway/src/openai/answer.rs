//! Asks the model and sends the answer, whole or in pieces.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::error::ApiError;
use super::models;
use super::parameters::Parameters;
use super::patience::Patience;
use super::prompt::{self, Prompt};
use super::shape::Header;
use super::turn::{Kind, Piece, Turn, TurnParts, explain, overdue};
use crate::context::{Admission, Gateway};
use crate::generate::{Generation, RequestMemory};
use crate::keys::KeyId;
use crate::routes::{Model, ModelState, Route};
use crate::vocabulary::{Speech, SpeechState};

/// Silence after which a comment is sent, so that nobody between takes the stream for dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Events that wait for a slow reader before the answer waits as well.
const BUFFERED_EVENTS: usize = 64;
/// How long a reader may take no event before its answer is given up: it holds a sequence that others wait for.
const SLOW_READER_LIMIT: Duration = Duration::from_secs(60);

/// What is known of a request beside its body.
#[derive(Debug)]
pub struct Caller {
    /// Names it in answers and logs.
    pub request_id: String,
    /// Whose it is.
    pub key: KeyId,
    /// When it came.
    pub started: Instant,
    /// How long it may wait and take.
    pub patience: Patience,
}

/// How long after its wait has ended a head's refusal may arrive.
const LATE_REFUSAL: Duration = Duration::from_secs(1);

/// Answers one request.
///
/// # Errors
/// Whatever happens before the answer begins; later errors are part of a streamed answer.
pub async fn answer(
    gateway: &Arc<Gateway>,
    kind: Kind,
    caller: Caller,
    admission: Admission,
    parameters: Parameters,
    prompt: Prompt,
) -> Result<Response, ApiError> {
    let Caller {
        request_id,
        key,
        started,
        patience,
    } = caller;
    let Admission { preparing, seat } = admission;
    let model = models::find(&*models::table(gateway)?, &parameters.model)?;
    let (route, speech) = ready(gateway, &model)?;
    let place = gateway.enter(&model.uid)?;
    let late = || overdue(patience.end_by - started);
    let fitted = prompt::fit(prompt, &speech, route.context_length, parameters.max_tokens, kind);
    let fitted = tokio::time::timeout_at(patience.end_by, fitted)
        .await
        .map_err(|_| late())??;
    let memory = RequestMemory {
        model_uid: model.uid.clone(),
        weights: route.weights,
        request_id: request_id.clone(),
        prompt: fitted.tokens,
        emitted: Vec::new(),
        max_tokens: fitted.max_tokens,
        sampling: parameters.sampling(uuid::Uuid::new_v4().as_u64_pair().1),
        stop_tokens: speech.vocabulary.end_of_generation.iter().copied().collect(),
        wait_until: patience.wait_until,
        prefix_scope: key.prefix_scope(),
    };
    let generation = Generation::start(Arc::clone(&gateway.heads), gateway.tables.clone(), memory);
    let generation = tokio::time::timeout_at(patience.end_by, generation)
        .await
        .map_err(|_| late())?
        .map_err(|error| explain(&error, &request_id))?;
    // From here on it is some tokens and a connection.
    drop(preparing);
    let header = header(kind, &parameters);
    let parts = TurnParts {
        header,
        vocabulary: Arc::clone(&speech.vocabulary),
        stop: parameters.stop,
        request_id,
        metrics: Arc::clone(&gateway.metrics),
        started,
        end_by: patience.end_by,
        cut_off: gateway.cut_off.clone(),
        seat,
        place,
    };
    let mut turn = Turn::new(generation, parts);
    if parameters.stream {
        turn.begin(patience.wait_until + LATE_REFUSAL).await?;
        Ok(in_pieces(turn, parameters.include_usage))
    } else {
        whole(turn).await
    }
}

/// Where a model that can be asked is asked, and what it speaks.
fn ready<'m>(gateway: &Gateway, model: &'m Model) -> Result<(&'m Route, Arc<Speech>), ApiError> {
    let not_ready =
        |cause: &str| ApiError::not_ready(format!("the model {} is not ready: {cause}", model.qualified_id()));
    let route = match &model.state {
        ModelState::Ready(route) => route,
        ModelState::NotReady { message, .. } => return Err(not_ready(message)),
    };
    let digest = model
        .vocabulary
        .ok_or_else(|| not_ready("its vocabulary is not known yet"))?;
    match gateway.vocabularies.get(&digest) {
        SpeechState::Ready(speech) => Ok((route, speech)),
        SpeechState::Preparing(cause) => Err(not_ready(&cause)),
    }
}

fn header(kind: Kind, parameters: &Parameters) -> Header {
    let prefix = match kind {
        Kind::Chat => "chatcmpl",
        Kind::Text => "cmpl",
    };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Header {
        kind,
        id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
        created_unix_s: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        model: parameters.model.clone(),
    }
}

async fn whole(mut turn: Turn) -> Result<Response, ApiError> {
    let mut text = String::new();
    loop {
        match turn.next().await? {
            Piece::Text(more) => text.push_str(&more),
            Piece::End(reason) => return Ok(Json(turn.header.whole(&text, reason, turn.usage())).into_response()),
        }
    }
}

fn in_pieces(turn: Turn, include_usage: bool) -> Response {
    let (events, stream) = mpsc::channel(BUFFERED_EVENTS);
    // Ends with the answer or as soon as the client has gone; the turn goes with it and cancels the generation.
    tokio::spawn(async move {
        tokio::select! {
            () = events.closed() => {}
            _ = send_pieces(turn, include_usage, &events) => {}
        }
    });
    let stream = ReceiverStream::new(stream).map(Ok::<Event, Infallible>);
    let mut response = Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(KEEPALIVE_INTERVAL))
        .into_response();
    // Proxies that buffer would hold tokens back.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// Nobody reads any more.
struct ReaderGone;

async fn send_pieces(mut turn: Turn, include_usage: bool, events: &mpsc::Sender<Event>) -> Result<(), ReaderGone> {
    // With `include_usage` every piece but the last says that it has none.
    let shaped = |mut chunk: Value| {
        if include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    if let Some(opening) = turn.header.opening() {
        send(events, shaped(opening).to_string()).await?;
    }
    loop {
        match turn.next().await {
            Ok(Piece::Text(text)) => send(events, shaped(turn.header.text(&text)).to_string()).await?,
            Ok(Piece::End(reason)) => {
                send(events, shaped(turn.header.closing(reason)).to_string()).await?;
                if include_usage {
                    send(events, turn.header.usage(turn.usage()).to_string()).await?;
                }
                return send(events, "[DONE]".to_owned()).await;
            }
            Err(error) => return send(events, error.body().to_string()).await,
        }
    }
}

async fn send(events: &mpsc::Sender<Event>, data: String) -> Result<(), ReaderGone> {
    events
        .send_timeout(Event::default().data(data), SLOW_READER_LIMIT)
        .await
        .map_err(|_| ReaderGone)
}
