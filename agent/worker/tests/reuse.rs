//! Several steps under way and prefixes shared, over real TLS on loopback: plain arithmetic shows whether each stage held exactly
//! the right rows.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{Sampling, StageMemory};
use futures::future::join_all;
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event;
use rig::fake::{Fake, Gate, LAYERS, POISON};
use rig::gateway::{next, request};
use rig::local::{Chain, LocalWorker, within_limit};
use rig::realm::Realm;
use rig::wait_for;
use tonic::Code;
use worker::memory::{Pressure, Rung, observation};

/// Tokens that prompts of this file begin with alike.
const ALIKE: usize = 80;

fn greedy(prompt: &[i32], count: usize) -> Vec<i32> {
    Fake::whole(prompt, Sampling::GREEDY, count)
}

/// A prompt that begins as all others of the same text do, and ends on its own.
fn prompt(text: i32, own: i32) -> Vec<i32> {
    let alike = (0..ALIKE as i32).map(|at| (text * 11 + at * at) % 60);
    alike.chain([61, 62 + own, 61]).collect()
}

fn realm(ends: &[u32], prefix_sequences: u32) -> Realm {
    let mut realm = Realm::new(ends);
    realm.runtime.prefix_sequences = prefix_sequences;
    realm
}

async fn metric(chain: &Chain, stage: usize, line: &str) -> f64 {
    chain.workers[stage].agent.metric(line).await
}

