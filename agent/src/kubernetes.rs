//! The way to the API server: how it is reached, the pauses that it asks for, and what to do about its refusals.

use axum::body::{Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, header};
use crds::names::INSTALL_KINDS;
use kube::Client;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder};
use kube::core::Status;
use lifecycle::pause::{Paused, Pauses};
use std::time::Duration;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tower::{BoxError, Service};

/// Requests of one client that wait to be sent: more than are ever under way at once.
const WAITING_MAX: usize = 256;
/// A wedged API server must not hold up what comes next.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const READ_LIMIT: Duration = Duration::from_secs(15);
/// Rights are made with the chart, and whatever was removed since is made again by an upgrade, even to the same version.
const GIVE_RIGHTS_BACK: &str =
    "the chart's roles and bindings of the agent give it its rights: helm upgrade makes them anew";

/// Why there is no answer of the API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No configuration.
    #[error("no way to the Kubernetes API: {0}; run in a pod or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// A request failed.
    #[error("Kubernetes API: {}", brief(.0))]
    Api(#[from] kube::Error),
    /// The Node has no uid, so it was not read from an API server.
    #[error("Node {0} has no uid")]
    NoUid(String),
}

/// How the API server is reached. Clones share its pauses.
#[derive(Clone)]
pub enum Way {
    /// By the pod's or the user's configuration, read anew for each client: addresses and authorities change.
    Configured(Pauses),
    /// By this client.
    Through(Client),
}

impl Default for Way {
    fn default() -> Self {
        Self::Configured(Pauses::default())
    }
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way(..)")
    }
}

impl Way {
    /// A client.
    ///
    /// # Errors
    /// No configuration, or one that cannot be used.
    pub async fn client(&self) -> Result<Client, ApiError> {
        let pauses = match self {
            Self::Configured(pauses) => pauses,
            Self::Through(client) => return Ok(client.clone()),
        };
        let mut config = kube::Config::infer().await?;
        config.connect_timeout = Some(CONNECT_LIMIT);
        config.read_timeout = Some(READ_LIMIT);
        // By itself it waits for as long as any answer says.
        config.default_retry = false;
        let agent = HeaderValue::from_static(concat!("shardwright-agent/", env!("CARGO_PKG_VERSION")));
        config.headers.push((header::USER_AGENT, agent));
        Ok(patient(ClientBuilder::try_from(config)?, pauses))
    }
}

/// A client that waits for short pauses within the call and sends nothing within long ones, of a stack that does not try again by
/// itself.
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
        .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
        .build()
}

/// What the API server says, without the structure around it, and what to do where that is known; or the chain of causes down to the
/// socket.
pub fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            let said = format!("{} ({} {})", status.message, status.code, status.reason);
            match status.code {
                403 => format!("{said}; {GIVE_RIGHTS_BACK}"),
                404 if is_of_kind(status) => format!("{said}: it does not know the kind; {INSTALL_KINDS}"),
                _ => said,
            }
        }
        kube::Error::Service(cause) if cause.is::<Paused>() => cause.to_string(),
        other => identity::connect::causes(other),
    }
}

/// Whether it is the kind that is not there: of an object that is not, its name is said.
fn is_of_kind(status: &Status) -> bool {
    status.details.as_ref().is_none_or(|details| details.name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Of an object of this name, if it is of one.
    fn told(code: u16, reason: &str, name: Option<&str>) -> String {
        let status = Status {
            code,
            message: "no".to_owned(),
            reason: reason.to_owned(),
            details: name.map(|name| serde_json::from_value(json!({ "name": name })).unwrap()),
            ..Status::default()
        };
        ApiError::from(kube::Error::Api(Box::new(status))).to_string()
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server_with_its_remedy() {
        assert_eq!(
            told(409, "Conflict", Some("node-a")),
            "Kubernetes API: no (409 Conflict)"
        );
        let forbidden = told(403, "Forbidden", Some("node-a"));
        assert!(
            forbidden.starts_with("Kubernetes API: no (403 Forbidden); ") && forbidden.contains("helm upgrade"),
            "{forbidden}"
        );
    }

    #[test]
    fn a_kind_that_is_not_there_is_told_from_an_object_that_is_not() {
        assert_eq!(
            told(404, "NotFound", Some("node-a")),
            "Kubernetes API: no (404 NotFound)"
        );
        for nameless in [None, Some("")] {
            let kind = told(404, "NotFound", nameless);
            assert!(
                kind.contains("does not know the kind") && kind.contains(INSTALL_KINDS),
                "{kind}"
            );
        }
    }
}
