//! Watches what a plan is made of, and carries plans out.

use std::pin::pin;
use std::time::Duration;

use crds::names;
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use super::object::{pod, selector};
use super::plan::{Action, Observed, Remembered, Reservation, plan};
use super::{Owner, Settings};
use crate::clock;
use crate::context::Context;
use crate::error::{CallError, call};
use crate::metrics::Metrics;
use crate::retry;
use crate::watching::{events, explain};
use lifecycle::backoff::Backoff;

/// Changes that come together are planned together. A pod that was just made is in the store by then, so none is made twice.
const BATCH: Duration = Duration::from_secs(1);
/// Time alone changes plans: an agent stays away, a refusal grows old.
const IDLE: Duration = Duration::from_secs(30);

/// Keeps reservations; ends only by being dropped, when the leadership ends.
pub async fn lead(context: &Context, settings: &Settings) {
    let client = &context.client.0;
    let (changed, mut changes) = watch::channel(());
    let ours = |component: &str| {
        watcher::Config::default().labels(&format!(
            "app.kubernetes.io/name=shardwright,app.kubernetes.io/component={component}"
        ))
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
    let (reservations, keep_reservations) = follow(
        events(pods.clone(), watcher::Config::default().labels(&selector())),
        &context.metrics,
        &changed,
    );
    let (agents, keep_agents) = follow(events(pods.clone(), ours("agent")), &context.metrics, &changed);
    let nodes = events(Api::<Node>::all(client.clone()), watcher::Config::default()).modify(slim);
    let (nodes, keep_nodes) = follow(nodes, &context.metrics, &changed);
    let keeping = async {
        let mut remembered = Remembered::default();
        let mut backoff = Backoff::new(retry::API);
        let _ = tokio::join!(
            reservations.wait_until_ready(),
            agents.wait_until_ready(),
            nodes.wait_until_ready()
        );
        loop {
            changes.mark_unchanged();
            let observed = Observed {
                nodes: owned(&nodes),
                agents: owned(&agents),
                reservations: owned(&reservations),
            };
            let actions = plan(&observed, settings, &mut remembered, clock::now());
            let wait = match carry_out(context, settings, &pods, actions).await {
                true => {
                    backoff.succeeded();
                    IDLE
                }
                false => backoff.failed(),
            };
            tokio::time::sleep(BATCH).await;
            // The sender stands above.
            let _ = tokio::time::timeout(wait, changes.changed()).await;
        }
    };
    tokio::select! {
        () = keeping => {}
        () = keep_reservations => {}
        () = keep_agents => {}
        () = keep_nodes => {}
    }
}

fn owned<K: Clone + Lookup + 'static>(store: &Store<K>) -> Vec<K>
where
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    store.state().iter().map(|object| (**object).clone()).collect()
}

/// Of a Node only what plans are made of: the rest is large.
fn slim(node: &mut Node) {
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    if let Some(status) = &mut node.status {
        let allocatable = status.allocatable.take();
        *status = k8s_openapi::api::core::v1::NodeStatus {
            allocatable,
            ..Default::default()
        };
    }
}

/// A store, and what fills it for as long as it is polled.
fn follow<K>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    metrics: &Metrics,
    changed: &watch::Sender<()>,
) -> (Store<K>, impl Future<Output = ()> + Send + 'static)
where
    K: Lookup + Clone + Send + Sync + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone + Default + Send + Sync,
{
    let (store, writer) = reflector::store();
    let (metrics, changed) = (metrics.clone(), changed.clone());
    let filling = async move {
        let mut events = pin!(reflector::reflector(writer, stream));
        let mut told = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(_) => {
                    told = false;
                    changed.send_replace(());
                }
                Err(error) => {
                    metrics.errors.with_label_values(&["watch"]).inc();
                    if !std::mem::replace(&mut told, true) {
                        let error = explain(&error);
                        tracing::warn!(
                            error,
                            "what reservations of devices depend on cannot be watched; trying again"
                        );
                    }
                }
            }
        }
    };
    (store, filling)
}

