//! One agent's stream, from Hello to its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use identity::Heard;
use proto::control::v1::{AgentMessage, Hello, OperatorMessage, agent_message, operator_message};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::registry::{Agents, Attachment};
use crate::authority::{Holders, Place};
use crate::clock;
use crate::context::{Leadership, not_the_leader};
use crate::metrics::Metrics;

/// An agent says Hello at once; whoever does not is not one.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// An agent that takes nothing for this long is stuck; a new stream serves it better.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages under way to one agent: each is level-triggered, so a longer queue would only delay the newest.
pub(super) const OUTBOUND_QUEUE: usize = 2;

/// Everything one stream needs.
pub(super) struct Session {
    pub(super) node: String,
    pub(super) heard: Heard,
    pub(super) agents: Arc<Agents>,
    pub(super) leadership: Leadership,
    pub(super) metrics: Metrics,
    pub(super) holders: Arc<Holders>,
    pub(super) stop: CancellationToken,
    pub(super) outbound: mpsc::Sender<Result<OperatorMessage, Status>>,
}

impl Session {
    /// Serves the stream until it ends, then forgets the agent and tells it why, where it still listens.
    pub(super) async fn run(self, inbound: impl Stream<Item = Result<AgentMessage, Status>> + Send) {
        let mut inbound = pin!(inbound);
        let ended = match self.hello(&mut inbound).await {
            Ok(hello) => self.attached(hello, &mut inbound).await,
            Err(status) => status,
        };
        tracing::info!(node = %self.node, reason = %ended.message(), "agent detached");
        // A client that is gone needs no reason.
        let _ = self.outbound.try_send(Err(ended));
    }

    async fn hello(
        &self,
        inbound: &mut (impl Stream<Item = Result<AgentMessage, Status>> + Unpin),
    ) -> Result<Hello, Status> {
        let first = tokio::select! {
            () = self.stop.cancelled() => return Err(Status::unavailable("the operator stops")),
            first = tokio::time::timeout(HELLO_TIMEOUT, inbound.next()) => first,
        };
        let first = first.map_err(|_| Status::deadline_exceeded(format!("no Hello within {HELLO_TIMEOUT:?}")))?;
        match first {
            Some(Ok(AgentMessage {
                message: Some(agent_message::Message::Hello(hello)),
            })) => Ok(hello),
            Some(Ok(_)) => Err(Status::invalid_argument("the first message must be Hello")),
            Some(Err(status)) => Err(status),
            None => Err(Status::cancelled("the stream ended before Hello")),
        }
    }

    async fn attached(
        &self,
        hello: Hello,
        inbound: &mut (impl Stream<Item = Result<AgentMessage, Status>> + Unpin),
    ) -> Status {
        let version: String = hello.version.chars().take(64).collect();
        let attachment = match self.agents.attach(&self.node, hello, clock::now()) {
            Ok(attachment) => attachment,
            Err(error) => return Status::resource_exhausted(error.to_string()),
        };
        tracing::info!(node = %self.node, version, session = attachment.session, "agent attached");
        self.metrics.agents.inc();
        let session = attachment.session;
        self.agents.hears(&self.node, session, self.heard.clone());
        let place = self.holders.enter(format!("agent {}", self.node));
        let ended = self.serve(attachment, &place, inbound).await;
        drop(place);
        self.agents.detach(&self.node, session, clock::now());
        self.metrics.agents.dec();
        ended
    }

    async fn serve(
        &self,
        attachment: Attachment,
        place: &Place,
        inbound: &mut (impl Stream<Item = Result<AgentMessage, Status>> + Unpin),
    ) -> Status {
        let Attachment {
            session,
            mut assignments,
            mut peers,
            mut inspect,
            replaced,
        } = attachment;
        let (mut leadership, mut wanted) = (self.leadership.clone(), self.holders.wanted());
        loop {
            let message = tokio::select! {
                () = self.stop.cancelled() => return Status::unavailable("the operator stops"),
                () = leadership.ends() => return not_the_leader(),
                () = replaced.cancelled() => return self.taken_over(),
                () = self.outbound.closed() => return Status::cancelled("the agent closed the stream"),
                received = inbound.next() => match received {
                    Some(Ok(message)) => {
                        if let Err(status) = self.take(session, place, message) {
                            return status;
                        }
                        continue;
                    }
                    Some(Err(status)) => return status,
                    None => return Status::cancelled("the agent closed the stream"),
                },
                changed = assignments.changed() => match changed {
                    Ok(()) => {
                        let Some(wanted) = assignments.borrow_and_update().clone() else { continue };
                        operator_message::Message::Assignments(wanted.as_ref().clone())
                    }
                    Err(_) => return self.taken_over(),
                },
                changed = peers.changed() => match changed {
                    Ok(()) => {
                        let Some(named) = peers.borrow_and_update().clone() else { continue };
                        operator_message::Message::Peers(named.as_ref().clone())
                    }
                    Err(_) => return self.taken_over(),
                },
                changed = wanted.changed() => match changed {
                    Ok(()) => {
                        let Some(wanted) = wanted.borrow_and_update().clone() else { continue };
                        operator_message::Message::Trust(wanted.as_ref().clone())
                    }
                    Err(_) => return self.taken_over(),
                },
                Some(wanted) = inspect.recv() => operator_message::Message::Inspect(wanted),
            };
            let sent = self.outbound.send(Ok(OperatorMessage { message: Some(message) }));
            match tokio::time::timeout(SEND_TIMEOUT, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Status::cancelled("the agent closed the stream"),
                Err(_) => return Status::deadline_exceeded(format!("the agent took nothing for {SEND_TIMEOUT:?}")),
            }
        }
    }

    /// Sessions are forgotten when a newer stream comes, and all together when the leadership ends.
    fn taken_over(&self) -> Status {
        match self.leadership.require() {
            Ok(()) => Status::aborted("a newer stream of this node took over"),
            Err(not_the_leader) => not_the_leader,
        }
    }

    fn take(&self, session: u64, place: &Place, message: AgentMessage) -> Result<(), Status> {
        match message.message {
            Some(agent_message::Message::Shards(report)) => self.agents.report(&self.node, session, report),
            Some(agent_message::Message::Inspection(inspection)) => {
                self.agents.inspected(&self.node, session, inspection);
            }
            Some(agent_message::Message::Leaving(_)) => self.agents.leaving(&self.node, session),
            Some(agent_message::Message::Trust(held)) => place.says(held),
            Some(agent_message::Message::Hello(_)) => {
                return Err(Status::invalid_argument("Hello comes once, at the start of the stream"));
            }
            // A newer agent may say more than this operator understands.
            None => {}
        }
        Ok(())
    }
}
