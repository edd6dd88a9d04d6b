//! One round to one peer: echoes for the latency, then bytes in each direction until their number tells the rate. Or a glance: fewer
//! of both, and no more than shows that the link is as it was.
//!
//! Everything is timed by our clock and counted by us: of what the peer says, nothing enters a figure but that bytes came.

use super::GLANCE;
use super::history::{self, ECHO_BYTES, Round};
use identity::{ConnectOptions, Credentials, Expected, Role, SpiffeId, connect, tls};
use k8s_openapi::jiff::Timestamp;
use prost::bytes::Bytes;
use proto::control::v1::links_client::LinksClient;
use proto::control::v1::{
    Download, LinkPayload, MeasureRequest, MeasureResponse, Upload, measure_request, measure_response,
};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};

/// Bytes of a message of a bulk. Large enough that the stream's cost for each message vanishes, small against the first bulk.
pub const CHUNK_BYTES: u64 = 256 << 10;
/// The first bulk of a direction: it opens the windows, and tells how large the next has to be.
pub const BULK_BYTES_MIN: u64 = 256 << 10;
/// The largest: on a link of 10 Gbit/s it takes 13 ms.
pub const BULK_BYTES_MAX: u64 = 16 << 20;
/// The first bulk of a glance. On a link of 10 Mbit/s it takes 50 ms.
pub const GLANCE_BYTES_MIN: u64 = 64 << 10;
/// Its largest: at 128 Mbit/s and more, a glance need not know how much more.
pub const GLANCE_BYTES_MAX: u64 = 2 << 20;
/// What a bulk should take: a hundred round trips of a local network, so that none of them shows.
const BULK_MS: u64 = 40;
/// Bulks of one direction.
const BULKS_MAX: usize = 4;
/// A bulk that takes fewer round trips tells how fast the windows of a new connection open, and not what the link carries.
const WINDOW_ROUND_TRIPS: u64 = 8;
/// So many times larger is the one after it: by then the windows are.
const WINDOW_GROWTH: u64 = 4;
/// Echoes of a round, those not counted with which a connection pays for what it does once.
const ROUND_ECHOES: Echoes = Echoes {
    bytes: ECHO_BYTES,
    warm_up: 4,
    counted: 32,
};
/// Of a glance: they tell the round trip, and carry next to nothing.
const GLANCE_ECHOES: Echoes = Echoes {
    bytes: 1 << 10,
    warm_up: 2,
    counted: 8,
};
/// On a long line fewer echoes do, so that a round does not take the whole allowance.
const ECHOES_MIN: usize = 8;
const ECHO_TIME: Duration = Duration::from_millis(250);
/// Where a round trip takes a good part of a second even fewer do, or the round would not come to its end.
const ECHOES_LEAST: usize = 2;
const ECHO_TIME_LONG: Duration = Duration::from_secs(4);
/// Messages on their way to the stream.
const AHEAD: usize = 2;
/// A round on a line of a megabit takes some seconds, and where a round trip takes a second a quarter of a minute; the peer ends it
/// after twenty seconds.
const LIMIT: Duration = Duration::from_secs(24);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Echoes {
    bytes: usize,
    warm_up: usize,
    counted: usize,
}

/// How much of a link is taken to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What is known of it is to be known better.
    Round,
    /// Whether it is what it was, beside the tokens that go over it.
    Glance {
        /// What it sent.
        send_bytes_per_second: u64,
        /// What it received.
        receive_bytes_per_second: u64,
    },
}

/// How a direction is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    /// The first bulk.
    pub least_bytes: u64,
    /// The largest.
    pub most_bytes: u64,
    /// A rate that was found before: one that is alike need not be known better.
    pub known: Option<u64>,
}

impl Effort {
    fn echoes(self) -> Echoes {
        match self {
            Self::Round => ROUND_ECHOES,
            Self::Glance { .. } => GLANCE_ECHOES,
        }
    }

    /// To the peer, and from it.
    pub fn fillings(self) -> [Filling; 2] {
        let filling = |least_bytes, most_bytes, known| Filling {
            least_bytes,
            most_bytes,
            known,
        };
        match self {
            Self::Round => [filling(BULK_BYTES_MIN, BULK_BYTES_MAX, None); 2],
            Self::Glance {
                send_bytes_per_second,
                receive_bytes_per_second,
            } => [send_bytes_per_second, receive_bytes_per_second]
                .map(|known| filling(GLANCE_BYTES_MIN, GLANCE_BYTES_MAX, Some(known))),
        }
    }
}

/// What a round found, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Its figures.
    pub round: Round,
    /// Time that the link was filled, both directions together.
    pub link_us: u64,
}

