//! Clients: each asks one request of the book after the other, and notes all that comes.

mod events;
mod prompts;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::history::{Attempt, End, Moment, Operation, Piece, Reference, Request};
use crate::{Error, Result};
use events::{Event, Seen, Stream, refusal};
use linkemu::random::Random;

/// A gateway comments on a stream that waits every 15 s: three of them.
const SIGN_OF_LIFE: Duration = Duration::from_secs(45);
/// After a refusal that says no time, and after a connection that failed: as OpenAI's client does.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// More than a client waits where it is told to.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// What most applications send first.
const SYSTEM: &str = "You are a helpful assistant.";

/// What all clients share.
pub struct Load {
    http: reqwest::Client,
    /// Of each replica of the gateway.
    endpoints: Vec<String>,
    key: String,
    model: String,
    requests: Vec<Request>,
    started: Instant,
    /// How long a client waits for a whole answer, asking again included.
    patience: Duration,
    noted: Mutex<Noted>,
}

/// What was seen so far.
#[derive(Default)]
struct Noted {
    operations: Vec<Operation>,
    begun: u64,
    pieces: u64,
    under_way: usize,
}

/// For a line of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Operations that have ended.
    pub ended: usize,
    /// Pieces that came.
    pub pieces: u64,
    /// Operations under way.
    pub under_way: usize,
}

/// Where the gateways are, and how they are asked.
pub struct Access<'a> {
    /// Base URL of each replica, ending in `/v1`.
    pub endpoints: Vec<String>,
    /// A bearer token.
    pub key: &'a str,
    /// The authority to trust, a PEM file.
    pub bundle: &'a Path,
    /// Name of the model.
    pub model: &'a str,
}

impl Load {
    /// Clients of these gateways.
    ///
    /// # Errors
    /// When the bundle cannot be used.
    pub fn new(access: Access<'_>, requests: Vec<Request>, started: Instant, patience: Duration) -> Result<Self> {
        let unusable = |error: &dyn std::fmt::Display| Error::Other(format!("{}: {error}", access.bundle.display()));
        let pem = std::fs::read(access.bundle).map_err(|error| unusable(&error))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
        let http = reqwest::Client::builder()
            .tls_certs_only(authorities)
            // Every stream has a connection of its own, as users have.
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(ASK_AGAIN_MAX)
            .build()
            .map_err(|error| Error::Other(format!("the HTTP client: {error}")))?;
        Ok(Self {
            http,
            endpoints: access.endpoints,
            key: access.key.to_owned(),
            model: access.model.to_owned(),
            requests,
            started,
            patience,
            noted: Mutex::default(),
        })
    }

    /// Time since the start of the run.
    pub fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// What came so far.
    pub fn progress(&self) -> Progress {
        let noted = self.noted();
        Progress {
            ended: noted.operations.len(),
            pieces: noted.pieces,
            under_way: noted.under_way,
        }
    }

