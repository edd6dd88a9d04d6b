//! PURE: whether a token, as the API server reviewed it, stands; and whether the pod it belongs to may have the role.

use std::collections::BTreeMap;

use crds::names;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::core::v1::{Node, Pod};
use proto::control::v1::Role;

/// Keys of `user.extra` that the API server sets for a pod-bound token.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// What a token claims, vouched for by the API server, still to be compared with the live objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Name of its pod, in the installation's namespace.
    pub pod: String,
    /// Uid of its pod.
    pub pod_uid: String,
    /// Node of its pod.
    pub node: String,
    /// Uid of the node.
    pub node_uid: String,
    /// Service account, without its namespace.
    pub account: String,
}

/// Why nobody is let in. The message goes to the caller; it holds nothing that the token does not say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token does not stand.
    #[error("{0}")]
    Unauthenticated(String),
    /// It stands, but gives no right to the role.
    #[error("{0}")]
    Denied(String),
}

fn unauthenticated<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Unauthenticated(reason.into()))
}

fn denied<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Denied(reason.into()))
}

/// The claim of a reviewed token.
pub fn claim(review: &TokenReviewStatus, namespace: &str) -> Result<Claim, Refusal> {
    if review.authenticated != Some(true) {
        let reason = review.error.as_deref().unwrap_or("no reason given");
        return unauthenticated(format!("the API server does not accept the token: {reason}"));
    }
    // An API server that does not know audiences leaves them out: such a token is good for anything, so not for us.
    if !review
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == names::ENROLMENT_AUDIENCE)
    {
        return unauthenticated(format!("the token is not for audience {:?}", names::ENROLMENT_AUDIENCE));
    }
    let Some(user) = &review.user else {
        return unauthenticated("the API server names no user for the token");
    };
    let username = user.username.as_deref().unwrap_or_default();
    let Some((theirs, account)) = username
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
    else {
        return denied(format!("user {username:?} is no service account"));
    };
    if theirs != namespace {
        return denied(format!(
            "service account {account:?} is in namespace {theirs:?}, not in {namespace:?}"
        ));
    }
    let empty = BTreeMap::new();
    let extra = user.extra.as_ref().unwrap_or(&empty);
    let bound = |key: &str| -> Result<String, Refusal> {
        match extra.get(key).map(Vec::as_slice) {
            Some([value]) if !value.is_empty() => Ok(value.clone()),
            _ => unauthenticated(format!(
                "the token is not bound to a pod on a node ({key} is missing); use a projected service account token on Kubernetes 1.32 or newer"
            )),
        }
    };
    Ok(Claim {
        pod: bound(POD_NAME)?,
        pod_uid: bound(POD_UID)?,
        node: bound(NODE_NAME)?,
        node_uid: bound(NODE_UID)?,
        account: account.to_owned(),
    })
}

/// Whether the account may have the role at all; before any object is read.
pub fn role_allowed(claim: &Claim, role: Role) -> Result<(), Refusal> {
    let wanted = match role {
        Role::Agent => names::AGENT_SERVICE_ACCOUNT,
        Role::Gateway => names::GATEWAY_SERVICE_ACCOUNT,
        Role::Unspecified => return denied("the request names no role"),
    };
    if claim.account == wanted {
        return Ok(());
    }
    denied(format!(
        "service account {:?} may not have role {}; {wanted:?} may",
        claim.account,
        role.as_str_name()
    ))
}

/// Compares the claim with the pod and the node as they are now: a token outlives its pod by minutes.
pub fn live(claim: &Claim, pod: Option<&Pod>, node: Option<&Node>) -> Result<(), Refusal> {
    let Some(pod) = pod else {
        return denied(format!("pod {:?} does not exist any more", claim.pod));
    };
    if pod.metadata.uid.as_deref() != Some(&claim.pod_uid) {
        return denied(format!(
            "pod {:?} is another than the one the token was made for",
            claim.pod
        ));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return denied(format!("pod {:?} is being deleted", claim.pod));
    }
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return denied(format!("pod {:?} has ended ({phase})", claim.pod));
    }
    let spec = pod.spec.as_ref();
    let runs_on = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if runs_on != claim.node {
        return denied(format!(
            "pod {:?} runs on node {runs_on:?}, the token says {:?}",
            claim.pod, claim.node
        ));
    }
    let account = spec
        .and_then(|spec| spec.service_account_name.as_deref())
        .unwrap_or_default();
    if account != claim.account {
        return denied(format!(
            "pod {:?} runs as {account:?}, the token says {:?}",
            claim.pod, claim.account
        ));
    }
    let Some(node) = node else {
        return denied(format!("node {:?} does not exist", claim.node));
    };
    if node.metadata.uid.as_deref() != Some(&claim.node_uid) {
        return denied(format!(
            "node {:?} was deleted and made anew since the token was made; delete the pod {:?}, so that one of the new node takes its place",
            claim.node, claim.pod
        ));
    }
    Ok(())
}
