//! One stream from the previous stage, for as long as it lasts: execute, forward, answer in order.
//!
//! ```text
//!  previous ──Step──▶ compute ──Step──▶ next
//!  previous ◀─Result─ pending ◀─Result─ next
//! ```
//!
//! While a step computes, the one after it is received, those before it travel on, and results flow back. Every step that is
//! received is answered once, rolled back or not.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::link::{Link, MAX_IN_FLIGHT, answer_limit};
use super::pace::Computed;
use super::patience::{Alarm, Patience};
use super::thread::{Done, Left, Session, StepDone};
use crate::metrics::Metrics;
use crate::placement::Installed;
use crate::step::{Reason, Step, StepFault};

/// Results that the connection has not taken yet: one for each step under way, and the one that ends the stream. While they
/// stay, nothing more is received.
pub(super) const RESULTS: usize = MAX_IN_FLIGHT + 2;

/// Steps received and not computed: the one in the engine, and as many that wait there so that it never does. The others stay
/// with the sender, whom flow control stops, so that their activations take no memory here.
const RECEIVED_AHEAD: usize = 3;

type Results = mpsc::Sender<Result<wire::StepResult, Status>>;

/// A step whose answer is still due, or waits for those of earlier steps.
enum Pending {
    Computing { number: u64 },
    Forwarded { number: u64, compute_us: u64 },
    Answered(wire::StepResult),
}

/// See the module.
pub(super) struct Relay {
    pub(super) session: Session,
    pub(super) link: Option<Link>,
    pub(super) upstream: Streaming<wire::CarryMessage>,
    pub(super) results: Results,
    pub(super) installed: watch::Receiver<Option<Arc<Installed>>>,
    pub(super) closing: CancellationToken,
    pub(super) metrics: Metrics,
}

/// What happened next.
enum Happened {
    Message(Option<wire::CarryMessage>),
    Done(Done),
    Returned(wire::StepResult),
    /// The connection took results.
    Taken,
}

impl Relay {
    /// Works until either side ends, another epoch of the pipeline is installed, or a newer stream takes over.
    pub(super) async fn run(mut self) {
        let mut steps = Steps::new(&self);
        let ended = self.relay(&mut steps).await;
        // First the stages after this one: they must not wait for what this one still computes.
        drop(self.link);
        self.session.close().await;
        let Err(status) = ended else { return };
        tracing::info!(code = ?status.code(), cause = status.message(), "the stream from the previous stage ends");
        // Full or closed: the previous stage has gone, there is nobody to tell.
        let _ = self.results.try_send(Err(status));
    }

    async fn relay(&mut self, steps: &mut Steps) -> Result<(), Status> {
        let mut alarm = Alarm::new();
        loop {
            match self.next(steps, &mut alarm).await? {
                Happened::Message(None) => return Ok(()),
                Happened::Message(Some(message)) => self.receive(message, steps).await?,
                Happened::Done(done) => self.done(done, steps)?,
                Happened::Returned(result) => {
                    // The compute thread tells of a step before it sends it on: with its result here, that is known.
                    while let Some(done) = self.session.try_done() {
                        self.done(done, steps)?;
                    }
                    steps.answer(result)?;
                }
                Happened::Taken => steps.flush()?,
            }
        }
    }

