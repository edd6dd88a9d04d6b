//! An answer that stands still while it is told and goes on: its pieces, what was sent before the pause, and what the chain that went
//! on says from there when it is asked anew.

use std::time::Duration;

use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime};
use localplane::chat::{Answer, Chat, rendered};
use localplane::stack::{Part, Stack};
use localplane::wait::{Seen, until};
use localplane::{Result, assets};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const STORY: &str = "Write a long story about a lighthouse keeper, in great detail.";
/// Enough of the story that it is under way.
pub const SOME_PIECES: usize = 20;

/// A story that is being told by model `m`.
pub struct Telling {
    told: JoinHandle<(Answer, Vec<String>)>,
    under_way: oneshot::Receiver<()>,
}

impl Telling {
    pub fn begin(chat: &Chat, tokens: usize) -> Self {
        let chat = chat.clone();
        let tokens = u32::try_from(tokens).expect("a few");
        let (sender, under_way) = oneshot::channel();
        let told = tokio::spawn(async move {
            let (mut pieces, mut sender) = (Vec::new(), Some(sender));
            let each = &mut |piece: &str| {
                pieces.push(piece.to_owned());
                if pieces.len() == SOME_PIECES
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(());
                }
            };
            let answer = chat.stream("m", STORY, tokens, each).await.expect("a stream");
            (answer, pieces)
        });
        Self { told, under_way }
    }

    /// Waits for the first [`SOME_PIECES`].
    pub async fn under_way(&mut self) {
        (&mut self.under_way).await.expect("some pieces");
    }

    /// Waits for all of it.
    pub async fn end(self) -> (Answer, Vec<String>) {
        self.told.await.expect("no panic")
    }
}

/// What was told before the answer was interrupted for the last time, as its gateway's log says: a piece for every token.
pub fn before_the_pause<'p>(stack: &Stack, pieces: &'p [String]) -> &'p [String] {
    let log = stack.log(&Part::Gateway(0)).expect("the gateway's log");
    let interrupted = log.lines().rfind(|line| line.contains("answer interrupted"));
    let tokens = interrupted.and_then(|line| line.split_once("tokens=")?.1.split_whitespace().next()?.parse().ok());
    let tokens: usize = tokens.unwrap_or_else(|| panic!("nothing was interrupted: {log}"));
    assert!(
        (SOME_PIECES..pieces.len()).contains(&tokens),
        "{tokens} of {} tokens",
        pieces.len()
    );
    &pieces[..tokens]
}

pub fn text(pieces: &[String]) -> String {
    pieces.concat()
}

/// What model `m` says after what was sent of the story, once it answers at all. Its caches must be empty: then the whole prefix is
/// computed by the same steps as when the story went on.
pub async fn rest_again(chat: &Chat, sent: &[String], tokens: usize, limit: Duration) -> Result<String> {
    let request = json!({
        "model": "m", "prompt": token_ids(sent), "temperature": 0, "max_tokens": tokens - sent.len(),
    });
    let ask = || async {
        Ok(match chat.post("/completions", request.to_string()).await? {
            (200, answer) => Seen::Done(answer),
            (_, refusal) => Seen::Not(refusal.to_string()),
        })
    };
    let answer = until("the same chain answers again", limit, ask).await?;
    Ok(answer["choices"][0]["text"].as_str().unwrap_or_default().to_owned())
}

/// Token ids of the question and of what was answered so far.
fn token_ids(answered: &[String]) -> Vec<i32> {
    let runtime = Runtime::load(None).expect("llama.cpp");
    let config = WholeConfig::like_a_stage(Device::Cpu { threads: 1 }, 1024);
    let model = assets::model().expect("the model");
    let whole = WholeModel::load(&runtime, &model, &config).expect("the model");
    let answer = whole.tokenize(&text(answered)).expect("tokens");
    assert_eq!(answer.len(), answered.len(), "a piece for every token");
    [whole.tokenize(&rendered(STORY)).expect("tokens"), answer].concat()
}
