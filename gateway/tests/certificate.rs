//! A certificate of the cluster's own for the gateway's users.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use std::path::Path;

use fakes::{Trust, World};
use gateway::args::{Args, UserCertificate};
use gateway::run::RunError;
use identity::{Identity, Role};

/// A certificate and its key as files.
fn files(directory: &Path, name: &str, identity: &Identity) -> UserCertificate {
    let certificate = UserCertificate {
        chain: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
    };
    std::fs::write(&certificate.chain, &identity.certificate_chain_pem).unwrap();
    identity::store::write_private(&certificate.key, identity.key_pem.as_bytes()).unwrap();
    certificate
}

fn gateway() -> Role {
    Role::Gateway {
        pod: "gateway-0".into(),
    }
}

#[tokio::test]
async fn users_meet_the_certificate_that_was_given_for_them_and_probes_the_gateways_own() {
    let mut world = World::start().await;
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = Trust::new();
    let certificate = files(directory.path(), "user", &elsewhere.identity(gateway()));
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
    let one = files(directory.path(), "one", &elsewhere.identity(gateway()));
    let other = files(directory.path(), "other", &elsewhere.identity(gateway()));
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
