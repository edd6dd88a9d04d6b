//! One answer in progress: tokens in, text out, cut at stop strings, counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::shape::{Header, Usage};
use crate::context::Seat;
use crate::detokenise::Detokeniser;
use crate::generate::{GenerateError, Generation, Progress};
use crate::metrics::Metrics;
use crate::occupancy::Place;
use crate::stop::{Passed, StopFilter};
use crate::tokenizer::Vocabulary;

/// Which of the two forms of completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

impl Kind {
    /// The field that holds the prompt.
    #[must_use]
    pub fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Text => "prompt",
        }
    }
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// More text, never empty.
    Text(String),
    /// The end, with OpenAI's `finish_reason`.
    End(&'static str),
}

/// An answer in progress. Dropping it cancels it at the workers.
#[derive(Debug)]
pub struct Turn {
    /// What all parts of the answer repeat.
    pub header: Header,
    /// What came before the answer was begun.
    first: Option<Piece>,
    /// `None` once nothing more is wanted from the workers.
    generation: Option<Generation>,
    prompt_tokens: usize,
    completion_tokens: usize,
    cached_tokens: Option<u32>,
    vocabulary: Arc<Vocabulary>,
    detokeniser: Option<Detokeniser>,
    stops: Option<StopFilter>,
    ended: Option<&'static str>,
    request_id: String,
    metrics: Arc<Metrics>,
    started: Instant,
    last_token: Option<Instant>,
    end_by: Instant,
    cut_off: CancellationToken,
    _seat: Seat,
    _place: Place<String>,
}

/// What a turn needs beside its generation.
#[derive(Debug)]
pub struct TurnParts {
    /// What all parts of the answer repeat.
    pub header: Header,
    /// Token ids to text.
    pub vocabulary: Arc<Vocabulary>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Names it in logs.
    pub request_id: String,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// When the request came.
    pub started: Instant,
    /// When it must have ended.
    pub end_by: Instant,
    /// Ends it when the process must end.
    pub cut_off: CancellationToken,
    /// Its places among the answers.
    pub seat: Seat,
    /// Its place at the model.
    pub place: Place<String>,
}

impl Turn {
    /// Follows a generation that a head has accepted.
    #[must_use]
    pub fn new(generation: Generation, parts: TurnParts) -> Self {
        let TurnParts {
            header,
            vocabulary,
            stop,
            request_id,
            metrics,
            started,
            end_by,
            cut_off,
            seat,
            place,
        } = parts;
        metrics.active_streams.inc();
        let prompt_tokens = generation.memory().prompt.len();
        metrics.prompt_tokens.inc_by(prompt_tokens as u64);
        Self {
            header,
            first: None,
            generation: Some(generation),
            prompt_tokens,
            completion_tokens: 0,
            cached_tokens: None,
            vocabulary,
            detokeniser: Some(Detokeniser::default()),
            stops: Some(StopFilter::new(stop)),
            ended: None,
            request_id,
            metrics,
            started,
            last_token: None,
            end_by,
            cut_off,
            _seat: seat,
            _place: place,
        }
    }

