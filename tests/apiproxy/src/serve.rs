//! The proxy's connections: TLS, the script's verdict, the API server's answer, the events of a watch.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::events::{Lines, Told, expired, half, newest, status};
use crate::script::{self, Fault};
use crate::{Error, Files, Seen, Shared, locked};

/// More than any object that the API server takes.
const MAX_BODY_BYTES: usize = 4 << 20;
/// More than any list that a test makes.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// What stands in front of an API server says such things.
const PAGE: &str = "<html>\n<body>Welcome. Please sign in.</body>\n</html>\n";
/// Parts of an answer that wait for a slow client.
const BUFFERED: usize = 16;

/// TLS as the API server's.
pub(crate) fn acceptor(files: Files<'_>) -> Result<TlsAcceptor, Error> {
    let chain = CertificateDer::pem_file_iter(files.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(files.key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts for ever.
pub(crate) async fn run(listener: std::net::TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // Whoever gives up within a handshake or an answer is told by it.
            let Ok(stream) = acceptor.accept(connection).await else {
                return;
            };
            let router = axum::Router::new().fallback(move |request: Request<Body>| {
                let shared = Arc::clone(&shared);
                async move { answer(&shared, request).await }
            });
            let service = TowerToHyperService::new(router);
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: &Shared, request: Request<Body>) -> Response<Body> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let query = uri.query().unwrap_or_default().to_owned();
    let (at, client) = (std::time::Instant::now(), client(request.headers()));
    let fault = locked(&shared.script).decide(&method, uri.path(), &query);
    let response = match fault {
        Some(Fault::Refuse(code)) => refused(code),
        Some(Fault::Busy(seconds)) => busy(seconds),
        Some(Fault::Delay(time)) => {
            tokio::time::sleep(time).await;
            carried_out(shared, request, None).await
        }
        Some(Fault::LoseAnswer) => {
            let _lost = carried_out(shared, request, None).await;
            refused(500)
        }
        Some(Fault::Garble) => {
            let _lost = carried_out(shared, request, None).await;
            Response::new(Body::from(PAGE))
        }
        Some(Fault::CutOff) => cut_off(carried_out(shared, request, None).await).await,
        other => carried_out(shared, request, other).await,
    };
    locked(&shared.seen).push(Seen {
        at,
        client,
        method,
        path: uri.path().to_owned(),
        query,
        status: response.status().as_u16(),
        faulted: fault.is_some(),
    });
    response
}

fn refused(code: u16) -> Response<Body> {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let body = status(code, reason, "the proxy was told to say so");
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn busy(seconds: u64) -> Response<Body> {
    let mut response = refused(429);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Half of an answer, and then the end of its connection.
async fn cut_off(answer: Response<Body>) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let whole = axum::body::to_bytes(body, MAX_ANSWER_BYTES).await.unwrap_or_default();
    let pieces = [
        Ok(whole.slice(..whole.len() / 2)),
        Err(std::io::Error::other("cut off")),
    ];
    Response::from_parts(parts, Body::from_stream(futures::stream::iter(pieces)))
}

/// Whose request it is: the program, and what it shows that it may ask, in a form that nobody can use.
fn client(headers: &HeaderMap) -> String {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut shown = DefaultHasher::new();
    text(header::AUTHORIZATION).hash(&mut shown);
    format!("{} {:016x}", text(header::USER_AGENT), shown.finish())
}

async fn carried_out(shared: &Shared, request: Request<Body>, events: Option<Fault>) -> Response<Body> {
    match forward(shared, request, events).await {
        Ok(response) => response,
        // The API server is away: its clients would see no more.
        Err(_) => refused(503),
    }
}

async fn forward(
    shared: &Shared,
    request: Request<Body>,
    events: Option<Fault>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES).await?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let is_watch = script::is_watch(parts.uri.query().unwrap_or_default());
    let mut headers = parts.headers;
    // Of this connection, not of the next.
    for of_connection in [
        header::HOST,
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
    ] {
        headers.remove(of_connection);
    }
    let asked = shared
        .client
        .request(parts.method, format!("{}{path}", shared.upstream));
    let answered = asked.headers(headers).body(body).send().await?;
    let mut response = Response::builder().status(answered.status());
    for (name, value) in answered.headers() {
        if ![header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH].contains(name) {
            response = response.header(name, value);
        }
    }
    let bytes = answered.bytes_stream();
    let bytes = if is_watch {
        let mut rules = shared.rules.subscribe();
        let end = async move { drop(rules.changed().await) };
        bytes.take_until(Box::pin(end)).boxed()
    } else {
        bytes.boxed()
    };
    let body = match events {
        Some(fault) => Body::from_stream(altered(bytes, fault)),
        None => Body::from_stream(bytes),
    };
    Ok(response.body(body)?)
}

/// What a client sees of a watch.
fn altered(
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    fault: Fault,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    let (sender, receiver) = mpsc::channel(BUFFERED);
    // Ends with either side.
    tokio::spawn(alter(bytes, fault, sender));
    futures::stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

type Sender = mpsc::Sender<Result<Bytes, std::io::Error>>;

async fn alter(mut bytes: BoxStream<'static, reqwest::Result<Bytes>>, fault: Fault, sender: Sender) {
    let (mut lines, mut told) = (Lines::default(), Told::default());
    let mut events = 0;
    while let Some(Ok(more)) = bytes.next().await {
        let mut complete = lines.push(&more);
        if let Fault::Withhold(time) = fault
            && !complete.is_empty()
        {
            complete.extend(withheld(&mut bytes, &mut lines, time).await);
            complete = newest(complete);
        }
        for line in complete {
            events += 1;
            let out = match fault {
                Fault::Replay => told.replayed(line),
                Fault::Truncate(after) if events >= after => vec![half(&line)],
                Fault::Expire(after) if events > after => vec![expired()],
                _ => vec![line],
            };
            for line in out {
                if sender.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            match fault {
                Fault::Truncate(after) if events >= after => {
                    // An error ends the connection without the end of the body.
                    let _ = sender.send(Err(std::io::Error::other("truncated"))).await;
                    return;
                }
                Fault::Expire(after) if events > after => return,
                _ => {}
            }
        }
    }
}

/// What comes within a time.
async fn withheld(
    bytes: &mut BoxStream<'static, reqwest::Result<Bytes>>,
    lines: &mut Lines,
    time: Duration,
) -> Vec<Bytes> {
    let end = Instant::now() + time;
    let mut complete = Vec::new();
    while let Ok(Some(Ok(more))) = tokio::time::timeout_at(end, bytes.next()).await {
        complete.extend(lines.push(&more));
    }
    complete
}
