//! A Lease per node, for people and other tools. The operator goes by the agent's stream; only where it hears most agents no more does
//! it read here whether they are there.

use crate::kubernetes::{ApiError, Way};
use crate::retry;
use crds::names::{AGENT_FIELD_MANAGER, APART, agent_lease};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use lifecycle::backoff::Backoff;
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;

/// Two writes per node and minute, with room for one retry.
const RENEW_EVERY: Duration = Duration::from_secs(40);
/// While the operator does not hear the agent.
const RENEW_APART_EVERY: Duration = Duration::from_secs(10);
/// Three renewals may fail.
const DURATION_S: i32 = 120;

/// Whether the operator hears the agent.
struct Hearing {
    attached: watch::Receiver<bool>,
    /// It did, in this life: who never was heard is not missed.
    ever: bool,
}

impl Hearing {
    fn is_apart(&mut self) -> bool {
        let is_attached = *self.attached.borrow_and_update();
        self.ever |= is_attached;
        self.ever && !is_attached
    }

    /// Until [`Self::is_apart`] gives another answer. Each attempt to attach that fails tells anew what is said already.
    async fn turns(&mut self, is_apart: bool) {
        while self.attached.changed().await.is_ok() {
            if self.is_apart() != is_apart {
                return;
            }
        }
        // Nobody tells any more: the agent is ending.
        std::future::pending().await
    }
}

/// Renews for as long as it is polled. `attached`: whether the operator hears the agent.
pub async fn keep(way: &Way, node: &str, (holder, namespace): (&str, &str), attached: watch::Receiver<bool>) {
    let mut hearing = Hearing { attached, ever: false };
    let mut backoff = Backoff::new(retry::API);
    loop {
        let wait = match renew(way, node, (holder, namespace), &mut hearing, &mut backoff).await {
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
    hearing: &mut Hearing,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, ApiError> {
    let api: Api<Lease> = Api::namespaced(way.client().await?, namespace);
    let name = agent_lease(node);
    loop {
        let is_apart = hearing.is_apart();
        // Applied without it, it is taken away.
        let annotations = match is_apart {
            true => json!({ APART: "true" }),
            false => json!({}),
        };
        let renewed = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name, "annotations": annotations },
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
        let wait = if is_apart { RENEW_APART_EVERY } else { RENEW_EVERY };
        tokio::select! {
            () = hearing.turns(is_apart) => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_once_that_the_operator_hears_the_agent_no_more_however_often_attempts_to_attach_fail() {
        let (attached, seen) = watch::channel(false);
        let mut hearing = Hearing {
            attached: seen,
            ever: false,
        };
        let says_anew = async |hearing: &mut Hearing, now: bool| {
            let is_apart = hearing.is_apart();
            attached.send_replace(now);
            tokio::time::timeout(RENEW_EVERY, hearing.turns(is_apart)).await.is_ok()
        };
        assert!(!says_anew(&mut hearing, false).await, "it was never heard");
        assert!(
            !says_anew(&mut hearing, true).await,
            "it is heard, and said nothing else"
        );
        assert!(says_anew(&mut hearing, false).await);
        assert!(hearing.is_apart());
        assert!(!says_anew(&mut hearing, false).await, "it said so");
        assert!(says_anew(&mut hearing, true).await);
        assert!(!hearing.is_apart());
    }
}
