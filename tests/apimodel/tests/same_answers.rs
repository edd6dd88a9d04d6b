//! The model and a real kube-apiserver give the same answers to the same requests.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use http::Request;
use kube::Client;
use kube::api::WatchEvent;
use kube::client::Body;
use localplane::plane::Plane;
use serde_json::{Value, json};

/// The whole script on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MODELS: &str = "/apis/shardwright.dev/v1alpha1/namespaces/default/inferencemodels";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";

/// One request. `$rv` and `$uid` in it stand for those of the last answer that had an object of that path's last part.
struct Ask {
    method: &'static str,
    path: String,
    content: &'static str,
    body: Value,
}

fn ask(method: &'static str, path: impl Into<String>, body: Value) -> Ask {
    let content = JSON;
    Ask {
        method,
        path: path.into(),
        content,
        body,
    }
}

fn patch(content: &'static str, path: impl Into<String>, body: Value) -> Ask {
    Ask {
        content,
        ..ask("PATCH", path, body)
    }
}

fn map(name: &str, metadata: &Value, data: &Value) -> Value {
    let mut map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data });
    for (key, value) in metadata.as_object().into_iter().flatten() {
        map["metadata"][key] = value.clone();
    }
    map
}

fn model(metadata: &Value) -> Value {
    let mut model = json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel", "metadata": { "name": "m" },
        "spec": {
            "source": { "uri": "file:///m.gguf" }, "contextLength": 256, "parallelSequences": 2, "replicas": 1, "priority": 0,
            "prefixCache": { "maxPrefixes": 8 }, "kvType": "F16", "determinism": "Relaxed", "objective": "Latency",
            "memoryPressure": { "allowKvQuantisation": false, "allowHostLayers": false },
            "placement": { "minDevices": 1, "allowSoftwareDevices": false },
        },
    });
    for (key, value) in metadata.as_object().into_iter().flatten() {
        model["metadata"][key] = value.clone();
    }
    model
}

fn status(metadata: &Value, status: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel", "metadata": { "name": "m" }, "status": status,
    });
    for (key, value) in metadata.as_object().into_iter().flatten() {
        object["metadata"][key] = value.clone();
    }
    object
}

