//! What all requests share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::generate::Heads;
use crate::keys::ApiKeys;
use crate::metrics::Metrics;
use crate::openai::error::ApiError;
use crate::routes::Table;
use crate::vocabulary::Vocabularies;

/// Requests in progress at once. Each may hold a body of 4 MiB and the prompt made of it while it is prepared, so this
/// bounds memory to about 2 GiB at worst; answers themselves take some KiB.
pub const MAX_REQUESTS: usize = 256;

/// The parts of one gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Who may ask.
    pub keys: ApiKeys,
    /// The models; `None` until a table was received or restored.
    pub tables: watch::Receiver<Option<Arc<Table>>>,
    /// What they speak.
    pub vocabularies: Vocabularies,
    /// Who answers.
    pub heads: Arc<Heads>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Places for requests.
    pub places: Arc<Semaphore>,
    /// Cancelled when answers in progress must end.
    pub cut_off: CancellationToken,
}

impl Gateway {
    /// The models known now.
    #[must_use]
    pub fn table(&self) -> Option<Arc<Table>> {
        self.tables.borrow().clone()
    }

    /// A place, held for as long as the request lasts.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let busy = |_| {
            ApiError::busy(format!(
                "this gateway serves {MAX_REQUESTS} requests at once and all places are taken; try again shortly"
            ))
        };
        Arc::clone(&self.places).try_acquire_owned().map_err(busy)
    }
}