    /// All operations that have ended, for the history.
    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.noted().operations)
    }

    /// Answers every request once, when nothing is wrong, `at_once` of them at a time.
    ///
    /// # Errors
    /// A request that is not answered.
    pub async fn references(&self, at_once: usize) -> Result<Vec<Reference>> {
        let answers = futures::stream::iter(0..self.requests.len())
            .map(|request| async move {
                let deadline = self.now() + self.patience;
                let attempt = self.attempt(request, 0, deadline, &mut Seen::default()).await;
                reference(&self.requests[request], &attempt)
            })
            .buffered(at_once);
        let answers: Vec<Result<Reference>> = answers.collect().await;
        answers.into_iter().collect()
    }

    /// Asks one request after the other until told to stop; what is under way then is finished.
    pub async fn client(self: Arc<Self>, number: usize, seed: u64, only: Vec<usize>, stop: CancellationToken) {
        let mut random = Random::new(seed);
        while !stop.is_cancelled() {
            let request = only[random.below(only.len())];
            self.operate(request, number).await;
        }
    }

    /// Asks until there is an answer, the deadline, or an answer that broke.
    async fn operate(&self, request: usize, client: usize) {
        let deadline = self.now() + self.patience;
        let id = {
            let mut noted = self.noted();
            noted.begun += 1;
            noted.under_way += 1;
            noted.begun
        };
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut seen = Seen::default();
        loop {
            let gateway = (client + attempts.len()) % self.endpoints.len();
            let attempt = self.attempt(request, gateway, deadline, &mut seen).await;
            let pause = match &attempt.end {
                End::Refused { .. } | End::Cut { .. } => Some(ASK_AGAIN),
                End::Interrupted { .. } => Some(Duration::ZERO),
                End::Answered { .. } | End::Silent => None,
            };
            attempts.push(attempt);
            match pause {
                Some(pause) if self.now() + pause < deadline => tokio::time::sleep(pause).await,
                _ => break,
            }
        }
        let mut noted = self.noted();
        noted.under_way -= 1;
        noted.operations.push(Operation {
            id,
            request,
            deadline,
            attempts,
        });
    }

    async fn attempt(&self, request: usize, gateway: usize, deadline: Moment, seen: &mut Seen) -> Attempt {
        let mut attempt = Attempt {
            gateway,
            from: seen.bytes,
            asked: self.now(),
            pieces: Vec::new(),
            ended: Moment::ZERO,
            end: End::Silent,
        };
        let left = deadline.saturating_sub(attempt.asked);
        let asked = self.ask(
            &self.requests[request],
            &self.endpoints[gateway],
            seen,
            &mut attempt.pieces,
        );
        // What was not over by then has been silent for too long.
        if let Ok(end) = tokio::time::timeout(left, asked).await {
            attempt.end = end;
        }
        attempt.ended = self.now();
        attempt
    }

    async fn ask(&self, request: &Request, endpoint: &str, seen: &mut Seen, pieces: &mut Vec<Piece>) -> End {
        let cut = |error: &dyn std::error::Error| End::Cut { cause: chain(error) };
        let mut asked = self
            .http
            .post(format!("{endpoint}/chat/completions"))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .body(self.body(request).to_string());
        if let Some(id) = &seen.id {
            asked = asked.header("last-event-id", id);
        }
        // The header of a streamed answer comes with its first token; that of a whole one at its end.
        let response = match asked.send().await {
            Ok(response) => response,
            Err(error) => return cut(&error),
        };
        let status = response.status().as_u16();
        if status != 200 || !request.streamed {
            return match response.text().await {
                Ok(text) => self.whole(status, &text, pieces),
                Err(error) => cut(&error),
            };
        }
        let mut bytes = response.bytes_stream();
        let mut stream = Stream::after(seen.clone());
        let end = loop {
            match tokio::time::timeout(SIGN_OF_LIFE, bytes.next()).await {
                Err(_) => break End::Silent,
                Ok(None) => {
                    break End::Cut {
                        cause: "the stream ended before the answer did".to_owned(),
                    };
                }
                Ok(Some(Err(error))) => break cut(&error),
                Ok(Some(Ok(more))) => {
                    let mut end = None;
                    for event in stream.push(&more) {
                        match event {
                            Event::Text(text) => self.note_piece(text, pieces),
                            Event::End(found) => end = end.or(Some(found)),
                        }
                    }
                    if let Some(end) = end {
                        break end;
                    }
                }
            }
        };
        *seen = stream.seen();
        end
    }

    fn whole(&self, status: u16, text: &str, pieces: &mut Vec<Piece>) -> End {
        let answer: Value = serde_json::from_str(text).unwrap_or_default();
        let choices = answer["choices"].as_array().cloned().unwrap_or_default();
        let texts: Option<Vec<(&str, &str)>> = choices
            .iter()
            .map(|choice| {
                Some((
                    choice["message"]["content"].as_str()?,
                    choice["finish_reason"].as_str()?,
                ))
            })
            .collect();
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            return refusal(status, &answer, text);
        };
        for (content, _) in texts.iter().filter(|(content, _)| !content.is_empty()) {
            self.note_piece((*content).to_owned(), pieces);
        }
        let reasons: Vec<&str> = texts.iter().map(|(_, reason)| *reason).collect();
        End::Answered {
            finish_reason: reasons.join(", "),
            tokens: answer["usage"]["completion_tokens"].as_u64(),
        }
    }

    fn note_piece(&self, text: String, pieces: &mut Vec<Piece>) {
        pieces.push(Piece { at: self.now(), text });
        self.noted().pieces += 1;
    }

    fn body(&self, request: &Request) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": [{ "role": "system", "content": SYSTEM }, { "role": "user", "content": request.prompt }],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stream": request.streamed,
            "n": request.choices,
        });
        if request.streamed {
            body["stream_options"] = json!({ "include_usage": true });
        }
        body
    }

    /// A client that panicked has noted all that it held before.
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference(request: &Request, attempt: &Attempt) -> Result<Reference> {
    match &attempt.end {
        End::Answered { finish_reason, tokens } => Ok(Reference {
            pieces: attempt.pieces.iter().map(|piece| piece.text.clone()).collect(),
            tokens: tokens.unwrap_or_default(),
            finish_reason: finish_reason.clone(),
        }),
        other => Err(Error::Other(format!(
            "before any fault, {:?} was not answered: {other:?}",
            request.prompt
        ))),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
