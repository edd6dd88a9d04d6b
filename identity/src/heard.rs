//! When anything last came over a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When anything last came over a connection. Clones tell of the same one; the default is of none, over which nothing is ever missed.
#[derive(Debug, Clone, Default)]
pub struct Heard(Option<Arc<Last>>);

#[derive(Debug)]
struct Last {
    opened: Instant,
    after_ms: AtomicU64,
}

impl Heard {
    /// Of a connection that is opened at `now`.
    #[must_use]
    pub fn since(now: Instant) -> Self {
        Self(Some(Arc::new(Last {
            opened: now,
            after_ms: AtomicU64::new(0),
        })))
    }

    /// Something came.
    pub fn note(&self, now: Instant) {
        if let Some(last) = &self.0 {
            let after = now.saturating_duration_since(last.opened);
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            last.after_ms.store(after_ms, Ordering::Relaxed);
        }
    }

    /// For how long nothing has come. With pings as of [`crate::Keepalive::default`], a peer that is there is heard every half a second.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |last| {
            let heard = last.opened + Duration::from_millis(last.after_ms.load(Ordering::Relaxed));
            now.saturating_duration_since(heard)
        })
    }
}

impl PartialEq for Heard {
    /// Whether both tell of the same connection.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Heard {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_what_came_last_and_shared_by_clones() {
        let start = Instant::now();
        let seconds = |count| start + Duration::from_secs(count);
        let heard = Heard::since(start);
        let clone = heard.clone();
        assert_eq!(heard.silence(seconds(3)), Duration::from_secs(3));
        clone.note(seconds(2));
        assert_eq!(heard.silence(seconds(3)), Duration::from_secs(1));
        assert_eq!(
            heard.silence(seconds(1)),
            Duration::ZERO,
            "a clock that was read before"
        );
        assert!(heard == clone && heard != Heard::since(start));
    }

    #[test]
    fn without_a_connection_nothing_is_missed() {
        let start = Instant::now();
        let heard = Heard::default();
        heard.note(start);
        assert_eq!(heard.silence(start + Duration::from_secs(9)), Duration::ZERO);
    }
}