/// Returns once what earlier answers left behind is forgotten too.
async fn nothing_under_way(chain: &Chain) {
    wait_for("no step is under way", || async {
        let in_flight = metric(chain, 0, "shardwright_worker_steps_in_flight").await;
        (in_flight == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_chunks_of_a_prompt_fill_the_pipeline() {
    let gate = Gate::default();
    let chain = Chain::start_with(realm(&[2, 4, LAYERS], 0), |stage, fake| {
        if stage == 2 { fake.gated(gate.clone()) } else { fake }
    })
    .await;
    let gateway = chain.gateway(1).await;
    let rows_before = metric(&chain, 1, "shardwright_worker_rows_total").await;
    gate.shut();
    let answer = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.generate(request(1, &prompt(1, 1), 5)).await }
    });
    // The tail computes nothing, yet the stages before it go on: a step for each stage, and one that waits.
    wait_for("four steps are under way", || async {
        let rows = metric(&chain, 1, "shardwright_worker_rows_total").await - rows_before;
        let in_flight = metric(&chain, 0, "shardwright_worker_steps_in_flight").await;
        (rows == 32.0 && in_flight == 4.0).then_some(())
    })
    .await;
    gate.open();
    let reply = within_limit("the answer", answer).await.unwrap().unwrap();
    assert_eq!(reply.tokens, greedy(&prompt(1, 1), 5));
}

async fn reuse_equals_a_cold_run(ends: &[u32]) {
    let chain = Chain::start(realm(ends, 2)).await;
    let gateway = chain.gateway(1).await;
    for (own, cached) in [(1, 0), (2, ALIKE + 1), (3, ALIKE + 1), (2, ALIKE + 2)] {
        let asked = gateway.generate(request(1, &prompt(1, own), 20));
        let reply = within_limit("an answer", asked).await.unwrap();
        assert_eq!(reply.tokens, greedy(&prompt(1, own), 20));
        assert_eq!(reply.finished.cached_tokens as usize, cached);
    }
    // All at once, more than there are sequences and slots for prefixes.
    let all = (0..12).map(|nth| {
        let gateway = gateway.clone();
        async move {
            let prompt = prompt(nth % 4, nth);
            let reply = gateway.generate(request(1, &prompt, 30)).await.unwrap();
            assert_eq!(reply.tokens, greedy(&prompt, 30));
            reply.finished.cached_tokens
        }
    });
    let cached = within_limit("all answers", join_all(all)).await;
    assert!(cached.iter().any(|cached| *cached > 0), "{cached:?}");
    for worker in &chain.workers {
        worker.agent.idle().await;
    }
    assert!(metric(&chain, 0, "shardwright_worker_prefix_hits_total").await >= 3.0);
    assert!(metric(&chain, 0, "shardwright_worker_prefix_reused_tokens_total").await >= 3.0 * ALIKE as f64);
    assert!(metric(&chain, 0, "shardwright_worker_prefix_evictions_total").await > 0.0);
    assert_eq!(metric(&chain, 0, "shardwright_worker_prefixes_kept").await, 2.0);
}

#[tokio::test]
async fn on_one_stage_an_answer_from_a_kept_prefix_is_the_same() {
    reuse_equals_a_cold_run(&[LAYERS]).await;
}

#[tokio::test]
async fn on_three_stages_an_answer_from_a_kept_prefix_is_the_same() {
    reuse_equals_a_cold_run(&[2, 3, LAYERS]).await;
}

#[tokio::test]
async fn failures_and_clients_that_go_leave_the_prefixes_true() {
    let chain = Chain::start_with(realm(&[2, 4, LAYERS], 2), |stage, fake| {
        if stage == 1 { fake.poisoned() } else { fake }
    })
    .await;
    let gateway = &chain.gateway(1).await;
    for round in 0..6 {
        let poisoned = [prompt(round % 2, 1), vec![POISON, 1]].concat();
        let bad = async {
            let status = gateway.generate(request(1, &poisoned, 5)).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{status:?}");
        };
        let going = async {
            let mut stream = gateway.start(request(1, &prompt(round % 2, 3), 60)).await.unwrap();
            // The answer itself may hold the poison.
            let _ = next(&mut stream).await;
        };
        let good = async {
            let prompt = prompt(round % 2, round % 3);
            let expected = greedy(&prompt, 3);
            assert!(!expected.contains(&POISON));
            let reply = gateway.generate(request(1, &prompt, 3)).await.unwrap();
            assert_eq!(reply.tokens, expected, "round {round}");
        };
        let all = Box::pin(async { futures::join!(bad, going, good) });
        within_limit("three outcomes", all).await;
    }
    for worker in &chain.workers {
        worker.agent.idle().await;
    }
}

#[tokio::test]
async fn a_model_that_cannot_share_prefixes_serves_without_them_and_outlives_its_faults() {
    let chain = Chain::start_with(realm(&[LAYERS], 2), |_, fake| fake.recurrent().poisoned()).await;
    let gateway = &chain.gateway(1).await;
    for round in 0..4 {
        let poisoned = [prompt(round % 2, 1), vec![POISON, 1]].concat();
        let bad = async {
            let status = gateway.generate(request(1, &poisoned, 5)).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{status:?}");
        };
        let good = async {
            let prompt = prompt(round % 2, round % 3);
            let expected = greedy(&prompt, 3);
            assert!(!expected.contains(&POISON));
            let reply = gateway.generate(request(1, &prompt, 3)).await.unwrap();
            assert_eq!((reply.tokens, reply.finished.cached_tokens), (expected, 0));
        };
        let both = Box::pin(async { futures::join!(bad, good) });
        within_limit("two outcomes", both).await;
    }
    chain.workers[0].agent.idle().await;
    assert_eq!(metric(&chain, 0, "shardwright_worker_prefixes_kept").await, 0.0);
}

#[tokio::test]
async fn whose_request_failed_is_told_so_even_when_the_pipeline_breaks_over_it() {
    let clinging = Arc::new(AtomicBool::new(false));
    let chain = Chain::start_with(realm(&[3, LAYERS], 0), |stage, fake| match stage {
        0 => fake.clinging(Arc::clone(&clinging)),
        _ => fake.poisoned(),
    })
    .await;
    let gateway = chain.gateway(1).await;
    nothing_under_way(&chain).await;
    clinging.store(true, Ordering::SeqCst);
    // The head cannot undo its part of the step.
    let asked = gateway.generate(request(1, &[3, POISON], 5));
    let status = within_limit("an outcome", asked).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    clinging.store(false, Ordering::SeqCst);
    let reply = within_limit("an answer", gateway.generate_when_ready(request(1, &[3, 4], 5))).await;
    assert_eq!(reply.tokens, greedy(&[3, 4], 5));
}

#[tokio::test]
async fn another_placement_does_not_wait_until_a_step_is_undone() {
    let gate = Gate::default();
    let chain = Chain::start_with(realm(&[3, LAYERS], 0), |stage, fake| match stage {
        0 => fake.gated(gate.clone()),
        _ => fake.poisoned(),
    })
    .await;
    let gateway = chain.gateway(1).await;
    nothing_under_way(&chain).await;
    gate.shut();
    let poisoned = [vec![POISON], prompt(1, 1)].concat();
    let mut asked = Vec::new();
    for (prompt, running) in [(poisoned, 1.0), (prompt(2, 1), 2.0)] {
        let gateway = gateway.clone();
        asked.push(tokio::spawn(
            async move { gateway.generate(request(1, &prompt, 5)).await },
        ));
        wait_for("the sequence runs", || async {
            let active = metric(&chain, 0, "shardwright_worker_active_sequences").await;
            (active == running).then_some(())
        })
        .await;
    }
    // The tail fails the first step, while the second one stays in the head's engine.
    gate.permit(1);
    wait_for("the step has failed", || async {
        let text = chain.workers[0].agent.metrics().await;
        text.contains("outcome=\"Compute\"").then_some(())
    })
    .await;
    let next = chain.endpoint(1).await;
    let head = &chain.workers[0].agent;
    head.install(&chain.realm.envelope(2), Some(&next)).await.unwrap();
    // The other one is not told that anything broke.
    for (asked, code) in asked.into_iter().zip([Code::Internal, Code::FailedPrecondition]) {
        let status = within_limit("an outcome", asked).await.unwrap().unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
    }
    gate.open();
}

#[tokio::test]
async fn prefixes_are_shared_within_a_scope_and_forgotten_with_the_pipeline() {
    let chain = Chain::start(realm(&[3, LAYERS], 2)).await;
    let gateway = chain.gateway(1).await;
    let scoped = |epoch, scope: &[u8]| wire::GenerateRequest {
        prefix_scope: scope.to_vec(),
        ..request(epoch, &prompt(1, 1), 3)
    };
    for (scope, cached) in [(b"a", 0), (b"b", 0), (b"a", ALIKE + 2)] {
        let reply = gateway.generate(scoped(1, scope)).await.unwrap();
        assert_eq!(reply.finished.cached_tokens as usize, cached);
    }
    chain.install(2).await;
    let reply = gateway.generate_when_ready(scoped(2, b"a")).await;
    assert_eq!(
        (reply.finished.cached_tokens, reply.tokens),
        (0, greedy(&prompt(1, 1), 3))
    );
    let status = gateway.generate(scoped(2, &[1; 65])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_request_that_waits_longer_than_it_may_is_told_when_to_come_again() {
    let gate = Gate::default();
    let chain = Chain::start_with(realm(&[LAYERS], 0), |_, fake| fake.gated(gate.clone())).await;
    let gateway = chain.gateway(1).await;
    gate.shut();
    let running = (0..3).map(|nth| gateway.generate(request(1, &prompt(nth, 1), 4)));
    let hasty = async {
        let hasty = wire::GenerateRequest {
            max_wait_ms: 20,
            ..request(1, &prompt(9, 1), 4)
        };
        wait_for("all sequences are taken", || async {
            let active = metric(&chain, 0, "shardwright_worker_active_sequences").await;
            (active == 3.0).then_some(())
        })
        .await;
        // Nothing is answered meanwhile: the driver has to notice by itself.
        let status = gateway.generate(hasty).await.unwrap_err();
        gate.open();
        status
    };
    let (replies, status) = within_limit("all outcomes", async { futures::join!(join_all(running), hasty) }).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("3 sequences run, 261 of 768"), "{status:?}");
    let seconds: u64 = status
        .metadata()
        .get("retry-after")
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&seconds));
    for reply in replies {
        assert_eq!(reply.unwrap().tokens.len(), 4);
    }
}

