//! The gateway's own certificate ends while it serves, and is renewed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use std::time::{Duration, SystemTime};

use fakes::client::Client;
use fakes::head::{FakeHead, Last, Script};
use fakes::{Trust, World, files, role, steps, until};
use identity::{DEFAULT_LEAF_LIFETIME, Wanted};
use serde_json::json;

/// Of a certificate: time enough for a gateway to start and a stream to begin, on a machine that has much else to do.
const SHORT: Duration = Duration::from_secs(15);

/// Waits until nobody takes the certificate any more: dates are judged by whole seconds.
async fn ended(end: SystemTime) {
    let end = end + Duration::from_secs(1);
    until("the certificate's end", || async { SystemTime::now() >= end }).await;
}

/// What is left of the gateway's own certificate, as it says.
async fn remaining_s(world: &World) -> i64 {
    let metrics = world.admin().get("/metrics").await.body;
    let name = "shardwright_gateway_certificate_remaining_seconds{certificate=\"own\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value
        .unwrap_or_else(|| panic!("no {name}in {metrics}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn users_of_a_gateway_whose_certificate_has_ended_keep_their_streams_and_meet_the_renewed_one_without_a_restart()
{
    let mut world = World::start().await;
    let end = world.renew_identity(SHORT);
    let process = world.restart_gateway_as_process().await;
    world.ready().await;
    assert!(remaining_s(&world).await <= SHORT.as_secs().cast_signed());
    world.head.expect(Script::then("half ", Last::Wait));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    open.wait_for("\"f\"").await;

    ended(end).await;
    let refused = world.client.shake_hands().await.unwrap_err().to_string();
    assert!(refused.contains("expired"), "{refused}");
    until("the gateway's word", || async {
        process.log().contains("the own certificate has ended")
    })
    .await;
    world.head.release();
    assert_eq!(open.finish().await.streamed_text(), "half ");

    world.renew_identity(DEFAULT_LEAF_LIFETIME);
    until("the renewed certificate", || async {
        world.client.shake_hands().await.is_ok()
    })
    .await;
    until("a day that is left", || async { remaining_s(&world).await > 3600 }).await;
    world.head.expect(Script::text("ok"));
    assert_eq!(world.client.chat("Hi").await.status, 200);
}

#[tokio::test]
async fn a_gateway_whose_certificate_has_ended_is_answered_over_connections_that_stand_and_says_why_a_new_head_refuses_it()
 {
    let mut world = World::start().await;
    let (elsewhere, directory) = (Trust::new(), tempfile::tempdir().unwrap());
    let given = files(directory.path(), "user", &elsewhere.identity(role()));
    let end = world.renew_identity(SHORT);
    let bundle_pem = elsewhere.authority.bundle_pem();
    let process = world.restart_gateway_as_process_with(Some(given), &bundle_pem).await;
    world.ready().await;

    ended(end).await;
    world.head.expect(Script::text("ok"));
    assert_eq!(world.client.chat("Hi").await.status, 200);

    world.head.kill();
    world.head = FakeHead::start(&world.trust, "node-b").await;
    world.serve_model(2);
    let why = || {
        let log = process.log();
        let told = log
            .lines()
            .find(|line| line.contains("fatal alert: CertificateExpired"));
        told.map(str::to_owned)
    };
    // At first it may know of the old head alone.
    until("the reason", || async {
        let answer = world.client.chat("Hi").await;
        assert_eq!((answer.status, answer.error("code").as_str()), (503, "workers_lost"));
        why().is_some()
    })
    .await;
    let told = why().expect("it was told");
    assert!(told.contains("head lost") && told.contains("check the time"), "{told}");

    world.renew_identity(DEFAULT_LEAF_LIFETIME);
    world.ready().await;
}

#[tokio::test]
async fn a_gateway_takes_another_authoritys_leaf_when_it_hears_of_it_says_so_and_answers_all_along() {
    let mut world = World::start().await;
    let first = Wanted::of(&world.trust.authority, Duration::ZERO);
    until("it says whom it trusts", || async { world.operator.held().is(&first) }).await;
    world.head.expect(Script::then("half ", Last::Wait));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    open.wait_for("\"f\"").await;
    for authority in steps(&world.trust.authority) {
        world.trust.authority = authority;
        world.renew_identity(DEFAULT_LEAF_LIFETIME);
        let wanted = Wanted::of(&world.trust.authority, Duration::ZERO);
        world.operator.want(&wanted);
        until("it trusts whom it is told to", || async {
            world.operator.held().is(&wanted)
        })
        .await;
        let address = world.gateway.addresses.user;
        let newcomer = Client::new(address, &world.trust.authority.bundle_pem());
        assert_eq!(newcomer.get("/v1/models").await.status, 200);
    }
    world.head.release();
    assert_eq!(open.finish().await.streamed_text(), "half ");
}
