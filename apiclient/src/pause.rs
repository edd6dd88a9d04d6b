//! Pauses that an API server asks for (`Retry-After`), kept by every request of the process that comes after.
//!
//! ```text
//!  request ─▶ retries ─▶ Keeping ─▶ server
//!                           │ 429, 503 or 504 with Retry-After: nothing more is sent until then
//!                           └ a short pause is waited for, within a long one requests fail at once
//! ```
//!
//! Leases have pauses of their own: one that is not renewed is a loss, so they are not kept back by what other requests were told.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// A pause of so long is waited for within the call: callers give up after five seconds at the soonest.
pub const WAITED_FOR: Duration = Duration::from_secs(3);
/// No pause is kept for longer: kube-apiserver asks for 32 s at most, and whoever stands in front of it and asks for an hour must not
/// keep a model from being placed for as long.
pub const LONGEST: Duration = Duration::from_secs(60);
/// What answers that carry a pause are about: too many requests, or nobody there who could answer.
const BUSY: [StatusCode; 3] = [
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];
/// In the path of every request about leases.
const LEASES: &str = "/coordination.k8s.io/";

/// Why a request was not sent, or not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API server asked for a pause (Retry-After), and {} s of it are left: nothing is sent until then", .left.as_secs_f64().ceil())]
pub struct Paused {
    /// Of the pause.
    pub left: Duration,
}

/// Requests that share their pauses.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Leases,
    Others,
}

impl Lane {
    fn of(path: &str) -> Self {
        if path.contains(LEASES) {
            Self::Leases
        } else {
            Self::Others
        }
    }
}

/// The pauses that a server asked for. Clones are the same, for all clients that a process has of one server.
#[derive(Debug, Clone, Default)]
pub struct Pauses(Arc<Mutex<[Option<Instant>; 2]>>);

impl Pauses {
    fn ends(&self) -> MutexGuard<'_, [Option<Instant>; 2]> {
        // Nothing that holds it can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self, lane: Lane) -> Option<Duration> {
        let end = self.ends()[lane as usize]?;
        let left = end.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn begin(&self, lane: Lane, pause: Duration) {
        let end = Instant::now() + pause.min(LONGEST);
        let mut ends = self.ends();
        let known = &mut ends[lane as usize];
        // Answers overtake each other: a shorter pause ends no longer one.
        *known = Some(known.map_or(end, |known| known.max(end)));
    }

    /// Waits for the end of a short pause.
    async fn pass(&self, lane: Lane) -> Result<(), Paused> {
        while let Some(left) = self.left(lane) {
            if left > WAITED_FOR {
                return Err(Paused { left });
            }
            tokio::time::sleep(left).await;
        }
        Ok(())
    }
}

