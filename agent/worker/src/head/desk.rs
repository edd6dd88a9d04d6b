//! Where clients are received: admits their requests to the schedule and tells them what came of it.

use std::collections::HashMap;
use std::time::Instant;

use engine::sample::Sampling;
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event as WireEvent;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::schedule::{Event, Finish, MAX_WAIT_US, Refusal, Request, RequestId, Schedule};
use crate::metrics::Metrics;
use crate::stage::executor::elapsed_us;
use crate::step::{Reason, Step, StepFault};

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

/// The clients of one pipeline.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) schedule: Schedule,
    streams: HashMap<RequestId, mpsc::Sender<Events>>,
    next_id: RequestId,
    clock: Instant,
    epoch: u64,
    draining: CancellationToken,
    load: watch::Sender<usize>,
    metrics: Metrics,
}

impl Desk {
    /// Nobody is there yet. `load` is told how many requests run or wait.
    pub(super) fn new(
        schedule: Schedule,
        epoch: u64,
        draining: CancellationToken,
        load: watch::Sender<usize>,
        metrics: Metrics,
    ) -> Self {
        let (streams, clock) = (HashMap::new(), Instant::now());
        Self {
            schedule,
            streams,
            next_id: 1,
            clock,
            epoch,
            draining,
            load,
            metrics,
        }
    }

    /// Answers a request, and keeps its stream when it is admitted.
    pub(super) fn admit(&mut self, submission: Submission) {
        let Submission {
            request,
            sampling,
            events,
            reply,
        } = submission;
        let admitted = if self.draining.is_cancelled() {
            Err(Status::unavailable("the worker is draining"))
        } else if request.epoch != self.epoch {
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
        self.publish_load();
    }

    /// Forgets clients that have dropped their streams, and requests that have waited too long; then the next step.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        self.cancel_those_gone();
        let expired = self.schedule.expire(elapsed_us(self.clock));
        self.tell(expired);
        let step = self.schedule.compose();
        self.publish_load();
        step
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

    /// Hands events to the clients whom they concern.
    pub(super) fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Token { id, token, position } => {
                    self.metrics.tokens.inc();
                    let token = WireEvent::Token(wire::Token { id: token, position });
                    if let Some(stream) = self.streams.get(&id) {
                        // Closed: the client has gone, which the next round notices. Full it cannot be.
                        let _ = stream.try_send(Ok(wire::GenerateEvent { event: Some(token) }));
                    }
                }
                Event::Finished {
                    id,
                    finish,
                    prompt_tokens,
                    completion_tokens,
                } => {
                    let reason = match finish {
                        Finish::Stop => wire::FinishReason::Stop.into(),
                        Finish::Length => wire::FinishReason::Length.into(),
                    };
                    let finished = WireEvent::Finished(wire::Finished {
                        reason,
                        prompt_tokens,
                        completion_tokens,
                    });
                    self.tell_last(id, Ok(wire::GenerateEvent { event: Some(finished) }));
                }
                Event::Failed { id, fault } => self.tell_last(id, Err(failed(&fault))),
                Event::TimedOut { id } => {
                    let message = format!("no sequence came free within {} s", MAX_WAIT_US / 1_000_000);
                    self.tell_last(id, Err(Status::resource_exhausted(message)));
                }
            }
        }
    }

    fn tell_last(&mut self, id: RequestId, event: Events) {
        if let Some(stream) = self.streams.remove(&id) {
            // Closed: the client has gone.
            let _ = stream.try_send(event);
        }
    }

    /// Clients that still expect an event.
    pub(super) fn clients(&self) -> usize {
        self.streams.len()
    }

    /// The last word to everyone.
    pub(super) fn end(&mut self, status: &Status) {
        self.schedule.abandon();
        for (_, stream) in self.streams.drain() {
            let _ = stream.try_send(Err(status.clone()));
        }
        self.publish_load();
    }

    fn publish_load(&self) {
        let (running, waiting) = (self.schedule.running(), self.schedule.waiting());
        self.metrics.active_sequences.set(running as i64);
        self.metrics.queue_length.set(waiting as i64);
        self.load.send_replace(running + waiting);
    }
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
