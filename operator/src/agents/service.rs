//! `AgentControl`: who may attach, and which leaves an agent may have for its workers.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use identity::{DEFAULT_LEAF_LIFETIME, Heard, Peer, Role, SpiffeId};
use proto::control::v1::agent_control_server::{AgentControl, AgentControlServer};
use proto::control::v1::{
    AgentMessage, InspectedResponse, Inspection, IssueWorkerLeafRequest, IssueWorkerLeafResponse, ModelIndexPiece,
    ModelIndexRequest, OperatorMessage,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::registry::Agents;
use super::session::{OUTBOUND_QUEUE, Session};
use crate::by_digest::{Digest, pieces};
use crate::context::{Context, Leadership};

/// Largest message from an agent: an inspection with a vocabulary of 32 MiB, an index of 16 MiB and the digests of every
/// layer.
const MESSAGE_BYTES_MAX: usize = 56 * 1024 * 1024;

/// The service that agents attach to.
#[derive(Debug, Clone)]
pub struct ControlService {
    context: Context,
    leadership: Leadership,
    agents: Arc<Agents>,
    stop: CancellationToken,
}

impl ControlService {
    /// Sessions end when `stop` is cancelled.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership, agents: Arc<Agents>, stop: CancellationToken) -> Self {
        Self {
            context,
            leadership,
            agents,
            stop,
        }
    }

    /// Serves the stream of a node's agent, which has proved that it is that, until the stream ends. `heard` is of its connection.
    ///
    /// # Errors
    /// This replica does not lead.
    pub fn attached(
        &self,
        node: String,
        heard: Heard,
        inbound: impl Stream<Item = Result<AgentMessage, Status>> + Send + 'static,
    ) -> Result<ReceiverStream<Result<OperatorMessage, Status>>, Status> {
        self.leadership.require()?;
        let (outbound, receiver) = mpsc::channel(OUTBOUND_QUEUE);
        let session = Session {
            node,
            heard,
            agents: self.agents.clone(),
            leadership: self.leadership.clone(),
            metrics: self.context.metrics.clone(),
            holders: self.context.holders.clone(),
            stop: self.stop.clone(),
            outbound,
        };
        tokio::spawn(session.run(inbound.fuse()));
        Ok(ReceiverStream::new(receiver))
    }

    /// With its limits, for a tonic server.
    #[must_use]
    pub fn into_server(self) -> AgentControlServer<Self> {
        AgentControlServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// The node whose agent calls.
fn calling_node<T>(request: &Request<T>) -> Result<String, Status> {
    match identity::peer(request)? {
        SpiffeId {
            role: Role::Agent { node },
            ..
        } => Ok(node),
        other => Err(Status::permission_denied(format!("{other} is not an agent"))),
    }
}

#[tonic::async_trait]
impl AgentControl for ControlService {
    type AttachStream = ReceiverStream<Result<OperatorMessage, Status>>;
    type ModelIndexStream = Pin<Box<dyn Stream<Item = Result<ModelIndexPiece, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        let node = calling_node(&request)?;
        let heard = request.extensions().get::<Peer>().map(|peer| peer.heard.clone());
        let messages = self.attached(node, heard.unwrap_or_default(), request.into_inner())?;
        Ok(Response::new(messages))
    }

    async fn inspected(&self, request: Request<Inspection>) -> Result<Response<InspectedResponse>, Status> {
        let node = calling_node(&request)?;
        self.leadership.require()?;
        self.agents.inspected_apart(&node, request.into_inner());
        Ok(Response::new(InspectedResponse {}))
    }

    async fn issue_worker_leaf(
        &self,
        request: Request<IssueWorkerLeafRequest>,
    ) -> Result<Response<IssueWorkerLeafResponse>, Status> {
        let node = calling_node(&request)?;
        self.leadership.require()?;
        let IssueWorkerLeafRequest { csr_der, model_uid } = request.into_inner();
        let role = Role::Worker {
            node: node.clone(),
            model_uid: model_uid.clone(),
        };
        let id = SpiffeId::new(self.context.names.trust_domain.clone(), role)
            .map_err(|error| Status::invalid_argument(format!("model_uid: {error}")))?;
        if !self.agents.is_assigned(&node, &model_uid) {
            return Err(Status::permission_denied(format!(
                "no placement gives node {node} a shard of model {model_uid}"
            )));
        }
        let leaf = self
            .context
            .keys
            .authority
            .get()
            .issue(&csr_der, &id, &[], DEFAULT_LEAF_LIFETIME, self.context.wall.now())
            .map_err(|error| Status::invalid_argument(format!("csr_der: {error}")))?;
        self.context.metrics.worker_leaves.inc();
        Ok(Response::new(IssueWorkerLeafResponse {
            leaf: Some(leaf.into()),
        }))
    }

    async fn model_index(
        &self,
        request: Request<ModelIndexRequest>,
    ) -> Result<Response<Self::ModelIndexStream>, Status> {
        calling_node(&request)?;
        self.leadership.require()?;
        let digest = Digest::try_from(request.into_inner().sha256)
            .map_err(|other| Status::invalid_argument(format!("sha256 has {} bytes, not 32", other.len())))?;
        let data = self.agents.indexes.get(&digest);
        let data = data.ok_or_else(|| Status::not_found("no model that was inspected has this weight index"))?;
        let pieces = pieces(data).map(|data| Ok(ModelIndexPiece { data: data.into() }));
        Ok(Response::new(futures::stream::iter(pieces).boxed()))
    }
}
