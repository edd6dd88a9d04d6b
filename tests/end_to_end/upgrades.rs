//! All parts are replaced by a new version, one after the other, while clients ask without a pause.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use localplane::Error;
use localplane::chat::{Answer, Chat};
use localplane::stack::Part;
use tokio::task::JoinHandle;

use super::serving::Serving;
use super::{AgentSpec, LIMIT, STORY, STORY_TOKENS, Seen, run, until};

const NODES: usize = 3;
const CLIENTS: usize = 2;
/// What OpenAI's clients repeat by themselves, where they are told when and nothing was answered yet.
const REPEATS_MAX: usize = 2;

/// Clients that ask for one story after the other.
struct Clients {
    enough: Arc<AtomicBool>,
    told: Vec<JoinHandle<Vec<Answer>>>,
}

impl Clients {
    fn begin(chat: &Chat) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let ask = |_| {
            let (chat, enough) = (chat.clone(), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut told = Vec::new();
                while !enough.load(Ordering::Relaxed) {
                    told.push(story(&chat).await);
                }
                told
            })
        };
        let told = (0..CLIENTS).map(ask).collect();
        Self { enough, told }
    }

    /// All answers, once each client has come to the end of its last one.
    async fn end(self) -> Vec<Answer> {
        self.enough.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for told in self.told {
            all.extend(told.await.expect("no request failed"));
        }
        all
    }
}

/// The story, asked for as OpenAI's clients ask.
async fn story(chat: &Chat) -> Answer {
    let mut repeats = 0;
    loop {
        match chat.stream("m", STORY, STORY_TOKENS, &mut |_| {}).await {
            Ok(answer) => return answer,
            Err(Error::Refused {
                status: status @ (429 | 503),
                retry_after_s: Some(seconds),
                text,
            }) if repeats < REPEATS_MAX => {
                println!("asks again in {seconds} s after {status}: {text}");
                repeats += 1;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            Err(error) => panic!("asked {repeats} times more: {error}"),
        }
    }
}

impl Serving {
    /// As the rollout of a DaemonSet or a Deployment does: the process is told to end, and a new Pod takes its place once it has.
    async fn replaces(&mut self, part: &Part) {
        let process = self.here.stack.id(part).expect("it runs");
        run(Command::new("kill").arg("-TERM").arg(process.to_string())).expect("told");
        self.has_ended(part).await;
        let stack = &mut self.here.stack;
        let started = match part {
            Part::Agent(node) => stack.start_agent(&AgentSpec::new(node, "cpu")).await,
            Part::Operator(replica) => stack.start_operator(*replica).await,
            Part::Gateway(replica) => stack.start_gateway(*replica).await,
        };
        started.expect("started");
        self.is_ready(part).await;
    }

    async fn has_ended(&mut self, part: &Part) {
        let mut look = || -> localplane::Result<Seen<()>> {
            Ok(if self.here.stack.ended().contains(part) {
                Seen::Done(())
            } else {
                Seen::Not("it runs".to_owned())
            })
        };
        let what = format!("{part} ends");
        until(&what, LIMIT, || std::future::ready(look())).await.expect("ended");
    }

    /// Waits until a kubelet would find the part ready.
    async fn is_ready(&self, part: &Part) {
        let look = async || -> localplane::Result<Seen<()>> {
            Ok(match self.here.stack.is_ready(part).await {
                Ok(true) => Seen::Done(()),
                Ok(false) => Seen::Not("it is not".to_owned()),
                // It has yet to open its port, or has no certificate.
                Err(error) => Seen::Not(error.to_string()),
            })
        };
        let what = format!("{part} is ready");
        until(&what, LIMIT, look).await.expect("ready");
    }
}

#[tokio::test]
#[ignore = "make test-long: 150 s"]
async fn while_every_agent_and_operator_is_replaced_in_turn_no_request_fails_and_every_answer_is_right() {
    let mut serving = Serving::start_with(NODES, 2).await;
    serving.everybody_is_heard().await;
    let parts = serving.here.stack.parts();
    let agents = parts.iter().filter(|part| matches!(part, Part::Agent(_)));
    let operators = parts.iter().filter(|part| matches!(part, Part::Operator(_)));
    let clients = Clients::begin(&serving.here.chat());
    for part in agents.chain(operators) {
        serving.replaces(part).await;
        serving.everybody_is_heard().await;
        serving.here.stack.wait_for_devices(NODES).await.expect("devices");
        serving.here.ready("m").await;
        println!("{part} is replaced");
    }
    let told = clients.end().await;
    println!("{} stories were told", told.len());
    assert!(told.len() >= CLIENTS);
    for answer in &told {
        serving.expect_answer(answer);
    }
    serving.here.ready("m").await;
}
