//! A process without free descriptors: its own test executable, because the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::time::{Duration, SystemTime};

use identity::tls::{client_config, server_config};
use identity::{
    Authority, ConnectOptions, Credentials, DEFAULT_LEAF_LIFETIME, Expected, Identity, KeyPair, Role, SpiffeId,
    TlsListener, connect, grpc_server,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for the runtime, and quickly used up.
const DESCRIPTORS: u64 = 128;

fn credentials(authority: &Authority, role: Role) -> Credentials {
    let id = SpiffeId::new("shardwright", role).unwrap();
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let leaf = authority
        .issue(&csr_der, &id, &[], DEFAULT_LEAF_LIFETIME, SystemTime::now())
        .unwrap();
    let identity = Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    };
    Credentials::new(identity).unwrap()
}

#[tokio::test]
async fn a_listener_without_descriptors_waits_and_then_serves_who_waited() {
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let authority = Authority::generate("shardwright", SystemTime::now()).unwrap();
    let server = server_config(&credentials(
        &authority,
        Role::Operator {
            pod: "operator-0".into(),
        },
    ));
    let client = client_config(&credentials(&authority, Role::Agent { node: "node-a".into() }));
    let listener = TlsListener::bind("127.0.0.1:0", server).await.unwrap();
    let endpoint = listener.local_addr().to_string();
    tokio::spawn(
        grpc_server()
            .add_routes(tonic::service::Routes::default())
            .serve_with_incoming(listener.incoming()),
    );

    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!hoard.is_empty());
    // One is left, for the client's end; the server's end finds none.
    hoard.pop();
    let options = ConnectOptions {
        connect_timeout: Duration::from_secs(30),
        ..ConnectOptions::default()
    };
    let mut dialling = Box::pin(connect(&endpoint, client, Expected::Operator, options));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut dialling).await;
    assert!(early.is_err(), "nothing can be accepted yet");

    drop(hoard);
    dialling.await.expect("the listener accepts again by itself");
}
