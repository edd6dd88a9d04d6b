//! Everything together: an API server, operators, nodes with agents, and a cluster that binds and ends pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use apimodel::{ApiServer, Happened, Key, kinds};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clocks::{self, Clock};
use crate::host::{Host, Life, Operators};
use crate::objects::{self, INSTALLATION, MODELS, Measured};
use crate::process::Process;

/// Nothing changes for so long: the world has settled.
pub const QUIET: Duration = Duration::from_secs(30);
/// The operator works out every five minutes what a loss would come to: after that it has nothing more to say.
pub const QUIET_AT_THE_END: Duration = Duration::from_secs(320);
/// What does not settle within this time never will.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(20 * 60);
/// How long a container that ended takes to run again.
const RESTART: Duration = Duration::from_secs(1);
/// How often the cluster looks at its pods.
const CLUSTER: Duration = Duration::from_secs(1);

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Nodes, with the memory of the only device of each.
    pub nodes: Vec<(String, i64)>,
    /// How many cards a device plugin has on each node.
    pub cards: u32,
    /// Replicas of the operator.
    pub operators: usize,
}

impl Default for Shape {
    /// Four nodes of which any two hold a model, and one operator.
    fn default() -> Self {
        Self {
            nodes: nodes(&["node-a", "node-b", "node-c", "node-d"]),
            cards: 0,
            operators: 1,
        }
    }
}

/// Nodes with as much memory as takes half of a model.
#[must_use]
pub fn nodes(names: &[&str]) -> Vec<(String, i64)> {
    names.iter().map(|name| ((*name).to_owned(), NODE_BYTES)).collect()
}

/// Memory of a node's device: half of a model fits.
pub const NODE_BYTES: i64 = 90 << 20;

/// The world.
#[derive(Debug)]
pub struct World {
    /// Its API server.
    pub api: ApiServer,
    /// Its nodes.
    pub hosts: BTreeMap<String, Host>,
    operators: Operators,
    cards: u32,
    began: Instant,
    tasks: JoinSet<()>,
}

impl World {
    /// Of this shape, with nothing to do yet.
    #[must_use]
    pub fn new(shape: &Shape) -> Self {
        Self::on(ApiServer::new(), shape)
    }

    /// The same on an API server that has nothing yet.
    #[must_use]
    pub fn on(api: ApiServer, shape: &Shape) -> Self {
        clocks::reset();
        let began = Instant::now();
        let operators: Operators = Arc::default();
        lock(&operators).resize_with(shape.operators, || None);
        let mut world = Self {
            api,
            hosts: BTreeMap::new(),
            operators,
            cards: shape.cards,
            began,
            tasks: JoinSet::new(),
        };
        world.create("apps/v1/deployments", INSTALLATION, objects::deployment());
        for (at, (name, bytes)) in shape.nodes.iter().enumerate() {
            world.create("/v1/nodes", "", objects::node(name, shape.cards));
            if shape.cards > 0 {
                world.create("/v1/pods", INSTALLATION, objects::agent_pod(name));
            }
            world.report_device(name, *bytes, true);
            let host = Host::start(name, at, (&world.operators, &world.api), began);
            world.hosts.insert(name.clone(), host);
        }
        let cluster = world.api.clone();
        if shape.cards > 0 {
            world.tasks.spawn(async move {
                loop {
                    tokio::time::sleep(CLUSTER).await;
                    run_pods(&cluster);
                }
            });
        }
        world
    }

