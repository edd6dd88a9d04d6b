//! `Stage.Carry`: who may open a stream, and what must stand before it is answered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use identity::{Credentials, SpiffeId, peer};
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use proto::shard::v1::stage_server::Stage;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::executor::Place;
use super::link::Link;
use super::relay::{RESULTS, Relay};
use super::thread::ComputeHandle;
use crate::metrics::Metrics;
use crate::placement::Installed;

/// The first message travels with the stream's headers; seconds allow for a lost packet.
const OPEN_MESSAGE_LIMIT: Duration = Duration::from_secs(5);
/// How long the next stage may be missed before the stage before this one is told: after a loss its successor is mostly on its
/// way here, and where it listens is heard here first.
const MISSED_LIMIT: Duration = Duration::from_secs(1);
/// Between two dials meanwhile, when nothing is heard of it.
const REDIAL: Duration = Duration::from_millis(100);

/// The service of every stage but the head, which refuses it.
#[derive(Debug)]
pub struct CarryService {
    compute: ComputeHandle,
    credentials: Credentials,
    installed: watch::Receiver<Option<Arc<Installed>>>,
    metrics: Metrics,
    /// Ends the stream that is open now: there is one at a time.
    current: Mutex<CancellationToken>,
}

impl CarryService {
    /// Serves with what was loaded, under whatever placement is installed.
    pub fn new(
        compute: ComputeHandle,
        credentials: Credentials,
        installed: watch::Receiver<Option<Arc<Installed>>>,
        metrics: Metrics,
    ) -> Self {
        let current = Mutex::new(CancellationToken::new());
        Self {
            compute,
            credentials,
            installed,
            metrics,
            current,
        }
    }

    fn authorise(&self, peer: &SpiffeId) -> Result<Arc<Installed>, Status> {
        let installed = in_force(&self.installed)?;
        installed.may_carry(peer).map_err(|cause| {
            tracing::warn!(%peer, %cause, "Stage.Carry refused");
            Status::permission_denied(cause)
        })?;
        Ok(installed)
    }

    /// The way on, by the first address of the next stage that answers within [`MISSED_LIMIT`].
    async fn reach_next(&self, epoch: u64, place: Place) -> Result<Link, Status> {
        let mut news = self.installed.clone();
        let missed = Instant::now() + MISSED_LIMIT;
        loop {
            let installed = news.borrow_and_update().clone();
            let installed = installed.filter(|installed| installed.epoch == epoch);
            let superseded = || Status::failed_precondition(format!("epoch {epoch} is no longer installed"));
            let installed = installed.ok_or_else(superseded)?;
            let opened = tokio::select! {
                opened = Link::open(&self.credentials, &installed, place, &self.metrics) => opened,
                // To dial on where nobody is expected any more would only cost time.
                Ok(()) = news.changed() => continue,
            };
            match opened {
                Ok(link) => return Ok(link),
                Err(error) if Instant::now() >= missed => return Err(error.to_status()),
                // A sender that is gone ends the worker, and this with it.
                Err(_) => drop(timeout(REDIAL, news.changed()).await),
            }
        }
    }

    /// Ends the stream before this one.
    fn take_over(&self) -> CancellationToken {
        let closing = CancellationToken::new();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, closing.clone()).cancel();
        closing
    }
}

/// The placement in force.
pub(crate) fn in_force(installed: &watch::Receiver<Option<Arc<Installed>>>) -> Result<Arc<Installed>, Status> {
    let current = installed.borrow().clone();
    current.ok_or_else(|| Status::unavailable("no placement is installed yet; try again"))
}

async fn opened_epoch(stream: &mut Streaming<wire::CarryMessage>) -> Result<u64, Status> {
    let first = timeout(OPEN_MESSAGE_LIMIT, stream.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("the stream's first message is late"))?;
    match first?.and_then(|message| message.message) {
        Some(Message::Open(open)) => Ok(open.epoch),
        _ => Err(Status::invalid_argument("the stream does not begin with Open")),
    }
}

#[tonic::async_trait]
impl Stage for CarryService {
    type CarryStream = ReceiverStream<Result<wire::StepResult, Status>>;

    async fn carry(
        &self,
        request: Request<Streaming<wire::CarryMessage>>,
    ) -> Result<Response<Self::CarryStream>, Status> {
        let peer = peer(&request)?;
        self.authorise(&peer)?;
        let mut upstream = request.into_inner();
        let epoch = opened_epoch(&mut upstream).await?;
        // Once more: a stream of the epoch before must not take over from one of the epoch installed meanwhile.
        let installed = self.authorise(&peer)?;
        if epoch != installed.epoch {
            let message = format!("the stream is of epoch {epoch}, installed is {}", installed.epoch);
            return Err(Status::failed_precondition(message));
        }
        let closing = self.take_over();
        let session = self.compute.open(installed.stand()).await;
        let session = session.map_err(|fault| Status::unavailable(fault.to_string()))?;
        let link = if session.place().tail {
            None
        } else {
            let link = tokio::select! {
                link = self.reach_next(epoch, session.place()) => link?,
                () = closing.cancelled() => return Err(Status::aborted("another stream takes over")),
            };
            session.forward_to(link.outgoing());
            Some(link)
        };
        let (results, answers) = mpsc::channel(RESULTS);
        let relay = Relay {
            session,
            link,
            upstream,
            results,
            installed: self.installed.clone(),
            closing,
            metrics: self.metrics.clone(),
        };
        tracing::info!(epoch, "a stream from the previous stage is open");
        tokio::spawn(relay.run());
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
