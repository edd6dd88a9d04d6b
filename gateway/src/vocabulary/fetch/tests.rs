use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use identity::tls::{client_config, server_config};
use identity::{
    Authority, ConnectOptions, Credentials, DEFAULT_LEAF_LIFETIME, Expected, Identity, KeyPair, PlacementVerifier,
    Role, SpiffeId, TlsListener, Wishes, connect, grpc_server,
};
use proto::control::v1::routes_server::{Routes, RoutesServer};
use proto::control::v1::{RouteTable, VocabularyPiece, WatchRequest};
use tonic::{Request, Response, Status};

use super::*;

/// The largest piece that the protocol has.
const PIECE_BYTES: usize = 1 << 20;

type Answers<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

/// An operator that answers so, whatever vocabulary it is asked for.
enum Operator {
    Refuses,
    Gives { pieces: usize, piece: Vec<u8> },
}

#[tonic::async_trait]
impl Routes for Operator {
    type WatchStream = Answers<RouteTable>;
    type VocabularyStream = Answers<VocabularyPiece>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("it gives vocabularies alone"))
    }

    async fn vocabulary(&self, _: Request<VocabularyRequest>) -> Result<Response<Self::VocabularyStream>, Status> {
        match self {
            Self::Refuses => Err(Status::not_found("no model has this vocabulary")),
            Self::Gives { pieces, piece } => {
                let data = || VocabularyPiece { data: piece.clone() };
                let pieces: Vec<_> = (0..*pieces).map(|_| Ok(data())).collect();
                Ok(Response::new(tokio_stream::iter(pieces)))
            }
        }
    }
}

fn credentials(authority: &Authority, role: Role) -> Credentials {
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let id = SpiffeId::new("shardwright", role).unwrap();
    let now = SystemTime::now();
    let leaf = authority.issue(&csr_der, &id, &[], DEFAULT_LEAF_LIFETIME, now).unwrap();
    let identity = Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    };
    Credentials::new(identity).unwrap()
}

/// A gateway's way to that operator; without one it is not connected.
async fn control(operator: Option<Operator>) -> Control {
    let pod = || "pod-0".to_owned();
    let authority = Authority::generate("shardwright", SystemTime::now()).unwrap();
    let ours = credentials(&authority, Role::Gateway { pod: pod() });
    let channel = ArcSwapOption::empty();
    if let Some(operator) = operator {
        let theirs = credentials(&authority, Role::Operator { pod: pod() });
        let listener = TlsListener::bind("127.0.0.1:0", server_config(&theirs)).await.unwrap();
        let endpoint = listener.local_addr().to_string();
        let server = grpc_server().add_service(RoutesServer::new(operator));
        tokio::spawn(server.serve_with_incoming(listener.incoming()));
        let dialled = connect(
            &endpoint,
            client_config(&ours),
            Expected::Operator,
            ConnectOptions::default(),
        )
        .await;
        channel.store(Some(Arc::new(dialled.unwrap())));
    }
    Control {
        endpoint: String::new(),
        credentials: ours,
        verifier: Arc::new(ArcSwap::from_pointee(PlacementVerifier::new([[0; 32]]).unwrap())),
        wishes: Wishes::default(),
        state_dir: PathBuf::new(),
        channel,
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

#[tokio::test]
async fn a_vocabulary_is_fetched_once_and_kept_for_when_no_operator_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let piece = b"whatever it may be".to_vec();
    let (wanted, whole) = (digest(&piece.repeat(3)), piece.repeat(3));
    let operator = control(Some(Operator::Gives { pieces: 3, piece })).await;
    let path = fetch(&wanted, directory.path(), &operator).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    let alone = control(None).await;
    assert_eq!(fetch(&wanted, directory.path(), &alone).await.unwrap(), path);
    let error = fetch(&digest(b"another"), directory.path(), &alone).await.unwrap_err();
    assert!(matches!(error, FetchError::NotConnected), "{error}");
    assert_eq!(error.to_string(), "the operator is not connected");
}

#[tokio::test]
async fn what_an_operator_refuses_or_gives_in_its_place_is_told_and_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = digest(b"wanted");
    let operator = control(Some(Operator::Refuses)).await;
    let error = fetch(&wanted, directory.path(), &operator).await.unwrap_err();
    assert!(matches!(error, FetchError::Operator(_)), "{error}");
    assert_eq!(
        error.to_string(),
        "the operator: NotFound: no model has this vocabulary"
    );

    let piece = b"another".to_vec();
    let told = format!(
        "the operator's bytes have digest {}, not {}",
        hex(&digest(&piece)),
        hex(&wanted)
    );
    let operator = control(Some(Operator::Gives { pieces: 1, piece })).await;
    let error = fetch(&wanted, directory.path(), &operator).await.unwrap_err();
    assert!(matches!(error, FetchError::WrongDigest { .. }), "{error}");
    assert_eq!(error.to_string(), told);

    let operator = control(Some(Operator::Gives {
        pieces: MAX_VOCABULARY_BYTES / PIECE_BYTES + 1,
        piece: vec![0; PIECE_BYTES],
    }));
    let error = fetch(&wanted, directory.path(), &operator.await).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge), "{error}");
    assert_eq!(error.to_string(), "the vocabulary has more than 33554432 bytes");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_place_where_nothing_can_be_kept_is_named_with_what_it_needs() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = fetch(&digest(b"wanted"), file.path(), &control(None).await)
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::File { .. }), "{error}");
    let path = file.path().join(format!("{}.gguf", hex(&digest(b"wanted"))));
    let told = error.to_string();
    assert!(
        told.starts_with(&format!("{}: Not a directory", path.display()))
            && told.ends_with("this gateway needs room there and the right to write"),
        "{told}"
    );
}
