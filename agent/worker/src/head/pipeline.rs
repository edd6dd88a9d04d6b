//! All stages as the head sees them: steps in, their tokens or faults out, in order.
//!
//! ```text
//!  submit ──▶ own stage ──▶ link to the next stage ──▶ …
//!               │ fault, or the tail's tokens       │ tokens, or a fault
//!  next  ◀── flights, oldest first ◀────────────────┘
//! ```
//!
//! A step leaves the own stage for the next one by itself; the next step computes meanwhile.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use identity::Credentials;
use proto::shard::v1 as wire;
use tokio::time::timeout;

use super::round_trip::{Answered, Meter};
use super::schedule::RoundTrip;
use crate::metrics::Metrics;
use crate::placement::Installed;
use crate::stage::executor::elapsed_us;
use crate::stage::link::{Link, LinkError, MAX_IN_FLIGHT, answer_limit};
use crate::stage::pace::Computed;
use crate::stage::patience::{Alarm, Patience};
use crate::stage::thread::{ComputeHandle, Done, Left, Session, StepDone};
use crate::step::{Reason, Sampled, Step, StepFault};

/// A step that every stage has executed, or that one could not.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    /// The step's number.
    pub number: u64,
    /// The tail's tokens, in row order; or the fault of the first stage that failed. After a fault the steps that were under
    /// way with it are void: call [`Pipeline::rollback`] with this number.
    pub outcome: Result<Vec<Sampled>, StepFault>,
}

/// A pipeline that stands: every stage is connected, of one epoch, and was empty when it was opened.
#[derive(Debug)]
pub struct Pipeline {
    session: Session,
    link: Option<Link>,
    metrics: Metrics,
    /// Submitted and not told of, oldest first.
    flights: VecDeque<Flight>,
    /// The number that must come next; any before the first step.
    next_number: Option<u64>,
    meter: Meter,
    own: Patience,
    later: Patience,
    alarm: Alarm,
    /// The own stage has not undone a rollback yet.
    undoing: bool,
    /// Nothing goes any more; only opening again helps.
    dead: Option<StepFault>,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    rows: u32,
    /// Of one row, and the only one under way from its beginning on.
    alone: bool,
    submitted: Instant,
    /// Compute time of the own stage, microseconds.
    own_us: u64,
    stands: Stands,
}

/// Where a step is.
#[derive(Debug)]
enum Stands {
    /// At the own stage, or before it.
    Own,
    /// Sent to the next stage then.
    Later(Instant),
    /// Waits for the steps before it, and for being told.
    Finished(Result<Vec<Sampled>, StepFault>),
}

impl Flight {
    fn finished(&self) -> bool {
        matches!(self.stands, Stands::Finished(_))
    }
}

/// What happened next.
enum Happened {
    Done(Result<Done, StepFault>),
    Returned(Result<wire::StepResult, LinkError>),
    Late,
}

impl Pipeline {
    /// Empties the own stage and opens the stream through all later ones.
    ///
    /// # Errors
    /// Why it does not stand, for the clients' error message.
    pub async fn open(
        compute: &ComputeHandle,
        credentials: &Credentials,
        installed: &Arc<Installed>,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let opened = timeout(compute.place().deadlines.step, compute.open(installed.stand())).await;
        let opened = opened.map_err(|_| "the head's engine does not answer".to_owned())?;
        let session = opened.map_err(|fault| fault.to_string())?;
        let place = session.place();
        let later = Patience::new(answer_limit(place, session.stand()));
        let link = if place.tail {
            None
        } else {
            let link = Link::open(credentials, installed, place, &metrics).await;
            let link = link.map_err(|error| error.to_string())?;
            session.forward_to(link.outgoing());
            Some(link)
        };
        Ok(Self {
            session,
            link,
            metrics,
            flights: VecDeque::with_capacity(MAX_IN_FLIGHT),
            next_number: None,
            meter: Meter::default(),
            own: Patience::new(place.deadlines.step),
            later,
            alarm: Alarm::new(),
            undoing: false,
            dead: None,
        })
    }

