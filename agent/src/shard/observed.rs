//! What is known of a shard on this node, and how events change it. Pure: time is an argument.

use super::crashes::Crashes;
use super::{Desired, Place, Purpose, Slice};
use crate::retry;
use proto::control::v1::{MemoryUse, ObservedPace};

/// A worker that served this long before it ended failed by chance, not by habit: its count of failures starts again.
const STEADY_MS: u64 = 60_000;
/// One that served this long was worth its start: it is started again at once, though its end counts. What crashes sooner than that
/// waits, so that no node is busy with nothing but starts.
const WORTH_A_START_MS: u64 = 5_000;

/// The reason of an envelope that could not be handed over, as opposed to one that the worker did not take.
pub const UNREACHABLE: &str = "Unreachable";

/// The reason of a start for which the files have to be prepared first: those of a worker that was taken over belong to the earlier
/// life.
pub const NOT_PREPARED: &str = "NotPrepared";

/// A worker that said no will say it again; it is asked as seldom as after so many failures.
const REFUSED_AS_FAILURES: u32 = 4;

/// Work on files or processes that takes a while; at most one per shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Copying pieces from the source.
    Fetch,
    /// Recomputing digests.
    Verify,
    /// Writing the headers of this cut.
    Prepare,
    /// Identity, configuration, process.
    Spawn,
}

/// How far a shard at rest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Nothing is known of its files.
    New,
    /// Its pieces are here.
    Fetched,
    /// They are what the placement says.
    Verified,
    /// They can be loaded.
    Prepared,
}

/// What the worker says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerPhase {
    /// Is not heard yet.
    Starting,
    /// Reads its weights.
    Loading,
    /// Answers on its endpoint.
    Serving,
    /// Finishes what runs.
    Draining,
    /// Cannot serve, and is about to end.
    Failed,
}

/// What a worker last accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Of the placement.
    pub epoch: u64,
    /// Of the pipeline: while it stays, so does the next stage.
    pub pipeline_epoch: u64,
    /// The next stage it was told of.
    pub next: Option<String>,
}

/// That a worker was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// When.
    pub since_ms: u64,
    /// How long it may take.
    pub limit_ms: u64,
    /// It was killed for taking longer.
    pub killed: bool,
    /// It was wanted and did not do its work: its end is a failure.
    pub failed: bool,
}

/// A living worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// When it was started.
    pub since_ms: u64,
    /// When it began to serve.
    pub serving_since_ms: Option<u64>,
    /// As it says.
    pub phase: WorkerPhase,
    /// host:port, once it serves.
    pub endpoint: Option<String>,
    /// What it last accepted.
    pub installed: Option<Installed>,
    /// What it was handed and has not answered.
    pub installing: Option<Installed>,
    /// What it refused, why, and when to try again.
    pub refused: Option<Refusal>,
    /// Set once it must end.
    pub stop: Option<Stop>,
    /// Set once it was ended for what its device computes.
    pub condemned: Option<Box<Fault>>,
    /// What it says of its memory and its pace, once it does.
    pub measured: Option<Box<Measured>>,
}

/// A worker's memory and pace, and its way to the next stage, as it says itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// What it takes on its device, once loaded.
    pub memory: Option<MemoryUse>,
    /// The rung of its memory ladder; empty without pressure.
    pub pressure: String,
    /// How fast its steps really were, once enough were measured.
    pub pace: Option<ObservedPace>,
    /// Why it cannot reach the next stage, while it cannot.
    pub next_unreachable: Option<String>,
}

impl Running {
    /// Whether its end, were it now, is what it was asked for.
    pub fn ends_as_asked(&self) -> bool {
        self.stop.is_some_and(|stop| !stop.failed)
    }

    /// Whether its end, were it now, is a failure of its own.
    pub fn ends_by_failing(&self) -> bool {
        !self.ends_as_asked() && self.condemned.is_none()
    }
}

/// An envelope that a worker did not take.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// What was offered.
    pub offered: Installed,
    /// Why.
    pub fault: Fault,
    /// Not before.
    pub retry_at_ms: u64,
}

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One CamelCase word.
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Fault {
    /// A fault.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// The state of a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nothing is going on.
    Idle(Progress),
    /// A task works on it.
    Busy(Work),
    /// A worker lives.
    Running(Running),
    /// Waits before it tries again.
    Failed {
        /// What went wrong.
        fault: Fault,
        /// Where to resume.
        resume: Progress,
        /// Not before.
        retry_at_ms: u64,
        /// What its worker took on its device, if it came to measure that.
        memory: Option<MemoryUse>,
    },
}

/// A shard as this node knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// What it is for.
    pub slice: Slice,
    /// The highest epoch in which it was asked to serve; 0 before.
    pub epoch: u64,
    /// Where a placement had it last, to be told by while it goes.
    pub place: Place,
    /// Where it stands.
    pub state: State,
    /// Failures in a row.
    pub failures: u32,
    /// Those of them that were ends of its worker.
    pub crashes: Crashes,
}

/// What happened to a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Work succeeded.
    Done(Work),
    /// Work failed.
    WorkFailed(Work, Fault),
    /// The worker was heard.
    Status {
        /// What it says.
        phase: WorkerPhase,
        /// Where it serves.
        endpoint: Option<String>,
    },
    /// The worker says what it takes on its device, how short of memory it is, and how fast its steps are.
    Measured(Measured),
    /// The worker took an envelope.
    Accepted(Installed),
    /// The worker did not take an envelope.
    Refused(Installed, Fault),
    /// The worker is gone, and this is what it left.
    Exited(Fault),
}

