//! An agent dies, or is refused, at every one of its requests to the API server: what it tells there of its devices, its links and itself
//! is in the end as without.
//!
//! The API server is [in memory](apimodel), under a clock that does not wait. What the agent holds for the operator is not in here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::devices::{DeviceState, Devices};
use agent::discovery::{lease, publish};
use agent::groups;
use agent::kubernetes::Way;
use agent::links::history::Figures;
use agent::links::{self, SeenLink, Standing as LinkStanding};
use agent::rates::ByDevice;
use agent::shard::drive::View;
use apimodel::{ApiServer, Connection, Failure, Happened, Key, Moment, Seen, Verb, Verdict, kinds};
use crds::LinkKind;
use device::health::{Action, Fault as DeviceFault, Standing};
use device::{Backend, GpuDevice, Kind, Verification};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

const NODE: &str = "node-a";
const POD: &str = "shardwright-agent-node-a";
const NAMESPACE: &str = "shardwright-system";
/// From one thing that happens to the next: longer than any pause between two attempts of the agent.
const STEP: Duration = Duration::from_secs(100);
/// Of a story in which everything that happens is told.
const WHOLE: Duration = Duration::from_secs(500);
/// How long a container that ended takes to run again.
const RESTART: Duration = Duration::from_secs(1);
/// Between two attempts is a pause that grows to half a minute, for each of what the agent keeps: devices, links and a Lease.
const ATTEMPTS_PER_MINUTE_MAX: usize = 12;
/// Runs that differ and are told: the others are alike.
const TOLD: usize = 5;
/// What differs from run to run: when it was, and as how many-th.
const OF_THE_RUN: [&str; 6] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "lastTransitionTime",
    "measuredAt",
    "renewTime",
];

/// What happens at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The agent dies before it is carried out, or before it hears the answer, and is started again.
    Crash(Moment),
    /// It is refused with this, and not carried out.
    Refused(u16),
    /// It is carried out and answered with this.
    Lost(u16),
    /// Its connection breaks before it is carried out, or after.
    Broken(Moment),
}

const FAULTS: [Fault; 8] = [
    Fault::Crash(Moment::Before),
    Fault::Crash(Moment::After),
    Fault::Refused(409),
    Fault::Refused(429),
    Fault::Refused(500),
    Fault::Lost(504),
    Fault::Broken(Moment::Before),
    Fault::Broken(Moment::After),
];

/// What a rule of a role gives: a verb on a kind, or on a part of its objects.
type Right = (Verb, &'static str, String);

fn right(seen: &Seen<'_>) -> Right {
    let request = seen.request;
    (request.verb, request.kind.plural, request.subresource.clone())
}

/// A node: its cards and links, of which each life of its agent is told.
struct Node {
    api: ApiServer,
    devices: watch::Sender<Arc<Devices>>,
    links: watch::Sender<Arc<links::Seen>>,
    view: watch::Sender<Arc<View>>,
    rates: watch::Sender<Arc<ByDevice>>,
    groups: watch::Sender<groups::Told>,
    attached: watch::Sender<bool>,
}

fn card(index: u32) -> GpuDevice {
    GpuDevice {
        vendor: "nvidia".into(),
        model: "NVIDIA H100".into(),
        uuid: Some(format!("GPU-{index}")),
        memory_total_bytes: 80 << 30,
        memory_free_bytes: 79 << 30,
        memory_usable_bytes: 78 << 30,
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cuda, index, Kind::Discrete)
    }
}

fn fallen(index: u32) -> DeviceState {
    let fault = DeviceFault::new("FellOffBus", "the GPU has fallen off the bus", Action::RebootNode);
    DeviceState::new(card(index), Standing::Failed { fault })
}

/// Links to two nodes, of which the second stands so.
fn links_with(second: LinkStanding) -> links::Seen {
    let link = |standing| SeenLink {
        standing,
        kind: LinkKind::Ethernet,
        figures: Some(Figures {
            latency_p50_us: 100,
            latency_p99_us: 200,
            send_bytes_per_second: 1_000_000_000,
            receive_bytes_per_second: 1_000_000_000,
            samples: 9,
            unix_s: 1_767_225_600,
        }),
        message: None,
    };
    let links = [("node-b", LinkStanding::Measured), ("node-c", second)];
    links::Seen {
        told: true,
        links: links.map(|(node, standing)| (node.to_owned(), link(standing))).into(),
        ..links::Seen::default()
    }
}

