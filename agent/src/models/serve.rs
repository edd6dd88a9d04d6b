//! The pieces of this node, for other agents: a few at a time, and slower than the line, so that tokens come first.

use super::{Model, Models};
use crate::links;
use gguf::cache::{is_piece_complete, piece_path};
use gguf::{Digest, Piece};
use identity::{Credentials, Role, TlsListener, grpc_server, peer, tls};
use proto::control::v1::weights_server::{Weights, WeightsServer};
use proto::control::v1::{ReadTensorRequest, TensorPiece};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Tensors under way at once, over all callers. Whoever comes after them asks somebody else.
const STREAMS_MAX: usize = 8;
/// The most that a message may hold.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces read ahead of a caller.
const AHEAD: usize = 2;
/// A caller that takes nothing for so long loses its stream, which others wait for.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// A tensor's name has at most 63 bytes.
const NAME_BYTES_MAX: usize = 64;

/// Serves the pieces that are here.
#[derive(Clone)]
pub struct Server {
    models: Arc<Models>,
    streams: Arc<Semaphore>,
    rate: Arc<Rate>,
}

/// A limit over all streams.
struct Rate {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Rate {
    /// Waits for the turn of so many bytes.
    async fn pass(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let turn = {
            let mut free_at = self.free_at.lock().await;
            let turn = (*free_at).max(Instant::now());
            *free_at = turn + cost;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

/// Bytes of a file that a caller may have.
struct Extent {
    file: File,
    begin: u64,
    end: u64,
}

impl Server {
    /// For these models, at most `bytes_per_second` over all callers.
    pub fn new(models: Arc<Models>, bytes_per_second: u64) -> Self {
        Self {
            models,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            rate: Arc::new(Rate {
                bytes_per_second: bytes_per_second.max(1),
                free_at: Mutex::new(Instant::now()),
            }),
        }
    }

    /// Serves on a port until `stop`, and beside the pieces what measures links, where that is given.
    ///
    /// # Errors
    /// The server cannot go on.
    pub async fn run(
        self,
        listener: TlsListener,
        links: Option<links::serve::Server>,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        grpc_server()
            .add_service(WeightsServer::new(self))
            .add_optional_service(links.map(links::serve::Server::into_service))
            .serve_with_incoming_shutdown(listener.incoming(), stop.cancelled_owned())
            .await
    }

    fn find(&self, index: &Digest, name: &str) -> Result<Extent, Status> {
        let missing = || Status::not_found("this node does not hold it");
        let model = self.models.held(index).ok_or_else(missing)?;
        let folder = self.models.folder(index);
        if let Some(number) = name.strip_prefix("header-").and_then(|rest| rest.strip_suffix(".gguf")) {
            let number: usize = number.parse().map_err(|_| missing())?;
            let indexed = model.index.files().get(number).ok_or_else(missing)?;
            let path = folder.join(super::model::header_name(number));
            return Ok(Extent {
                file: File::open(path).map_err(|_| missing())?,
                begin: 0,
                end: indexed.header_bytes,
            });
        }
        let pieces = model.pieces().map_err(|fault| Status::internal(fault.message))?;
        let complete = |piece: &Piece| is_piece_complete(&folder, &pieces, *piece);
        let piece = Model::piece_of(&pieces, name)
            .into_iter()
            .find(complete)
            .ok_or_else(missing)?;
        let places = gguf::slice::places(&pieces, piece);
        let (tensor, begin) = places
            .iter()
            .find(|(tensor, _)| tensor.name == name)
            .ok_or_else(missing)?;
        Ok(Extent {
            file: File::open(piece_path(&folder, piece)).map_err(|_| missing())?,
            begin: *begin,
            end: begin + tensor.size_bytes,
        })
    }

    async fn send(
        self,
        extent: Extent,
        sender: mpsc::Sender<Result<TensorPiece, Status>>,
        _permit: OwnedSemaphorePermit,
    ) {
        let file = Arc::new(extent.file);
        let mut position = extent.begin;
        while position < extent.end {
            let count = (extent.end - position).min(PIECE_BYTES);
            self.rate.pass(count).await;
            let file = Arc::clone(&file);
            let read = tokio::task::spawn_blocking(move || {
                let mut data = vec![0; count as usize];
                file.read_exact_at(&mut data, position).map(|()| data)
            });
            let piece = match read.await {
                Ok(Ok(data)) => Ok(TensorPiece { data }),
                _ => Err(Status::data_loss("the piece cannot be read")),
            };
            let ends = piece.is_err();
            let sent = tokio::time::timeout(STALL_LIMIT, sender.send(piece)).await;
            // A caller that is gone needs nothing more.
            if !matches!(sent, Ok(Ok(()))) || ends {
                return;
            }
            position += count;
        }
    }
}

#[tonic::async_trait]
impl Weights for Server {
    type ReadStream = ReceiverStream<Result<TensorPiece, Status>>;

    async fn read(&self, request: Request<ReadTensorRequest>) -> Result<Response<Self::ReadStream>, Status> {
        if !matches!(peer(&request)?.role, Role::Agent { .. }) {
            return Err(Status::permission_denied("weights are for agents"));
        }
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("as many tensors as allowed are under way"))?;
        let ReadTensorRequest {
            index_sha256,
            tensor,
            offset,
        } = request.into_inner();
        let index = Digest::try_from(index_sha256.as_slice())
            .map_err(|error| Status::invalid_argument(format!("index_sha256: {error}")))?;
        if tensor.len() > NAME_BYTES_MAX {
            return Err(Status::invalid_argument("tensor: no tensor has so long a name"));
        }
        let server = self.clone();
        let found = tokio::task::spawn_blocking(move || server.find(&index, &tensor)).await;
        let mut extent = found.map_err(|_| Status::internal("the search ended early"))??;
        extent.begin = extent.begin.saturating_add(offset).min(extent.end);
        let (sender, pieces) = mpsc::channel(AHEAD);
        tokio::spawn(self.clone().send(extent, sender, permit));
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

/// Listens for other agents.
///
/// # Errors
/// The address cannot be bound.
pub async fn listen(address: std::net::SocketAddr, credentials: &Credentials) -> std::io::Result<TlsListener> {
    TlsListener::bind(address, tls::server_config(credentials)).await
}
