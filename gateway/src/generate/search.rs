//! The search for a head that takes a request, or takes on what another one began.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::shard::v1::{GenerateEvent, GenerateRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Streaming;

use super::error::{self, Failure, GenerateError};
use super::heads::{Heads, Lease};
use super::memory::RequestMemory;
use super::{FIRST_TOKEN_LIMIT, patience};
use crate::routes::{Head, ModelState, Route, Table};

/// The first pause between two attempts, each of which doubles it; a changed route ends it early. A pipeline whose last stage is started
/// again stands within two tenths of a second.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// An accepted request at one head.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) stream: Streaming<GenerateEvent>,
    _lease: Lease,
}

/// What one search goes by.
pub(super) struct Search<'a> {
    pub(super) heads: &'a Arc<Heads>,
    pub(super) tables: &'a mut watch::Receiver<Option<Arc<Table>>>,
    pub(super) memory: &'a RequestMemory,
    /// When the search began: with the request, or with the loss of the head that had it.
    pub(super) since: Instant,
    /// Another head had it: then a model that is not ready now is waited for.
    pub(super) lost: bool,
}

/// What became of one round over the heads.
enum Round {
    Open(Box<Open>),
    /// Not now.
    Later(GenerateError),
}

impl Search<'_> {
    /// Asks one head after another until one accepts.
    pub(super) async fn run(mut self) -> Result<Open, GenerateError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let state = self.state()?;
            let verdict = match &state {
                ModelState::Ready(route) => match self.ask_all(route).await? {
                    Round::Open(open) => return Ok(*open),
                    Round::Later(verdict) => verdict,
                },
                ModelState::NotReady { message, .. } => GenerateError::NotReady {
                    message: message.clone(),
                },
            };
            let now = Instant::now();
            let until = self.since + patience::limit(&state, self.lost, self.memory.begun());
            if now >= until {
                return Err(verdict);
            }
            // Either ends the pause: a new route, or time enough for the same head to recover.
            let _ = tokio::time::timeout_at(until.min(now + pause), self.tables.changed()).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn state(&mut self) -> Result<ModelState, GenerateError> {
        let table = self.tables.borrow_and_update();
        let model = table.as_ref().and_then(|table| table.by_uid(&self.memory.model_uid));
        model.map(|model| model.state.clone()).ok_or(GenerateError::Gone)
    }

    /// Asks a head for as long as the table names it: one that is gone without a word is dialled for seconds, and its successor may be
    /// known long before.
    async fn ask_while_named(&mut self, head: &Head, request: GenerateRequest) -> Result<Open, Failure> {
        let asking = ask(self.heads, head, request);
        tokio::pin!(asking);
        loop {
            tokio::select! {
                biased;
                asked = &mut asking => return asked,
                Ok(()) = self.tables.changed() => {}
            }
            if !self.is_named(head) {
                // It is news for the next attempt, which need not pause.
                self.tables.mark_changed();
                return Err(Failure::Lost("another head has taken its place".to_owned()));
            }
        }
    }

    fn is_named(&self, head: &Head) -> bool {
        let table = self.tables.borrow();
        let model = table.as_ref().and_then(|table| table.by_uid(&self.memory.model_uid));
        model.is_some_and(|model| matches!(&model.state, ModelState::Ready(route) if route.heads.contains(head)))
    }

    /// Asks the heads of a route, the least busy first, until one accepts.
    async fn ask_all(&mut self, route: &Route) -> Result<Round, GenerateError> {
        if route.weights != self.memory.weights {
            return Err(GenerateError::Replaced);
        }
        let mut full: HashSet<Head> = HashSet::new();
        let mut refusal = String::new();
        let mut soonest_s: Option<u32> = None;
        while let Some(head) = self.heads.least_busy(&route.heads, &full) {
            let wait = patience::seat(self.memory, self.since, Instant::now());
            let request = self.memory.request(route.epoch_of(head), wait);
            match self.ask_while_named(head, request).await {
                Ok(open) => return Ok(Round::Open(Box::new(open))),
                Err(Failure::Busy { message, retry_after_s }) => {
                    full.insert(head.clone());
                    refusal = message;
                    soonest_s = [soonest_s, retry_after_s].into_iter().flatten().min();
                }
                Err(Failure::Lost(cause)) => {
                    tracing::info!(request_id = %self.memory.request_id, %cause, "head lost; asking again");
                    self.lost = true;
                    return Ok(Round::Later(GenerateError::Lost));
                }
                Err(other) => return Err(other.into_error()),
            }
        }
        let busy = GenerateError::Busy {
            message: refusal,
            retry_after_s: soonest_s,
        };
        // Whoever has begun waits for a seat; whoever has not is told to ask again.
        if self.memory.begun() {
            Ok(Round::Later(busy))
        } else {
            Err(busy)
        }
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
