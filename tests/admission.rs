//! What the real API server says: the chart installs and leaves, bad specs are refused by name, rights are as narrow as stated.

use std::path::Path;
use std::process::Command;

use localplane::kubelet::{Kubelet, PodSpec};
use localplane::plane::Plane;
use localplane::stack::{NAMESPACE, RELEASE, install_chart, install_chart_with, run};
use localplane::wait::{Seen, until};
use serde_json::{Value, json};
use std::time::Duration;

/// The API server takes a moment to apply a policy that was just installed.
const POLICY_LIMIT: Duration = Duration::from_secs(30);

async fn plane_with_chart(dir: &Path) -> Plane {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plane = Plane::start(dir).await.expect("a control plane");
    install_chart(&plane).expect("the chart installs");
    plane
}

fn model(spec: &Value) -> Value {
    json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
        "metadata": { "name": "m", "namespace": "default" }, "spec": spec,
    })
}

/// `kubectl apply`; what it complained of, if it did.
fn apply(plane: &Plane, manifest: &Value) -> Result<(), String> {
    let path = plane.dir().join("manifest.json");
    std::fs::write(&path, manifest.to_string()).expect("written");
    let mut kubectl = plane.kubectl().expect("kubectl");
    run(kubectl.arg("apply").arg("-f").arg(&path))
        .map(drop)
        .map_err(|error| error.to_string())
}

fn can(plane: &Plane, account: &str, verb: &str, resource: &str, namespace: Option<&str>) -> bool {
    let mut kubectl = plane.kubectl().expect("kubectl");
    kubectl.args([
        "auth",
        "can-i",
        verb,
        resource,
        "--as",
        &format!("system:serviceaccount:{NAMESPACE}:{account}"),
    ]);
    kubectl.args(namespace.map_or_else(
        || vec!["--all-namespaces".to_owned()],
        |name| vec!["-n".to_owned(), name.to_owned()],
    ));
    let output = kubectl.output().expect("kubectl runs");
    String::from_utf8_lossy(&output.stdout).trim() == "yes"
}

/// Addresses that nothing could be read from, and what the refusal names.
fn bad_addresses(uri: &str, digest: &str) -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({ "source": { "uri": "http://somewhere/m.gguf" } }),
            "spec.source.uri must not be http://",
        ),
        (
            json!({ "source": { "uri": "file:///models/../etc/passwd" } }),
            "spec.source.uri",
        ),
        (
            json!({ "source": { "uri": uri, "sha256": "abc" } }),
            "spec.source.sha256",
        ),
        (
            json!({ "source": { "uri": "https://h/m.gguf" } }),
            "kubectl-shardwright model index",
        ),
        (
            json!({ "source": { "uri": "https://me:secret@h/m.gguf", "sha256": digest } }),
            "spec.source.secretRef",
        ),
        (
            json!({ "source": { "uri": "https://h/m.gguf#x", "sha256": digest } }),
            "spec.source.uri must not contain a fragment",
        ),
        (
            json!({ "source": { "uri": "hf://org/model", "sha256": digest } }),
            "spec.source.uri must be hf://",
        ),
        (
            json!({ "source": { "uri": "pvc://models", "sha256": digest } }),
            "spec.source.uri must be pvc://",
        ),
        (
            json!({ "source": { "uri": "oci://registry", "sha256": digest } }),
            "spec.source.uri must be oci://",
        ),
        (
            json!({ "source": { "uri": "https://h/m m.gguf", "sha256": digest } }),
            "must not contain white space",
        ),
        (
            json!({ "source": { "uri": "hf://o/r/m.safetensors@main", "sha256": digest } }),
            "convert_hf_to_gguf.py",
        ),
    ]
}

