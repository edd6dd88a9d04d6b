//! A card that is lost, or that another pod is given, is left within seconds: real API server, real agents, a device that
//! really held the layers, and an answer before and after. A stream that is under way goes on.
//!
//! What agents need in their environment holds for a process and all that it starts, so each test's body runs in a
//! process of its own: this program again.

mod card;
mod kubelet;
#[path = "../resumed.rs"]
mod resumed;
mod stream;

use card::{ADDRESS, Card};
use kubelet::Kubelet;
use localplane::chat::Chat;
use localplane::stack::{AgentSpec, Stack, condition_of, run};
use localplane::wait::{Seen, until};
use localplane::{Result, assets};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Says to a process that it is the inner one, and where its folders are.
const INNER: &str = "SHARDWRIGHT_TEST_INNER";
/// Two installations at once would only share two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const LIMIT: Duration = Duration::from_secs(90);
/// What a user waits at most.
const BAR: Duration = Duration::from_secs(10);
/// Three times that: a machine of two cores that others use too proves no more.
const MOVE_LIMIT: Duration = Duration::from_secs(30);
const MODEL: &str = "m";

#[test]
fn layers_of_a_card_that_its_driver_gives_up_are_elsewhere_within_seconds_and_the_model_answers() {
    on_a_node_with_a_card(
        "layers_of_a_card_that_its_driver_gives_up_are_elsewhere_within_seconds_and_the_model_answers",
        // The renderer behind the card is well, so the card passes its next verification and is watched.
        |here| here.leaves_its_device_after(Card::lose, ("Healthy", &["DeviceLost", "Recovering"], "DeviceLost")),
    );
}

#[test]
fn layers_of_a_card_that_another_pod_is_given_are_elsewhere_within_seconds_and_the_model_answers() {
    on_a_node_with_a_card(
        "layers_of_a_card_that_another_pod_is_given_are_elsewhere_within_seconds_and_the_model_answers",
        |here| {
            let kubelet = here.kubelet.clone();
            let fault = move |_: &Card| kubelet.give("training-0", "amd.com/gpu", ADDRESS);
            here.leaves_its_device_after(fault, ("Ready", &["Foreign"], "DevicePreempted"))
        },
    );
}

/// The condition that is False then, its reasons, and the event's.
type Told = (&'static str, &'static [&'static str], &'static str);

/// An installation whose model is on the card of one node, with another node beside it.
struct Here {
    stack: Stack,
    card: Card,
    kubelet: Kubelet,
    epoch: i64,
}

fn on_a_node_with_a_card<F: Future<Output = ()>>(name: &str, scenario: impl FnOnce(Here) -> F) {
    if let Some(folder) = std::env::var_os(INNER) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let here = runtime.block_on(Box::pin(Here::start(Path::new(&folder))));
        return runtime.block_on(Box::pin(scenario(here)));
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let (_, environment) = Card::make(folder.path());
    let status = Command::new(std::env::current_exe().expect("a test has a file"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INNER, folder.path())
        .envs(environment)
        .status()
        .expect("a test can be started");
    assert!(status.success(), "{name}: {status}; its words are above");
}

impl Here {
    async fn start(folder: &Path) -> Self {
        // Another crate of the same process may have chosen it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let card = Card::at(folder);
        let kubelet = Kubelet::start(&card.socket());
        let agents = [AgentSpec::new("with-card", "vulkan,rocm")];
        let mut stack = Stack::start(&folder.join("plane"), &agents, &mut |step| println!("{step}"))
            .await
            .expect("an installation");
        if let Err(error) = stack.wait_for_devices(1).await {
            let mut kubectl = stack.plane().kubectl().expect("kubectl");
            let devices = run(kubectl.args(["get", "devicegpustates", "-o", "yaml"])).unwrap_or_default();
            let log = std::fs::read_to_string(stack.plane().dir().join("agent-with-card.log")).unwrap_or_default();
            panic!("{error}\n{devices}\n{log}");
        }
        let before = model_on_the_card(&mut stack).await;
        let epoch = epoch(&before);
        stack
            .start_agent(&AgentSpec::new("spare", "cpu"))
            .await
            .expect("a second node");
        stack.wait_for_devices(2).await.expect("a spare device");
        let model = stack.model("default", MODEL).expect("the model");
        assert_eq!(nodes(&model), ["with-card"], "nothing has happened yet");
        Self {
            stack,
            card,
            kubelet,
            epoch,
        }
    }

    /// Whatever is done to the card: its layers are elsewhere soon.
    async fn leaves_its_device_after(mut self, fault: impl FnOnce(&Card), told: Told) {
        let start = Instant::now();
        fault(&self.card);
        let after = moved(&mut self.stack, self.epoch).await.expect("a placement elsewhere");
        let published = start.elapsed();
        assert_eq!(nodes(&after), ["spare"]);
        let ready = self
            .stack
            .wait_for_condition("default", MODEL, "Ready", "True", MOVE_LIMIT);
        ready.await.expect("Ready again");
        answers(&self.stack).await;
        let answered = start.elapsed();
        println!(
            "{}: the layers had another place after {:.1} s and the model answered after {:.1} s; the bar is {} s",
            told.2,
            published.as_secs_f64(),
            answered.as_secs_f64(),
            BAR.as_secs(),
        );
        assert!(answered <= MOVE_LIMIT, "it took {answered:?}");
        people_are_told(&self.stack, told).await.expect("what people are told");
        self.stack.stop().await.expect("an orderly end");
    }

    fn chat(&self) -> Chat {
        chat(&self.stack)
    }
}

async fn model_on_the_card(stack: &mut Stack) -> Value {
    let source = format!("file://{}", assets::model().expect("the model").display());
    let manifest = json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
        "metadata": { "name": MODEL, "namespace": "default" },
        "spec": { "source": { "uri": source }, "placement": { "maxDevices": 1 } },
    });
    stack.apply(&manifest).expect("applied");
    let model = stack
        .wait_for_condition("default", MODEL, "Ready", "True", LIMIT)
        .await
        .expect("Ready");
    answers(stack).await;
    model
}

