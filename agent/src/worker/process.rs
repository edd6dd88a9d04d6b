//! One worker process: started or taken over, asked how it is, told what to do, and its end explained.

use super::client::{Client, ClientError, Status};
use super::exit;
use super::leftovers::{self, Left};
use super::lines::{LastLines, log};
use super::places::Places;
use crate::shard::Slot;
use crate::shard::observed::{Event, Fault, Installed, UNREACHABLE, Work, WorkerPhase};
use proto::worker::WorkerConfig;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process_group};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a worker may say nothing.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From its start until it is first heard.
    pub start: Duration,
    /// Afterwards.
    pub silence: Duration,
}

impl Default for Patience {
    /// A worker opens its socket first thing, but under load the system may take its time to start a process. One that was
    /// heard before answers from a thread that never computes: one that stands still holds up every stream of its pipeline.
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            silence: Duration::from_millis(2200),
        }
    }
}

/// How often a worker is asked while it loads, so that a loaded shard serves at once: the more often, the younger it is. A tenth of
/// its age is no delay that counts.
const POLL_LOADING: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(100);
/// And afterwards: only a failure is news, that the next stage is not reached among them; its end is heard without asking.
const POLL_SERVING: Duration = Duration::from_millis(250);
/// Orders that wait: install, drain and kill, each at most once.
const ORDERS_MAX: usize = 4;
/// What is left in the pipes of a dead process is read within this.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(500);

/// What to start.
pub struct Launch {
    /// Whose worker it is.
    pub slot: Slot,
    /// For log lines.
    pub name: String,
    /// The worker's executable.
    pub executable: PathBuf,
    /// Where its things are.
    pub places: Places,
    /// What it reads.
    pub config: WorkerConfig,
    /// The only Vulkan devices that it shall see: none, or those of its shard.
    pub vulkan_indices: Vec<u32>,
    /// How long it may say nothing.
    pub patience: Patience,
}

/// What a worker is told.
pub enum Order {
    /// Obey this placement.
    Install {
        /// What to confirm when done.
        offered: Installed,
        /// Serialised.
        envelope: Arc<Vec<u8>>,
    },
    /// Finish and end.
    Drain,
    /// End now.
    Kill,
}

/// Orders to a worker that is being started or lives. When it is dropped the worker is ended.
pub struct Worker {
    orders: mpsc::Sender<Order>,
}

/// A line of orders, and its end for [`run`].
pub fn orders() -> (Worker, mpsc::Receiver<Order>) {
    let (orders, inbox) = mpsc::channel(ORDERS_MAX);
    (Worker { orders }, inbox)
}

impl Worker {
    /// Passes an order on. An order to a worker that is gone is void: its end is reported.
    pub fn order(&self, order: Order) {
        let _ = self.orders.try_send(order);
    }
}

/// Starts a worker and watches it until it ends. Sends `Done(Spawn)` or `WorkFailed(Spawn)` first, and after the former
/// everything that happens; the last event is [`Event::Exited`].
pub async fn run(launch: Launch, inbox: mpsc::Receiver<Order>, events: mpsc::Sender<(Slot, Event)>) {
    let slot = launch.slot.clone();
    let mut child = match start(&launch) {
        Ok(child) => child,
        Err(fault) => {
            // Without a receiver the agent is ending.
            let _ = events.send((slot, Event::WorkFailed(Work::Spawn, fault))).await;
            return;
        }
    };
    let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
    if let Some(pid) = pid {
        leftovers::note(&launch.places.directory, pid, &launch.name);
    }
    let last_lines = LastLines::default();
    let readers = [
        child
            .stdout
            .take()
            .map(|pipe| tokio::spawn(log(pipe, launch.name.clone(), last_lines.clone()))),
        child
            .stderr
            .take()
            .map(|pipe| tokio::spawn(log(pipe, launch.name.clone(), last_lines.clone()))),
    ];
    let last_words = async move {
        for reader in readers.into_iter().flatten() {
            // A reader that panicked has no more lines.
            let _ = reader.await;
        }
        last_lines.get()
    };
    let watch = Watch::new(launch, pid, inbox, events);
    watch.send(Event::Done(Work::Spawn)).await;
    let ended = async move {
        let status = child.wait().await;
        let last_words = tokio::time::timeout(LAST_WORDS_LIMIT, last_words)
            .await
            .unwrap_or_default();
        match status {
            Ok(status) => exit::fault(status, &last_words),
            Err(error) => Fault::new("Crashed", format!("the worker cannot be waited for: {error}")),
        }
    };
    watch.run(ended).await;
}