/// Ways to a source that are none, and what the refusal names.
fn bad_access(uri: &str, digest: &str) -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({ "source": { "uri": uri, "indexSha256": "abc" } }),
            "spec.source.indexSha256",
        ),
        (
            json!({ "source": { "uri": uri, "secretRef": { "name": "s" } } }),
            "spec.source.secretRef is for",
        ),
        (
            json!({ "source": { "uri": uri, "proxyURL": "http://p:1" } }),
            "spec.source.proxyURL is for",
        ),
        (
            json!({ "source": { "uri": "https://h/m.gguf", "sha256": digest, "proxyURL": "http://a:b@p:1" } }),
            "spec.source.proxyURL must not contain credentials",
        ),
        (
            json!({ "source": { "uri": "https://h/m.gguf", "sha256": digest, "secretRef": { "name": "A_b" } } }),
            "spec.source.secretRef.name",
        ),
    ]
}

/// Figures and fields that cannot be, and what the refusal names.
fn bad_figures(uri: &str) -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({ "source": { "uri": uri }, "kvCacheTokens": 1024 }),
            "spec.kvCacheTokens must be at least spec.contextLength",
        ),
        (
            json!({ "source": { "uri": uri }, "kvCacheTokens": 9000 }),
            "spec.kvCacheTokens must be at most",
        ),
        (
            json!({ "source": { "uri": uri }, "prefixCache": { "maxPrefixes": 33 } }),
            "spec.prefixCache.maxPrefixes",
        ),
        (
            json!({ "source": { "uri": uri }, "contextLength": 256, "parallelSequences": 250 }),
            "spec.parallelSequences plus spec.prefixCache.maxPrefixes",
        ),
        (
            json!({ "source": { "uri": uri }, "contextLength": 0 }),
            "spec.contextLength",
        ),
        (
            json!({ "source": { "uri": uri }, "placement": { "minDevices": 3, "maxDevices": 2 } }),
            "minDevices",
        ),
        (
            json!({ "source": { "uri": uri }, "placement": { "pinnedLayers": [{ "minLayers": 2 }] } }),
            "pinnedLayers",
        ),
        (
            json!({ "source": { "uri": uri }, "contextLenght": 4096 }),
            "contextLenght",
        ),
        (json!({}), "spec.source"),
    ]
}

/// Wishes about devices that contradict themselves, and what the refusal names.
fn bad_placements(uri: &str) -> Vec<(Value, &'static str)> {
    let tolerations =
        |toleration: Value| json!({ "source": { "uri": uri }, "placement": { "tolerations": [toleration] } });
    vec![
        (json!({ "source": { "uri": uri }, "priority": 1001 }), "spec.priority"),
        (json!({ "source": { "uri": uri }, "replicas": 0 }), "spec.replicas"),
        (json!({ "source": { "uri": uri }, "replicas": 17 }), "spec.replicas"),
        (
            json!({ "source": { "uri": uri }, "placement": { "maxLinkPercent": 50 } }),
            "spec.placement.maxLinkPercent is a share",
        ),
        (
            json!({ "source": { "uri": uri }, "placement": { "minTokensPerSecond": 5, "maxLinkPercent": 101 } }),
            "spec.placement.maxLinkPercent",
        ),
        (
            json!({ "source": { "uri": uri }, "placement": { "maxGroupDevices": 0 } }),
            "spec.placement.maxGroupDevices",
        ),
        (
            json!({ "source": { "uri": uri }, "placement": { "maxGroupDevices": 9 } }),
            "spec.placement.maxGroupDevices",
        ),
        (
            json!({ "source": { "uri": uri }, "placement": { "tokenNodeSelector": { "trusted": true } } }),
            "spec.placement.tokenNodeSelector",
        ),
        (
            tolerations(json!({ "value": "fan" })),
            "spec.placement.tolerations[].key must be set",
        ),
        (
            tolerations(json!({ "key": "repair", "operator": "Exists", "value": "fan" })),
            "spec.placement.tolerations[].value must not be set",
        ),
        (
            tolerations(json!({ "key": "repair", "effect": "NoSchedule" })),
            "spec.placement.tolerations[0].effect",
        ),
        (
            tolerations(json!({ "key": "no name" })),
            "spec.placement.tolerations[].key must be a name",
        ),
    ]
}

