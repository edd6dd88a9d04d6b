//! From `kubectl apply` to tokens: real API server, real processes, real TLS, the real model.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime};
use localplane::chat::{Answer, Chat, rendered};
use localplane::folder;
use localplane::plane::Plane;
use localplane::stack::{AgentSpec, Shape, Stack, condition_of, run};
use localplane::wait::{Seen, until};
use localplane::{assets, demo};
use resumed::{SOME_PIECES, STORY};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::JoinHandle;

#[path = "end_to_end/control_plane.rs"]
mod control_plane;
#[path = "end_to_end/crashes.rs"]
mod crashes;
#[path = "end_to_end/frozen.rs"]
mod frozen;
#[path = "end_to_end/groups.rs"]
mod groups;
#[path = "end_to_end/kinds.rs"]
mod kinds;
#[path = "end_to_end/links.rs"]
mod links;
#[path = "end_to_end/losses.rs"]
mod losses;
#[path = "end_to_end/mixed.rs"]
mod mixed;
#[path = "end_to_end/moves.rs"]
mod moves;
#[path = "end_to_end/outages.rs"]
mod outages;
#[path = "end_to_end/qualities.rs"]
mod qualities;
mod resumed;
#[path = "end_to_end/rotation.rs"]
mod rotation;
#[path = "end_to_end/serving.rs"]
mod serving;
#[path = "end_to_end/unheard.rs"]
mod unheard;
#[path = "end_to_end/upgrades.rs"]
mod upgrades;
#[path = "end_to_end/without_api_server.rs"]
mod without_api_server;

/// Each test has a whole installation to itself: two at once would only share two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const LIMIT: Duration = Duration::from_secs(60);
/// What a user waits at most after the loss of a node: three times ten seconds, as a machine of two cores that others use too proves no
/// more.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

struct Here {
    stack: Stack,
    dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// An installation with an agent for each of `backends`.
async fn installation(backends: &[&str]) -> Here {
    installed(&shape(backends)).await
}

/// Nodes with these `backends`, one operator and one gateway, all on loopback.
fn shape(backends: &[&str]) -> Shape {
    let agents = backends.iter().enumerate();
    Shape {
        agents: agents
            .map(|(index, backends)| AgentSpec::new(&format!("node-{index}"), backends))
            .collect(),
        operators: 1,
        gateways: 1,
        links: None,
    }
}

/// An installation of this shape, with all its devices ready.
async fn installed(shape: &Shape) -> Here {
    let turn = ONE_AT_A_TIME.lock().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(&dir.path().join("plane")).await.expect("a control plane");
    let mut stack = Stack::start_on(plane, shape, &mut |step| println!("{step}"))
        .await
        .expect("an installation");
    stack.wait_for_devices(shape.agents.len()).await.expect("devices");
    Here {
        stack,
        dir,
        _turn: turn,
    }
}

impl Here {
    fn chat(&self) -> Chat {
        Chat::new(&self.stack.endpoint(), self.stack.api_key(), self.stack.bundle()).expect("a client")
    }

    fn apply(&self, name: &str, spec: &Value) {
        let manifest = json!({
            "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
            "metadata": { "name": name, "namespace": "default" }, "spec": spec,
        });
        self.stack.apply(&manifest).expect("applied");
    }

    async fn ready(&mut self, name: &str) -> Value {
        self.stack
            .wait_for_condition("default", name, "Ready", "True", LIMIT)
            .await
            .expect("Ready")
    }

    /// The message of a condition that is False.
    async fn refused(&mut self, name: &str, condition: &str) -> (String, String) {
        let model = self
            .stack
            .wait_for_condition("default", name, condition, "False", LIMIT)
            .await
            .expect("a refusal");
        let found = condition_of(&model, condition);
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("message"))
    }
}

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn model() -> PathBuf {
    assets::model().expect("the model")
}

