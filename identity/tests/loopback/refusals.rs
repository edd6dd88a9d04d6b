//! Who is kept out, on either side, before any handler runs.

use std::io::{Read, Write};
use std::sync::Arc;

use identity::tls::{
    ALPN_GRPC, bootstrap_client_config, client_config, server_config, server_config_from_pem, server_config_open,
};
use identity::{Expected, Role, SpiffeId};
use rcgen::{ExtendedKeyUsagePurpose, SanType};

use crate::fixture::{LIMIT, Server, agent, handshake, hostile_client, hostile_identities, installation, operator};

fn by_address() -> Expected {
    Expected::Name("127.0.0.1".into())
}

#[tokio::test]
async fn a_sound_client_is_known_by_its_id() {
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&operator()))).await;
    let client = client_config(&ours.credentials(&agent("node-a")));
    assert_eq!(
        server.ask(client, Expected::Operator).await.unwrap(),
        "spiffe://shardwright/agent/node-a"
    );
}

#[tokio::test]
async fn clients_with_unsound_certificates_are_refused_and_the_server_goes_on() {
    let ours = installation();
    let config = server_config(&ours.credentials(&operator()));
    let server = Server::start(Arc::clone(&config)).await;
    let mut hostile = hostile_identities(&ours);
    let server_only = ours.forge(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    hostile.push(("a certificate for servers only", server_only, "does not allow"));
    for (kind, shown, reason) in hostile {
        let client = hostile_client(&ours, &shown);
        let (server_says, _) = handshake(Arc::clone(&config), Arc::clone(&client));
        let said = server_says.expect_err(kind).to_string();
        assert!(said.contains(reason), "{kind}: {said}");
        let told = server.ask(client, by_address()).await.expect_err(kind);
        assert!(told.contains("received fatal alert"), "{kind}: {told}");
    }
    assert_eq!(server.calls(), 0, "no handler ran");
    let sound = client_config(&ours.credentials(&agent("node-a")));
    assert!(server.ask(sound, Expected::Operator).await.is_ok());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&operator()))).await;
    let client = bootstrap_client_config(&ours.authority.bundle_pem()).unwrap();
    let told = server.ask(client, by_address()).await.unwrap_err();
    assert!(told.contains("fatal alert: CertificateRequired"), "{told}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_port_that_demands_no_certificate_gives_its_callers_no_id() {
    let ours = installation();
    let server = Server::start(server_config_open(&ours.credentials(&operator()), ALPN_GRPC)).await;
    let client = bootstrap_client_config(&ours.authority.bundle_pem()).unwrap();
    let refused = server.ask(client, by_address()).await.unwrap_err();
    assert!(refused.contains("demands a client certificate"), "{refused}");
    assert_eq!(server.calls(), 1, "the handler was reached, and found nobody");
}

#[tokio::test]
async fn servers_with_unsound_certificates_are_not_talked_to() {
    let ours = installation();
    let client = client_config(&ours.credentials(&agent("node-b")));
    let mut hostile = hostile_identities(&ours);
    let client_only = ours.forge(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    hostile.push(("a certificate for clients only", client_only, "does not allow"));
    for (kind, shown, reason) in hostile {
        let config = server_config_from_pem(&shown.certificate_chain_pem, &shown.key_pem).unwrap();
        let server = Server::start(config).await;
        let said = server
            .ask(Arc::clone(&client), Expected::Exactly(agent("node-a")))
            .await
            .expect_err(kind);
        assert!(said.contains(reason), "{kind}: {said}");
        assert_eq!(server.calls(), 0, "{kind}");
    }
}

#[tokio::test]
async fn a_sound_server_that_is_not_the_expected_one_is_not_talked_to() {
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&agent("node-a")))).await;
    let client = client_config(&ours.credentials(&agent("node-b")));
    let worker = Role::Worker {
        node: "node-a".into(),
        model_uid: "uid".into(),
    };
    let worker = SpiffeId::new("shardwright", worker).unwrap();
    let wrong = [
        Expected::Operator,
        Expected::Exactly(agent("node-c")),
        Expected::Exactly(worker.clone()),
        Expected::AnyOf(vec![agent("node-c"), worker]),
        Expected::AnyOf(Vec::new()),
        Expected::Name("127.0.0.2".into()),
        Expected::Name("shardwright-operator".into()),
    ];
    for expected in wrong {
        let said = server
            .ask(Arc::clone(&client), expected.clone())
            .await
            .expect_err("the wrong server was accepted");
        let names_both = said.contains("spiffe://shardwright/agent/node-a") || said.contains("not valid for name");
        assert!(names_both, "{expected:?}: {said}");
    }
    assert_eq!(server.calls(), 0);
    for right in [
        Expected::Exactly(agent("node-a")),
        Expected::AnyOf(vec![operator(), agent("node-a")]),
        by_address(),
    ] {
        assert!(server.ask(Arc::clone(&client), right).await.is_ok());
    }
}