/// Why a round gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// The peer puts us off; it is there.
    #[error("{0}")]
    PutOff(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<Status> for MeasureError {
    fn from(status: Status) -> Self {
        let text = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::ResourceExhausted => Self::PutOff(text),
            _ => Self::Failed(text),
        }
    }
}

impl Echoes {
    /// Whether the echo of that number, which was sent so long after the first, tells the round trip.
    fn counts(self, number: usize, sent_after: Duration) -> bool {
        number >= self.warm_up || sent_after >= ECHO_TIME_LONG
    }
}

/// Whether so many echoes that count are enough after so long. Pure.
fn suffice(counted: usize, elapsed: Duration) -> bool {
    counted >= ECHOES_MIN && elapsed >= ECHO_TIME || counted >= ECHOES_LEAST && elapsed >= ECHO_TIME_LONG
}

/// One bulk that was carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// How much.
    pub bytes: u64,
    /// Within which time, a round trip not counted.
    pub us: u64,
}

impl Bulk {
    /// Bytes and the time until the last was known to be there. Of that a round trip is not the bytes'; where it would leave
    /// less than a quarter, the bulk was too small to tell, and the rest is a guess on the slow side.
    pub fn new(bytes: u64, elapsed_us: u64, round_trip_us: u64) -> Self {
        Self {
            bytes,
            us: elapsed_us.saturating_sub(round_trip_us).max(elapsed_us / 4).max(1),
        }
    }

    /// Never zero.
    pub fn bytes_per_second(&self) -> u64 {
        let rate = u128::from(self.bytes) * 1_000_000 / u128::from(self.us.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX).max(1)
    }
}

/// How large the next bulk has to be; `None` once the last one tells the rate. Pure.
///
/// A glance has few echoes to open the windows, and on a link that others fill, such as weights on their way, a round trip takes long:
/// before it finds less than is known it gives the windows time.
pub fn next_bulk(filling: Filling, done: &[Bulk], round_trip_us: u64) -> Option<u64> {
    let Some(last) = done.last() else {
        return Some(filling.least_bytes);
    };
    let rate = last.bytes_per_second();
    if filling.known.is_some_and(|known| history::is_as_known(known, rate)) {
        return None;
    }
    let mut wanted = (rate / 1000 * BULK_MS).clamp(filling.least_bytes, filling.most_bytes);
    let is_brief = last.us < round_trip_us.saturating_mul(WINDOW_ROUND_TRIPS);
    if is_brief && filling.known.is_some_and(|known| rate < known) {
        wanted = wanted.max(last.bytes * WINDOW_GROWTH).min(filling.most_bytes);
    }
    // One that took half of what it should says enough.
    (done.len() < BULKS_MAX && wanted > last.bytes * 2).then_some(wanted)
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Name of its node, which it must prove.
    pub node: &'a str,
    /// host:port.
    pub endpoint: &'a str,
    /// Of our installation.
    pub trust_domain: &'a str,
}

/// One round, or a glance.
///
/// # Errors
/// It is put off, or fails.
pub async fn measure(peer: Peer<'_>, effort: Effort, credentials: &Credentials) -> Result<Measured, MeasureError> {
    match tokio::time::timeout(LIMIT, attempt(peer, effort, credentials)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MeasureError::Failed(format!("no round within {} s", LIMIT.as_secs()))),
    }
}

async fn attempt(peer: Peer<'_>, effort: Effort, credentials: &Credentials) -> Result<Measured, MeasureError> {
    let failed = |error: &dyn std::fmt::Display| MeasureError::Failed(error.to_string());
    let role = Role::Agent {
        node: peer.node.to_owned(),
    };
    let expected = SpiffeId::new(peer.trust_domain, role).map_err(|error| failed(&error))?;
    let config = tls::client_config(credentials);
    let dialled = connect(
        peer.endpoint,
        config,
        Expected::Exactly(expected),
        ConnectOptions::default(),
    );
    let channel = dialled.await.map_err(|error| failed(&error))?;
    let (requests, queue) = mpsc::channel(AHEAD);
    let mut request = Request::new(ReceiverStream::new(queue));
    if effort != Effort::Round {
        request.metadata_mut().insert(GLANCE, MetadataValue::from_static("1"));
    }
    let responses = LinksClient::new(channel).measure(request).await?;
    let mut stream = Stream {
        requests,
        responses: responses.into_inner(),
    };
    let round_trips_us = stream.echoes(effort.echoes()).await?;
    let mut sorted = round_trips_us.clone();
    sorted.sort_unstable();
    let round_trip_us = history::percentile(&sorted, 50).unwrap_or(0);
    let [sending, receiving] = effort.fillings();
    let noise = noise();
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    while let Some(bytes) = next_bulk(sending, &sent, round_trip_us) {
        let elapsed_us = stream.upload(bytes, &noise).await?;
        sent.push(Bulk::new(bytes, elapsed_us, round_trip_us));
    }
    while let Some(bytes) = next_bulk(receiving, &received, round_trip_us) {
        let elapsed_us = stream.download(bytes).await?;
        received.push(Bulk::new(bytes, elapsed_us, round_trip_us));
    }
    Ok(measured(effort, round_trips_us, &sent, &received))
}

