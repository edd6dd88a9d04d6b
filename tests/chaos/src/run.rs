//! A run: stack, model, references, clients, faults, quiet.
//!
//! One fault at a time: the next one waits until all is whole again. The spare node keeps the model placeable whatever one
//! fault takes.

mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use linkemu::network;
use localplane::assets;
use localplane::plane::{Plane, clear};
use localplane::stack::{AgentSpec, Part, Shape, Stack};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::history::{Fault, History, Kind, Prompts, Reference, Request};
use crate::inject;
use crate::load::{Access, Load};
use crate::schedule::{Planned, Schedule};
use crate::watch::Watch;
use crate::{Error, Result, book, flat};

const MODEL: &str = "chaos";
/// Stages of the pipeline, each on a node of its own.
const STAGES: usize = 3;
/// Requests of the book.
const REQUESTS: usize = 16;
/// References are asked for by so many clients at once, so that steps of several sequences are among them.
const REFERENCES_AT_ONCE: usize = 4;
/// Clients get going before the first fault.
const WARM_UP: Duration = Duration::from_secs(10);
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long the stack may take to be whole after a fault: several times what any single part may take.
const WHOLE_LIMIT: Duration = Duration::from_secs(90);
/// For how long all must look whole: a fault is noticed within it.
const WHOLE_HOLD: Duration = Duration::from_millis(1500);
/// Looks for orphans and open streams after the last answer: what the last fault left is being cleared away.
const QUIET_LIMIT: Duration = Duration::from_secs(30);

/// What the caller chose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Emptied, then filled with data, logs and the history.
    pub dir: PathBuf,
    /// Everything random follows from it.
    pub seed: u64,
    /// Faults are injected for so long.
    pub time: Duration,
    /// And so many at most.
    pub kills: Option<usize>,
    /// From one fault to the next; random pauses without it.
    pub every: Option<Duration>,
    /// Kinds of faults.
    pub kinds: Vec<Kind>,
    /// Clients that stream.
    pub streaming: usize,
    /// Clients that wait for whole answers.
    pub waiting: usize,
    /// How long a client waits for an answer.
    pub patience: Duration,
}

/// What a run found, beside its history.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// All that happened.
    pub history: History,
    /// What is wrong with the stack itself: parts that ended by themselves, faults that were not recovered from, leaks.
    pub complaints: Vec<String>,
    /// Lives of processes.
    pub lives: Vec<flat::Life>,
    /// Figures of every part before the first fault.
    pub before: Vec<(String, flat::Figures)>,
    /// The same after the last answer.
    pub after: Vec<(String, flat::Figures)>,
    /// From the first fault to the end of injection.
    pub injected: Duration,
}

/// Does a run.
///
/// # Errors
/// A stack that does not start, or does not answer before the first fault.
pub async fn run(options: &Options) -> Result<Outcome> {
    clear(&options.dir)?;
    let started = Instant::now();
    let mut say = |text: &str| println!("[{:7.1} s] {text}", started.elapsed().as_secs_f64());
    let kinds = possible(&options.kinds, &mut say);
    let links = kinds.iter().any(|kind| kind.is_of_links()).then_some(options.seed);
    let stack = start(&options.dir, links, &mut say).await?;
    let requests = book::requests(options.seed, REQUESTS);
    let access = Access {
        endpoints: stack.endpoints(),
        key: stack.api_key(),
        bundle: stack.bundle(),
        model: MODEL,
    };
    let load = Load::new(access, requests.clone(), started, options.patience)?;
    // The clients' own threads: tools that the stack runs must not hold up their clocks.
    let clients = Clients::new(load)?;
    say(&format!("answering {REQUESTS} requests for reference"));
    let references = clients.references().await?;
    let prompts = clients.prompts().await?;
    let watch = Watch::new(&stack, MODEL).await?;
    let mut runner = Runner {
        stack,
        watch,
        load: Arc::clone(&clients.load),
        started,
        faults: Vec::new(),
        expected: Vec::new(),
        ended: Vec::new(),
        lives: flat::Lives::default(),
        complaints: Vec::new(),
        spoken: Instant::now(),
        looked: None,
    };
    runner.until_whole(WHOLE_LIMIT).await?;
    let before = runner.figures();
    clients.begin(options, &requests)?;
    runner.pass(WARM_UP).await?;
    let first = Instant::now();
    runner.inject(options, &kinds).await?;
    let injected = first.elapsed();
    runner.say("no more faults; the last answers are awaited");
    clients.stop.cancel();
    while clients.load.progress().under_way > 0 {
        runner.pass(Duration::from_millis(500)).await?;
    }
    runner.quiet().await?;
    let after = runner.figures();
    let history = History {
        requests,
        references,
        prompts,
        operations: clients.load.take(),
        faults: std::mem::take(&mut runner.faults),
    };
    let outcome = Outcome {
        history,
        complaints: std::mem::take(&mut runner.complaints),
        lives: runner.lives.all().cloned().collect(),
        before,
        after,
        injected,
    };
    drop(clients);
    runner.stack.stop().await?;
    Ok(outcome)
}

