//! The way to the API server, and why there is no answer of it.

use std::time::Duration;

use apiclient::brief;
use apiclient::pause::Pauses;
use kube::Client;

/// A wedged API server must not hold up what comes next.
const READ_LIMIT: Duration = Duration::from_secs(15);

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
        config.read_timeout = Some(READ_LIMIT);
        let user_agent = concat!("shardwright-agent/", env!("CARGO_PKG_VERSION"));
        Ok(apiclient::client(config, user_agent, pauses)?)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_is_told_as_one_of_kubernetes_in_the_words_of_the_api_server() {
        let status = Status {
            code: 409,
            message: "no".to_owned(),
            reason: "Conflict".to_owned(),
            ..Status::default()
        };
        let told = ApiError::from(kube::Error::Api(Box::new(status))).to_string();
        assert_eq!(told, "Kubernetes API: no (409 Conflict)");
    }
}
