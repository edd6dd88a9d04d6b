//! The thread that computes, and the bounded queue before it.
//!
//! Compute blocks for milliseconds to seconds: it never runs on the threads that carry bytes. A [`Session`] is one use of the
//! stage, from a reset to the next one; work of an older session is refused, so that a stream that was replaced cannot touch
//! the sequences of the one that replaced it.
//!
//! Steps are queued without waiting for their outcome. What a step leaves goes from this thread straight to the stream to the
//! next stage, so that the next step computes while it travels; the session is told of every job in the order of the jobs.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use tokio::sync::{mpsc, oneshot, watch};

use super::executor::{Executor, Place, Yield};
use super::job_clock::JobClock;
use super::link::{MAX_IN_FLIGHT, Outgoing};
use crate::awake::{Awake, Carrier};
use crate::compute::{Facts, LoadError, Loader};
use crate::placement::Stand;
use crate::step::{Reason, Sampled, Step, StepFault};

/// Jobs that wait for the thread: the steps that may be under way, and a rollback, a reset and a take-over behind them.
const QUEUE: usize = MAX_IN_FLIGHT + 4;

/// Number of a step that nothing comes after: no step is void.
const NONE_VOID: u64 = u64::MAX;

enum Job {
    Open {
        session: u64,
        line: Arc<Line>,
        done: mpsc::Sender<Done>,
        reply: Reply,
    },
    Step {
        session: u64,
        step: Step,
        activations: Bytes,
    },
    Rollback {
        session: u64,
        from_number: u64,
    },
    Close {
        session: u64,
        reply: Reply,
    },
}

type Reply = oneshot::Sender<Result<(), StepFault>>;

/// What a session and the thread share.
#[derive(Debug)]
struct Line {
    stand: Stand,
    /// To the next stage; none on the tail. Weak: whoever drops the link ends the stream, even while the engine hangs.
    forward: OnceLock<Outgoing>,
    /// Queued steps from this number on are refused instead of computed.
    void_from: AtomicU64,
    /// The session is not used any more: nothing of it is computed.
    ended: AtomicBool,
}

/// What came of a session's job, in the order of the jobs.
#[derive(Debug)]
pub enum Done {
    /// A step was computed, or not.
    Step(StepDone),
    /// The steps of a rollback are undone here, and the next stage is told to.
    RolledBack(Result<(), StepFault>),
}

/// One step on this stage.
#[derive(Debug)]
pub struct StepDone {
    /// Its number.
    pub number: u64,
    /// Its rows.
    pub rows: usize,
    /// Position of the last of them.
    pub position: u32,
    /// What it left, or why it was not executed.
    pub outcome: Result<Left, StepFault>,
    /// Time in the engine, microseconds; 0 when it was not executed.
    pub compute_us: u64,
}

/// Where the outcome of an executed step is.
#[derive(Debug, PartialEq)]
pub enum Left {
    /// On its way to the next stage.
    Forwarded,
    /// Here: the tail's tokens.
    Tokens(Vec<Sampled>),
}

/// Speaks to the compute thread. The thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct ComputeHandle {
    place: Place,
    facts: Facts,
    jobs: mpsc::Sender<Job>,
    active: Arc<AtomicUsize>,
    /// The session that was opened last.
    latest: Arc<AtomicU64>,
    clock: Arc<JobClock>,
    carrier: Carrier,
}

/// One use of the stage; see the module.
#[derive(Debug)]
pub struct Session {
    id: u64,
    line: Arc<Line>,
    done: mpsc::Receiver<Done>,
    compute: ComputeHandle,
}

