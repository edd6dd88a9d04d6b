//! A moment's patience with what is about to be ready.
//!
//! The API server may say that a model is Ready before this gateway has heard so from its operator, and its vocabulary is fetched after
//! that: whoever waits for Ready and asks at once is not to be refused.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::error::{ApiError, NOT_READY};

/// How long that takes at most: news need milliseconds. A client that is refused all the same hears it within a second.
const LAG: Duration = Duration::from_millis(800);
/// Vocabularies tell nobody that they are there.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// What `look` finds, unless it is that something is not ready: then what it finds within a moment, `end_by` at the latest. Looks again
/// whenever `changes` has news.
///
/// # Errors
/// The last error that `look` gave.
pub(super) async fn await_ready<S, T>(
    mut changes: watch::Receiver<S>,
    end_by: Instant,
    look: impl Fn() -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let until = end_by.min(Instant::now() + LAG);
    loop {
        changes.mark_unchanged();
        let error = match look() {
            Err(error) if error.code == Some(NOT_READY) => error,
            found => return found,
        };
        let now = Instant::now();
        let told = timeout_at(until.min(now + LOOK_AGAIN), changes.changed()).await;
        // Nobody will tell anything any more.
        let is_over = matches!(told, Ok(Err(_)));
        if now >= until || is_over {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn awaited(after: Duration, wait: Duration) -> Result<u32, ApiError> {
        let (send, receive) = watch::channel(0);
        let told = async {
            tokio::time::sleep(after).await;
            send.send_replace(7);
            std::future::pending::<()>().await;
        };
        let looked = receive.clone();
        let look = || match *looked.borrow() {
            0 => Err(ApiError::not_ready("loading")),
            found => Ok(found),
        };
        tokio::select! {
            found = await_ready(receive, Instant::now() + wait, look) => found,
            () = told => Ok(0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ready_within_a_moment_is_waited_for_and_nothing_longer() {
        let long = Duration::from_secs(60);
        assert_eq!(awaited(Duration::ZERO, long).await.unwrap(), 7);
        assert_eq!(awaited(LAG - LOOK_AGAIN, long).await.unwrap(), 7);
        let error = awaited(LAG * 2, long).await.unwrap_err();
        assert_eq!(error.code, Some(NOT_READY));
        let error = awaited(LAG / 2, LAG / 4).await.unwrap_err();
        assert_eq!(error.code, Some(NOT_READY), "the client's own patience is shorter");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_exist_is_told_at_once() {
        let (_send, receive) = watch::channel(());
        let began = Instant::now();
        let look = || Err::<(), _>(ApiError::model_not_found("m"));
        assert!(await_ready(receive, began + LAG, look).await.is_err());
        assert_eq!(Instant::now(), began);
    }
}
