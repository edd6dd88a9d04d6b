//! A gateway that may have few descriptors, and a crowd at its port for users.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use std::time::Duration;

use fakes::head::{Last, Script};
use fakes::{World, until};
use scarcity::descriptors::{self, Crowd};
use serde_json::json;

/// Few, and enough for a gateway's own.
const DESCRIPTORS: u64 = 256;
/// More than that: those that find no descriptor wait in the port's queue, which has room for 128.
const CROWD: usize = 300;

#[tokio::test]
async fn a_gateway_without_descriptors_ends_what_it_began_lets_others_wait_and_keeps_no_descriptor_of_them() {
    let mut world = World::start_unready().await;
    let process = world.restart_gateway_as_process().await;
    descriptors::limit(process.id(), DESCRIPTORS).unwrap();
    world.serve_model(1);
    world.ready().await;
    let before = descriptors::open(process.id()).unwrap();
    world.head.expect(Script::then("begun ", Last::Wait));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    open.wait_for("\"n\"").await;

    let crowd = Crowd::gather(world.gateway.addresses.user, CROWD).unwrap();
    until("a gateway without descriptors", || async {
        process.log().contains("connections cannot be accepted; trying on")
    })
    .await;
    world.head.release();
    let answer = open.finish().await;
    assert_eq!(answer.events().last().unwrap(), "[DONE]", "{}", answer.body);
    // Who says nothing is given up after ten seconds, which must not be now.
    descriptors::limit(process.id(), descriptors::NONE).unwrap();
    world.head.expect(Script::text("after all"));
    let mut late = Box::pin(world.client.chat("Hi"));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut late).await;
    assert!(early.is_err(), "nobody can be let in yet");

    drop(crowd);
    descriptors::limit(process.id(), DESCRIPTORS).unwrap();
    let answer = late.await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "after all");
    until("its descriptors again", || async {
        descriptors::open(process.id()).unwrap() <= before
    })
    .await;
    assert!(!process.log().contains("panicked"), "{}", process.log());
    assert!(process.terminated().await.success());
}