/// The kinds of faults that this machine can do.
fn possible(wanted: &[Kind], say: &mut dyn FnMut(&str)) -> Vec<Kind> {
    let mut kinds = wanted.to_vec();
    if kinds.iter().any(|kind| kind.is_of_links())
        && let Err(error) = network::possible()
    {
        say(&format!("SKIPPED: faults of links: {error}"));
        kinds.retain(|kind| !kind.is_of_links());
    }
    kinds
}

async fn start(dir: &Path, links: Option<u64>, say: &mut dyn FnMut(&str)) -> Result<Stack> {
    let nodes = ["node-a", "node-b", "node-c", "node-d"];
    let agents = nodes.map(|node| AgentSpec {
        threads: 1,
        ..AgentSpec::new(node, "cpu")
    });
    let shape = Shape {
        agents: agents.to_vec(),
        operators: 2,
        gateways: 2,
        links,
    };
    say("starting etcd and kube-apiserver");
    let mut stack = Stack::start_on(Plane::start(dir).await?, &shape, say).await?;
    stack.wait_for_devices(nodes.len()).await?;
    stack.apply(&manifest()?)?;
    say(&format!(
        "waiting until the model is Ready on {STAGES} of {} nodes",
        nodes.len()
    ));
    let ready = stack.wait_for_condition("default", MODEL, "Ready", "True", READY_LIMIT);
    ready.await?;
    Ok(stack)
}

/// Strict, so that an answer goes on as it would have.
fn manifest() -> Result<Value> {
    let uri = format!("file://{}", assets::model()?.display());
    Ok(json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
        "metadata": { "name": MODEL, "namespace": "default" },
        "spec": {
            "source": { "uri": uri },
            "contextLength": 512, "parallelSequences": 8,
            "determinism": "Strict",
            "placement": { "minDevices": STAGES, "maxDevices": STAGES },
        },
    }))
}

