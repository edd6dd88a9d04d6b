//! Time that only goes forward.

use serde::{Deserialize, Serialize};

/// Counts the time that passed between observations. When the caller's clock jumps back, nothing passed, and it goes on
/// from there: what was to last an hour lasts an hour, however the clock was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Clock {
    /// The latest time, in own milliseconds.
    latest_ms: u64,
    /// Own time less the caller's.
    ahead_ms: u64,
}

impl Clock {
    fn ahead(self, now_ms: u64) -> u64 {
        self.ahead_ms.max(self.latest_ms.saturating_sub(now_ms))
    }

    /// Own time at the caller's, never before the latest.
    pub(super) fn at(self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.ahead(now_ms))
    }

    /// Goes on to the caller's time, and gives own time.
    pub(super) fn advance(&mut self, now_ms: u64) -> u64 {
        self.ahead_ms = self.ahead(now_ms);
        self.latest_ms = self.at(now_ms);
        self.latest_ms
    }

    /// A moment of own time in the caller's, as the caller's clock stands now.
    pub(super) fn for_caller(self, moment_ms: u64, now_ms: u64) -> u64 {
        moment_ms.saturating_sub(self.ahead(now_ms))
    }
}
