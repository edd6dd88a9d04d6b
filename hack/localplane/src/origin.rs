//! An HTTPS server of files, as a model's source: its own authority, a bearer token, ranges, and a count of what it sent.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::{Error, Result, file};

/// Longest line of a request.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// Lines of a request.
const LINES_MAX: usize = 64;

struct Shared {
    files: BTreeMap<String, PathBuf>,
    token: String,
    sent_bytes: AtomicU64,
    refused: AtomicU64,
}

/// A running server; it ends when dropped.
pub struct Origin {
    port: u16,
    authority_pem: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Origin {
    /// Serves these files by their paths in the address, to whoever shows the token.
    pub async fn start(files: BTreeMap<String, PathBuf>, token: &str) -> Result<Self> {
        let (config, authority_pem) = tls()?;
        let bound = TcpListener::bind("127.0.0.1:0").await;
        let listener = bound.map_err(|source| Error::Other(format!("no port for the source: {source}")))?;
        let address = listener.local_addr();
        let address = address.map_err(|source| Error::Other(format!("no port for the source: {source}")))?;
        let shared = Arc::new(Shared {
            files,
            token: token.to_owned(),
            sent_bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(config), Arc::clone(&shared)));
        Ok(Self {
            port: address.port(),
            authority_pem,
            shared,
            accepting,
        })
    }

    /// The address of a file.
    pub fn uri(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The authority that the server's certificate chains to.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// Bytes of files that it has sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::SeqCst)
    }

    /// Requests without the token.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }
}

fn tls() -> Result<(Arc<rustls::ServerConfig>, String)> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    let unusable = |error: rustls::Error| Error::Other(format!("the source's certificate: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .map_err(unusable)?;
    Ok((Arc::new(config), authority_pem))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                // A client that is gone needs no answer.
                let _ = serve(BufReader::new(stream), &shared).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// What was asked for.
#[derive(Default)]
struct Request {
    path: String,
    /// First and last byte.
    range: Option<(u64, u64)>,
    authorised: bool,
}

type Stream = BufReader<TlsStream<TcpStream>>;

async fn serve(mut stream: Stream, shared: &Shared) -> std::io::Result<()> {
    while let Some(request) = read(&mut stream, &shared.token).await? {
        let path = shared.files.get(&request.path);
        match path {
            _ if !request.authorised => {
                shared.refused.fetch_add(1, Ordering::SeqCst);
                refuse(&mut stream, "401 Unauthorized").await?;
            }
            None => refuse(&mut stream, "404 Not Found").await?,
            Some(path) => send(&mut stream, path, request.range, &shared.sent_bytes).await?,
        }
    }
    Ok(())
}

async fn read(stream: &mut Stream, token: &str) -> std::io::Result<Option<Request>> {
    let mut request = Request::default();
    for number in 0..LINES_MAX {
        let mut line = String::new();
        (&mut *stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        let line = line.trim_end();
        if number == 0 {
            let Some(path) = line.split(' ').nth(1) else {
                return Ok(None);
            };
            path.clone_into(&mut request.path);
            continue;
        }
        let Some((name, value)) = line.split_once(": ") else {
            return Ok(Some(request));
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = range(value),
            "authorization" => request.authorised = value.strip_prefix("Bearer ") == Some(token),
            _ => {}
        }
    }
    Ok(None)
}

fn range(value: &str) -> Option<(u64, u64)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX)))
}

async fn refuse(stream: &mut Stream, status: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

async fn send(
    stream: &mut Stream,
    path: &PathBuf,
    range: Option<(u64, u64)>,
    sent_bytes: &AtomicU64,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(path).await?;
    let total = file.metadata().await?.len();
    let (first, end) = range.map_or((0, total), |(first, last)| (first, last.saturating_add(1).min(total)));
    if first >= end {
        return refuse(stream, "416 Range Not Satisfiable").await;
    }
    let status = match range {
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {first}-{}/{total}",
            end - 1
        ),
        None => "200 OK".to_owned(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\nETag: \"{total:x}\"\r\n\r\n",
        end - first
    );
    stream.write_all(head.as_bytes()).await?;
    file.seek(SeekFrom::Start(first)).await?;
    let mut part = file.take(end - first);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = part.read(&mut buffer).await?;
        if count == 0 {
            return stream.flush().await;
        }
        stream.write_all(&buffer[..count]).await?;
        sent_bytes.fetch_add(count as u64, Ordering::SeqCst);
    }
}

/// The bytes of all files below a folder; one with several names counts once.
pub fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(file(&folder))? {
            let path = entry.map_err(file(&folder))?.path();
            let metadata = std::fs::symlink_metadata(&path).map_err(file(&path))?;
            if metadata.is_dir() {
                folders.push(path);
            } else {
                files.insert((metadata.dev(), metadata.ino()), metadata.len());
            }
        }
    }
    Ok(files.into_values().sum())
}
