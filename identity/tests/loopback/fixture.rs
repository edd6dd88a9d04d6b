//! An installation with one authority, hostile certificates of every kind, and a gRPC server that says who called.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures::Stream;
use identity::connect::causes;
use identity::{
    Authority, ConnectOptions, Credentials, DEFAULT_LEAF_LIFETIME, Expected, Identity, KeyPair, Role, SpiffeId,
    TlsListener, connect, grpc_server, peer,
};
use proto::control::v1::routes_client::RoutesClient;
use proto::control::v1::routes_server::{Routes, RoutesServer};
use proto::control::v1::{ModelRoute, RouteTable, VocabularyPiece, VocabularyRequest, WatchRequest};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Longer than any step takes on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Installation {
    pub authority: Authority,
}

pub fn installation() -> Installation {
    Installation {
        authority: Authority::generate("shardwright", SystemTime::now()).unwrap(),
    }
}

pub fn agent(node: &str) -> SpiffeId {
    SpiffeId::new("shardwright", Role::Agent { node: node.into() }).unwrap()
}

pub fn operator() -> SpiffeId {
    SpiffeId::new(
        "shardwright",
        Role::Operator {
            pod: "operator-0".into(),
        },
    )
    .unwrap()
}

impl Installation {
    /// A sound identity; its leaf also carries 127.0.0.1, for clients that check names.
    pub fn identity(&self, id: &SpiffeId) -> Identity {
        self.identity_for(DEFAULT_LEAF_LIFETIME, id)
    }

    /// The same that lives for so long.
    pub fn identity_for(&self, lifetime: Duration, id: &SpiffeId) -> Identity {
        let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".parse().unwrap()];
        let leaf = self
            .authority
            .issue(&csr_der, id, &names, lifetime, SystemTime::now())
            .unwrap();
        Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        }
    }

    pub fn credentials(&self, id: &SpiffeId) -> Credentials {
        Credentials::new(self.identity(id)).unwrap()
    }

    /// A certificate that the authority would never issue, signed by its key all the same.
    pub fn forge(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let authority_key = rcgen::KeyPair::from_pem(&self.authority.key_pem()).unwrap();
        let issuer = Issuer::from_ca_cert_pem(self.authority.cert_pem(), authority_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri("spiffe://shardwright/agent/node-a")];
        change(&mut params);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Identity {
            certificate_chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            bundle_pem: self.authority.bundle_pem(),
        }
    }
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// Waits until nobody takes the certificate any more: dates are judged by whole seconds.
pub async fn ended(credentials: &Credentials) {
    let end = credentials.not_after() + Duration::from_secs(1);
    let waited = async {
        while SystemTime::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, waited).await.expect("it ends");
}

/// Every kind of certificate that must be refused on either side, and what the refusal says.
pub fn hostile_identities(ours: &Installation) -> Vec<(&'static str, Identity, &'static str)> {
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let theirs = installation();
    let authority_as_leaf = Identity {
        certificate_chain_pem: ours.authority.cert_pem().to_owned(),
        key_pem: ours.authority.key_pem(),
        bundle_pem: ours.authority.bundle_pem(),
    };
    let two_uris = |params: &mut CertificateParams| {
        params
            .subject_alt_names
            .push(uri("spiffe://shardwright/operator/operator-0"));
    };
    let foreign = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri("spiffe://elsewhere/agent/node-a")];
    };
    let not_ours = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri("https://shardwright/agent/node-a")];
    };
    vec![
        ("two URIs", ours.forge(two_uris), "names 2 URIs"),
        (
            "no URI",
            ours.forge(|params| params.subject_alt_names.clear()),
            "names 0 URIs",
        ),
        ("another trust domain", ours.forge(foreign), "not in trust domain"),
        (
            "a URI that is no SPIFFE id",
            ours.forge(not_ours),
            "does not begin with",
        ),
        (
            "expired",
            ours.forge(|params| params.not_after = (now - hour / 120).into()),
            "expired",
        ),
        (
            "not yet valid",
            ours.forge(|params| params.not_before = (now + hour).into()),
            "not valid yet",
        ),
        (
            "another authority of the same trust domain",
            theirs.identity(&agent("node-a")),
            "UnknownIssuer",
        ),
        (
            "the authority's own certificate",
            authority_as_leaf,
            "CaUsedAsEndEntity",
        ),
    ]
}

/// A client that checks the server's name only, and shows whatever certificate it was given.
pub fn hostile_client(trusted: &Installation, shown: &Identity) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trusted.authority.cert_pem().as_bytes()).unwrap())
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(shown.certificate_chain_pem.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(shown.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A handshake without sockets: what each side says of the other, deterministically.
pub fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
    let mut server = ServerConnection::new(server).unwrap();
    let mut client = ClientConnection::new(client, ServerName::try_from("127.0.0.1").unwrap()).unwrap();
    loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        let server_says = server.process_new_packets().map(|_| ());
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        let client_says = client.process_new_packets().map(|_| ());
        let done = !client.is_handshaking() && !server.is_handshaking();
        if done || server_says.is_err() || client_says.is_err() {
            return (server_says, client_says);
        }
    }
}

/// A server of the project's own kind on a free port. Dropping it ends it.
pub struct Server {
    pub address: SocketAddr,
    /// Calls that reached the handler.
    pub calls: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TlsListener::bind("127.0.0.1:0", config).await.unwrap();
        let address = listener.local_addr();
        let calls = Arc::new(AtomicUsize::new(0));
        let service = RoutesServer::new(Echo {
            calls: Arc::clone(&calls),
        });
        let task = tokio::spawn(async move {
            grpc_server()
                .add_service(service)
                .serve_with_incoming(listener.incoming())
                .await
                .unwrap();
        });
        Self { address, calls, task }
    }

    /// Connects and calls once: who we are to the server, or every cause of the failure.
    pub async fn ask(&self, config: Arc<ClientConfig>, expected: Expected) -> Result<String, String> {
        let endpoint = self.address.to_string();
        let asked = async {
            let channel = connect(&endpoint, config, expected, ConnectOptions::default()).await;
            call(channel.map_err(|error| causes(&error))?).await
        };
        tokio::time::timeout(LIMIT, asked).await.expect("an answer in time")
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Who we are to the server at the other end.
pub async fn call(channel: Channel) -> Result<String, String> {
    let mut client = RoutesClient::new(channel);
    let mut stream = client
        .watch(WatchRequest {})
        .await
        .map_err(|status| causes(&status))?
        .into_inner();
    let table = stream.message().await.map_err(|status| causes(&status))?;
    Ok(table.unwrap().models[0].name.clone())
}

struct Echo {
    calls: Arc<AtomicUsize>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Routes for Echo {
    type WatchStream = Answers<RouteTable>;
    type VocabularyStream = Answers<VocabularyPiece>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let name = peer(&request)?.to_string();
        let table = RouteTable {
            models: vec![ModelRoute {
                name,
                ..ModelRoute::default()
            }],
        };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(table)]))))
    }

    async fn vocabulary(
        &self,
        request: Request<VocabularyRequest>,
    ) -> Result<Response<Self::VocabularyStream>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let piece = VocabularyPiece {
            data: request.into_inner().sha256,
        };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(piece)]))))
    }
}