#[tokio::test]
async fn short_of_memory_the_head_seats_nobody_and_forgets_its_prefixes() {
    let realm = realm(&[LAYERS], 2);
    let (gauge, memory) = observation();
    let worker = LocalWorker::start_observed(realm.config(0, ""), Fake::new(0, LAYERS).loader(), memory).await;
    let workers = vec![worker];
    let chain = Chain { realm, workers };
    chain.install(1).await;
    let gateway = chain.gateway(1).await;
    let patient = request(1, &prompt(1, 1), 3);
    gateway.generate(patient.clone()).await.unwrap();
    let short = Pressure {
        rung: Rung::EvictingPrefixes,
        ..Pressure::default()
    };
    gauge.settle(StageMemory::default(), short);
    wait_for("the prefix is forgotten", || async {
        (metric(&chain, 0, "shardwright_worker_prefixes_kept").await == 0.0).then_some(())
    })
    .await;
    let hasty = wire::GenerateRequest {
        max_wait_ms: 50,
        ..patient.clone()
    };
    let status = within_limit("a refusal", gateway.generate(hasty)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    gauge.settle(StageMemory::default(), Pressure::default());
    let reply = within_limit("an answer", gateway.generate_when_ready(patient)).await;
    assert_eq!(reply.finished.cached_tokens, 0);
}

#[tokio::test]
async fn a_long_prompt_does_not_keep_others_from_their_tokens() {
    let gate = Gate::default();
    let chain = Chain::start_with(realm(&[LAYERS], 0), |_, fake| fake.gated(gate.clone())).await;
    let gateway = chain.gateway(1).await;
    let mut stream = gateway.start(request(1, &[1, 2], 60)).await.unwrap();
    assert!(matches!(next(&mut stream).await.unwrap(), Event::Token(_)));
    gate.shut();
    let long = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.generate(request(1, &prompt(1, 1), 1)).await }
    });
    wait_for("both run", || async {
        let active = metric(&chain, 0, "shardwright_worker_active_sequences").await;
        // It is there, and is seated between two steps.
        if active < 2.0 && metric(&chain, 0, "shardwright_worker_queue_length").await > 0.0 {
            gate.permit(1);
        }
        (active == 2.0).then_some(())
    })
    .await;
    // A token with every step, while the prompt is on its way.
    for _ in 0..10 {
        gate.permit(1);
        let event = within_limit("a token", next(&mut stream)).await.unwrap();
        assert!(matches!(event, Event::Token(_)), "{event:?}");
    }
    assert!(!long.is_finished());
    gate.open();
    let reply = within_limit("the answer", long).await.unwrap().unwrap();
    assert_eq!(reply.tokens, greedy(&prompt(1, 1), 1));
}