/// Watches a worker of an earlier life, which was started with what `launch` says. As [`run`], but for its log lines, which have
/// nowhere to go, and its exit code, which only a parent learns.
pub async fn take_over(launch: Launch, left: Left, inbox: mpsc::Receiver<Order>, events: mpsc::Sender<(Slot, Event)>) {
    let watched = left
        .process()
        .and_then(|(pid, descriptor)| Some((pid, watched(descriptor)?)));
    let Some((pid, descriptor)) = watched else {
        let fault = Fault::new("SpawnFailed", format!("worker {} ended meanwhile", launch.name));
        // Without a receiver the agent is ending.
        let _ = events.send((launch.slot, Event::WorkFailed(Work::Spawn, fault))).await;
        return;
    };
    tracing::info!(
        shard = launch.name,
        pid = pid.as_raw_nonzero(),
        "watching a worker of an earlier life"
    );
    let watch = Watch::new(launch, Some(pid), inbox, events);
    watch.send(Event::Done(Work::Spawn)).await;
    watch.run(end_of(descriptor)).await;
}

#[expect(
    deprecated,
    reason = "unsound for descriptors that another owner may close; this one is owned, and its successor is unsafe to call"
)]
fn watched(descriptor: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor).ok()
}

async fn end_of(descriptor: AsyncFd<OwnedFd>) -> Fault {
    let how = match descriptor.readable().await {
        Ok(_) => "how is not known, since an earlier life of the agent started it".to_owned(),
        Err(error) => format!("it cannot be waited for: {error}"),
    };
    Fault::new("Crashed", format!("the worker ended; {how}"))
}

fn start(launch: &Launch) -> Result<Child, Fault> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Fault::new(
            "SpawnFailed",
            format!("{what} of worker {} failed: {error}", launch.name),
        )
    };
    let config = serde_json::to_vec_pretty(&launch.config).map_err(|error| failed("the configuration", &error))?;
    let config_path = launch.places.config();
    identity::store::write_private(&config_path, &config).map_err(|error| failed("the configuration", &error))?;
    // A socket of an earlier life would be taken for the new worker's.
    let _ = std::fs::remove_file(&launch.places.socket);
    let mut command = Command::new(&launch.executable);
    command
        .arg("--config")
        .arg(&config_path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Signals from the agent's terminal are the agent's to pass on.
        .process_group(0)
        .kill_on_drop(true);
    command
        .env(HUGE_PAGES.0, HUGE_PAGES.1)
        .env(NO_BACKTRACE.0, NO_BACKTRACE.1);
    show_vulkan(&mut command, &launch.vulkan_indices);
    command
        .spawn()
        .map_err(|error| failed(&format!("the start ({})", launch.executable.display()), &error))
}

/// The Vulkan devices that a worker shall see, by their raw indices and in this order; ggml looks at no others.
pub(crate) fn show_vulkan(command: &mut Command, indices: &[u32]) {
    const VISIBLE: &str = "GGML_VK_VISIBLE_DEVICES";
    if indices.is_empty() {
        command.env_remove(VISIBLE);
        return;
    }
    let indices: Vec<String> = indices.iter().map(u32::to_string).collect();
    command.env(VISIBLE, indices.join(","));
}

/// Has the C library ask for huge pages: a shard reads all its weights for each token, and with small pages a good part of that
/// time goes into looking addresses up.
const HUGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// A worker that cannot go on ends at once. Before that ggml would have a debugger look at it, where there is one: its streams would
/// wait for that, and the debugger's lines would be its last.
const NO_BACKTRACE: (&str, &str) = ("GGML_NO_BACKTRACE", "1");

struct Watch {
    launch: Launch,
    pid: Option<Pid>,
    inbox: mpsc::Receiver<Order>,
    events: mpsc::Sender<(Slot, Event)>,
    client: Option<Client>,
    /// The last status sent on.
    said: Option<Status>,
    heard: Option<Instant>,
    started: Instant,
    /// Why it was ended, or what it said before it ended.
    fault: Option<Fault>,
}

impl Watch {
    fn new(
        launch: Launch,
        pid: Option<Pid>,
        inbox: mpsc::Receiver<Order>,
        events: mpsc::Sender<(Slot, Event)>,
    ) -> Self {
        Self {
            launch,
            pid,
            inbox,
            events,
            client: None,
            said: None,
            heard: None,
            started: Instant::now(),
            fault: None,
        }
    }

