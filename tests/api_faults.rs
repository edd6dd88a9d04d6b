//! An API server that delays, refuses, forgets and repeats: operator and agents come to the same end, with about as many writes.
//!
//! ```text
//!  operator, agents ──▶ proxy ──▶ kube-apiserver        kubectl, stand-in kubelet ──▶ kube-apiserver
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use apiproxy::script::{Fault, Often, Rule, What};
use apiproxy::{Files, Proxy};
use localplane::assets;
use localplane::chat::Chat;
use localplane::plane::Plane;
use localplane::stack::{AgentSpec, Shape, Stack, condition_of, run};
use localplane::wait::{Seen, until};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// Each test has an installation to itself: two at once would only share two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const LIMIT: Duration = Duration::from_secs(120);
/// A status that has not changed for so long will not without a cause.
const STILL: Duration = Duration::from_secs(3);
const SEED: u64 = 11;
/// A write that was refused or whose answer was lost is made again: so many more, and as many again as a clean run makes.
const MORE_WRITES: usize = 4;

/// What the API server does, by name: the name is the model's, too.
fn faults() -> Vec<(&'static str, Vec<Rule>)> {
    let rule = |what, often, fault| vec![Rule { what, often, fault }];
    vec![
        (
            "slow",
            rule(What::Any, Often::Always, Fault::Delay(Duration::from_millis(500))),
        ),
        (
            "conflict",
            rule(What::StatusWrites, Often::EveryNth(2), Fault::Refuse(409)),
        ),
        ("busy", rule(What::Any, Often::PerMille(200), Fault::Busy(1))),
        ("failing", rule(What::Any, Often::PerMille(200), Fault::Refuse(500))),
        ("forgetful", rule(What::Writes, Often::EveryNth(2), Fault::LoseAnswer)),
        ("garbled", rule(What::Any, Often::PerMille(200), Fault::Garble)),
        ("cutoff", rule(What::Any, Often::PerMille(200), Fault::CutOff)),
        (
            "expired",
            // A watch that is refused so is begun again by a list, which is a read.
            [(What::Watches, 2), (What::Reads, 3)]
                .map(|(what, nth)| Rule {
                    what,
                    often: Often::EveryNth(nth),
                    fault: Fault::Refuse(410),
                })
                .to_vec(),
        ),
        ("compacted", rule(What::Watches, Often::Always, Fault::Expire(3))),
        ("truncated", rule(What::Watches, Often::Always, Fault::Truncate(3))),
        (
            "withheld",
            rule(What::Watches, Often::Always, Fault::Withhold(Duration::from_secs(2))),
        ),
        ("stale", rule(What::Watches, Often::Always, Fault::Replay)),
    ]
}

