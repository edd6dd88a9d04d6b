//! Statuses in the form in which earlier versions wrote them: what serves goes on, and what is not known any more, or not yet, does no
//! harm.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use identity::PlacementSigner;

use super::*;

/// It signed the placements in the examples, and nothing else.
const KEY: &str = include_str!("earlier/key.txt");
/// Of the first version: one pipeline without a number, no epoch of its own, nothing that was learned.
const ONE_PIPELINE: &str = include_str!("earlier/one_pipeline.json");
/// Since models may have several pipelines, predictions are compared, and losses prepared for.
const SEVERAL_PIPELINES: &str = include_str!("earlier/several_pipelines.json");
/// In both examples.
const EPOCH: u64 = 7;

/// A leader that finds a model as an example has it, and its two stages serving on their nodes.
struct Upgraded {
    plane: Plane,
    status: InferenceModelStatus,
    nodes: [Attachment; 2],
}

impl Upgraded {
    fn over(example: &serde_json::Value) -> Self {
        let model: InferenceModel = serde_json::from_value(example.clone()).unwrap();
        let mut plane = Plane::new([written(), written()]);
        let key = BASE64_STANDARD.decode(KEY.trim()).unwrap();
        plane.context.keys.signer = Arc::new(PlacementSigner::from_pkcs8(&key).unwrap());
        plane.observed.devices = vec![fixture::cpu("b", 1 << 30), fixture::cpu("c", 1 << 30)];
        let attach = |(stage, node): (u32, &str)| {
            let hello = Hello {
                takes_purposes: true,
                ..Hello::default()
            };
            let attachment = plane.agents.attach(node, hello, Instant::now()).unwrap();
            let shard = wire::ShardStatus {
                model_uid: fixture::UID.into(),
                epoch: EPOCH,
                stage,
                phase: ShardPhase::Serving.into(),
                endpoint: format!("{node}:7000"),
                ..Default::default()
            };
            let shards = wire::ShardReport { shards: vec![shard] };
            plane.agents.report(node, attachment.session, shards);
            attachment
        };
        let nodes = [(0, "b"), (1, "c")].map(attach);
        let status = model.status.clone().unwrap();
        plane.observed.models = vec![Arc::new(model)];
        Self { plane, status, nodes }
    }

    /// One pass over it; what it has the operator write, and the epoch of whatever would come next.
    async fn pass(&self) -> (serde_json::Value, u64) {
        let mut control = self.plane.control();
        pass(&mut control, &self.plane.observed).await;
        let state = &control.term.models[fixture::UID];
        let in_force = state.in_force.as_ref().expect("it is taken over");
        assert_eq!(in_force.placement.epoch, EPOCH);
        assert_eq!(in_force.nodes().collect::<Vec<_>>(), ["b", "c"]);
        let next = state.next_epoch(fixture::UID, &BTreeMap::new(), ["b", "c"]);
        let written = self.plane.script.bodies(&format!("PATCH {STATUS}"));
        (written.last().expect("it is told anew")["status"].clone(), next)
    }

    /// What both nodes are told to hold, and gateways to ask, is what was signed before.
    fn assert_serves_on(&self) {
        let signed = &self.status.placement.as_ref().unwrap().envelope;
        for node in &self.nodes {
            let told = node.assignments.borrow().clone().expect("it is told");
            let held: Vec<String> = told
                .assignments
                .iter()
                .map(|assignment| encode(assignment.envelope.as_ref().unwrap()))
                .collect();
            assert_eq!(held, std::slice::from_ref(signed));
        }
        let routes = self.plane.routes.watch().borrow().clone().expect("gateways are told");
        assert!(routes.models[0].ready);
        assert_eq!(routes.models[0].head_endpoints, ["b:7000"]);
    }
}

fn example(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

fn condition(status: &serde_json::Value, kind: &str) -> (String, String) {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind);
    let found = found.expect("it is said");
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_version_placed_serves_on_until_its_source_is_known_and_is_placed_anew_above_it() {
    let upgraded = Upgraded::over(&example(ONE_PIPELINE));
    let (written, next) = upgraded.pass().await;
    upgraded.assert_serves_on();
    assert_eq!(
        (written["placement"]["epoch"].as_u64(), next),
        (Some(EPOCH), EPOCH + 1),
        "{written:#}"
    );
    // It kept no prefixes, and computed prompts in smaller steps.
    let waits = ("Unknown".to_owned(), "NotResolved".to_owned());
    assert_eq!(condition(&written, "Placed"), waits, "{written:#}");
    assert_eq!(written["stagesReady"], "2/2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_version_placed_and_learned_is_taken_over_as_it_is() {
    let upgraded = Upgraded::over(&example(SEVERAL_PIPELINES));
    let (written, _) = upgraded.pass().await;
    upgraded.assert_serves_on();
    let before = serde_json::to_value(&upgraded.status).unwrap();
    for field in ["envelope", "verdict", "gapPercent", "runnerUp"] {
        assert_eq!(written["placement"][field], before["placement"][field], "{field}");
    }
    for field in ["model", "learned", "learnedPace", "replicasReady", "endpoint"] {
        assert_eq!(written[field], before[field], "{field}");
    }
    let serves = ("True".to_owned(), "Serving".to_owned());
    assert_eq!(condition(&written, "Ready"), serves, "{written:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_version_would_say_beside_is_passed_over() {
    let mut later = example(SEVERAL_PIPELINES);
    later["status"]["later"] = json!({ "a": 1 });
    later["status"]["placement"]["later"] = json!(["a"]);
    later["status"]["placement"]["stages"][0]["later"] = json!(true);
    let upgraded = Upgraded::over(&later);
    let (written, _) = upgraded.pass().await;
    upgraded.assert_serves_on();
    assert_eq!(condition(&written, "Ready").0, "True", "{written:#}");
}