#[tokio::test]
async fn bad_models_are_refused_at_admission_by_a_message_that_names_the_field() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    let (uri, digest) = ("file:///models/m.gguf", "0f".repeat(32));
    let cases = [
        bad_addresses(uri, &digest),
        bad_access(uri, &digest),
        bad_figures(uri),
        bad_placements(uri),
    ];
    for (spec, named) in cases.into_iter().flatten() {
        let refused = apply(&plane, &model(&spec)).expect_err(&format!("{spec} is nonsense"));
        assert!(
            refused.contains(named),
            "{spec} was refused without naming {named}: {refused}"
        );
    }
    for source in [
        json!({ "uri": uri }),
        json!({ "uri": "pvc://models/m-00001-of-00002.gguf" }),
        json!({ "uri": "https://h:8443/m.gguf", "indexSha256": digest, "secretRef": { "name": "s" }, "proxyURL": "http://p:1" }),
        json!({ "uri": "hf://org/model/m.gguf@main", "sha256": digest }),
        json!({ "uri": "oci://registry:5000/a/b:1/m.gguf", "indexSha256": digest }),
    ] {
        let spec = json!({ "source": source, "kvCacheTokens": 4096, "prefixCache": { "maxPrefixes": 2 }, "priority": -1000,
            "replicas": 2, "placement": { "minTokensPerSecond": 5, "maxLinkPercent": 50, "tokenNodeSelector": { "trusted": "yes" },
                "maxGroupDevices": 8, "tolerations": [{ "key": "repair", "value": "fan" }, { "operator": "Exists" }] } });
        apply(&plane, &model(&spec)).unwrap_or_else(|refused| panic!("{source} is sound: {refused}"));
    }
}

#[tokio::test]
async fn the_operator_reads_secrets_of_sources_only_where_the_chart_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plane = Plane::start(dir.path()).await.expect("a control plane");
    install_chart_with(&plane, &["operator.sourceSecretNamespaces={default}"]).expect("the chart installs");
    let operator = |verb: &str, namespace: &str| can(&plane, "shardwright-operator", verb, "secrets", Some(namespace));
    assert!(operator("get", "default"));
    assert!(!operator("list", "default"), "by name alone");
    assert!(!operator("get", "kube-public"));
}

#[tokio::test]
async fn the_chart_is_removed_without_trace_but_for_what_users_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    let helm = |arguments: &[&str]| run(plane.helm().expect("helm").args(arguments)).expect("helm succeeds");
    let status = helm(&["status", RELEASE, "-n", NAMESPACE]);
    assert!(status.contains("deployed"), "{status}");
    helm(&["uninstall", RELEASE, "-n", NAMESPACE]);
    let kubectl =
        |arguments: &[&str]| run(plane.kubectl().expect("kubectl").args(arguments)).expect("kubectl succeeds");
    let left = kubectl(&[
        "get",
        "deployments,daemonsets,services,serviceaccounts,roles,rolebindings",
        "-n",
        NAMESPACE,
        "-o",
        "name",
    ]);
    assert_eq!(left.trim(), "", "left behind: {left}");
    let cluster = kubectl(&[
        "get",
        "clusterroles,clusterrolebindings",
        "-l",
        "app.kubernetes.io/instance=shardwright",
        "-o",
        "name",
    ]);
    assert_eq!(cluster.trim(), "", "left behind: {cluster}");
    let kept = kubectl(&["get", "crds", "-o", "name"]);
    assert!(
        kept.contains("inferencemodels.shardwright.dev"),
        "definitions hold users' objects and stay: {kept}"
    );
}

