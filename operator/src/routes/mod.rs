//! The gateways: which models there are, who is the head of each, and their vocabularies.

mod service;
mod trust;

use std::sync::Arc;

use proto::control::v1::RouteTable;
use tokio::sync::watch;

use crate::by_digest::ByDigest;

pub use service::RoutesService;
pub use trust::TrustService;

/// The largest vocabulary that is accepted.
pub const VOCABULARY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// All vocabularies together: the pod's memory limit leaves room for this, and common ones have 2 to 10 MiB.
const VOCABULARIES_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What gateways are told, and what they may fetch.
#[derive(Debug)]
pub struct Routes {
    table: watch::Sender<Option<Arc<RouteTable>>>,
    /// Vocabularies by digest.
    pub vocabularies: ByDigest,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            table: watch::Sender::new(None),
            vocabularies: ByDigest::new(VOCABULARIES_BYTES_MAX),
        }
    }
}

impl Routes {
    /// Tells every gateway, where the table differs from the one before.
    pub fn publish(&self, table: RouteTable) {
        self.table.send_if_modified(|current| {
            let differs = current.as_deref() != Some(&table);
            if differs {
                *current = Some(Arc::new(table));
            }
            differs
        });
    }

    /// Nothing is known any more: this replica leads no longer. Gateways keep what they have.
    pub fn clear(&self) {
        self.table.send_replace(None);
    }

    /// The table, once there is one, and every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<RouteTable>>> {
        self.table.subscribe()
    }
}

#[cfg(test)]
mod tests;
