//! The agent's end of a worker's control socket: one JSON object a line each way, one request at a time.

use crate::shard::observed::{Fault, Measured, WorkerPhase};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::control::v1::{MemoryUse, ObservedPace};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A worker answers from a thread that never computes; one that needs longer is stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How it is, a worker says within a millisecond. One that has not by now is asked again on another connection before it is judged.
const STATUS_LIMIT: Duration = Duration::from_millis(750);
/// An answer has a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request<'a> {
    Status,
    Install { envelope: String, next: Option<&'a str> },
    Drain,
    Metrics,
    Renew,
}

/// How a worker is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    phase: Phase,
    /// `ip:port`, while it serves or drains.
    pub endpoint: Option<String>,
    /// One CamelCase word when failed.
    #[serde(default)]
    pub reason: Option<String>,
    /// For a person, when failed.
    #[serde(default)]
    pub message: Option<String>,
    /// What it takes on its device, once loaded.
    #[serde(default)]
    memory: Option<Memory>,
    /// One CamelCase word while it is short of memory.
    #[serde(default)]
    pressure: Option<String>,
    /// How fast its steps really were, once it knows.
    #[serde(default)]
    pace: Option<Pace>,
    /// Why it cannot reach the next stage.
    #[serde(default)]
    next_unreachable: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Pace {
    #[serde(default)]
    decode_token_ns: u64,
    #[serde(default)]
    decode_samples: u64,
    #[serde(default)]
    decode_context: u64,
    #[serde(default)]
    prefill_row_ns: u64,
    #[serde(default)]
    prefill_samples: u64,
    #[serde(default)]
    hops_token_ns: u64,
    #[serde(default)]
    hops_samples: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Memory {
    #[serde(default)]
    weights_bytes: u64,
    #[serde(default)]
    kv_bytes: u64,
    #[serde(default)]
    compute_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Loading,
    Serving,
    Draining,
    Failed,
}

impl Status {
    /// What it says of its memory, its pace and the way to the next stage.
    pub fn measured(&self) -> Measured {
        Measured {
            memory: self.memory.map(|memory| MemoryUse {
                weights_bytes: memory.weights_bytes,
                kv_bytes: memory.kv_bytes,
                compute_bytes: memory.compute_bytes,
            }),
            pressure: self.pressure.clone().unwrap_or_default(),
            next_unreachable: self.next_unreachable.clone(),
            pace: self.pace.map(|pace| ObservedPace {
                decode_token_ns: pace.decode_token_ns,
                decode_samples: pace.decode_samples,
                decode_context: pace.decode_context,
                prefill_row_ns: pace.prefill_row_ns,
                prefill_samples: pace.prefill_samples,
                hops_token_ns: pace.hops_token_ns,
                hops_samples: pace.hops_samples,
            }),
        }
    }

    /// Where the worker is in its life.
    pub fn phase(&self) -> WorkerPhase {
        match self.phase {
            Phase::Loading => WorkerPhase::Loading,
            Phase::Serving => WorkerPhase::Serving,
            Phase::Draining => WorkerPhase::Draining,
            Phase::Failed => WorkerPhase::Failed,
        }
    }
}

#[derive(Deserialize)]
struct Outcome {
    ok: bool,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Outcome {
    /// The worker's decision.
    fn decided(self) -> Result<(), Fault> {
        if self.ok {
            return Ok(());
        }
        Err(Fault {
            reason: self.reason.unwrap_or_else(|| "Refused".to_owned()),
            message: self.message.unwrap_or_default(),
        })
    }
}

#[derive(Deserialize)]
struct Metrics {
    text: String,
}

/// Why a worker could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not open yet, or closed.
    #[error("the worker's control socket: {0}")]
    Io(#[from] std::io::Error),
    /// It is stuck.
    #[error("the worker did not answer within {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// It said something else.
    #[error("the worker's answer cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// A connection to a worker.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects once.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        Ok(Self {
            stream: BufReader::new(UnixStream::connect(socket).await?),
        })
    }

    /// How is it going?
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.ask(&Request::Status, STATUS_LIMIT).await
    }

    /// Hands over a placement. The inner result is the worker's decision.
    pub async fn install(&mut self, envelope: &[u8], next: Option<&str>) -> Result<Result<(), Fault>, ClientError> {
        let request = Request::Install {
            envelope: STANDARD.encode(envelope),
            next,
        };
        let outcome: Outcome = self.ask(&request, ANSWER_LIMIT).await?;
        Ok(outcome.decided())
    }

    /// Has it take the identity that lies in its directory now. The inner result is the worker's decision; one of an older version
    /// does not know the request, and looks by itself once a minute.
    pub async fn renew(&mut self) -> Result<Result<(), Fault>, ClientError> {
        let outcome: Outcome = self.ask(&Request::Renew, ANSWER_LIMIT).await?;
        Ok(outcome.decided())
    }

    /// Asks it to finish and end.
    pub async fn drain(&mut self) -> Result<(), ClientError> {
        self.ask::<Outcome>(&Request::Drain, ANSWER_LIMIT).await.map(|_| ())
    }

    /// Its metrics, as Prometheus reads them.
    pub async fn metrics(&mut self) -> Result<String, ClientError> {
        let metrics = self.ask::<Metrics>(&Request::Metrics, ANSWER_LIMIT).await?;
        Ok(metrics.text)
    }

    async fn ask<A: serde::de::DeserializeOwned>(
        &mut self,
        request: &Request<'_>,
        limit: Duration,
    ) -> Result<A, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let exchange = async {
            self.stream.get_mut().write_all(&line).await?;
            let mut answer = Vec::new();
            (&mut self.stream)
                .take(ANSWER_BYTES_MAX)
                .read_until(b'\n', &mut answer)
                .await?;
            if answer.is_empty() {
                return Err(ClientError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(serde_json::from_slice(&answer)?)
        };
        tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| ClientError::Silent(limit))?
    }
}

#[cfg(test)]
mod tests;
