//! One stream from the previous stage, for as long as it lasts: execute, forward, answer in order.
//!
//! ```text
//!  previous ──Step──▶ execute ──Step──▶ next
//!  previous ◀─Result─ pending ◀─Result─ next
//! ```
//!
//! While a step computes, results of earlier ones keep flowing back.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::executor::{Executed, Yield};
use super::link::{Link, MAX_IN_FLIGHT, answer_limit};
use super::thread::Session;
use crate::metrics::Metrics;
use crate::placement::Installed;
use crate::step::{Step, StepFault};

/// Results that the previous stage has not taken yet: one for each step under way, and the one that ends the stream.
pub(super) const RESULTS: usize = MAX_IN_FLIGHT + 2;

type Results = mpsc::Sender<Result<wire::StepResult, Status>>;

/// A step whose answer is still due, or waits for those of earlier steps.
enum Pending {
    Forwarded {
        number: u64,
        compute_us: u64,
        deadline: Instant,
    },
    Answered(wire::StepResult),
}

/// The step in the engine, with what forwarding it needs.
struct Computing {
    step: Step,
    executed: Pin<Box<dyn Future<Output = Result<Executed, StepFault>> + Send>>,
}

/// See the module.
pub(super) struct Relay {
    pub(super) session: Arc<Session>,
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
    Executed(Step, Result<Executed, StepFault>),
    Returned(wire::StepResult),
}

impl Relay {
    /// Works until either side ends, another epoch is installed, or a newer stream takes over.
    pub(super) async fn run(mut self) {
        let mut steps = Steps {
            pending: VecDeque::new(),
            results: self.results.clone(),
        };
        let ended = self.relay(&mut steps).await;
        self.session.close().await;
        let Err(status) = ended else { return };
        tracing::info!(code = ?status.code(), cause = status.message(), "the stream from the previous stage ends");
        // Full or closed: the previous stage has gone, there is nobody to tell.
        let _ = self.results.try_send(Err(status));
    }

    async fn relay(&mut self, steps: &mut Steps) -> Result<(), Status> {
        let mut computing: Option<Computing> = None;
        loop {
            match self.next(&mut computing, steps).await? {
                Happened::Message(None) => return Ok(()),
                Happened::Message(Some(message)) => {
                    computing = self.receive(message, steps).await?;
                }
                Happened::Executed(step, outcome) => self.forward(step, outcome, steps).await?,
                Happened::Returned(result) => steps.answer(result)?,
            }
        }
    }

