//! Whole passes, with a scripted API server and agents in the registry.

mod away;
mod begun;
mod earlier;

use std::sync::Arc;

use http::Method;
use k8s_openapi::jiff::Timestamp;
use proto::control::v1::{self as wire, Assignments, Hello, ShardPhase};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::agents::registry::Attachment;
use crate::fixture::{self as api, Script, Step};
use crate::model::fixture;
use crate::model::in_force::encode;

const STATUS: &str = "/apis/shardwright.dev/v1alpha1/namespaces/default/inferencemodels/smol/status";

/// A leader with one node that has one device and an attached agent.
struct Plane {
    context: Context,
    agents: Agents,
    routes: Routes,
    health: Liveness,
    script: Arc<Script>,
    attachment: Attachment,
    observed: Observed,
}

impl Plane {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let (client, script) = Script::client(steps);
        let agents = Agents::default();
        let attachment = agents.attach("a", Hello::default(), Instant::now()).unwrap();
        let observed = Observed {
            models: vec![Arc::new(fixture::model())],
            devices: vec![fixture::cpu("a", 1 << 30)],
            ..Default::default()
        };
        Self {
            context: api::context(client),
            agents,
            routes: Routes::default(),
            health: Liveness::default(),
            script,
            attachment,
            observed,
        }
    }

    fn control(&self) -> Loop<'_> {
        // Events go nowhere: what they say is tested where they are made.
        let stopped = CancellationToken::new();
        stopped.cancel();
        Loop {
            context: &self.context,
            agents: &self.agents,
            routes: &self.routes,
            events: Events::start(&self.context, stopped),
            health: &self.health,
            term: Term::begin(Instant::now()),
            secrets: Secrets::default(),
            settled: false,
            slice: Duration::from_secs(60),
            writes_failed: false,
        }
    }

    fn answer(&self) {
        self.answer_for(fixture::UID);
    }

    fn answer_for(&self, uid: &str) {
        let facts = fixture::facts();
        let piece = |weight_bytes| {
            Some(wire::PieceFacts {
                weight_bytes,
                digest: vec![1; 32],
            })
        };
        let facts = wire::ModelFacts {
            sha256: facts.sha256.unwrap().0.to_vec(),
            file_bytes: facts.file_bytes,
            architecture: "llama".into(),
            quantisation: "Q4_1".into(),
            embedding_length: 64,
            vocabulary_size: 1000,
            kv_elements_per_token_per_layer: 128,
            layers: vec![
                wire::LayerFacts {
                    weight_bytes: 10,
                    digest: vec![3; 32],
                    ..Default::default()
                };
                4
            ],
            embedding: piece(5),
            output: piece(5),
            vocabulary_sha256: <sha2::Sha256 as sha2::Digest>::digest(b"").to_vec(),
            ..Default::default()
        };
        let result = Some(wire::inspection::Result::Facts(facts));
        let inspection = wire::Inspection {
            model_uid: uid.into(),
            generation: 1,
            result,
        };
        self.agents.inspected("a", self.attachment.session, inspection);
    }

    fn assigned(&self) -> Assignments {
        self.attachment
            .assignments
            .borrow()
            .as_deref()
            .cloned()
            .unwrap_or_default()
    }
}

async fn pass(control: &mut Loop<'_>, observed: &Observed) -> Outcome {
    control.pass(observed.clone(), Instant::now(), Timestamp::now()).await
}

fn written() -> Step {
    written_to(STATUS)
}

