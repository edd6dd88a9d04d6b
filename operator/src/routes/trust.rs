//! `Trust`: gateways say whom they trust, and hear whom they shall.

use std::time::Duration;

use proto::control::v1::trust_server::{Trust, TrustServer};
use proto::control::v1::{TrustHeld, TrustWanted};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::service::{admit, named};
use crate::context::{Context, Leadership, not_the_leader};

/// A few digests.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// Wishes under way to one gateway: each replaces all before it.
const OUTBOUND_QUEUE: usize = 1;
/// A gateway that takes nothing for this long is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The service that gateways follow.
#[derive(Debug, Clone)]
pub struct TrustService {
    context: Context,
    leadership: Leadership,
    stop: CancellationToken,
}

impl TrustService {
    /// Streams end when `stop` is cancelled.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership, stop: CancellationToken) -> Self {
        Self {
            context,
            leadership,
            stop,
        }
    }

    /// With its limits, for a tonic server.
    #[must_use]
    pub fn into_server(self) -> TrustServer<Self> {
        TrustServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn converse(
        self,
        gateway: String,
        mut held: Streaming<TrustHeld>,
        wishes: mpsc::Sender<Result<TrustWanted, Status>>,
    ) {
        let place = self.context.holders.enter(named(&gateway));
        let (mut leadership, mut wanted) = (self.leadership.clone(), self.context.holders.wanted());
        let ended = loop {
            let wish = tokio::select! {
                () = self.stop.cancelled() => break Status::unavailable("the operator stops"),
                () = leadership.ends() => break not_the_leader(),
                () = wishes.closed() => break Status::cancelled("the gateway closed the stream"),
                said = held.message() => match said {
                    Ok(Some(said)) => {
                        place.says(said);
                        continue;
                    }
                    Ok(None) => break Status::cancelled("the gateway closed the stream"),
                    Err(status) => break status,
                },
                changed = wanted.changed() => match changed {
                    Ok(()) => match wanted.borrow_and_update().clone() {
                        Some(wish) => wish,
                        None => continue,
                    },
                    Err(_) => break Status::unavailable("the operator stops"),
                },
            };
            match tokio::time::timeout(SEND_TIMEOUT, wishes.send(Ok(wish.as_ref().clone()))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => break Status::cancelled("the gateway closed the stream"),
                Err(_) => break Status::deadline_exceeded(format!("the gateway took nothing for {SEND_TIMEOUT:?}")),
            }
        };
        tracing::debug!(gateway, reason = %ended.message(), "gateway no longer says whom it trusts");
        // A client that is gone needs no reason.
        let _ = wishes.try_send(Err(ended));
    }
}

#[tonic::async_trait]
impl Trust for TrustService {
    type FollowStream = ReceiverStream<Result<TrustWanted, Status>>;

    async fn follow(&self, request: Request<Streaming<TrustHeld>>) -> Result<Response<Self::FollowStream>, Status> {
        let gateway = admit(&self.leadership, &request)?;
        let (wishes, receiver) = mpsc::channel(OUTBOUND_QUEUE);
        tokio::spawn(self.clone().converse(gateway, request.into_inner(), wishes));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
