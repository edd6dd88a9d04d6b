//! Allocations whose caller went away between the driver's answer and its taking: nobody has their handles.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Ids of handles that nobody will ever have.
#[derive(Clone, Default)]
pub(super) struct Abandoned(Arc<Mutex<HashSet<Uuid>>>);

impl Abandoned {
    /// A handle's id that counts as abandoned unless it is taken.
    pub(super) fn pending(&self, id: Uuid) -> Pending {
        Pending {
            id,
            abandoned: Some(self.clone()),
        }
    }

    /// All that were abandoned since the last time. One that is in no book was never allocated: its call finds that
    /// nobody waits for it.
    pub(super) fn drain(&self) -> HashSet<Uuid> {
        std::mem::take(&mut *self.ids())
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        // A set of ids is whole whatever happened beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Abandoned::pending`].
pub(super) struct Pending {
    id: Uuid,
    abandoned: Option<Abandoned>,
}

impl Pending {
    /// The caller has its answer.
    pub(super) fn taken(mut self) {
        self.abandoned = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(abandoned) = &self.abandoned {
            abandoned.ids().insert(self.id);
        }
    }
}
