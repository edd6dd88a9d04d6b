//! An HTTPS server for an axum router: users' requests, probes, metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::accept::{TlsConnection, TlsListener};

/// Open connections at most; those above are closed at once. Each holds one descriptor and some 100 KiB.
pub const MAX_CONNECTIONS: usize = 1024;
/// How long requests in progress may take once the shutdown began.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// A client that takes longer to send its headers is not sound.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that brings no request for so long is closed. Until its first bytes show the HTTP version no other limit
/// counts, and silent connections must not take all places.
pub const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Requests of one HTTP/2 client at once.
const MAX_STREAMS: u32 = 128;
/// Header bytes of one request: browsers and client libraries stay below 8 KiB.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// The read buffer of an HTTP/1 connection: its headers must fit.
const HTTP1_BUFFER_BYTES: usize = 32 * 1024;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `router` until `shutdown` is done, then lets requests in progress finish, for at most [`DRAIN_LIMIT`]. Handlers
/// find the [`Peer`](crate::Peer) among the request's extensions. When this returns, the port is free.
pub async fn serve_https(mut listener: TlsListener, router: Router, shutdown: impl Future<Output = ()>) {
    let (closing, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            connection = listener.next() => match connection {
                Some(connection) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(serve(connection, router.clone(), closed.clone()));
                }
                Some(connection) => debug!(peer = ?connection.peer(), "refused: {MAX_CONNECTIONS} connections are open"),
                None => break,
            },
        }
    }
    listener.close().await;
    closing.send_replace(());
    let drained = timeout(DRAIN_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        warn!(
            connections = connections.len(),
            "requests did not finish within {} s and are cut off",
            DRAIN_LIMIT.as_secs()
        );
    }
}

async fn serve(connection: TlsConnection, router: Router, mut closed: watch::Receiver<()>) {
    let peer = connection.peer().clone();
    let address = peer.address;
    let asked = Arc::new(Notify::new());
    let asks = Arc::clone(&asked);
    let service = service_fn(move |mut request: Request<Incoming>| {
        asks.notify_one();
        request.extensions_mut().insert(peer.clone());
        answer(router.clone(), request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(connection), service);
    tokio::pin!(connection);
    let silent = async {
        if timeout(FIRST_REQUEST_LIMIT, asked.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = silent => {
            debug!(%address, "closed: no request within {} s", FIRST_REQUEST_LIMIT.as_secs());
            return;
        }
        // An error means that the server is gone, which closes as well.
        _ = closed.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%address, %error, "connection ended");
    }
}

async fn answer(router: Router, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    router.oneshot(request.map(Body::new)).await
}
