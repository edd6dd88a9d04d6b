//! Agents that read from each other, over mutual TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;
mod tiny_model;

use agent::models::serve::{self, Server as Serving};
use agent::source::Kind;
use identity::{
    Authority, ConnectOptions, Credentials, Expected, Identity, KeyPair, Role, SpiffeId, TlsListener, connect, tls,
};
use origin::Server;
use proto::control::v1::weights_client::WeightsClient;
use proto::control::v1::weights_server::{Weights, WeightsServer};
use proto::control::v1::{ModelFacts, ReadTensorRequest, SourceAccess, TensorPiece};
use rig::{Node, fetched_and_verified, wanted, weights};
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

const ROWS: u64 = 2000;
const PATH: &str = "/tiny.gguf";

struct Bench {
    runtime: Runtime,
    authority: Authority,
    server: Server,
    facts: ModelFacts,
    holder: Node,
    endpoint: String,
}

impl Bench {
    /// One node holds everything and serves it.
    fn new() -> Self {
        let runtime = rig::runtime();
        let authority = Authority::generate("shardwright", SystemTime::now()).unwrap();
        let server = Server::start().unwrap();
        server.put(PATH, tiny_model::bytes(ROWS));
        let holder = Node::new(&runtime);
        let facts = rig::inspect(&runtime, &holder.models, &server.url(PATH), Some(access(&server)), &[]).unwrap();
        server.put(&format!("{PATH}.index.json"), facts.index.clone());
        let all = wanted(&facts, &server.url(PATH), Some(access(&server)));
        fetched_and_verified(&weights(&holder.models, &facts, all, 0, 6)).unwrap();
        let own = credentials(&authority, "holder");
        let listener = runtime
            .block_on(serve::listen("127.0.0.1:0".parse().unwrap(), &own))
            .unwrap();
        let endpoint = listener.local_addr().to_string();
        let serving = Serving::new(std::sync::Arc::clone(&holder.models), 1 << 30);
        runtime.spawn(serving.run(listener, None, CancellationToken::new()));
        server.forget();
        Self {
            runtime,
            authority,
            server,
            facts,
            holder,
            endpoint,
        }
    }

    fn reader(&self) -> Node {
        Node::with(&self.runtime, |_| {}, Some(credentials(&self.authority, "reader")))
    }

    /// Another server of weights, which proves itself by `own`.
    fn liar(&self, own: &Credentials) -> String {
        let config = tls::server_config(own);
        let listener = self.runtime.block_on(TlsListener::bind("127.0.0.1:0", config)).unwrap();
        let endpoint = listener.local_addr().to_string();
        self.runtime.spawn(
            identity::grpc_server()
                .add_service(WeightsServer::new(Liar))
                .serve_with_incoming(listener.incoming()),
        );
        endpoint
    }

    fn fetch(&self, node: &Node, peers: Vec<String>) -> Result<(), agent::shard::observed::Fault> {
        let mut wanted = wanted(&self.facts, &self.server.url(PATH), Some(access(&self.server)));
        wanted.peers = peers;
        fetched_and_verified(&weights(&node.models, &self.facts, wanted, 2, 4))
    }
}

fn access(server: &Server) -> SourceAccess {
    SourceAccess {
        ca_bundle_pem: server.ca_pem.clone(),
        ..SourceAccess::default()
    }
}

fn of_role(authority: &Authority, role: Role) -> Credentials {
    let id = SpiffeId {
        trust_domain: "shardwright".into(),
        role,
    };
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let leaf = authority
        .issue(&csr_der, &id, &[], Duration::from_secs(3600), SystemTime::now())
        .unwrap();
    Credentials::new(Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    })
    .unwrap()
}

fn credentials(authority: &Authority, node: &str) -> Credentials {
    of_role(authority, Role::Agent { node: node.into() })
}

#[test]
fn what_a_peer_holds_is_not_read_from_the_source() {
    let bench = Bench::new();
    let reader = bench.reader();
    bench.fetch(&reader, vec![bench.endpoint.clone()]).unwrap();
    let weights: u64 = bench.facts.layers[2..4].iter().map(|layer| layer.weight_bytes).sum();
    assert!(reader.models.counters().bytes(Kind::Peer) >= weights);
    // The index alone came from beside the source, for want of an operator.
    assert!(
        bench
            .server
            .seen()
            .iter()
            .all(|seen| seen.path.ends_with(".index.json")),
        "{:?}",
        bench.server.seen()
    );
}

