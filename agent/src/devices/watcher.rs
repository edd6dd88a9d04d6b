//! Keeps a watch child of one backend alive and passes on what it says.

use device::Backend;
use device::Selection;
use device::child::Quota;
use device::child::probe::PROBE_LIMIT;
use device::child::watch::{Heard, Order, WatchChild};
use device::telemetry::Reading;
use lifecycle::backoff::{Backoff, Policy};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// How long a driver may say nothing; then it hangs.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To a probe, and before the first reading.
    pub answer: Duration,
    /// Between readings.
    pub silence: Duration,
}

impl Default for Patience {
    /// A driver that has to wake its cards first is slower; afterwards a reading takes milliseconds.
    fn default() -> Self {
        Self {
            answer: PROBE_LIMIT,
            silence: Duration::from_secs(5),
        }
    }
}

/// After a crash or a hang.
const RESTART: Policy = Policy {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(60),
};
/// A watcher that lived for that long was well; the waits begin anew.
const WELL: Duration = Duration::from_secs(60);
/// Where there was nothing to read: a driver may be installed, and a card plugged in where nobody notices.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What a watcher tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A reading.
    Reading(Reading),
    /// The driver hangs; the child was ended and is started again.
    Hung,
    /// The child ended badly and is started again: a sentence.
    Broken(String),
    /// There is nothing to read.
    Nothing,
}

/// Why a child's life is over.
#[derive(Debug)]
enum End {
    /// By itself, which is to be told.
    Told(Told),
    /// Other devices are to be read.
    Reselected,
    /// Nobody listens any more.
    Unheard,
}

/// Who watches what.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// The agent's own, as a rule.
    pub executable: PathBuf,
    /// Whose devices.
    pub backend: Backend,
    /// How often, and where.
    pub order: Order,
    /// Which of its devices; another selection has another child.
    pub only: watch::Receiver<Selection>,
    /// With a silent driver.
    pub patience: Patience,
    /// Shared with the probes of the same backend.
    pub quota: Quota,
    /// Cuts the wait for the next start short: there may be something to read now.
    pub wake: Arc<Notify>,
}

impl Watcher {
    /// Watches until nobody listens.
    pub async fn run(mut self, listener: mpsc::Sender<(Backend, Told)>) {
        let mut backoff = Backoff::new(RESTART);
        loop {
            let started = Instant::now();
            let end = match self.life(&listener).await {
                End::Told(end) => end,
                End::Reselected => continue,
                End::Unheard => return,
            };
            if started.elapsed() >= WELL {
                backoff.succeeded();
            }
            let wait = if end == Told::Nothing {
                LOOK_AGAIN
            } else {
                backoff.failed()
            };
            if listener.send((self.backend, end)).await.is_err() {
                return;
            }
            // After a failure too: what changed may have mended it.
            let _ = tokio::time::timeout(wait, self.wake.notified()).await;
        }
    }

    /// From a child's start to its end.
    async fn life(&mut self, listener: &mpsc::Sender<(Backend, Told)>) -> End {
        let order = Order {
            only: self.only.borrow_and_update().clone(),
            ..self.order.clone()
        };
        let mut child = match WatchChild::start(&self.executable, self.backend, &order, &self.quota) {
            Ok(child) => child,
            Err(reason) => return End::Told(Told::Broken(reason)),
        };
        let mut patience = self.patience.answer;
        loop {
            let heard = tokio::select! {
                heard = child.next(patience) => heard,
                () = listener.closed() => return End::Unheard,
                // Whoever selects may have ended; the last word stands.
                Ok(()) = self.only.changed() => return End::Reselected,
            };
            match heard {
                Heard::Reading(reading) => {
                    patience = self.patience.silence;
                    if listener.send((self.backend, Told::Reading(reading))).await.is_err() {
                        return End::Unheard;
                    }
                }
                // What a node that is starved does not let it say says nothing of the driver.
                Heard::Starved => {}
                Heard::Silence => return End::Told(Told::Hung),
                Heard::Finished => return End::Told(Told::Nothing),
                Heard::Broken(reason) => return End::Told(Told::Broken(reason)),
            }
        }
    }
}
