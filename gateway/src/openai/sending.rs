//! Sends the answers to one prompt, whole or in pieces.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::future::{join_all, try_join_all};
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::error::ApiError;
use super::resume::{Diverged, Thread};
use super::shape::{Choice, Usage};
use super::turn::{Piece, Turn};

/// Silence after which a comment is sent, so that nobody between takes the stream for dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Events that wait for a slow reader before the answer waits as well.
const BUFFERED_EVENTS: usize = 64;
/// How long a reader may take no event before its answer is given up: it holds a sequence that others wait for.
const SLOW_READER_LIMIT: Duration = Duration::from_secs(60);
/// The last word of a stream.
const DONE: &str = "[DONE]";

/// All answers at once.
///
/// # Errors
/// When one of them cannot go on.
pub(super) async fn whole(turns: Vec<Turn>) -> Result<Response, ApiError> {
    let ended = try_join_all(turns.into_iter().map(read)).await?;
    let usages: Vec<Usage> = ended.iter().map(|(turn, _)| turn.usage()).collect();
    let (turns, choices): (Vec<Turn>, Vec<Choice>) = ended.into_iter().unzip();
    // A request has one choice at least.
    let first = turns.first().ok_or_else(|| ApiError::internal("no choice"))?;
    Ok(Json(first.header.whole(&choices, Usage::of_all(&usages))).into_response())
}

async fn read(mut turn: Turn) -> Result<(Turn, Choice), ApiError> {
    let mut text = String::new();
    loop {
        match turn.next().await? {
            Piece::Text(more) => text.push_str(&more),
            Piece::End(finish_reason) => return Ok((turn, Choice { text, finish_reason })),
        }
    }
}

/// The answers as they come. With a thread, which only one answer has, every event says from where on to ask for the rest.
pub(super) fn in_pieces(turns: Vec<Turn>, thread: Option<Thread>, include_usage: bool) -> Response {
    let (events, stream) = mpsc::channel(BUFFERED_EVENTS);
    // Ends with the answer or as soon as the client has gone; the turns go with it and cancel their generations.
    tokio::spawn(async move {
        tokio::select! {
            () = events.closed() => {}
            _ = send_all(turns, thread, include_usage, &events) => {}
        }
    });
    response(stream)
}

/// The rest of a stream whose client has all but the last word.
pub(super) fn ended(thread: &Thread) -> Response {
    let (events, stream) = mpsc::channel(1);
    // There is room for one.
    let _ = events.try_send(event(DONE.to_owned(), Some(thread.id(true))));
    response(stream)
}

fn response(stream: mpsc::Receiver<Event>) -> Response {
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

/// Why an answer is sent no further.
enum Stopped {
    /// Nobody reads any more.
    ReaderGone,
    /// The client was told what is wrong.
    Told,
}

async fn send_all(
    turns: Vec<Turn>,
    thread: Option<Thread>,
    include_usage: bool,
    events: &mpsc::Sender<Event>,
) -> Result<(), Stopped> {
    let mut threads = vec![None; turns.len()];
    if let Some(first) = threads.first_mut() {
        *first = thread;
    }
    let sent = turns.into_iter().zip(threads).map(|(turn, thread)| {
        let mut sending = Sending {
            turn,
            thread,
            include_usage,
            events,
        };
        async move {
            sending.run().await?;
            Ok(sending)
        }
    });
    // One answer that breaks off does not end the others; without it the stream is not done.
    let sent: Vec<Sending<'_>> = join_all(sent).await.into_iter().collect::<Result<_, Stopped>>()?;
    let Some(first) = sent.first() else { return Ok(()) };
    let id = first.thread.as_ref().map(|thread| thread.id(true));
    if include_usage {
        let usages: Vec<Usage> = sent.iter().map(|sending| sending.turn.usage()).collect();
        let usage = first.turn.header.usage(Usage::of_all(&usages));
        send(events, usage.to_string(), id.clone()).await?;
    }
    send(events, DONE.to_owned(), id).await
}

/// One answer on its way.
struct Sending<'a> {
    turn: Turn,
    thread: Option<Thread>,
    include_usage: bool,
    events: &'a mpsc::Sender<Event>,
}

impl Sending<'_> {
    async fn run(&mut self) -> Result<(), Stopped> {
        let resumes = self.thread.as_ref().is_some_and(Thread::resumes);
        if let Some(opening) = self.turn.header.opening().filter(|_| !resumes) {
            self.send(opening, false).await?;
        }
        loop {
            match self.turn.next().await {
                Ok(Piece::Text(text)) => {
                    let pushed = match &mut self.thread {
                        Some(thread) => thread.push(text),
                        None => Ok(text),
                    };
                    let Ok(text) = pushed else { return self.diverged().await };
                    if !text.is_empty() {
                        self.send(self.turn.header.text(&text), false).await?;
                    }
                }
                Ok(Piece::End(reason)) => {
                    if let Some(Err(Diverged)) = self.thread.as_mut().map(Thread::end) {
                        return self.diverged().await;
                    }
                    return self.send(self.turn.header.closing(reason), true).await;
                }
                Err(error) => return self.tell(&error).await,
            }
        }
    }

    async fn send(&self, mut chunk: Value, ended: bool) -> Result<(), Stopped> {
        // Then every piece but the last says that it has none.
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        let id = self.thread.as_ref().map(|thread| thread.id(ended));
        send(self.events, chunk.to_string(), id).await
    }

    async fn diverged(&self) -> Result<(), Stopped> {
        let message = "the answer came out differently than what this client has of it, and is not joined to that; ask anew, or \
                       have the model served with determinism: Strict";
        self.tell(&ApiError::interrupted("resume_diverged", message)).await
    }

    async fn tell(&self, error: &ApiError) -> Result<(), Stopped> {
        send(self.events, error.body().to_string(), None).await?;
        Err(Stopped::Told)
    }
}

fn event(data: String, id: Option<String>) -> Event {
    let event = Event::default().data(data);
    match id {
        Some(id) => event.id(id),
        None => event,
    }
}

async fn send(events: &mpsc::Sender<Event>, data: String, id: Option<String>) -> Result<(), Stopped> {
    events
        .send_timeout(event(data, id), SLOW_READER_LIMIT)
        .await
        .map_err(|_| Stopped::ReaderGone)
}
