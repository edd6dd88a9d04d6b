//! Drives the schedule: takes requests in, has the pipeline execute its steps, tells clients what came of it.
//!
//! Whatever breaks the pipeline ends its streams with an error and opens it anew; until it stands again, requests are
//! answered `UNAVAILABLE` at once.

use std::sync::Arc;
use std::time::Duration;

use identity::Credentials;
use lifecycle::backoff::{self, Policy};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::desk::{Desk, Submission};
use super::pipeline::Pipeline;
use super::schedule::{Failure, MAX_WAITING, Schedule};
use crate::metrics::Metrics;
use crate::placement::Installed;
use crate::stage::relay::superseded;
use crate::stage::thread::ComputeHandle;
use crate::step::{Reason, Sampled, Step, StepFault};

/// Between attempts to open the pipeline: a worker that restarts on the same node is back in little more than the first wait, and
/// one that comes back later is noticed within the cap.
const REOPEN: Policy = Policy {
    first: Duration::from_millis(50),
    cap: Duration::from_secs(2),
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
        let schedule = Schedule::new(self.compute.place().limits);
        let (draining, load, metrics) = (self.draining.clone(), self.load.clone(), self.metrics.clone());
        let desk = Desk::new(schedule, epoch, draining, load, metrics);
        let mut serving = Serving {
            driver: self,
            pipeline,
            desk,
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
}

impl Serving<'_> {
    async fn run(&mut self) -> Ended {
        loop {
            let ended = match self.desk.next_step() {
                Some(step) => self.step(&step).await,
                None => self.idle().await,
            };
            if let Err(ended) = ended {
                return ended;
            }
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), Ended> {
        match self.execute(step).await? {
            Ok(tokens) => {
                let events = self.desk.schedule.complete(step.number, &tokens);
                let events = events.map_err(|mismatch| broken(mismatch.to_string()))?;
                self.desk.tell(events);
                Ok(())
            }
            Err(fault) => match self.desk.schedule.fail(&fault) {
                Failure::Broken => Err(Ended::Broken(fault)),
                Failure::Isolated(events) => {
                    self.desk.tell(events);
                    self.pipeline.rollback(step.number).await.map_err(Ended::Broken)
                }
            },
        }
    }

    /// Has the pipeline execute a step; requests are received meanwhile.
    async fn execute(&mut self, step: &Step) -> Result<Result<Vec<Sampled>, StepFault>, Ended> {
        let epoch = self.pipeline.epoch();
        let Driver {
            submissions, installed, ..
        } = &mut *self.driver;
        let executed = self.pipeline.execute(step);
        tokio::pin!(executed);
        loop {
            tokio::select! {
                biased;
                () = superseded(installed, epoch) => return Err(Ended::Superseded),
                outcome = &mut executed => return Ok(outcome),
                submission = submissions.recv() => self.desk.admit(submission.ok_or(Ended::Closed)?),
            }
        }
    }

    async fn idle(&mut self) -> Result<(), Ended> {
        let epoch = self.pipeline.epoch();
        let Driver {
            submissions,
            installed,
            wake,
            ..
        } = &mut *self.driver;
        tokio::select! {
            submission = submissions.recv() => self.desk.admit(submission.ok_or(Ended::Closed)?),
            () = wake.notified() => {}
            () = superseded(installed, epoch) => return Err(Ended::Superseded),
            fault = self.pipeline.broken() => return Err(Ended::Broken(fault)),
        }
        Ok(())
    }
}

fn broken(message: String) -> Ended {
    Ended::Broken(StepFault {
        stage: 0,
        reason: Reason::OutOfOrder,
        message,
    })
}