/// The clients and the runtime that they have for themselves.
struct Clients {
    load: Arc<Load>,
    stop: CancellationToken,
    /// `None` once it has ended.
    runtime: Option<Runtime>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        // A runtime that waits for its tasks must not be dropped within another's.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Clients {
    fn new(load: Load) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Ok(Self {
            load: Arc::new(load),
            stop: CancellationToken::new(),
            runtime: Some(runtime.map_err(|error| Error::Other(format!("no thread for the clients: {error}")))?),
        })
    }

    async fn references(&self) -> Result<Vec<Reference>> {
        let load = Arc::clone(&self.load);
        let asked = self.spawn(async move { load.references(REFERENCES_AT_ONCE).await })?;
        asked.await.map_err(|error| Error::Other(error.to_string()))?
    }

    async fn prompts(&self) -> Result<Prompts> {
        let load = Arc::clone(&self.load);
        let asked = self.spawn(async move { load.prompts().await })?;
        asked.await.map_err(|error| Error::Other(error.to_string()))?
    }

    fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<JoinHandle<T>> {
        let runtime = self.runtime.as_ref();
        let runtime = runtime.ok_or_else(|| Error::Other("the clients have ended".to_owned()))?;
        Ok(runtime.spawn(task))
    }

    fn begin(&self, options: &Options, requests: &[Request]) -> Result<()> {
        let of_kind = |streamed: bool| -> Vec<usize> {
            let all = requests.iter().enumerate();
            all.filter(|(_, request)| request.streamed == streamed)
                .map(|(number, _)| number)
                .collect()
        };
        let kinds = [(options.streaming, of_kind(true)), (options.waiting, of_kind(false))];
        let mut number = 0;
        for (count, only) in kinds {
            for _ in 0..count {
                let seed = options.seed.wrapping_add(number as u64 + 1);
                let client = Arc::clone(&self.load).client(number, seed, only.clone(), self.stop.clone());
                self.spawn(client)?;
                number += 1;
            }
        }
        Ok(())
    }
}

/// Everything that the injection of faults needs.
struct Runner {
    stack: Stack,
    watch: Watch,
    load: Arc<Load>,
    started: Instant,
    faults: Vec<Fault>,
    /// Parts that a fault has ended: they are no surprise.
    expected: Vec<Part>,
    /// Parts that were seen ended, and when.
    ended: Vec<(Part, Instant)>,
    lives: flat::Lives,
    complaints: Vec<String>,
    spoken: Instant,
    looked: Option<Instant>,
}

impl Runner {
    async fn inject(&mut self, options: &Options, kinds: &[Kind]) -> Result<()> {
        let begun = Instant::now();
        let mut last = begun;
        for planned in Schedule::new(options.seed, kinds, options.every) {
            let enough = options.kills.is_some_and(|kills| self.faults.len() >= kills);
            // At a fixed distance, the time until all was whole is part of the distance.
            let spent = options.every.map_or(Duration::ZERO, |_| last.elapsed());
            let after = planned.after.saturating_sub(spent);
            if enough || begun.elapsed() + after >= options.time {
                break;
            }
            self.pass(after).await?;
            last = Instant::now();
            if !self.strike(&planned).await? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the stack was whole again in time.
    async fn strike(&mut self, planned: &Planned) -> Result<bool> {
        let epoch = self.watch.epoch().await;
        let at = self.load.now();
        let Some(struck) = inject::strike(&mut self.stack, MODEL, planned)? else {
            return Ok(true);
        };
        self.say(&format!(
            "fault {}: {} {}",
            self.faults.len() + 1,
            planned.kind,
            struck.target
        ));
        let gateway = match &struck.killed {
            Some(Part::Gateway(replica)) => Some(*replica),
            _ => None,
        };
        self.expected.extend(struck.killed);
        self.faults.push(Fault {
            kind: planned.kind,
            target: struck.target,
            gateway,
            at,
            whole: None,
        });
        if let Some(undo) = &struck.undo {
            self.pass(planned.lasts).await?;
            inject::undo(&mut self.stack, undo).await?;
        }
        match self.until_whole(WHOLE_LIMIT).await {
            Ok(()) => {
                let whole = self.load.now();
                if let Some(fault) = self.faults.last_mut() {
                    fault.whole = Some(whole);
                }
                if planned.kind.is_bearable() {
                    self.nothing_moved_since(epoch).await;
                }
                Ok(true)
            }
            Err(Error::Other(missing)) => {
                self.complain(missing);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
    /// A link that is worse than it was is no reason to take anything from its node.
    async fn nothing_moved_since(&mut self, before: Option<i64>) {
        let after = self.watch.epoch().await;
        if after != before {
            self.complain(format!(
                "the placement went from epoch {before:?} to {after:?}, for a link that still carried"
            ));
        }
    }
}
