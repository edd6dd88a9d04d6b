use crds::names::ENROLMENT_AUDIENCE;
use http::Method;
use identity::KeyPair;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::Code;

use super::*;
use crate::fixture::{self, Script, Step};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const POD: &str = "/api/v1/namespaces/shardwright-system/pods/agent-x";
const NODE: &str = "/api/v1/nodes/node-a";

/// What the API server knows of the caller; each scenario changes one thing.
struct Scenario {
    review: Value,
    pod: Option<Value>,
    node: bool,
    role: Role,
    csr_der: Vec<u8>,
}

impl Scenario {
    fn sound(account: &str, role: Role) -> Self {
        let review = json!({
            "authenticated": true,
            "audiences": [ENROLMENT_AUDIENCE],
            "user": {
                "username": format!("system:serviceaccount:shardwright-system:{account}"),
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["agent-x"],
                    "authentication.kubernetes.io/pod-uid": ["uid-1"],
                    "authentication.kubernetes.io/node-name": ["node-a"],
                    "authentication.kubernetes.io/node-uid": ["uid-of-node-a"],
                },
            },
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "agent-x", "namespace": "shardwright-system", "uid": "uid-1" },
            "spec": { "nodeName": "node-a", "serviceAccountName": account, "containers": [] },
            "status": { "phase": "Running" },
        });
        Self {
            review,
            pod: Some(pod),
            node: true,
            role,
            csr_der: KeyPair::generate().unwrap().csr_der,
        }
    }

    fn agent() -> Self {
        Self::sound("shardwright-agent", Role::Agent)
    }

    fn review(mut self, pointer: &str, value: Value) -> Self {
        *self.review.pointer_mut(pointer).unwrap() = value;
        self
    }

    fn pod(mut self, pointer: &str, value: Value) -> Self {
        *self.pod.as_mut().unwrap().pointer_mut(pointer).unwrap() = value;
        self
    }

    /// Enrols; `objects_read` says whether the pod and the node are looked at.
    async fn run(self, objects_read: bool) -> Result<EnrolResponse, Status> {
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": self.review });
        let mut steps = vec![Step::ok(Method::POST, REVIEWS, review)];
        if objects_read {
            steps.push(match self.pod {
                Some(pod) => Step::ok(Method::GET, POD, pod),
                None => Step::fails(Method::GET, POD, 404, "NotFound"),
            });
            steps.push(if self.node {
                Step::ok(
                    Method::GET,
                    NODE,
                    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a", "uid": "uid-of-node-a" } }),
                )
            } else {
                Step::fails(Method::GET, NODE, 404, "NotFound")
            });
        }
        let (client, script) = Script::client(steps);
        let answer = service(client, true)
            .enrol(request_with(self.role, self.csr_der))
            .await
            .map(Response::into_inner);
        script.finished();
        let sent = &script.bodies(&format!("POST {REVIEWS}"))[0];
        assert_eq!(
            sent["spec"],
            json!({ "token": "the-token", "audiences": [ENROLMENT_AUDIENCE] })
        );
        answer
    }

    async fn refused(self, objects_read: bool, code: Code, part: &str) {
        let status = self.run(objects_read).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(
            status.message().contains(part),
            "{} does not contain {part:?}",
            status.message()
        );
    }
}

fn service(client: kube::Client, leads: bool) -> EnrolmentService {
    let (_, leading) = watch::channel(leads);
    EnrolmentService::new(fixture::context(client), Leadership::new(leading))
}

fn request(role: Role) -> Request<EnrolRequest> {
    request_with(role, KeyPair::generate().unwrap().csr_der)
}

fn request_with(role: Role, csr_der: Vec<u8>) -> Request<EnrolRequest> {
    Request::new(EnrolRequest {
        csr_der,
        service_account_token: "the-token".into(),
        role: role.into(),
    })
}

fn spiffe_id(response: EnrolResponse) -> String {
    let leaf = response.leaf.unwrap();
    let identity = identity::Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem: String::new(),
        bundle_pem: leaf.bundle_pem,
    };
    identity.spiffe_id().unwrap().to_string()
}

#[tokio::test]
async fn an_agent_gets_a_leaf_for_its_node_and_the_placement_key() {
    let response = Scenario::agent().run(true).await.unwrap();
    assert_eq!(response.placement_keys[0].len(), 32);
    assert_eq!(spiffe_id(response), "spiffe://shardwright/agent/node-a");
}

