//! All stages as the head sees them: one step in, its tokens or its fault out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::Credentials;
use proto::shard::v1 as wire;
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::placement::Installed;
use crate::stage::executor::{Executed, Yield, elapsed_us};
use crate::stage::link::{Link, STAGE_STEP_LIMIT, answer_limit};
use crate::stage::thread::{ComputeHandle, Session};
use crate::step::{Reason, Sampled, Step, StepFault};

/// A pipeline that stands: every stage is connected, of one epoch, and was empty when it was opened.
#[derive(Debug)]
pub struct Pipeline {
    session: Session,
    link: Option<Link>,
    metrics: Metrics,
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
        let opened = timeout(STAGE_STEP_LIMIT, compute.open(installed.epoch)).await;
        let opened = opened.map_err(|_| "the head's engine does not answer".to_owned())?;
        let session = opened.map_err(|fault| fault.to_string())?;
        let link = if session.place().is_tail() {
            None
        } else {
            let link = Link::open(credentials, installed, session.place()).await;
            Some(link.map_err(|error| error.to_string())?)
        };
        Ok(Self { session, link, metrics })
    }

    /// Has every stage execute a step. Each waits for the one before it; the limits add up over the stages.
    ///
    /// # Errors
    /// The fault of the first stage that failed. The step may have had effects on the stages before it: call `rollback`.
    pub async fn execute(&mut self, step: &Step) -> Result<Vec<Sampled>, StepFault> {
        let outcome = self.execute_all(step).await;
        if let Err(fault) = &outcome {
            self.metrics.record_step(Err(fault.reason.as_str()));
            tracing::warn!(number = step.number, %fault, "a step failed");
        }
        outcome
    }

    async fn execute_all(&mut self, step: &Step) -> Result<Vec<Sampled>, StepFault> {
        let epoch = self.session.epoch();
        let own = self.session.execute(epoch, step.clone(), Bytes::new());
        let executed = match timeout(STAGE_STEP_LIMIT, own).await {
            Ok(executed) => executed?,
            Err(_) => return Err(unreachable(0, late(STAGE_STEP_LIMIT))),
        };
        let Executed { yields, compute_us } = executed;
        self.metrics.record_step(Ok((step.rows.len(), compute_us)));
        match (yields, &mut self.link) {
            (Yield::Tokens(tokens), _) => Ok(tokens),
            (Yield::Activations(_), None) => Err(unreachable(0, "it gave no tokens".to_owned())),
            (Yield::Activations(activations), Some(link)) => {
                let sent = Instant::now();
                let limit = answer_limit(self.session.place());
                let stage = link.stage();
                let carried = carry(link, step.to_wire(epoch, activations));
                let result = timeout(limit, carried).await;
                let result = result.unwrap_or_else(|_| Err(unreachable(stage, late(limit))))?;
                let answered = answer(stage, step.number, result)?;
                let elapsed = elapsed_us(sent);
                self.metrics.record_hops(elapsed.saturating_sub(answered.compute_us));
                Ok(answered.tokens)
            }
        }
    }

    /// Undoes a failed step on every stage.
    ///
    /// # Errors
    /// When the own stage cannot: then the pipeline must be opened again. A later stage that cannot ends the stream, which the
    /// next step is told.
    pub async fn rollback(&self, from_number: u64) -> Result<(), StepFault> {
        self.session.rollback(from_number).await?;
        if let Some(link) = &self.link {
            link.rollback(from_number).await;
        }
        Ok(())
    }

    /// Returns when the later stages end the stream by themselves, while no step is under way. Cancel-safe.
    pub async fn broken(&mut self) -> StepFault {
        let Some(link) = &mut self.link else {
            return std::future::pending().await;
        };
        let stage = link.stage();
        match link.result().await {
            Ok(result) => unreachable(stage, format!("it answered step {} unasked", result.number)),
            Err(error) => error.to_fault(),
        }
    }

    /// The epoch it was opened for.
    pub fn epoch(&self) -> u64 {
        self.session.epoch()
    }

    /// Ends the stream and empties the own stage.
    pub async fn close(self) {
        drop(self.link);
        self.session.close().await;
    }
}

async fn carry(link: &mut Link, step: wire::Step) -> Result<wire::StepResult, StepFault> {
    link.step(step).await;
    link.result().await.map_err(|error| error.to_fault())
}

struct Answer {
    tokens: Vec<Sampled>,
    /// Of all later stages together.
    compute_us: u64,
}

fn answer(stage: u32, number: u64, result: wire::StepResult) -> Result<Answer, StepFault> {
    if result.number != number {
        let message = format!("it answered step {} instead of {number}", result.number);
        return Err(unreachable(stage, message));
    }
    if let Some(error) = result.error {
        return Err(StepFault::from_wire(error));
    }
    let compute_us = result.compute_us.iter().fold(0, |sum: u64, us| sum.saturating_add(*us));
    let tokens = result.tokens.iter().map(Sampled::from_wire).collect();
    Ok(Answer { tokens, compute_us })
}

fn unreachable(stage: u32, message: String) -> StepFault {
    StepFault {
        stage,
        reason: Reason::Unreachable,
        message,
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}
