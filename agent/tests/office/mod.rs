//! The operator as one agent meets it: issues leaves that live for as long as a test says, over real TLS, and takes the agent's
//! stream without a word but whom to trust.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use identity::tls::{ALPN_GRPC, server_config, server_config_open};
use identity::{
    Authority, Credentials, DEFAULT_LEAF_LIFETIME, Identity, KeyPair, Leaf, PlacementSigner, Role, SpiffeId,
    TlsListener, Wanted, grpc_server, peer,
};
use proto::control::v1::agent_control_server::{AgentControl, AgentControlServer};
use proto::control::v1::enrolment_server::{Enrolment, EnrolmentServer};
use proto::control::v1::{
    AgentMessage, EnrolRequest, EnrolResponse, InspectedResponse, Inspection, IssueWorkerLeafRequest,
    IssueWorkerLeafResponse, ModelIndexPiece, ModelIndexRequest, OperatorMessage, TrustHeld, TrustWanted,
    agent_message, operator_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Of the one agent.
pub const NODE: &str = "node-a";

/// One that is open. Its ports are served for as long as the runtime lives.
pub struct Office {
    pub enrol: String,
    pub control: String,
    pub bundle: PathBuf,
    pub token: PathBuf,
    desk: Desk,
    /// The operator's own.
    own: Credentials,
    _directory: tempfile::TempDir,
}

#[derive(Clone)]
struct Desk(Arc<Inner>);

struct Inner {
    authority: Mutex<Authority>,
    signer: PlacementSigner,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the leaves that are issued from now on; none are where there is none.
    lifetime: Option<Duration>,
    /// When the agent's leaves end, in the order in which they were issued.
    ends: Vec<SystemTime>,
    streams: Vec<mpsc::Sender<Result<OperatorMessage, Status>>>,
    /// Streams ever taken.
    taken: usize,
    /// Whom the agent said last that it trusts.
    held: TrustHeld,
}

pub fn agent_role() -> Role {
    Role::Agent { node: NODE.to_owned() }
}

fn operator_role() -> Role {
    Role::Operator {
        pod: "operator-0".to_owned(),
    }
}

impl Office {
    pub async fn open(lifetime: Duration) -> Self {
        let desk = Desk(Arc::new(Inner {
            authority: Mutex::new(Authority::generate("shardwright", SystemTime::now()).unwrap()),
            signer: PlacementSigner::generate().unwrap(),
            state: Mutex::default(),
        }));
        desk.with(|state| state.lifetime = Some(lifetime));
        let own = desk.credentials(operator_role());
        let port = async |config| TlsListener::bind("127.0.0.1:0", config).await.unwrap();
        let (enrol, control) = (
            port(server_config_open(&own, ALPN_GRPC)).await,
            port(server_config(&own)).await,
        );
        let directory = tempfile::tempdir().unwrap();
        let office = Self {
            enrol: enrol.local_addr().to_string(),
            control: control.local_addr().to_string(),
            bundle: directory.path().join("bundle.pem"),
            token: directory.path().join("token"),
            desk: desk.clone(),
            own,
            _directory: directory,
        };
        office.mount();
        std::fs::write(&office.token, "a-token").unwrap();
        let server = grpc_server().add_service(EnrolmentServer::new(desk.clone()));
        tokio::spawn(server.serve_with_incoming(enrol.incoming()));
        let server = grpc_server().add_service(AgentControlServer::new(desk));
        tokio::spawn(server.serve_with_incoming(control.incoming()));
        office
    }

    /// From now on leaves live for so long, or none are issued.
    pub fn issues(&self, lifetime: Option<Duration>) {
        self.desk.with(|state| state.lifetime = lifetime);
    }

    /// Has the agent find whom to trust where it looks, as a kubelet does after a minute or two.
    pub fn mount(&self) {
        let bundle_pem = self.desk.authority(Authority::bundle_pem);
        std::fs::write(&self.bundle, bundle_pem).unwrap();
    }

    /// A copy of the authority that issues now, without others beside it.
    pub fn authority(&self) -> Authority {
        let pem = |authority: &Authority| (authority.cert_pem().to_owned(), authority.key_pem());
        let (certificate_pem, key_pem) = self.desk.authority(pem);
        Authority::from_pem(&certificate_pem, &key_pem).unwrap()
    }

    /// Has leaves come from this authority from now on, the operator's own at once; what the agent is to be told then.
    pub fn turn_to(&self, authority: Authority) -> TrustWanted {
        *self.desk.0.authority.lock().unwrap() = authority;
        self.own.replace(self.desk.identity(operator_role())).unwrap();
        self.wanted()
    }

    /// Whom the agent is to trust, at once.
    pub fn wanted(&self) -> TrustWanted {
        let wanted = self.desk.authority(|authority| Wanted::of(authority, Duration::ZERO));
        TrustWanted::from(&wanted)
    }

    /// Tells the agent whom to trust, over every stream that stands.
    pub async fn tell(&self, wanted: &TrustWanted) {
        for stream in self.desk.with(|state| state.streams.clone()) {
            let message = Some(operator_message::Message::Trust(wanted.clone()));
            // One that does not stand any more hears nothing.
            let _ = stream.send(Ok(OperatorMessage { message })).await;
        }
    }

    /// Whom the agent said last that it trusts.
    pub fn held(&self) -> TrustHeld {
        self.desk.with(|state| state.held.clone())
    }

    /// Another identity of whoever that is, for a day.
    pub fn identity(&self, role: Role) -> Identity {
        self.desk.identity(role)
    }

    /// When the agent's leaves end, in the order in which they were issued.
    pub fn ends(&self) -> Vec<SystemTime> {
        self.desk.with(|state| state.ends.clone())
    }

    /// Ends the agent's streams.
    pub fn end_streams(&self) {
        self.desk.with(|state| state.streams.clear());
    }

    /// Streams ever taken, and those of them that stand.
    pub fn streams(&self) -> (usize, usize) {
        self.desk.with(|state| {
            let stand = state.streams.iter().filter(|stream| !stream.is_closed()).count();
            (state.taken, stand)
        })
    }

    /// Of whoever that is, for a day.
    pub fn credentials(&self, role: Role) -> Credentials {
        self.desk.credentials(role)
    }

    pub fn placement_keys(&self) -> Vec<Vec<u8>> {
        self.desk.placement_keys()
    }
}

impl Desk {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().unwrap())
    }

    fn authority<T>(&self, look: impl FnOnce(&Authority) -> T) -> T {
        look(&self.0.authority.lock().unwrap())
    }

    fn credentials(&self, role: Role) -> Credentials {
        Credentials::new(self.identity(role)).unwrap()
    }

    fn identity(&self, role: Role) -> Identity {
        let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
        let leaf = self.leaf(&csr_der, role, DEFAULT_LEAF_LIFETIME).unwrap();
        Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        }
    }

    fn leaf(&self, csr_der: &[u8], role: Role, lifetime: Duration) -> Result<Leaf, Status> {
        let id = SpiffeId::new("shardwright", role).unwrap();
        let names = ["127.0.0.1".parse().unwrap()];
        let issued = self.authority(|authority| authority.issue(csr_der, &id, &names, lifetime, SystemTime::now()));
        issued.map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn lifetime(&self) -> Result<Duration, Status> {
        let lifetime = self.with(|state| state.lifetime);
        lifetime.ok_or_else(|| Status::unavailable("no leaf is issued today"))
    }

    fn placement_keys(&self) -> Vec<Vec<u8>> {
        vec![self.0.signer.public_key().to_vec()]
    }
}

