//! One request at the workers: from prompt tokens to answer tokens.
//!
//! Until its first token a request may move: when the head is lost or the placement changes it is asked again on the
//! newest route, for at most [`RETRY_LIMIT`]. After that a lost head ends it with [`GenerateError::Lost`].

mod error;
mod heads;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::shard::v1::generate_event::Event;
use proto::shard::v1::{FinishReason, GenerateEvent, GenerateRequest, Sampling};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Streaming;

pub use error::GenerateError;
pub use heads::Heads;

use crate::routes::{Head, ModelState, Table};
use error::Failure;
use heads::Lease;

/// How long a request that has no token yet looks for another head: a placement moves within seconds.
pub const RETRY_LIMIT: Duration = Duration::from_secs(5);
/// Longest pause between two attempts; a changed route ends it early.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for a first token, the head's queue and the prefill of a full context on slow devices included.
const FIRST_TOKEN_LIMIT: Duration = Duration::from_secs(600);
/// Longest wait between two tokens: a pipeline that is alive answers within seconds.
const NEXT_TOKEN_LIMIT: Duration = Duration::from_secs(60);

/// All that is needed to ask again, anywhere: the prompt, what was answered so far, and how to sample.
#[derive(Debug, Clone)]
pub struct RequestMemory {
    /// Which model, by its object's unique id.
    pub model_uid: String,
    /// For logs on both sides.
    pub request_id: String,
    /// The prompt.
    pub prompt: Vec<i32>,
    /// Tokens received from the workers.
    pub emitted: Vec<i32>,
    /// Tokens to emit at most.
    pub max_tokens: u32,
    /// The same seed gives the same tokens wherever it goes on.
    pub sampling: Sampling,
    /// Tokens that end the sequence.
    pub stop_tokens: Vec<i32>,
    /// Until when it may wait for a free sequence.
    pub wait_until: Instant,
    /// Whose prefixes it may share.
    pub prefix_scope: Vec<u8>,
}

impl RequestMemory {
    /// The request that yields what is still missing, asked at `now`.
    #[must_use]
    pub fn request(&self, epoch: u64, now: Instant) -> GenerateRequest {
        let wait = self.wait_until.saturating_duration_since(now);
        let emitted = u32::try_from(self.emitted.len()).unwrap_or(u32::MAX);
        GenerateRequest {
            model_uid: self.model_uid.clone(),
            epoch,
            request_id: self.request_id.clone(),
            prompt_tokens: self.prompt.iter().chain(&self.emitted).copied().collect(),
            max_tokens: self.max_tokens.saturating_sub(emitted),
            sampling: Some(self.sampling),
            stop_tokens: self.stop_tokens.clone(),
            // 0 would mean any time.
            max_wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1),
            prefix_scope: self.prefix_scope.clone(),
        }
    }
}

/// What comes next in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// One more token.
    Token(i32),
    /// The end: a stop token, or (`length`) no more may follow.
    Finished {
        /// `max_tokens` or the end of the context was reached.
        length: bool,
        /// Tokens of the prompt that the workers had kept from earlier requests.
        cached_tokens: u32,
    },
}

/// A request in progress. Dropping it cancels it at the workers.
#[derive(Debug)]
pub struct Generation {
    heads: Arc<Heads>,
    tables: watch::Receiver<Option<Arc<Table>>>,
    memory: RequestMemory,
    open: Open,
    /// Until when another head may be tried.
    retry_until: Instant,
}

/// An accepted request at one head.
#[derive(Debug)]
struct Open {
    stream: Streaming<GenerateEvent>,
    _lease: Lease,
}

impl Generation {
    /// Asks the least busy head and returns once one has accepted.
    ///
    /// # Errors
    /// See [`GenerateError`].
    pub async fn start(
        heads: Arc<Heads>,
        tables: watch::Receiver<Option<Arc<Table>>>,
        memory: RequestMemory,
    ) -> Result<Self, GenerateError> {
        let retry_until = Instant::now() + RETRY_LIMIT;
        let mut tables = tables;
        let open = open(&heads, &mut tables, &memory, retry_until, None).await?;
        Ok(Self {
            heads,
            tables,
            memory,
            open,
            retry_until,
        })
    }

    /// What was asked and answered so far.
    #[must_use]
    pub fn memory(&self) -> &RequestMemory {
        &self.memory
    }