fn stages(model: &Value) -> Vec<Value> {
    model["status"]["placement"]["stages"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

/// Where the stages are, in their order.
fn nodes(model: &Value) -> Vec<String> {
    let node = |stage: &Value| stage["node"].as_str().expect("a node").to_owned();
    stages(model).iter().map(node).collect()
}

#[tokio::test]
async fn a_model_split_over_cpu_and_vulkan_streams_an_answer_that_names_paris() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("a folder");
    demo::run(
        &dir.path().join("plane"),
        &demo::Options {
            keep: false,
            prompt: None,
        },
    )
    .await
    .expect("the demo");
}

#[tokio::test]
async fn a_cpu_split_streams_the_tokens_of_llama_cpps_own_loop_on_the_unsplit_file() {
    let mut here = installation(&["cpu", "cpu", "cpu"]).await;
    here.apply(
        "split",
        &json!({ "source": { "uri": uri(&model()) }, "placement": { "minDevices": 3 } }),
    );
    let split = here.ready("split").await;
    assert_eq!(stages(&split).len(), 3, "one stage per device");
    let chat = here.chat();
    let mut answers = Vec::new();
    for prompt in PROMPTS {
        answers.push(
            chat.stream("split", prompt, ANSWER_TOKENS, &mut |_| {})
                .await
                .expect("an answer")
                .text,
        );
    }
    // Only now: two loops at once would share the cores.
    for ((prompt, answer), expected) in PROMPTS.iter().zip(&answers).zip(whole_model_answers(&PROMPTS)) {
        assert_eq!(answer, &expected, "{prompt}");
    }
}

const ANSWER_TOKENS: u32 = 48;

/// What llama.cpp says by itself, in the arithmetic of a stage: SmolLM2's chat template, greedy, up to the end of the turn.
fn whole_model_answers(prompts: &[&str]) -> Vec<String> {
    let runtime = Runtime::load(None).expect("llama.cpp");
    let config = WholeConfig::like_a_stage(Device::Cpu { threads: 2 }, 1024);
    let mut whole = WholeModel::load(&runtime, &model(), &config).expect("the model");
    let end_of_turn = whole.tokenize("<|im_end|>").expect("a token");
    let answer = |prompt: &&str| {
        let tokens = whole.tokenize(&rendered(prompt)).expect("tokens");
        let generated = whole.greedy(&tokens, ANSWER_TOKENS as usize).expect("an answer").tokens;
        let answer: Vec<i32> = generated
            .into_iter()
            .take_while(|token| !end_of_turn.contains(token))
            .collect();
        whole.detokenize(&answer)
    };
    prompts.iter().map(answer).collect()
}

const PROMPTS: [&str; 5] = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three prime numbers.",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
];

/// Beside what its stages need, a node reads the model's header and its index.
fn header_and_index_bytes(index: &Path) -> u64 {
    let text = std::fs::read(index).expect("the index");
    let parsed: Value = serde_json::from_slice(&text).expect("JSON");
    parsed["files"][0]["header_bytes"].as_u64().expect("a header") + text.len() as u64
}

/// The weight index, as people make it, and its digest.
fn index(model: &Path, to: &Path) -> String {
    let mut tool = Command::new(assets::own("kubectl-shardwright").expect("the tool"));
    let printed = run(tool.args(["-O", "json", "model", "index", "--to"]).arg(to).arg(model)).expect("an index");
    let made: Value = serde_json::from_str(&printed).expect("JSON");
    made["indexSha256"].as_str().expect("a digest").to_owned()
}

