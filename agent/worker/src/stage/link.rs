//! The stream to the next stage.

use std::error::Error as _;
use std::time::Duration;

use identity::connect::{Keepalive, fell_silent};
use identity::{ConnectOptions, Credentials, Expected, connect, tls};
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use proto::shard::v1::stage_client::StageClient;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::executor::Place;
use crate::head::schedule::Limits;
use crate::metrics::Metrics;
use crate::placement::{Installed, Stand};
use crate::step::{MAX_OPERATIONS_PER_SLOT, Reason, StepFault};

/// Largest message of the data plane: the activations of the largest step that a configuration may ask for, and its rows.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Bytes of a row and of a KV operation at most, as they travel: fields of ten bytes each, sampling included.
const ROW_BYTES: usize = 96;
const OPERATION_BYTES: usize = 48;
/// Of a message beside those: numbers and framing.
const MESSAGE_BYTES: usize = 1024;

/// Largest message that a stage receives: the largest step that its placement allows. Several may wait at once, so that more
/// would be memory for the asking.
pub fn max_step_bytes(limits: Limits, embedding_length: usize) -> usize {
    let rows = limits.max_step_rows as usize;
    let activations = rows.saturating_mul(embedding_length).saturating_mul(size_of::<f32>());
    let operations = limits.slots() * MAX_OPERATIONS_PER_SLOT * OPERATION_BYTES;
    let step = activations.saturating_add(rows * ROW_BYTES + operations + MESSAGE_BYTES);
    step.min(MAX_MESSAGE_BYTES)
}

/// Steps that the head may have under way, and a stage behind it: one for each stage of the longest pipeline that keeps busy.
/// It bounds the memory held by activations.
pub const MAX_IN_FLIGHT: usize = 8;

/// Messages that the connection has not taken yet: every step under way, and the rollbacks that the stage before may have
/// sent between them. A stream in which more gather is given up: the next stage does not read.
const OUTGOING: usize = 2 * MAX_IN_FLIGHT;

/// The sending half of a [`Link`]. Weak: it ends when the link is dropped, whoever still holds it.
pub type Outgoing = mpsc::WeakSender<wire::CarryMessage>;

/// How long one stage may compute on one step. A prefill step on a software renderer takes some ten seconds.
pub const STAGE_STEP_LIMIT: Duration = Duration::from_secs(30);

/// Time for one dial, handshake and reset of the stage behind it: an attempt to connect is given up after five seconds.
const HOP_OPEN_LIMIT: Duration = Duration::from_secs(7);

/// How long a stage waits for another one. A stage that lives and does not answer is given up; one whose process or node is
/// gone, or that does not read what it is sent, is noticed by the connection's keepalive within seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For one stage to compute one step.
    pub step: Duration,
    /// For one dial, handshake and reset of the stage behind it.
    pub open: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            step: STAGE_STEP_LIMIT,
            open: HOP_OPEN_LIMIT,
        }
    }
}

/// Why there is no stream to the next stage.
#[derive(Debug, Error)]
pub enum LinkError {
    /// It cannot be reached, or a stage behind it cannot.
    #[error("stage {stage} cannot be reached: {cause}")]
    Unreachable {
        /// The next stage.
        stage: u32,
        /// What happened.
        cause: String,
    },
    /// It, or a stage behind it, has another epoch installed.
    #[error("stage {stage} has another epoch: {cause}")]
    WrongEpoch {
        /// The next stage.
        stage: u32,
        /// What it says.
        cause: String,
    },
}

impl LinkError {
    fn unreachable(stage: u32, cause: impl Into<String>) -> Self {
        Self::Unreachable {
            stage,
            cause: cause.into(),
        }
    }

    fn refused(stage: u32, status: &Status) -> Self {
        let cause = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            tonic::Code::FailedPrecondition => Self::WrongEpoch { stage, cause },
            _ => Self::Unreachable { stage, cause },
        }
    }

    /// The same as a fault of the step that needed the stream.
    pub fn to_fault(&self) -> StepFault {
        let (stage, reason) = match self {
            Self::Unreachable { stage, .. } => (*stage, Reason::Unreachable),
            Self::WrongEpoch { stage, .. } => (*stage, Reason::WrongEpoch),
        };
        StepFault {
            stage,
            reason,
            message: self.to_string(),
        }
    }

    /// The same as the end of the stream from the stage before.
    pub fn to_status(&self) -> Status {
        match self {
            Self::Unreachable { .. } => Status::unavailable(self.to_string()),
            Self::WrongEpoch { .. } => Status::failed_precondition(self.to_string()),
        }
    }
}