#[test]
fn peers_that_are_not_there_or_not_who_they_should_be_cost_nothing_but_the_source() {
    let bench = Bench::new();
    let reader = bench.reader();
    let gateway = bench.liar(&of_role(&bench.authority, Role::Gateway { pod: "pod".into() }));
    let peers = vec!["127.0.0.1:1".to_owned(), gateway, "nonsense".to_owned()];
    bench.fetch(&reader, peers).unwrap();
    assert_eq!(reader.models.counters().bytes(Kind::Peer), 0);
    assert!(bench.server.sent() > 0);
}

/// Sends something else than it is asked for.
struct Liar;

#[tonic::async_trait]
impl Weights for Liar {
    type ReadStream = tokio_stream::Iter<std::vec::IntoIter<Result<TensorPiece, Status>>>;

    async fn read(&self, _: Request<ReadTensorRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let piece = TensorPiece { data: vec![7; 80_000] };
        Ok(Response::new(tokio_stream::iter(vec![Ok(piece)])))
    }
}

#[test]
fn a_peer_that_lies_is_asked_once_and_its_bytes_never_count() {
    let bench = Bench::new();
    let endpoint = bench.liar(&credentials(&bench.authority, "liar"));
    let reader = bench.reader();
    bench.fetch(&reader, vec![endpoint.clone()]).unwrap();
    let lies = reader.models.counters().bytes(Kind::Peer);
    assert!(lies <= 80_000 * 4, "{lies} bytes of lies");
    let second = bench.reader();
    bench.fetch(&second, vec![endpoint, bench.endpoint.clone()]).unwrap();
    assert!(second.models.counters().bytes(Kind::Peer) > 80_000 * 3);
}

#[test]
fn weights_are_for_agents_alone_and_only_what_is_here_is_served() {
    let bench = Bench::new();
    let index_sha256 = bench.facts.index_sha256.clone();
    let ask = |credentials: &Credentials, request: ReadTensorRequest| {
        let expected = Expected::Exactly(SpiffeId {
            trust_domain: "shardwright".into(),
            role: Role::Agent { node: "holder".into() },
        });
        bench.runtime.block_on(async {
            let config = tls::client_config(credentials);
            let channel = connect(&bench.endpoint, config, expected, ConnectOptions::default())
                .await
                .unwrap();
            let mut pieces = WeightsClient::new(channel).read(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.message().await? {
                bytes.extend_from_slice(&piece.data);
            }
            Ok::<_, Status>(bytes)
        })
    };
    let request = |tensor: &str, offset| ReadTensorRequest {
        index_sha256: index_sha256.clone(),
        tensor: tensor.into(),
        offset,
    };
    let agent = credentials(&bench.authority, "reader");
    let gateway = of_role(&bench.authority, Role::Gateway { pod: "pod".into() });
    let name = "blk.3.ffn_up.weight";
    assert_eq!(
        ask(&gateway, request(name, 0)).unwrap_err().code(),
        Code::PermissionDenied
    );
    let whole = ask(&agent, request(name, 0)).unwrap();
    assert_eq!(whole.len() as u64, ROWS * 40);
    assert_eq!(ask(&agent, request(name, 70_000)).unwrap(), whole[70_000..]);
    assert!(ask(&agent, request(name, u64::MAX)).unwrap().is_empty());
    let header = ask(&agent, request("header-0.gguf", 0)).unwrap();
    assert!(header.starts_with(b"GGUF"));
    for missing in ["blk.9.ffn_up.weight", "header-7.gguf", "../../etc/passwd"] {
        assert_eq!(
            ask(&agent, request(missing, 0)).unwrap_err().code(),
            Code::NotFound,
            "{missing}"
        );
    }
    let strange = ReadTensorRequest {
        index_sha256: vec![1; 32],
        ..request(name, 0)
    };
    assert_eq!(ask(&agent, strange).unwrap_err().code(), Code::NotFound);
    let folder = rig::path_of(&bench.holder.models, &bench.facts);
    std::fs::remove_file(folder.join("layer-00003.gguf")).unwrap();
    assert_eq!(ask(&agent, request(name, 0)).unwrap_err().code(), Code::NotFound);
}