#[tokio::test]
async fn a_model_behind_a_token_and_an_own_authority_is_served_and_each_node_reads_its_share() {
    let mut here = installation(&["cpu", "cpu", "cpu"]).await;
    let index_file = here.dir.path().join("model.index.json");
    let digest = index(&model(), &index_file);
    let origin = origin::Server::start().expect("a source");
    origin.put_file("/m/model.gguf", model());
    origin.put_file("/m/model.gguf.index.json", &index_file);
    origin.demand("the-token");
    let source =
        json!({ "uri": origin.url("/m/model.gguf"), "indexSha256": digest, "secretRef": { "name": "access" } });
    here.apply("remote", &json!({ "source": source, "placement": { "minDevices": 3 } }));
    let (reason, message) = here.refused("remote", "Resolved").await;
    assert_eq!(reason, "SecretNotFound", "{message}");
    assert!(message.contains("default/access"), "{message}");

    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "access", "namespace": "default" },
        "stringData": { "token": "the-token", "ca.crt": origin.ca_pem },
    });
    here.stack.apply(&secret).expect("applied");
    let served = here.ready("remote").await;
    assert!(!served.to_string().contains("the-token"), "no object shows the token");
    let with_token = |seen: &origin::Seen| seen.authorization.as_deref() == Some("Bearer the-token");
    assert!(origin.seen().iter().all(with_token), "nobody asked without the token");

    let overhead = header_and_index_bytes(&index_file);
    let allowed = |bytes: u64| bytes + bytes / 20 + overhead;
    let mut all = overhead;
    for stage in stages(&served) {
        let (node, bytes) = (stage["node"].as_str().expect("a node"), stage["weightBytes"].as_u64());
        let kept = folder::bytes(&here.stack.state_dir(node).join("models")).expect("a folder");
        let allowed = allowed(bytes.expect("bytes"));
        println!("{node}: {kept} bytes on disk, {allowed} allowed");
        // A slice has a header of its own.
        assert!(kept <= allowed + overhead, "{node} keeps {kept} bytes of {allowed}");
        all += allowed;
    }
    println!("the source sent {} bytes, {all} allowed", origin.sent());
    assert!(origin.sent() <= all, "the source sent {} of {all}", origin.sent());

    let answer = here
        .chat()
        .stream("remote", PROMPTS[0], ANSWER_TOKENS, &mut |_| {})
        .await;
    let expected = whole_model_answers(&PROMPTS[..1]);
    assert_eq!(answer.expect("an answer").text, expected[0]);
}

const STORY_TOKENS: u32 = 400;

/// A model in two stages that says the same whatever happens meanwhile.
fn strict_over_two() -> Value {
    json!({
        "source": { "uri": uri(&model()) }, "determinism": "Strict",
        "placement": { "minDevices": 2, "maxDevices": 2 },
    })
}

/// A story under way.
struct Story {
    answer: JoinHandle<(Answer, Duration)>,
    under_way: oneshot::Receiver<()>,
}

impl Story {
    fn begin(chat: &Chat) -> Self {
        Self::of(chat, STORY_TOKENS)
    }

    /// So many tokens of it.
    fn of(chat: &Chat, tokens: u32) -> Self {
        let chat = chat.clone();
        let (sender, under_way) = oneshot::channel();
        let answer = tokio::spawn(async move {
            let (mut pieces, mut sender) = (0, Some(sender));
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            let each = &mut |_: &str| {
                if pieces > 0 {
                    longest = longest.max(last.elapsed());
                }
                (pieces, last) = (pieces + 1, Instant::now());
                if pieces == SOME_PIECES
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(());
                }
            };
            let answer = chat.stream("m", STORY, tokens, each).await.expect("a stream");
            (answer, longest)
        });
        Self { answer, under_way }
    }

    async fn under_way(&mut self) {
        (&mut self.under_way).await.expect("some pieces");
    }

    /// The whole of it, and the longest pause between two pieces.
    async fn end(self) -> (Answer, Duration) {
        self.answer.await.expect("no panic")
    }
}

#[tokio::test]
async fn a_stream_outlives_the_loss_of_a_node_and_says_what_it_would_have_said() {
    let mut here = installation(&["cpu", "cpu", "cpu"]).await;
    here.apply("m", &strict_over_two());
    let before = here.ready("m").await;
    let epoch = before["status"]["placement"]["epoch"].as_i64().expect("an epoch");
    let victim = stages(&before)[1]["node"].as_str().expect("a node").to_owned();
    let device = stages(&before)[1]["device"].as_str().expect("a device").to_owned();
    let chat = here.chat();
    let (undisturbed, _) = Story::begin(&chat).end().await;
    assert_eq!(undisturbed.error, None);

    let mut story = Story::begin(&chat);
    story.under_way().await;
    let killed = Instant::now();
    here.stack.kill_agent(&victim).await.expect("killed");
    let after = here.ready_in_epoch_above("m", epoch).await;
    let ready_after = killed.elapsed();
    assert!(ready_after <= RECOVERY_LIMIT, "Ready again after {ready_after:?}");
    let (answer, pause) = story.end().await;
    println!("the stream stood still for {pause:?}");
    assert_eq!((answer.error, answer.text), (None, undisturbed.text));
    assert!(
        stages(&after).iter().all(|stage| stage["node"] != victim.as_str()),
        "the lost node holds nothing"
    );
    here.has_told_of_the_loss_of(&device);
}

