//! The thread that computes, and the bounded queue before it.
//!
//! Compute blocks for milliseconds to seconds: it never runs on the threads that carry bytes. A [`Session`] is one use of the
//! stage, from a reset to the next one; work of an older session is refused, so that a stream that was replaced cannot touch
//! the sequences of the one that replaced it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::executor::{Executed, Executor, Place};
use crate::compute::{Facts, LoadError, Loader};
use crate::step::{Reason, Step, StepFault};

/// Jobs that wait for the thread. Steps come one after the other; a reset or a rollback may stand behind one.
const QUEUE: usize = 8;

enum Job {
    Open {
        reply: Reply<u64>,
    },
    Execute {
        session: u64,
        step: Step,
        activations: Bytes,
        reply: Reply<Executed>,
    },
    Rollback {
        session: u64,
        from_number: u64,
        reply: Reply<()>,
    },
    Close {
        session: u64,
        reply: Reply<()>,
    },
}

type Reply<T> = oneshot::Sender<Result<T, StepFault>>;

/// Speaks to the compute thread. The thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct ComputeHandle {
    place: Place,
    facts: Facts,
    jobs: mpsc::Sender<Job>,
    active: Arc<AtomicUsize>,
}

/// One use of the stage; see the module.
#[derive(Debug)]
pub struct Session {
    id: u64,
    epoch: u64,
    compute: ComputeHandle,
}

/// Starts the thread and loads on it. The watch closes when the thread has ended, whatever the cause.
///
/// # Errors
/// When the system refuses a thread; a refused shard comes by the receiver.
pub fn start(place: Place, loader: Loader) -> std::io::Result<(Loading, watch::Receiver<()>)> {
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
        let active = Arc::new(AtomicUsize::new(0));
        let handle = ComputeHandle {
            place,
            facts: compute.facts(),
            jobs,
            active: Arc::clone(&active),
        };
        if loaded.send(Ok(handle)).is_ok() {
            work(Executor::new(place, compute), queue, &active);
        }
    };
    std::thread::Builder::new().name("compute".to_owned()).spawn(run)?;
    Ok((receiver, ended))
}

/// Answers once, when the shard is loaded or refused.
pub type Loading = oneshot::Receiver<Result<ComputeHandle, LoadError>>;

fn work(mut executor: Executor, mut queue: mpsc::Receiver<Job>, active: &AtomicUsize) {
    let mut current = 0;
    while let Some(job) = queue.blocking_recv() {
        // A reply that nobody awaits is fine: the effect is what counts.
        match job {
            Job::Open { reply } => {
                current += 1;
                let _ = reply.send(executor.reset().map(|()| current));
            }
            Job::Execute { session, reply, .. } if session != current => {
                let _ = reply.send(Err(replaced()));
            }
            Job::Rollback { session, reply, .. } | Job::Close { session, reply } if session != current => {
                let _ = reply.send(Err(replaced()));
            }
            Job::Execute {
                step,
                activations,
                reply,
                ..
            } => {
                let _ = reply.send(executor.execute(&step, &activations));
            }
            Job::Rollback { from_number, reply, .. } => {
                let _ = reply.send(executor.rollback(from_number));
            }
            Job::Close { reply, .. } => {
                let _ = reply.send(executor.reset());
            }
        }
        if let Some(cause) = executor.broken() {
            tracing::error!(cause, "the engine cannot go on; the worker ends");
            return;
        }
        active.store(executor.active_sequences(), Ordering::Relaxed);
    }
}

fn replaced() -> StepFault {
    let message = "a newer stream has taken this stage over".to_owned();
    StepFault {
        stage: 0,
        reason: Reason::Unreachable,
        message,
    }
}

impl ComputeHandle {
    /// What was loaded.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Where the stage stands.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Sequences of which the stage holds anything.
    pub fn active_sequences(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Takes the stage over: every sequence is forgotten, work of older sessions is refused from here on.
    ///
    /// # Errors
    /// When the sequences cannot be forgotten, or the thread has ended.
    pub async fn open(&self, epoch: u64) -> Result<Session, StepFault> {
        let id = self.call(|reply| Job::Open { reply }).await?;
        Ok(Session {
            id,
            epoch,
            compute: self.clone(),
        })
    }

    async fn call<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StepFault> {
        let (reply, answer) = oneshot::channel();
        let gone = |message: &str| {
            let (stage, message) = (self.place.stage, message.to_owned());
            StepFault {
                stage,
                reason: Reason::Unreachable,
                message,
            }
        };
        let sent = self.jobs.send(job(reply)).await;
        sent.map_err(|_| gone("the compute thread has ended"))?;
        let answered = answer
            .await
            .map_err(|_| gone("the compute thread ended in this step"))?;
        answered.map_err(|fault| StepFault {
            stage: self.place.stage,
            ..fault
        })
    }
}

impl Session {
    /// The epoch it was opened for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the stage stands.
    pub fn place(&self) -> Place {
        self.compute.place
    }

    /// See [`Executor::execute`]; a step of another epoch than the session's is refused. The step is executed even when the
    /// caller stops waiting.
    ///
    /// # Errors
    /// As the executor, and when a newer session has taken over or the thread has ended.
    pub async fn execute(&self, epoch: u64, step: Step, activations: Bytes) -> Result<Executed, StepFault> {
        if epoch != self.epoch {
            let message = format!("step {} is of epoch {epoch}, installed is {}", step.number, self.epoch);
            let stage = self.place().stage;
            return Err(StepFault {
                stage,
                reason: Reason::WrongEpoch,
                message,
            });
        }
        let session = self.id;
        self.compute
            .call(|reply| Job::Execute {
                session,
                step,
                activations,
                reply,
            })
            .await
    }

    /// See [`Executor::rollback`].
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn rollback(&self, from_number: u64) -> Result<(), StepFault> {
        let session = self.id;
        self.compute
            .call(|reply| Job::Rollback {
                session,
                from_number,
                reply,
            })
            .await
    }

    /// Forgets every sequence. A session that was taken over has nothing to forget any more.
    pub async fn close(&self) {
        let session = self.id;
        let closed = self.compute.call(|reply| Job::Close { session, reply }).await;
        if let Err(fault) = closed {
            tracing::debug!(%fault, "the session was not closed");
        }
    }
}