/// One after the other: there are few, and each failure is told and tried again with the next plan. Whether all succeeded.
async fn carry_out(context: &Context, settings: &Settings, pods: &Api<Pod>, actions: Vec<Action>) -> bool {
    let mut owner = None;
    let mut all_done = true;
    for action in actions {
        let done = match action {
            Action::Release { name, uid, why } => {
                tracing::info!(pod = name, why, "giving a device back");
                release(pods, &name, uid).await
            }
            Action::Reserve(reservation) => {
                if owner.is_none() {
                    owner = Some(find_owner(&context.client.0, settings).await);
                }
                match owner.as_ref() {
                    Some(Ok(owner)) => reserve(pods, settings, &reservation, owner.as_ref()).await,
                    _ => {
                        all_done = false;
                        continue;
                    }
                }
            }
        };
        if let Err(error) = done {
            all_done = false;
            context.metrics.errors.with_label_values(&[error.category()]).inc();
            tracing::warn!(%error, "a reservation was not changed; trying again");
        }
    }
    if let Some(Err(error)) = owner {
        tracing::warn!(%error, "no device is reserved: the operator's Deployment, which shall own the reservations, cannot be read");
    }
    all_done
}

async fn reserve(
    pods: &Api<Pod>,
    settings: &Settings,
    reservation: &Reservation,
    owner: Option<&Owner>,
) -> Result<(), CallError> {
    let params = PatchParams::apply(names::OPERATOR_FIELD_MANAGER).force();
    let wanted = pod(reservation, settings, owner);
    let name = &reservation.name;
    call(
        format!("apply Pod {}/{name}", settings.namespace),
        pods.patch(name, &params, &Patch::Apply(&wanted)),
    )
    .await?;
    tracing::info!(
        pod = name,
        node = reservation.node,
        resource = reservation.resource,
        "reserving a device"
    );
    Ok(())
}

