//! One authority takes another's place: who speaks with whom meanwhile, and with whom not any more.

use std::sync::Arc;

use identity::tls::{ALPN_GRPC, bootstrap_client_config, client_config, server_config, server_config_open};
use identity::{Authority, ConnectOptions, Expected, connect};

use crate::fixture::{Installation, Server, agent, call, handshake, installation, operator};

/// The installation before, while the old one issues, while the new one does, and after.
fn phases() -> [Installation; 4] {
    let (old, new) = (installation().authority, installation().authority);
    let again = |of: &Authority| Authority::from_pem(of.cert_pem(), &of.key_pem()).unwrap();
    let (prepared, active) = (again(&old).beside(new.cert_pem()), again(&new).beside(old.cert_pem()));
    [old, prepared.unwrap(), active.unwrap(), new].map(|authority| Installation { authority })
}

#[test]
fn whoever_is_one_phase_ahead_or_behind_is_understood_both_ways_and_whoever_is_two_is_not() {
    let phases = phases();
    for (at, serves) in phases.iter().enumerate() {
        for (other, dials) in phases.iter().enumerate() {
            let server = server_config(&serves.credentials(&operator()));
            let client = client_config(&dials.credentials(&agent("node-a")));
            let both = handshake(server, client);
            let understood = both == (Ok(()), Ok(()));
            assert_eq!(understood, at.abs_diff(other) <= 1, "phase {at} with {other}: {both:?}");
        }
    }
}

#[test]
fn a_bundle_of_two_lets_servers_of_either_be_known_by_name_alone() {
    let [old, prepared, _, new] = phases();
    let bundle_pem = prepared.authority.bundle_pem();
    for of in [&old, &prepared, &new] {
        let server = server_config_open(&of.credentials(&operator()), ALPN_GRPC);
        let client = bootstrap_client_config(&bundle_pem).unwrap();
        assert_eq!(handshake(server, client), (Ok(()), Ok(())));
    }
    let client = bootstrap_client_config(&new.authority.bundle_pem()).unwrap();
    let server = server_config_open(&prepared.credentials(&operator()), ALPN_GRPC);
    assert!(handshake(server, client).1.is_err(), "the old one issued its leaf");
}

#[tokio::test]
async fn two_processes_that_change_one_after_the_other_are_connected_and_connect_anew_all_along_and_the_old_leaf_is_refused_then()
 {
    let phases = phases();
    let (served, dialling) = (
        phases[0].credentials(&operator()),
        phases[0].credentials(&agent("node-a")),
    );
    let server = Server::start(server_config(&served)).await;
    let client = client_config(&dialling);
    let endpoint = server.address.to_string();
    let open = connect(
        &endpoint,
        Arc::clone(&client),
        Expected::Operator,
        ConnectOptions::default(),
    );
    let open = open.await.unwrap();
    for (at, phase) in phases.iter().enumerate().skip(1) {
        // Once the one is first, once the other.
        for server_changes in [at % 2 == 0, at % 2 == 1] {
            if server_changes {
                served.replace(phase.identity(&operator())).unwrap();
            } else {
                dialling.replace(phase.identity(&agent("node-a"))).unwrap();
            }
            let anew = server.ask(Arc::clone(&client), Expected::Operator).await;
            assert_eq!(anew.as_deref(), Ok("spiffe://shardwright/agent/node-a"), "phase {at}");
            assert!(call(open.clone()).await.is_ok(), "the open connection goes on");
        }
    }
    dialling.replace(phases[1].identity(&agent("node-a"))).unwrap();
    let refused = server.ask(client, Expected::Operator).await.unwrap_err();
    assert!(
        refused.contains("UnknownCA") || refused.contains("UnknownIssuer"),
        "{refused}"
    );
}
