//! An identity replaced while connections are open.

use std::sync::Arc;

use identity::tls::{
    GivenCertificate, TlsError, bootstrap_client_config, client_config, server_config, server_config_given,
};
use identity::{ConnectOptions, Credentials, Expected, Identity, connect};
use rustls::{ClientConnection, HandshakeKind, ServerConnection};

use crate::fixture::{Installation, Server, agent, call, handshake, installation, operator};

#[tokio::test]
async fn a_replaced_identity_judges_the_next_handshake_and_open_connections_go_on() {
    let (old, new) = (installation(), installation());
    let credentials = old.credentials(&operator());
    let server = Server::start(server_config(&credentials)).await;
    let client_credentials = old.credentials(&agent("node-a"));
    let client = client_config(&client_credentials);
    let endpoint = server.address.to_string();
    let open = connect(&endpoint, client.clone(), Expected::Operator, ConnectOptions::default())
        .await
        .unwrap();
    assert!(call(open.clone()).await.is_ok());

    credentials.replace(new.identity(&operator())).unwrap();
    assert!(call(open).await.is_ok(), "the open connection goes on");
    assert!(
        server.ask(client.clone(), Expected::Operator).await.is_err(),
        "the old authority is no longer trusted"
    );

    client_credentials.replace(new.identity(&agent("node-a"))).unwrap();
    assert!(
        server.ask(client, Expected::Operator).await.is_ok(),
        "the same configuration uses the new leaf"
    );
}

#[test]
fn an_identity_is_only_replaced_by_one_for_the_same_process() {
    let ours = installation();
    let credentials = ours.credentials(&agent("node-a"));
    let refused = credentials.replace(ours.identity(&agent("node-b")));
    assert!(matches!(refused, Err(TlsError::AnotherIdentity { .. })));
    assert_eq!(credentials.spiffe_id(), agent("node-a"));
}

#[test]
fn an_unusable_identity_is_refused_and_the_old_one_stays() {
    let ours = installation();
    let sound = ours.identity(&agent("node-a"));
    let credentials = Credentials::new(sound.clone()).unwrap();
    let other = ours.identity(&agent("node-a"));
    let mixed = Identity {
        key_pem: other.key_pem,
        ..sound.clone()
    };
    assert!(matches!(credentials.replace(mixed), Err(TlsError::Key { .. })));
    let distrustful = Identity {
        bundle_pem: String::new(),
        ..sound.clone()
    };
    assert!(matches!(credentials.replace(distrustful), Err(TlsError::Bundle { .. })));
    let garbled = Identity {
        bundle_pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
        ..sound.clone()
    };
    assert!(matches!(credentials.replace(garbled), Err(TlsError::Bundle { .. })));
    let nameless = ours.forge(|params| params.subject_alt_names.clear());
    assert!(matches!(credentials.replace(nameless), Err(TlsError::Leaf(_))));
    assert_eq!(credentials.identity(), sound);
}

#[tokio::test]
async fn a_given_certificate_is_replaced_for_the_next_handshake_and_an_unusable_one_is_not_taken() {
    let (old, new) = (installation(), installation());
    let [before, after] = [&old, &new].map(|of| of.identity(&operator()));
    let given = GivenCertificate::new(&before.certificate_chain_pem, &before.key_pem).unwrap();
    assert_eq!(given.not_after(), before.not_after().ok());
    let server = Server::start(server_config_given(&given)).await;
    let told = async |of: &Installation| {
        let client = bootstrap_client_config(&of.authority.bundle_pem()).unwrap();
        let asked = server.ask(client, Expected::Name("127.0.0.1".into()));
        // The handler is reached, and misses a client's certificate.
        asked.await.unwrap_err()
    };
    assert!(told(&old).await.contains("demands a client certificate"));

    let mixed = given.replace(&after.certificate_chain_pem, &before.key_pem);
    assert!(matches!(mixed, Err(TlsError::Key { .. })), "{mixed:?}");
    assert!(told(&old).await.contains("demands a client certificate"));
    let same = given.replace(&before.certificate_chain_pem, &before.key_pem);
    assert!(matches!(same, Ok(false)), "{same:?}");

    let renewed = given.replace(&after.certificate_chain_pem, &after.key_pem);
    assert!(matches!(renewed, Ok(true)), "{renewed:?}");
    assert!(told(&new).await.contains("demands a client certificate"));
    assert!(told(&old).await.contains("UnknownIssuer"));
}

#[test]
fn no_connection_is_ever_resumed() {
    let ours = installation();
    let server = server_config(&ours.credentials(&operator()));
    let client = client_config(&ours.credentials(&agent("node-a")));
    for _ in 0..2 {
        assert_eq!(handshake(Arc::clone(&server), Arc::clone(&client)), (Ok(()), Ok(())));
    }
    assert_eq!(server.send_tls13_tickets, 0);
    let mut one = ClientConnection::new(client, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut other = ServerConnection::new(server).unwrap();
    while one.is_handshaking() || other.is_handshaking() {
        let mut wire = Vec::new();
        while one.wants_write() {
            one.write_tls(&mut wire).unwrap();
        }
        other.read_tls(&mut wire.as_slice()).unwrap();
        other.process_new_packets().unwrap();
        let mut wire = Vec::new();
        while other.wants_write() {
            other.write_tls(&mut wire).unwrap();
        }
        one.read_tls(&mut wire.as_slice()).unwrap();
        one.process_new_packets().unwrap();
    }
    assert_ne!(other.handshake_kind(), Some(HandshakeKind::Resumed));
}
