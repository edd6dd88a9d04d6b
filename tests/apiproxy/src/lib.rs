//! A proxy in front of a Kubernetes API server that misbehaves as it is told, for tests of what its clients make of that.
//!
//! ```text
//!  operator ──TLS──▶ proxy ──TLS──▶ kube-apiserver
//!                      │ script: rules, decided request by request, chance by a seed
//!                      │ events: what becomes of the lines of a watch
//!                      └ seen:   every request, with its status
//! ```
//!
//! It shows the API server's own certificate and hands bearer tokens on, so a client needs nothing but another port in its kubeconfig.
//! [`script`] and [`events`] decide and do nothing; [`serve`] does.

pub mod events;
pub mod script;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use script::{Rule, Script};

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No port, no thread, or a file that cannot be read.
    #[error("no proxy: {0}")]
    Io(#[from] std::io::Error),
    /// The API server's certificate or key is not usable.
    #[error("the proxy's certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// One of the PEM files.
    #[error("the proxy's certificate: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// The way to the API server.
    #[error("the proxy's client: {0}")]
    Client(#[from] reqwest::Error),
}

/// The PEM files of the API server that the proxy stands in front of.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The authority that its certificate chains to.
    pub authority: &'a Path,
    /// Its certificate, for 127.0.0.1.
    pub certificate: &'a Path,
    /// Its key.
    pub key: &'a Path,
}

/// A request as it came, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When it came.
    pub at: std::time::Instant,
    /// The program that asked, as it calls itself, and a number for whom it asked.
    pub client: String,
    /// Its verb in HTTP.
    pub method: http::Method,
    /// Without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// What the client was told.
    pub status: u16,
    /// Whether it was met by a fault.
    pub faulted: bool,
}

impl Seen {
    /// Whether it changed the status of the object of this kind (in the plural) and name.
    pub fn wrote_status(&self, plural: &str, name: &str) -> bool {
        let of_it = self.path.ends_with(&format!("/{plural}/{name}/status"));
        of_it && self.method != http::Method::GET && self.status < 300
    }
}

/// What the connections share.
struct Shared {
    upstream: String,
    client: reqwest::Client,
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    /// Counts up when other rules are followed.
    rules: watch::Sender<u64>,
}

/// A running proxy with a thread of its own. It ends, and its connections with it, when this is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _ended: oneshot::Sender<()>,
}

impl Proxy {
    /// Listens on a free port of loopback in front of the API server at `upstream`; every chance follows from `seed`.
    ///
    /// # Errors
    /// No port, no thread, or files that cannot be used.
    pub fn start(upstream: &str, files: Files<'_>, seed: u64) -> Result<Self, Error> {
        let acceptor = serve::acceptor(files)?;
        let authorities = reqwest::Certificate::from_pem_bundle(&std::fs::read(files.authority)?)?;
        let client = reqwest::Client::builder()
            .tls_certs_only(authorities)
            // What the API server closes must be closed to the client as well: no connection is kept for another.
            .pool_max_idle_per_host(0)
            .build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.trim_end_matches('/').to_owned(),
            client,
            script: Mutex::new(Script::new(seed)),
            seen: Mutex::default(),
            rules: watch::Sender::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, end) = oneshot::channel::<()>();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve::run(listener, acceptor, serving) => {}
                    _ = end => {}
                }
            });
        });
        Ok(Self {
            address,
            shared,
            _ended: ended,
        })
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// From now on, requests are met by these; the first rule that applies decides. Watches that are open end, as an API server
    /// ends them from time to time, so that those that follow are met by the rules as well.
    pub fn follow(&self, rules: Vec<Rule>) {
        locked(&self.shared.script).follow(rules);
        self.shared.rules.send_modify(|count| *count += 1);
    }

    /// Forgets what was seen, and returns it.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *locked(&self.shared.seen))
    }

    /// What was seen since.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.shared.seen).clone()
    }
}

/// A connection that panicked while it held a lock has failed already.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
