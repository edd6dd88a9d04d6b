//! The definitions of Shardwright's kinds are deleted, and with each of them all its objects.

use localplane::stack::{Part, apply_kinds};
use serde_json::json;

use super::serving::Serving;
use super::{LIMIT, Seen, condition_of, model, strict_over_two, until, uri};

/// Part of what people are told of a placement on devices whose objects are gone.
const GONE: &str = "no DeviceGPUState tells of";

impl Serving {
    /// Waits until people are told so, or are not any more.
    async fn tells_that_devices_are_gone(&self, wanted: bool) {
        let look = || -> localplane::Result<Seen<()>> {
            let placed = condition_of(&self.here.stack.model("default", "m")?, "Placed");
            let message = placed["message"].as_str().unwrap_or_default();
            Ok(if message.contains(GONE) == wanted && placed["status"] == "True" {
                Seen::Done(())
            } else {
                Seen::Not(placed.to_string())
            })
        };
        let what = format!("that devices are gone is told: {wanted}");
        until(&what, LIMIT, || std::future::ready(look())).await.expect("told");
    }

    fn deletes_the_kind(&self, plural: &str) {
        let name = format!("{plural}.shardwright.dev");
        self.here.stack.kubectl(&["delete", "crd", &name]).expect("deleted");
    }
}

#[tokio::test]
#[ignore = "make test-long: 50 s"]
async fn where_the_kind_of_devices_is_deleted_what_serves_stays_and_the_devices_come_back_with_the_kind() {
    let mut serving = Serving::start(3).await;
    let workers = serving.workers();
    let story = serving.story().await;
    serving.deletes_the_kind("devicegpustates");
    serving.tells_that_devices_are_gone(true).await;
    let said = [
        "the watch of DeviceGPUStates broke",
        "does not know the kind",
        "charts/shardwright/crds",
    ];
    serving.operator_says(&said).await;
    serving.expect(story).await;
    serving.answers().await;

    apply_kinds(serving.here.stack.plane()).expect("applied");
    serving.here.stack.wait_for_devices(3).await.expect("devices");
    serving.tells_that_devices_are_gone(false).await;
    let after = serving.here.ready("m").await;
    assert_eq!(after["status"]["placement"]["epoch"].as_i64(), Some(serving.epoch));
    assert_eq!(serving.workers(), workers, "the same processes serve on");
    serving.answers().await;
}

#[tokio::test]
#[ignore = "make test-long: 50 s"]
async fn where_the_kind_of_models_is_deleted_they_end_in_good_order_and_are_served_again_once_asked_for_again() {
    let mut serving = Serving::start(2).await;
    let story = serving.story().await;
    serving.deletes_the_kind("inferencemodels");
    // Whoever has begun is answered to the end, if that comes within half a minute.
    let (answer, _) = story.end().await;
    serving.expect_beginning(&answer);
    if let Some(error) = &answer.error {
        assert_eq!(error["code"], "model_not_found", "{error}");
    }
    serving.has_workers_on(&[]).await;
    let request = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 4 });
    let chat = serving.here.chat();
    let (status, answer) = chat
        .post("/chat/completions", request.to_string())
        .await
        .expect("an answer");
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (404, Some("model_not_found")),
        "{answer}"
    );
    let said = [
        "the watch of InferenceModels broke",
        "does not know the kind",
        "charts/shardwright/crds",
    ];
    serving.operator_says(&said).await;

    apply_kinds(serving.here.stack.plane()).expect("applied");
    serving.here.apply("m", &strict_over_two());
    serving.here.ready("m").await;
    let story = serving.story().await;
    serving.expect(story).await;
}

#[tokio::test]
#[ignore = "make test-long: 150 s"]
async fn where_the_kind_of_links_is_deleted_models_are_placed_without_it_and_the_links_come_back_with_the_kind() {
    let mut serving = Serving::start(3).await;
    serving.here.stack.wait_for_links(3).await.expect("links");
    let workers = serving.workers();
    let story = serving.story().await;
    serving.deletes_the_kind("nodelinkstates");
    let said = [
        "the watch of NodeLinkStates broke",
        "does not know the kind",
        "charts/shardwright/crds",
    ];
    serving.operator_says(&said).await;
    serving.expect(story).await;

    // Whoever leads next has no links to list.
    serving.here.stack.kill(&Part::Operator(0)).expect("killed");
    assert_eq!(serving.here.stack.restart_ended().expect("restarted"), ["operator"]);
    let said = [
        "does not know NodeLinkStates",
        "placed without what was measured",
        "charts/shardwright/crds",
    ];
    serving.operator_says(&said).await;
    serving.here.apply("n", &json!({ "source": { "uri": uri(&model()) } }));
    serving.here.ready("n").await;
    serving.serve_on(&workers);
    let said = [
        "links are not published",
        "does not know the kind",
        "charts/shardwright/crds",
    ];
    for node in [&serving.head, &serving.tail] {
        serving.says(&Part::Agent(node.clone()), &said).await;
    }

    apply_kinds(serving.here.stack.plane()).expect("applied");
    serving.here.stack.wait_for_links(3).await.expect("links");
    let after = serving.here.ready("m").await;
    assert_eq!(after["status"]["placement"]["epoch"].as_i64(), Some(serving.epoch));
    serving.serve_on(&workers);
    serving.answers().await;
}