async fn release(pods: &Api<Pod>, name: &str, uid: String) -> Result<(), CallError> {
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: Some(uid),
        resource_version: None,
    });
    match call(format!("delete Pod {name}"), pods.delete(name, &params)).await {
        // Somebody was faster, or a pod of that name was made anew.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// The operator's Deployment as the pods' controller: they end with the installation, and a drain of their node evicts them.
/// Nothing where the operator runs without one.
async fn find_owner(client: &Client, settings: &Settings) -> Result<Option<Owner>, CallError> {
    let name = &settings.deployment;
    let api: Api<Deployment> = Api::namespaced(client.clone(), &settings.namespace);
    let Some(deployment) = call(format!("get Deployment {name}"), api.get_opt(name)).await? else {
        return Ok(None);
    };
    let Some(uid) = deployment.metadata.uid else {
        return Ok(None);
    };
    Ok(Some(Owner {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: name.clone(),
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Script, Step};
    use crate::reservation::Count;
    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use std::sync::{Arc, Mutex};
    use tokio::time::Instant;

    fn settings() -> Settings {
        Settings {
            enabled: true,
            count: Count::All,
            namespace: "shardwright-system".to_owned(),
            image: "pause:1".to_owned(),
            priority_class: "shardwright-reserve".to_owned(),
            deployment: "shardwright-operator".to_owned(),
        }
    }

    fn reservation() -> Action {
        Action::Reserve(Reservation {
            name: "shardwright-reserve-a-nvidia-com-gpu-0".to_owned(),
            node: "a".to_owned(),
            resource: "nvidia.com/gpu".to_owned(),
            tolerations: Vec::new(),
        })
    }

    const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shardwright-system/deployments/shardwright-operator";
    const POD: &str = "/api/v1/namespaces/shardwright-system/pods/shardwright-reserve-a-nvidia-com-gpu-0";

    async fn carry_out_all(steps: Vec<Step>, actions: Vec<Action>) -> std::sync::Arc<Script> {
        let (client, script) = Script::client(steps);
        let pods = Api::namespaced(client.clone(), "shardwright-system");
        carry_out(&crate::fixture::context(client), &settings(), &pods, actions).await;
        script
    }

    #[tokio::test]
    async fn a_reservation_asks_for_one_device_of_its_node_and_belongs_to_the_operator() {
        let deployment = json!({ "metadata": { "name": "shardwright-operator", "uid": "d-1" } });
        let made = json!({ "metadata": { "name": "shardwright-reserve-a-nvidia-com-gpu-0" } });
        let steps = vec![
            Step::ok(Method::GET, DEPLOYMENT, deployment),
            Step::ok(Method::PATCH, POD, made),
        ];
        let script = carry_out_all(steps, vec![reservation()]).await;
        script.finished();
        let sent = &script.bodies(&format!("PATCH {POD}"))[0];
        let container = &sent["spec"]["containers"][0];
        assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], "1");
        assert_eq!(sent["metadata"]["ownerReferences"][0]["uid"], "d-1");
        assert_eq!(sent["metadata"]["ownerReferences"][0]["controller"], true);
        assert_eq!(sent["spec"]["priorityClassName"], "shardwright-reserve");
        assert_eq!(
            sent["spec"]["nodeName"],
            serde_json::Value::Null,
            "the scheduler puts it there"
        );
    }

    #[tokio::test]
    async fn nothing_is_reserved_while_its_owner_cannot_be_read() {
        let steps = vec![Step::fails(Method::GET, DEPLOYMENT, 500, "InternalError")];
        carry_out_all(steps, vec![reservation()]).await.finished();
    }

    #[tokio::test]
    async fn an_end_names_the_pod_it_means_and_one_that_is_gone_is_no_failure() {
        let release = Action::Release {
            name: "shardwright-reserve-a-nvidia-com-gpu-0".to_owned(),
            uid: "p-1".to_owned(),
            why: "a test",
        };
        let script = carry_out_all(vec![Step::fails(Method::DELETE, POD, 404, "NotFound")], vec![release]).await;
        script.finished();
        let sent = &script.bodies(&format!("DELETE {POD}"))[0];
        assert_eq!(sent["preconditions"]["uid"], "p-1");
    }

    /// An API server of a node with two cards and its agent, which refuses the first `refusals` reservations; when each was asked
    /// for is noted.
    fn refusing(refusals: usize, asked: Arc<Mutex<Vec<Instant>>>) -> Client {
        let lists = |path: &str, query: &str| match path {
            "/api/v1/nodes" => json!([{
                "metadata": { "name": "a" }, "status": { "allocatable": { "cpu": "8", "nvidia.com/gpu": "2" } },
            }]),
            _ if query.contains("agent") => json!([{
                "metadata": { "name": "shardwright-agent-a" }, "spec": { "containers": [], "nodeName": "a" },
            }]),
            _ => json!([]),
        };
        let service = tower::service_fn(move |request: Request<Body>| {
            let (path, query) = (
                request.uri().path().to_owned(),
                request.uri().query().unwrap_or_default().to_owned(),
            );
            let mut status = 200;
            let answer = match *request.method() {
                Method::PATCH => {
                    let mut asked = asked.lock().unwrap();
                    asked.push(Instant::now());
                    status = if asked.len() > refusals { 200 } else { 500 };
                    json!({ "metadata": { "name": "r" }, "kind": "Status", "status": "Failure", "code": status })
                }
                _ if path == DEPLOYMENT => json!({ "metadata": { "name": "shardwright-operator", "uid": "d-1" } }),
                _ => json!({ "metadata": { "resourceVersion": "1" }, "items": lists(&path, &query) }),
            };
            async move {
                if query.contains("watch=true") {
                    std::future::pending::<()>().await;
                }
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        Client::new(service, "shardwright-system")
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_that_was_refused_is_tried_again_within_seconds() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let context = crate::fixture::context(refusing(3, asked.clone()));
        // Nothing that is watched changes.
        let _ = tokio::time::timeout(IDLE, Box::pin(lead(&context, &settings()))).await;
        let asked = asked.lock().unwrap();
        let after: Vec<Duration> = asked.iter().map(|at| *at - asked[0]).collect();
        assert!(after.len() >= 4, "{after:?}");
        assert!(after[1] < Duration::from_secs(3), "{after:?}");
        assert!(after[3] < Duration::from_secs(10), "{after:?}");
    }

    #[test]
    fn of_a_node_only_what_plans_are_made_of_is_kept() {
        let mut node: Node = serde_json::from_value(json!({
            "metadata": { "name": "a", "annotations": { "x": "y" } },
            "status": { "allocatable": { "nvidia.com/gpu": "2" }, "images": [{ "names": ["big"] }] },
        }))
        .unwrap();
        slim(&mut node);
        let status = node.status.unwrap();
        assert!(status.allocatable.is_some() && status.images.is_none());
    }
}