    /// The next token, or the end.
    ///
    /// # Errors
    /// See [`GenerateError`]; nothing follows an error.
    pub async fn next(&mut self) -> Result<Progress, GenerateError> {
        loop {
            let begun = !self.memory.emitted.is_empty();
            let limit = if begun { NEXT_TOKEN_LIMIT } else { FIRST_TOKEN_LIMIT };
            let failure = match tokio::time::timeout(limit, self.open.stream.message()).await {
                Err(_) => return Err(GenerateError::Stalled { waited: limit }),
                Ok(Ok(Some(GenerateEvent { event: Some(event) }))) => return Ok(self.accept(&event)),
                // An event of a kind this version does not know.
                Ok(Ok(Some(GenerateEvent { event: None }))) => continue,
                Ok(Ok(None)) => Failure::Lost("the head ended the stream without finishing".to_owned()),
                Ok(Err(status)) => error::classify(&status),
            };
            if begun {
                tracing::warn!(request_id = %self.memory.request_id, ?failure, "answer interrupted");
                return Err(failure.into_error());
            }
            let pending = match failure {
                Failure::Lost(cause) => cause,
                other => return Err(other.into_error()),
            };
            // The limit counts from the loss: the request may have waited long for its turn.
            self.retry_until = self.retry_until.max(Instant::now() + RETRY_LIMIT);
            self.open = open(
                &self.heads,
                &mut self.tables,
                &self.memory,
                self.retry_until,
                Some(pending),
            )
            .await?;
        }
    }

    fn accept(&mut self, event: &Event) -> Progress {
        match event {
            Event::Token(token) => {
                self.memory.emitted.push(token.id);
                Progress::Token(token.id)
            }
            Event::Finished(finished) => Progress::Finished {
                length: finished.reason() == FinishReason::Length,
                cached_tokens: finished.cached_tokens,
            },
        }
    }
}

/// Asks one head after another until one accepts. `pending` says why an earlier one was lost: then a model that is not
/// ready now is waited for.
async fn open(
    heads: &Arc<Heads>,
    tables: &mut watch::Receiver<Option<Arc<Table>>>,
    memory: &RequestMemory,
    until: Instant,
    mut pending: Option<String>,
) -> Result<Open, GenerateError> {
    let mut busy: HashSet<Head> = HashSet::new();
    let mut refusal = String::new();
    let mut soonest_s: Option<u32> = None;
    loop {
        let route = {
            let table = tables.borrow_and_update();
            let model = table
                .as_ref()
                .and_then(|table| table.by_uid(&memory.model_uid))
                .map(|model| model.state.clone());
            model.ok_or(GenerateError::Gone)?
        };
        match route {
            ModelState::Ready(route) => {
                let Some(head) = heads.least_busy(&route.heads, &busy) else {
                    return Err(GenerateError::Busy {
                        message: refusal,
                        retry_after_s: soonest_s,
                    });
                };
                match ask(heads, head, memory.request(route.epoch_of(head), Instant::now())).await {
                    Ok(open) => return Ok(open),
                    Err(Failure::Busy { message, retry_after_s }) => {
                        busy.insert(head.clone());
                        refusal = message;
                        soonest_s = [soonest_s, retry_after_s].into_iter().flatten().min();
                        continue;
                    }
                    Err(Failure::Lost(cause)) => {
                        tracing::info!(request_id = %memory.request_id, %cause, "head lost; asking again");
                        pending = Some(cause);
                    }
                    Err(other) => return Err(other.into_error()),
                }
            }
            ModelState::NotReady { message, .. } if pending.is_none() => {
                return Err(GenerateError::NotReady { message });
            }
            ModelState::NotReady { .. } => {}
        }
        let now = Instant::now();
        if now >= until {
            return Err(GenerateError::Lost);
        }
        // Either ends the pause: a new route, or time enough for the same head to recover.
        let _ = tokio::time::timeout_at(until.min(now + RETRY_PAUSE), tables.changed()).await;
    }
}

async fn ask(heads: &Arc<Heads>, head: &Head, request: GenerateRequest) -> Result<Open, Failure> {
    let (mut client, lease) = heads.client(head).map_err(|error| Failure::Lost(error.to_string()))?;
    match tokio::time::timeout(FIRST_TOKEN_LIMIT, client.generate(request)).await {
        Ok(Ok(response)) => Ok(Open {
            stream: response.into_inner(),
            _lease: lease,
        }),
        Ok(Err(status)) => Err(error::classify(&status)),
        Err(_) => Err(Failure::Stalled(FIRST_TOKEN_LIMIT)),
    }
}
