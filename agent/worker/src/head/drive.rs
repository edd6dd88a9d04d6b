//! Drives the schedule: takes requests in, has the pipeline execute its steps, tells clients what came of it.
//!
//! Whatever breaks the pipeline ends its streams with an error and opens it anew; until it stands again, requests are
//! answered `UNAVAILABLE` at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::Credentials;
use lifecycle::backoff::{self, Policy};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::desk::{Desk, Submission};
use super::occupancy::Occupancy;
use super::pipeline::{Completed, Pipeline};
use super::schedule::{Event, Failure, MAX_WAITING, Relief, Schedule, Tuning};
use crate::memory::{Pressure, Rung};
use crate::metrics::Metrics;
use crate::placement::Installed;
use crate::stage::relay::superseded;
use crate::stage::thread::ComputeHandle;
use crate::step::{Reason, StepFault};

/// Between attempts to open the pipeline: a worker that restarts on the same node is back in little more than the first wait, and
/// one that comes back later is noticed within the cap. Nobody tells the head that a stage behind the next one has moved, so streams
/// wait for as long; a dial costs some milliseconds.
const REOPEN: Policy = Policy {
    first: Duration::from_millis(50),
    cap: Duration::from_millis(250),
};
/// Requests between the service and the driver, which takes them at once: a burst waits here for moments, and the service
/// waits with those that do not fit.
pub const MAX_SUBMISSIONS: usize = MAX_WAITING;

/// See the module.
#[derive(Debug)]
pub struct Driver {
    /// The own stage.
    pub compute: ComputeHandle,
    /// For dialling the next stage.
    pub credentials: Credentials,
    /// The placement in force.
    pub installed: watch::Receiver<Option<Arc<Installed>>>,
    /// From the service.
    pub submissions: mpsc::Receiver<Submission>,
    /// Told when a client has gone.
    pub wake: Arc<Notify>,
    /// No new request once cancelled.
    pub draining: CancellationToken,
    /// Requests that run or wait, for those who wait for the drain.
    pub load: watch::Sender<usize>,
    /// Whether stages that would idle may compute draft tokens.
    pub speculates: bool,
    /// How short of memory the own stage is.
    pub pressure: watch::Receiver<Pressure>,
    /// Counts.
    pub metrics: Metrics,
}

/// Why a pipeline is not used any more.
enum Ended {
    /// Another placement: streams may be resumed elsewhere.
    Superseded,
    /// A stage was lost.
    Broken(StepFault),
    /// Nobody can send requests any more.
    Closed,
}