fn condition(kind: &str, value: &str) -> Value {
    json!({
        "type": kind, "status": value, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

fn maps_and_leases() -> Vec<Ask> {
    let at = |name: &str| format!("{MAPS}/{name}");
    let owned = |name: &str| format!("{MAPS}/{name}?fieldManager=x");
    vec![
        ask("GET", at("a"), Value::Null),
        ask(
            "POST",
            MAPS,
            map("a", &json!({ "labels": { "l": "1" } }), &json!({ "k": "1" })),
        ),
        ask("POST", MAPS, map("a", &Value::Null, &json!({}))),
        ask("POST", MAPS, map("b", &json!({ "resourceVersion": "7" }), &json!({}))),
        // Nothing changes.
        ask(
            "PUT",
            at("a"),
            map("a", &json!({ "labels": { "l": "1" } }), &json!({ "k": "1" })),
        ),
        ask(
            "PUT",
            at("a"),
            map(
                "a",
                &json!({ "labels": { "l": "1" }, "resourceVersion": "$rv" }),
                &json!({ "k": "2" }),
            ),
        ),
        ask(
            "PUT",
            at("a"),
            map("a", &json!({ "resourceVersion": "1" }), &json!({ "k": "3" })),
        ),
        ask(
            "PUT",
            at("a"),
            map(
                "a",
                &json!({ "uid": "00000000-0000-0000-0000-000000000000" }),
                &json!({ "k": "3" }),
            ),
        ),
        ask(
            "PUT",
            at("none"),
            map("none", &json!({ "resourceVersion": "1" }), &json!({})),
        ),
        patch(MERGE, at("a"), json!({ "data": { "k": null, "n": "1" } })),
        patch(MERGE, at("a"), json!({ "data": { "n": "1" } })),
        // Out of a selection and into it again.
        patch(MERGE, at("a"), json!({ "metadata": { "labels": { "l": "2" } } })),
        patch(MERGE, at("a"), json!({ "metadata": { "labels": { "l": "1" } } })),
        // Fields have owners.
        patch(
            APPLY,
            owned("c"),
            map("c", &json!({ "labels": { "l": "1" } }), &json!({ "p": "1", "q": "1" })),
        ),
        patch(
            APPLY,
            owned("c"),
            map("c", &json!({ "labels": { "l": "1" } }), &json!({ "p": "1", "q": "1" })),
        ),
        patch(
            APPLY,
            format!("{MAPS}/c?fieldManager=y"),
            map("c", &Value::Null, &json!({ "q": "1" })),
        ),
        patch(
            APPLY,
            format!("{MAPS}/c?fieldManager=y"),
            map("c", &Value::Null, &json!({ "q": "2" })),
        ),
        patch(
            APPLY,
            owned("c"),
            map("c", &json!({ "labels": { "l": "1" } }), &json!({ "r": "1" })),
        ),
        patch(
            APPLY,
            format!("{MAPS}/c?fieldManager=z&force=true"),
            map("c", &Value::Null, &json!({ "r": "2" })),
        ),
        patch(APPLY, owned("c"), map("c", &Value::Null, &json!({}))),
        patch(
            APPLY,
            owned("c"),
            map("c", &json!({ "resourceVersion": "1" }), &json!({ "s": "1" })),
        ),
        patch(
            APPLY,
            owned("c"),
            map(
                "c",
                &json!({ "uid": "00000000-0000-0000-0000-000000000000" }),
                &json!({}),
            ),
        ),
        patch(
            APPLY,
            owned("d"),
            map(
                "d",
                &json!({ "uid": "00000000-0000-0000-0000-000000000000" }),
                &json!({}),
            ),
        ),
        patch(APPLY, at("d"), map("d", &Value::Null, &json!({}))),
        // The end of objects.
        ask(
            "DELETE",
            at("a"),
            json!({ "preconditions": { "uid": "00000000-0000-0000-0000-000000000000" } }),
        ),
        patch(
            MERGE,
            at("a"),
            json!({ "metadata": { "finalizers": ["example.com/hold"] } }),
        ),
        ask("DELETE", at("a"), json!({ "preconditions": { "uid": "$uid" } })),
        ask("DELETE", at("a"), json!({})),
        patch(MERGE, at("a"), json!({ "metadata": { "finalizers": null } })),
        ask("GET", at("a"), Value::Null),
        ask("DELETE", at("c"), json!({})),
        ask("DELETE", at("c"), json!({})),
        ask(
            "POST",
            LEASES,
            json!({ "metadata": { "name": "l" }, "spec": { "holderIdentity": "x" } }),
        ),
        ask(
            "PUT",
            format!("{LEASES}/l"),
            json!({ "metadata": { "name": "l" }, "spec": { "holderIdentity": "y" } }),
        ),
        ask(
            "PUT",
            format!("{LEASES}/l"),
            json!({ "metadata": { "name": "l", "resourceVersion": "$rv" }, "spec": { "holderIdentity": "y" } }),
        ),
    ]
}

fn models() -> Vec<Ask> {
    let at = format!("{MODELS}/m");
    let st = format!("{MODELS}/m/status");
    let by = |manager: &str| format!("{MODELS}/m/status?fieldManager={manager}");
    let ready = |value| json!({ "conditions": [condition("Ready", value)], "stagesReady": "1/2" });
    let mut with_status = model(&Value::Null);
    with_status["status"] = ready("True");
    let mut twice = model(&json!({ "resourceVersion": "$rv" }));
    twice["spec"]["replicas"] = json!(2);
    vec![
        patch(APPLY, by("x"), status(&Value::Null, &ready("True"))),
        ask("POST", MODELS, with_status),
        ask("GET", st.clone(), Value::Null),
        ask("PUT", at.clone(), model(&Value::Null)),
        ask("PUT", at.clone(), twice),
        // The status does not count as a generation, the spec is not written by it.
        patch(APPLY, by("x"), status(&Value::Null, &ready("True"))),
        patch(APPLY, by("x"), status(&Value::Null, &ready("True"))),
        patch(
            APPLY,
            by("y"),
            status(&Value::Null, &json!({ "conditions": [condition("Placed", "True")] })),
        ),
        patch(
            APPLY,
            by("y"),
            status(&Value::Null, &json!({ "conditions": [condition("Ready", "False")] })),
        ),
        patch(
            APPLY,
            by("x"),
            status(&Value::Null, &json!({ "conditions": [condition("Ready", "False")] })),
        ),
        patch(
            APPLY,
            by("x"),
            status(&json!({ "resourceVersion": "1" }), &ready("True")),
        ),
        patch(
            APPLY,
            by("x"),
            status(&json!({ "resourceVersion": "$rv" }), &ready("True")),
        ),
        patch(
            APPLY,
            by("x"),
            status(
                &json!({ "uid": "00000000-0000-0000-0000-000000000000" }),
                &ready("True"),
            ),
        ),
        patch(
            MERGE,
            at.clone(),
            json!({ "spec": { "priority": 3 }, "status": { "stagesReady": "9/9" } }),
        ),
        patch(MERGE, at.clone(), json!({ "metadata": { "labels": { "l": "1" } } })),
        patch(
            MERGE,
            st.clone(),
            json!({ "spec": { "priority": 4 }, "status": { "stagesReady": "2/2" } }),
        ),
        patch(
            MERGE,
            at.clone(),
            json!({ "metadata": { "finalizers": ["example.com/hold"] } }),
        ),
        ask(
            "DELETE",
            at.clone(),
            json!({ "preconditions": { "resourceVersion": "1" } }),
        ),
        ask("DELETE", at.clone(), json!({ "preconditions": { "uid": "$uid" } })),
        patch(APPLY, by("x"), status(&Value::Null, &json!({ "stagesReady": "0/2" }))),
        patch(MERGE, at.clone(), json!({ "metadata": { "finalizers": [] } })),
        patch(APPLY, by("x"), status(&Value::Null, &ready("True"))),
        ask("GET", at, Value::Null),
    ]
}

/// What differs from run to run, by the order in which it was first seen.
#[derive(Default)]
struct Names {
    known: BTreeMap<(&'static str, String), usize>,
    counts: BTreeMap<&'static str, usize>,
}

impl Names {
    fn of(&mut self, kind: &'static str, text: &str) -> String {
        let next = self.counts.entry(kind).or_default();
        let number = *self.known.entry((kind, text.to_owned())).or_insert_with(|| {
            *next += 1;
            *next
        });
        format!("{kind}#{number}")
    }

    /// An object as it can be compared.
    fn object(&mut self, object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            metadata.remove("selfLink");
            for (field, kind) in [("resourceVersion", "rv"), ("uid", "uid")] {
                if let Some(text) = metadata.get(field).and_then(Value::as_str).map(str::to_owned) {
                    metadata.insert(field.into(), json!(self.of(kind, &text)));
                }
            }
            for date in ["creationTimestamp", "deletionTimestamp"] {
                if metadata.contains_key(date) {
                    metadata.insert(date.into(), json!("some time"));
                }
            }
        }
        object
    }
}

/// Carries the script out; one line for each answer.
async fn answers(client: &Client, script: Vec<Ask>) -> Vec<String> {
    let mut names = Names::default();
    let mut last: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut lines = Vec::new();
    for Ask {
        method,
        path,
        content,
        body,
    } in script
    {
        let bare = path.split('?').next().unwrap_or_default().trim_end_matches("/status");
        let object = bare.rsplit('/').next().unwrap_or_default().to_owned();
        let (rv, uid) = last.get(&object).cloned().unwrap_or_default();
        let text = match &body {
            Value::Null => String::new(),
            body => body.to_string().replace("$rv", &rv).replace("$uid", &uid),
        };
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header(http::header::CONTENT_TYPE, content)
            .header(http::header::USER_AGENT, "script")
            .body(Body::from(text.into_bytes()))
            .expect("a request");
        let response = client.send(request).await.expect("an answer");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await.expect("its body");
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{method} {path}: {bytes:?}"));
        let told = if answer["kind"] == "Status" {
            let details = json!([answer["status"], answer["reason"], answer["details"]["name"]]);
            // The words of a refusal are for people; which kind it is, is what clients go by.
            if code < 400 {
                details.to_string()
            } else {
                answer["reason"].to_string()
            }
        } else {
            let metadata = &answer["metadata"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = text(&metadata["name"]);
            last.insert(name, (text(&metadata["resourceVersion"]), text(&metadata["uid"])));
            names.object(&answer).to_string()
        };
        lines.push(format!("{method} {path} {text} -> {code} {told}", text = body));
    }
    lines
}

/// The events of a watch that lasts two seconds, without bookmarks.
async fn watched(client: &Client, path: &str) -> Vec<(String, Value)> {
    let request = Request::get(path).body(Vec::new()).expect("a request");
    let mut lines = client
        .request_events::<kube::core::DynamicObject>(request)
        .await
        .expect("a watch")
        .boxed();
    let mut events = Vec::new();
    while let Some(event) = lines.next().await {
        let (kind, object) = match event.expect("an event") {
            WatchEvent::Added(object) => ("ADDED", serde_json::to_value(object)),
            WatchEvent::Modified(object) => ("MODIFIED", serde_json::to_value(object)),
            WatchEvent::Deleted(object) => ("DELETED", serde_json::to_value(object)),
            WatchEvent::Error(status) => ("ERROR", Ok(json!({ "metadata": status.code }))),
            WatchEvent::Bookmark(_) => continue,
        };
        events.push((kind.to_owned(), object.expect("an object")));
    }
    events
}

async fn version(client: &Client, path: &str) -> String {
    let list = Request::get(path).body(Vec::new()).expect("a request");
    let list: Value = client.request(list).await.expect("a list");
    list["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned()
}

/// All answers, and what watches from before the script and from a future that never was are told of it.
async fn everything(client: &Client) -> Vec<String> {
    let revision = version(client, MAPS).await;
    let mut lines = answers(client, maps_and_leases()).await;
    let of_models = version(client, MODELS).await;
    lines.extend(answers(client, models()).await);
    let future = revision.parse::<u64>().expect("a number") + 1_000_000;
    let selected = "labelSelector=l%3D1&timeoutSeconds=2&watch=true";
    for path in [
        format!("{MAPS}?{selected}&resourceVersion={revision}"),
        format!("{MODELS}?timeoutSeconds=2&watch=true&resourceVersion={of_models}"),
        format!("{MAPS}?{selected}&resourceVersion={future}"),
    ] {
        let mut names = Names::default();
        lines.push(format!(
            "watch {}",
            path.split("&resourceVersion").next().unwrap_or_default()
        ));
        for (kind, object) in watched(client, &path).await {
            let object = names.object(&object);
            lines.push(format!("{kind} {} {}", object["metadata"], object["data"]));
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_answers_as_a_real_api_server_does() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(dir.path()).await.expect("a control plane");
    let mut kubectl = plane.kubectl().expect("kubectl");
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/shardwright/crds");
    assert!(kubectl.args(["apply", "-f", crds]).output().unwrap().status.success());
    let mut kubectl = plane.kubectl().expect("kubectl");
    let waited = kubectl
        .args(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])
        .output();
    assert!(waited.unwrap().status.success());
    let client = plane.client().await.expect("a client");
    let real = tokio::time::timeout(LIMIT, everything(&client)).await.expect("in time");
    let (client, _) = apimodel::ApiServer::new().connect("script");
    let model = tokio::time::timeout(LIMIT, everything(&client)).await.expect("in time");
    let different: Vec<String> = real
        .iter()
        .zip(&model)
        .filter(|(real, model)| real != model)
        .map(|(real, model)| format!("real  {real}\nmodel {model}"))
        .collect();
    // What follows the first difference mostly follows from it.
    let told: Vec<&str> = different.iter().take(6).map(String::as_str).collect();
    assert!(
        different.is_empty(),
        "{} answers differ:\n{}",
        different.len(),
        told.join("\n\n")
    );
    assert_eq!(real.len(), model.len());
    assert!(
        real.iter().any(|line| line.contains("-> 409")) && real.len() > 60,
        "the script did its work"
    );
}
