//! The way between an agent and an operator: how long it takes, and when it breaks.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::watch;

/// A silent peer is given up after so long: the keepalive of every connection.
pub const SILENCE: Duration = Duration::from_secs(2);

/// The state of an agent's way to the operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing passes, and nobody is told.
    pub silent: bool,
    /// What every message takes.
    pub delay: Duration,
    /// Counts how often all connections were reset.
    pub resets: u32,
}

/// What a direction depends on.
#[derive(Debug, Clone)]
pub struct Direction {
    link: watch::Receiver<Link>,
    frozen: watch::Receiver<bool>,
    stopped: watch::Receiver<bool>,
    resets: u32,
}

impl Direction {
    /// Over the link as it is now. `frozen`: the sender stands still; `stopped`: the receiver does.
    #[must_use]
    pub fn new(link: watch::Receiver<Link>, frozen: watch::Receiver<bool>, stopped: watch::Receiver<bool>) -> Self {
        let resets = link.borrow().resets;
        Self {
            link,
            frozen,
            stopped,
            resets,
        }
    }

    fn silent(&self) -> bool {
        self.link.borrow().silent || *self.frozen.borrow()
    }

    /// Waits for a change; false when one of the ends is no more.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            biased;
            changed = self.link.changed() => changed.is_ok(),
            changed = self.frozen.changed() => changed.is_ok(),
            changed = self.stopped.changed() => changed.is_ok(),
        }
    }

    /// The next message, after the time that it takes; `None` when the sender is gone or was silent for too long.
    pub async fn next<T>(&mut self, messages: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
        let mut silent_since = None;
        loop {
            if *self.stopped.borrow() {
                if !self.changed().await {
                    return None;
                }
                continue;
            }
            if self.link.borrow().resets != self.resets {
                return None;
            }
            if self.silent() {
                let since = *silent_since.get_or_insert_with(tokio::time::Instant::now);
                tokio::select! {
                    biased;
                    goes_on = self.changed() => if !goes_on { return None },
                    () = tokio::time::sleep_until(since + SILENCE) => return None,
                }
                continue;
            }
            silent_since = None;
            tokio::select! {
                biased;
                goes_on = self.changed() => if !goes_on { return None },
                message = messages.next() => {
                    let delay = self.link.borrow().delay;
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    return message;
                }
            }
        }
    }
}