impl Node {
    fn new() -> Self {
        let api = ApiServer::new();
        let nodes = kinds::find("", "v1", "nodes").expect("nodes are served");
        let made = api.create(
            nodes,
            "",
            json!({ "metadata": { "name": NODE } }),
            &api.caller("cluster"),
        );
        made.expect("it is new");
        Self {
            api,
            devices: watch::Sender::new(Arc::new(Devices::of([card(0), card(1)]))),
            links: watch::Sender::new(Arc::new(links_with(LinkStanding::Measured))),
            view: watch::Sender::new(Arc::default()),
            rates: watch::Sender::new(Arc::default()),
            groups: watch::Sender::new(None),
            attached: watch::Sender::new(true),
        }
    }

    /// One life of the agent: all that it asks of the API server, and its way there.
    fn begin(&self) -> (Connection, JoinSet<()>) {
        let (client, connection) = self.api.connect("agent");
        let way = Way::Through(client);
        let devices = publish::Publisher {
            way: way.clone(),
            node: NODE.to_owned(),
            pod: POD.to_owned(),
            devices: self.devices.subscribe(),
            view: self.view.subscribe(),
            rates: self.rates.subscribe(),
        };
        let links = links::publish::Publisher {
            way: way.clone(),
            node: NODE.to_owned(),
            pod: POD.to_owned(),
            seen: self.links.subscribe(),
            devices: self.devices.subscribe(),
            groups: self.groups.subscribe(),
            gate: Arc::default(),
        };
        let mut life = JoinSet::new();
        life.spawn(Box::pin(devices.run()));
        life.spawn(Box::pin(links.run()));
        let attached = self.attached.subscribe();
        life.spawn(Box::pin(async move {
            lease::keep(&way, NODE, (POD, NAMESPACE), attached).await
        }));
        (connection, life)
    }

    /// One life after the other, as a kubelet sees to it, for so long.
    async fn live(&self, time: Duration) {
        let lives = async {
            loop {
                let (connection, _life) = self.begin();
                connection.killed().await;
                tokio::time::sleep(RESTART).await;
            }
        };
        let _ = tokio::time::timeout(time, lives).await;
    }

    /// A card is lost for good, the other one fails, the operator does not hear the agent for a while, and a link is lost, in so much time.
    async fn story(&self, time: Duration) {
        let happens = async {
            tokio::time::sleep(STEP).await;
            self.devices.send_replace(Arc::new(Devices::of([card(0)])));
            tokio::time::sleep(STEP).await;
            self.devices.send_replace(Arc::new(Devices {
                states: vec![fallen(0)],
                ..Devices::of([])
            }));
            self.attached.send_replace(false);
            tokio::time::sleep(STEP).await;
            self.attached.send_replace(true);
            self.links.send_replace(Arc::new(links_with(LinkStanding::Unreachable)));
        };
        tokio::join!(self.live(time), happens);
    }

    /// Has the agent's requests met like this: with which number, in which moment.
    fn meet(&self, verdict: impl Fn(&Seen<'_>, Moment) -> Verdict + Send + Sync + 'static) {
        self.api.set_hook(Arc::new(verdict));
    }

    fn end(&self) -> End {
        self.api.with(|store| {
            let state = |key: &Key| !matches!(key.kind().plural, "events" | "nodes");
            let mut end = End::default();
            for (key, object) in store.all().filter(|(key, _)| state(key)) {
                end.objects.insert(key.to_string(), timeless(object));
            }
            for change in store.log().iter().filter(|change| state(&change.key)) {
                let count = end.made_and_deleted.entry(change.key.to_string()).or_default();
                match change.happened {
                    Happened::Added => count.0 += 1,
                    Happened::Deleted => count.1 += 1,
                    Happened::Modified => {}
                }
            }
            end
        })
    }
}

/// What the API server has in the end. Events tell what happened: an agent that dies may tell of it twice, or not at all.
#[derive(Debug, Default, PartialEq)]
struct End {
    objects: BTreeMap<String, Value>,
    made_and_deleted: BTreeMap<String, (usize, usize)>,
}

fn timeless(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !OF_THE_RUN.contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), timeless(value))).collect()
        }
        Value::Array(items) => items.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

fn in_simulated_time<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime
        .expect("a runtime without IO needs nothing of the system")
        .block_on(story)
}

/// What the agent asked for in an undisturbed story, and how that ended.
fn undisturbed() -> (Vec<(Right, String)>, End) {
    in_simulated_time(async {
        let node = Node::new();
        let asked: Arc<Mutex<Vec<(Right, String)>>> = Arc::default();
        let noted = Arc::clone(&asked);
        node.meet(move |seen, moment| {
            if moment == Moment::Before {
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                noted.push((right(seen), seen.request.text()));
            }
            Verdict::Continue
        });
        node.story(WHOLE).await;
        let asked = std::mem::take(&mut *asked.lock().unwrap_or_else(PoisonError::into_inner));
        (asked, node.end())
    })
}

