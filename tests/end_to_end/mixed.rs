//! Pipelines whose devices compute in different ways.

use std::time::Instant;

use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime};
use localplane::chat::{Answer, rendered};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Here, LIMIT, SOME_PIECES, STORY, Seen, installation, model, stages, until, uri};

/// The pieces of an answer, each with the moment at which it came.
type Pieces = Vec<(Instant, String)>;

/// A software renderer takes its time.
const TOKENS: u32 = 96;
/// Pieces that may be on their way to the client when the tail is killed.
const ON_THEIR_WAY: usize = 5;

/// What came before the pause: that of the longest gap of those after [`SOME_PIECES`].
fn before_the_pause(pieces: &Pieces) -> &[(Instant, String)] {
    let gap = |index: &usize| pieces[*index].0 - pieces[index - 1].0;
    let resumed_at = (SOME_PIECES..=SOME_PIECES + ON_THEIR_WAY).max_by_key(gap);
    &pieces[..resumed_at.expect("some")]
}

fn text(pieces: &[(Instant, String)]) -> String {
    pieces.iter().map(|(_, piece)| piece.as_str()).collect()
}

/// Token ids of the question of a chat and of what was answered so far.
fn token_ids(question: &str, answered: &[(Instant, String)]) -> Vec<i32> {
    let runtime = Runtime::load(None).expect("llama.cpp");
    let config = WholeConfig::like_a_stage(Device::Cpu { threads: 1 }, 1024);
    let whole = WholeModel::load(&runtime, &model(), &config).expect("the model");
    let answer = whole.tokenize(&text(answered)).expect("tokens");
    assert_eq!(answer.len(), answered.len(), "a piece for every token");
    [whole.tokenize(&rendered(question)).expect("tokens"), answer].concat()
}

impl Here {
    fn kill_the_worker_of(&self, node: &str) {
        let workers = self.stack.workers(node);
        let [worker] = workers[..] else {
            panic!("{node} has workers {workers:?}")
        };
        let worker = Pid::from_raw(worker.cast_signed()).expect("a process");
        kill_process(worker, Signal::KILL).expect("killed");
    }

    /// The story, its tail killed while it is told.
    async fn interrupted_story(&self, tail: &str) -> (Answer, Pieces) {
        let chat = self.chat();
        let (sender, under_way) = oneshot::channel();
        let told = tokio::spawn(async move {
            let (mut pieces, mut sender) = (Pieces::new(), Some(sender));
            let each = &mut |piece: &str| {
                pieces.push((Instant::now(), piece.to_owned()));
                if pieces.len() == SOME_PIECES
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(());
                }
            };
            let answer = chat.stream("m", STORY, TOKENS, each).await.expect("a stream");
            (answer, pieces)
        });
        under_way.await.expect("some pieces");
        self.kill_the_worker_of(tail);
        told.await.expect("no panic")
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
    let (answer, pieces) = here.interrupted_story(&tail).await;
    assert_eq!(answer.error, None);
    assert_eq!(answer.text, text(&pieces));
    let sent = before_the_pause(&pieces);
    println!("{} of {} pieces came before the pause", sent.len(), pieces.len());

    // The caches are empty again, and the whole prefix is computed by the same steps as when the answer went on.
    here.kill_the_worker_of(&tail);
    let again = json!({
        "model": "m", "prompt": token_ids(STORY, sent), "temperature": 0,
        "max_tokens": TOKENS as usize - sent.len(),
    });
    let chat = here.chat();
    let ask = || async {
        Ok(match chat.post("/completions", again.to_string()).await? {
            (200, answer) => Seen::Done(answer),
            (_, refusal) => Seen::Not(refusal.to_string()),
        })
    };
    let replay = until("the same chain answers again", LIMIT, ask)
        .await
        .expect("an answer");
    let rest = |whole: &str| whole[text(sent).len()..].to_owned();
    assert_eq!(replay["choices"][0]["text"], Value::String(rest(&answer.text)));
    let devices = |model: &Value| -> Vec<Value> { stages(model).iter().map(|stage| stage["device"].clone()).collect() };
    assert_eq!(
        devices(&here.ready("m").await),
        devices(&placed),
        "the chain that survived"
    );
}
