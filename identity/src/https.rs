//! An HTTPS server for an axum router: users' requests, probes, metrics.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
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
/// A connection without any request in progress is closed after this, however often its client says that it is still
/// there: it holds one of the places. Longer than clients keep connections for their next request.
pub const IDLE_LIMIT: Duration = Duration::from_secs(120);
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
    let (activity, watched) = watch::channel(Activity::default());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        answer(router.clone(), request, InProgress::begin(&activity))
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
    let result = tokio::select! {
        result = connection.as_mut() => result,
        limit = silence(watched, FIRST_REQUEST_LIMIT, IDLE_LIMIT) => {
            debug!(%address, "closed: no request within {} s", limit.as_secs());
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

/// Requests of one connection.
#[derive(Debug, Default, Clone, Copy)]
struct Activity {
    begun: u64,
    in_progress: usize,
}

/// Counts a request until its answer has been sent or given up.
struct InProgress(watch::Sender<Activity>);

impl InProgress {
    fn begin(activity: &watch::Sender<Activity>) -> Self {
        activity.send_modify(|activity| {
            activity.begun += 1;
            activity.in_progress += 1;
        });
        Self(activity.clone())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.send_modify(|activity| activity.in_progress -= 1);
    }
}

/// Done when a connection has had nothing in progress for too long; gives the limit that it passed.
async fn silence(mut activity: watch::Receiver<Activity>, first: Duration, idle: Duration) -> Duration {
    loop {
        let Activity { begun, in_progress } = *activity.borrow_and_update();
        let limit = if begun == 0 { first } else { idle };
        let changed = async {
            if activity.changed().await.is_err() {
                // No sender: the connection is ending by itself.
                std::future::pending::<()>().await;
            }
        };
        if in_progress > 0 {
            changed.await;
        } else if timeout(limit, changed).await.is_err() {
            return limit;
        }
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    in_progress: InProgress,
) -> Result<Response<Body>, Infallible> {
    let response = router.oneshot(request.map(Body::new)).await?;
    Ok(response.map(|body| {
        Body::new(Counted {
            body,
            _in_progress: in_progress,
        })
    }))
}

/// An answer's body, counted until it is dropped.
struct Counted {
    body: Body,
    _in_progress: InProgress,
}

impl hyper::body::Body for Counted {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::{Activity, InProgress, silence};

    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(1);
    /// A condition that does not come is a failure.
    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_connection_is_silent_before_its_first_request_and_between_requests() {
        let (activity, watched) = watch::channel(Activity::default());
        assert_eq!(timeout(LIMIT, silence(watched.clone(), SOON, NEVER)).await, Ok(SOON));
        drop(InProgress::begin(&activity));
        assert_eq!(timeout(LIMIT, silence(watched, NEVER, SOON)).await, Ok(SOON));
    }

    #[tokio::test]
    async fn a_connection_with_a_request_in_progress_is_not_silent() {
        let (activity, watched) = watch::channel(Activity::default());
        let request = InProgress::begin(&activity);
        let mut silence = Box::pin(silence(watched, SOON, SOON));
        assert!(timeout(SOON * 50, silence.as_mut()).await.is_err());
        drop(request);
        assert_eq!(timeout(LIMIT, silence).await, Ok(SOON));
    }
}