    /// Hands a step to the own stage, and through it to all later ones, without waiting for its result: [`Pipeline::next`]
    /// has it in its turn. Numbers follow each other; at most [`MAX_IN_FLIGHT`] steps may be under way.
    ///
    /// # Errors
    /// When the number does not follow, too many are under way, or the pipeline is broken: then the step is not under way.
    pub async fn submit(&mut self, step: &Step) -> Result<(), StepFault> {
        if let Some(fault) = &self.dead {
            return Err(fault.clone());
        }
        if self.flights.len() == MAX_IN_FLIGHT {
            let message = format!("{MAX_IN_FLIGHT} steps are under way already");
            return Err(refused(Reason::OutOfOrder, message));
        }
        if let Some(next) = self.next_number.filter(|next| *next != step.number) {
            let message = format!("step {} does not follow; next is {next}", step.number);
            return Err(refused(Reason::OutOfOrder, message));
        }
        self.session.submit(step.clone(), Bytes::new()).await?;
        self.next_number = step.number.checked_add(1);
        self.own.begin();
        // Where stages share a machine, company slows down what is under way already.
        for flight in self.flights.iter_mut().filter(|flight| !flight.finished()) {
            flight.alone = false;
        }
        let rows = u32::try_from(step.rows.len()).unwrap_or(u32::MAX);
        self.flights.push_back(Flight {
            number: step.number,
            rows,
            alone: rows == 1 && self.flights.is_empty(),
            submitted: Instant::now(),
            own_us: 0,
            stands: Stands::Own,
        });
        Ok(())
    }

    /// The outcome of the oldest step under way; waits for ever when there is none. Cancel-safe.
    ///
    /// Each stage has its time for each step; when one is late, or the stream to the later ones has ended, every step under
    /// way fails and the pipeline is broken.
    pub async fn next(&mut self) -> Completed {
        loop {
            if let Some(completed) = self.take_finished() {
                return completed;
            }
            if self.flights.is_empty() {
                return pending().await;
            }
            self.progress().await;
        }
    }

