//! Leaves that end while workers serve, and renewed ones that take their place.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::path::Path;
use std::time::{Duration, SystemTime};

use engine::Sampling;
use identity::{ConnectOptions, DEFAULT_LEAF_LIFETIME, Expected, Identity, connect, tls};
use proto::shard::v1::generate_event::Event;
use rig::fake::{Fake, Gate, LAYERS};
use rig::gateway::{Gateway, next, request, rest};
use rig::local::{Chain, within_limit};
use rig::process::{WorkerProcess, llama};
use rig::realm::{Realm, gateway_id};
use rig::wait_for;
use tonic::Code;

/// Of a leaf: time enough to start a pipeline, on a machine that has much else to do.
const SHORT: Duration = Duration::from_secs(12);
/// Time enough to be renewed, too, by workers that look for it each second from half of it on.
const RENEWED: Duration = Duration::from_secs(16);

const PROMPT: [i32; 3] = [70, 80, 90];
const TOKENS: u32 = 24;

fn end(identity_dir: &Path) -> SystemTime {
    Identity::load(identity_dir).unwrap().not_after().unwrap()
}

/// Why a new connection to the head is refused.
async fn refusal(realm: &Realm, endpoint: &str) -> String {
    let config = tls::client_config(&realm.credentials(&gateway_id()));
    let head = Expected::Exactly(realm.worker_id(0));
    let dialled = connect(endpoint, config, head, ConnectOptions::default()).await;
    dialled.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn a_stream_outlives_the_leaves_of_its_stages_and_a_pipeline_that_breaks_then_stands_again_with_renewed_ones() {
    let whole = Fake::whole(&PROMPT, Sampling::GREEDY, TOKENS as usize);
    let gate = Gate::default();
    let mut realm = Realm::new(&[3, LAYERS]);
    realm.leaf_lifetime = SHORT;
    let gated = |stage: usize, fake: Fake| if stage == 0 { fake.gated(gate.clone()) } else { fake };
    let mut chain = Chain::start_with(realm, gated).await;
    chain.realm.leaf_lifetime = DEFAULT_LEAF_LIFETIME;
    let gateway = chain.gateway(1).await;
    let folders = [0, 1].map(|stage| chain.realm.path(&format!("id{stage}")));
    let [head, tail] = [&folders[0], &folders[1]].map(|folder| end(folder));

    gate.shut();
    let mut stream = gateway.start(request(1, &PROMPT, TOKENS)).await.unwrap();
    gate.permit(1);
    let Event::Token(first) = within_limit("a token", next(&mut stream)).await.unwrap() else {
        panic!("a token comes first")
    };
    // Dates are judged by whole seconds.
    let ended = head.max(tail) + Duration::from_secs(1);
    wait_for("the leaves end", || async {
        (SystemTime::now() >= ended).then_some(())
    })
    .await;
    gate.open();
    let (tokens, last) = within_limit("the answer", rest(&mut stream)).await;
    assert!(last.is_ok(), "{last:?}");
    assert_eq!([vec![first.id], tokens].concat(), whole);
    let reply = gateway.generate(request(1, &PROMPT, TOKENS)).await.unwrap();
    assert_eq!(
        reply.tokens, whole,
        "what comes over connections that stand is answered"
    );
    let told = refusal(&chain.realm, &chain.endpoint(0).await).await;
    assert!(
        told.contains("certificate expired") && told.contains("check the time"),
        "{told}"
    );

    // A successor of the tail, whose leaf is good, and who judges the head's.
    chain.workers[1].kill();
    chain.replace(1, "b").await;
    chain.install(2).await;
    let agent = &chain.workers[0].agent;
    let told = wait_for("the head tells why", || async {
        agent.status().await.and_then(|status| status.next_unreachable)
    })
    .await;
    assert!(
        told.contains("fatal alert: CertificateExpired") && told.contains("check the time"),
        "{told}"
    );
    let refused = wait_for("a refusal that tells why", || async {
        let refused = gateway.generate(request(2, &PROMPT, TOKENS)).await.err()?;
        refused.message().contains("CertificateExpired").then_some(refused)
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable);

    chain.realm.renew(0, &folders[0]);
    let reply = gateway.generate_when_ready(request(2, &PROMPT, TOKENS)).await;
    assert_eq!(reply.tokens, whole);
    let newcomer = Gateway::dial(&chain.realm, 0, &chain.endpoint(0).await).await;
    assert_eq!(
        newcomer.generate(request(2, &PROMPT, TOKENS)).await.unwrap().tokens,
        whole
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_of_seconds_are_renewed_under_worker_processes_and_all_who_dial_anew_are_answered_alike() {
    let mut realm = Realm::new(&[1, 2]);
    realm.leaf_lifetime = RENEWED;
    let configs = llama(&realm, |_| {});
    let logs = [0, 1].map(|stage| realm.path(&format!("worker{stage}.log")));
    let head = WorkerProcess::spawn_logging(&realm, &configs[0], &logs[0]).await;
    let tail = WorkerProcess::spawn_logging(&realm, &configs[1], &logs[1]).await;
    let endpoints = [head.agent.endpoint().await, tail.agent.endpoint().await];
    let first = configs.iter().map(|config| end(&config.identity_dir)).max().unwrap();
    // With another epoch the head dials the tail anew.
    let install = async |epoch: u64| {
        let envelope = realm.envelope(epoch);
        tail.agent.install(&envelope, None).await.unwrap();
        head.agent.install(&envelope, Some(&endpoints[1])).await.unwrap();
    };
    install(1).await;
    let known = Gateway::dial(&realm, 0, &endpoints[0]).await;
    let whole = known.generate_when_ready(request(1, &PROMPT, TOKENS)).await.tokens;
    let mut epoch = 1;
    while SystemTime::now() < first + Duration::from_secs(1) {
        for (stage, config) in configs.iter().enumerate() {
            let held = Identity::load(&config.identity_dir).unwrap();
            if held.needs_renewal(SystemTime::now()) {
                realm.renew(stage, &config.identity_dir);
            }
        }
        epoch += 1;
        install(epoch).await;
        let newcomer = Gateway::dial(&realm, 0, &endpoints[0]).await;
        for gateway in [&known, &newcomer] {
            let reply = gateway.generate_when_ready(request(epoch, &PROMPT, TOKENS)).await;
            assert_eq!(reply.tokens, whole);
        }
    }
    for log in &logs {
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.contains("a renewed leaf is in use"), "{said}");
        assert!(!said.contains("the leaf has ended"), "{said}");
    }
}