/// An open stream. Dropping it ends the stream, and with it the streams behind it.
#[derive(Debug)]
pub struct Link {
    outgoing: mpsc::Sender<wire::CarryMessage>,
    results: Streaming<wire::StepResult>,
    stage: u32,
    route: u64,
    /// Anything was answered.
    answered: bool,
    metrics: Metrics,
    // Keeps the connection for as long as the stream.
    _client: StageClient<Channel>,
}

impl Link {
    /// Opens the rest of the pipeline: when this returns, every later stage is connected, empty, and of this epoch.
    ///
    /// # Errors
    /// When the next stage is not known, not there, not the one that the placement names, or refuses.
    pub async fn open(
        credentials: &Credentials,
        installed: &Installed,
        place: Place,
        metrics: &Metrics,
    ) -> Result<Self, LinkError> {
        let Stand { stage, stages, .. } = installed.stand();
        let (stage, later) = (stage + 1, stages.saturating_sub(stage + 1));
        let limit = place.deadlines.open * later;
        let opened = tokio::time::timeout(limit, Self::dial(credentials, installed, stage, metrics)).await;
        let late = || LinkError::unreachable(stage, format!("no answer within {limit:?}"));
        opened.unwrap_or_else(|_| Err(late()))
    }

    async fn dial(
        credentials: &Credentials,
        installed: &Installed,
        stage: u32,
        metrics: &Metrics,
    ) -> Result<Self, LinkError> {
        let unknown = |what: &str| LinkError::unreachable(stage, what);
        let endpoint = installed.next_endpoint.as_deref();
        let endpoint = endpoint.ok_or_else(|| unknown("its endpoint is not known yet"))?;
        let expected = installed.next.clone();
        let expected = expected.ok_or_else(|| unknown("the placement has no next stage"))?;
        let config = tls::client_config(credentials);
        let options = ConnectOptions::default();
        let dialling = metrics.dialling(installed.route());
        let channel = connect(endpoint, config, Expected::Exactly(expected), options).await;
        dialling.ended(channel.as_ref().err().map(ToString::to_string));
        let channel = channel.map_err(|error| LinkError::unreachable(stage, error.to_string()))?;
        let mut client = StageClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let open = wire::Open { epoch: installed.epoch };
        let first = wire::CarryMessage {
            message: Some(Message::Open(open)),
        };
        outgoing
            .send(first)
            .await
            .map_err(|_| unknown("the stream ended at once"))?;
        let results = client.carry(ReceiverStream::new(messages)).await;
        let results = results
            .map_err(|status| LinkError::refused(stage, &status))?
            .into_inner();
        Ok(Self {
            outgoing,
            results,
            stage,
            route: installed.route(),
            answered: false,
            metrics: metrics.clone(),
            _client: client,
        })
    }

    /// Where steps and rollbacks go in. What cannot be sent because the stream has ended is told by `result`.
    pub fn outgoing(&self) -> Outgoing {
        self.outgoing.downgrade()
    }

    /// The next result. Cancel-safe.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn result(&mut self) -> Result<wire::StepResult, LinkError> {
        match self.results.message().await {
            Ok(Some(result)) => {
                if !std::mem::replace(&mut self.answered, true) {
                    self.metrics.record_answer();
                }
                Ok(result)
            }
            Ok(None) => Err(LinkError::unreachable(self.stage, "it ended the stream")),
            Err(status) => {
                let error = LinkError::refused(self.stage, &status);
                // What the stage itself says has no source; what the connection says has one.
                if status.source().is_some() {
                    self.note_end(&status);
                }
                Err(error)
            }
        }
    }

    /// A connection that breaks is no news, unless nothing ever came over it, or nothing any more.
    fn note_end(&self, status: &Status) {
        let cause = || identity::connect::causes(status);
        if !self.answered {
            self.metrics.record_barren(self.route, cause());
        } else if fell_silent(status) {
            let silence = Keepalive::default().limit();
            let cause = format!("nothing was heard of it for {} ms: {}", silence.as_millis(), cause());
            self.metrics.record_silence(self.route, silence, cause);
        }
    }

    /// Index of the stage at the other end.
    pub fn stage(&self) -> u32 {
        self.stage
    }
}

/// How long the stages after this one may take for a step.
pub fn answer_limit(place: Place, stand: Stand) -> Duration {
    place.deadlines.step * stand.stages.saturating_sub(stand.stage + 1)
}
