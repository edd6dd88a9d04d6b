//! Watches that do not have to be believed for ever.

use std::fmt::Debug;
use std::time::Duration;

use apiclient::brief;
use futures::{Stream, StreamExt, stream};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use lifecycle::backoff;
use serde::de::DeserializeOwned;

use crate::retry;

/// Everything is listed anew so often. A watch tells all that happens, but not when the store behind the API server was set back to
/// an older state, or when the API server's cache fails to follow the store: then it says nothing, and says that well.
pub const RELIST: Duration = Duration::from_secs(300);

/// The events of a watcher that begins anew every [`RELIST`]: what it lists then replaces what was known. After each error it waits, for
/// longer the more of them there were in a row: whoever follows it need not.
pub fn events<K>(api: Api<K>, config: Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).take_until(tokio::time::sleep(RELIST));
    spaced(stream::iter(std::iter::repeat_with(begin)).flatten())
}

/// Errors in a row, of which each says the same of what to wait for.
#[derive(Debug, Clone, Copy, Default)]
struct Errors {
    refused: bool,
    count: u32,
}

impl Errors {
    /// With one more, and how long to wait after it.
    fn and(self, error: &watcher::Error) -> (Self, Duration) {
        let refused = is_refused(error);
        let before = if refused == self.refused { self.count } else { 0 };
        let count = before.saturating_add(1);
        let policy = if refused { retry::API } else { retry::WATCH };
        (Self { refused, count }, policy.wait(count, backoff::jitter()))
    }
}

/// Whether the API server answered that it will not, for want of a right or of the kind: people change that.
fn is_refused(error: &watcher::Error) -> bool {
    use watcher::Error as E;
    match error {
        E::InitialListFailed(kube::Error::Api(status))
        | E::WatchStartFailed(kube::Error::Api(status))
        | E::WatchFailed(kube::Error::Api(status)) => matches!(status.code, 403 | 404),
        _ => false,
    }
}

/// A stream of events with pauses after its errors. A list that has begun is no success before its end: it may be refused next, or fail at
/// every second page, for hours.
fn spaced<K: 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static {
    let begin = (Box::pin(events), Errors::default(), None);
    stream::unfold(begin, |(mut events, mut errors, wait)| async move {
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        let event = events.next().await?;
        let wait = match &event {
            Err(error) => {
                let (all, wait) = errors.and(error);
                errors = all;
                Some(wait)
            }
            Ok(Event::Init | Event::InitApply(_)) => None,
            Ok(_) => {
                errors = Errors::default();
                None
            }
        };
        Some((event, (events, errors, wait)))
    })
}

/// Why a watch broke, in the words of the API server, and what to do about it.
#[must_use]
pub fn explain(error: &watcher::Error) -> String {
    let told = |doing: &str, cause: &kube::Error| format!("{doing}: {}", brief(cause));
    match error {
        watcher::Error::InitialListFailed(cause) => told("list", cause),
        watcher::Error::WatchStartFailed(cause) => told("watch", cause),
        watcher::Error::WatchFailed(cause) => told("watch", cause),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crds::names::INSTALL_KINDS;
    use tokio::time::Instant;

    use super::*;

    fn refusal(code: u16) -> watcher::Error {
        let status = kube::core::Status {
            code,
            message: "no".into(),
            ..Default::default()
        };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    /// The longest pause within so many attempts that all end with this error, each after the first page of a list.
    async fn longest_pause(error: fn() -> watcher::Error, attempts: usize) -> Duration {
        let attempt = move |_| [Ok(Event::Init), Ok(Event::InitApply(())), Err(error())];
        let mut events = Box::pin(spaced(
            stream::iter(0..attempts).flat_map(move |n| stream::iter(attempt(n))),
        ));
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        while let Some(event) = events.next().await {
            if event.is_err() {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        longest
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_asked_for_less_and_less_and_what_is_away_is_met_soon_after_its_return() {
        let refused = longest_pause(|| refusal(403), 20).await;
        assert!((retry::API.cap / 2..=retry::API.cap).contains(&refused), "{refused:?}");
        let away = longest_pause(|| refusal(503), 20).await;
        assert!((retry::WATCH.cap / 2..=retry::WATCH.cap).contains(&away), "{away:?}");
    }

    #[test]
    fn a_refusal_after_an_outage_is_the_first_of_its_kind() {
        let mut errors = Errors::default();
        for _ in 0..20 {
            (errors, _) = errors.and(&refusal(503));
        }
        let (_, wait) = errors.and(&refusal(403));
        assert!(wait <= retry::API.first, "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_came_to_its_end_ends_the_long_pauses() {
        let told = (0..9).map(|_| Err(refusal(403)));
        let events: Vec<_> = told
            .chain([Ok(Event::<()>::InitDone), Err(refusal(403)), Ok(Event::Init)])
            .collect();
        let mut events = Box::pin(spaced(stream::iter(events)));
        for _ in 0..11 {
            events.next().await;
        }
        let before = Instant::now();
        assert!(matches!(events.next().await, Some(Ok(Event::Init))));
        assert!(before.elapsed() <= retry::API.first, "{:?}", before.elapsed());
    }

    #[test]
    fn a_watch_that_breaks_says_what_to_do() {
        assert!(explain(&refusal(404)).contains(INSTALL_KINDS));
        assert!(explain(&refusal(403)).contains("helm upgrade"));
        assert_eq!(explain(&refusal(500)), "list: no (500 )");
    }
}