/// How a story ends with a fault at the request of this number.
fn disturbed(number: usize, fault: Fault) -> End {
    let failure = |code: u16| Verdict::Answer(Failure::new(code, "Injected", "by the test"));
    in_simulated_time(async move {
        let node = Node::new();
        node.meet(move |seen, moment| match fault {
            _ if seen.number != number as u64 => Verdict::Continue,
            Fault::Crash(when) if when == moment => Verdict::Crash,
            Fault::Refused(code) if moment == Moment::Before => failure(code),
            Fault::Lost(code) if moment == Moment::After => failure(code),
            Fault::Broken(when) if when == moment => Verdict::Drop,
            _ => Verdict::Continue,
        });
        node.story(WHOLE).await;
        node.end()
    })
}

#[test]
fn a_fault_at_any_request_of_an_agent_leads_to_the_same_objects() {
    let (asked, clean) = undisturbed();
    let there: Vec<&str> = clean.objects.keys().map(String::as_str).collect();
    assert_eq!(
        there,
        [
            "DeviceGPUState node-a-cuda0",
            "Lease shardwright-system/shardwright-agent-node-a",
            "NodeLinkState node-a",
        ],
        "the card that is lost for good has no object"
    );
    let mut different = Vec::new();
    for (number, (_, request)) in (1..).zip(&asked) {
        for fault in FAULTS {
            let end = disturbed(number, fault);
            if end != clean {
                different.push(format!("request {number}, {request}, {fault:?}: {end:#?}"));
            }
        }
    }
    let told = different[..different.len().min(TOLD)].join("\n");
    println!("{} requests, {} faults at each", asked.len(), FAULTS.len());
    assert!(
        different.is_empty(),
        "{} ends differ from {clean:#?}:\n{told}",
        different.len()
    );
}

#[test]
fn whichever_right_is_missing_an_agent_asks_seldom_and_tells_everything_once_it_has_it() {
    let (asked, clean) = undisturbed();
    let rights: BTreeSet<Right> = asked.into_iter().map(|(right, _)| right).collect();
    // Of devices all of them, of links all but to list and delete; the Node, the Lease, events.
    assert!(rights.len() >= 10, "{rights:?}");
    for missing in rights {
        let attempts = in_simulated_time(async {
            let node = Node::new();
            let attempts = Arc::new(AtomicUsize::new(0));
            let (counted, refused) = (Arc::clone(&attempts), missing.clone());
            node.meet(move |seen, moment| {
                if moment != Moment::Before || right(seen) != refused {
                    return Verdict::Continue;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                Verdict::Answer(Failure::new(403, "Forbidden", "no rule allows it"))
            });
            let granted = async {
                tokio::time::sleep(WHOLE).await;
                node.meet(|_, _| Verdict::Continue);
            };
            tokio::join!(node.story(WHOLE + STEP), granted);
            // A card that was lost before it could be told of never had an object: only what there is in the end is the same.
            let end = node.end().objects;
            assert_eq!(end, clean.objects, "without the right to {missing:?} at first");
            attempts.load(Ordering::Relaxed)
        });
        let minutes = WHOLE.as_secs() as usize / 60;
        println!("{missing:?}: {attempts} attempts in {minutes} minutes");
        assert!(
            attempts > 0 && attempts <= minutes * ATTEMPTS_PER_MINUTE_MAX,
            "{missing:?}: {attempts}"
        );
    }
}

#[test]
fn an_object_that_took_the_name_of_a_lost_device_is_not_the_one_that_is_removed() {
    in_simulated_time(async {
        let node = Node::new();
        let devices = kinds::find("shardwright.dev", "v1alpha1", "devicegpustates").expect("our kind");
        let lost = Key::new(devices, "", "node-a-cuda1");
        let (api, key) = (node.api.clone(), lost.clone());
        let replaced = AtomicUsize::new(0);
        node.meet(move |seen, moment| {
            let first = seen.request.verb == Verb::Delete && moment == Moment::Before;
            if first && replaced.fetch_add(1, Ordering::Relaxed) == 0 {
                let person = api.caller("person");
                api.delete(&key, None, &person).expect("it is there");
                let anew = json!({ "metadata": { "name": key.name }, "spec": { "cordoned": true } });
                api.create(devices, "", anew, &person).expect("the name is free");
            }
            Verdict::Continue
        });
        node.story(WHOLE).await;
        let there = node.api.with(|store| store.get(&lost));
        assert_eq!(there.expect("it is another one")["spec"]["cordoned"], true);
    });
}
