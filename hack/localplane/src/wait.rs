//! Waiting for a condition, with a limit: the only way that anything here waits.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// What one look at a condition found.
#[derive(Debug)]
pub enum Seen<T> {
    Done(T),
    /// Not yet; what was seen instead, for the error.
    Not(String),
}

/// Looks at `probe` until it is done; `condition` completes the sentence "waited in vain until …".
pub async fn until<T, F, Fut>(condition: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Seen<T>>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match probe().await? {
            Seen::Done(value) => return Ok(value),
            Seen::Not(last) if Instant::now() >= deadline => {
                return Err(Error::TimedOut {
                    condition: condition.to_owned(),
                    seconds: limit.as_secs(),
                    last,
                });
            }
            Seen::Not(_) => tokio::time::sleep(POLL).await,
        }
    }
}
