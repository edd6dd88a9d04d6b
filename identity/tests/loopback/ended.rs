//! Certificates that end while connections stand.

use std::time::{Duration, SystemTime};

use identity::tls::{client_config, server_config};
use identity::{ConnectOptions, Credentials, Expected, SpiffeId, connect};

use crate::fixture::{Server, agent, call, ended, installation, operator};

/// Of a leaf: time enough to connect, on a machine that has much else to do.
const SHORT: Duration = Duration::from_secs(10);
/// Of one that is renewed from half of it on.
const RENEWED: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_connection_outlives_the_certificates_of_both_its_ends_and_new_ones_need_renewed_ones_on_both() {
    let ours = installation();
    let short = |id: SpiffeId| Credentials::new(ours.identity_for(SHORT, &id)).unwrap();
    let (served, shown) = (short(operator()), short(agent("node-a")));
    let server = Server::start(server_config(&served)).await;
    let client = client_config(&shown);
    let endpoint = server.address.to_string();
    let open = connect(&endpoint, client.clone(), Expected::Operator, ConnectOptions::default())
        .await
        .unwrap();
    assert!(call(open.clone()).await.is_ok());

    ended(&served).await;
    ended(&shown).await;
    assert!(call(open.clone()).await.is_ok(), "what stands is not judged again");
    let calls = server.calls();
    let said = server.ask(client.clone(), Expected::Operator).await.unwrap_err();
    assert!(
        said.contains("certificate expired") && said.contains("check the time"),
        "of the server's: {said}"
    );

    served.replace(ours.identity(&operator())).unwrap();
    let said = server.ask(client.clone(), Expected::Operator).await.unwrap_err();
    assert!(
        said.contains("fatal alert: CertificateExpired") && said.contains("check the time"),
        "of ours: {said}"
    );
    assert_eq!(server.calls(), calls, "no handler ran");

    shown.replace(ours.identity(&agent("node-a"))).unwrap();
    assert!(server.ask(client, Expected::Operator).await.is_ok());
    assert!(
        call(open).await.is_ok(),
        "the connection under the old certificates goes on"
    );
}

#[tokio::test]
async fn certificates_of_seconds_are_renewed_again_and_again_and_no_call_fails_over_any_connection() {
    let ours = installation();
    let issue = |id: SpiffeId| ours.identity_for(RENEWED, &id);
    let served = Credentials::new(issue(operator())).unwrap();
    let shown = Credentials::new(issue(agent("node-a"))).unwrap();
    let server = Server::start(server_config(&served)).await;
    let client = client_config(&shown);
    let endpoint = server.address.to_string();
    let first = served.not_after();
    let mut connections = Vec::new();
    // As long as the first leaf and another one: none of the first is left in the end.
    while served.not_after() < first + 2 * RENEWED {
        let options = ConnectOptions::default();
        connections.push(
            connect(&endpoint, client.clone(), Expected::Operator, options)
                .await
                .unwrap(),
        );
        for connection in &connections {
            call(connection.clone()).await.unwrap();
        }
        for (credentials, id) in [(&served, operator()), (&shown, agent("node-a"))] {
            let identity = credentials.identity();
            if identity.needs_renewal(SystemTime::now()) {
                credentials.replace(issue(id)).unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(connections.len() > 2);
}
