//! A certificate of the cluster's own for the gateway's users.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use fakes::client::Client;
use fakes::head::{Last, Script};
use fakes::{Trust, World, files, role, until};
use gateway::args::{Args, UserCertificate};
use gateway::run::RunError;
use serde_json::json;

#[tokio::test]
async fn users_meet_the_certificate_that_was_given_for_them_and_probes_the_gateways_own() {
    let mut world = World::start().await;
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = Trust::new();
    let certificate = files(directory.path(), "user", &elsewhere.identity(role()));
    world
        .restart_gateway_with(certificate, &elsewhere.authority.bundle_pem())
        .await;
    world.ready().await;
    assert_eq!(world.admin().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_ends_the_start_and_names_the_flags() {
    let world = World::start_unready().await;
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = Trust::new();
    let one = files(directory.path(), "one", &elsewhere.identity(role()));
    let other = files(directory.path(), "other", &elsewhere.identity(role()));
    let missing = directory.path().join("missing");
    for (chain, key) in [(&one.chain, &other.key), (&one.chain, &missing), (&one.key, &one.key)] {
        let args = Args {
            user_certificate: Some(UserCertificate {
                chain: chain.clone(),
                key: key.clone(),
            }),
            ..world.args()
        };
        let refused = gateway::run::run(args, std::future::pending(), |_| ()).await;
        let Err(RunError::Config(message)) = refused else {
            panic!("{chain:?} and {key:?}: {refused:?}");
        };
        assert!(message.starts_with("--tls-cert, --tls-key: "), "{message}");
    }
}

#[tokio::test]
async fn users_meet_a_renewed_certificate_without_a_restart_and_files_that_are_no_pair_change_nothing() {
    let mut world = World::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Trust::new(), Trust::new());
    let certificate = files(directory.path(), "user", &old.identity(role()));
    let process = world
        .restart_gateway_as_process_with(Some(certificate.clone()), &old.authority.bundle_pem())
        .await;
    world.ready().await;
    world.head.expect(Script::then("half ", Last::Wait));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    open.wait_for("\"f\"").await;

    let renewed = new.identity(role());
    std::fs::write(&certificate.chain, &renewed.certificate_chain_pem).unwrap();
    until("the gateway's word", || async {
        process.log().contains("the certificate for users is not renewed")
    })
    .await;
    assert!(world.client.shake_hands().await.is_ok(), "the last one is met");

    files(directory.path(), "user", &renewed);
    let newcomer = Client::new(world.gateway.addresses.user, &new.authority.bundle_pem());
    until("the renewed certificate", || async {
        newcomer.shake_hands().await.is_ok()
    })
    .await;
    assert!(world.client.shake_hands().await.is_err());
    assert_eq!(newcomer.get("/v1/models").await.status, 200);
    world.head.release();
    assert_eq!(open.finish().await.streamed_text(), "half ", "the stream goes on");
}
