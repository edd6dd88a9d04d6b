//! A kube-apiserver that answers in the model's place, while the clock of the caller stands still.
//!
//! Requests are carried out one after the other, and the caller's thread waits for each: under tokio's paused clock no time passes
//! meanwhile. What a write makes is put into the model's store, where tests look, and then every watch that it concerns is waited
//! for: nothing is under way when the caller goes on. So a story that takes minutes by its own clock takes seconds, and comes out
//! the same each time. Writes that go past the model are not seen; [`Real::compare`] finds them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant as RealInstant};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc as lines;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::kinds::{KINDS, Kind};
use crate::request::Request;
use crate::selector::Selection;
use crate::serve::{AnswerBody, answered, selection};
use crate::store::{Caller, Change, Happened, Key};

/// What an API server on loopback does not answer, or tell a watch, within this time it never will.
const LIMIT: Duration = Duration::from_secs(20);
/// A watch that does not say how long it wants to be served.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The API server's own.
const FOREIGN: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// A running kube-apiserver, reached from a runtime of its own.
pub struct Real {
    client: Mutex<kube::Client>,
    io: tokio::runtime::Handle,
    watches: Mutex<Vec<Arc<Watched>>>,
}

impl std::fmt::Debug for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Real(..)")
    }
}

/// What one watch was told.
struct Watched {
    kind: &'static Kind,
    selection: Selection,
    connection: Connection,
    /// It is told of what follows this revision.
    since: u64,
    told: Mutex<Told>,
    tells: Condvar,
}

#[derive(Default)]
struct Told {
    /// By uid: the latest version, and whether it is gone.
    objects: BTreeMap<String, (u64, bool)>,
    over: bool,
}

/// Status and body.
type Answered = (u16, Bytes);

impl Real {
    /// `client` lives on the runtime of `io`, which must go on while the caller's thread waits.
    #[must_use]
    pub fn new(client: kube::Client, io: tokio::runtime::Handle) -> Self {
        Self {
            client: Mutex::new(client),
            io,
            watches: Mutex::default(),
        }
    }

    /// It was started again, and is reached by this client. What was connected to it is told that it is no more.
    pub fn started_again(&self, client: kube::Client) {
        *lock(&self.client) = client;
        for watched in lock(&self.watches).drain(..) {
            let told = lock(&watched.told);
            let ended = watched.tells.wait_timeout_while(told, LIMIT, |told| !told.over);
            let (told, _) = ended.unwrap_or_else(PoisonError::into_inner);
            assert!(told.over || watched.connection.is_dead(), "a watch outlived its server");
        }
    }

    /// Deletes everything of the kinds that are served, but what is the API server's own.
    ///
    /// # Panics
    /// Something cannot be deleted.
    pub fn clear(&self) {
        lock(&self.watches).clear();
        for kind in &KINDS {
            for object in self.list(kind) {
                let path = path(kind, text(&object, "namespace"), text(&object, "name"), "");
                let now = json!({ "gracePeriodSeconds": 0 });
                let (code, body) = self.ask(&Method::DELETE, &path, "application/json", &now);
                assert!(code < 300 || code == 404, "{path}: {code} {body:?}");
            }
            let left = self.list(kind);
            assert!(left.is_empty(), "{} are left: {left:?}", kind.plural);
        }
    }

    /// What the store of the model and the API server do not agree on; empty where they do.
    #[must_use]
    pub fn compare(&self, store: &crate::Store) -> Vec<String> {
        let identity = |object: &Value| (text(object, "uid").to_owned(), version(object));
        let mut differ = Vec::new();
        for kind in &KINDS {
            let key = |object: &Value| Key::new(kind, text(object, "namespace"), text(object, "name"));
            let named = |object: &Value| (key(object), identity(object));
            let there: BTreeMap<Key, _> = self.list(kind).iter().map(named).collect();
            let here: BTreeMap<Key, _> = store
                .all()
                .filter(|(key, _)| key.kind() == kind)
                .map(|(key, object)| (key.clone(), identity(object)))
                .collect();
            // Both groups of events serve the same objects.
            if there != here && kind.plural != "events" {
                differ.push(format!("{}: {there:?} there, {here:?} here", kind.plural));
            }
        }
        differ
    }