#[tokio::test]
async fn a_bootstrap_client_checks_the_name_it_dialled() {
    let ours = installation();
    let unnamed = ours.forge(|_| {});
    let server = Server::start(server_config_from_pem(&unnamed.certificate_chain_pem, &unnamed.key_pem).unwrap()).await;
    let client = bootstrap_client_config(&ours.authority.bundle_pem()).unwrap();
    let said = server.ask(client, by_address()).await.unwrap_err();
    assert!(said.contains("not valid for name"), "{said}");
}

#[tokio::test]
async fn a_server_that_was_found_by_its_address_and_names_no_process_is_not_taken_for_one() {
    let ours = installation();
    let address = SanType::IpAddress([127, 0, 0, 1].into());
    let unnamed = ours.forge(|params| params.subject_alt_names = vec![address]);
    let server = Server::start(server_config_from_pem(&unnamed.certificate_chain_pem, &unnamed.key_pem).unwrap()).await;
    let client = bootstrap_client_config(&ours.authority.bundle_pem()).unwrap();
    let said = server.ask(client, Expected::Operator).await.unwrap_err();
    assert!(
        said.contains("the server's certificate: certificate names 0 URIs"),
        "{said}"
    );
    assert_eq!(server.calls(), 0);
}

/// What a client that knows nothing newer than TLS 1.2 sends first: no `supported_versions` extension.
const TLS12_CLIENT_HELLO: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x49, // record: handshake, 73 bytes
    0x01, 0x00, 0x00, 0x45, // ClientHello, 69 bytes
    0x03, 0x03, // TLS 1.2
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,    // random
    0x00, // no session id
    0x00, 0x02, 0xc0, 0x2b, // ECDHE-ECDSA-AES128-GCM-SHA256
    0x01, 0x00, // no compression
    0x00, 0x1a, // extensions, 26 bytes
    0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17, // groups: P-256
    0x00, 0x0b, 0x00, 0x02, 0x01, 0x00, // point formats: uncompressed
    0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03, // signatures: ecdsa_secp256r1_sha256
    0x00, 0x17, 0x00, 0x00, // extended master secret
];
/// TLS alert `protocol_version`.
const PROTOCOL_VERSION: u8 = 70;

#[tokio::test]
async fn a_client_that_speaks_tls_1_2_is_told_so_and_refused() {
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&operator()))).await;
    let address = server.address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(TLS12_CLIENT_HELLO).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.first(), Some(&0x15), "an alert: {answer:02x?}");
    assert_eq!(answer.last(), Some(&PROTOCOL_VERSION), "{answer:02x?}");
}

#[tokio::test]
async fn plain_http2_gets_no_answer() {
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&operator()))).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let answer = match channel.connect().await {
        Ok(channel) => crate::fixture::call(channel).await,
        Err(error) => Err(error.to_string()),
    };
    assert!(answer.is_err());
    assert_eq!(server.calls(), 0);
}