#[tokio::test]
async fn every_account_has_the_rights_it_needs_and_none_that_would_give_it_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    let here = Some(NAMESPACE);
    assert!(can(
        &plane,
        "shardwright-operator",
        "list",
        "inferencemodels.shardwright.dev",
        None
    ));
    assert!(can(
        &plane,
        "shardwright-operator",
        "create",
        "tokenreviews.authentication.k8s.io",
        None
    ));
    assert!(can(
        &plane,
        "shardwright-agent",
        "patch",
        "devicegpustates.shardwright.dev/status",
        None
    ));
    assert!(can(
        &plane,
        "shardwright-agent",
        "patch",
        "leases.coordination.k8s.io",
        here
    ));
    let links = "nodelinkstates.shardwright.dev";
    assert!(can(&plane, "shardwright-operator", "watch", links, None));
    assert!(
        !can(&plane, "shardwright-operator", "patch", links, None),
        "agents report links"
    );
    assert!(can(
        &plane,
        "shardwright-agent",
        "patch",
        &format!("{links}/status"),
        None
    ));
    assert!(
        !can(&plane, "shardwright-agent", "list", links, None),
        "its own by name alone"
    );
    assert!(!can(&plane, "shardwright-gateway", "get", links, None));
    for account in ["shardwright-agent", "shardwright-gateway"] {
        assert!(
            !can(&plane, account, "get", "secrets", here),
            "{account} must not read the authority's key"
        );
        assert!(
            !can(&plane, account, "patch", "inferencemodels.shardwright.dev/status", None),
            "{account} must not place"
        );
    }
    assert!(
        !can(&plane, "shardwright-operator", "get", "secrets", None),
        "secrets of other namespaces are not ours"
    );
    assert!(!can(&plane, "shardwright-gateway", "get", "pods", None));
}

#[tokio::test]
async fn the_operator_alone_replaces_its_authority_and_watches_whom_to_trust_and_nothing_beside_these() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    let may = |account: &str, verb: &str, object: &str| can(&plane, account, verb, object, Some(NAMESPACE));
    let operator = "shardwright-operator";
    assert!(may(operator, "update", "secrets/shardwright-authority"));
    for verb in ["list", "watch", "patch", "delete"] {
        assert!(!may(operator, verb, "secrets/shardwright-authority"), "{verb}");
    }
    assert!(
        !may(operator, "update", "secrets/shardwright-placement-key"),
        "it is made once"
    );
    assert!(!may(operator, "update", "secrets") && !may(operator, "watch", "configmaps"));
    for account in ["shardwright-agent", "shardwright-gateway"] {
        assert!(
            !may(account, "patch", "configmaps/shardwright-trust"),
            "{account} must not ask for another authority"
        );
    }
    let listed = |selector: &str| {
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:{operator}");
        let list = [
            "get",
            "configmaps",
            "-n",
            NAMESPACE,
            "-o",
            "name",
            selector,
            account.as_str(),
        ];
        run(plane.kubectl().expect("kubectl").args(list))
    };
    assert!(listed("--field-selector=metadata.name=shardwright-trust").is_ok());
    assert!(listed("--field-selector=metadata.name=kube-root-ca.crt").is_err());
}

fn links_of(name: &str, owner: &str, uid: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "NodeLinkState",
        "metadata": {
            "name": name,
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": owner, "uid": uid }],
        },
        "spec": spec,
    })
}

