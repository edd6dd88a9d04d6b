//! The time, as every part of the operator asks for it.
//!
//! Durations are measured by tokio's clock, dates are read from a clock that is handed in. A runtime whose time is paused then
//! holds both, and hours of a control loop pass in milliseconds.

use std::time::{Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use tokio::runtime::{Handle, RuntimeFlavor};

/// This moment, for durations.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Where dates come from.
#[derive(Debug, Clone, Copy)]
pub struct Wall(fn() -> SystemTime);

impl Default for Wall {
    /// The system's clock.
    fn default() -> Self {
        Self(SystemTime::now)
    }
}

impl Wall {
    /// Another clock.
    #[must_use]
    pub fn new(read: fn() -> SystemTime) -> Self {
        Self(read)
    }

    /// This moment, for certificates.
    #[must_use]
    pub fn now(self) -> SystemTime {
        (self.0)()
    }

    /// This moment, for objects. A clock that is out of the range of dates reads as the epoch.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::try_from(self.now()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// Computes for long, and lets other tasks of the runtime go on meanwhile where it has threads for that.
pub fn at_length<T>(compute: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(compute),
        _ => compute(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_clock_that_was_handed_in() {
        let wall = Wall::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        assert_eq!(wall.timestamp(), Timestamp::from_second(60).unwrap());
    }

    #[tokio::test]
    async fn what_computes_for_long_is_computed_on_any_runtime() {
        assert_eq!(at_length(|| 3), 3);
        let on_threads = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let computed = on_threads.spawn(async { at_length(|| 4) });
        assert_eq!(computed.await.unwrap(), 4);
        on_threads.shutdown_background();
    }
}
