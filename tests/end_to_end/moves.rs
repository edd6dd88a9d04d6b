//! A model that serves moves without its clients' noticing.

use super::{Here, Instant, LIMIT, condition_of, installation, json, model, run, stages, uri};

const STORY: &str = "Write a long story about a lighthouse keeper, in great detail.";
const STORY_TOKENS: u32 = 400;

impl Here {
    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut kubectl = self.stack.plane().kubectl().expect("kubectl");
        run(kubectl.args(arguments)).expect("kubectl")
    }
}

#[tokio::test]
async fn a_model_on_a_cordoned_node_is_loaded_elsewhere_first_and_its_stream_goes_on() {
    let mut here = installation(&["cpu", "cpu", "cpu"]).await;
    here.apply(
        "m",
        &json!({
            "source": { "uri": uri(&model()) }, "determinism": "Strict",
            "placement": { "minDevices": 2, "maxDevices": 2 },
        }),
    );
    let before = here.ready("m").await;
    let epoch = before["status"]["placement"]["epoch"].as_i64().expect("an epoch");
    let leaving = stages(&before)[1]["node"].as_str().expect("a node").to_owned();
    let chat = here.chat();
    let undisturbed = chat
        .stream("m", STORY, STORY_TOKENS, &mut |_| {})
        .await
        .expect("an answer");
    let prepared = here
        .stack
        .wait_for_condition("default", "m", "RecoveryReady", "True", LIMIT)
        .await
        .expect("the loss of a node is prepared for");
    println!("{}", condition_of(&prepared, "RecoveryReady")["message"]);

    let (some_tokens, seen) = tokio::sync::oneshot::channel();
    let stream = tokio::spawn({
        let chat = chat.clone();
        async move {
            let (mut pieces, mut some_tokens) = (0, Some(some_tokens));
            let (mut last, mut longest) = (Instant::now(), std::time::Duration::ZERO);
            let each = &mut |_: &str| {
                (pieces, longest) = (pieces + 1, longest.max(last.elapsed()));
                last = Instant::now();
                if pieces == 20
                    && let Some(sender) = some_tokens.take()
                {
                    let _ = sender.send(());
                }
            };
            let answer = chat.stream("m", STORY, STORY_TOKENS, each).await;
            (answer, longest)
        }
    });
    seen.await.expect("some tokens");
    here.kubectl(&["cordon", &leaving]);
    let (answer, longest) = stream.await.expect("no panic");
    let answer = answer.expect("a stream");
    assert_eq!((answer.error, answer.text), (None, undisturbed.text));
    println!("the longest pause of the stream took {longest:?}");
    let after = here.ready_in_epoch_above("m", epoch).await;
    assert!(
        stages(&after).iter().all(|stage| stage["node"] != leaving.as_str()),
        "the cordoned node holds nothing"
    );
    here.kubectl(&["uncordon", &leaving]);
}
