//! One client's way to the API server, and what can be done to it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How a client sees what changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Nothing above this revision.
    pub held_at: Option<u64>,
    /// Every event, the one before it, and it again.
    pub repeats: bool,
}

/// A connection; clones are the same one.
#[derive(Debug, Clone)]
pub struct Connection {
    pub(crate) name: Arc<str>,
    pub(crate) dead: CancellationToken,
    pub(crate) sight: watch::Sender<Sight>,
    /// While true, requests and answers wait: its client, or the way to it, stands still.
    pub(crate) frozen: watch::Sender<bool>,
}

impl Connection {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            dead: CancellationToken::new(),
            sight: watch::Sender::new(Sight::default()),
            frozen: watch::Sender::new(false),
        }
    }

    /// The client is no more: nothing that it still asks is carried out or answered.
    pub fn kill(&self) {
        self.dead.cancel();
    }

    /// Waits until the client is killed, by [`Connection::kill`] or by a hook.
    pub async fn killed(&self) {
        self.dead.cancelled().await;
    }

    /// Whether it was.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Watches are told nothing that happens after this revision, until `None`.
    pub fn hold_events(&self, at: Option<u64>) {
        self.sight.send_modify(|sight| sight.held_at = at);
    }

    /// Watches are told every event, the one before it, and it again.
    pub fn repeat_events(&self, repeats: bool) {
        self.sight.send_modify(|sight| sight.repeats = repeats);
    }

    /// Requests and answers wait.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Waits until the connection moves; for ever where it is dead.
    pub(crate) async fn moves(&self) {
        // The sender stands in `self`.
        let _ = self.frozen.subscribe().wait_for(|frozen| !*frozen).await;
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}
