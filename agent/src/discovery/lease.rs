//! A Lease per node, for people and other tools: the operator goes by the agent's stream, not by this.

use crate::kubernetes::{ApiError, Way};
use crate::retry;
use crds::names::{AGENT_FIELD_MANAGER, agent_lease};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use lifecycle::backoff::Backoff;
use serde_json::json;
use std::time::Duration;

/// Two writes per node and minute, with room for one retry.
const RENEW_EVERY: Duration = Duration::from_secs(40);
/// Three renewals may fail.
const DURATION_S: i32 = 120;

/// Renews for as long as it is polled.
pub async fn keep(way: &Way, node: &str, holder: &str, namespace: &str) {
    let mut backoff = Backoff::new(retry::API);
    loop {
        let wait = match renew(way, node, (holder, namespace), &mut backoff).await {
            Ok(never) => match never {},
            Err(error) => {
                let wait = backoff.failed();
                tracing::debug!(%error, "the node's Lease is not renewed; trying again");
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(
    way: &Way,
    node: &str,
    (holder, namespace): (&str, &str),
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, ApiError> {
    let api: Api<Lease> = Api::namespaced(way.client().await?, namespace);
    let name = agent_lease(node);
    loop {
        let renewed = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": DURATION_S,
                // MicroTime: six decimal places.
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        api.patch(
            &name,
            &PatchParams::apply(AGENT_FIELD_MANAGER).force(),
            &Patch::Apply(renewed),
        )
        .await?;
        backoff.succeeded();
        tokio::time::sleep(RENEW_EVERY).await;
    }
}
