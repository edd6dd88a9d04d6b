//! What all requests share.

use std::sync::Arc;

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::generate::Heads;
use crate::keys::{ApiKeys, KeyId};
use crate::metrics::Metrics;
use crate::occupancy::{Occupancy, Place};
use crate::openai::error::ApiError;
use crate::routes::Table;
use crate::vocabulary::Vocabularies;

/// Requests being prepared at once. Each may hold a body of 4 MiB and the prompt made of it, so this bounds memory to
/// about 512 MiB at worst.
pub const MAX_PREPARING: usize = 64;

/// Answers in progress at once. Each takes some ten KiB, its connection included.
pub const MAX_ANSWERS: usize = 1024;

/// How many answers may be in progress, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of one API key.
    pub streams_per_key: usize,
    /// Of one model, over all keys.
    pub streams_per_model: usize,
    /// From request to the end of its answer.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_key: 64,
            streams_per_model: 512,
            // The longest default answer at a token a second fits in.
            request: Duration::from_secs(2 * 3600),
        }
    }
}

/// A request that was let in. Dropping it frees its places.
#[derive(Debug)]
pub struct Admission {
    /// Given back once the prompt is at the workers.
    pub preparing: OwnedSemaphorePermit,
    /// Held to the end of the answer.
    pub seat: Seat,
}

/// The places of one answer.
#[derive(Debug)]
pub struct Seat {
    _answer: OwnedSemaphorePermit,
    _key: Place<KeyId>,
}

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
    /// How many answers there may be.
    pub limits: Limits,
    /// Places for requests that are being prepared.
    pub preparing: Arc<Semaphore>,
    /// Places for answers.
    pub answers: Arc<Semaphore>,
    /// Answers by key.
    pub by_key: Occupancy<KeyId>,
    /// Answers by model, named by its object's unique id.
    pub by_model: Occupancy<String>,
    /// Cancelled when answers in progress must end.
    pub cut_off: CancellationToken,
}

impl Gateway {
    /// The models known now.
    #[must_use]
    pub fn table(&self) -> Option<Arc<Table>> {
        self.tables.borrow().clone()
    }

    /// Places for one request of `key`.
    ///
    /// # Errors
    /// 429 when the key has as many as it may have, or all are taken.
    pub fn admit(&self, key: KeyId) -> Result<Admission, ApiError> {
        let seat = self.seat(key)?;
        let preparing = Arc::clone(&self.preparing).try_acquire_owned();
        Ok(Admission {
            preparing: preparing.map_err(|_| busy("prepares", MAX_PREPARING))?,
            seat,
        })
    }

    /// Places for one more answer of `key`.
    ///
    /// # Errors
    /// 429 when the key has as many as it may have, or all are taken.
    pub fn seat(&self, key: KeyId) -> Result<Seat, ApiError> {
        let most = self.limits.streams_per_key;
        let own = self.by_key.enter(&key, most).ok_or_else(|| {
            ApiError::too_many_streams(format!(
                "this API key has {most} answers in progress, the most it may have; wait for one to end"
            ))
        })?;
        let answer = Arc::clone(&self.answers).try_acquire_owned();
        Ok(Seat {
            _answer: answer.map_err(|_| busy("answers", MAX_ANSWERS))?,
            _key: own,
        })
    }

    /// A place at a model.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn enter(&self, model_uid: &str) -> Result<Place<String>, ApiError> {
        let most = self.limits.streams_per_model;
        self.by_model.enter(&model_uid.to_owned(), most).ok_or_else(|| {
            ApiError::busy(format!(
                "this gateway has {most} answers of this model in progress, the most it may have; try again shortly"
            ))
        })
    }
}

fn busy(what: &str, most: usize) -> ApiError {
    ApiError::busy(format!(
        "this gateway {what} {most} requests at once and all places are taken; try again shortly"
    ))
}