struct Here {
    stack: Stack,
    proxy: Proxy,
    _dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

async fn installation() -> Here {
    let turn = ONE_AT_A_TIME.lock().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("a folder");
    let mut plane = Plane::start(&dir.path().join("plane")).await.expect("a control plane");
    let certificates = plane.certificates();
    let files = Files {
        authority: &certificates.authority,
        certificate: &certificates.server,
        key: &certificates.server_key,
    };
    let proxy = Proxy::start(plane.url(), files, SEED).expect("a proxy");
    plane.reach_pods_through(&proxy.url());
    let shape = Shape {
        agents: ["node-0", "node-1"].map(|node| AgentSpec::new(node, "cpu")).to_vec(),
        operators: 1,
        gateways: 1,
        links: None,
    };
    let mut stack = Stack::start_on(plane, &shape, &mut |step| println!("{step}"))
        .await
        .expect("an installation");
    stack.wait_for_devices(2).await.expect("devices");
    Here {
        stack,
        proxy,
        _dir: dir,
        _turn: turn,
    }
}

/// How a model ended up, times and places aside.
#[derive(Debug, PartialEq)]
struct EndState {
    conditions: Vec<String>,
    stages: usize,
    layers: i64,
}

fn end_state(model: &Value) -> EndState {
    let conditions = model["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = |found: &Value| format!("{}={} {}", found["type"], found["status"], found["reason"]);
    let stages = model["status"]["placement"]["stages"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let layers = |stage: &Value| {
        stage["endLayer"].as_i64().unwrap_or_default() - stage["firstLayer"].as_i64().unwrap_or_default()
    };
    EndState {
        conditions: conditions.iter().map(condition).collect(),
        stages: stages.len(),
        layers: stages.iter().map(layers).sum(),
    }
}

impl Here {
    /// From `kubectl apply` to a status that stays, and the status writes that it took.
    async fn serve(&mut self, name: &str, source: &Path) -> (EndState, usize) {
        let manifest = json!({
            "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "source": { "uri": format!("file://{}", source.display()) },
                "placement": { "minDevices": 2 },
            },
        });
        self.stack.apply(&manifest).expect("applied");
        let ready = self.stack.wait_for_condition("default", name, "Ready", "True", LIMIT);
        ready.await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let model = self.settled(name).await;
        let seen = self.proxy.seen();
        let writes = seen
            .iter()
            .filter(|seen| seen.wrote_status("inferencemodels", name))
            .count();
        let faulted = seen.iter().filter(|seen| seen.faulted).count();
        println!(
            "{name}: {writes} status writes; {faulted} of {} requests met a fault",
            seen.len()
        );
        let chat = Chat::new(&self.stack.endpoint(), self.stack.api_key(), self.stack.bundle()).expect("a client");
        let answer = chat
            .stream(name, "What is the capital of France?", 24, &mut |_| {})
            .await;
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(answer.text.contains("Paris"), "{name}: {answer:?}");
        (end_state(&model), writes)
    }

    async fn settled(&self, name: &str) -> Value {
        let mut last = (String::new(), std::time::Instant::now());
        let look = || -> localplane::Result<Seen<Value>> {
            let model = self.stack.model("default", name)?;
            let version = model["metadata"]["resourceVersion"].to_string();
            if version != last.0 {
                last = (version, std::time::Instant::now());
            }
            let still = last.1.elapsed() >= STILL && condition_of(&model, "Ready")["status"] == "True";
            Ok(if still {
                Seen::Done(model)
            } else {
                Seen::Not(last.0.clone())
            })
        };
        let mut look = look;
        until(&format!("the status of {name} stays"), LIMIT, || {
            std::future::ready(look())
        })
        .await
        .expect("a status that stays")
    }

    async fn remove(&mut self, name: &str) {
        let mut kubectl = self.stack.plane().kubectl().expect("kubectl");
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        run(kubectl.args(["delete", "inferencemodel", name, &limit])).expect("deleted");
    }
}

#[tokio::test]
async fn with_every_fault_of_the_api_server_a_model_ends_up_as_without() {
    let mut here = installation().await;
    let source = assets::model().expect("the model");
    here.proxy.take_seen();
    let (clean, clean_writes) = here.serve("clean", &source).await;
    here.remove("clean").await;
    for (name, rules) in faults() {
        here.proxy.take_seen();
        here.proxy.follow(rules);
        let (found, writes) = here.serve(name, &source).await;
        assert_eq!(found, clean, "{name}");
        let allowed = 2 * clean_writes + MORE_WRITES;
        assert!(
            writes <= allowed,
            "{name}: {writes} status writes, {clean_writes} without a fault"
        );
        let met = here.proxy.seen().iter().filter(|seen| seen.faulted).count();
        assert!(met > 0, "{name}: nothing met the fault");
        here.remove(name).await;
        here.proxy.follow(Vec::new());
    }
}

/// What the API server asks for: longer than any call waits.
const PAUSE: Duration = Duration::from_secs(8);
/// Requests that were under way when the first of them was refused have come by then.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// When each process of ours asked, and what it asked about leases (true) apart from the rest: both have pauses of their own.
type Asked = BTreeMap<(String, bool), Vec<Instant>>;

fn by_client(seen: Vec<apiproxy::Seen>) -> Asked {
    let mut asked = Asked::new();
    for seen in seen {
        let is_lease = seen.path.contains("/coordination.k8s.io/");
        asked.entry((seen.client, is_lease)).or_default().push(seen.at);
    }
    asked.values_mut().for_each(|times| times.sort_unstable());
    asked
}

#[tokio::test]
async fn a_pause_that_the_api_server_asks_for_is_kept_by_operator_and_agents_who_all_go_on_afterwards() {
    let mut here = installation().await;
    here.proxy.take_seen();
    here.proxy.follow(vec![Rule {
        what: What::Any,
        often: Often::Always,
        fault: Fault::Busy(PAUSE.as_secs()),
    }]);
    let look = || -> localplane::Result<Seen<Asked>> {
        let asked = by_client(here.proxy.seen());
        let asked_again = |times: &&Vec<Instant>| times.iter().any(|at| *at >= times[0] + PAUSE);
        let again = asked.values().filter(asked_again).count();
        let is = |program: &str| asked.keys().filter(|(client, _)| client.starts_with(program)).count();
        let all = is("shardwright-operator") >= 1 && is("shardwright-agent") >= 2;
        Ok(if all && again == asked.len() {
            Seen::Done(asked)
        } else {
            Seen::Not(format!("{again} of {asked:?} asked again"))
        })
    };
    let asked = until("everybody asks again", LIMIT, || std::future::ready(look()));
    for (who, times) in asked.await.expect("asked again") {
        let within = |at: &&Instant| (UNDER_WAY..PAUSE).contains(&(**at - times[0]));
        let early = times.iter().filter(within).count();
        println!("{who:?}: {} requests", times.len());
        assert_eq!(early, 0, "{who:?} asked {early} times within the pause: {times:?}");
    }
    here.proxy.follow(Vec::new());
    let source = assets::model().expect("the model");
    here.serve("afterwards", &source).await;
}
