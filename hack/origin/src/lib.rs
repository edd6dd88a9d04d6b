//! A source of models for tests: an HTTPS server with an authority of its own that serves files by ranges, counts what
//! it sends, remembers what it was asked, and misbehaves as it is told.

mod answer;
mod proxy;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub use proxy::{Asked, Proxy};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Counted from 0 over all requests.
    pub number: usize,
    /// Without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// First and last byte; the last is as large as numbers get where it was left open.
    pub range: Option<(u64, u64)>,
    /// The header, as it came.
    pub authorization: Option<String>,
}

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Manner {
    /// As it should be.
    Serve,
    /// With this status and these headers, and nothing else.
    Status(u16, Vec<(String, String)>),
    /// With a document.
    Document(u16, Vec<(String, String)>, Vec<u8>),
    /// With the whole file and status 200.
    IgnoreRange,
    /// Closes after so many bytes of the body.
    Truncate(usize),
    /// Sends so many bytes of the body and then nothing, without closing.
    Stall(usize),
    /// Says nothing at all.
    Mute,
    /// As it should be, but under this ETag.
    Etag(&'static str),
    /// At most so many bytes of a range, and says so.
    Cap(u64),
    /// As if the file had so many bytes.
    Length(u64),
    /// With one byte changed.
    Damage,
    /// More bytes than it announced, against every rule.
    HugeHeader,
}

/// Decides how a request is answered.
pub type Script = Box<dyn Fn(&Seen) -> Manner + Send + Sync>;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No port, no thread.
    #[error("no server of files: {0}")]
    Io(#[from] std::io::Error),
    /// No certificate could be made.
    #[error("no certificate for the server of files: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate is not usable.
    #[error("the certificate of the server of files: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a file's bytes are read from.
#[derive(Clone, Debug)]
enum Content {
    Bytes(Arc<Vec<u8>>),
    File(PathBuf),
}

/// What the connections share.
struct Shared {
    files: Mutex<BTreeMap<String, Content>>,
    script: Mutex<Script>,
    sent: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

/// A running server with a thread of its own. It ends, and its connections with it, when this is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// The authority that its certificate chains to.
    pub ca_pem: String,
    shared: Arc<Shared>,
    accepting: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.send_replace(true);
    }
}

/// A test that panicked while it held a lock has failed already.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Starts a server on a free port of loopback, for `localhost` and `127.0.0.1`, that serves whatever is put.
    ///
    /// # Errors
    /// No port, thread or certificate.
    pub fn start() -> Result<Self, Error> {
        let (config, ca_pem) = tls::config()?;
        let shared = Arc::new(Shared {
            files: Mutex::default(),
            script: Mutex::new(Box::new(|_| Manner::Serve)),
            sent: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let bound = std::net::TcpListener::bind("127.0.0.1:0")?;
        bound.set_nonblocking(true)?;
        let address = bound.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (accepting, ended) = (watch::Sender::new(true), watch::Sender::new(false));
        let (accept, mut end) = (accepting.subscribe(), ended.subscribe());
        let inner = Arc::clone(&shared);
        std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(bound) else {
                    return;
                };
                tokio::select! {
                    () = serve(listener, TlsAcceptor::from(config), accept, inner) => {}
                    // It is over, too, when the other side is gone.
                    _ = end.wait_for(|ended| *ended) => {}
                }
            });
        })?;
        Ok(Self {
            address,
            ca_pem,
            shared,
            accepting,
            ended,
        })
    }

    /// Serves these bytes at `path`, from the next request on.
    pub fn put(&self, path: &str, content: Vec<u8>) {
        locked(&self.shared.files).insert(path.to_owned(), Content::Bytes(Arc::new(content)));
    }

    /// Serves this file at `path`.
    pub fn put_file(&self, path: &str, file: impl Into<PathBuf>) {
        locked(&self.shared.files).insert(path.to_owned(), Content::File(file.into()));
    }

    /// The address of a file.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.host())
    }

    /// `localhost:port`.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// How requests are answered from now on.
    pub fn behave(&self, script: impl Fn(&Seen) -> Manner + Send + Sync + 'static) {
        *locked(&self.shared.script) = Box::new(script);
    }

    /// Serves only who shows this bearer token; others get a 401.
    pub fn demand(&self, token: &str) {
        let expected = format!("Bearer {token}");
        self.behave(move |seen| {
            if seen.authorization.as_ref() == Some(&expected) {
                Manner::Serve
            } else {
                Manner::Status(401, vec![])
            }
        });
    }

    /// Bytes of files sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.shared.seen).clone()
    }

    /// Counts from nothing again.
    pub fn forget(&self) {
        self.shared.sent.store(0, Ordering::SeqCst);
        locked(&self.shared.seen).clear();
    }

    /// No new connections from now on, and nothing for those that stand.
    pub fn stop(&self) {
        self.accepting.send_replace(false);
        self.behave(|_| Manner::Status(503, vec![]));
    }
}

/// Accepts for as long as `accept` says so; serves what was accepted for as long as it is polled.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, mut accept: watch::Receiver<bool>, shared: Arc<Shared>) {
    // Dropped with this future, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        // A client that is gone needs no answer.
                        let _ = answer::connection(stream, &shared).await;
                    }
                });
            }
            _ = accept.wait_for(|accept| !*accept) => break,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
