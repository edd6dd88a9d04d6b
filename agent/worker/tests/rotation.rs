//! One authority takes another's place under a pipeline that serves: whoever has its new leaf first, all speak with all meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use engine::Sampling;
use identity::{Authority, ConnectOptions, Expected, connect, tls};
use rig::fake::{Fake, LAYERS};
use rig::gateway::{Gateway, request};
use rig::local::{Chain, within_limit};
use rig::realm::{Realm, TRUST_DOMAIN, gateway_id};
use std::time::SystemTime;

const PROMPT: [i32; 3] = [70, 80, 90];
const TOKENS: u32 = 24;

/// Who gets another leaf.
#[derive(Clone, Copy, Debug)]
enum Process {
    Gateway,
    Worker(usize),
}

use Process::{Gateway as Client, Worker};

/// Once each is first, and once last.
const ORDERS: [[Process; 3]; 3] = [
    [Client, Worker(0), Worker(1)],
    [Worker(1), Client, Worker(0)],
    [Worker(0), Worker(1), Client],
];

fn again(authority: &Authority) -> Authority {
    Authority::from_pem(authority.cert_pem(), &authority.key_pem()).unwrap()
}

/// What issues in the three steps from the old authority to the new one.
fn steps(old: &Authority, new: &Authority) -> [Authority; 3] {
    let prepared = again(old).beside(new.cert_pem()).unwrap();
    let active = again(new).beside(old.cert_pem()).unwrap();
    [prepared, active, again(new)]
}

#[tokio::test]
async fn while_one_authority_takes_anothers_place_every_request_is_answered_alike_whoever_has_its_leaf_first() {
    let whole = Fake::whole(&PROMPT, Sampling::GREEDY, TOKENS as usize);
    let mut chain = Chain::start(Realm::new(&[3, LAYERS])).await;
    let folders = [0, 1].map(|stage| chain.realm.path(&format!("id{stage}")));
    let own = chain.realm.credentials(&gateway_id());
    let known = chain.gateway(1).await;
    let old = again(&chain.realm.authority);
    let new = Authority::generate(TRUST_DOMAIN, SystemTime::now()).unwrap();
    let mut epoch = 1;
    for (authority, order) in steps(&old, &new).into_iter().zip(ORDERS) {
        chain.realm.authority = authority;
        for process in order {
            match process {
                Client => own.replace(chain.realm.identity(&gateway_id())).unwrap(),
                Worker(stage) => {
                    chain.realm.renew(stage, &folders[stage]);
                    chain.workers[stage].agent.renew().await.unwrap();
                }
            }
            // Over connections that stand, and over new ones, at the first attempt.
            let newcomer = Gateway::dial_with(&own, &chain.realm, 0, &chain.endpoint(0).await).await;
            for gateway in [&known, &newcomer] {
                let reply = gateway.generate(request(epoch, &PROMPT, TOKENS));
                let reply = within_limit("an answer", reply).await.unwrap();
                assert_eq!(reply.tokens, whole, "{process:?}");
            }
            // With another epoch the head dials the tail anew.
            epoch += 1;
            chain.install(epoch).await;
            let reply = newcomer.generate_when_ready(request(epoch, &PROMPT, TOKENS)).await;
            assert_eq!(reply.tokens, whole, "{process:?}");
        }
    }

    // Trusted by nobody any more, though it trusts the new one.
    chain.realm.authority = again(&old).beside(new.cert_pem()).unwrap();
    let config = tls::client_config(&chain.realm.credentials(&gateway_id()));
    let head = Expected::Exactly(chain.realm.worker_id(0));
    let dialled = connect(&chain.endpoint(0).await, config, head, ConnectOptions::default()).await;
    let refused = dialled.map(drop).unwrap_err().to_string();
    assert!(refused.contains("UnknownCA"), "{refused}");
}

#[tokio::test]
async fn a_worker_that_is_told_of_a_leaf_takes_it_at_once_and_says_why_where_it_cannot_and_serves_on() {
    let chain = Chain::start(Realm::new(&[LAYERS])).await;
    let gateway = chain.gateway(1).await;
    let folder = chain.realm.path("id0");
    let agent = &chain.workers[0].agent;
    agent.renew().await.expect("the one that it has");
    chain.realm.renew(0, &folder);
    agent.renew().await.expect("another one");
    std::fs::write(folder.join("leaf.pem"), "no certificate").unwrap();
    let (reason, message) = agent.renew().await.unwrap_err();
    assert_eq!(reason, "BadIdentity");
    assert!(message.contains("the identity cannot be read"), "{message}");
    let stranger = chain.realm.identity(&gateway_id());
    stranger.store(&folder).unwrap();
    let (_, message) = agent.renew().await.unwrap_err();
    assert!(message.contains("the renewed leaf is refused"), "{message}");
    let newcomer = Gateway::dial(&chain.realm, 0, &chain.endpoint(0).await).await;
    for gateway in [&gateway, &newcomer] {
        gateway.generate(request(1, &PROMPT, TOKENS)).await.unwrap();
    }
}
