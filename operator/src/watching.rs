//! Watches that do not have to be believed for ever.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::error::brief;

/// Definitions are part of the chart, but Helm installs them once and never again.
pub const INSTALL_KINDS: &str = "kubectl apply --server-side -f charts/shardwright/crds";

/// Everything is listed anew so often. A watch tells all that happens, but not when the store behind the API server was set back to
/// an older state, or when the API server's cache fails to follow the store: then it says nothing, and says that well.
pub const RELIST: Duration = Duration::from_secs(300);

/// The events of a watcher that begins anew every [`RELIST`]: what it lists then replaces what was known.
pub fn events<K>(api: Api<K>, config: Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).take_until(tokio::time::sleep(RELIST));
    stream::iter(std::iter::repeat_with(begin)).flatten()
}

/// Why a watch broke, in the words of the API server, and what to do about it. Only kinds that the chart defines can be unknown.
#[must_use]
pub fn explain(error: &watcher::Error) -> String {
    let told = |doing: &str, cause: &kube::Error| match cause {
        kube::Error::Api(status) if status.code == 404 => {
            format!("{doing}: the API server does not know the kind; {INSTALL_KINDS}")
        }
        cause => format!("{doing}: {}", brief(cause)),
    };
    match error {
        watcher::Error::InitialListFailed(cause) => told("list", cause),
        watcher::Error::WatchStartFailed(cause) => told("watch", cause),
        watcher::Error::WatchFailed(cause) => told("watch", cause),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_breaks_says_what_to_do() {
        let refused = |code| {
            let status = kube::core::Status {
                code,
                message: "no".into(),
                ..Default::default()
            };
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
        };
        assert!(explain(&refused(404)).contains(INSTALL_KINDS));
        assert!(explain(&refused(403)).contains("helm upgrade"));
        assert_eq!(explain(&refused(500)), "list: no (500 )");
    }
}
