//! An HTTPS server that serves files by ranges, counts what it sends, and misbehaves as it is told.
#![allow(dead_code, reason = "each test file uses its part")]

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Counted from 0 over all requests.
    pub number: usize,
    pub path: String,
    pub query: String,
    pub range: Option<(u64, u64)>,
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

pub type Script = Box<dyn Fn(&Seen) -> Manner + Send + Sync>;

/// What the connections share.
pub struct Shared {
    files: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    script: Mutex<Script>,
    sent: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

pub struct Server {
    pub address: SocketAddr,
    pub ca_pem: String,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    pub fn start(runtime: &Runtime) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).unwrap();
        let ca_pem = authority.pem();
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let shared = Arc::new(Shared {
            files: Mutex::default(),
            script: Mutex::new(Box::new(|_| Manner::Serve)),
            sent: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let inner = Arc::clone(&shared);
        let accepting = runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&inner));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        // A client that is gone needs no answer.
                        let _ = connection(stream, &shared).await;
                    }
                });
            }
        });
        Self {
            address,
            ca_pem,
            shared,
            accepting,
        }
    }

    pub fn put(&self, path: &str, content: Vec<u8>) {
        self.shared
            .files
            .lock()
            .unwrap()
            .insert(path.to_owned(), Arc::new(content));
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// `localhost:port`.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub fn behave(&self, script: impl Fn(&Seen) -> Manner + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Bytes of bodies sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.shared.sent.store(0, Ordering::SeqCst);
        self.shared.seen.lock().unwrap().clear();
    }

    /// No new connections from now on.
    pub fn stop(&self) {
        self.accepting.abort();
        *self.shared.script.lock().unwrap() = Box::new(|_| Manner::Status(503, vec![]));
    }
}

async fn connection(stream: TlsStream<TcpStream>, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(mut seen) = request(&mut stream).await? else {
            return Ok(());
        };
        let manner = {
            let mut all = shared.seen.lock().unwrap();
            seen.number = all.len();
            all.push(seen.clone());
            drop(all);
            (shared.script.lock().unwrap())(&seen)
        };
        if !answer(stream.get_mut(), shared, &seen, manner).await? {
            return stream.get_mut().shutdown().await;
        }
    }
}

async fn request(stream: &mut BufReader<TlsStream<TcpStream>>) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut seen = Seen {
        path: path.to_owned(),
        query: query.to_owned(),
        ..Seen::default()
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let (first, last) = value.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                seen.range = Some((first.parse().unwrap(), last.parse().unwrap()));
            }
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(Some(seen))
}

fn plain(status: u16, headers: &[(String, String)], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// Whether the connection may be used again.
async fn answer(
    stream: &mut TlsStream<TcpStream>,
    shared: &Shared,
    seen: &Seen,
    manner: Manner,
) -> std::io::Result<bool> {
    match &manner {
        Manner::Status(status, headers) => {
            stream.write_all(plain(*status, headers, 0).as_bytes()).await?;
            return Ok(true);
        }
        Manner::Document(status, headers, body) => {
            stream.write_all(plain(*status, headers, body.len()).as_bytes()).await?;
            stream.write_all(body).await?;
            return Ok(true);
        }
        Manner::HugeHeader => {
            let headers = vec![("X".to_owned(), "y".repeat(1 << 20))];
            stream.write_all(plain(200, &headers, 0).as_bytes()).await?;
            return Ok(false);
        }
        Manner::Mute => std::future::pending().await,
        _ => {}
    }
    send_file(stream, shared, seen, &manner).await
}

async fn send_file(
    stream: &mut TlsStream<TcpStream>,
    shared: &Shared,
    seen: &Seen,
    manner: &Manner,
) -> std::io::Result<bool> {
    let file = shared.files.lock().unwrap().get(&seen.path).cloned();
    let Some(file) = file else {
        stream.write_all(plain(404, &[], 0).as_bytes()).await?;
        return Ok(true);
    };
    let total = if let Manner::Length(total) = manner {
        *total
    } else {
        file.len() as u64
    };
    let etag = if let Manner::Etag(etag) = manner {
        etag
    } else {
        "\"one\""
    };
    let mut headers = vec![("ETag".to_owned(), etag.to_owned())];
    let (status, mut body) = match seen.range {
        Some((first, last)) if !matches!(manner, Manner::IgnoreRange) => {
            if first >= total {
                stream.write_all(plain(416, &[], 0).as_bytes()).await?;
                return Ok(true);
            }
            let mut end = (last + 1).min(file.len() as u64);
            if let Manner::Cap(count) = manner {
                end = end.min(first + count);
            }
            headers.push(("Content-Range".to_owned(), format!("bytes {first}-{}/{total}", end - 1)));
            (206, file[first as usize..end as usize].to_vec())
        }
        _ => (200, file.to_vec()),
    };
    if matches!(manner, Manner::Damage)
        && let Some(last) = body.last_mut()
    {
        *last ^= 1;
    }
    stream.write_all(plain(status, &headers, body.len()).as_bytes()).await?;
    let whole = match manner {
        Manner::Truncate(count) | Manner::Stall(count) => {
            body.truncate(*count);
            false
        }
        _ => true,
    };
    for chunk in body.chunks(64 << 10) {
        stream.write_all(chunk).await?;
        shared.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
    }
    stream.flush().await?;
    if matches!(manner, Manner::Stall(_)) {
        std::future::pending::<()>().await;
    }
    Ok(whole)
}
