//! The other end of a round: bytes come back, are counted, or are made, within limits and one round at a time.

use super::GLANCE;
use super::gate::Gate;
use super::measure::{CHUNK_BYTES, GLANCE_BYTES_MAX, noise};
use identity::{Role, peer};
use proto::control::v1::links_server::{Links, LinksServer};
use proto::control::v1::{LinkPayload, MeasureRequest, MeasureResponse, measure_request, measure_response};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A round of a slow line takes some seconds, and where a round trip takes a second a quarter of a minute. Whoever is slower holds up
/// everybody else.
const LIMIT: Duration = Duration::from_secs(20);
/// Why a round ended is told within this, or not at all.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of an echo.
const ECHO_BYTES_MAX: usize = 64 << 10;
/// Echoes of a round.
const ECHOES_MAX: u32 = 64;
/// Bytes of a round's bulks, both directions together.
const BULK_BYTES_MAX: u64 = 128 << 20;
/// Of a glance's: four of the largest in each direction.
const GLANCE_BULK_BYTES_MAX: u64 = 8 * GLANCE_BYTES_MAX;
/// Messages made ahead of the stream.
const AHEAD: usize = 2;
/// A message of a bulk and what is around it.
const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES as usize + 1024;

type Answers = mpsc::Sender<Result<MeasureResponse, Status>>;

/// Answers rounds.
#[derive(Clone)]
pub struct Server {
    gate: Arc<Gate>,
}

impl Server {
    /// Within what the gate allows.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }

    /// With its limits, for a tonic server.
    pub fn into_service(self) -> LinksServer<Self> {
        LinksServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Links for Server {
    type MeasureStream = ReceiverStream<Result<MeasureResponse, Status>>;

    async fn measure(
        &self,
        request: Request<Streaming<MeasureRequest>>,
    ) -> Result<Response<Self::MeasureStream>, Status> {
        if !matches!(peer(&request)?.role, Role::Agent { .. }) {
            return Err(Status::permission_denied("links are measured by agents"));
        }
        let is_glance = request.metadata().contains_key(GLANCE);
        let admitted = self
            .gate
            .admit(is_glance)
            .map_err(|why| Status::resource_exhausted(why.to_string()))?;
        let (answers, stream) = mpsc::channel(AHEAD);
        let round = Round::of(is_glance);
        tokio::spawn(serve(
            Arc::clone(&self.gate),
            (round, admitted),
            request.into_inner(),
            answers,
        ));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn serve(
    gate: Arc<Gate>,
    (mut round, turn): (Round, OwnedSemaphorePermit),
    mut requests: Streaming<MeasureRequest>,
    answers: Answers,
) {
    let outcome = tokio::time::timeout(LIMIT, round.run(&mut requests, &answers)).await;
    gate.answered(round.link_us());
    let ended = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(status)) => status,
        Err(_) => Status::deadline_exceeded(format!("a round takes at most {} s", LIMIT.as_secs())),
    };
    drop(turn);
    // Behind the answers that are on their way. A caller that is gone, or takes nothing, needs no reason.
    let _ = tokio::time::timeout(LAST_WORD_LIMIT, answers.send(Err(ended))).await;
}

/// What a round has asked for so far.
#[derive(Default)]
struct Round {
    most_bulk_bytes: u64,
    echoes: u32,
    echoed_bytes: u64,
    bulk_bytes: u64,
    uploaded: u64,
    /// The bulk under way: it ends with whatever comes next.
    bulk_since: Option<Instant>,
    bulk_time: Duration,
}

impl Round {
    fn of(is_glance: bool) -> Self {
        Self {
            most_bulk_bytes: if is_glance {
                GLANCE_BULK_BYTES_MAX
            } else {
                BULK_BYTES_MAX
            },
            ..Self::default()
        }
    }

    async fn run(&mut self, requests: &mut Streaming<MeasureRequest>, answers: &Answers) -> Result<(), Status> {
        while let Some(message) = requests.message().await? {
            use measure_request::Request::{Download, Echo, Upload};
            match message.request {
                Some(Echo(payload)) => {
                    self.end_bulk();
                    self.echo(&payload)?;
                    answer(answers, measure_response::Response::Echo(payload)).await?;
                }
                Some(Upload(upload)) => {
                    if self.uploaded == 0 {
                        self.end_bulk();
                        self.bulk_since = Some(Instant::now());
                    }
                    let bytes = upload.payload.map_or(0, |payload| payload.data.len() as u64);
                    self.count(bytes)?;
                    self.uploaded += bytes;
                    if upload.last {
                        self.end_bulk();
                        let uploaded = std::mem::take(&mut self.uploaded);
                        answer(answers, measure_response::Response::Uploaded(uploaded)).await?;
                    }
                }
                Some(Download(download)) => {
                    self.end_bulk();
                    self.count(download.bytes)?;
                    self.bulk_since = Some(Instant::now());
                    send(answers, download.bytes).await?;
                }
                None => return Err(Status::invalid_argument("request: unknown")),
            }
        }
        self.end_bulk();
        Ok(())
    }

    fn echo(&mut self, payload: &LinkPayload) -> Result<(), Status> {
        self.echoes += 1;
        self.echoed_bytes = self.echoed_bytes.saturating_add(payload.data.len() as u64);
        if self.echoes > ECHOES_MAX || payload.data.len() > ECHO_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "echo: at most {ECHOES_MAX} of {ECHO_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), Status> {
        self.bulk_bytes = self.bulk_bytes.saturating_add(bytes);
        let most = self.most_bulk_bytes;
        if self.bulk_bytes > most {
            return Err(Status::invalid_argument(format!("a round has at most {most} bytes")));
        }
        Ok(())
    }

    fn end_bulk(&mut self) {
        self.bulk_time += self.bulk_since.take().map(|since| since.elapsed()).unwrap_or_default();
    }

    /// What the round took of our link: its bulks as long as they lasted, also one that was cut off, and echoes at the bulks'
    /// rate.
    fn link_us(&mut self) -> u64 {
        self.end_bulk();
        let bulk_us = u64::try_from(self.bulk_time.as_micros()).unwrap_or(u64::MAX);
        let echoed = self.echoed_bytes.saturating_mul(2);
        let echo_us = u128::from(echoed) * u128::from(bulk_us) / u128::from(self.bulk_bytes.max(1));
        bulk_us.saturating_add(u64::try_from(echo_us).unwrap_or(u64::MAX))
    }
}

async fn send(answers: &Answers, bytes: u64) -> Result<(), Status> {
    let noise = noise();
    let mut left = bytes;
    while left > 0 {
        let count = left.min(CHUNK_BYTES);
        left -= count;
        let data = noise.slice(..count as usize);
        answer(answers, measure_response::Response::Downloaded(LinkPayload { data })).await?;
    }
    Ok(())
}

async fn answer(answers: &Answers, response: measure_response::Response) -> Result<(), Status> {
    let response = MeasureResponse {
        response: Some(response),
    };
    answers
        .send(Ok(response))
        .await
        .map_err(|_| Status::cancelled("the caller is gone"))
}