#[tokio::test]
async fn links_that_cannot_be_are_refused_by_a_message_that_names_the_field() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    let with_spec = |spec: &Value| apply(&plane, &links_of("node-a", "node-a", "1", spec));
    for (spec, named) in [
        (
            json!({ "excludedPeers": [{ "node": "Node B" }] }),
            "spec.excludedPeers[].node",
        ),
        (
            json!({ "excludedPeers": [{ "node": "b" }, { "node": "b" }] }),
            "spec.excludedPeers",
        ),
        (json!({ "pause": true }), "pause"),
    ] {
        let refused = with_spec(&spec).expect_err(&format!("{spec} is nonsense"));
        assert!(
            refused.contains(named),
            "{spec} was refused without naming {named}: {refused}"
        );
    }
    with_spec(&json!({ "paused": false, "excludedPeers": [{ "node": "node-b" }] })).expect("sound");
    let report = |change: &Value| -> Result<String, String> {
        let mut peer = json!({
            "node": "node-b", "kind": "Ethernet", "state": "Measured", "latencyP50Us": 100, "latencyP99Us": 200,
            "sendBytesPerSecond": 1, "receiveBytesPerSecond": 1, "samples": 1, "measuredAt": "2026-01-02T03:04:05Z",
        });
        for (key, value) in change.as_object().expect("an object") {
            peer[key] = value.clone();
        }
        peer.as_object_mut()
            .expect("an object")
            .retain(|_, value| !value.is_null());
        let patch = json!({ "status": { "node": "node-a", "peers": [peer] } }).to_string();
        let mut kubectl = plane.kubectl().expect("kubectl");
        run(kubectl.args([
            "patch",
            "links",
            "node-a",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ]))
        .map_err(|error| error.to_string())
    };
    for (change, named) in [
        (json!({ "latencyP99Us": 99 }), "status.peers[].latencyP99Us"),
        (json!({ "sendBytesPerSecond": null }), "status.peers[].state"),
        (json!({ "sendBytesPerSecond": 0 }), "sendBytesPerSecond"),
        (json!({ "state": "Fast" }), "state"),
        (json!({ "kind": "Pigeon" }), "kind"),
    ] {
        let refused = report(&change).expect_err(&format!("{change} is nonsense"));
        assert!(
            refused.contains(named),
            "{change} was refused without naming {named}: {refused}"
        );
    }
    report(&json!({})).expect("sound");
    let mut kubectl = plane.kubectl().expect("kubectl");
    let shown = run(kubectl.args(["get", "links"])).expect("kubectl succeeds");
    for column in ["PEERS", "LATENCY", "BANDWIDTH", "MEASURED", "REASON", "SLOW", "AGE"] {
        assert!(shown.contains(column), "{column} is missing in {shown}");
    }
}

#[tokio::test]
async fn an_agent_writes_the_links_of_its_own_node_and_no_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    let kubelet = Kubelet::new(&plane).await.expect("a kubelet");
    for node in ["node-a", "node-b"] {
        kubelet.add_node(node).await.expect("a node");
    }
    let spec = PodSpec {
        namespace: NAMESPACE.into(),
        name: "shardwright-agent-node-a".into(),
        node: "node-a".into(),
        service_account: "shardwright-agent".into(),
        labels: Default::default(),
    };
    let pod = kubelet.start_pod(&plane, spec).await.expect("a pod");
    let uid = |node: &str| {
        let mut kubectl = plane.kubectl().expect("kubectl");
        run(kubectl.args(["get", "node", node, "-o", "jsonpath={.metadata.uid}"])).expect("a uid")
    };
    let apply = |manifest: &Value| -> Result<(), String> {
        let path = plane.dir().join("links.json");
        std::fs::write(&path, manifest.to_string()).expect("written");
        let mut kubectl = plane.kubectl().expect("kubectl");
        kubectl.arg("--kubeconfig").arg(&pod.kubeconfig);
        run(kubectl.args(["apply", "--server-side", "-f"]).arg(&path))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let stolen = links_of("node-b", "node-b", &uid("node-b"), &json!({}));
    until("the policy is in force", POLICY_LIMIT, || {
        std::future::ready(Ok(match apply(&stolen) {
            Err(refused) if refused.contains("its own node") => Seen::Done(()),
            outcome => Seen::Not(format!("{outcome:?}")),
        }))
    })
    .await
    .expect("it is in force");
    // Not node-b: an object that was let in before the policy was in force stays.
    let claimed = links_of("node-c", "node-a", &uid("node-a"), &json!({}));
    let refused = apply(&claimed).expect_err("under another node's name");
    assert!(refused.contains("under its name, which is node-a"), "{refused}");
    apply(&links_of("node-a", "node-a", &uid("node-a"), &json!({}))).expect("its own");
}

/// A pod as the operator makes them to hold a device.
fn reservation(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app.kubernetes.io/component": "reservation" } },
        "spec": {
            "automountServiceAccountToken": false,
            "priorityClassName": "shardwright-reserve",
            "containers": [{
                "name": "reserve", "image": "registry.k8s.io/pause:3.10.1",
                "lifecycle": { "preStop": { "sleep": { "seconds": 10 } } },
                "resources": { "limits": { "nvidia.com/gpu": "1" } },
                "securityContext": { "allowPrivilegeEscalation": false },
            }],
        },
    })
}