#[tokio::test]
async fn a_gateway_gets_a_leaf_for_its_pod() {
    let response = Scenario::sound("shardwright-gateway", Role::Gateway)
        .run(true)
        .await
        .unwrap();
    assert_eq!(spiffe_id(response), "spiffe://shardwright/gateway/agent-x");
}

#[tokio::test]
async fn a_token_that_does_not_stand_is_unauthenticated() {
    let code = Code::Unauthenticated;
    Scenario::agent()
        .review("/authenticated", json!(false))
        .refused(false, code, "does not accept the token")
        .await;
    Scenario::agent()
        .review("/audiences", json!(["https://kubernetes.default.svc"]))
        .refused(false, code, "audience")
        .await;
    Scenario::agent()
        .review("/audiences", Value::Null)
        .refused(false, code, "audience")
        .await;
    let unbound = json!({ "authentication.kubernetes.io/pod-name": ["agent-x"], "authentication.kubernetes.io/pod-uid": ["uid-1"] });
    Scenario::agent()
        .review("/user/extra", unbound)
        .refused(false, code, "node-name is missing")
        .await;
}

#[tokio::test]
async fn an_account_has_only_its_own_role() {
    let code = Code::PermissionDenied;
    Scenario::sound("shardwright-agent", Role::Gateway)
        .refused(false, code, "may not have role ROLE_GATEWAY")
        .await;
    Scenario::sound("default", Role::Agent)
        .refused(false, code, "may not have role ROLE_AGENT")
        .await;
    Scenario::sound("shardwright-agent", Role::Unspecified)
        .refused(false, code, "names no role")
        .await;
    let foreign = json!("system:serviceaccount:elsewhere:shardwright-agent");
    Scenario::agent()
        .review("/user/username", foreign)
        .refused(false, code, "namespace \"elsewhere\"")
        .await;
    Scenario::agent()
        .review("/user/username", json!("admin"))
        .refused(false, code, "no service account")
        .await;
}

#[tokio::test]
async fn a_pod_that_is_not_what_the_token_says_is_denied() {
    let code = Code::PermissionDenied;
    Scenario::agent()
        .pod("/metadata/uid", json!("uid-2"))
        .refused(true, code, "another than the one")
        .await;
    Scenario::agent()
        .pod("/spec/nodeName", json!("node-b"))
        .refused(true, code, "runs on node \"node-b\"")
        .await;
    Scenario::agent()
        .pod("/spec/serviceAccountName", json!("other"))
        .refused(true, code, "runs as \"other\"")
        .await;
    Scenario::agent()
        .pod("/status/phase", json!("Failed"))
        .refused(true, code, "has ended")
        .await;
    let mut dying = Scenario::agent();
    dying.pod.as_mut().unwrap()["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    dying.refused(true, code, "being deleted").await;
    Scenario {
        pod: None,
        ..Scenario::agent()
    }
    .refused(true, code, "does not exist any more")
    .await;
    Scenario {
        node: false,
        ..Scenario::agent()
    }
    .refused(true, code, "node \"node-a\" does not exist")
    .await;
    let earlier = json!(["uid-of-an-earlier-node-a"]);
    Scenario::agent()
        .review("/user/extra/authentication.kubernetes.io~1node-uid", earlier)
        .refused(true, code, "was deleted and made anew")
        .await;
}

#[tokio::test]
async fn an_api_server_that_fails_is_unavailable_and_not_a_refusal() {
    let (client, _) = Script::client([Step::fails(Method::POST, REVIEWS, 500, "InternalError")]);
    let status = service(client, true).enrol(request(Role::Agent)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let told = "the token cannot be checked now: create TokenReview: ";
    assert!(status.message().starts_with(told), "{status}");
}

#[tokio::test]
async fn a_certificate_request_that_does_not_stand_is_named_by_its_field_and_is_no_matter_of_rights() {
    Scenario {
        csr_der: b"no request".to_vec(),
        ..Scenario::agent()
    }
    .refused(true, Code::InvalidArgument, "csr_der: certificate request is refused: ")
    .await;
}

#[tokio::test]
async fn a_replica_that_does_not_lead_asks_nobody() {
    let (client, script) = Script::client([]);
    let status = service(client, false).enrol(request(Role::Agent)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "not the leader"));
    script.finished();
}