#[tokio::test]
async fn the_head_tells_how_busy_each_stage_is() {
    let chain = Chain::start(realm(&[3, LAYERS], 0)).await;
    let gateway = chain.gateway(1).await;
    within_limit("an answer", gateway.generate(request(1, &prompt(1, 1), 100)))
        .await
        .unwrap();
    chain.workers[0].agent.idle().await;
    for stage in ["0", "1"] {
        let of = |name: &str| format!("shardwright_worker_stage_{name}{{stage=\"{stage}\"}}");
        wait_for("the work is accounted for", || async {
            let text = chain.workers[0].agent.metrics().await;
            text.contains(&of("bubble_seconds_total")).then_some(())
        })
        .await;
        assert!(metric(&chain, 0, &of("busy_seconds_total")).await > 0.0);
        assert!(metric(&chain, 0, &of("bubble_seconds_total")).await > 0.0);
    }
    for state in ["used", "reserved", "kept"] {
        let cells = format!("shardwright_worker_kv_cells{{state=\"{state}\"}}");
        assert_eq!(metric(&chain, 0, &cells).await, 0.0);
    }
    assert_eq!(
        metric(&chain, 0, "shardwright_worker_kv_cells{state=\"total\"}").await,
        768.0
    );
    assert_eq!(
        metric(&chain, 0, "shardwright_worker_queue_wait_seconds_count").await,
        2.0
    );
}