/// Starts the thread and loads on it; `awake` hears of every step. The watch closes when the thread has ended, whatever the cause.
///
/// # Errors
/// When the system refuses a thread; a refused shard comes by the receiver.
pub fn start(place: Place, loader: Loader, awake: Awake) -> std::io::Result<(Loading, watch::Receiver<()>)> {
    let (loaded, receiver) = oneshot::channel();
    let (alive, ended) = watch::channel(());
    let run = move || {
        let _alive = alive;
        let compute = match loader() {
            Ok(compute) => compute,
            Err(error) => {
                // Nobody waits any more: the process is on its way out.
                let _ = loaded.send(Err(error));
                return;
            }
        };
        let (jobs, queue) = mpsc::channel(QUEUE);
        let facts = compute.facts();
        let place = place.with(facts);
        let handle = ComputeHandle {
            place,
            facts,
            jobs,
            active: Arc::default(),
            latest: Arc::default(),
            clock: Arc::new(JobClock::new()),
            carrier: awake.carrier(),
        };
        let work = Work {
            executor: Executor::new(place, compute),
            current: None,
            active: Arc::clone(&handle.active),
            latest: Arc::clone(&handle.latest),
            clock: Arc::clone(&handle.clock),
            awake,
        };
        if loaded.send(Ok(handle)).is_ok() {
            work.run(queue);
        }
    };
    std::thread::Builder::new().name("compute".to_owned()).spawn(run)?;
    Ok((receiver, ended))
}

/// Answers once, when the shard is loaded or refused.
pub type Loading = oneshot::Receiver<Result<ComputeHandle, LoadError>>;

/// The thread's own.
struct Work {
    executor: Executor,
    current: Option<Current>,
    active: Arc<AtomicUsize>,
    latest: Arc<AtomicU64>,
    clock: Arc<JobClock>,
    awake: Awake,
}

/// The session whose jobs are done.
struct Current {
    id: u64,
    line: Arc<Line>,
    done: mpsc::Sender<Done>,
}

impl Work {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            self.clock.begin();
            self.job(job);
            self.clock.end();
            if let Some(cause) = self.executor.broken() {
                tracing::error!(cause, "the engine cannot go on; the worker ends");
                return;
            }
            self.active.store(self.executor.active_sequences(), Ordering::Relaxed);
        }
    }

    /// An answer that nobody awaits is fine: the effect is what counts.
    fn job(&mut self, job: Job) {
        match job {
            Job::Open {
                session,
                line,
                done,
                reply,
            } => {
                // The session before hears that its channel is closed.
                let id = session;
                self.current = Some(Current { id, line, done });
                let _ = reply.send(self.executor.reset());
            }
            Job::Step {
                session,
                step,
                activations,
            } => {
                self.step(session, &step, &activations);
                self.awake.computed();
            }
            Job::Rollback { session, from_number } => self.rollback(session, from_number),
            Job::Close { session, reply } => {
                let ours = self.current.as_ref().is_some_and(|current| current.id == session);
                let closed = if ours { self.executor.reset() } else { Ok(()) };
                let _ = reply.send(closed);
            }
        }
    }

    fn step(&mut self, session: u64, step: &Step, activations: &[u8]) {
        let Self {
            executor,
            current,
            latest,
            ..
        } = self;
        let Some(current) = current.as_ref().filter(|current| current.id == session) else {
            return;
        };
        let refused = if latest.load(Ordering::SeqCst) == session {
            current.line.refusal(step.number)
        } else {
            Some(taken_over())
        };
        let executed = match refused {
            Some(fault) => Err(fault),
            None => executor.execute(step, activations),
        };
        let compute_us = executed.as_ref().map_or(0, |executed| executed.compute_us);
        current.leave(step, executed.map(|executed| executed.yields), compute_us);
    }

    fn rollback(&mut self, session: u64, from_number: u64) {
        let Some(current) = self.current.as_ref().filter(|current| current.id == session) else {
            return;
        };
        let undone = self.executor.rollback(from_number);
        let undone = undone.and_then(|()| current.line.forward_rollback(from_number));
        current.line.void_from.store(NONE_VOID, Ordering::SeqCst);
        current.tell(Done::RolledBack(undone));
    }
}