fn chat(stack: &Stack) -> Chat {
    Chat::new(&stack.endpoint(), stack.api_key(), stack.bundle()).expect("a client")
}

async fn answers(stack: &Stack) {
    let answer = chat(stack)
        .stream(MODEL, "What is the capital of France?", 24, &mut |_| {})
        .await;
    let answer = answer.expect("an answer");
    assert!(answer.text.contains("Paris"), "{answer:?}");
}

/// A placement of a higher epoch in which the node with the card has no part.
async fn moved(stack: &mut Stack, before: i64) -> Result<Value> {
    let mut look = || -> Result<Seen<Value>> {
        stack.check()?;
        let model = stack.model("default", MODEL)?;
        let elsewhere = epoch(&model) > before && !nodes(&model).iter().any(|node| node == "with-card");
        Ok(if elsewhere {
            Seen::Done(model)
        } else {
            Seen::Not(model["status"].to_string())
        })
    };
    until("the layers are placed elsewhere", MOVE_LIMIT, || {
        std::future::ready(look())
    })
    .await
}

/// The card's object and its event on the API server.
async fn people_are_told(stack: &Stack, (condition, reasons, event): Told) -> Result<()> {
    let list = |kind: &str| -> Result<Vec<Value>> {
        let text = run(stack.plane().kubectl()?.args(["get", kind, "-A", "-o", "json"]))?;
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let look = || -> Result<Seen<()>> {
        let devices = list("devicegpustates")?;
        let found: Vec<Value> = devices
            .iter()
            .filter(|device| device["status"]["node"] == "with-card")
            .map(|device| condition_of(device, condition))
            .collect();
        let events = list("events.events.k8s.io")?;
        let events: Vec<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
        let reason = |found: &Value| found["reason"].as_str().is_some_and(|reason| reasons.contains(&reason));
        let condition_is = found.iter().any(|found| found["status"] == "False" && reason(found));
        Ok(if condition_is && events.contains(&event) {
            Seen::Done(())
        } else {
            Seen::Not(format!("conditions {found:?}, events {events:?}"))
        })
    };
    until("people are told", LIMIT, || std::future::ready(look())).await
}

fn epoch(model: &Value) -> i64 {
    model["status"]["placement"]["epoch"].as_i64().unwrap_or_default()
}

fn nodes(model: &Value) -> Vec<String> {
    let stages = model["status"]["placement"]["stages"].as_array().cloned();
    let node = |stage: &Value| stage["node"].as_str().unwrap_or_default().to_owned();
    stages.unwrap_or_default().iter().map(node).collect()
}