    async fn next(&mut self, computing: &mut Option<Computing>, steps: &Steps) -> Result<Happened, Status> {
        let Self {
            link,
            upstream,
            installed,
            closing,
            session,
            ..
        } = self;
        let epoch = session.epoch();
        let idle = computing.is_none();
        let executed = async {
            match computing {
                Some(running) => running.executed.as_mut().await,
                None => pending().await,
            }
        };
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
            outcome = executed => {
                let step = computing.take().map(|running| running.step).unwrap_or_default();
                Ok(Happened::Executed(step, outcome))
            }
            message = upstream.message(), if idle && steps.pending.len() < MAX_IN_FLIGHT => {
                Ok(Happened::Message(message?))
            }
            () = steps.late() => Err(Status::unavailable("the stages after this one did not answer in time")),
        }
    }

    async fn receive(&self, message: wire::CarryMessage, steps: &mut Steps) -> Result<Option<Computing>, Status> {
        match message.message {
            Some(Message::Step(step)) => match Step::from_wire(step) {
                Ok((epoch, step, activations)) => Ok(Some(self.compute(epoch, step, activations))),
                Err(problem) => Err(Status::invalid_argument(problem)),
            },
            Some(Message::Rollback(rollback)) => {
                let from = rollback.from_number;
                let undone = self.session.rollback(from).await;
                undone.map_err(|fault| Status::data_loss(fault.to_string()))?;
                if let Some(link) = &self.link {
                    link.rollback(from).await;
                }
                steps.forget_from(from);
                Ok(None)
            }
            Some(Message::Open(_)) => Err(Status::invalid_argument("the stream is open already")),
            None => Err(Status::invalid_argument("a message of an unknown kind")),
        }
    }

    fn compute(&self, epoch: u64, step: Step, activations: Bytes) -> Computing {
        let (session, planned) = (Arc::clone(&self.session), step.clone());
        let executed = Box::pin(async move { session.execute(epoch, planned, activations).await });
        Computing { step, executed }
    }

    /// Hands an executed step on, or its failure back.
    async fn forward(&self, step: Step, outcome: Result<Executed, StepFault>, steps: &mut Steps) -> Result<(), Status> {
        let number = step.number;
        let recorded = outcome.as_ref().map(|executed| (step.rows.len(), executed.compute_us));
        self.metrics
            .record_step(recorded.map_err(|fault| fault.reason.as_str()));
        let executed = match outcome {
            Ok(executed) => executed,
            Err(fault) => {
                tracing::warn!(number, %fault, "a step failed");
                return steps.push_answer(wire::StepResult {
                    number,
                    error: Some(fault.to_wire()),
                    ..wire::StepResult::default()
                });
            }
        };
        let compute_us = executed.compute_us;
        match (executed.yields, &self.link) {
            (Yield::Tokens(tokens), _) => steps.push_answer(wire::StepResult {
                number,
                tokens: tokens.into_iter().map(|token| token.to_wire()).collect(),
                compute_us: vec![compute_us],
                error: None,
            }),
            (Yield::Activations(activations), Some(link)) => {
                let deadline = Instant::now() + answer_limit(self.session.place());
                steps.pending.push_back(Pending::Forwarded {
                    number,
                    compute_us,
                    deadline,
                });
                link.step(step.to_wire(self.session.epoch(), activations)).await;
                Ok(())
            }
            (Yield::Activations(_), None) => Err(Status::internal("the tail gave no tokens")),
        }
    }
}

/// Steps between this stage and the head's knowledge of them, oldest first.
struct Steps {
    pending: VecDeque<Pending>,
    results: Results,
}

impl Steps {
    fn push_answer(&mut self, result: wire::StepResult) -> Result<(), Status> {
        self.pending.push_back(Pending::Answered(result));
        self.flush()
    }

    /// The next stage answered the oldest step that was forwarded.
    fn answer(&mut self, mut result: wire::StepResult) -> Result<(), Status> {
        let Some(Pending::Forwarded { number, compute_us, .. }) = self.pending.front() else {
            return Err(Status::unavailable(
                "the next stage answered a step that it was not sent",
            ));
        };
        if *number != result.number {
            let message = format!("the next stage answered step {}, due is {number}", result.number);
            return Err(Status::unavailable(message));
        }
        result.compute_us.insert(0, *compute_us);
        self.pending[0] = Pending::Answered(result);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Status> {
        while let Some(Pending::Answered(_)) = self.pending.front() {
            if let Some(Pending::Answered(result)) = self.pending.pop_front() {
                let sent = self.results.try_send(Ok(result));
                sent.map_err(|_| Status::cancelled("the previous stage takes no results"))?;
            }
        }
        Ok(())
    }

    /// Rolled back steps still get their answers from the next stage, so they stay; nothing else is kept of them.
    fn forget_from(&mut self, from_number: u64) {
        self.pending.retain(|step| match step {
            Pending::Forwarded { .. } => true,
            Pending::Answered(result) => result.number < from_number,
        });
    }

    async fn late(&self) {
        match self.pending.front() {
            Some(Pending::Forwarded { deadline, .. }) => tokio::time::sleep_until(*deadline).await,
            _ => pending().await,
        }
    }
}

/// Returns once another epoch than this one is installed.
pub(crate) async fn superseded(installed: &mut watch::Receiver<Option<Arc<Installed>>>, epoch: u64) {
    let other = |current: &Option<Arc<Installed>>| current.as_ref().is_none_or(|installed| installed.epoch != epoch);
    if installed.wait_for(other).await.is_err() {
        // The worker is ending, and its streams with it.
        pending::<()>().await;
    }
}