impl Current {
    /// Hands on what a step left. The session is told first: the answer of the next stage cannot overtake that.
    fn leave(&self, step: &Step, executed: Result<Yield, StepFault>, compute_us: u64) {
        let told = |outcome| {
            let (number, rows) = (step.number, step.rows.len());
            let position = step.rows.last().map_or(0, |row| row.position);
            self.tell(Done::Step(StepDone {
                number,
                rows,
                position,
                outcome,
                compute_us,
            }));
        };
        let activations = match executed {
            Ok(Yield::Activations(activations)) => activations,
            Ok(Yield::Tokens(tokens)) => return told(Ok(Left::Tokens(tokens))),
            Err(fault) => return told(Err(fault)),
        };
        let Some(outgoing) = self.line.forward.get().and_then(Outgoing::upgrade) else {
            // The stream has ended; whoever holds the link is told why by it.
            return told(Ok(Left::Forwarded));
        };
        match outgoing.try_reserve() {
            Ok(place) => {
                told(Ok(Left::Forwarded));
                let step = step.to_wire(self.line.stand.epoch, activations);
                place.send(message(Message::Step(step)));
            }
            Err(mpsc::error::TrySendError::Closed(())) => told(Ok(Left::Forwarded)),
            Err(mpsc::error::TrySendError::Full(())) => told(Err(congested())),
        }
    }

    fn tell(&self, done: Done) {
        // Closed: the session is not used any more. Full it cannot be: there is a place for every job of the queue, and those
        // who hold a session take what is done before they submit more than may be under way.
        if let Err(mpsc::error::TrySendError::Full(done)) = self.done.try_send(done) {
            tracing::error!(?done, "nobody takes what was computed");
        }
    }
}

impl Line {
    fn refusal(&self, number: u64) -> Option<StepFault> {
        if self.ended.load(Ordering::SeqCst) {
            return Some(taken_over());
        }
        if number < self.void_from.load(Ordering::SeqCst) {
            return None;
        }
        let message = format!("step {number} was rolled back before it was computed");
        Some(fault(Reason::OutOfOrder, message))
    }