    /// Time since it began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn operators(&self) -> MutexGuard<'_, Vec<Option<Process>>> {
        lock(&self.operators)
    }

    /// Looks at the operator at a place, if there is one.
    pub fn operator<T>(&self, place: usize, look: impl FnOnce(&Process) -> T) -> Option<T> {
        self.operators().get(place)?.as_ref().map(look)
    }

    /// Starts an operator at a place; one that was there is killed.
    pub fn start_operator(&self, place: usize, name: &str) {
        let process = Process::start(name, place, &self.api);
        let before = self.operators().get_mut(place).and_then(|slot| slot.replace(process));
        if let Some(before) = before {
            before.kill();
        }
    }

    /// Kills the operator at a place.
    pub fn kill_operator(&self, place: usize) {
        let before = self.operators().get_mut(place).and_then(Option::take);
        if let Some(before) = before {
            before.kill();
        }
    }

    /// Tells the operator at a place to end, and waits until it has.
    pub async fn terminate_operator(&self, place: usize) {
        let before = self.operators().get_mut(place).and_then(Option::take);
        if let Some(mut before) = before {
            before.terminate().await;
        }
    }

    /// Keeps an operator running at a place, as a kubelet does: one that dies is started again a second later.
    pub fn keep_operator(&mut self, place: usize, name: &str) {
        self.start_operator(place, name);
        let (operators, api, name) = (self.operators.clone(), self.api.clone(), name.to_owned());
        self.tasks.spawn(async move {
            loop {
                let connection = match lock(&operators).get(place).and_then(Option::as_ref) {
                    Some(process) if process.name == name => process.connection.clone(),
                    // Somebody else was put there.
                    _ => return,
                };
                connection.killed().await;
                let before = {
                    let mut operators = lock(&operators);
                    let here = operators.get_mut(place);
                    here.filter(|slot| slot.as_ref().is_some_and(|process| process.name == name))
                        .and_then(Option::take)
                };
                let Some(before) = before else { return };
                before.kill();
                tokio::time::sleep(RESTART).await;
                let process = Process::start(&name, place, &api);
                match lock(&operators).get_mut(place) {
                    Some(slot) if slot.is_none() => *slot = Some(process),
                    _ => {
                        process.kill();
                        return;
                    }
                }
            }
        });
    }

    /// Has an operator under another name take over from the one that is killed next: that one is not started again.
    pub fn take_over(&mut self, place: usize, name: &str, mut killed: tokio::sync::watch::Receiver<bool>) {
        let (operators, api, name) = (self.operators.clone(), self.api.clone(), name.to_owned());
        self.tasks.spawn(async move {
            if killed.wait_for(|killed| *killed).await.is_err() {
                return;
            }
            {
                let mut operators = lock(&operators);
                for slot in operators.iter_mut() {
                    if slot.as_ref().is_some_and(|process| process.connection.is_dead())
                        && let Some(dead) = slot.take()
                    {
                        dead.kill();
                    }
                }
            }
            tokio::time::sleep(RESTART).await;
            let process = Process::start(&name, place, &api);
            if let Some(slot) = lock(&operators).get_mut(place) {
                *slot = Some(process);
            }
        });
    }

    /// What the clock of the machine shows from now on on which the operator at a place runs.
    pub fn set_clock(&self, place: usize, clock: Clock) {
        clocks::set(place, clock);
    }

    /// How a node's agent is from now on.
    pub fn set_life(&self, node: &str, life: Life) {
        if let Some(host) = self.hosts.get(node) {
            host.life.send_replace(life);
        }
    }

    /// Makes an object, as a person or a part of the cluster.
    pub fn create(&self, kind: &str, namespace: &str, object: Value) {
        let kind = kind_of(kind);
        let caller = self.api.caller("user");
        let made = self.api.create(kind, namespace, object, &caller);
        assert_eq!(made, Ok(()), "the object is new");
    }

    /// Patches an object by RFC 7386, as a person. False where there is none.
    pub fn patch(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> bool {
        let key = Key::new(kind_of(kind), namespace, name);
        let caller = self.api.caller("user");
        self.api.merge(&key, "", patch, &caller).is_ok()
    }

    /// Deletes an object, as a person. False where there is none.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let key = Key::new(kind_of(kind), namespace, name);
        let caller = self.api.caller("user");
        self.api.delete(&key, None, &caller).is_ok()
    }

    /// An object as it is now.
    #[must_use]
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = Key::new(kind_of(kind), namespace, name);
        self.api.with(|store| store.get(&key).ok())
    }

    /// Asks for a model; see [`objects::model`].
    pub fn ask_for(&self, name: &str, weights: u32, replicas: i32) {
        self.create(MODEL, MODELS, objects::model(name, weights, replicas));
    }

    /// An agent's report of its device: made once, and then brought up to date.
    pub fn report_device(&self, node: &str, bytes: i64, sound: bool) {
        let object = |at| objects::device(node, bytes, sound, at);
        self.report(node, DEVICE, &objects::device_name(node), object);
    }

    /// The same of one of its node's cards.
    pub fn report_card(&self, node: &str, index: u32, bytes: i64, sound: bool) {
        let object = |at| objects::card(node, index, bytes, sound, at);
        self.report(node, DEVICE, &objects::card_name(node, index), object);
    }

    /// The same of its node's cards that may work as one.
    pub fn report_groups(&self, node: &str, groups: &[&[u32]]) {
        self.report(node, LINKS, node, |at| objects::groups(node, groups, at));
    }

    /// The same of its node's links.
    pub fn report_links(&self, node: &str, measured: &[Measured]) {
        self.report(node, LINKS, node, |at| objects::links(node, measured, at));
    }

    /// What the agent of a node says of this object at the present time.
    fn report(&self, node: &str, kind: &str, name: &str, object: impl FnOnce(Timestamp) -> Value) {
        let caller = self.api.caller(&format!("agent-{node}"));
        let object = object(Timestamp::try_from(apimodel::wall()).unwrap_or(Timestamp::UNIX_EPOCH));
        let key = Key::new(kind_of(kind), "", name);
        for subresource in ["", "status"] {
            let mut part = object.clone();
            // Each by its own request, as the agent does.
            part.as_object_mut().map(|fields| match subresource {
                "" => fields.remove("status"),
                _ => fields.remove("spec"),
            });
            let applied = self.api.apply(&key, subresource, &part, &caller);
            assert!(applied.is_ok(), "a report is taken: {applied:?}");
        }
    }

    /// Nodes to which nothing happened that sets them apart from others: sound, schedulable, with an agent.
    #[must_use]
    pub fn nodes_alike(&self) -> BTreeSet<String> {
        let as_begun = |host: &&Host| {
            let node = self.object("/v1/nodes", "", &host.node);
            let pod = self.object("/v1/pods", INSTALLATION, &format!("shardwright-agent-{}", host.node));
            let device = self.object(DEVICE, "", &objects::device_name(&host.node));
            let sound = |device: &Value| device["status"]["conditions"][0]["status"] == "True";
            *host.life.borrow() == Life::Up
                && node.is_some_and(|node| node["spec"]["unschedulable"].is_null())
                && device.is_some_and(|device| sound(&device))
                && (self.cards == 0 || pod.is_some())
        };
        let alike = self.hosts.values().filter(as_begun);
        alike.map(|host| host.node.clone()).collect()
    }

    /// How often operators wrote the status of a model.
    #[must_use]
    pub fn status_writes(&self) -> usize {
        self.api.with(|store| {
            let ours = |change: &&Arc<apimodel::Change>| {
                change.key.kind().plural == "inferencemodels" && change.by.starts_with("operator")
            };
            store.log().iter().filter(ours).count()
        })
    }

    /// Waits until nothing has changed for [`QUIET`]; leases and events aside, which are no state.
    ///
    /// # Errors
    /// It goes on changing.
    pub async fn settle(&self) -> Result<(), String> {
        self.settle_for(QUIET).await
    }

    /// The same, for at least so long.
    ///
    /// # Errors
    /// It goes on changing.
    pub async fn settle_for(&self, quiet: Duration) -> Result<(), String> {
        let limit = Instant::now() + SETTLE_LIMIT;
        let mut last = (self.fingerprint(), Instant::now());
        while last.1.elapsed() < quiet {
            if Instant::now() >= limit {
                let latest = self
                    .api
                    .with(|store| store.log().last().map(|change| change.key.to_string()));
                return Err(format!("I1: something changes for ever, lately {latest:?}"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.fingerprint();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// Changes of objects, and what agents hold.
    fn fingerprint(&self) -> (u64, Vec<Vec<String>>) {
        let revision = self.api.with(|store| {
            let mut counted = store.log().iter().rev().filter(|change| is_state(&change.key));
            counted.next().map_or(0, |change| change.revision)
        });
        (revision, self.hosts.values().map(|host| host.agent().holds()).collect())
    }
}

/// Models.
pub const MODEL: &str = "shardwright.dev/v1alpha1/inferencemodels";
/// Devices.
pub const DEVICE: &str = "shardwright.dev/v1alpha1/devicegpustates";

/// Links of nodes.
pub const LINKS: &str = "shardwright.dev/v1alpha1/nodelinkstates";

/// Leases are rewritten every few seconds and events tell what happened: neither is a state that the operator is asked for.
#[must_use]
pub fn is_state(key: &Key) -> bool {
    !matches!(key.kind().plural, "leases" | "events")
}

/// `group/version/plural`; the core's group is empty.
fn kind_of(path: &str) -> &'static kinds::Kind {
    let parts: Vec<&str> = path.split('/').collect();
    let found = match parts.as_slice() {
        [group, version, plural] => kinds::find(group, version, plural),
        _ => None,
    };
    found.unwrap_or_else(|| panic!("{path} is a kind that is served"))
}

fn lock(operators: &Operators) -> MutexGuard<'_, Vec<Option<Process>>> {
    operators.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Scheduler, kubelet and garbage collector, as far as reservations need them.
fn run_pods(api: &ApiServer) {
    let pods = kind_of("/v1/pods");
    let caller = api.caller("cluster");
    api.collect_garbage(&caller);
    let all: Vec<(Key, Arc<Value>)> = api.with(|store| {
        let pods = store.all().filter(|(key, _)| key.kind() == pods);
        pods.map(|(key, pod)| (key.clone(), pod.clone())).collect()
    });
    let bound = |node: &str| {
        let holds = |pod: &Value| {
            pod["spec"]["nodeName"] == node && pod["metadata"]["annotations"]["shardwright.dev/node"].is_string()
        };
        all.iter().filter(|(_, pod)| holds(pod)).count()
    };
    for (key, pod) in &all {
        if pod["metadata"]["deletionTimestamp"].is_string() {
            // It is there: it was just listed.
            let _ = api.delete(key, Some(0), &caller);
            continue;
        }
        let Some(node) = pod["metadata"]["annotations"]["shardwright.dev/node"].as_str() else {
            continue;
        };
        let allocatable = api.with(|store| store.get(&Key::new(kind_of("/v1/nodes"), "", node)));
        let cards = allocatable.ok().and_then(|node| {
            let cards = node["status"]["allocatable"]["nvidia.com/gpu"].as_str()?;
            cards.parse::<usize>().ok()
        });
        if pod["spec"]["nodeName"].is_null() && bound(node) < cards.unwrap_or(0) {
            let _ = api.bind(key, node, &caller);
            let _ = api.merge(key, "status", &json!({ "status": { "phase": "Running" } }), &caller);
        }
    }
}

/// Whether a change is the making or the end of an object.
#[must_use]
pub fn is_birth_or_death(happened: Happened) -> bool {
    happened != Happened::Modified
}
