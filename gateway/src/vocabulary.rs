//! What turns a model's text into tokens and back: one [`Speech`] per vocabulary, made when a route first names it.
//!
//! ```text
//!  digest ──fetch (operator, or the state directory)──▶ file ──▶ tokeniser child ──▶ pieces, special tokens ──┐
//!                                                        └─────▶ chat template ──────────────────────────────┴▶ Speech
//! ```

mod fetch;
mod prune;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use gguf::metadata::optional;
use gguf::{Gguf, Metadata, MetadataError};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::routes::watch::Control;
use crate::routes::{Digest, Table};
use crate::template::{Renderer, SpecialText};
use crate::tokenizer::{Patience, Tokenizer, TokenizerCommand, Vocabulary};
use lifecycle::backoff::{Backoff, Policy};

/// Vocabularies at once: each is a process of about 100 MiB.
const MAX_VOCABULARIES: usize = 16;
/// A vocabulary that was asked for more recently keeps its place: else two models would push each other out for ever.
const UNUSED_FOR: Duration = Duration::from_secs(60);
/// Pauses between attempts to obtain one.
const RETRY: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(10),
};

/// Everything a request needs to speak with a model.
#[derive(Debug)]
pub struct Speech {
    /// Text to token ids.
    pub tokenizer: Tokenizer,
    /// Token ids to text.
    pub vocabulary: Arc<Vocabulary>,
    /// Messages to text; `None` when the model has no chat template.
    pub template: Option<Renderer>,
}

/// How far one vocabulary has come.
#[derive(Debug, Clone)]
pub enum SpeechState {
    /// Not there yet, and why.
    Preparing(String),
    /// Ready to use.
    Ready(Arc<Speech>),
}

