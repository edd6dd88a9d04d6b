//! Watches that do not have to be believed for ever.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

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
