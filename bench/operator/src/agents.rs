//! A thousand agents in one process: each has a stream of its own to the operator, over mutual TLS with a leaf of its own, and says
//! there and to the API server what a real one says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crds::HeldShard;
use identity::{ConnectOptions, Credentials, Expected, connect, tls};
use k8s_openapi::jiff::Timestamp;
use localplane::{Error, Result};
use proto::control::v1::agent_control_client::AgentControlClient;
use proto::control::v1::{
    AgentMessage, Hello, Inspect, Inspection, OperatorMessage, agent_message, inspection, operator_message,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::cluster;
use crate::facts::facts;
use crate::objects::Objects;
use crate::shards::Shards;

/// As agents have it.
const LEASE_EVERY: Duration = Duration::from_secs(40);
/// As agents have it: the first pause after a stream that ended, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// What each phase of a shard takes.
const PACE: Duration = Duration::from_millis(200);
/// Reading a header and an index over a network.
const INSPECTION: Duration = Duration::from_millis(300);
const OUTBOUND_MAX: usize = 4;

/// What befalls a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// Devices that are lost, by their numbers.
    pub lost: BTreeSet<usize>,
    /// All of it is.
    pub gone: bool,
}

/// What all agents know.
pub struct Ground {
    pub objects: Objects,
    /// The operator's control port.
    pub operator: String,
    pub devices_per_node: usize,
    /// Streams that stand.
    pub attached: AtomicUsize,
    /// Of these, those in which the operator has said what to hold.
    pub told: AtomicUsize,
}

impl Ground {
    /// Streams that stand.
    pub fn streams(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }

    /// Streams in which the operator has said what to hold.
    pub fn told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }
}

/// All agents. They end when this is dropped.
pub struct Agents {
    fates: Vec<watch::Sender<Fate>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Agents {
    /// Starts one for each identity; the node's number is the place.
    pub fn start(ground: &Arc<Ground>, identities: Vec<Credentials>) -> Self {
        let mut tasks = tokio::task::JoinSet::new();
        let nodes = identities.len();
        let fates = identities.into_iter().enumerate().map(|(node, credentials)| {
            let (fate, seen) = watch::channel(Fate::default());
            let name = cluster::node_name(node);
            let agent = Agent {
                shards: Shards::new(&name, PACE),
                name,
                node,
                ground: Arc::clone(ground),
                credentials,
                channel: None,
                fate: seen.clone(),
                published: BTreeMap::new(),
            };
            tasks.spawn(agent.run());
            tasks.spawn(keep_lease(Arc::clone(ground), (node, nodes), seen));
            fate
        });
        Self {
            fates: fates.collect(),
            tasks,
        }
    }

    /// A device of a node falls off its bus.
    pub fn lose(&self, node: usize, device: usize) {
        if let Some(fate) = self.fates.get(node) {
            fate.send_modify(|fate| {
                fate.lost.insert(device);
            });
        }
    }

    /// A node is no more.
    pub fn vanish(&self, node: usize) {
        if let Some(fate) = self.fates.get(node) {
            fate.send_modify(|fate| fate.gone = true);
        }
    }

    /// An agent never ends by itself: one that did has a fault.
    pub fn check(&mut self) -> Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.map_err(|error| Error::Other(format!("an agent ended: {error}")))?;
        }
        Ok(())
    }
}

/// A thousand Leases are spread over the period, as those of nodes that started at different times.
async fn keep_lease(ground: Arc<Ground>, (node, nodes): (usize, usize), fate: watch::Receiver<Fate>) {
    let name = cluster::node_name(node);
    let first = LEASE_EVERY.mul_f64(node as f64 / nodes.max(1) as f64);
    let mut renewals = tokio::time::interval_at(tokio::time::Instant::now() + first, LEASE_EVERY);
    loop {
        renewals.tick().await;
        if fate.borrow().gone {
            return;
        }
        if let Err(error) = ground.objects.lease(&name).await {
            eprintln!("{name}: the Lease is not renewed: {error}");
        }
    }
}

struct Agent {
    name: String,
    node: usize,
    ground: Arc<Ground>,
    credentials: Credentials,
    shards: Shards,
    /// To the operator, while there is one.
    channel: Option<Channel>,
    fate: watch::Receiver<Fate>,
    /// What the API server has of each device: what it holds, and whether it is lost.
    published: BTreeMap<usize, (Vec<HeldShard>, bool)>,
}