fn written_to(status: &str) -> Step {
    let metadata = json!({ "name": "smol", "namespace": "default", "resourceVersion": "8" });
    let spec = json!({ "source": { "uri": "file:///models/smol.gguf" } });
    Step::ok(
        Method::PATCH,
        status,
        json!({
            "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel", "metadata": metadata, "spec": spec,
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_inspected_placed_and_assigned_and_its_routes_are_published() {
    let mut plane = Plane::new([written(), written(), written()]);
    let mut model = fixture::model();
    model.metadata.resource_version = Some("7".into());
    plane.observed.models = vec![Arc::new(model)];
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    plane.answer();
    pass(&mut control, &plane.observed).await;
    let epoch = control.term.models[fixture::UID]
        .in_force
        .as_ref()
        .unwrap()
        .placement
        .epoch;
    assert_eq!(epoch, 1);
    let shard = wire::ShardStatus {
        model_uid: fixture::UID.into(),
        epoch,
        phase: ShardPhase::Serving.into(),
        endpoint: "10.0.0.1:7000".into(),
        ..Default::default()
    };
    plane
        .agents
        .report("a", plane.attachment.session, wire::ShardReport { shards: vec![shard] });
    pass(&mut control, &plane.observed).await;

    plane.script.finished();
    let patches = plane.script.bodies(&format!("PATCH {STATUS}"));
    let versions: Vec<&str> = patches
        .iter()
        .filter_map(|patch| patch["metadata"]["resourceVersion"].as_str())
        .collect();
    assert_eq!(
        versions,
        ["7", "8", "8"],
        "what another wrote, and an object that was made anew, is not written over"
    );
    assert_eq!(patches[2]["status"]["stagesReady"], "1/1");
    assert_eq!(plane.assigned().assignments[0].routes[0].endpoint, "10.0.0.1:7000");
    let routes = plane.routes.watch().borrow().clone().unwrap();
    assert!(routes.models[0].ready);
    assert_eq!(routes.models[0].head_endpoints, ["10.0.0.1:7000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_told_of_each_other_so_that_they_measure_their_links() {
    let mut plane = Plane::new([]);
    plane.observed.models.clear();
    let reached_at = |endpoint: &str| Hello {
        weights_endpoint: endpoint.into(),
        takes_purposes: true,
        ..Hello::default()
    };
    let now = Instant::now();
    let b = plane.agents.attach("b", reached_at("10.0.0.2:9445"), now).unwrap();
    let c = plane.agents.attach("c", reached_at("10.0.0.3:9445"), now).unwrap();
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    let told = |attachment: &Attachment| -> Vec<(String, String)> {
        let peers = attachment.peers.borrow().clone().unwrap();
        peers
            .peers
            .iter()
            .map(|peer| (peer.node.clone(), peer.endpoint.clone()))
            .collect()
    };
    assert_eq!(told(&b), [("c".to_owned(), "10.0.0.3:9445".to_owned())]);
    assert_eq!(told(&c), [("b".to_owned(), "10.0.0.2:9445".to_owned())]);
    assert_eq!(
        told(&plane.attachment),
        [],
        "it has no port where it could be measured to"
    );
    plane.agents.detach("c", c.session, now);
    pass(&mut control, &plane.observed).await;
    assert_eq!(told(&b), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_that_is_not_in_status_is_told_to_nobody() {
    let refused = Step::fails(Method::PATCH, STATUS, 422, "Invalid");
    let plane = Plane::new([written(), refused, written()]);
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    plane.answer();
    assert_eq!(pass(&mut control, &plane.observed).await.failed_writes, 1);
    assert!(plane.assigned().assignments.is_empty());
    assert_eq!(pass(&mut control, &plane.observed).await.failed_writes, 0);
    assert_eq!(plane.assigned().assignments.len(), 1);
    plane.script.finished();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_that_could_not_be_written_does_not_make_the_loop_spin_for_a_model_without_a_place() {
    let mut never = fixture::model();
    never.metadata.name = Some("never".into());
    never.metadata.uid = Some("uid-never".into());
    never.spec.context_length = -1;
    let never_status = STATUS.replace("smol", "never");
    let refused = |path: &str| Step::fails(Method::PATCH, path, 503, "Unavailable");
    let steps = [
        written(),
        refused(&never_status),
        refused(STATUS),
        refused(&never_status),
    ];
    let mut plane = Plane::new(steps);
    plane.observed.models.push(Arc::new(never));
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    plane.answer();
    let outcome = pass(&mut control, &plane.observed).await;
    assert_eq!(outcome.failed_writes, 2);
    assert!(
        outcome.wakes_at.is_none_or(|at| at > Instant::now()),
        "the pause after a failed write holds"
    );
    plane.script.finished();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_lost_the_lease_while_it_decided_writes_nothing() {
    let plane = Plane::new([]);
    let mut control = plane.control();
    let mut leads = true;
    let mut pass = std::pin::pin!(pass(&mut control, &plane.observed));
    let lost = futures::future::poll_fn(|_| match std::mem::replace(&mut leads, false) {
        true => std::task::Poll::Pending,
        false => std::task::Poll::Ready(()),
    });
    tokio::select! {
        biased;
        () = lost => {}
        _ = &mut pass => panic!("it went on"),
    }
    plane.script.finished();
    assert!(plane.script.bodies(&format!("PATCH {STATUS}")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_deleted_is_taken_from_its_nodes() {
    let plane = Plane::new([written(), written()]);
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    plane.answer();
    pass(&mut control, &plane.observed).await;
    assert!(plane.agents.is_assigned("a", fixture::UID));
    pass(&mut control, &Observed::default()).await;
    assert!(plane.assigned().assignments.is_empty());
    assert!(plane.routes.watch().borrow().clone().unwrap().models.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_writes_and_publishes_nothing_of_a_model_whose_agents_are_still_on_their_way() {
    let mut plane = Plane::new([]);
    let signer = &plane.context.keys.signer;
    let mut in_force = fixture::in_force(3, &["b"]);
    in_force.view.envelope = encode(&signer.sign(&in_force.placement));
    let mut model = fixture::model();
    model.status = Some(InferenceModelStatus {
        placement: Some(in_force.view),
        ..Default::default()
    });
    plane.observed.models = vec![Arc::new(model)];
    let mut control = plane.control();
    let outcome = pass(&mut control, &plane.observed).await;
    assert!(outcome.wakes_at.is_some());
    plane.script.finished();
    assert!(
        plane.routes.watch().borrow().is_none(),
        "gateways keep the table they have"
    );
}

const SECRET: &str = "/api/v1/namespaces/default/secrets/access";

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_asked_about_once_its_secret_is_there_and_its_nodes_are_told_how_to_reach_it() {
    let missing = Step::fails(Method::GET, SECRET, 404, "NotFound");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "access", "namespace": "default" },
        "data": { "token": "YWJj" },
    });
    let found = Step::ok(Method::GET, SECRET, secret);
    let mut plane = Plane::new([missing, written(), found, written(), written()]);
    let mut model = fixture::model();
    model.spec.source.secret_ref = Some(crds::SourceSecret { name: "access".into() });
    plane.observed.models = vec![Arc::new(model)];
    let mut control = plane.control();
    let outcome = pass(&mut control, &plane.observed).await;
    let retry = outcome.wakes_at.expect("the Secret is looked for again");
    control.pass(plane.observed.clone(), retry, Timestamp::now()).await;
    plane.answer();
    control.pass(plane.observed.clone(), retry, Timestamp::now()).await;
    plane.script.finished();
    let patches = plane.script.bodies(&format!("PATCH {STATUS}"));
    let resolved = |body: &serde_json::Value| {
        let conditions = body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let resolved = conditions.into_iter().find(|condition| condition["type"] == "Resolved");
        resolved.expect("Resolved")["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(resolved(&patches[0]), "SecretNotFound");
    assert_eq!(resolved(&patches[1]), "Inspecting");
    assert!(
        patches.iter().all(|body| !body.to_string().contains("abc")),
        "no status holds a secret"
    );
    let access = plane.assigned().assignments[0].access.clone().unwrap();
    assert_eq!(access.bearer_token, "abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_model_is_taken_from_its_node_before_the_higher_one_is_assigned() {
    let big_status = STATUS.replace("smol", "big");
    let big_written = || written_to(&big_status);
    let steps = [
        written(),
        written(),
        big_written(),
        // Both in one pass: the one waits, the other yields.
        big_written(),
        written(),
        big_written(),
    ];
    let mut plane = Plane::new(steps);
    plane.observed.devices = vec![fixture::cpu("a", 80 << 20)];
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    plane.answer();
    let nothing = wire::ShardReport { shards: Vec::new() };
    plane.agents.report("a", plane.attachment.session, nothing);
    pass(&mut control, &plane.observed).await;
    let mut big = fixture::model();
    big.metadata.name = Some("big".into());
    big.metadata.uid = Some("uid-big".into());
    big.spec.priority = 10;
    let mut both = plane.observed.clone();
    both.models.push(Arc::new(big));
    pass(&mut control, &both).await;
    plane.answer_for("uid-big");
    assert!(plane.agents.is_assigned("a", fixture::UID));
    let outcome = pass(&mut control, &both).await;
    assert!(plane.assigned().assignments.is_empty());
    assert!(
        outcome.wakes_at.is_some_and(|at| at <= Instant::now()),
        "the memory is free"
    );
    pass(&mut control, &both).await;
    assert!(plane.agents.is_assigned("a", "uid-big") && !plane.agents.is_assigned("a", fixture::UID));
    plane.script.finished();
    let last = |path: &str| plane.script.bodies(&format!("PATCH {path}")).pop().unwrap()["status"].clone();
    assert_eq!(last(STATUS)["placement"], serde_json::Value::Null);
    assert_eq!(last(STATUS)["yielded"]["to"], "default/big");
    assert_eq!(
        last(&big_status)["placement"]["took"],
        "took a-cpu0 from default/smol (priority 0)"
    );
}

/// One that comes after the other.
fn another_model() -> Arc<InferenceModel> {
    let mut other = fixture::model();
    other.metadata.name = Some("other".into());
    other.metadata.uid = Some("uid-other".into());
    other.spec.priority = -1;
    Arc::new(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_is_published_before_a_long_pass_goes_on_and_nothing_of_the_others_is_touched() {
    let other_status = STATUS.replace("smol", "other");
    let other_written = || written_to(&other_status);
    let mut plane = Plane::new([written(), other_written(), written(), other_written()]);
    plane.observed.models.push(another_model());
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    plane.answer();
    plane.answer_for("uid-other");
    control.slice = Duration::ZERO;
    let outcome = pass(&mut control, &plane.observed).await;
    assert!(outcome.wakes_at.is_some_and(|at| at <= Instant::now()), "one is left");
    assert!(plane.agents.is_assigned("a", fixture::UID) && !plane.agents.is_assigned("a", "uid-other"));
    assert_eq!(plane.script.bodies(&format!("PATCH {other_status}")).len(), 1);
    pass(&mut control, &plane.observed).await;
    assert!(plane.agents.is_assigned("a", fixture::UID) && plane.agents.is_assigned("a", "uid-other"));
    plane.script.finished();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_cannot_be_written_does_not_keep_other_models_from_being_decided() {
    let other_status = STATUS.replace("smol", "other");
    let refused = || Step::fails(Method::PATCH, STATUS, 500, "InternalError");
    let steps = [
        written(),
        written_to(&other_status),
        refused(),
        refused(),
        written_to(&other_status),
    ];
    let mut plane = Plane::new(steps);
    plane.observed.models.push(another_model());
    let mut control = plane.control();
    pass(&mut control, &plane.observed).await;
    plane.answer();
    plane.answer_for("uid-other");
    control.slice = Duration::ZERO;
    assert_eq!(pass(&mut control, &plane.observed).await.failed_writes, 1);
    assert_eq!(pass(&mut control, &plane.observed).await.failed_writes, 1);
    assert!(plane.agents.is_assigned("a", "uid-other"));
    plane.script.finished();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_stays_where_most_devices_are_judged_at_once_until_a_person_cordons_its_device() {
    let plane = Plane::new([(); 5].map(|()| written()));
    let mut control = plane.control();
    let mut observed = plane.observed.clone();
    pass(&mut control, &observed).await;
    plane.answer();
    pass(&mut control, &observed).await;
    let shard = wire::ShardStatus {
        model_uid: fixture::UID.into(),
        epoch: 1,
        phase: ShardPhase::Serving.into(),
        endpoint: "10.0.0.1:7000".into(),
        ..Default::default()
    };
    let shards = wire::ShardReport { shards: vec![shard] };
    plane.agents.report("a", plane.attachment.session, shards);
    let hello = || Hello {
        takes_purposes: true,
        ..Hello::default()
    };
    let attach = |node| plane.agents.attach(node, hello(), Instant::now()).unwrap();
    let _others = ["b", "c", "d", "e"].map(attach);
    observed.devices = ["a", "b", "c", "d", "e"]
        .map(|node| fixture::cpu(node, 1 << 30))
        .to_vec();
    pass(&mut control, &observed).await;
    for device in &mut observed.devices[..3] {
        let status = Arc::make_mut(device).status.as_mut().unwrap();
        let healthy = status
            .conditions
            .iter_mut()
            .find(|condition| condition.type_ == "Healthy");
        healthy.unwrap().status = "False".into();
    }
    pass(&mut control, &observed).await;
    let placed = |control: &Loop<'_>| control.term.models[fixture::UID].in_force.clone().unwrap();
    assert_eq!(placed(&control).devices(), ["a-cpu0"]);
    assert_eq!(plane.context.metrics.devices_held.get(), 1);
    let degraded = |body: &serde_json::Value| {
        let conditions = body["status"]["conditions"].as_array().unwrap();
        conditions
            .iter()
            .find(|condition| condition["type"] == "Degraded")
            .unwrap()["reason"]
            .clone()
    };
    let patches = plane.script.bodies(&format!("PATCH {STATUS}"));
    assert_eq!(degraded(patches.last().unwrap()), "QuarantineLimitReached");

    Arc::make_mut(&mut observed.devices[0]).spec.cordoned = Some(true);
    pass(&mut control, &observed).await;
    let state = &control.term.models[fixture::UID];
    let next = &state.moving.proposal.as_ref().expect("it moves").next;
    assert!(
        ["d-cpu0", "e-cpu0"].contains(&next.devices()[0]),
        "{:?}",
        next.devices()
    );
    assert_eq!(plane.context.metrics.devices_held.get(), 0);
    let patches = plane.script.bodies(&format!("PATCH {STATUS}"));
    assert_eq!(degraded(patches.last().unwrap()), "AsExpected");
}