    /// The tokens so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            cached_tokens: self.cached_tokens,
        }
    }

    /// Waits for the first piece, until `until` at most: a request that finds no place in time is still refused as such,
    /// and not within an answer that has begun.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn begin(&mut self, until: Instant) -> Result<(), ApiError> {
        if let Ok(first) = tokio::time::timeout_at(until, self.next()).await {
            self.first = Some(first?);
        }
        Ok(())
    }

    /// The next piece of text, or the end, again and again. Safe to cancel.
    ///
    /// # Errors
    /// When the answer cannot go on; nothing follows.
    pub async fn next(&mut self) -> Result<Piece, ApiError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            let Some(generation) = &mut self.generation else {
                return Ok(Piece::End(self.ended.unwrap_or("stop")));
            };
            let progress = tokio::select! {
                biased;
                () = self.cut_off.cancelled() => Err(shutting_down()),
                () = tokio::time::sleep_until(self.end_by) => Err(overdue(self.end_by - self.started)),
                progress = generation.next() => progress.map_err(|error| explain(&error, &self.request_id)),
            };
            let standstill = generation.take_standstill();
            let text = match progress {
                Ok(Progress::Token(token)) => {
                    if let Some(standstill) = standstill {
                        self.metrics.resumed_streams.inc();
                        self.metrics.standstill.observe(standstill.as_secs_f64());
                    }
                    self.token(token)
                }
                Ok(Progress::Finished { length, cached_tokens }) => {
                    // Of an answer that was taken on, its own beginning counts as prompt to the workers.
                    let prompt_tokens = u32::try_from(self.prompt_tokens).unwrap_or(u32::MAX);
                    let cached_tokens = cached_tokens.min(prompt_tokens);
                    self.cached_tokens = Some(cached_tokens);
                    self.metrics.cached_prompt_tokens.inc_by(cached_tokens.into());
                    let Passed { text, stopped } = self.rest();
                    // What was held back may have been all of a stop string.
                    self.end(if length && !stopped { "length" } else { "stop" });
                    text
                }
                Err(error) => {
                    self.generation = None;
                    if self.last_token.is_some() {
                        self.metrics.interrupted_streams.inc();
                    }
                    return Err(error);
                }
            };
            if !text.is_empty() {
                return Ok(Piece::Text(text));
            }
        }
    }

    fn token(&mut self, token: i32) -> String {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => self.metrics.first_token.observe((now - self.started).as_secs_f64()),
            Some(last) => self.metrics.inter_token.observe((now - last).as_secs_f64()),
        }
        self.completion_tokens += 1;
        self.metrics.completion_tokens.inc();
        let (Some(detokeniser), Some(stops)) = (&mut self.detokeniser, &mut self.stops) else {
            return String::new();
        };
        // A token outside the vocabulary prints nothing.
        let text = detokeniser.push(self.vocabulary.pieces.get(token).unwrap_or_default());
        let Passed { text, stopped } = stops.push(&text);
        if stopped {
            self.end("stop");
        }
        text
    }

    /// What was held back, after the last token.
    fn rest(&mut self) -> Passed {
        let unfinished = self.detokeniser.take().map(Detokeniser::finish).unwrap_or_default();
        let Some(mut stops) = self.stops.take() else {
            return Passed::default();
        };
        let mut last = stops.push(&unfinished);
        if !last.stopped {
            last.text.push_str(&stops.finish());
        }
        last
    }

    /// Lets go of the workers: a generation that goes on is cancelled.
    fn end(&mut self, reason: &'static str) {
        self.generation = None;
        self.ended = Some(reason);
        self.metrics.duration.observe(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.metrics.active_streams.dec();
    }
}

fn shutting_down() -> ApiError {
    ApiError::interrupted("server_shutdown", "this server is shutting down; ask again")
}

/// An answer that ran out of its time.
pub(super) fn overdue(limit: Duration) -> ApiError {
    let message = format!(
        "the answer took longer than the {:.1} s it may take",
        limit.as_secs_f64()
    );
    ApiError {
        status: http::StatusCode::GATEWAY_TIMEOUT,
        retry_after_s: None,
        ..ApiError::interrupted("deadline_exceeded", message)
    }
}

/// What a client is told of a generation that ended badly.
#[must_use]
pub fn explain(error: &GenerateError, request_id: &str) -> ApiError {
    match error {
        GenerateError::NotReady { message } => ApiError::not_ready(format!("the model is not ready: {message}")),
        GenerateError::Gone => ApiError {
            status: http::StatusCode::NOT_FOUND,
            retry_after_s: None,
            ..ApiError::interrupted("model_not_found", "the model was deleted")
        },
        GenerateError::Busy { message, retry_after_s } => {
            let numbers = if message.is_empty() {
                String::new()
            } else {
                format!(": {message}")
            };
            let busy = ApiError::busy(format!(
                "every place of this model is taken{numbers}; try again shortly"
            ));
            ApiError {
                retry_after_s: retry_after_s.or(busy.retry_after_s),
                ..busy
            }
        }
        GenerateError::Lost => ApiError::interrupted(
            "workers_lost",
            "workers of this model were lost and no others took their place in time; ask again",
        ),
        GenerateError::Replaced => ApiError::interrupted(
            "model_changed",
            "the model was changed while it answered, and its new weights cannot go on with the answer; ask again",
        ),
        GenerateError::Refused { message } => {
            ApiError::invalid("messages", format!("the model refuses this request: {message}"))
        }
        GenerateError::Stalled { waited } => {
            tracing::error!(request_id, waited_s = waited.as_secs(), "the workers stalled");
            let message = format!("the model gave no token for {} s; ask again", waited.as_secs());
            ApiError {
                status: http::StatusCode::GATEWAY_TIMEOUT,
                ..ApiError::interrupted("timeout", message)
            }
        }
        GenerateError::Internal { message } => {
            tracing::error!(request_id, %message, "the workers failed");
            ApiError::internal(request_id)
        }
    }
}