    /// Steps submitted whose outcome was not told.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// How long steps of one row take; `None` before some were answered.
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.meter.measured()
    }

    /// Stages from the head to the tail.
    pub fn stages(&self) -> u32 {
        self.session.stand().stages
    }

    /// Undoes a failed step and all that came after it on every stage; their outcomes are dropped. When this returns nothing
    /// is under way, and the next step has this number. Every step before it must have been told of.
    ///
    /// # Errors
    /// When an earlier step is under way, the own stage cannot undo, or the stream to the later stages ends meanwhile: then
    /// the pipeline must be opened again. A later stage that cannot undo ends the stream, which the next step is told.
    pub async fn rollback(&mut self, from_number: u64) -> Result<(), StepFault> {
        if let Some(earlier) = self.flights.front().filter(|flight| flight.number < from_number) {
            let message = format!("step {} is under way before step {from_number}", earlier.number);
            return Err(refused(Reason::OutOfOrder, message));
        }
        if let Some(fault) = &self.dead {
            return Err(fault.clone());
        }
        self.session.rollback(from_number).await?;
        self.undoing = true;
        self.own.begin();
        while self.undoing || !self.flights.iter().all(Flight::finished) {
            self.progress().await;
            if let Some(fault) = &self.dead {
                return Err(fault.clone());
            }
        }
        self.flights.clear();
        self.next_number = self.next_number.map(|next| next.min(from_number));
        Ok(())
    }

    /// Returns when the pipeline breaks by itself: the later stages end the stream, or the own stage is lost. Cancel-safe.
    pub async fn broken(&mut self) -> StepFault {
        loop {
            if let Some(fault) = &self.dead {
                return fault.clone();
            }
            self.progress().await;
        }
    }

    /// The epoch it was opened for.
    pub fn epoch(&self) -> u64 {
        self.session.epoch()
    }

    /// Ends the stream and empties the own stage; what is under way is dropped.
    pub async fn close(self) {
        drop(self.link);
        self.session.close().await;
    }

    fn take_finished(&mut self) -> Option<Completed> {
        let Flight { number, stands, .. } = self.flights.pop_front_if(|oldest| oldest.finished())?;
        let Stands::Finished(outcome) = stands else { return None };
        if let Err(fault) = &outcome {
            self.metrics.record_step(Err(fault.reason.as_str()));
            tracing::warn!(number, %fault, "a step failed");
        }
        Some(Completed { number, outcome })
    }

    /// Waits for one thing to happen, and accounts for it. Cancel-safe.
    async fn progress(&mut self) {
        let Self {
            session,
            link,
            own,
            later,
            alarm,
            ..
        } = self;
        let returned = async {
            match link {
                Some(link) => link.result().await,
                None => pending().await,
            }
        };
        let deadlines = own.deadline().into_iter().chain(later.deadline());
        let happened = tokio::select! {
            biased;
            returned = returned => Happened::Returned(returned),
            done = session.done() => Happened::Done(done),
            () = alarm.at(deadlines.min()) => Happened::Late,
        };
        match happened {
            Happened::Done(Ok(done)) => self.done(done),
            Happened::Returned(Ok(result)) => self.returned(result),
            Happened::Done(Err(fault)) => self.die(fault),
            Happened::Returned(Err(error)) => self.die(error.to_fault()),
            Happened::Late => {
                let (stage, patience) = match self.own.deadline() {
                    Some(deadline) if deadline <= tokio::time::Instant::now() => (0, &self.own),
                    _ => (1, &self.later),
                };
                self.die(unreachable(stage, late(patience)));
            }
        }
    }

    /// The own stage is done with something.
    fn done(&mut self, done: Done) {
        self.own.end();
        let step = match done {
            Done::Step(step) => step,
            Done::RolledBack(Ok(())) => {
                self.undoing = false;
                return;
            }
            Done::RolledBack(Err(fault)) => return self.die(fault),
        };
        let StepDone {
            number,
            rows,
            position,
            outcome,
            compute_us,
        } = step;
        if outcome.is_ok() {
            self.metrics.record_step(Ok(Computed {
                rows,
                position,
                compute_us,
            }));
            self.metrics.record_stage(0, compute_us);
        }
        // The own stage answers in order.
        let own = self
            .flights
            .iter_mut()
            .find(|flight| matches!(flight.stands, Stands::Own));
        let Some(flight) = own.filter(|flight| flight.number == number) else {
            return self.die(unreachable(0, format!("it answered step {number} unasked")));
        };
        flight.own_us = compute_us;
        flight.stands = match outcome {
            Ok(Left::Forwarded) => {
                self.later.begin();
                Stands::Later(Instant::now())
            }
            Ok(Left::Tokens(tokens)) => Stands::Finished(Ok(tokens)),
            Err(fault) => Stands::Finished(Err(fault)),
        };
    }

    /// A result came back from the later stages.
    fn returned(&mut self, result: wire::StepResult) {
        // The own stage tells of a step before it sends it on: with its result here, that is known.
        while let Some(done) = self.session.try_done() {
            self.done(done);
        }
        let number = result.number;
        let stage = self.link.as_ref().map_or(1, Link::stage);
        let stages = self.stages();
        let flights = &mut self.flights;
        let sent = flights.iter_mut().find_map(|flight| match flight.stands {
            Stands::Later(sent) => Some((flight, sent)),
            _ => None,
        });
        let Some((flight, sent)) = sent.filter(|(flight, _)| flight.number == number) else {
            return self.die(unreachable(stage, format!("it answered step {number} unasked")));
        };
        self.later.end();
        let outcome = match result.error {
            Some(error) => Err(StepFault::from_wire(error)),
            None => {
                let compute_us = result.compute_us.iter().fold(0, |sum: u64, us| sum.saturating_add(*us));
                self.metrics
                    .record_hops(elapsed_us(sent).saturating_sub(compute_us), flight.alone);
                let slowest_us = result.compute_us.iter().copied().fold(flight.own_us, u64::max);
                self.meter.observe_rows(flight.rows, slowest_us);
                if flight.rows == 1 {
                    self.meter.observe(Answered {
                        busy_us: flight.own_us.saturating_add(compute_us),
                        slowest_us,
                        alone_us: flight.alone.then(|| elapsed_us(flight.submitted)),
                    });
                }
                for (stage, compute_us) in (stage..stages).zip(result.compute_us) {
                    self.metrics.record_stage(stage, compute_us);
                }
                Ok(result.tokens.iter().map(Sampled::from_wire).collect())
            }
        };
        flight.stands = Stands::Finished(outcome);
    }

    /// Nothing under way will be answered.
    fn die(&mut self, fault: StepFault) {
        for flight in self.flights.iter_mut().filter(|flight| !flight.finished()) {
            flight.stands = Stands::Finished(Err(fault.clone()));
        }
        self.dead.get_or_insert(fault);
    }
}

fn refused(reason: Reason, message: String) -> StepFault {
    let stage = 0;
    StepFault { stage, reason, message }
}

fn unreachable(stage: u32, message: String) -> StepFault {
    StepFault {
        stage,
        reason: Reason::Unreachable,
        message,
    }
}

fn late(patience: &Patience) -> String {
    format!("no answer within {:?}", patience.limit())
}
