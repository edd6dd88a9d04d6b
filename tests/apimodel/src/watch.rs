//! A watch: the changes after a revision, as they become visible.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::watch as notify;
use tokio::time::Instant;

use crate::ApiServer;
use crate::connection::{Connection, Sight};
use crate::failure::Failure;
use crate::request::Request;
use crate::selector::Selection;
use crate::serve::{AnswerBody, selection, shown};
use crate::store::{Change, Happened};

/// How often a watch that asks for it is told how far it has come.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// A watch that does not say how long it wants to be served is ended after this long.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A watch under way.
pub(crate) struct Watching {
    server: ApiServer,
    connection: Connection,
    request: Request,
    selection: Selection,
    cursor: u64,
    ready: VecDeque<Value>,
    before: Option<Value>,
    breaks: u64,
    ends: Instant,
    bookmark: Instant,
    changed: notify::Receiver<u64>,
    sight: notify::Receiver<Sight>,
}

impl Watching {
    pub(crate) fn new(server: ApiServer, connection: Connection, request: &Request) -> Result<Self, Failure> {
        let selection = selection(request)?;
        let wanted = request.parameter("resourceVersion");
        let (cursor, present, breaks) = {
            let inner = server.lock();
            let present = match wanted {
                // From now on, what there is first.
                "" | "0" => inner.store.list(request.kind, &selection),
                _ => Vec::new(),
            };
            let cursor = match wanted {
                "" | "0" => inner.store.revision(),
                version => version
                    .parse()
                    .map_err(|_| Failure::bad_request("resourceVersion: invalid resource version"))?,
            };
            (cursor, present, inner.breaks)
        };
        let seconds = request.parameter("timeoutSeconds").parse().map(Duration::from_secs);
        let now = Instant::now();
        let added = present.iter().map(|object| event("ADDED", &shown(request, object)));
        Ok(Self {
            selection,
            cursor,
            ready: added.collect(),
            before: None,
            breaks,
            ends: now + seconds.unwrap_or(TIMEOUT),
            bookmark: now + BOOKMARKS,
            changed: server.changed.subscribe(),
            sight: connection.sight.subscribe(),
            request: request.clone(),
            server,
            connection,
        })
    }

    /// The next line; an error breaks the connection, `None` ends the watch as it should end.
    async fn next(&mut self) -> Option<Result<Value, io::Error>> {
        loop {
            self.connection.moves().await;
            self.changed.mark_unchanged();
            self.sight.mark_unchanged();
            {
                let inner = self.server.lock();
                if inner.breaks != self.breaks || !inner.available {
                    return Some(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
                }
            }
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            match self.take() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(failure) => {
                    // After this line the watch is over.
                    self.ends = Instant::now();
                    return Some(Ok(event("ERROR", &failure.body())));
                }
            }
            if Instant::now() >= self.ends {
                return None;
            }
            if Instant::now() >= self.bookmark {
                self.bookmark = Instant::now() + BOOKMARKS;
                if self.request.parameter("allowWatchBookmarks") == "true" && self.sight.borrow().held_at.is_none() {
                    return Some(Ok(self.bookmarked()));
                }
            }
            let wakes = self.ends.min(self.bookmark);
            tokio::select! {
                biased;
                _ = self.changed.changed() => {}
                _ = self.sight.changed() => {}
                () = self.connection.dead.cancelled() => {}
                () = tokio::time::sleep_until(wakes) => {}
            }
        }
    }

    /// Makes the next change ready; false where there is none.
    fn take(&mut self) -> Result<bool, Failure> {
        let sight = *self.sight.borrow();
        let change = {
            let inner = self.server.lock();
            let visible = sight.held_at.unwrap_or(u64::MAX);
            inner.store.next_change(self.request.kind, self.cursor, visible)?
        };
        let Some(change) = change else { return Ok(false) };
        self.cursor = change.revision;
        if let Some(line) = self.line(&change) {
            if sight.repeats {
                self.ready.push_back(line.clone());
                self.ready.extend(self.before.replace(line.clone()));
            }
            self.ready.push_back(line);
        }
        Ok(true)
    }

    /// What the change is to those who see only what they selected.
    fn line(&self, change: &Change) -> Option<Value> {
        let is = change.happened != Happened::Deleted && self.selection.has(&change.object);
        let was = change.before.as_ref().is_some_and(|before| self.selection.has(before));
        let kind = match (was, is) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        // As it was when it was last among the selected, under the revision of its going.
        let object = match (is, change.happened, &change.before) {
            (false, Happened::Modified, Some(before)) => {
                let mut last = (**before).clone();
                last["metadata"]["resourceVersion"] = json!(change.revision.to_string());
                Arc::new(last)
            }
            _ => change.object.clone(),
        };
        Some(event(kind, &shown(&self.request, &object)))
    }

    fn bookmarked(&mut self) -> Value {
        // Never back, where the store was.
        self.cursor = self.cursor.max(self.server.lock().store.revision());
        let kind = self.request.kind;
        let (name, version) = if self.request.metadata_only {
            ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned())
        } else {
            (kind.kind, kind.api_version())
        };
        let metadata = json!({ "resourceVersion": self.cursor.to_string(), "creationTimestamp": null });
        event(
            "BOOKMARK",
            &json!({ "kind": name, "apiVersion": version, "metadata": metadata }),
        )
    }
}

fn event(kind: &str, object: &Value) -> Value {
    json!({ "type": kind, "object": object })
}

/// The lines of a watch.
pub(crate) fn body(watching: Watching) -> AnswerBody {
    let lines = futures::stream::unfold(Some(watching), |watching| async {
        let mut watching = watching?;
        match watching.next().await? {
            Ok(line) => {
                let mut text = line.to_string();
                text.push('\n');
                let frame = Frame::data(Bytes::from(text));
                Some((Ok(frame), Some(watching)))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(lines.boxed()).boxed_unsync()
}
