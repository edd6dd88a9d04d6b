//! A client that keeps the pauses which the API server asks for: short ones are waited for within the call, and within long ones
//! nothing is sent, so that whoever asks in vain tries again by its own pauses.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tower::{BoxError, Service};

use crate::pause::Pauses;

/// Answers that say that the API server is busy, without a pause to keep, are asked for again so soon, at most so often: callers and watches
/// have pauses of their own, and must hear of it.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
const RETRIES: u32 = 3;
/// Requests of one client that wait to be sent: more than are ever under way at once.
const WAITING_MAX: usize = 1024;
/// A node away, the API server is reached in milliseconds; a wedged one must not hold up what comes next.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The client of a configuration, known to the API server by this name.
///
/// # Errors
/// The configuration cannot be used.
pub fn client(mut config: Config, user_agent: &'static str, pauses: &Pauses) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT_LIMIT);
    // By itself it waits for as long as any answer says.
    config.default_retry = false;
    let user_agent = HeaderValue::from_static(user_agent);
    config.headers.push((header::USER_AGENT, user_agent));
    Ok(patient(ClientBuilder::try_from(config)?, pauses))
}

/// The client of a stack that does not try again by itself.
fn patient<S, B>(builder: ClientBuilder<S>, pauses: &Pauses) -> Client
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    builder
        .with_layer(&BufferLayer::<Request<Body>>::new(WAITING_MAX))
        .with_layer(pauses)
        .with_layer(&RetryLayer::new(retries()))
        .build()
}

fn retries() -> RetryPolicy {
    // Refused only where the first pause is none, or longer than the longest.
    RetryPolicy::new(RETRY_FIRST, RETRY_LONGEST, RETRIES, true).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::Node;
    use kube::Api;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::brief;

    /// When it was asked.
    type Log = Arc<Mutex<Vec<Instant>>>;

    /// An API server that answers so often with this pause, and then with a Node.
    fn busy(times: usize, retry_after: &'static str) -> (Client, Log) {
        let log = Log::default();
        let asked = Arc::clone(&log);
        let server = tower::service_fn(move |_: Request<Body>| {
            let mut asked = asked.lock().unwrap();
            asked.push(Instant::now());
            let (answer, body) = if asked.len() <= times {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too many requests",
                    "reason": "TooManyRequests", "code": 429,
                });
                (
                    Response::builder().status(429).header("Retry-After", retry_after),
                    status,
                )
            } else {
                let node = json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": "a" } });
                (Response::builder(), node)
            };
            let body = Body::from(body.to_string().into_bytes());
            std::future::ready(answer.body(body).map_err(BoxError::from))
        });
        (patient(ClientBuilder::new(server, "default"), &Pauses::default()), log)
    }

    async fn get(client: &Client) -> Result<Node, kube::Error> {
        let nodes: Api<Node> = Api::all(client.clone());
        nodes.get("a").await
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_pause_is_kept_and_whoever_asked_does_not_notice() {
        let (client, log) = busy(1, "2");
        get(&client).await.unwrap();
        let log = log.lock().unwrap();
        assert_eq!(log.len(), 2);
        assert!(log[1] - log[0] >= Duration::from_secs(2), "{log:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn within_a_long_pause_nothing_is_sent_and_whoever_asks_is_told_so_at_once() {
        let (client, log) = busy(1, "20");
        let began = Instant::now();
        for _ in 0..3 {
            let told = brief(&get(&client).await.unwrap_err());
            assert!(
                told.starts_with("the API server asked for a pause") && told.contains("20 s"),
                "{told}"
            );
        }
        assert_eq!((log.lock().unwrap().len(), began.elapsed()), (1, Duration::ZERO));
        tokio::time::advance(Duration::from_secs(20)).await;
        get(&client).await.unwrap();
        assert_eq!(log.lock().unwrap().len(), 2);
    }
}
