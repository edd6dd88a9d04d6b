//! A worker that may have few descriptors, and a crowd at its port.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use rig::agent::Agent;
use rig::gateway::{Gateway, request};
use rig::local::within_limit;
use rig::process::{WorkerProcess, llama};
use rig::realm::Realm;
use scarcity::descriptors::{self, Crowd};
use worker::control::{Phase, Request};

const LAYERS: u32 = 4;
/// Few, and enough for a worker's own.
const DESCRIPTORS: u64 = 256;
/// More than that: those that find no descriptor wait in the port's queue, which has room for 128.
const CROWD: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_descriptors_serves_whom_it_knows_lets_others_wait_and_keeps_no_descriptor_of_them() {
    let realm = Realm::new(&[LAYERS]);
    let config = llama(&realm, |_| {}).remove(0);
    let log = realm.path("worker.log");
    let said = |text: &str| std::fs::read_to_string(&log).unwrap().matches(text).count();
    let mut worker = WorkerProcess::spawn_logging(&realm, &config, &log).await;
    descriptors::limit(worker.id(), DESCRIPTORS).unwrap();
    let endpoint = worker.agent.endpoint().await;
    worker.agent.install(&realm.envelope(1), None).await.unwrap();
    let known = Gateway::dial(&realm, 0, &endpoint).await;
    known.ready(1).await;
    let asked = request(1, &[70, 80, 90], 12);
    let tokens = known.generate(asked.clone()).await.unwrap().tokens;
    let before = match descriptors::open(worker.id()) {
        Ok(count) => count,
        Err(error) => return println!("SKIPPED: a worker's descriptors cannot be counted: {error}"),
    };

    let crowd = Crowd::gather(endpoint.parse().unwrap(), CROWD).unwrap();
    rig::wait_for("no descriptor is left", || async {
        (said("connections cannot be accepted; trying on") > 0).then_some(())
    })
    .await;
    // Who says nothing is given up after ten seconds, which must not be now.
    descriptors::limit(worker.id(), descriptors::NONE).unwrap();
    let answered = within_limit("an answer", known.generate(asked.clone())).await.unwrap();
    assert_eq!(answered.tokens, tokens);
    assert_eq!(worker.agent.status().await.unwrap().phase, Phase::Serving);
    let second = Agent::attach(&config.control_socket).await;
    rig::wait_for("an agent waits", || async {
        (said("the control socket cannot accept; trying on") > 0).then_some(())
    })
    .await;

    drop(crowd);
    descriptors::limit(worker.id(), DESCRIPTORS).unwrap();
    let status = within_limit("a status", second.status()).await.unwrap();
    assert_eq!(status.phase, Phase::Serving);
    let newcomer = Gateway::dial(&realm, 0, &endpoint).await;
    assert_eq!(newcomer.generate(asked).await.unwrap().tokens, tokens);
    drop((second, newcomer));
    rig::wait_for("its descriptors are as before", || async {
        (descriptors::open(worker.id()).unwrap() <= before).then_some(())
    })
    .await;
    assert_eq!(said("the control socket cannot accept"), 1, "it is told once");
    assert_eq!(said("panicked"), 0);
    worker.agent.request(&Request::Drain).await.unwrap();
    assert_eq!(worker.exited().await.code(), Some(0));
}