/// Where vocabularies come from and what reads them.
#[derive(Debug)]
pub struct Source {
    /// The operator.
    pub control: Arc<Control>,
    /// The `shardwright-tokenizer` executable.
    pub tokenizer: PathBuf,
    /// The gateway's own executable.
    pub renderer: PathBuf,
    /// Where files are kept.
    pub directory: PathBuf,
    /// Counts restarts of tokenisers.
    pub metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Entry {
    state: watch::Receiver<SpeechState>,
    task: tokio::task::AbortHandle,
    /// When a request last wanted it.
    used: Mutex<Instant>,
}

impl Entry {
    fn start(digest: Digest, source: &Arc<Source>) -> Self {
        let (announce, state) = watch::channel(SpeechState::Preparing("its vocabulary is being fetched".to_owned()));
        let task = tokio::spawn(prepare(digest, Arc::clone(source), announce)).abort_handle();
        let used = Mutex::new(Instant::now());
        Self { state, task, used }
    }

    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> SpeechState {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.state.borrow().clone()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The vocabularies of the present routes: the first [`MAX_VOCABULARIES`] at once, any other when it is asked for, in
/// the place of the one that nobody has asked for longest.
#[derive(Debug, Default)]
pub struct Vocabularies {
    held: Arc<RwLock<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    entries: HashMap<Digest, Entry>,
    wanted: HashSet<Digest>,
    source: Option<Arc<Source>>,
}

impl Vocabularies {
    /// How far the vocabulary with this digest has come. One that was left out for want of room is begun.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> SpeechState {
        let found = {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            held.entries.get(digest).map(Entry::read)
        };
        found.unwrap_or_else(|| {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            held.begin(*digest)
        })
    }

    /// Begins to prepare what `table` names and lets go of what it does not name any more. Requests in progress
    /// keep theirs.
    pub fn follow(&self, table: &Table, source: &Arc<Source>) {
        let wanted = table.vocabularies();
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.wanted = wanted.iter().copied().collect();
        held.source = Some(Arc::clone(source));
        held.entries.retain(|digest, _| wanted.contains(digest));
        for digest in &wanted {
            if held.entries.len() < MAX_VOCABULARIES && !held.entries.contains_key(digest) {
                held.entries.insert(*digest, Entry::start(*digest, source));
            }
        }
        drop(held);
        let (source, held) = (Arc::clone(source), Arc::clone(&self.held));
        tokio::task::spawn_blocking(move || {
            // By what is wanted then, which a newer table may have changed; it cannot change during a removal.
            let remove = |digest: &Digest, path: &Path| {
                let held = held.read().unwrap_or_else(PoisonError::into_inner);
                held.remove_unless_wanted(digest, path)
            };
            match prune::prune(&source.directory, remove) {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "vocabulary files that no model needs are gone"),
                Err(error) => {
                    let path = source.directory.display();
                    tracing::warn!(%path, %error, "old vocabulary files cannot be listed");
                }
            }
        });
    }
}

impl Held {
    /// Removes a file of this vocabulary, unless a route names it; tells whether it did.
    fn remove_unless_wanted(&self, digest: &Digest, path: &Path) -> io::Result<bool> {
        if self.wanted.contains(digest) {
            return Ok(false);
        }
        match std::fs::remove_file(path) {
            // By an earlier table's look that is not over yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    fn begin(&mut self, digest: Digest) -> SpeechState {
        let Some(source) = self.source.clone().filter(|_| self.wanted.contains(&digest)) else {
            return SpeechState::Preparing("its vocabulary is not known yet".to_owned());
        };
        if !self.entries.contains_key(&digest) {
            let used = self.entries.iter().map(|(digest, entry)| (*digest, entry.used()));
            match place_for(used, Instant::now()) {
                Place::Free => {}
                Place::Of(unused) => drop(self.entries.remove(&unused)),
                Place::None => {
                    return SpeechState::Preparing(format!(
                        "this gateway holds {MAX_VOCABULARIES} other vocabularies, all used within the last {} s",
                        UNUSED_FOR.as_secs()
                    ));
                }
            }
        }
        self.entries
            .entry(digest)
            .or_insert_with(|| Entry::start(digest, &source))
            .read()
    }
}

/// Where one more vocabulary could go.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// Where this one is, which nobody has asked for lately.
    Of(Digest),
    None,
}

/// Decides by when each vocabulary that is held was last asked for.
fn place_for(used: impl Iterator<Item = (Digest, Instant)>, now: Instant) -> Place {
    let held: Vec<(Digest, Instant)> = used.collect();
    if held.len() < MAX_VOCABULARIES {
        return Place::Free;
    }
    match held.into_iter().min_by_key(|(_, used)| *used) {
        Some((digest, used)) if now.saturating_duration_since(used) >= UNUSED_FOR => Place::Of(digest),
        _ => Place::None,
    }
}

/// Tries until the vocabulary is ready.
async fn prepare(digest: Digest, source: Arc<Source>, announce: watch::Sender<SpeechState>) {
    let mut backoff = Backoff::new(RETRY);
    loop {
        match obtain(&digest, &source).await {
            Ok(speech) => {
                tracing::info!(vocabulary = %hex(&digest), tokens = speech.vocabulary.pieces.len(), "vocabulary ready");
                announce.send_replace(SpeechState::Ready(Arc::new(speech)));
                return;
            }
            Err(cause) => {
                tracing::warn!(vocabulary = %hex(&digest), %cause, "vocabulary not ready");
                announce.send_replace(SpeechState::Preparing(format!(
                    "its vocabulary is not ready: {}",
                    cause.public()
                )));
            }
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Why a vocabulary is not ready.
#[derive(Debug, thiserror::Error)]
enum ObtainError {
    #[error(transparent)]
    Fetch(#[from] fetch::FetchError),
    #[error("the vocabulary file cannot be read: {0}")]
    File(String),
    #[error("the tokeniser did not start")]
    Tokenizer,
}

impl ObtainError {
    /// The part that clients may see.
    fn public(&self) -> &'static str {
        match self {
            Self::Fetch(fetch::FetchError::File { .. }) => "it cannot be kept on this gateway's disk",
            Self::Fetch(_) => "it could not be fetched",
            Self::File(_) => "its file cannot be read",
            Self::Tokenizer => "its tokeniser did not start",
        }
    }
}

/// Longest wait for a first tokeniser; it is replaced by a new one meanwhile if it dies.
const TOKENIZER_LIMIT: Duration = Duration::from_secs(120);

async fn obtain(digest: &Digest, source: &Source) -> Result<Speech, ObtainError> {
    let path = fetch::fetch(digest, &source.directory, &source.control).await?;
    let metadata = {
        let path = path.clone();
        let read = move || {
            Gguf::open(&path)
                .map(|gguf| gguf.metadata)
                .map_err(|error| ObtainError::File(error.to_string()))
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| ObtainError::File(error.to_string()))??
    };
    let metrics = Arc::clone(&source.metrics);
    let command = TokenizerCommand {
        executable: source.tokenizer.clone(),
        vocabulary: path,
    };
    let tokenizer = Tokenizer::start(command, Patience::default(), move || metrics.tokenizer_restarts.inc());
    let vocabulary = tokio::time::timeout(TOKENIZER_LIMIT, tokenizer.vocabulary())
        .await
        .ok()
        .flatten()
        .ok_or(ObtainError::Tokenizer)?;
    let FileFacts {
        template_source,
        special,
    } = read_facts(&metadata, &vocabulary).map_err(|error| ObtainError::File(error.to_string()))?;
    let template = template_source.map(|template| Renderer::new(source.renderer.clone(), template, special));
    Ok(Speech {
        tokenizer,
        vocabulary,
        template,
    })
}

/// What the gateway itself reads from a vocabulary file.
struct FileFacts {
    template_source: Option<String>,
    special: SpecialText,
}

fn read_facts(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<FileFacts, MetadataError> {
    let template = optional(metadata.string("tokenizer.chat_template"))?;
    let tokens = metadata.array("tokenizer.ggml.tokens")?;
    // Special tokens are written in the file as they are in text; other tokens need not be.
    let text = |token: Option<i32>| {
        let index = token.and_then(|token| usize::try_from(token).ok());
        let written = index.and_then(|index| tokens.strings().nth(index)).unwrap_or_default();
        String::from_utf8_lossy(written).into_owned()
    };
    let special = SpecialText {
        bos: text(vocabulary.bos),
        eos: text(vocabulary.eos),
    };
    Ok(FileFacts {
        template_source: template.map(str::to_owned),
        special,
    })
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(digest: &Digest) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
