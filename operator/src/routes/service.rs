//! `Routes`: gateways watch the table and fetch vocabularies.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use identity::{Role, SpiffeId};
use prometheus::IntGauge;
use proto::control::v1::routes_server::{Routes as RoutesRpc, RoutesServer};
use proto::control::v1::{RouteTable, VocabularyPiece, VocabularyRequest, WatchRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Routes;
use crate::by_digest::{Digest, pieces};
use crate::context::{Context, Leadership, not_the_leader};

/// Requests carry a digest at most.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// Tables under way to one gateway: each replaces all before it.
const OUTBOUND_QUEUE: usize = 1;
/// A gateway that takes nothing for this long is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The service that gateways watch.
#[derive(Debug, Clone)]
pub struct RoutesService {
    context: Context,
    leadership: Leadership,
    routes: Arc<Routes>,
    stop: CancellationToken,
}

/// Counts a gateway for as long as it watches.
struct Watching(IntGauge);

impl Watching {
    fn begin(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RoutesService {
    /// Streams end when `stop` is cancelled.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership, routes: Arc<Routes>, stop: CancellationToken) -> Self {
        Self {
            context,
            leadership,
            routes,
            stop,
        }
    }

    /// With its limits, for a tonic server.
    #[must_use]
    pub fn into_server(self) -> RoutesServer<Self> {
        RoutesServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn feed(self, gateway: String, tables: mpsc::Sender<Result<RouteTable, Status>>) {
        let _watching = Watching::begin(&self.context.metrics.gateways);
        let _place = self.context.holders.enter(named(&gateway));
        let mut leadership = self.leadership.clone();
        let mut table = self.routes.watch();
        table.mark_changed();
        tracing::info!(gateway, "gateway watches the routes");
        let ended = loop {
            let changed = tokio::select! {
                biased;
                () = self.stop.cancelled() => break Status::unavailable("the operator stops"),
                () = leadership.ends() => break not_the_leader(),
                () = tables.closed() => break Status::cancelled("the gateway closed the stream"),
                changed = table.changed() => changed,
            };
            if changed.is_err() {
                break Status::unavailable("the operator stops");
            }
            let Some(current) = table.borrow_and_update().clone() else {
                continue;
            };
            match tokio::time::timeout(SEND_TIMEOUT, tables.send(Ok(current.as_ref().clone()))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => break Status::cancelled("the gateway closed the stream"),
                Err(_) => break Status::deadline_exceeded(format!("the gateway took nothing for {SEND_TIMEOUT:?}")),
            }
        };
        tracing::info!(gateway, reason = %ended.message(), "gateway no longer watches the routes");
        // A client that is gone needs no reason.
        let _ = tables.try_send(Err(ended));
    }
}

/// The gateway that calls, while this replica leads.
pub(super) fn admit<T>(leadership: &Leadership, request: &Request<T>) -> Result<String, Status> {
    match identity::peer(request)? {
        SpiffeId {
            role: Role::Gateway { pod },
            ..
        } => leadership.require().map(|()| pod),
        other => Err(Status::permission_denied(format!("{other} is not a gateway"))),
    }
}

/// As people are told of it.
pub(super) fn named(gateway: &str) -> String {
    format!("gateway {gateway}")
}

#[tonic::async_trait]
impl RoutesRpc for RoutesService {
    type WatchStream = ReceiverStream<Result<RouteTable, Status>>;
    type VocabularyStream = Pin<Box<dyn Stream<Item = Result<VocabularyPiece, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let gateway = admit(&self.leadership, &request)?;
        let (tables, receiver) = mpsc::channel(OUTBOUND_QUEUE);
        tokio::spawn(self.clone().feed(gateway, tables));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn vocabulary(
        &self,
        request: Request<VocabularyRequest>,
    ) -> Result<Response<Self::VocabularyStream>, Status> {
        admit(&self.leadership, &request)?;
        let digest = Digest::try_from(request.into_inner().sha256)
            .map_err(|other| Status::invalid_argument(format!("sha256 has {} bytes, not 32", other.len())))?;
        let data = self.routes.vocabularies.get(&digest);
        let data = data.ok_or_else(|| Status::not_found("no model that was inspected has this vocabulary"))?;
        let pieces = pieces(data).map(|data| Ok(VocabularyPiece { data: data.into() }));
        Ok(Response::new(futures::stream::iter(pieces).boxed()))
    }
}
