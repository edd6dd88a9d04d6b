//! A cluster for one gateway: an operator that hands out routes and a vocabulary, and a head that answers as told. Both
//! speak real mutual TLS.

pub mod client;
pub mod head;
pub mod operator;
pub mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use gateway::args::{Args, IdentitySource, UserCertificate};
use gateway::context::Limits;
use gateway::run::{Addresses, RunError};
use identity::{
    Authority, Credentials, DEFAULT_LEAF_LIFETIME, Identity, KeyPair, PlacementSigner, Role, SpiffeId, SubjectName,
    TlsListener,
};
use lifecycle::log;
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::RoutesBuilder;

use client::Client;
use head::FakeHead;
use operator::FakeOperator;
use process::GatewayProcess;

/// A condition that does not come is a failure.
pub const LIMIT: Duration = Duration::from_secs(30);
pub const KEY: &str = "key-for-tests";
pub const MODEL: &str = "chat";
pub const MODEL_UID: &str = "uid-1";
pub const CONTEXT_LENGTH: u32 = 200;
pub const STREAMS_PER_KEY: usize = 8;

/// Waits until `condition` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, waited)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"));
}

/// A server on threads of its own, so that it can be killed with all its connections.
pub struct Process(Mutex<Option<Runtime>>);

impl Process {
    /// Serves gRPC on a port of the system's choice.
    pub async fn start(config: Arc<ServerConfig>, services: RoutesBuilder) -> (Self, SocketAddr) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listening = runtime.spawn(async { TlsListener::bind("127.0.0.1:0", config).await.unwrap() });
        let listener = listening.await.unwrap();
        let address = listener.local_addr();
        runtime.spawn(
            identity::grpc_server()
                .add_routes(services.routes())
                .serve_with_incoming(listener.incoming()),
        );
        (Self(Mutex::new(Some(runtime))), address)
    }

    /// Nobody answers any more when this returns.
    pub fn kill(&self) {
        if let Some(runtime) = self.0.lock().unwrap().take() {
            // On a thread that may wait. What its tasks say at their end is of no matter.
            let _ = std::thread::spawn(move || runtime.shutdown_timeout(LIMIT)).join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Who issues certificates and signs placements.
pub struct Trust {
    pub authority: Authority,
    pub signer: PlacementSigner,
}

impl Trust {
    pub fn new() -> Self {
        let authority = Authority::generate("shardwright", SystemTime::now()).unwrap();
        Self {
            authority,
            signer: PlacementSigner::generate().unwrap(),
        }
    }

    pub fn identity(&self, role: Role) -> Identity {
        self.identity_for(DEFAULT_LEAF_LIFETIME, role)
    }

    /// One that lives for so long.
    pub fn identity_for(&self, lifetime: Duration, role: Role) -> Identity {
        let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
        let id = SpiffeId::new("shardwright", role).unwrap();
        let names = ["localhost", "127.0.0.1"].map(|name| SubjectName::from_str(name).unwrap());
        let leaf = self
            .authority
            .issue(&csr_der, &id, &names, lifetime, SystemTime::now())
            .unwrap();
        Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        }
    }

    pub fn credentials(&self, role: Role) -> Credentials {
        Credentials::new(self.identity(role)).unwrap()
    }
}

/// What issues in the three steps from this authority to another one.
pub fn steps(old: &Authority) -> [Authority; 3] {
    let new = Authority::generate("shardwright", SystemTime::now()).unwrap();
    let again = |of: &Authority| Authority::from_pem(of.cert_pem(), &of.key_pem()).unwrap();
    let prepared = again(old).beside(new.cert_pem()).unwrap();
    let active = again(&new).beside(old.cert_pem()).unwrap();
    [prepared, active, new]
}

/// A gateway in this process.
pub struct Gateway {
    pub addresses: Addresses,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<Result<(), RunError>>>,
}

impl Gateway {
    /// Asks it to end.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end that was asked for.
    pub async fn ended(&mut self) {
        let running = self.running.take().expect("it runs");
        tokio::time::timeout(LIMIT, running)
            .await
            .expect("an end in time")
            .expect("no panic")
            .expect("a clean end");
    }
}

/// Everything that one test needs. Each test has its own.
pub struct World {
    pub trust: Trust,
    pub operator: FakeOperator,
    pub head: FakeHead,
    pub gateway: Gateway,
    pub client: Client,
    directory: TempDir,
    state_dir: PathBuf,
}

impl World {
    /// A gateway whose one model is ready.
    pub async fn start() -> Self {
        let world = Self::start_unready().await;
        world.serve_model(1);
        world.ready().await;
        world
    }

    /// A gateway that knows of no model.
    pub async fn start_unready() -> Self {
        Self::start_unready_in(None).await
    }

    /// The same with its state in this folder, where one is given.
    pub async fn start_unready_in(state_dir: Option<&Path>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trust = Trust::new();
        let operator = FakeOperator::start(&trust).await;
        let head = FakeHead::start(&trust, "node-a").await;
        let directory = tempfile::tempdir().unwrap();
        let identity = directory.path().join("identity");
        std::fs::create_dir(&identity).unwrap();
        trust.identity(role()).store(&identity).unwrap();
        identity::sign::store_keys(&identity, &[trust.signer.public_key().to_vec()]).unwrap();
        std::fs::write(directory.path().join("keys"), format!("{KEY}\n")).unwrap();
        let state_dir = state_dir.map_or_else(|| directory.path().join("state"), Path::to_owned);
        let gateway = start_gateway(args(directory.path(), &state_dir, operator.address)).await;
        let client = Client::new(gateway.addresses.user, &trust.authority.bundle_pem());
        Self {
            trust,
            operator,
            head,
            gateway,
            client,
            directory,
            state_dir,
        }
    }

    /// The same gateway again, after its end.
    pub async fn restart_gateway(&mut self) {
        self.gateway.stop();
        self.gateway.ended().await;
        self.gateway = start_gateway(self.args()).await;
        self.client = Client::new(self.gateway.addresses.user, &self.trust.authority.bundle_pem());
    }

    /// As [`World::restart_gateway`], with a certificate of another authority for its users.
    pub async fn restart_gateway_with(&mut self, certificate: UserCertificate, bundle_pem: &str) {
        self.gateway.stop();
        self.gateway.ended().await;
        let args = Args {
            user_certificate: Some(certificate),
            ..self.args()
        };
        self.gateway = start_gateway(args).await;
        self.client = Client::new(self.gateway.addresses.user, bundle_pem);
    }

    /// The same gateway again after its end, as a process of its own.
    pub async fn restart_gateway_as_process(&mut self) -> GatewayProcess {
        let bundle_pem = self.trust.authority.bundle_pem();
        self.restart_gateway_as_process_with(None, &bundle_pem).await
    }

    /// The same with a certificate for its users that chains to this bundle.
    pub async fn restart_gateway_as_process_with(
        &mut self,
        certificate: Option<UserCertificate>,
        bundle_pem: &str,
    ) -> GatewayProcess {
        self.gateway.stop();
        self.gateway.ended().await;
        let args = Args {
            user_certificate: certificate,
            ..self.args()
        };
        let process = GatewayProcess::start(&args, &self.directory.path().join("log"));
        self.gateway.addresses = process.addresses().await;
        self.client = Client::new(self.gateway.addresses.user, bundle_pem);
        process
    }

    /// Puts another identity where the gateway looks for its own, one that lives for so long; when that ends.
    pub fn renew_identity(&self, lifetime: Duration) -> SystemTime {
        let identity = self.trust.identity_for(lifetime, role());
        identity.store(&self.directory.path().join("identity")).unwrap();
        identity.not_after().unwrap()
    }

    /// How its gateway is started.
    pub fn args(&self) -> Args {
        args(self.directory.path(), &self.state_dir, self.operator.address)
    }

    pub fn keys_file(&self) -> PathBuf {
        self.directory.path().join("keys")
    }

    /// Publishes the model at the one head.
    pub fn serve_model(&self, epoch: u64) {
        self.operator
            .publish(vec![self.operator.route(&self.trust, MODEL, epoch, &self.head)]);
    }

    /// Waits until the model can be asked.
    pub async fn ready(&self) {
        until("a ready model", || async {
            self.head.expect(head::Script::text("ok"));
            let answer = self.client.chat("are you there?").await;
            self.head.forget();
            answer.status == 200
        })
        .await;
    }

    /// A client of the admin port.
    pub fn admin(&self) -> Client {
        Client::new(self.gateway.addresses.admin, &self.trust.authority.bundle_pem())
    }
}

/// A certificate and its key as files.
pub fn files(directory: &Path, name: &str, identity: &Identity) -> UserCertificate {
    let certificate = UserCertificate {
        chain: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
    };
    std::fs::write(&certificate.chain, &identity.certificate_chain_pem).unwrap();
    identity::store::write_private(&certificate.key, identity.key_pem.as_bytes()).unwrap();
    certificate
}

/// Of the gateway.
pub fn role() -> Role {
    Role::Gateway {
        pod: "gateway-0".into(),
    }
}

fn args(directory: &Path, state_dir: &Path, operator: SocketAddr) -> Args {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Args {
        pod_name: Some("gateway-0".into()),
        namespace: None,
        identity: IdentitySource::Directory(directory.join("identity")),
        operator_control: operator.to_string(),
        api_keys: directory.join("keys"),
        tokenizer: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fakes/tokenizer.py")),
        renderer: PathBuf::from(env!("CARGO_BIN_EXE_shardwright-gateway")),
        state_dir: state_dir.to_owned(),
        listen: any,
        user_certificate: None,
        admin_listen: any,
        limits: Limits {
            streams_per_key: STREAMS_PER_KEY,
            ..Limits::default()
        },
        log_format: log::Format::Text,
    }
}

async fn start_gateway(args: Args) -> Gateway {
    let (stop, stopped) = oneshot::channel::<()>();
    let (announce, addresses) = oneshot::channel();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let running = tokio::spawn(gateway::run::run(args, shutdown, move |addresses| {
        let _ = announce.send(addresses);
    }));
    let addresses = tokio::time::timeout(LIMIT, addresses)
        .await
        .expect("a start in time")
        .expect("a start");
    Gateway {
        addresses,
        stop: Some(stop),
        running: Some(running),
    }
}