    fn list(&self, kind: &'static Kind) -> Vec<Value> {
        let (code, body) = self.ask(&Method::GET, &path(kind, "", "", ""), "application/json", &Value::Null);
        assert_eq!(code, 200, "{} are listed", kind.plural);
        let list: Value = serde_json::from_slice(&body).unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let ours = |object: &Value| !FOREIGN.contains(&text(object, "namespace"));
        items.into_iter().filter(ours).collect()
    }

    /// The revision of everything.
    fn revision(&self) -> u64 {
        let path = "/api/v1/namespaces/default/configmaps?limit=1";
        let (_, body) = self.ask(&Method::GET, path, "application/json", &Value::Null);
        version(&serde_json::from_slice(&body).unwrap_or_default())
    }

    /// A request of the model's own.
    pub(crate) fn ask(&self, method: &Method, path: &str, content: &str, body: &Value) -> Answered {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, content)
            .body(body)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        self.send(request)
    }

    /// Sends and waits for the whole answer.
    fn send(&self, request: http::Request<Vec<u8>>) -> Answered {
        let what = format!("{} {}", request.method(), request.uri());
        let (client, (tells, told)) = (lock(&self.client).clone(), mpsc::channel());
        self.io.spawn(async move {
            let answer = async {
                let (parts, body) = client.send(request.map(Body::from)).await?.into_parts();
                let bytes = body.collect_bytes().await?;
                Ok::<Answered, kube::Error>((parts.status.as_u16(), bytes))
            };
            // Whoever asked waits for nothing else.
            let _ = tells.send(answer.await);
        });
        match told.recv_timeout(LIMIT) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => panic!("{what}: {error}"),
            Err(_) => panic!("{what}: no answer within {LIMIT:?}"),
        }
    }

    /// A client's request, as it came.
    pub(crate) fn forward(
        &self,
        server: &crate::ApiServer,
        parts: &Parts,
        body: &Bytes,
        seen: (&Request, &Caller),
    ) -> Response<AnswerBody> {
        let (request, caller) = seen;
        let (code, answer) = self.send(copied(parts, body.to_vec()));
        if code < 300 && request.verb.writes() {
            let object: Value = serde_json::from_slice(&answer).unwrap_or_default();
            let name = match request.name.as_str() {
                "" => text(&object, "name"),
                name => name,
            };
            self.look(server, &Key::new(request.kind, &request.namespace, name), caller);
        }
        let body = Full::new(answer)
            .map_err(|never: Infallible| match never {})
            .boxed_unsync();
        answered(code, body)
    }

    /// Takes an object over as it is now, and waits until all who watch it have been told.
    pub(crate) fn look(&self, server: &crate::ApiServer, key: &Key, caller: &Caller) {
        let path = path(key.kind(), &key.namespace, &key.name, "");
        let (code, body) = self.ask(&Method::GET, &path, "application/json", &Value::Null);
        let object = match code {
            200 => serde_json::from_slice::<Value>(&body).ok(),
            404 => None,
            code => panic!("{path}: {code}"),
        };
        let revision = object.as_ref().map_or_else(|| self.revision(), version);
        let changes = server.with(|store| {
            let before = store.log().len();
            store.take_over(key, object, revision, caller);
            store.log()[before..].to_vec()
        });
        lock(&self.watches).retain(|watched| !watched.is_over());
        for watched in lock(&self.watches).iter() {
            changes.iter().for_each(|change| watched.wait(change));
        }
    }

    /// Begins a watch.
    pub(crate) fn watch(
        &self,
        server: &crate::ApiServer,
        parts: &Parts,
        request: &Request,
        connection: &Connection,
    ) -> Result<Response<AnswerBody>, Failure> {
        let watched = Arc::new(Watched {
            kind: request.kind,
            selection: selection(request)?,
            connection: connection.clone(),
            since: request.parameter("resourceVersion").parse().unwrap_or(0),
            told: Mutex::default(),
            tells: Condvar::new(),
        });
        let (up, down) = lines::unbounded_channel();
        let (client, asked, (tells, told)) = (lock(&self.client).clone(), copied(parts, Vec::new()), mpsc::channel());
        let listens = watched.clone();
        self.io.spawn(async move {
            let (status, mut body) = match client.send(asked.map(Body::from)).await {
                Ok(answer) => (answer.status().as_u16(), answer.into_body().into_data_stream()),
                Err(_) => return,
            };
            let _ = tells.send(status);
            let mut rest = BytesMut::new();
            while let Ok(Some(bytes)) = body.try_next().await {
                rest.extend_from_slice(&bytes);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line = rest.split_to(end + 1).freeze();
                    if up.send(line.clone()).is_err() {
                        return listens.over();
                    }
                    listens.tell(&line);
                }
            }
            listens.over();
        });
        let status = told
            .recv_timeout(LIMIT)
            .unwrap_or_else(|_| panic!("{}: no watch", parts.uri));
        if status == 200 {
            let after = server.with(|store| store.since(watched.since));
            after.iter().for_each(|change| watched.wait(change));
            lock(&self.watches).push(watched);
        }
        let seconds = request.parameter("timeoutSeconds").parse().map(Duration::from_secs);
        let ends = Instant::now() + seconds.unwrap_or(TIMEOUT);
        Ok(answered(status, streamed(down, connection.clone(), ends)))
    }
}

