//! Text to token ids, in a child process: the tokeniser is llama.cpp's, and what crashes there must not crash here.
//!
//! One child per vocabulary. It is asked over its standard input and output, a JSON object a line; answers carry the
//! request's number. A child that dies, answers nonsense or takes too long is replaced; requests meanwhile fail with
//! [`TokenizeError::Unavailable`].

mod child;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::detokenise::Pieces;
use lifecycle::backoff::{Backoff, Policy};

/// Bytes of text in one request: the child's own limit.
pub const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;
/// Requests waiting for one child: each holds its text, so that this bounds memory too.
const QUEUE: usize = 64;
/// Pauses between attempts to start a child.
const RESTART: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(10),
};
/// A child that lived so long was sound: the next pause is short again.
const SOUND_LIFE: Duration = Duration::from_secs(30);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// One answer, queueing included.
    pub answer: Duration,
    /// One question once the child has it; after that the child counts as hung and is replaced.
    pub child: Duration,
}

impl Default for Patience {
    /// Far above what 4 MiB of text take.
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(20),
            child: Duration::from_secs(30),
        }
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct TokenizerCommand {
    /// The `shardwright-tokenizer` executable.
    pub executable: PathBuf,
    /// The vocabulary: a GGUF without tensors.
    pub vocabulary: PathBuf,
}

/// What a child says about its vocabulary once it has read it.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// Every token's bytes.
    pub pieces: Pieces,
    /// Tokens that end a generation.
    pub end_of_generation: HashSet<i32>,
    /// Begins a sequence.
    pub bos: Option<i32>,
    /// Ends a sequence.
    pub eos: Option<i32>,
    /// Sequences must begin with `bos`.
    pub add_bos: bool,
}

/// Why there are no token ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    /// The text cannot be tokenised.
    #[error("the text cannot be tokenised: {0}")]
    Refused(String),
    /// Longer than `MAX_TEXT_BYTES`.
    #[error("the text has {bytes} bytes, the tokeniser takes at most {MAX_TEXT_BYTES}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// The child is being restarted.
    #[error("the tokeniser is restarting; try again shortly")]
    Unavailable,
    /// Too many wait.
    #[error("{QUEUE} requests wait for the tokeniser already; try again shortly")]
    Busy,
    /// No answer in time.
    #[error("the tokeniser gave no answer within {} s; try again with a shorter text", waited.as_secs())]
    TimedOut {
        /// How long was waited.
        waited: Duration,
    },
}

/// One question and where its answer goes.
#[derive(Debug)]
struct Job {
    text: String,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<i32>, TokenizeError>>,
}

/// A supervised tokeniser. Dropping the last handle ends the child.
#[derive(Debug)]
pub struct Tokenizer {
    jobs: mpsc::Sender<Job>,
    ready: watch::Receiver<Option<Arc<Vocabulary>>>,
    supervisor: tokio::task::AbortHandle,
    patience: Patience,
}

impl Drop for Tokenizer {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Tokenizer {
    /// Starts the child and keeps one running. `on_restart` is called each time one was lost.
    pub fn start(command: TokenizerCommand, patience: Patience, on_restart: impl Fn() + Send + 'static) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (announce, ready) = watch::channel(None);
        let supervisor = tokio::spawn(supervise(command, patience, queue, announce, on_restart)).abort_handle();
        Self {
            jobs,
            ready,
            supervisor,
            patience,
        }
    }

    /// What the vocabulary is, once the first child has read it.
    pub async fn vocabulary(&self) -> Option<Arc<Vocabulary>> {
        let mut ready = self.ready.clone();
        ready
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|vocabulary| vocabulary.clone())
    }

    /// Token ids of `text`, special tokens' text read as such, none added.
    ///
    /// # Errors
    /// See [`TokenizeError`]; never later than [`Patience::answer`].
    pub async fn tokenize(&self, text: String) -> Result<Vec<i32>, TokenizeError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizeError::TooLong { bytes: text.len() });
        }
        if self.ready.borrow().is_none() {
            return Err(TokenizeError::Unavailable);
        }
        let deadline = Instant::now() + self.patience.answer;
        let (answer, answered) = oneshot::channel();
        self.jobs
            .try_send(Job { text, deadline, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => TokenizeError::Busy,
                mpsc::error::TrySendError::Closed(_) => TokenizeError::Unavailable,
            })?;
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or(Err(TokenizeError::Unavailable)),
            Err(_) => Err(TokenizeError::TimedOut {
                waited: self.patience.answer,
            }),
        }
    }
}

/// Runs one child after another, for ever.
async fn supervise(
    command: TokenizerCommand,
    patience: Patience,
    mut queue: mpsc::Receiver<Job>,
    announce: watch::Sender<Option<Arc<Vocabulary>>>,
    on_restart: impl Fn(),
) {
    let mut backoff = Backoff::new(RESTART);
    loop {
        let started = Instant::now();
        let lost = match child::Child::start(&command).await {
            Ok((mut child, vocabulary)) => {
                announce.send_replace(Some(Arc::new(vocabulary)));
                let lost = child.serve(&mut queue, patience.child).await;
                announce.send_replace(None);
                lost
            }
            Err(error) => error,
        };
        // The queue is closed and empty: nobody holds a handle any more.
        let child::Lost::Fault(cause) = lost else { return };
        let vocabulary = command.vocabulary.display();
        tracing::warn!(executable = %command.executable.display(), %vocabulary, %cause, "tokeniser lost");
        on_restart();
        if started.elapsed() > SOUND_LIFE {
            backoff.succeeded();
        }
        while let Ok(job) = queue.try_recv() {
            let _ = job.answer.send(Err(TokenizeError::Unavailable));
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}
