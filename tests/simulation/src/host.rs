//! A node with its agent: dials the operators, holds a stream to the leader, loses both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apimodel::ApiServer;
use futures::StreamExt;
use identity::Wanted;
use proto::control::v1::{AgentMessage, Inspection, OperatorMessage, TrustHeld, agent_message, operator_message};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::agent::Agent;
use crate::apart;
use crate::link::{Direction, Link};
use crate::objects;
use crate::process::Process;

/// What the agent does about operators that do not answer, or do not lead.
const DIAL_AGAIN: Duration = Duration::from_millis(500);
/// A dial into silence.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Reading the header of a model.
const INSPECTION: Duration = Duration::from_millis(300);
/// Messages under way: as many as the real agent keeps.
const OUTBOUND: usize = 4;

/// How the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Up,
    /// It stands still.
    Frozen,
    /// It is gone; its disk is there.
    Down,
}

/// The operators that there are now, by their place.
pub type Operators = Arc<Mutex<Vec<Option<Process>>>>;

/// A node with its agent.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub node: String,
    /// The agent.
    pub agent: Arc<Mutex<Agent>>,
    /// The way to the operators.
    pub link: watch::Sender<Link>,
    /// How the agent is.
    pub life: watch::Sender<Life>,
    _task: JoinSet<()>,
}

/// What a host's task works with.
struct Runs {
    node: String,
    agent: Arc<Mutex<Agent>>,
    operators: Operators,
    link: watch::Receiver<Link>,
    life: watch::Receiver<Life>,
    frozen: watch::Receiver<bool>,
    /// Whether an operator hears it.
    heard: watch::Sender<bool>,
    began: Instant,
    turn: usize,
}

impl Host {
    /// An agent on an empty disk, attached as soon as an operator leads.
    #[must_use]
    pub fn start(node: &str, place: usize, (operators, api): (&Operators, &ApiServer), began: Instant) -> Self {
        let agent = Arc::new(Mutex::new(Agent::new(node)));
        let link = watch::Sender::new(Link::default());
        let life = watch::Sender::new(Life::Up);
        let (freezes, frozen) = watch::channel(false);
        let runs = Runs {
            node: node.to_owned(),
            agent: agent.clone(),
            operators: operators.clone(),
            link: link.subscribe(),
            life: life.subscribe(),
            frozen,
            heard: watch::Sender::new(false),
            began,
            turn: place,
        };
        let mut task = JoinSet::new();
        // A real API server has none of its operators cut off here.
        if api.real().is_none() {
            let heard = runs.heard.subscribe();
            task.spawn(apart::say(api.clone(), node.to_owned(), heard, life.subscribe()));
        }
        task.spawn(runs.run());
        let lives = life.subscribe();
        task.spawn(tell(lives, freezes));
        Self {
            node: node.to_owned(),
            agent,
            link,
            life,
            _task: task,
        }
    }

    /// The agent as it is now.
    pub fn agent(&self) -> MutexGuard<'_, Agent> {
        lock(&self.agent)
    }
}

async fn tell(mut lives: watch::Receiver<Life>, freezes: watch::Sender<bool>) {
    loop {
        freezes.send_replace(*lives.borrow_and_update() == Life::Frozen);
        if lives.changed().await.is_err() {
            return;
        }
    }
}

/// One life's stream to one operator.
struct Session {
    up: mpsc::Sender<AgentMessage>,
    down: mpsc::Receiver<OperatorMessage>,
    /// Carries what comes down.
    _carrier: JoinSet<()>,
}

impl Runs {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn life(&self) -> Life {
        *self.life.borrow()
    }

    async fn run(mut self) {
        loop {
            match self.life() {
                Life::Up => {}
                Life::Frozen => {
                    self.life_changes().await;
                    continue;
                }
                Life::Down => {
                    while self.life() == Life::Down {
                        self.life_changes().await;
                    }
                    let now = self.now();
                    lock(&self.agent).restart(now);
                    continue;
                }
            }
            let now = self.now();
            lock(&self.agent).step(now);
            match self.dial().await {
                Some(session) => {
                    self.heard.send_replace(true);
                    self.attached(session).await;
                    self.heard.send_replace(false);
                }
                None => {
                    self.turn += 1;
                    tokio::time::sleep(DIAL_AGAIN).await;
                }
            }
        }
    }

