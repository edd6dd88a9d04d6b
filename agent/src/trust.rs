//! Whom this node trusts: the agent and its workers together, as the operator is told.
//!
//! ```text
//!  operator ──▶ wishes ──▶ enrolment: another leaf ──▶ the workers' leaves ──▶ each worker takes its own ──▶ what is held ──▶ operator
//! ```

use crate::worker::client::{Client, ClientError};
use crate::worker::places::Places;
use identity::{Held, Identity, Wishes};
use proto::control::v1::TrustHeld;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What a worker took last: which leaf, and what it holds since. Nothing is known of one that never said that it took any.
type Taken = Option<(String, Held)>;

/// Whom the node trusts. Clones are of the same node.
#[derive(Clone, Default)]
pub struct Trust {
    /// What the operator wishes, and that the agent's own identity is another.
    pub wishes: Wishes,
    changed: watch::Sender<u64>,
    /// Of each worker that runs, by the directory of its identity; `None` until it is known which ones run.
    workers: Arc<Mutex<Option<BTreeMap<PathBuf, Taken>>>>,
}

impl Trust {
    /// What the agent with this identity and all of its workers hold; nothing while that is not known of one of them, or it is not known
    /// which ones run: an agent that starts anew may find some.
    pub fn held(&self, own: &Identity) -> TrustHeld {
        let Ok(own) = Held::of(own) else {
            return TrustHeld::default();
        };
        let all = self.with(|workers| {
            let taken = workers.as_ref()?.values();
            let taken = taken.map(|taken| taken.as_ref().map(|(_, held)| held));
            taken
                .collect::<Option<Vec<_>>>()
                .map(|all| all.into_iter().fold(own, Held::and))
        });
        all.as_ref().map(TrustHeld::from).unwrap_or_default()
    }

    /// Wakes when what workers hold may be another.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Workers with their identities in these directories run, and no others.
    pub fn keep<'a>(&self, running: impl Iterator<Item = &'a Path>) {
        let running: Vec<&Path> = running.collect();
        let changed = self.with(|workers| {
            let mut changed = workers.is_none();
            let workers = workers.get_or_insert_default();
            let before = workers.len();
            workers.retain(|directory, _| running.contains(&directory.as_path()));
            changed |= workers.len() < before;
            for directory in running {
                workers.entry(directory.to_owned()).or_insert_with(|| {
                    changed = true;
                    None
                });
            }
            changed
        });
        if changed {
            self.touch();
        }
    }

    /// Has a worker take the leaf that lies in its directory, where it has not taken that yet.
    pub async fn hand_over(&self, places: &Places) {
        let Ok(identity) = Identity::load(&places.identity) else {
            return;
        };
        let Ok(held) = Held::of(&identity) else { return };
        let leaf = identity.certificate_chain_pem;
        let has_it = |taken: &Taken| taken.as_ref().is_some_and(|(known, _)| *known == leaf);
        let known = |workers: &BTreeMap<PathBuf, Taken>| workers.get(&places.identity).is_some_and(has_it);
        if self.with(|workers| workers.as_ref().is_some_and(known)) {
            return;
        }
        let taken = match renew(&places.socket).await {
            Ok(()) => Some((leaf, held)),
            Err(cause) => {
                let directory = places.identity.display();
                tracing::debug!(%directory, cause, "the worker has not taken its new leaf yet");
                None
            }
        };
        self.with(|workers| {
            // What it took before is what it has, where it takes no other.
            let workers = workers.get_or_insert_default();
            let known = workers.entry(places.identity.clone()).or_default();
            if taken.is_some() {
                *known = taken;
            }
        });
        self.touch();
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Option<BTreeMap<PathBuf, Taken>>) -> T) -> T {
        // Single calls: nothing is left half done by a panic.
        change(&mut self.workers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn renew(socket: &Path) -> Result<(), String> {
    let told = async { Client::connect(socket).await?.renew().await };
    let decided = told.await.map_err(|error: ClientError| error.to_string())?;
    decided.map_err(|fault| fault.message)
}

#[cfg(test)]
mod tests;
