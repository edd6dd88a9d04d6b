//! The local control plane is a real one: bound tokens, audiences, and nothing left behind.

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use localplane::kubelet::{Kubelet, PodSpec};
use localplane::plane::{ENROL_AUDIENCE, Plane};
use serde_json::json;

async fn review(client: &kube::Client, token: &str, audience: &str) -> TokenReview {
    let review = serde_json::from_value(json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": token, "audiences": [audience] },
    }))
    .expect("a TokenReview");
    Api::all(client.clone())
        .create(&PostParams::default(), &review)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn a_pod_bound_token_names_its_pod_and_node_and_stands_for_its_audience_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(dir.path()).await.expect("a control plane");
    let client = plane.client().await.expect("a client");
    let kubelet = Kubelet::new(&plane).await.expect("a kubelet");
    let create = PostParams::default();
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": "here" } })).expect("a namespace");
    Api::<Namespace>::all(client.clone())
        .create(&create, &namespace)
        .await
        .expect("created");
    let account: ServiceAccount =
        serde_json::from_value(json!({ "metadata": { "name": "someone" } })).expect("an account");
    Api::<ServiceAccount>::namespaced(client.clone(), "here")
        .create(&create, &account)
        .await
        .expect("created");
    kubelet.add_node("node-a").await.expect("a node");

    let spec = PodSpec {
        namespace: "here".into(),
        name: "pod-1".into(),
        node: "node-a".into(),
        service_account: "someone".into(),
        labels: Default::default(),
    };
    let pod = kubelet.start_pod(&plane, spec.clone()).await.expect("a pod");
    let token = std::fs::read_to_string(&pod.enrol_token).expect("a token");
    let status = review(&client, &token, ENROL_AUDIENCE).await.status.expect("a status");
    assert_eq!(status.authenticated, Some(true));
    assert_eq!(status.audiences, Some(vec![ENROL_AUDIENCE.to_owned()]));
    let extra = status.user.and_then(|user| user.extra).expect("extra");
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], ["pod-1"]);
    assert_eq!(extra["authentication.kubernetes.io/node-name"], ["node-a"]);
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get("node-a").await.expect("the node");
    assert_eq!(
        extra["authentication.kubernetes.io/node-uid"],
        [node.metadata.uid.expect("a uid")]
    );

    let other = review(&client, &token, "https://kubernetes.default.svc")
        .await
        .status
        .expect("a status");
    assert_ne!(
        other.authenticated,
        Some(true),
        "a token for enrolment is no token for the API"
    );

    kubelet.delete_pod(&spec).await.expect("deleted");
    kubelet.delete_pod(&spec).await.expect("deleting twice is no error");
    kubelet.delete_node("node-a").await.expect("deleted");
    assert!(
        Api::<Node>::all(client)
            .get_opt("node-a")
            .await
            .expect("an answer")
            .is_none()
    );
}