    async fn next(&mut self, steps: &Steps, alarm: &mut Alarm) -> Result<Happened, Status> {
        let Self {
            link,
            upstream,
            installed,
            closing,
            session,
            ..
        } = self;
        let (epoch, next) = (session.epoch(), session.stand().stage + 1);
        let returned = async {
            match link {
                Some(link) => link.result().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = closing.cancelled() => Err(Status::aborted("a newer stream took this one's place")),
            () = superseded(installed, epoch) => {
                Err(Status::failed_precondition(format!("epoch {epoch} is no longer installed")))
            }
            result = returned => {
                Ok(Happened::Returned(result.map_err(|error| error.to_status())?))
            }
            done = session.done() => {
                Ok(Happened::Done(done.map_err(|fault| Status::unavailable(fault.to_string()))?))
            }
            taken = steps.results.reserve(), if steps.answered() => {
                drop(taken.map_err(|_| gone())?);
                Ok(Happened::Taken)
            }
            message = upstream.message(), if steps.has_room() => Ok(Happened::Message(message?)),
            () = alarm.at(steps.later.deadline()) => {
                let limit = steps.later.limit();
                Err(Status::unavailable(format!("stage {next} gave no answer within {limit:?}")))
            }
        }
    }

    async fn receive(&self, message: wire::CarryMessage, steps: &mut Steps) -> Result<(), Status> {
        let ended = |fault: StepFault| Status::unavailable(fault.to_string());
        match message.message {
            Some(Message::Step(step)) => {
                let (epoch, step, activations) = Step::from_wire(step).map_err(Status::invalid_argument)?;
                let number = step.number;
                if epoch != self.session.epoch() {
                    return self.failed(number, &self.wrong_epoch(number, epoch), steps);
                }
                steps.begin(number);
                self.session.submit(step, activations).await.map_err(ended)
            }
            Some(Message::Rollback(rollback)) => {
                steps.undoing = true;
                self.session.rollback(rollback.from_number).await.map_err(ended)
            }
            Some(Message::Open(_)) => Err(Status::invalid_argument("the stream is open already")),
            None => Err(Status::invalid_argument("a message of an unknown kind")),
        }
    }

    fn wrong_epoch(&self, number: u64, epoch: u64) -> StepFault {
        let installed = self.session.epoch();
        StepFault {
            stage: self.session.stand().stage,
            reason: Reason::WrongEpoch,
            message: format!("step {number} is of epoch {epoch}, installed is {installed}"),
        }
    }

    /// This stage is done with something.
    fn done(&self, done: Done, steps: &mut Steps) -> Result<(), Status> {
        let StepDone {
            number,
            rows,
            position,
            outcome,
            compute_us,
        } = match done {
            Done::Step(step) => step,
            Done::RolledBack(undone) => {
                steps.undoing = false;
                return undone.map_err(|fault| Status::data_loss(fault.to_string()));
            }
        };
        match outcome {
            Ok(left) => {
                self.metrics.record_step(Ok(Computed {
                    rows,
                    position,
                    compute_us,
                }));
                match left {
                    Left::Forwarded if self.link.is_none() => Err(Status::internal("the tail gave no tokens")),
                    Left::Forwarded => steps.computed(number, |later| {
                        later.begin();
                        Pending::Forwarded { number, compute_us }
                    }),
                    Left::Tokens(tokens) => steps.computed(number, |_| {
                        Pending::Answered(wire::StepResult {
                            number,
                            tokens: tokens.into_iter().map(|token| token.to_wire()).collect(),
                            compute_us: vec![compute_us],
                            error: None,
                        })
                    }),
                }
            }
            Err(fault) => {
                let answer = self.failure(number, &fault);
                steps.computed(number, |_| Pending::Answered(answer))
            }
        }
    }

    /// A step that never reached the engine.
    fn failed(&self, number: u64, fault: &StepFault, steps: &mut Steps) -> Result<(), Status> {
        let answer = self.failure(number, fault);
        steps.pending.push_back(Pending::Answered(answer));
        steps.flush()
    }

    fn failure(&self, number: u64, fault: &StepFault) -> wire::StepResult {
        self.metrics.record_step(Err(fault.reason.as_str()));
        tracing::warn!(number, %fault, "a step failed");
        wire::StepResult {
            number,
            error: Some(fault.to_wire()),
            ..wire::StepResult::default()
        }
    }
}

/// Steps between this stage and the head's knowledge of them, oldest first.
struct Steps {
    pending: VecDeque<Pending>,
    /// Those of them that were received and not computed.
    computing: usize,
    /// A rollback is under way here.
    undoing: bool,
    later: Patience,
    results: Results,
}

impl Steps {
    fn new(relay: &Relay) -> Self {
        Self {
            pending: VecDeque::with_capacity(MAX_IN_FLIGHT),
            computing: 0,
            undoing: false,
            later: Patience::new(answer_limit(relay.session.place(), relay.session.stand())),
            results: relay.results.clone(),
        }
    }

    fn has_room(&self) -> bool {
        self.pending.len() < MAX_IN_FLIGHT && self.computing < RECEIVED_AHEAD && !self.undoing
    }

    fn begin(&mut self, number: u64) {
        self.computing += 1;
        self.pending.push_back(Pending::Computing { number });
    }

    /// The oldest step that was computing no longer is.
    fn computed(&mut self, number: u64, next: impl FnOnce(&mut Patience) -> Pending) -> Result<(), Status> {
        let mut pending = self.pending.iter_mut();
        let oldest = pending.find_map(|step| match step {
            Pending::Computing { number } => Some((*number, step)),
            _ => None,
        });
        let Some((_, step)) = oldest.filter(|(due, _)| *due == number) else {
            return Err(Status::internal(format!("step {number} was computed unasked")));
        };
        *step = next(&mut self.later);
        self.computing -= 1;
        self.flush()
    }

    /// The next stage answered the oldest step that was forwarded.
    fn answer(&mut self, mut result: wire::StepResult) -> Result<(), Status> {
        let mut pending = self.pending.iter_mut();
        let forwarded = pending.find_map(|step| match step {
            Pending::Forwarded { number, compute_us } => Some((*number, *compute_us, step)),
            _ => None,
        });
        let Some((number, compute_us, step)) = forwarded else {
            return Err(Status::unavailable(
                "the next stage answered a step that it was not sent",
            ));
        };
        if number != result.number {
            let message = format!("the next stage answered step {}, due is {number}", result.number);
            return Err(Status::unavailable(message));
        }
        result.compute_us.insert(0, compute_us);
        *step = Pending::Answered(result);
        self.later.end();
        self.flush()
    }

    /// The oldest step has its answer, which the connection does not take yet.
    fn answered(&self) -> bool {
        matches!(self.pending.front(), Some(Pending::Answered(_)))
    }

    fn flush(&mut self) -> Result<(), Status> {
        while self.answered() {
            let place = match self.results.try_reserve() {
                Ok(place) => place,
                Err(TrySendError::Full(())) => return Ok(()),
                Err(TrySendError::Closed(())) => return Err(gone()),
            };
            if let Some(Pending::Answered(result)) = self.pending.pop_front() {
                place.send(Ok(result));
            }
        }
        Ok(())
    }
}

fn gone() -> Status {
    Status::cancelled("the previous stage takes no results")
}

/// Returns once another epoch of the pipeline than this one is installed. A newer placement with the same one is none.
pub(crate) async fn superseded(installed: &mut watch::Receiver<Option<Arc<Installed>>>, epoch: u64) {
    let other = |current: &Option<Arc<Installed>>| current.as_ref().is_none_or(|installed| installed.epoch != epoch);
    if installed.wait_for(other).await.is_err() {
        // The worker is ending, and its streams with it.
        pending::<()>().await;
    }
}
