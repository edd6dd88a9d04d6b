//! A rig for workers: an authority, signed placements, workers in this process or as their own, and the agent and gateway
//! that speak to them.
#![allow(dead_code, reason = "each test binary uses its own part of the rig")]

pub mod agent;
pub mod between;
pub mod fake;
pub mod gateway;
pub mod head;
pub mod local;
pub mod process;
pub mod realm;

use std::time::Duration;

/// Nothing in these tests takes this long unless it never happens.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits until a condition gives a value, and says what was awaited when it never does.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, condition: impl FnMut() -> F) -> T {
    wait_within(LIMIT, what, condition).await
}

/// The same of what takes its time.
pub async fn wait_within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let found = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(limit, found)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}
