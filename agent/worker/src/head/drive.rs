//! Drives the schedule: takes requests in, has the pipeline execute its steps, tells clients what came of it.
//!
//! Whatever breaks the pipeline ends its streams with an error and opens it anew; until it stands again, requests are
//! answered `UNAVAILABLE` at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use engine::sample::Sampling;
use identity::Credentials;
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event as WireEvent;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::backoff;
use super::pipeline::Pipeline;
use super::schedule::{Event, Failure, Finish, MAX_WAIT_US, MAX_WAITING, Refusal, Request, RequestId, Schedule};
use crate::metrics::Metrics;
use crate::placement::Installed;
use crate::stage::executor::elapsed_us;
use crate::stage::relay::superseded;
use crate::stage::thread::ComputeHandle;
use crate::step::{Reason, StepFault};

/// Requests between the service and the driver. The driver empties it before every step, so a full queue means a burst
/// beyond anything that could be seated.
pub const MAX_SUBMISSIONS: usize = MAX_WAITING;

/// What a client's stream carries.
pub type Events = Result<wire::GenerateEvent, Status>;

/// A request, checked as far as that needs no schedule.
#[derive(Debug)]
pub struct Submission {
    /// As it came.
    pub request: wire::GenerateRequest,
    /// Checked.
    pub sampling: Sampling,
    /// Has room for all events of the request.
    pub events: mpsc::Sender<Events>,
    /// Told once whether it is admitted.
    pub reply: oneshot::Sender<Result<(), Status>>,
}

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
                let metrics = self.metrics.clone();
                let opening = Pipeline::open(&compute, &credentials, &installed, metrics);
                self.refusing(opening, "the pipeline is being connected").await
            };
            match opened {
                None => return,
                Some(Ok(pipeline)) => {
                    tracing::info!(epoch = installed.epoch, "the pipeline stands");
                    failures = 0;
                    if self.serve(pipeline).await {
                        return;
                    }
                }
                Some(Err(cause)) => {
                    failures += 1;
                    tracing::warn!(epoch = installed.epoch, failures, %cause, "the pipeline cannot be opened");
                    let delay = backoff::delay(failures, backoff::random());
                    if !self.wait(Some(delay), &cause).await {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for a while, or until the placement changes; `false` when nobody can send requests any more.
    async fn wait(&mut self, delay: Option<std::time::Duration>, cause: &str) -> bool {
        let mut installed = self.installed.clone();
        let waiting = async move {
            let changed = async {
                if installed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            match delay {
                Some(delay) => drop(tokio::time::timeout(delay, changed).await),
                None => changed.await,
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
        let mut serving = Serving {
            driver: self,
            pipeline,
            schedule,
            streams: HashMap::new(),
            next_id: 1,
            clock: Instant::now(),
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
            streams = serving.streams.len(),
            cause = status.message(),
            "the pipeline ends"
        );
        serving.end(&status);
        serving.pipeline.close().await;
        matches!(ended, Ended::Closed)
    }
}

/// One pipeline's life.
struct Serving<'a> {
    driver: &'a mut Driver,
    pipeline: Pipeline,
    schedule: Schedule,
    streams: HashMap<RequestId, mpsc::Sender<Events>>,
    next_id: RequestId,
    clock: Instant,
}

impl Serving<'_> {
    async fn run(&mut self) -> Ended {
        loop {
            while let Ok(submission) = self.driver.submissions.try_recv() {
                self.admit(submission);
            }
            self.cancel_those_gone();
            let expired = self.schedule.expire(elapsed_us(self.clock));
            self.tell(expired);
            let step = self.schedule.compose();
            self.publish_load();
            let ended = match step {
                Some(step) => self.step(&step).await,
                None => self.idle().await,
            };
            if let Err(ended) = ended {
                return ended;
            }
        }
    }

    async fn step(&mut self, step: &crate::step::Step) -> Result<(), Ended> {
        let epoch = self.pipeline.epoch();
        let outcome = tokio::select! {
            biased;
            () = superseded(&mut self.driver.installed, epoch) => return Err(Ended::Superseded),
            outcome = self.pipeline.execute(step) => outcome,
        };
        match outcome {
            Ok(tokens) => {
                let events = self.schedule.complete(step.number, &tokens);
                let events = events.map_err(|mismatch| broken(mismatch.to_string()))?;
                self.tell(events);
                Ok(())
            }
            Err(fault) => match self.schedule.fail(&fault) {
                Failure::Broken => Err(Ended::Broken(fault)),
                Failure::Isolated(events) => {
                    self.tell(events);
                    self.pipeline.rollback(step.number).await.map_err(Ended::Broken)
                }
            },
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
        let submission = tokio::select! {
            submission = submissions.recv() => submission.ok_or(Ended::Closed)?,
            () = wake.notified() => return Ok(()),
            () = superseded(installed, epoch) => return Err(Ended::Superseded),
            fault = self.pipeline.broken() => return Err(Ended::Broken(fault)),
        };
        self.admit(submission);
        Ok(())
    }

    fn admit(&mut self, submission: Submission) {
        let Submission {
            request,
            sampling,
            events,
            reply,
        } = submission;
        let admitted = if self.driver.draining.is_cancelled() {
            Err(Status::unavailable("the worker is draining"))
        } else if request.epoch != self.pipeline.epoch() {
            Err(Status::failed_precondition("another epoch was installed meanwhile"))
        } else {
            let id = self.next_id;
            self.next_id += 1;
            tracing::debug!(id, request_id = %request.request_id, prompt = request.prompt_tokens.len(), "request");
            let request = Request {
                id,
                prompt: request.prompt_tokens,
                max_tokens: request.max_tokens,
                sampling,
                stop_tokens: request.stop_tokens,
            };
            let admitted = self.schedule.admit(request, elapsed_us(self.clock));
            admitted
                .map(|()| drop(self.streams.insert(id, events)))
                .map_err(|r| refused(&r))
        };
        // A client that does not wait for its answer is noticed as gone.
        let _ = reply.send(admitted);
    }

    fn cancel_those_gone(&mut self) {
        let gone: Vec<RequestId> = self
            .streams
            .iter()
            .filter(|(_, events)| events.is_closed())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.streams.remove(&id);
            self.schedule.cancel(id);
        }
    }

    fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            let (id, last, told) = match event {
                Event::Token { id, token, position } => {
                    self.driver.metrics.tokens.inc();
                    let token = wire::Token { id: token, position };
                    (
                        id,
                        false,
                        Ok(wire::GenerateEvent {
                            event: Some(WireEvent::Token(token)),
                        }),
                    )
                }
                Event::Finished {
                    id,
                    finish,
                    prompt_tokens,
                    completion_tokens,
                } => {
                    let reason = match finish {
                        Finish::Stop => wire::FinishReason::Stop,
                        Finish::Length => wire::FinishReason::Length,
                    };
                    let reason = reason.into();
                    let finished = wire::Finished {
                        reason,
                        prompt_tokens,
                        completion_tokens,
                    };
                    (
                        id,
                        true,
                        Ok(wire::GenerateEvent {
                            event: Some(WireEvent::Finished(finished)),
                        }),
                    )
                }
                Event::Failed { id, fault } => (id, true, Err(failed(&fault))),
                Event::TimedOut { id } => {
                    let message = format!("no sequence came free within {} s", MAX_WAIT_US / 1_000_000);
                    (id, true, Err(Status::resource_exhausted(message)))
                }
            };
            let stream = if last {
                self.streams.remove(&id)
            } else {
                self.streams.get(&id).cloned()
            };
            if let Some(stream) = stream {
                // Closed: the client has gone, which the next round notices. Full it cannot be.
                let _ = stream.try_send(told);
            }
        }
    }

    fn end(&mut self, status: &Status) {
        self.schedule.abandon();
        for (_, stream) in self.streams.drain() {
            let _ = stream.try_send(Err(status.clone()));
        }
        self.publish_load();
    }

    fn publish_load(&self) {
        let (running, waiting) = (self.schedule.running(), self.schedule.waiting());
        self.driver.metrics.active_sequences.set(running as i64);
        self.driver.metrics.queue_length.set(waiting as i64);
        self.driver.load.send_replace(running + waiting);
    }
}

fn broken(message: String) -> Ended {
    Ended::Broken(StepFault {
        stage: 0,
        reason: Reason::OutOfOrder,
        message,
    })
}

fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::EmptyPrompt | Refusal::NothingWanted | Refusal::PromptTooLong { .. } => {
            Status::invalid_argument(message)
        }
        Refusal::Full { .. } => Status::resource_exhausted(message),
    }
}

fn failed(fault: &StepFault) -> Status {
    match fault.reason {
        Reason::KvFull => Status::resource_exhausted(fault.to_string()),
        _ => Status::internal(fault.to_string()),
    }
}
