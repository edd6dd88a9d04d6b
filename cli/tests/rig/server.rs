//! A server of files over HTTPS with an authority of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How the server treats a request.
#[derive(Clone, Default)]
pub struct Manner {
    /// The bearer token that it demands.
    pub token: Option<&'static str>,
    /// Whether it understands ranges.
    pub ranges: bool,
    /// Connections break after this many bytes of a body.
    pub breaks_after: Option<usize>,
}

pub struct Server {
    pub port: u16,
    pub requests: Arc<AtomicUsize>,
}

/// Serves files by their paths until the test ends. Writes the authority's certificate to `ca`.
pub fn serve(files: HashMap<String, Vec<u8>>, manner: Manner, ca: &Path) -> Server {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(ca, authority.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let served = Arc::new(files);
    let counted = Arc::clone(&requests);
    // Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, files, manner) = (Arc::clone(&config), Arc::clone(&served), manner.clone());
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || converse(stream, config, &files, &manner, &counted));
        }
    });
    Server { port, requests }
}

fn converse(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    files: &HashMap<String, Vec<u8>>,
    manner: &Manner,
    requests: &AtomicUsize,
) -> Option<()> {
    let connection = ServerConnection::new(config).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut first = String::new();
    stream.read_line(&mut first).ok()?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let path = first.split(' ').nth(1)?;
    let (head, body) = answer(files.get(path), &headers, manner);
    let out = stream.get_mut();
    let length = body.len();
    let sent = manner.breaks_after.map_or(length, |limit| limit.min(length));
    write!(out, "{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").ok()?;
    out.write_all(&body[..sent]).ok()?;
    out.flush().ok()?;
    if sent < length {
        return None;
    }
    out.conn.send_close_notify();
    out.flush().ok()?;
    let mut rest = [0; 1];
    // The client closes when it has what it wants.
    let _ = out.sock.read(&mut rest);
    Some(())
}

fn answer(file: Option<&Vec<u8>>, headers: &HashMap<String, String>, manner: &Manner) -> (String, Vec<u8>) {
    let expected = manner.token.map(|token| format!("Bearer {token}"));
    if expected.is_some() && headers.get("authorization") != expected.as_ref() {
        return ("HTTP/1.1 401 Unauthorized".to_owned(), Vec::new());
    }
    let Some(file) = file else {
        return ("HTTP/1.1 404 Not Found".to_owned(), Vec::new());
    };
    let range = headers.get("range").filter(|_| manner.ranges);
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return ("HTTP/1.1 200 OK\r\nETag: \"one\"".to_owned(), file.clone());
    };
    let first: usize = first.parse().unwrap();
    let end = last
        .parse()
        .map_or(file.len(), |last: usize| (last + 1).min(file.len()));
    let total = file.len();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"one\"\r\nContent-Range: bytes {first}-{}/{total}",
        end - 1
    );
    (head, file[first..end].to_vec())
}