    /// `ended` comes with the end of the process, and says what is to be said of it where the worker said nothing.
    async fn run(mut self, ended: impl Future<Output = Fault>) {
        tokio::pin!(ended);
        let unexplained = loop {
            tokio::select! {
                biased;
                // First: why a worker ends, and what it measured, is its last answer.
                () = self.turn() => {}
                fault = &mut ended => break fault,
            }
        };
        let fault = self.fault.take().unwrap_or(unexplained);
        tracing::info!(
            shard = self.launch.name,
            reason = fault.reason,
            message = fault.message,
            "worker ended"
        );
        leftovers::forget(&self.launch.places.directory);
        let _ = std::fs::remove_file(&self.launch.places.socket);
        self.send(Event::Exited(fault)).await;
    }

    /// Waits for an order or for the time to ask, and acts. Dropped when the process ends.
    async fn turn(&mut self) {
        let loading = self
            .said
            .as_ref()
            .is_none_or(|said| said.phase() == WorkerPhase::Loading);
        let pause = match loading {
            true => (self.started.elapsed() / 10).clamp(*POLL_LOADING.start(), *POLL_LOADING.end()),
            false => POLL_SERVING,
        };
        let order = match tokio::time::timeout(pause, self.inbox.recv()).await {
            Ok(Some(order)) => Some(order),
            // Nobody gives orders any more: the agent is ending, and the worker with it.
            Ok(None) => Some(Order::Kill),
            Err(_) => None,
        };
        let outcome = match order {
            Some(Order::Kill) => {
                self.kill(None);
                // The end is heard in a moment; there is nothing to ask until then.
                tokio::time::sleep(POLL_SERVING).await;
                Ok(())
            }
            Some(Order::Drain) => self.drain().await,
            Some(Order::Install { offered, envelope }) => self.install(offered, &envelope).await,
            None => self.ask().await,
        };
        if let Err(error) = outcome {
            self.client = None;
            self.judge_silence(&error);
        }
    }

    async fn ask(&mut self) -> Result<(), ClientError> {
        let status = self.client().await?.status().await?;
        self.heard = Some(Instant::now());
        if status.phase() == WorkerPhase::Failed {
            let reason = status.reason.clone().unwrap_or_else(|| "Failed".to_owned());
            self.fault = Some(Fault {
                reason,
                message: status.message.clone().unwrap_or_default(),
            });
        }
        if self.said.as_ref() != Some(&status) {
            self.send(Event::Status {
                phase: status.phase(),
                endpoint: status.endpoint.clone(),
            })
            .await;
            let measured = status.measured();
            if self.said.as_ref().map(Status::measured).unwrap_or_default() != measured {
                self.send(Event::Measured(measured)).await;
            }
            self.said = Some(status);
        }
        Ok(())
    }

    async fn install(&mut self, offered: Installed, envelope: &[u8]) -> Result<(), ClientError> {
        let outcome = match self.client().await {
            Ok(client) => client.install(envelope, offered.next.as_deref()).await,
            Err(error) => Err(error),
        };
        let (event, outcome) = match outcome {
            Ok(Ok(())) => (Event::Accepted(offered), Ok(())),
            Ok(Err(fault)) => (Event::Refused(offered, fault), Ok(())),
            Err(error) => (
                Event::Refused(offered, Fault::new(UNREACHABLE, error.to_string())),
                Err(error),
            ),
        };
        self.send(event).await;
        outcome
    }

    async fn drain(&mut self) -> Result<(), ClientError> {
        let asked = match self.client().await {
            Ok(client) => client.drain().await,
            Err(error) => Err(error),
        };
        if asked.is_err() {
            // A worker that cannot be spoken to understands a signal.
            self.signal(Signal::TERM);
        }
        asked
    }

    async fn client(&mut self) -> Result<&mut Client, ClientError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.launch.places.socket).await?,
        };
        Ok(self.client.insert(client))
    }

    fn judge_silence(&mut self, error: &ClientError) {
        let (since, limit) = match self.heard {
            Some(heard) => (heard, self.launch.patience.silence),
            None => (self.started, self.launch.patience.start),
        };
        if since.elapsed() >= limit {
            self.kill(Some(Fault::new(
                "Hung",
                format!("the worker was ended because it does not answer: {error}"),
            )));
        }
    }

    fn kill(&mut self, fault: Option<Fault>) {
        if let Some(fault) = fault {
            tracing::warn!(shard = self.launch.name, message = fault.message, "killing the worker");
            self.fault = Some(fault);
        }
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid
            && let Err(error) = kill_process_group(pid, signal)
        {
            tracing::debug!(shard = self.launch.name, %error, "the worker cannot be signalled; it is ending already");
        }
    }

    async fn send(&self, event: Event) {
        // Without a receiver the agent is ending.
        let _ = self.events.send((self.launch.slot.clone(), event)).await;
    }
}