/// The pause that an answer asks for.
fn asked<B>(answer: &Response<B>) -> Option<Duration> {
    if !BUSY.contains(&answer.status()) {
        return None;
    }
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

impl<S> Layer<S> for Pauses {
    type Service = Keeping<S>;

    fn layer(&self, inner: S) -> Keeping<S> {
        Keeping {
            inner,
            pauses: self.clone(),
        }
    }
}

/// Keeps pauses. An answer with a short one is handed on, for whoever is outside to ask again; one with a long one is an error.
#[derive(Debug, Clone)]
pub struct Keeping<S> {
    inner: S,
    pauses: Pauses,
}

impl<S, B, R> Service<Request<B>> for Keeping<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
    R: 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is called, and its clone is asked for the next.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (pauses, lane) = (self.pauses.clone(), Lane::of(request.uri().path()));
        Box::pin(async move {
            pauses.pass(lane).await?;
            let answer = inner.call(request).await?;
            let Some(pause) = asked(&answer) else {
                return Ok(answer);
            };
            pauses.begin(lane, pause);
            match pauses.left(lane) {
                Some(left) if left > WAITED_FOR => Err(Paused { left }.into()),
                _ => Ok(answer),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    const NODES: &str = "/api/v1/nodes";
    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases/l";

    /// When which path was asked for.
    type Log = Arc<Mutex<Vec<(Instant, String)>>>;
    type Answer = Result<Response<()>, BoxError>;

    /// A server that answers so often with this pause, and then well.
    fn busy(
        times: usize,
        retry_after: &'static str,
        log: &Log,
    ) -> impl Service<Request<()>, Response = Response<()>, Error = BoxError, Future: Send + 'static>
    + Clone
    + Send
    + 'static
    + use<> {
        let asked = Arc::clone(log);
        tower::service_fn(move |request: Request<()>| {
            let mut asked = asked.lock().unwrap();
            asked.push((Instant::now(), request.uri().path().to_owned()));
            let answer = if asked.len() <= times {
                Response::builder().status(429).header("Retry-After", retry_after)
            } else {
                Response::builder()
            };
            std::future::ready(answer.body(()).map_err(BoxError::from))
        })
    }

    async fn ask<S>(client: &S, path: &str) -> Answer
    where
        S: Service<Request<()>, Response = Response<()>, Error = BoxError> + Clone,
    {
        let request = Request::get(path).body(()).unwrap();
        client.clone().oneshot(request).await
    }

    fn paused_s(answer: &Answer) -> Option<u64> {
        let error = answer.as_ref().err()?;
        Some(error.downcast_ref::<Paused>()?.left.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn within_a_long_pause_nothing_is_sent_and_after_it_requests_pass() {
        let log = Log::default();
        let client = Pauses::default().layer(busy(1, "20", &log));
        assert_eq!(paused_s(&ask(&client, NODES).await), Some(20));
        tokio::time::advance(Duration::from_secs(15)).await;
        let refused = ask(&client, NODES).await;
        assert_eq!(paused_s(&refused), Some(5));
        assert!(refused.unwrap_err().to_string().contains("5 s of it are left"));
        assert_eq!(log.lock().unwrap().len(), 1, "one was sent");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(ask(&client, NODES).await.unwrap().status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_pause_is_waited_for_by_all_clients_of_the_server() {
        let (log, pauses) = (Log::default(), Pauses::default());
        let server = busy(1, "2", &log);
        let (one, other) = (pauses.layer(server.clone()), pauses.layer(server));
        let told = ask(&one, NODES).await.unwrap();
        assert_eq!(told.status(), 429, "whoever is told may ask again by itself");
        let answers = tokio::join!(ask(&one, NODES), ask(&other, NODES));
        assert_eq!(
            (answers.0.unwrap().status(), answers.1.unwrap().status()),
            (StatusCode::OK, StatusCode::OK)
        );
        let log = log.lock().unwrap();
        assert!(
            log[1..].iter().all(|(at, _)| *at >= log[0].0 + Duration::from_secs(2)),
            "{log:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn leases_wait_for_no_pause_but_their_own() {
        let log = Log::default();
        let client = Pauses::default().layer(busy(2, "20", &log));
        assert_eq!(paused_s(&ask(&client, NODES).await), Some(20));
        assert_eq!(paused_s(&ask(&client, LEASE).await), Some(20), "the server said so");
        assert_eq!(paused_s(&ask(&client, LEASE).await), Some(20), "it is not asked");
        let paths: Vec<String> = log.lock().unwrap().iter().map(|(_, path)| path.clone()).collect();
        assert_eq!(paths, [NODES, LEASE]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_is_kept_for_a_minute_and_a_shorter_pause_ends_no_longer_one() {
        let pauses = Pauses::default();
        let client = pauses.layer(busy(1, "3600", &Log::default()));
        assert_eq!(paused_s(&ask(&client, NODES).await), Some(LONGEST.as_secs()));
        pauses.begin(Lane::Others, Duration::from_secs(1));
        assert_eq!(paused_s(&ask(&client, NODES).await), Some(LONGEST.as_secs()));
        tokio::time::advance(LONGEST).await;
        assert!(ask(&client, NODES).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_number_of_seconds_is_no_pause() {
        for said in ["", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            let client = Pauses::default().layer(busy(1, said, &Log::default()));
            assert_eq!(ask(&client, NODES).await.unwrap().status(), 429, "{said:?}");
            assert_eq!(ask(&client, NODES).await.unwrap().status(), 200, "{said:?}");
        }
    }
}
