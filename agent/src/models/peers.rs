//! Other agents as a source: asked first, believed in nothing, and left alone once they lie, stall or are not there.

use super::{Models, Wanted, locked};
use crate::shard::observed::Fault;
use crate::source::Kind;
use gguf::Digest;
use identity::{ConnectOptions, Expected, connect, tls};
use proto::control::v1::ReadTensorRequest;
use proto::control::v1::weights_client::WeightsClient;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

/// Peers that one fetch asks.
const PEERS_MAX: usize = 8;
/// A peer that sends nothing for so long is left alone: the origin may be quicker.
const PROGRESS_LIMIT: Duration = Duration::from_secs(10);

/// A peer that is slower than this is left alone as well, once its speed is known.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 << 10;

/// What came of asking a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Everything, and it is right.
    Right,
    /// It does not hold it, or has no time for us.
    NotNow,
    /// It lies, stalls or is not there.
    Useless,
}

/// The peers of one fetch.
pub(super) struct Peers<'a> {
    models: &'a Models,
    index: Digest,
    peers: Mutex<Vec<Peer>>,
}

#[derive(Clone)]
struct Peer {
    endpoint: String,
    state: State,
}

#[derive(Clone)]
enum State {
    Unknown,
    Connected(WeightsClient<Channel>),
    Dropped,
}

impl<'a> Peers<'a> {
    pub fn new(models: &'a Models, wanted: &Wanted) -> Self {
        let known = models.credentials.is_some();
        let peers = wanted.peers.iter().filter(|_| known).take(PEERS_MAX);
        Self {
            models,
            index: wanted.index,
            peers: Mutex::new(
                peers
                    .map(|endpoint| Peer {
                        endpoint: endpoint.clone(),
                        state: State::Unknown,
                    })
                    .collect(),
            ),
        }
    }

    /// How many may still be asked.
    pub fn left(&self) -> usize {
        locked(&self.peers)
            .iter()
            .filter(|peer| !matches!(peer.state, State::Dropped))
            .count()
    }

    /// Asks one peer after the other for a tensor, from `first` on, until one gave what `take` and `check` accept. `take` is
    /// given bytes and where they begin; `check` is asked once all came.
    pub fn tensor(
        &self,
        first: usize,
        name: &str,
        bytes: u64,
        stop: &CancellationToken,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Fault>,
        mut check: impl FnMut() -> bool,
    ) -> Result<Answer, Fault> {
        let count = locked(&self.peers).len();
        let mut answer = Answer::NotNow;
        for number in (0..count).map(|step| (first + step) % count) {
            if stop.is_cancelled() {
                return Err(super::cancelled());
            }
            let Some(client) = self.client(number) else { continue };
            let asked = self.models.wait(stop, self.read(client, name, bytes, &mut take));
            answer = match asked? {
                Answer::Right if check() => return Ok(Answer::Right),
                Answer::Right => Answer::Useless,
                other => other,
            };
            if answer == Answer::Useless {
                self.drop_peer(number, name);
            }
        }
        Ok(answer)
    }

    /// A file's header from any peer; the caller checks it.
    pub fn header(&self, index: &Digest, number: usize, bytes: u64, stop: &CancellationToken) -> Option<Vec<u8>> {
        debug_assert_eq!(*index, self.index);
        let header = std::cell::RefCell::new(Vec::new());
        let take = |offset: u64, chunk: &[u8]| {
            let mut header = header.borrow_mut();
            // Another peer begins anew.
            header.truncate(offset as usize);
            header.extend_from_slice(chunk);
            Ok(())
        };
        let answer = self.tensor(0, &super::model::header_name(number), bytes, stop, take, || true);
        matches!(answer, Ok(Answer::Right)).then(|| header.into_inner())
    }

    async fn read(
        &self,
        mut client: WeightsClient<Channel>,
        name: &str,
        bytes: u64,
        take: &mut impl FnMut(u64, &[u8]) -> Result<(), Fault>,
    ) -> Result<Answer, Fault> {
        let request = ReadTensorRequest {
            index_sha256: self.index.0.to_vec(),
            tensor: name.to_owned(),
            offset: 0,
        };
        let mut pieces = match tokio::time::timeout(PROGRESS_LIMIT, client.read(request)).await {
            Ok(Ok(pieces)) => pieces.into_inner(),
            Ok(Err(status)) => return Ok(judge(status.code())),
            Err(_) => return Ok(Answer::Useless),
        };
        let mut position = 0;
        let began = Instant::now();
        loop {
            if is_too_slow(position, began.elapsed()) {
                return Ok(Answer::Useless);
            }
            let piece = match tokio::time::timeout(PROGRESS_LIMIT, pieces.message()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) if position == bytes => return Ok(Answer::Right),
                Ok(Err(status)) => return Ok(judge(status.code())),
                Ok(Ok(None)) | Err(_) => return Ok(Answer::Useless),
            };
            let length = piece.data.len() as u64;
            if length == 0 || position + length > bytes {
                return Ok(Answer::Useless);
            }
            self.models.counters().received(Kind::Peer, length);
            take(position, &piece.data)?;
            position += length;
        }
    }

    fn client(&self, number: usize) -> Option<WeightsClient<Channel>> {
        let peer = locked(&self.peers).get(number)?.clone();
        match peer.state {
            State::Dropped => None,
            State::Connected(client) => Some(client),
            State::Unknown => {
                let config = tls::client_config(self.models.credentials.as_ref()?);
                let dial = connect(&peer.endpoint, config, Expected::Agent, ConnectOptions::default());
                match self.models.runtime.block_on(dial) {
                    Ok(channel) => {
                        let client = WeightsClient::new(channel);
                        locked(&self.peers)[number].state = State::Connected(client.clone());
                        Some(client)
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a peer cannot be reached");
                        locked(&self.peers)[number].state = State::Dropped;
                        None
                    }
                }
            }
        }
    }

    fn drop_peer(&self, number: usize, tensor: &str) {
        let mut peers = locked(&self.peers);
        let Some(peer) = peers.get_mut(number) else { return };
        peer.state = State::Dropped;
        tracing::warn!(
            peer = peer.endpoint,
            tensor,
            "a peer sent something else or nothing; it is not asked again for this fetch"
        );
    }
}

fn is_too_slow(bytes: u64, elapsed: Duration) -> bool {
    elapsed >= PROGRESS_LIMIT && bytes < SLOWEST_BYTES_PER_SECOND.saturating_mul(elapsed.as_secs())
}

fn judge(code: Code) -> Answer {
    match code {
        Code::NotFound | Code::ResourceExhausted => Answer::NotNow,
        _ => Answer::Useless,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_too_slow_only_once_its_speed_is_known() {
        let floor = SLOWEST_BYTES_PER_SECOND * PROGRESS_LIMIT.as_secs();
        assert!(!is_too_slow(0, PROGRESS_LIMIT - Duration::from_millis(1)));
        assert!(!is_too_slow(floor, PROGRESS_LIMIT));
        assert!(is_too_slow(floor - 1, PROGRESS_LIMIT));
        assert!(is_too_slow(floor, PROGRESS_LIMIT * 2));
    }
}