impl Here {
    async fn ready_in_epoch_above(&mut self, name: &str, epoch: i64) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let model = self.ready(name).await;
            if model["status"]["placement"]["epoch"].as_i64().unwrap_or_default() > epoch {
                return model;
            }
            assert!(
                Instant::now() < deadline,
                "no placement above epoch {epoch}: {}",
                model["status"]
            );
        }
    }
}

#[tokio::test]
async fn two_replicas_answer_and_the_loss_of_a_node_of_one_leaves_the_other_alone() {
    let mut here = installation(&["cpu", "cpu", "cpu", "cpu"]).await;
    here.apply(
        "m",
        &json!({ "source": { "uri": uri(&model()) }, "replicas": 2, "placement": { "minDevices": 2, "maxDevices": 2 } }),
    );
    here.stack
        .wait_for_condition("default", "m", "Loaded", "True", LIMIT)
        .await
        .expect("both replicas loaded");
    let before = here.ready("m").await;
    let of = |pipeline: i64| -> Vec<Value> {
        let all = stages(&before).into_iter();
        all.filter(|stage| stage["pipeline"] == pipeline).collect()
    };
    assert_eq!(
        (of(0).len(), of(1).len()),
        (2, 2),
        "{}",
        before["status"]["placement"]["stages"]
    );
    let nodes: std::collections::BTreeSet<String> = stages(&before).iter().map(|s| s["node"].to_string()).collect();
    assert_eq!(nodes.len(), 4, "no device is in two replicas");

    // The gateway gives each of two streams the replica with the fewest: one each.
    let chat = here.chat();
    let mut stories = [Story::begin(&chat), Story::begin(&chat)];
    for story in &mut stories {
        story.under_way().await;
    }
    let victim = of(1)[1]["node"].as_str().expect("a node").to_owned();
    here.stack.kill_agent(&victim).await.expect("killed");
    for story in stories {
        // One goes on undisturbed, the other on the replica that is left.
        assert_eq!(story.end().await.0.error, None);
    }

    let degraded = here
        .stack
        .wait_for_condition("default", "m", "Degraded", "True", LIMIT)
        .await
        .expect("Degraded");
    let message = condition_of(&degraded, "Degraded")["message"].to_string();
    assert!(message.contains("1 of 2 replicas"), "{message}");
    assert_eq!(condition_of(&degraded, "Ready")["status"], "True", "{message}");
    assert_eq!(
        stages(&degraded)[..2].iter().map(|s| &s["device"]).collect::<Vec<_>>(),
        of(0).iter().map(|s| &s["device"]).collect::<Vec<_>>()
    );
    let answer = chat.stream("m", PROMPTS[0], 32, &mut |_| {}).await.expect("an answer");
    assert!(answer.text.contains("Paris"), "{}", answer.text);
}

#[tokio::test]
async fn agents_measure_the_links_to_each_other_and_the_plan_counts_with_what_they_found() {
    let mut here = installation(&["cpu", "cpu", "cpu"]).await;
    let links = here.stack.wait_for_links(3).await.expect("links");
    let mut slowest_us = 0;
    for state in &links {
        let peers = state["status"]["peers"].as_array().expect("peers");
        assert_eq!(peers.len(), 2, "{state}");
        for peer in peers {
            assert_eq!(
                (&peer["state"], &peer["kind"]),
                (&json!("Measured"), &json!("Loopback")),
                "{peer}"
            );
            let figure = |field: &str| peer[field].as_i64().unwrap_or_else(|| panic!("{field} of {peer}"));
            assert!(figure("latencyP50Us") <= figure("latencyP99Us"), "{peer}");
            // Slower than this would be a fault of the measuring, not of a loopback.
            assert!(figure("sendBytesPerSecond") > 1_000_000 && figure("receiveBytesPerSecond") > 1_000_000);
            slowest_us = slowest_us.max(figure("latencyP50Us"));
        }
        assert_eq!(
            state["metadata"]["ownerReferences"][0]["name"],
            state["metadata"]["name"]
        );
    }
    here.apply(
        "m",
        &json!({ "source": { "uri": uri(&model()) }, "placement": { "minDevices": 3 } }),
    );
    let served = here.ready("m").await;
    // A hop has the latency of the way there and of the way back: a thousand microseconds each where nobody measured.
    for stage in &stages(&served)[..2] {
        let hop_us = stage["hopUs"].as_i64().expect("a hop");
        println!("hop {hop_us} µs, slowest link {slowest_us} µs");
        assert!(slowest_us >= 1000 || hop_us < 2000, "{hop_us} µs is what is assumed");
    }
}

