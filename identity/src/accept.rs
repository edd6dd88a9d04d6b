//! The server's side of a connection: accept, shake hands, know the peer.
//!
//! Handshakes run beside each other, at most [`MAX_HANDSHAKES`], each with [`HANDSHAKE_TIMEOUT`]; when one more arrives the
//! oldest unfinished one is dropped, so that a flood of silent connections never locks out a sound one. Nothing that a
//! client does, and no shortage of descriptors, ends the loop.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tracing::{debug, warn};

use crate::certificate;
use crate::connect::{Keepalive, causes};
use crate::heard::Heard;
use crate::spiffe::SpiffeId;

/// Handshakes in progress at most: each holds one descriptor and some 20 KiB.
pub const MAX_HANDSHAKES: usize = 256;
/// A sound handshake takes milliseconds; ten seconds allow for a starved node.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be taken by the server; it takes them at once unless the process is overloaded.
const MAX_READY: usize = 64;
/// Pause when the system cannot accept (no descriptors, no memory): long enough for others to finish.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Streams of one peer at most: far above the sequences that a worker can hold.
const MAX_STREAMS_PER_PEER: u32 = 256;
/// Our headers have some hundred bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// A whole prefill step of a large model fits in flight, so that flow control never costs a round trip.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Such a stream, and others beside it on one connection. A peer that is not read fills this much memory at most.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Largest frame that a peer may send: a message of megabytes is a handful of frames, each of whole TLS records, instead of
/// hundreds. What is small is sent as it comes, in frames of its size.
pub(crate) const MAX_FRAME_BYTES: u32 = 256 * 1024;
/// One refused handshake in so many is told at level `warn`, the others at `debug`: outsiders must not fill the log.
const REFUSALS_PER_WARNING: u64 = 100;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The verified SPIFFE id; none on ports that demand no client certificate.
    pub id: Option<SpiffeId>,
    /// Where it dials from.
    pub address: SocketAddr,
    /// When anything last came from it.
    pub heard: Heard,
}

/// The SPIFFE id of the caller, as verified in the handshake.
///
/// # Errors
/// `UNAUTHENTICATED` when the connection came over a port that demands no certificate, or not over a [`TlsListener`].
pub fn peer<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let id = request.extensions().get::<Peer>().and_then(|peer| peer.id.clone());
    id.ok_or_else(|| Status::unauthenticated("this call demands a client certificate with a SPIFFE id"))
}

/// A gRPC server with this project's limits: keepalive as of [`Keepalive::default`], streams, windows and header size.
#[must_use]
pub fn grpc_server() -> tonic::transport::Server {
    let Keepalive { interval, timeout } = Keepalive::default();
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .max_concurrent_streams(MAX_STREAMS_PER_PEER)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
}

/// A listening port that yields connections whose handshake is done. Dropping it (or its stream) closes the port soon;
/// [`close`](Self::close) waits for that.
#[derive(Debug)]
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<TlsConnection>,
    accepting: JoinHandle<()>,
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl TlsListener {
    /// Listens, and accepts from now on.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: impl ToSocketAddrs, config: Arc<ServerConfig>) -> io::Result<Self> {
        Self::from_tcp(TcpListener::bind(address).await?, config)
    }

    /// Takes over a socket that listens already. Must be called on a Tokio runtime.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn from_tcp(listener: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(MAX_READY);
        let accepting = tokio::spawn(accept_loop(listener, TlsAcceptor::from(config), sender));
        Ok(Self {
            address,
            ready,
            accepting,
        })
    }

    /// The address bound, port included.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The connections, for tonic's `serve_with_incoming`. Yields no error and ends only with the runtime.
    pub fn incoming(self) -> impl Stream<Item = io::Result<TlsConnection>> + Send + Unpin + 'static {
        Incoming(self)
    }

    /// Closes the port; when this returns, it can be bound again. Connections that were not taken are closed too.
    pub async fn close(mut self) {
        self.accepting.abort();
        // Cancelled, as it should be: the task never ends by itself.
        let _ = (&mut self.accepting).await;
    }

    /// The next connection. None when the runtime ends. Cancel-safe.
    pub async fn next(&mut self) -> Option<TlsConnection> {
        self.ready.recv().await
    }
}

struct Incoming(TlsListener);

impl Stream for Incoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.ready.poll_recv(context).map(|connection| connection.map(Ok))
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsConnection;
    type Addr = Peer;

    async fn accept(&mut self) -> (TlsConnection, Peer) {
        match self.next().await {
            Some(connection) => {
                let peer = connection.peer.clone();
                (connection, peer)
            }
            // The runtime is ending: this task ends with it.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            id: None,
            address: self.address,
            heard: Heard::default(),
        })
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'_, TlsListener>) -> Self {
        stream.remote_addr().clone()
    }
}

async fn accept_loop(listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<TlsConnection>) {
    let mut handshakes = Handshakes::default();
    let refusals = Arc::new(AtomicU64::new(0));
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    failing = false;
                    let (acceptor, sender) = (acceptor.clone(), sender.clone());
                    handshakes.start(shake_hands(stream, address, acceptor, sender, Arc::clone(&refusals))).await;
                }
                Err(error) if concerns_one_connection(&error) => debug!(%error, "a connection was gone before it was accepted"),
                Err(error) => {
                    if !failing {
                        warn!(%error, "connections cannot be accepted; trying on");
                    }
                    failing = true;
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = handshakes.running.join_next() => {}
            () = sender.closed() => return,
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Handshakes in progress, oldest first.
#[derive(Default)]
struct Handshakes {
    running: JoinSet<()>,
    order: VecDeque<AbortHandle>,
}

impl Handshakes {
    async fn start(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        while self.running.try_join_next().is_some() {}
        while self.running.len() >= MAX_HANDSHAKES {
            if let Some(oldest) = self.order.pop_front() {
                oldest.abort();
            }
            // Ends at once: some handshake was just dropped, or had ended before.
            self.running.join_next().await;
        }
        if self.order.len() >= 2 * MAX_HANDSHAKES {
            self.order.retain(|handshake| !handshake.is_finished());
        }
        self.order.push_back(self.running.spawn(handshake));
    }
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<TlsConnection>,
    refusals: Arc<AtomicU64>,
) {
    // Steps are small and each waits for the last: delayed sending would cost 40 ms per token.
    let delayed = stream.set_nodelay(true);
    let error = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) if delayed.is_ok() => {
            // A closed channel means that the server ends; the connection ends with it.
            let _ = sender.send(TlsConnection::new(stream, address)).await;
            return;
        }
        Ok(Ok(_)) => "the socket is gone".to_owned(),
        Ok(Err(error)) => causes(&error),
        Err(_) => "no handshake in time".to_owned(),
    };
    let count = refusals.fetch_add(1, Ordering::Relaxed);
    if count.is_multiple_of(REFUSALS_PER_WARNING) {
        warn!(%address, %error, refused = count + 1, "a connection was refused in the handshake");
    } else {
        debug!(%address, %error, refused = count + 1, "a connection was refused in the handshake");
    }
}

/// A connection whose handshake is done.
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl TlsConnection {
    fn new(stream: TlsStream<TcpStream>, address: SocketAddr) -> Self {
        let certificates = stream.get_ref().1.peer_certificates();
        let id = certificates
            .and_then(|chain| chain.first())
            .and_then(|leaf| certificate::spiffe_id(leaf).ok());
        Self {
            stream,
            peer: Peer {
                id,
                address,
                heard: Heard::since(Instant::now()),
            },
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl fmt::Debug for TlsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.peer.heard.note(Instant::now());
        }
        read
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
