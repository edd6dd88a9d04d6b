//! A Kubernetes API server in memory: what an operator is tested against thousands of times, under faults at chosen requests.
//!
//! ```text
//!  kube::Client ──▶ Connection ──▶ hook(before) ─▶ Store (pure) ─▶ hook(after) ──▶ answer
//!                       │ dead: nothing of it is answered any more
//!                       └ watches ◀── changes, as far as they are visible to the connection
//! ```
//!
//! No sockets and no threads: it runs on the caller's tokio runtime and takes its time from there, so that under a paused clock
//! hours pass in milliseconds. [`store`] and what it is made of are pure. Where it differs from kube-apiserver is said there;
//! that it does not differ otherwise is held against a real one by the test `same_answers`.

mod connection;
mod failure;
pub mod fields;
pub mod kinds;
mod object;
mod people;
pub mod real;
mod request;
mod selector;
mod serve;
pub mod store;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch as notify;
use tokio::time::Instant;

pub use connection::Connection;
pub use failure::Failure;
pub use real::Real;
pub use request::{Request, Verb};
pub use store::{Change, Happened, Key, Snapshot, Store};

/// Seconds since the Unix epoch when every API server here begins: the first of January 2026.
const BEGINNING_UNIX_S: u64 = 1_767_225_600;

std::thread_local! {
    static BEGAN: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// The date in the world of this thread's latest API server: it goes on with tokio's clock.
#[must_use]
pub fn wall() -> SystemTime {
    let passed = BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed());
    SystemTime::UNIX_EPOCH + Duration::from_secs(BEGINNING_UNIX_S) + passed
}

/// When, in the course of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// Nothing has been done yet.
    Before,
    /// It was carried out and is about to be answered.
    After,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// Its client dies.
    Crash,
    /// It is answered with this.
    Answer(Failure),
    /// It goes on after so long.
    Delay(Duration),
    /// Its connection breaks.
    Drop,
}

/// A request as the hook sees it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Counts the requests of all clients, from 1.
    pub number: u64,
    /// Who asks.
    pub client: &'a str,
    /// What for.
    pub request: &'a Request,
    /// With what.
    pub body: &'a serde_json::Value,
}

/// Decides what becomes of requests. Called with nothing locked.
pub type Hook = Arc<dyn Fn(&Seen<'_>, Moment) -> Verdict + Send + Sync>;

struct Inner {
    store: Store,
    requests: u64,
    hook: Hook,
    available: bool,
    /// Counts how often all connections broke.
    breaks: u64,
    /// Answers in the store's place, which follows it.
    real: Option<Arc<real::Real>>,
}

/// The API server; clones are the same one.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Mutex<Inner>>,
    /// Wakes watches.
    changed: notify::Sender<u64>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiServer(..)")
    }
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiServer {
    /// An empty one. It begins the world of this thread: see [`wall`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_real(None)
    }

    /// One that asks a real one, which must be empty, about every request; see [`real`]. It is always reached, and whoever restores a
    /// snapshot here has to do so there as well.
    #[must_use]
    pub fn in_front_of(real: Arc<real::Real>) -> Self {
        Self::with_real(Some(real))
    }

    fn with_real(real: Option<Arc<real::Real>>) -> Self {
        BEGAN.set(Some(Instant::now()));
        Self {
            inner: Arc::new(Mutex::new(Inner {
                store: Store::default(),
                requests: 0,
                hook: Arc::new(|_, _| Verdict::Continue),
                available: true,
                breaks: 0,
                real,
            })),
            changed: notify::Sender::new(0),
        }
    }

    /// A client under this name, and the connection that all its requests go by.
    #[must_use]
    pub fn connect(&self, name: &str) -> (kube::Client, Connection) {
        let connection = Connection::new(name);
        let client = kube::Client::new(serve::Service::new(self.clone(), connection.clone()), "default");
        (client, connection)
    }

    /// From now on asks this about every request.
    pub fn set_hook(&self, hook: Hook) {
        self.lock().hook = hook;
    }

    /// Whether it can be reached. One that cannot breaks all connections.
    pub fn set_available(&self, available: bool) {
        self.lock().available = available;
        self.break_connections();
    }

    /// Whether it can be reached now.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.lock().available
    }

    /// Breaks every watch, as the restart of an API server does.
    pub fn break_connections(&self) {
        self.lock().breaks += 1;
        self.wake();
    }

    /// Looks at the objects, or changes them as the caller that it says.
    pub fn with<T>(&self, look: impl FnOnce(&mut Store) -> T) -> T {
        let result = look(&mut self.lock().store);
        self.wake();
        result
    }

    /// Goes back to a snapshot, with the restart that this takes.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.lock().store.restore(snapshot);
        self.break_connections();
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// Somebody who is no client.
    #[must_use]
    pub fn caller(&self, name: &str) -> store::Caller {
        store::Caller {
            name: name.into(),
            at: wall(),
        }
    }

    /// What answers in the store's place, if anything does.
    #[must_use]
    pub fn real(&self) -> Option<Arc<real::Real>> {
        self.lock().real.clone()
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