    async fn life_changes(&mut self) {
        if self.life.changed().await.is_err() {
            // The world is over.
            std::future::pending::<()>().await;
        }
    }

    async fn dial(&mut self) -> Option<Session> {
        if self.link.borrow().silent {
            tokio::time::sleep(CONNECT_TIMEOUT).await;
            return None;
        }
        let (up, received) = mpsc::channel(OUTBOUND);
        let (down, frozen) = {
            let operators = lock(&self.operators);
            let count = operators.len().max(1);
            let operator = operators.get(self.turn % count)?.as_ref()?;
            let frozen = operator.frozen.subscribe();
            let upward = Direction::new(self.link.clone(), self.frozen.clone(), frozen.clone());
            (operator.attach(&self.node, upstream(received, upward)).ok()?, frozen)
        };
        let mut downward = Direction::new(self.link.clone(), frozen, self.frozen.clone());
        let (told, heard) = mpsc::channel(1);
        let mut carrier = JoinSet::new();
        carrier.spawn(async move {
            let mut down = down;
            while let Some(Ok(message)) = downward.next(&mut down).await {
                if told.send(message).await.is_err() {
                    return;
                }
            }
        });
        Some(Session {
            up,
            down: heard,
            _carrier: carrier,
        })
    }

    /// Until the stream or the agent ends.
    async fn attached(&mut self, session: Session) {
        let Session { up, mut down, _carrier } = session;
        let say = |message| {
            let up = up.clone();
            async move { up.send(AgentMessage { message: Some(message) }).await.is_ok() }
        };
        let (hello, shards) = {
            let agent = lock(&self.agent);
            (agent.hello(), agent.report())
        };
        if !say(agent_message::Message::Hello(hello)).await || !say(agent_message::Message::Shards(shards)).await {
            return;
        }
        let mut inspecting: Vec<(Instant, Inspection)> = Vec::new();
        let mut said = TrustHeld::default();
        loop {
            match self.life() {
                Life::Up => {}
                Life::Down => return,
                Life::Frozen => {
                    self.life_changes().await;
                    continue;
                }
            }
            let due = lock(&self.agent).wakes_at().map(|at| self.began + at);
            let wakes = due.into_iter().chain(inspecting.iter().map(|(at, _)| *at)).min();
            let wakes = wakes.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                changed = self.life.changed() => if changed.is_err() { return },
                told = down.recv() => match told.map(|told| told.message) {
                    None => return,
                    Some(Some(operator_message::Message::Assignments(told))) => {
                        let now = self.now();
                        lock(&self.agent).assign(&told, now);
                    }
                    Some(Some(operator_message::Message::Inspect(inspect))) => {
                        inspecting.push((Instant::now() + INSPECTION, objects::inspected(&inspect)));
                    }
                    Some(Some(operator_message::Message::Trust(told))) => {
                        let now = self.now();
                        if let Some(wanted) = Wanted::read(&told) {
                            lock(&self.agent).want(wanted, now);
                        }
                    }
                    Some(_) => continue,
                },
                () = tokio::time::sleep_until(wakes) => {
                    let now = self.now();
                    lock(&self.agent).step(now);
                }
            }
            let now = Instant::now();
            let (done, rest): (Vec<_>, Vec<_>) = inspecting.into_iter().partition(|(at, _)| *at <= now);
            inspecting = rest;
            for (_, inspection) in done {
                if !say(agent_message::Message::Inspection(inspection)).await {
                    return;
                }
            }
            let held = lock(&self.agent).says_of_trust();
            if held != said && !say(agent_message::Message::Trust(held.clone())).await {
                return;
            }
            said = held;
            let shards = lock(&self.agent).report();
            if !say(agent_message::Message::Shards(shards)).await {
                return;
            }
        }
    }
}

/// What the operator receives: messages, and an error where the agent is silent for too long.
fn upstream(
    received: mpsc::Receiver<AgentMessage>,
    direction: Direction,
) -> impl futures::Stream<Item = Result<AgentMessage, Status>> + Send {
    let messages = ReceiverStream::new(received);
    futures::stream::unfold(Some((messages, direction)), |state| async {
        let (mut messages, mut direction) = state?;
        match direction.next(&mut messages).await {
            Some(message) => Some((Ok(message), Some((messages, direction)))),
            None => Some((Err(Status::unavailable("the connection is gone")), None)),
        }
    })
    .boxed()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