fn measured(effort: Effort, round_trips_us: Vec<u64>, sent: &[Bulk], received: &[Bulk]) -> Measured {
    // The last bulk of a direction is the largest: the ones before it opened the windows.
    let rate = |bulks: &[Bulk]| bulks.last().map_or(0, Bulk::bytes_per_second);
    let (send_bytes_per_second, receive_bytes_per_second) = (rate(sent), rate(received));
    let echoes = effort.echoes();
    let echoed = ((round_trips_us.len() + echoes.warm_up) * echoes.bytes) as u64;
    let echo_us = |rate: u64| echoed * 1_000_000 / rate.max(1);
    let bulks_us: u64 = sent.iter().chain(received).map(|bulk| bulk.us).sum();
    Measured {
        link_us: bulks_us + echo_us(send_bytes_per_second) + echo_us(receive_bytes_per_second),
        round: Round {
            unix_s: Timestamp::now().as_second(),
            is_glance: effort != Effort::Round,
            echo_bytes: echoes.bytes,
            round_trips_us,
            send_bytes_per_second,
            receive_bytes_per_second,
        },
    }
}

/// Bytes that nothing on the way can pack: a tunnel that compresses would carry zeros in no time.
pub fn noise() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..CHUNK_BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect::<Vec<u8>>().into()
}

struct Stream {
    requests: mpsc::Sender<MeasureRequest>,
    responses: Streaming<MeasureResponse>,
}

impl Stream {
    async fn echoes(&mut self, echoes: Echoes) -> Result<Vec<u64>, MeasureError> {
        let payload = noise().slice(..echoes.bytes);
        let began = Instant::now();
        let mut round_trips_us = Vec::with_capacity(echoes.counted);
        for number in 0..echoes.warm_up + echoes.counted {
            let sent = Instant::now();
            let echo = LinkPayload { data: payload.clone() };
            self.send(measure_request::Request::Echo(echo)).await?;
            match self.receive().await? {
                measure_response::Response::Echo(echo) if echo.data.len() == payload.len() => {}
                _ => return Err(unexpected()),
            }
            if echoes.counts(number, sent.saturating_duration_since(began)) {
                round_trips_us.push(micros(sent));
            }
            if suffice(round_trips_us.len(), began.elapsed()) {
                break;
            }
        }
        Ok(round_trips_us)
    }

    async fn upload(&mut self, bytes: u64, noise: &Bytes) -> Result<u64, MeasureError> {
        let began = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let count = left.min(CHUNK_BYTES);
            left -= count;
            let upload = Upload {
                payload: Some(LinkPayload {
                    data: noise.slice(..count as usize),
                }),
                last: left == 0,
            };
            self.send(measure_request::Request::Upload(upload)).await?;
        }
        match self.receive().await? {
            measure_response::Response::Uploaded(counted) if counted == bytes => Ok(micros(began)),
            _ => Err(unexpected()),
        }
    }

    async fn download(&mut self, bytes: u64) -> Result<u64, MeasureError> {
        let began = Instant::now();
        self.send(measure_request::Request::Download(Download { bytes }))
            .await?;
        let mut left = bytes;
        while left > 0 {
            let measure_response::Response::Downloaded(payload) = self.receive().await? else {
                return Err(unexpected());
            };
            let length = payload.data.len() as u64;
            if length == 0 || length > left {
                return Err(unexpected());
            }
            left -= length;
        }
        Ok(micros(began))
    }

    async fn send(&mut self, request: measure_request::Request) -> Result<(), MeasureError> {
        let request = MeasureRequest { request: Some(request) };
        if self.requests.send(request).await.is_ok() {
            return Ok(());
        }
        // The stream has ended; its status says why.
        match self.receive().await {
            Err(error) => Err(error),
            Ok(_) => Err(unexpected()),
        }
    }

    async fn receive(&mut self) -> Result<measure_response::Response, MeasureError> {
        let response = self.responses.message().await?.and_then(|message| message.response);
        response.ok_or_else(|| MeasureError::Failed("the peer ended the round".to_owned()))
    }
}

fn unexpected() -> MeasureError {
    MeasureError::Failed("the peer answered something else than it was asked".to_owned())
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
