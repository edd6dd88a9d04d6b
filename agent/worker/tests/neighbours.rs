//! What a newer placement changes for a worker that it keeps: nothing where its pipeline stays, its neighbours where not.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use engine::Sampling;
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event;
use rig::fake::{Fake, Gate, LAYERS, POISON};
use rig::gateway::{Gateway, next, request, rest};
use rig::local::{Chain, LocalWorker, within_limit};
use rig::realm::{Realm, StageAt};
use tonic::Code;

fn greedy(prompt: &[i32], count: usize) -> Vec<i32> {
    Fake::whole(prompt, Sampling::GREEDY, count)
}

#[tokio::test]
async fn a_newer_placement_that_leaves_the_pipeline_as_it_is_disturbs_no_stream() {
    let gate = Gate::default();
    let chain = Chain::start_with(Realm::new(&[2, 4, LAYERS]), |_, fake| fake.gated(gate.clone())).await;
    let gateway = chain.gateway(1).await;
    gate.shut();
    let mut stream = gateway.start(request(1, &[4], 50)).await.unwrap();
    gate.permit(3);
    let Event::Token(first) = within_limit("a token", next(&mut stream)).await.unwrap() else {
        panic!("a token comes first")
    };
    let newer = chain.realm.placement_of(7, &[(1, &[0, 1, 2])]);
    let newer = chain.realm.sign(&newer);
    for worker in &chain.workers {
        // Nobody knows yet where the stages of the new epoch listen.
        worker.agent.install(&newer, None).await.unwrap();
        assert_eq!(worker.agent.status().await.unwrap().epoch, Some(7));
    }
    gate.open();
    let (tokens, end) = within_limit("the answer", rest(&mut stream)).await;
    assert_eq!([vec![first.id], tokens].concat(), greedy(&[4], 50));
    assert_eq!(end.unwrap().completion_tokens, 50);

    let reply = gateway.generate(request(1, &[5, 6], 9)).await.unwrap();
    assert_eq!(
        reply.tokens,
        greedy(&[5, 6], 9),
        "new requests speak of the pipeline's epoch"
    );
    let status = gateway.generate(request(7, &[5], 9)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let older = chain.workers[1].agent.install(&chain.realm.envelope(6), None).await;
    assert_eq!(older.unwrap_err().0, "StaleEpoch", "the fence is the placement's");
}

/// Workers that are no chain: five of them, for two ways of cutting the model.
struct Five {
    realm: Realm,
    workers: Vec<LocalWorker>,
}

/// Of the first cut, and of the second one, which keeps the tail.
const FIRST: [usize; 3] = [0, 1, 2];
const SECOND: [usize; 2] = [3, 2];
const WHOLE: [usize; 1] = [4];

impl Five {
    async fn start() -> Self {
        let mut realm = Realm::new(&[1, 2, LAYERS]);
        for (node, end_layer) in [("node-3", 2), ("node-4", LAYERS)] {
            realm.stages.push(StageAt {
                node: node.to_owned(),
                first_layer: 0,
                end_layer,
            });
        }
        let mut workers = Vec::new();
        for (index, at) in realm.stages.iter().enumerate() {
            let fake = Fake::new(at.first_layer, at.end_layer);
            let fake = if index == 2 { fake.poisoned() } else { fake };
            workers.push(LocalWorker::start(realm.config(index, ""), fake.loader()).await);
        }
        Self { realm, workers }
    }

    /// Tells the stages of one pipeline, from the tail to the head.
    async fn install(&self, epoch: u64, pipelines: &[(u64, &[usize])], told: &[usize]) {
        let envelope = self.realm.sign(&self.realm.placement_of(epoch, pipelines));
        let mut next = None;
        for worker in told.iter().rev().map(|index| &self.workers[*index]) {
            worker.agent.install(&envelope, next.as_deref()).await.unwrap();
            next = Some(worker.agent.endpoint().await);
        }
    }

    async fn gateway(&self, head: usize, epoch: u64) -> Gateway {
        let gateway = Gateway::dial(&self.realm, head, &self.workers[head].agent.endpoint().await).await;
        gateway.ready(epoch).await;
        gateway
    }
}

#[tokio::test]
async fn a_stage_takes_other_neighbours_and_another_place_without_being_loaded_again() {
    let five = Five::start().await;
    five.install(1, &[(1, &FIRST)], &FIRST).await;
    let before = five.gateway(0, 1).await;
    assert_eq!(
        before.generate(request(1, &[4], 20)).await.unwrap().tokens,
        greedy(&[4], 20)
    );
    let poisoned = request(1, &[POISON], 2);
    let status = before.generate(poisoned.clone()).await.unwrap_err();
    assert!(status.message().contains("stage 2: Compute"), "{status:?}");

    five.install(2, &[(2, &WHOLE), (2, &SECOND)], &SECOND).await;
    let after = five.gateway(3, 2).await;
    assert_eq!(
        after.generate(request(2, &[4], 20)).await.unwrap().tokens,
        greedy(&[4], 20)
    );
    let status = after
        .generate(wire::GenerateRequest { epoch: 2, ..poisoned })
        .await
        .unwrap_err();
    assert!(status.message().contains("stage 1: Compute"), "{status:?}");
    let late = before.generate(request(1, &[4], 20)).await;
    assert!(late.is_err(), "the tail obeys its new neighbour alone");
}

#[tokio::test]
async fn a_head_whose_next_stages_change_ends_its_streams_and_serves_over_the_new_ones() {
    let gate = Gate::default();
    let mut realm = Realm::new(&[2, LAYERS]);
    for (node, first_layer, end_layer) in [("node-2", 2, 4), ("node-3", 4, LAYERS)] {
        realm.stages.push(StageAt {
            node: node.to_owned(),
            first_layer,
            end_layer,
        });
    }
    let mut workers = Vec::new();
    for (index, at) in realm.stages.iter().enumerate() {
        let fake = Fake::new(at.first_layer, at.end_layer).gated(gate.clone());
        workers.push(LocalWorker::start(realm.config(index, ""), fake.loader()).await);
    }
    let line = Five { realm, workers };
    line.install(1, &[(1, &[0, 1])], &[0, 1]).await;
    let gateway = line.gateway(0, 1).await;
    gate.shut();
    let mut stream = gateway.start(request(1, &[4], 50)).await.unwrap();
    gate.permit(2);
    within_limit("a token", next(&mut stream)).await.unwrap();
    line.install(2, &[(2, &[0, 2, 3])], &[0, 2, 3]).await;
    gate.open();
    let (_, end) = within_limit("the end", rest(&mut stream)).await;
    assert_eq!(end.unwrap_err().code(), Code::FailedPrecondition);
    let reply = gateway.generate_when_ready(request(2, &[4], 50)).await;
    assert_eq!(reply.tokens, greedy(&[4], 50));
}

#[tokio::test]
async fn one_epoch_of_a_pipeline_never_means_other_stages() {
    let five = Five::start().await;
    five.install(3, &[(3, &FIRST)], &FIRST).await;
    let tail = &five.workers[2].agent;
    let refusal = async |epoch, pipelines: &[(u64, &[usize])]| {
        let envelope = five.realm.sign(&five.realm.placement_of(epoch, pipelines));
        tail.install(&envelope, None).await.unwrap_err()
    };
    let (reason, message) = refusal(4, &[(3, &SECOND)]).await;
    assert_eq!(reason, "StaleEpoch", "{message}");
    assert!(message.contains("other stages") && message.contains('3'), "{message}");
    let (reason, message) = refusal(4, &[(5, &SECOND)]).await;
    assert_eq!(reason, "NotMine", "{message}");
    assert!(message.contains("above the placement"), "{message}");
    let (reason, message) = refusal(4, &[(4, &WHOLE)]).await;
    assert_eq!(reason, "NotMine", "{message}");
    assert!(message.contains("layers [2, 6) on node-2-cpu0"), "{message}");
    assert_eq!(tail.status().await.unwrap().epoch, Some(3));
}