#[tokio::test]
async fn wrong_input_is_answered_by_name_and_nothing_hangs() {
    let mut here = installation(&["cpu", "cpu"]).await;
    let source = model();

    here.apply(
        "too-large",
        &json!({ "source": { "uri": uri(&source) }, "contextLength": 65536, "parallelSequences": 64 }),
    );
    let (reason, message) = here.refused("too-large", "Placed").await;
    assert_eq!(reason, "InsufficientMemory", "{message}");
    assert!(message.contains("GiB short"), "{message}");

    let truncated = here.dir.path().join("truncated.gguf");
    let bytes = std::fs::read(&source).expect("the model");
    std::fs::write(&truncated, &bytes[..bytes.len() / 2]).expect("written");
    here.apply("truncated", &json!({ "source": { "uri": uri(&truncated) } }));
    let (reason, message) = here.refused("truncated", "Resolved").await;
    assert_eq!(reason, "Truncated", "{message}");

    here.apply(
        "wrong-digest",
        &json!({ "source": { "uri": uri(&source), "sha256": "0".repeat(64) } }),
    );
    let (reason, message) = here.refused("wrong-digest", "Resolved").await;
    assert_eq!(reason, "DigestMismatch", "{message}");

    here.apply("absent", &json!({ "source": { "uri": "file:///nowhere/absent.gguf" } }));
    let (reason, message) = here.refused("absent", "Resolved").await;
    assert_eq!(reason, "SourceNotFound", "{message}");
    assert!(message.contains("/nowhere/absent.gguf"), "{message}");

    here.apply("m", &json!({ "source": { "uri": uri(&source) }, "contextLength": 64 }));
    here.ready("m").await;
    gateway_refusals(&here).await;
}

async fn gateway_refusals(here: &Here) {
    let chat = here.chat();
    let request = |model: &str, text: &str| {
        json!({ "model": model, "messages": [{ "role": "user", "content": text }], "max_tokens": 4 }).to_string()
    };
    let (status, answer) = chat
        .post("/chat/completions", "{ not JSON".into())
        .await
        .expect("an answer");
    assert_eq!(
        (status, answer["error"]["type"].as_str()),
        (400, Some("invalid_request_error")),
        "{answer}"
    );

    let (status, answer) = chat
        .post("/chat/completions", request("m", &"word ".repeat(500)))
        .await
        .expect("an answer");
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (400, Some("context_length_exceeded")),
        "{answer}"
    );

    let (status, answer) = chat
        .post("/chat/completions", request("nobody", "hi"))
        .await
        .expect("an answer");
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (404, Some("model_not_found")),
        "{answer}"
    );

    let (status, answer) = chat
        .post("/chat/completions", request("too-large", "hi"))
        .await
        .expect("an answer");
    assert_eq!(status, 503, "{answer}");

    let stranger = Chat::new(&here.stack.endpoint(), "not-the-key", here.stack.bundle()).expect("a client");
    let (status, answer) = stranger
        .post("/chat/completions", request("m", "hi"))
        .await
        .expect("an answer");
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (401, Some("invalid_api_key")),
        "{answer}"
    );

    let (status, answer) = chat
        .post("/chat/completions", request("m", "hi"))
        .await
        .expect("an answer");
    assert_eq!(status, 200, "after all that it still serves: {answer}");
}

#[tokio::test]
async fn the_official_openai_client_works_unchanged() {
    let mut here = installation(&["cpu", "cpu"]).await;
    here.apply(
        "smollm2",
        &json!({ "source": { "uri": uri(&model()) }, "placement": { "minDevices": 2 } }),
    );
    here.ready("smollm2").await;
    let mut python = Command::new(assets::python().expect("the openai client"));
    python
        .arg(assets::workspace().join("tests/openai_client/check.py"))
        .env("BASE_URL", here.stack.endpoint())
        .env("API_KEY", here.stack.api_key())
        .env("CA_FILE", here.stack.bundle())
        .env("MODEL", "smollm2");
    let printed = run(&mut python).expect("all checks pass");
    println!("{printed}");
}