impl Driver {
    /// Runs until the service has gone.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            let Some(installed) = self.installed.borrow_and_update().clone() else {
                if !self.wait(None, "no placement is installed yet").await {
                    return;
                }
                continue;
            };
            let opened = {
                let (compute, credentials) = (self.compute.clone(), self.credentials.clone());
                let (metrics, mut newer) = (self.metrics.clone(), self.installed.clone());
                let opening = async {
                    tokio::select! {
                        opened = Pipeline::open(&compute, &credentials, &installed, metrics) => Some(opened),
                        // To dial on where nobody is expected any more would only cost time.
                        () = replaced(&mut newer) => None,
                    }
                };
                self.refusing(opening, "the pipeline is being connected").await
            };
            match opened {
                None => return,
                Some(None) => {}
                Some(Some(Ok(pipeline))) => {
                    tracing::info!(epoch = installed.epoch, "the pipeline stands");
                    failures = 0;
                    if self.serve(pipeline).await {
                        return;
                    }
                }
                Some(Some(Err(cause))) => {
                    failures += 1;
                    tracing::warn!(epoch = installed.epoch, failures, %cause, "the pipeline cannot be opened");
                    let delay = REOPEN.wait(failures, backoff::jitter());
                    if !self.wait(Some(delay), &cause).await {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for a while, or until the placement changes; `false` when nobody can send requests any more.
    async fn wait(&mut self, delay: Option<Duration>, cause: &str) -> bool {
        let mut installed = self.installed.clone();
        let waiting = async move {
            let replaced = replaced(&mut installed);
            match delay {
                Some(delay) => drop(tokio::time::timeout(delay, replaced).await),
                None => replaced.await,
            }
        };
        self.refusing(waiting, cause).await.is_some()
    }

    /// Awaits something while requests are answered `UNAVAILABLE`; `None` when nobody can send any.
    async fn refusing<T>(&mut self, awaited: impl Future<Output = T>, cause: &str) -> Option<T> {
        tokio::pin!(awaited);
        loop {
            tokio::select! {
                done = &mut awaited => return Some(done),
                submission = self.submissions.recv() => {
                    let message = format!("the model cannot answer now: {cause}");
                    // A client that does not wait for its answer needs none.
                    let _ = submission?.reply.send(Err(Status::unavailable(message)));
                }
            }
        }
    }

    /// Serves over a pipeline until it ends; `true` when nobody can send requests any more.
    async fn serve(&mut self, pipeline: Pipeline) -> bool {
        let epoch = pipeline.epoch();
        let limits = self.compute.place().limits;
        let tuning = Tuning::new(pipeline.stages(), &limits);
        let tuning = Tuning {
            restarts: !self.compute.facts().shares_prefixes,
            speculates: self.speculates && tuning.speculates,
            ..tuning
        };
        let schedule = Schedule::new(limits, tuning);
        let (draining, load, metrics) = (self.draining.clone(), self.load.clone(), self.metrics.clone());
        let occupancy = Occupancy::new(pipeline.stages(), metrics.clone());
        let desk = Desk::new(schedule, epoch, draining, load, metrics);
        let mut serving = Serving {
            driver: self,
            pipeline,
            desk,
            occupancy,
            untold: Vec::new(),
        };
        let ended = serving.run().await;
        let status = match &ended {
            Ended::Superseded => Status::failed_precondition(format!("epoch {epoch} is no longer installed")),
            // A later stage was told of it first.
            Ended::Broken(fault) if fault.reason == Reason::WrongEpoch => {
                Status::failed_precondition(format!("another epoch is being installed: {fault}"))
            }
            Ended::Broken(fault) => Status::unavailable(format!("the pipeline broke: {fault}")),
            Ended::Closed => Status::unavailable("the worker is ending"),
        };
        tracing::info!(
            epoch,
            clients = serving.desk.clients(),
            cause = status.message(),
            "the pipeline ends"
        );
        // Who was done before it ended hears that.
        let untold = std::mem::take(&mut serving.untold);
        serving.desk.tell(untold);
        serving.desk.end(&status);
        let Serving { pipeline, .. } = serving;
        // The engine may be in the middle of a long step, or hang: nobody is kept waiting for it.
        let closed = self.refusing(pipeline.close(), status.message()).await;
        closed.is_none() || matches!(ended, Ended::Closed)
    }
}

/// Returns when another placement, or another place where the next stage listens, is published.
async fn replaced(installed: &mut watch::Receiver<Option<Arc<Installed>>>) {
    if installed.changed().await.is_err() {
        // The worker is ending, and the driver with it.
        std::future::pending::<()>().await;
    }
}

/// One pipeline's life.
struct Serving<'a> {
    driver: &'a mut Driver,
    pipeline: Pipeline,
    desk: Desk,
    occupancy: Occupancy,
    /// For clients, once the stages have their next steps: telling them takes time in which these compute.
    untold: Vec<Event>,
}

/// What ended a wait.
enum Happened {
    Completed(Completed),
    Submitted(Box<Submission>),
    /// A client has gone, a request has waited too long, or memory is short: the next look at the desk does what is due.
    Woken,
}

impl Serving<'_> {
    async fn run(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.turn().await {
                return ended;
            }
        }
    }

    /// Keeps the stages in work, tells clients what came of it, and waits for what happens next.
    async fn turn(&mut self) -> Result<(), Ended> {
        self.desk.relieve(relief(self.driver.pressure.borrow_and_update().rung));
        // Requests are heard however fast steps are answered.
        while let Ok(submission) = self.driver.submissions.try_recv() {
            self.desk.admit(submission);
        }
        if let Some(round_trip) = self.pipeline.round_trip() {
            self.desk.measured(round_trip);
        }
        while let Some(step) = self.desk.next_step() {
            self.pipeline.submit(&step).await.map_err(Ended::Broken)?;
        }
        self.occupancy.observe(self.pipeline.in_flight() > 0, Instant::now());
        self.desk.tell(std::mem::take(&mut self.untold));
        match self.wait().await? {
            Happened::Completed(completed) => self.complete(completed).await,
            Happened::Submitted(submission) => {
                self.desk.admit(*submission);
                Ok(())
            }
            Happened::Woken => Ok(()),
        }
    }

    async fn wait(&mut self) -> Result<Happened, Ended> {
        let epoch = self.pipeline.epoch();
        let Driver {
            submissions,
            installed,
            wake,
            pressure,
            ..
        } = &mut *self.driver;
        let pipeline = &mut self.pipeline;
        let progress = async {
            if pipeline.in_flight() > 0 {
                Ok(Happened::Completed(pipeline.next().await))
            } else {
                Err(Ended::Broken(pipeline.broken().await))
            }
        };
        let late = self.desk.next_deadline();
        let late = async {
            match late {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = superseded(installed, epoch) => Err(Ended::Superseded),
            happened = progress => happened,
            submission = submissions.recv() => {
                Ok(Happened::Submitted(Box::new(submission.ok_or(Ended::Closed)?)))
            }
            () = wake.notified() => Ok(Happened::Woken),
            () = late => Ok(Happened::Woken),
            () = changed(pressure) => Ok(Happened::Woken),
        }
    }

    async fn complete(&mut self, completed: Completed) -> Result<(), Ended> {
        let Completed { number, outcome } = completed;
        match outcome {
            Ok(tokens) => {
                let events = self.desk.complete(number, &tokens);
                self.untold = events.map_err(|mismatch| broken(mismatch.to_string()))?;
                Ok(())
            }
            Err(fault) => match self.desk.fail(number, &fault) {
                Failure::Broken => Err(Ended::Broken(fault)),
                Failure::Isolated(events) => {
                    self.untold = events;
                    self.rollback(number).await
                }
            },
        }
    }

    /// A stage may be long about it: another placement does not wait for that.
    async fn rollback(&mut self, number: u64) -> Result<(), Ended> {
        let epoch = self.pipeline.epoch();
        tokio::select! {
            biased;
            () = superseded(&mut self.driver.installed, epoch) => Err(Ended::Superseded),
            undone = self.pipeline.rollback(number) => undone.map_err(Ended::Broken),
        }
    }
}

/// Returns when memory is shorter or less short than it was; never when nobody measures it.
async fn changed(pressure: &mut watch::Receiver<Pressure>) {
    if pressure.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn relief(rung: Rung) -> Relief {
    match rung {
        Rung::Calm => Relief::None,
        Rung::AdmissionStopped => Relief::SeatNobody,
        Rung::EvictingPrefixes => Relief::ForgetPrefixes,
    }
}

fn broken(message: String) -> Ended {
    Ended::Broken(StepFault {
        stage: 0,
        reason: Reason::OutOfOrder,
        message,
    })
}
