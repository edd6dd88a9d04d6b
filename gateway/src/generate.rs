//! One request at the workers: from prompt tokens to answer tokens.
//!
//! A request outlives the workers that compute it. When its head is lost, or the placement changes, the prompt and the tokens
//! received so far are given to the newest pipeline, which goes on where the last one stopped: nothing that was received is
//! changed, repeated or lost. The rest is what the new pipeline yields for that beginning, as sampling depends on seed and
//! position alone; with `determinism: Strict` on CPUs it is the same to the byte.
//!
//! ```text
//!  start ─▶ search ─▶ a head's stream ─▶ tokens ─▶ finished
//!              ▲             │ lost
//!              └── patience ◀┘
//! ```

mod error;
mod heads;
mod memory;
mod patience;
mod search;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use proto::shard::v1::generate_event::Event;
use proto::shard::v1::{FinishReason, GenerateEvent};
use tokio::sync::watch;
use tokio::time::Instant;

pub use error::GenerateError;
pub use heads::Heads;
pub use memory::RequestMemory;
pub use patience::{BARREN_RESUMES_MAX, CAPACITY_LIMIT, RESUME_LIMIT, RETRY_LIMIT};

use crate::routes::Table;
use error::Failure;
use memory::Place;
use patience::Resumes;
use search::{Open, Search};

/// Longest wait for a first token, the head's queue and the prefill of a full context on slow devices included.
const FIRST_TOKEN_LIMIT: Duration = Duration::from_secs(600);
/// Longest wait between two tokens: a pipeline that is alive answers within seconds.
const NEXT_TOKEN_LIMIT: Duration = Duration::from_secs(60);

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
    /// `None` while no head has the request.
    open: Option<Open>,
    resumes: Resumes,
    /// When the head was lost, until a token follows.
    lost_at: Option<Instant>,
    /// How long the answer stood still, to be taken by [`Generation::take_standstill`].
    standstill: Option<Duration>,
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
        let mut generation = Self {
            heads,
            tables,
            memory,
            open: None,
            resumes: Resumes::default(),
            lost_at: None,
            standstill: None,
        };
        generation.open = Some(generation.search(Instant::now(), false).await?);
        Ok(generation)
    }

    /// What was asked and answered so far.
    #[must_use]
    pub fn memory(&self) -> &RequestMemory {
        &self.memory
    }

    /// How long the answer stood still before the token that came last, where that was for a lost head. Told once.
    pub fn take_standstill(&mut self) -> Option<Duration> {
        self.standstill.take()
    }

    /// The next token, or the end. Safe to cancel.
    ///
    /// # Errors
    /// See [`GenerateError`]; nothing follows an error.
    pub async fn next(&mut self) -> Result<Progress, GenerateError> {
        loop {
            if self.open.is_none() {
                if self.memory.begun() && self.memory.complete() {
                    // Its last word was lost, and nothing else.
                    return Ok(finished(true, 0));
                }
                let since = self.lost_at.unwrap_or_else(Instant::now);
                self.open = Some(self.search(since, true).await?);
            }
            match self.event().await {
                Ok(Event::Token(token)) => match self.memory.place(&token) {
                    Place::Next => return Ok(self.take(token.id)),
                    Place::Known => {}
                    Place::Gap => self.lose(Failure::Lost(format!("token {} came too early", token.position)))?,
                },
                Ok(Event::Finished(end)) => {
                    return Ok(finished(end.reason() == FinishReason::Length, end.cached_tokens));
                }
                Err(failure) => self.lose(failure)?,
            }
        }
    }

    /// What the head says next.
    async fn event(&mut self) -> Result<Event, Failure> {
        let Some(open) = &mut self.open else {
            return Err(Failure::Lost("no head has the request".to_owned()));
        };
        let limit = if self.memory.begun() && self.lost_at.is_none() {
            NEXT_TOKEN_LIMIT
        } else {
            FIRST_TOKEN_LIMIT
        };
        loop {
            return match tokio::time::timeout(limit, open.stream.message()).await {
                Err(_) => Err(Failure::Stalled(limit)),
                Ok(Ok(Some(GenerateEvent { event: Some(event) }))) => Ok(event),
                // An event of a kind this version does not know.
                Ok(Ok(Some(GenerateEvent { event: None }))) => continue,
                Ok(Ok(None)) => Err(Failure::Lost("the head ended the stream without finishing".to_owned())),
                Ok(Err(status)) => Err(error::classify(&status)),
            };
        }
    }

    /// The head will not finish the answer; an error where no other may go on with it.
    fn lose(&mut self, failure: Failure) -> Result<(), GenerateError> {
        let begun = self.memory.begun();
        let goes_on = match &failure {
            Failure::Lost(_) => true,
            // What was begun is worth another try: the head has no room any more, or one step failed.
            Failure::Busy { .. } | Failure::Internal(_) | Failure::Stalled(_) => begun,
            Failure::Refused(_) => false,
        };
        if !goes_on || !self.resumes.lost() {
            return Err(failure.into_error());
        }
        if begun {
            let (request_id, tokens) = (&self.memory.request_id, self.memory.emitted.len());
            tracing::warn!(%request_id, tokens, ?failure, "answer interrupted; going on elsewhere");
        }
        self.open = None;
        let now = Instant::now();
        // What has not begun stands nowhere still: it may have waited long for its turn, and is given its time anew.
        self.lost_at = self.lost_at.filter(|_| begun).or(Some(now));
        Ok(())
    }

    fn take(&mut self, token: i32) -> Progress {
        if let Some(lost_at) = self.lost_at.take()
            && self.memory.begun()
        {
            self.standstill = Some(lost_at.elapsed());
        }
        self.resumes.progressed();
        self.memory.emitted.push(token);
        Progress::Token(token)
    }

    async fn search(&mut self, since: Instant, lost: bool) -> Result<Open, GenerateError> {
        let search = Search {
            heads: &self.heads,
            tables: &mut self.tables,
            memory: &self.memory,
            since,
            lost,
        };
        search.run().await
    }
}

fn finished(length: bool, cached_tokens: u32) -> Progress {
    Progress::Finished { length, cached_tokens }
}
