//! Pipelines whose devices compute in different ways.

use localplane::process::kill;
use serde_json::{Value, json};

use super::resumed::{Telling, before_the_pause, rest_again, text};
use super::{Here, LIMIT, installation, model, stages, uri};

/// A software renderer takes its time.
const TOKENS: usize = 96;

impl Here {
    fn kill_the_worker_of(&self, node: &str) {
        let workers = self.stack.workers(node);
        let [worker] = workers[..] else {
            panic!("{node} has workers {workers:?}")
        };
        kill(worker);
    }
}

#[tokio::test]
async fn over_a_cpu_and_a_gpu_an_interrupted_answer_goes_on_as_from_what_was_sent() {
    let mut here = installation(&["cpu", "vulkan"]).await;
    here.apply(
        "m",
        &json!({ "source": { "uri": uri(&model()) }, "placement": { "minDevices": 2, "allowSoftwareDevices": true } }),
    );
    let placed = here.ready("m").await;
    let tail = stages(&placed)[1]["node"].as_str().expect("a node").to_owned();
    let chat = here.chat();
    let mut telling = Telling::begin(&chat, TOKENS);
    telling.under_way().await;
    here.kill_the_worker_of(&tail);
    let (answer, pieces) = telling.end().await;
    assert_eq!(answer.error, None);
    assert_eq!(answer.text, text(&pieces));
    let sent = before_the_pause(&here.stack, &pieces);
    println!("{} of {} pieces came before the pause", sent.len(), pieces.len());

    // The caches are empty again.
    here.kill_the_worker_of(&tail);
    let replay = rest_again(&chat, sent, TOKENS, LIMIT).await.expect("an answer");
    assert_eq!(replay, answer.text[text(sent).len()..]);
    let devices = |model: &Value| -> Vec<Value> { stages(model).iter().map(|stage| stage["device"].clone()).collect() };
    assert_eq!(
        devices(&here.ready("m").await),
        devices(&placed),
        "the chain that survived"
    );
}