impl Agent {
    async fn run(mut self) {
        let mut pause = PAUSE.0;
        let mut fate = self.fate.clone();
        loop {
            let began = Instant::now();
            let gone = async { fate.wait_for(|fate| fate.gone).await.is_ok() };
            let ended = tokio::select! {
                ended = self.session() => ended,
                _ = gone => return,
            };
            if began.elapsed() > PAUSE.1 {
                pause = PAUSE.0;
            }
            // One speaks for all: what one meets, all do.
            if let (Err(status), 0) = (ended, self.node) {
                eprintln!("{}: {}", self.name, status.message());
            }
            // Spread as by the jitter of real ones.
            let share = 0.5 + 0.5 * ((self.node * 37 % 100) as f64 / 100.0);
            tokio::time::sleep(pause.mul_f64(share)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One stream, until it ends.
    async fn session(&mut self) -> Result<(), tonic::Status> {
        let unreachable = |error: identity::connect::ConnectError| tonic::Status::unavailable(error.to_string());
        let channel = connect(
            &self.ground.operator,
            tls::client_config(&self.credentials),
            Expected::Operator,
            ConnectOptions::default(),
        )
        .await
        .map_err(unreachable)?;
        let (outbound, queue) = mpsc::channel(OUTBOUND_MAX);
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epochs: self.shards.epochs(),
            weights_endpoint: format!("10.{}.{}.1:9445", self.node / 250, self.node % 250),
            takes_purposes: true,
        };
        send(&outbound, agent_message::Message::Hello(hello)).await?;
        self.channel = Some(channel.clone());
        let mut client = AgentControlClient::new(channel);
        let mut inbound = client.attach(ReceiverStream::new(queue)).await?.into_inner();
        let mut standing = Standing::new(&self.ground);
        self.report(&outbound).await?;
        loop {
            let next = self.shards.changes_at(Instant::now());
            let phase = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = inbound.message() => match message? {
                    Some(message) => self.take(message, &outbound, &mut standing).await?,
                    None => return Ok(()),
                },
                () = phase => self.report(&outbound).await?,
                changed = self.fate.changed() => match changed {
                    Ok(()) => self.report(&outbound).await?,
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    async fn take(
        &mut self,
        message: OperatorMessage,
        outbound: &mpsc::Sender<AgentMessage>,
        standing: &mut Standing,
    ) -> Result<(), tonic::Status> {
        match message.message {
            Some(operator_message::Message::Assignments(assignments)) => {
                standing.is_told();
                self.shards.assign(&assignments, Instant::now());
                self.report(outbound).await
            }
            Some(operator_message::Message::Inspect(asked)) => {
                tokio::spawn(inspect(asked, self.channel.clone()));
                Ok(())
            }
            // Links are not measured here: there are none.
            Some(operator_message::Message::Peers(_) | operator_message::Message::Trust(_)) | None => Ok(()),
        }
    }

    /// Says what is, in the stream and where it concerns devices to the API server: what the devices hold, and which are lost.
    async fn report(&mut self, outbound: &mpsc::Sender<AgentMessage>) -> Result<(), tonic::Status> {
        let now = Instant::now();
        let lost = self.fate.borrow_and_update().lost.clone();
        let names: BTreeSet<String> = lost
            .iter()
            .map(|device| cluster::device_name(self.node, *device))
            .collect();
        let report = self.shards.report(&names, now);
        send(outbound, agent_message::Message::Shards(report)).await?;
        let mut held = self.shards.holdings(now);
        for device in 0..self.ground.devices_per_node {
            let name = cluster::device_name(self.node, device);
            let state = (held.remove(&name).unwrap_or_default(), lost.contains(&device));
            if self.published.entry(device).or_default() == &state {
                continue;
            }
            let status = cluster::device_status((self.node, device), state.0.clone(), state.1, Timestamp::now());
            let written = self.ground.objects.device_status(&name, &status).await;
            written.map_err(|error| tonic::Status::internal(error.to_string()))?;
            self.published.insert(device, state);
        }
        Ok(())
    }
}

/// Counts a stream for as long as it stands, and whether the operator has said in it what to hold.
struct Standing {
    ground: Arc<Ground>,
    told: bool,
}

impl Standing {
    fn new(ground: &Arc<Ground>) -> Self {
        ground.attached.fetch_add(1, Ordering::Relaxed);
        Self {
            ground: Arc::clone(ground),
            told: false,
        }
    }

    fn is_told(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            self.ground.told.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.ground.attached.fetch_sub(1, Ordering::Relaxed);
        if self.told {
            self.ground.told.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn inspect(asked: Inspect, channel: Option<Channel>) {
    tokio::time::sleep(INSPECTION).await;
    let answer = Inspection {
        model_uid: asked.model_uid,
        generation: asked.generation,
        result: Some(inspection::Result::Facts(facts(&asked.uri))),
    };
    let Some(channel) = channel else { return };
    // A stream that ended meanwhile is asked again by the operator.
    let _ = AgentControlClient::new(channel).inspected(answer).await;
}

async fn send(outbound: &mpsc::Sender<AgentMessage>, message: agent_message::Message) -> Result<(), tonic::Status> {
    let sent = outbound.send(AgentMessage { message: Some(message) }).await;
    sent.map_err(|_| tonic::Status::unavailable("the stream to the operator has ended"))
}