    fn forward_rollback(&self, from_number: u64) -> Result<(), StepFault> {
        // Closed: whoever holds the link is told why by it.
        let Some(outgoing) = self.forward.get().and_then(Outgoing::upgrade) else {
            return Ok(());
        };
        let rollback = message(Message::Rollback(wire::Rollback { from_number }));
        match outgoing.try_send(rollback) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(congested()),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

fn message(message: Message) -> wire::CarryMessage {
    wire::CarryMessage { message: Some(message) }
}

/// The stage is filled in by the one who holds the session.
fn fault(reason: Reason, message: String) -> StepFault {
    let stage = 0;
    StepFault { stage, reason, message }
}

fn taken_over() -> StepFault {
    fault(
        Reason::Unreachable,
        "a newer stream has taken this stage over".to_owned(),
    )
}

fn gone() -> StepFault {
    fault(Reason::Unreachable, "the compute thread has ended".to_owned())
}

fn congested() -> StepFault {
    fault(Reason::Unreachable, "the next stage takes nothing more".to_owned())
}

impl ComputeHandle {
    /// What was loaded.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// What the stage is. It has slots for prefixes only where what was loaded can share them.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Returns once the thread has been at one job for `limit`, at the latest a quarter of it later.
    pub async fn stuck(&self, limit: Duration) {
        self.clock.overdue(limit).await;
    }

    /// Sequences of which the stage holds anything; kept prefixes do not count.
    pub fn active_sequences(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Takes the stage over for a pipeline in which it stands so: every sequence is forgotten, work of older sessions is
    /// refused from here on.
    ///
    /// # Errors
    /// When the sequences cannot be forgotten, or the thread has ended.
    pub async fn open(&self, stand: Stand) -> Result<Session, StepFault> {
        let id = self.latest.fetch_add(1, Ordering::SeqCst) + 1;
        let line = Arc::new(Line {
            stand,
            forward: OnceLock::new(),
            void_from: AtomicU64::new(NONE_VOID),
            ended: AtomicBool::new(false),
        });
        let (done, receiver) = mpsc::channel(QUEUE);
        let open = |reply| Job::Open {
            session: id,
            line: Arc::clone(&line),
            done,
            reply,
        };
        self.call(open).await.map_err(|fault| stand.here(fault))?;
        Ok(Session {
            id,
            line,
            done: receiver,
            compute: self.clone(),
        })
    }

    async fn call(&self, job: impl FnOnce(Reply) -> Job) -> Result<(), StepFault> {
        let (reply, answer) = oneshot::channel();
        self.queue(job(reply)).await?;
        answer.await.map_err(|_| gone())?
    }

    async fn queue(&self, job: Job) -> Result<(), StepFault> {
        self.jobs.send(job).await.map_err(|_| gone())
    }
}

impl Stand {
    /// A fault of this stage.
    fn here(self, fault: StepFault) -> StepFault {
        let stage = self.stage;
        StepFault { stage, ..fault }
    }
}

impl Session {
    /// The epoch it was opened for.
    pub fn epoch(&self) -> u64 {
        self.line.stand.epoch
    }

    /// Where the stage stands in the pipeline that it was opened for.
    pub fn stand(&self) -> Stand {
        self.line.stand
    }

    /// What the stage is.
    pub fn place(&self) -> Place {
        self.compute.place
    }

    /// Where the activations of its steps go from now on; called once, before the first step.
    pub fn forward_to(&self, outgoing: Outgoing) {
        // Set already: the first link is the one that its steps belong to.
        let _ = self.line.forward.set(outgoing);
    }

    /// Queues a step; [`Session::done`] tells what came of it. It is executed even when nobody waits for that.
    ///
    /// At most [`MAX_IN_FLIGHT`] steps may be queued and not told of.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn submit(&self, step: Step, activations: Bytes) -> Result<(), StepFault> {
        let session = self.id;
        self.compute.carrier.here();
        let queued = self.compute.queue(Job::Step {
            session,
            step,
            activations,
        });
        queued.await.map_err(|fault| self.line.stand.here(fault))
    }

    /// Undoes the steps from a number on, here and on all later stages; steps still in the queue are refused.
    /// [`Session::done`] tells when that is done here. No step may be queued before that.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn rollback(&self, from_number: u64) -> Result<(), StepFault> {
        self.line.void_from.store(from_number, Ordering::SeqCst);
        let session = self.id;
        let queued = self.compute.queue(Job::Rollback { session, from_number }).await;
        queued.map_err(|fault| self.line.stand.here(fault))
    }

    /// What came of the oldest job that was not told of. Cancel-safe.
    ///
    /// # Errors
    /// When a newer session has taken the stage over, or the thread has ended.
    pub async fn done(&mut self) -> Result<Done, StepFault> {
        match self.done.recv().await {
            Some(done) => Ok(self.placed(done)),
            None if self.compute.jobs.is_closed() => Err(self.line.stand.here(gone())),
            None => Err(self.line.stand.here(taken_over())),
        }
    }

    /// As [`Session::done`], without waiting.
    pub fn try_done(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        Some(self.placed(done))
    }

    fn placed(&self, done: Done) -> Done {
        let here = |fault| self.line.stand.here(fault);
        match done {
            Done::Step(step) => Done::Step(StepDone {
                outcome: step.outcome.map_err(here),
                ..step
            }),
            Done::RolledBack(undone) => Done::RolledBack(undone.map_err(here)),
        }
    }

    /// Forgets every sequence; what is still queued is not computed. A session that was taken over has nothing to forget.
    pub async fn close(self) {
        self.line.ended.store(true, Ordering::SeqCst);
        let session = self.id;
        let closed = self.compute.call(|reply| Job::Close { session, reply }).await;
        if let Err(fault) = closed {
            tracing::debug!(%fault, "the session was not closed");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.line.ended.store(true, Ordering::SeqCst);
    }
}