#[tonic::async_trait]
impl Enrolment for Desk {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let leaf = self.leaf(&request.into_inner().csr_der, agent_role(), self.lifetime()?)?;
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(leaf.not_after_unix_s.cast_unsigned());
        self.with(|state| state.ends.push(end));
        Ok(Response::new(EnrolResponse {
            leaf: Some(leaf.into()),
            placement_keys: self.placement_keys(),
        }))
    }
}

#[tonic::async_trait]
impl AgentControl for Desk {
    type AttachStream = ReceiverStream<Result<OperatorMessage, Status>>;
    type ModelIndexStream = ReceiverStream<Result<ModelIndexPiece, Status>>;

    async fn attach(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        assert_eq!(peer(&request)?.role, agent_role());
        let (sender, messages) = mpsc::channel(1);
        let (mut heard, desk) = (request.into_inner(), self.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = heard.message().await {
                if let Some(agent_message::Message::Trust(held)) = message.message {
                    desk.with(|state| state.held = held);
                }
            }
        });
        self.with(|state| {
            state.taken += 1;
            state.streams.push(sender);
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn inspected(&self, _: Request<Inspection>) -> Result<Response<InspectedResponse>, Status> {
        Err(Status::unimplemented("nothing is inspected"))
    }

    async fn issue_worker_leaf(
        &self,
        request: Request<IssueWorkerLeafRequest>,
    ) -> Result<Response<IssueWorkerLeafResponse>, Status> {
        assert_eq!(peer(&request)?.role, agent_role());
        let IssueWorkerLeafRequest { csr_der, model_uid } = request.into_inner();
        let role = Role::Worker {
            node: NODE.to_owned(),
            model_uid,
        };
        let leaf = self.leaf(&csr_der, role, self.lifetime()?)?;
        Ok(Response::new(IssueWorkerLeafResponse {
            leaf: Some(leaf.into()),
        }))
    }

    async fn model_index(&self, _: Request<ModelIndexRequest>) -> Result<Response<Self::ModelIndexStream>, Status> {
        Err(Status::not_found("there is no model"))
    }
}