impl Observed {
    /// A shard of which nothing was done yet.
    pub fn new(desired: &Desired) -> Self {
        let nowhere = Place {
            epoch: 0,
            pipeline: 0,
            stage: 0,
            purpose: Purpose::Fetch,
        };
        Self {
            slice: desired.slice.clone(),
            epoch: desired.in_force.as_ref().map_or(0, |in_force| in_force.epoch),
            place: desired.place().unwrap_or(nowhere),
            state: State::Idle(Progress::New),
            failures: 0,
            crashes: Crashes::default(),
        }
    }

    /// The worker, if one lives.
    pub fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Whether a process of this shard exists or is about to.
    pub fn holds_memory(&self) -> bool {
        matches!(self.state, State::Running(_) | State::Busy(Work::Spawn))
    }

    /// Whether its files are here and are what the placement says.
    pub fn is_on_disk(&self) -> bool {
        match &self.state {
            State::Idle(progress) | State::Failed { resume: progress, .. } => *progress >= Progress::Verified,
            State::Busy(Work::Fetch | Work::Verify) => false,
            State::Busy(Work::Prepare | Work::Spawn) | State::Running(_) => true,
        }
    }

    /// Takes in what happened. `jitter` in [0, 1] spreads retries.
    pub fn apply(&mut self, event: Event, now_ms: u64, jitter: f64) {
        match (event, &mut self.state) {
            (Event::Done(work), State::Busy(busy)) if work == *busy => self.state = done(work, now_ms),
            (Event::WorkFailed(work, fault), State::Busy(busy)) if work == *busy => {
                let resume = match work {
                    // A file that proved wrong, or is gone, is fetched again.
                    Work::Fetch | Work::Verify | Work::Prepare => Progress::New,
                    Work::Spawn if fault.reason == NOT_PREPARED => Progress::New,
                    Work::Spawn => Progress::Prepared,
                };
                let wait_ms = self.failed_once_more(jitter);
                self.fail(fault, resume, now_ms + wait_ms);
            }
            (Event::Status { phase, endpoint }, State::Running(running)) => {
                if phase == WorkerPhase::Serving && running.serving_since_ms.is_none() {
                    running.serving_since_ms = Some(now_ms);
                }
                running.phase = phase;
                running.endpoint = endpoint;
            }
            (Event::Measured(measured), State::Running(running)) => running.measured = Some(Box::new(measured)),
            (Event::Accepted(installed), State::Running(running)) => {
                running.installing = None;
                running.refused = None;
                // Answers come in the order of requests; a lower epoch can only be a late one.
                if running
                    .installed
                    .as_ref()
                    .is_none_or(|held| held.epoch <= installed.epoch)
                {
                    running.installed = Some(installed);
                }
            }
            (Event::Refused(offered, fault), State::Running(running)) => {
                running.installing = None;
                let failures = if fault.reason == UNREACHABLE {
                    1
                } else {
                    REFUSED_AS_FAILURES
                };
                let wait = retry::SHARD.wait(failures, jitter).as_millis() as u64;
                running.refused = Some(Refusal {
                    offered,
                    fault,
                    retry_at_ms: now_ms + wait,
                });
            }
            (Event::Exited(fault), State::Running(_)) => self.exited(fault, now_ms, jitter),
            // An answer that nobody waits for any more.
            _ => {}
        }
    }

    /// Its worker is gone.
    fn exited(&mut self, fault: Fault, now_ms: u64, jitter: f64) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        let asked = running.ends_as_asked();
        let condemned = running.condemned.take();
        let served_ms = running.serving_since_ms.map(|since| now_ms.saturating_sub(since));
        if served_ms.is_some_and(|served_ms| served_ms >= STEADY_MS) {
            (self.failures, self.crashes) = (0, Crashes::default());
        }
        // Weights that do not load are not trusted any more.
        let resume = if fault.reason == crate::worker::exit::BAD_WEIGHTS {
            Progress::New
        } else {
            Progress::Prepared
        };
        if asked {
            self.state = State::Idle(resume);
            return;
        }
        // No failure of its own: as soon as its device is ready it is started again.
        if let Some(fault) = condemned {
            self.fail(*fault, resume, now_ms);
            return;
        }
        let is_first = self.failures == 0;
        let wait_ms = self.failed_once_more(jitter);
        // Streams wait for one that served; only what fails again waits itself.
        let at_once = served_ms.is_some_and(|served_ms| is_first || served_ms >= WORTH_A_START_MS);
        let told = self.crashes.count(fault, now_ms);
        self.fail(told, resume, if at_once { now_ms } else { now_ms + wait_ms });
    }

    /// Counts a failure; how long after so many to wait.
    fn failed_once_more(&mut self, jitter: f64) -> u64 {
        self.failures = self.failures.saturating_add(1);
        retry::SHARD.wait(self.failures, jitter).as_millis() as u64
    }

    fn fail(&mut self, fault: Fault, resume: Progress, retry_at_ms: u64) {
        let measured = self.running().and_then(|running| running.measured.as_ref());
        let memory = measured.and_then(|measured| measured.memory);
        self.state = State::Failed {
            fault,
            resume,
            retry_at_ms,
            memory,
        };
    }
}

fn done(work: Work, now_ms: u64) -> State {
    match work {
        Work::Fetch => State::Idle(Progress::Fetched),
        Work::Verify => State::Idle(Progress::Verified),
        Work::Prepare => State::Idle(Progress::Prepared),
        Work::Spawn => State::Running(Running {
            since_ms: now_ms,
            serving_since_ms: None,
            phase: WorkerPhase::Starting,
            endpoint: None,
            installed: None,
            installing: None,
            refused: None,
            stop: None,
            condemned: None,
            measured: None,
        }),
    }
}
