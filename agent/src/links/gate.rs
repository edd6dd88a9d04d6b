//! What the two ends of measuring on this node share: one round at a time, and when there is none at all.

use super::Wishes;
use super::allowance::Allowance;
use super::earlier::Earlier;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// One of a node. Rounds that we begin and rounds that we answer exclude each other: two at once would measure each other.
#[derive(Debug)]
pub struct Gate {
    turn: Arc<Semaphore>,
    started: Instant,
    account: Mutex<Account>,
    wishes: watch::Sender<Wishes>,
    serves: watch::Sender<bool>,
    earlier: watch::Sender<Option<Arc<Earlier>>>,
}

#[derive(Debug)]
struct Account {
    begin: Allowance,
    answer: Allowance,
    begun_us: u64,
    answered_us: u64,
}

/// Why a round of somebody else is put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutOff {
    /// By the administrator.
    #[error("measuring is paused on this node")]
    Paused,
    /// Tokens come first.
    #[error("a shard of this node computes")]
    Serves,
    /// The allowance is spent.
    #[error("this node has given its share of its link")]
    Spent,
    /// One at a time.
    #[error("this node is measuring already")]
    Busy,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            started: Instant::now(),
            account: Mutex::new(Account {
                begin: Allowance::new(0),
                answer: Allowance::new(0),
                begun_us: 0,
                answered_us: 0,
            }),
            wishes: watch::Sender::new(Wishes::default()),
            serves: watch::Sender::new(false),
            earlier: watch::Sender::new(None),
        }
    }
}

impl Gate {
    /// Milliseconds of this life.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the administrator says; who reads it in the API tells it here.
    pub fn wishes(&self) -> &watch::Sender<Wishes> {
        &self.wishes
    }

    /// Whether a shard computes; who asks the workers tells it here.
    pub fn serves(&self) -> &watch::Sender<bool> {
        &self.serves
    }

    /// What an earlier life of this agent knew, once that was read; who reads it in the API tells it here.
    pub fn earlier(&self) -> &watch::Sender<Option<Arc<Earlier>>> {
        &self.earlier
    }

    /// Waits until nothing else is measured here; `None` never happens while the gate lives.
    pub async fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// Lets a round of somebody else in, until what it gets is dropped. Of a glance tokens take no notice.
    ///
    /// # Errors
    /// Why not now.
    pub fn admit(&self, is_glance: bool) -> Result<OwnedSemaphorePermit, PutOff> {
        if self.wishes.borrow().paused {
            return Err(PutOff::Paused);
        }
        if *self.serves.borrow() && !is_glance {
            return Err(PutOff::Serves);
        }
        if self.account().answer.ready_at_ms() > self.now_ms() {
            return Err(PutOff::Spent);
        }
        Arc::clone(&self.turn).try_acquire_owned().map_err(|_| PutOff::Busy)
    }

    /// When we may begin a round.
    pub fn allowed_ms(&self) -> u64 {
        self.account().begin.ready_at_ms()
    }

    /// A round that we began took this of the link.
    pub fn began(&self, us: u64) {
        let now_ms = self.now_ms();
        let mut account = self.account();
        account.begin.spend(us, now_ms);
        account.begun_us = account.begun_us.saturating_add(us);
    }

    /// A round that we answered took this of the link.
    pub fn answered(&self, us: u64) {
        let now_ms = self.now_ms();
        let mut account = self.account();
        account.answer.spend(us, now_ms);
        account.answered_us = account.answered_us.saturating_add(us);
    }

    /// Time of the link since the start: for rounds begun, for rounds answered.
    pub fn spent_us(&self) -> (u64, u64) {
        let account = self.account();
        (account.begun_us, account.answered_us)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Numbers alone: whatever panicked left sound ones.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