impl Watched {
    fn is_over(&self) -> bool {
        self.connection.is_dead() || lock(&self.told).over
    }

    fn over(&self) {
        lock(&self.told).over = true;
        self.tells.notify_all();
    }

    fn tell(&self, line: &[u8]) {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        let object = &event["object"];
        let mut told = lock(&self.told);
        told.objects.insert(
            text(object, "uid").to_owned(),
            (version(object), event["type"] == "DELETED"),
        );
        self.tells.notify_all();
    }

    /// Waits until the change was told, if it concerns the watch.
    fn wait(&self, change: &Change) {
        let has = |object: &Value| self.selection.has(object);
        let is = change.happened != Happened::Deleted && has(&change.object);
        let was = change.before.as_ref().is_some_and(|before| has(before));
        if change.key.kind() != self.kind || change.revision <= self.since || !(is || was) {
            return;
        }
        let uid = text(&change.object, "uid");
        let until = RealInstant::now() + LIMIT;
        let mut told = lock(&self.told);
        loop {
            let known = told.objects.get(uid);
            // The end of an object has a version that nobody is told of.
            let done = known.is_some_and(|(version, gone)| *version >= change.revision || (*gone && !is));
            if done || told.over || self.connection.is_dead() {
                return;
            }
            let left = until.saturating_duration_since(RealInstant::now());
            assert!(
                !left.is_zero(),
                "a watch was not told of {} {:?}",
                change.key,
                change.happened
            );
            told = self
                .tells
                .wait_timeout(told, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Lines as they come, until the watch ends as it should by the caller's clock.
fn streamed(down: lines::UnboundedReceiver<Bytes>, connection: Connection, ends: Instant) -> AnswerBody {
    let lines = futures::stream::unfold((down, connection, ends), |(mut down, connection, ends)| async move {
        connection.moves().await;
        tokio::select! {
            biased;
            line = down.recv() => {
                let frame = Frame::data(line?);
                Some((Ok::<_, io::Error>(frame), (down, connection, ends)))
            }
            () = tokio::time::sleep_until(ends) => None,
            () = connection.dead.cancelled() => std::future::pending().await,
        }
    });
    StreamBody::new(lines.boxed()).boxed_unsync()
}

/// The path of an object, or of all objects of a kind.
pub(crate) fn path(kind: &Kind, namespace: &str, name: &str, subresource: &str) -> String {
    let api = match kind.group {
        "" => "/api".to_owned(),
        group => format!("/apis/{group}"),
    };
    let namespaces = match namespace {
        "" => String::new(),
        namespace => format!("/namespaces/{namespace}"),
    };
    let mut path = format!("{api}/{}{namespaces}/{}", kind.version, kind.plural);
    for part in [name, subresource] {
        if !part.is_empty() {
            path = format!("{path}/{part}");
        }
    }
    path
}

fn copied(parts: &Parts, body: Vec<u8>) -> http::Request<Vec<u8>> {
    let mut request = http::Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    request
}

fn text<'o>(object: &'o Value, field: &str) -> &'o str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn version(object: &Value) -> u64 {
    text(object, "resourceVersion").parse().unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
