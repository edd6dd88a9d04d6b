//! The authority in use, whose place another may take while leaves are issued.

use std::sync::Arc;

use identity::Authority;
use tokio::sync::watch;

/// The authority in use. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Current(watch::Sender<Arc<Authority>>);

impl Current {
    /// Begins with this one.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self(watch::Sender::new(Arc::new(authority)))
    }

    /// As it is now.
    #[must_use]
    pub fn get(&self) -> Arc<Authority> {
        Arc::clone(&self.0.borrow())
    }

    /// Another one from now on, or the same with others beside it. Says nothing where it is as before.
    pub fn replace(&self, authority: Authority) {
        self.0.send_if_modified(|current| {
            let changed = current.bundle_pem() != authority.bundle_pem();
            if changed {
                *current = Arc::new(authority);
            }
            changed
        });
    }

    /// Wakes whenever it is another.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Authority>> {
        self.0.subscribe()
    }
}