/// `kubectl apply` with the operator's rights.
fn apply_as_operator(plane: &Plane, manifest: &Value) -> Result<(), String> {
    let path = plane.dir().join("pod.json");
    std::fs::write(&path, manifest.to_string()).expect("written");
    let mut kubectl = plane.kubectl().expect("kubectl");
    let account = format!("system:serviceaccount:{NAMESPACE}:shardwright-operator");
    run(kubectl
        .args(["apply", "--server-side", "--as", &account, "-f"])
        .arg(&path))
    .map(drop)
    .map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_operator_makes_no_pods_but_those_that_hold_devices() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    let name = "shardwright-reserve-a-nvidia-com-gpu-0";
    let changed = |pointer: &str, value: Value| {
        let mut pod = reservation("shardwright-reserve-b-nvidia-com-gpu-0");
        let (parent, key) = pointer.rsplit_once('/').expect("a path");
        pod.pointer_mut(parent).expect("it is there")[key] = value;
        pod
    };
    // Let in before the policy is in force, it stays: no other pod may have its name.
    let mut early = changed("/spec/hostPID", json!(true));
    early["metadata"]["name"] = json!("shardwright-reserve-early-nvidia-com-gpu-0");
    until("the policy is in force", POLICY_LIMIT, || {
        let tried = apply_as_operator(&plane, &early);
        std::future::ready(Ok(match tried {
            Err(_) => Seen::Done(()),
            Ok(()) => Seen::Not("a pod with the node's processes was let in".to_owned()),
        }))
    })
    .await
    .expect("it is in force");
    for (pointer, value) in [
        ("/metadata/name", json!("something")),
        ("/metadata/labels", json!({})),
        ("/spec/hostNetwork", json!(true)),
        ("/spec/automountServiceAccountToken", json!(true)),
        (
            "/spec/volumes",
            json!([{ "name": "root", "hostPath": { "path": "/" } }]),
        ),
        (
            "/spec/initContainers",
            json!([{ "name": "i", "image": "registry.k8s.io/pause:3.10.1" }]),
        ),
        ("/spec/containers/0/image", json!("busybox")),
        ("/spec/containers/0/command", json!(["sh"])),
        (
            "/spec/containers/0/securityContext",
            json!({ "allowPrivilegeEscalation": true }),
        ),
    ] {
        let refused = apply_as_operator(&plane, &changed(pointer, value)).expect_err(pointer);
        assert!(refused.contains("shardwright-operator"), "{pointer}: {refused}");
    }
    apply_as_operator(&plane, &reservation(name)).expect("a reservation is made");
    let mut kubectl = plane.kubectl().expect("kubectl");
    let made = run(kubectl.args(["get", "pod", name, "-n", NAMESPACE, "-o", "json"])).expect("it is there");
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["spec"]["priority"], -1000);
    assert_eq!(made["spec"]["preemptionPolicy"], "Never");
    assert_eq!(
        made["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"],
        10
    );
}

#[tokio::test]
async fn the_definitions_show_the_story_in_kubectl_get() {
    let dir = tempfile::tempdir().expect("a folder");
    let plane = plane_with_chart(dir.path()).await;
    apply(&plane, &model(&json!({ "source": { "uri": "file:///models/m.gguf" } }))).expect("applied");
    let get = |what: &str| -> String {
        let mut kubectl: Command = plane.kubectl().expect("kubectl");
        run(kubectl.args(["get", what, "-A"])).expect("kubectl succeeds")
    };
    let header = get("im").lines().next().unwrap_or_default().to_owned();
    for column in ["MODEL", "LAYERS", "STAGES", "EPOCH", "READY", "REASON", "AGE"] {
        assert!(header.contains(column), "{column} is missing in {header}");
    }
    assert!(
        get("shardwright").contains("inferencemodel"),
        "the category lists our kinds"
    );
}
