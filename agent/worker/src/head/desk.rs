//! Where clients are received: admits their requests to the schedule and tells them what came of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use engine::sample::Sampling;
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event as WireEvent;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::pace::Pace;
use super::schedule::{
    CellUse, Event, Failure, Finish, MAX_WAIT_US, Mismatch, Refusal, Relief, Request, RequestId, RoundTrip, Schedule,
    Tally,
};
use crate::metrics::Metrics;
use crate::stage::executor::elapsed_us;
use crate::step::{Reason, Sampled, Step, StepFault};

/// Metadata of a refusal: seconds until the request has a chance.
pub const RETRY_AFTER: &str = "retry-after";

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
    schedule: Schedule,
    streams: HashMap<RequestId, mpsc::Sender<Events>>,
    next_id: RequestId,
    clock: Instant,
    pace: Pace,
    /// What the metrics have of it already.
    tally: Tally,
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
            pace: Pace::default(),
            tally: Tally::default(),
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
            let max_wait_us = match request.max_wait_ms {
                0 => MAX_WAIT_US,
                limit_ms => u64::from(limit_ms) * 1000,
            };
            let request = Request {
                id,
                prompt: request.prompt_tokens,
                max_tokens: request.max_tokens,
                sampling,
                stop_tokens: request.stop_tokens,
                max_wait_us,
                prefix_scope: request.prefix_scope,
                resumed: request.resumed,
            };
            let admitted = self.schedule.admit(request, elapsed_us(self.clock));
            admitted
                .map(|()| drop(self.streams.insert(id, events)))
                .map_err(|refusal| self.refused(&refusal))
        };
        // A client that does not wait for its answer is noticed as gone.
        let _ = reply.send(admitted);
        self.publish_load();
    }

    /// Forgets clients that have dropped their streams, and requests that have waited too long; then the next step, if another
    /// one may be under way.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        self.cancel_those_gone();
        let now_us = elapsed_us(self.clock);
        let expired = self.schedule.expire(now_us);
        self.tell(expired);
        let step = self.schedule.compose(now_us);
        self.publish_load();
        step
    }

    /// See [`Schedule::complete`]; the events are for [`Desk::tell`].
    pub(super) fn complete(&mut self, number: u64, tokens: &[Sampled]) -> Result<Vec<Event>, Mismatch> {
        self.schedule.complete(number, tokens)
    }

    /// See [`Schedule::fail`].
    pub(super) fn fail(&mut self, number: u64, fault: &StepFault) -> Failure {
        self.schedule.fail(number, fault)
    }

    /// See [`Schedule::measured`].
    pub(super) fn measured(&mut self, round_trip: RoundTrip) {
        self.schedule.measured(round_trip);
    }

    /// See [`Schedule::relieve`].
    pub(super) fn relieve(&mut self, relief: Relief) {
        self.schedule.relieve(relief);
    }

    /// When a request will have waited too long, if none is seated before.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline_us = self.schedule.next_deadline_us()?;
        // A request is late only once its deadline is over.
        Some(self.clock + Duration::from_micros(deadline_us + 1))
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
                    cached_tokens,
                } => {
                    let reason = match finish {
                        Finish::Stop => wire::FinishReason::Stop.into(),
                        Finish::Length => wire::FinishReason::Length.into(),
                    };
                    let finished = WireEvent::Finished(wire::Finished {
                        reason,
                        prompt_tokens,
                        completion_tokens,
                        cached_tokens,
                    });
                    self.tell_last(id, Ok(wire::GenerateEvent { event: Some(finished) }));
                }
                Event::Failed { id, fault } => self.tell_last(id, Err(failed(&fault))),
                Event::TimedOut { id, waited_us } => self.tell_last(id, Err(self.timed_out(waited_us))),
            }
        }
    }

    fn timed_out(&self, waited_us: u64) -> Status {
        let CellUse { reserved, cells, .. } = self.schedule.cells();
        let (waited_s, running) = (waited_us as f64 / 1e6, self.schedule.running());
        let message = format!(
            "no seat came free within {waited_s:.1} s: {running} sequences run, {reserved} of {cells} cache positions are reserved; \
             try again later"
        );
        self.exhausted(message)
    }

    fn refused(&self, refusal: &Refusal) -> Status {
        let message = refusal.to_string();
        match refusal {
            Refusal::EmptyPrompt | Refusal::NothingWanted | Refusal::PromptTooLong { .. } => {
                Status::invalid_argument(message)
            }
            Refusal::Full { .. } => self.exhausted(message),
        }
    }

    /// There is no room now; the metadata says when there may be.
    fn exhausted(&self, message: String) -> Status {
        let mut metadata = MetadataMap::new();
        let seconds = self.pace.seconds_until_seated(self.schedule.waiting());
        metadata.insert(RETRY_AFTER, MetadataValue::from(seconds));
        Status::with_metadata(Code::ResourceExhausted, message, metadata)
    }

    fn tell_last(&mut self, id: RequestId, event: Events) {
        self.pace.ended(elapsed_us(self.clock), self.schedule.waiting());
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
        self.tally = Tally::default();
        for (_, stream) in self.streams.drain() {
            let _ = stream.try_send(Err(status.clone()));
        }
        self.publish_load();
    }

    fn publish_load(&mut self) {
        let (running, waiting) = (self.schedule.running(), self.schedule.waiting());
        self.metrics.active_sequences.set(running as i64);
        self.metrics.queue_length.set(waiting as i64);
        self.metrics.steps_in_flight.set(self.schedule.in_flight() as i64);
        self.metrics.record_cells(&self.schedule.cells());
        self.metrics.prefixes_kept.set(self.schedule.kept_prefixes() as i64);
        for waited_us in self.schedule.take_waits_us() {
            self.metrics.record_queue_wait(waited_us);
        }
        let tally = self.schedule.tally();
        self.metrics.record_tally(&self.tally, &tally);
        self.tally = tally;
        self.load.send_if_modified(|load| {
            let changed = *load != running + waiting;
            *load = running + waiting;
            changed
        });
    }
}

fn failed(fault: &StepFault) -> Status {
    match fault.reason {
        Reason::KvFull => Status::resource_exhausted(fault.to_string()),
        _ => Status::internal(fault.to_string()),
    }
}
