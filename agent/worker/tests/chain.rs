//! Pipelines of workers over real TLS on loopback, computing plain arithmetic: every token shows whether each stage held
//! exactly the right rows.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::sync::atomic::{AtomicUsize, Ordering};

use engine::Sampling;
use futures::future::join_all;
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event;
use rig::fake::{Fake, Gate, LAYERS, POISON};
use rig::gateway::{Gateway, next, request};
use rig::local::{Chain, within_limit};
use rig::realm::Realm;
use rig::wait_for;
use tonic::Code;
use worker::control::{Phase, Request};
use worker::head::schedule::MAX_WAITING;
use worker::run::Exit;

fn greedy(prompt: &[i32], count: usize) -> Vec<i32> {
    Fake::whole(prompt, Sampling::GREEDY, count)
}

fn prompt(seed: i32, length: i32) -> Vec<i32> {
    (0..length).map(|at| (seed * 7 + at * at) % 60).collect()
}

async fn until_error(stream: &mut tonic::Streaming<wire::GenerateEvent>) -> tonic::Status {
    loop {
        if let Err(status) = next(stream).await {
            return status;
        }
    }
}

async fn splits_equal_the_whole(ends: &[u32]) {
    let chain = Chain::start(Realm::new(ends)).await;
    let gateway = chain.gateway(1).await;
    // More requests than sequences: some wait, and take slots that others have used.
    let requests = (1..=8).map(|seed| {
        let gateway = gateway.clone();
        async move {
            let prompt = prompt(seed, seed * 5);
            let sampling = Sampling {
                temperature: 0.8,
                top_p: 0.95,
                top_k: 40,
                seed: seed as u64,
            };
            let sampled = wire::Sampling {
                temperature: 0.8,
                top_p: 0.95,
                top_k: 40,
                seed: seed as u64,
            };
            let drawn = wire::GenerateRequest {
                sampling: Some(sampled),
                ..request(1, &prompt, 40)
            };
            let (best, drawn) = futures::join!(gateway.generate(request(1, &prompt, 40)), gateway.generate(drawn));
            let best = best.unwrap();
            assert_eq!(best.tokens, greedy(&prompt, 40));
            assert_eq!(best.finished.prompt_tokens as usize, prompt.len());
            assert_eq!(best.finished.completion_tokens, 40);
            assert_eq!(drawn.unwrap().tokens, Fake::whole(&prompt, sampling, 40));
        }
    });
    within_limit("all answers", join_all(requests)).await;
    for worker in &chain.workers {
        worker.agent.idle().await;
    }
}

#[tokio::test]
async fn one_stage_equals_the_whole() {
    splits_equal_the_whole(&[LAYERS]).await;
}

#[tokio::test]
async fn two_stages_equal_the_whole() {
    splits_equal_the_whole(&[1, LAYERS]).await;
}

#[tokio::test]
async fn three_stages_equal_the_whole() {
    splits_equal_the_whole(&[2, 3, LAYERS]).await;
}

fn sampled(temperature: f32, top_p: f32) -> wire::GenerateRequest {
    let sampling = Some(wire::Sampling {
        temperature,
        top_p,
        top_k: 0,
        seed: 0,
    });
    wire::GenerateRequest {
        sampling,
        ..request(1, &[1, 2], 4)
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_its_reason() {
    use Code::{FailedPrecondition, InvalidArgument};
    let chain = Chain::start(Realm::new(&[3, LAYERS])).await;
    let gateway = chain.gateway(1).await;
    let other_model = wire::GenerateRequest {
        model_uid: "other".into(),
        ..request(1, &[1], 1)
    };
    let many_stops = wire::GenerateRequest {
        stop_tokens: vec![1; 65],
        ..request(1, &[1], 1)
    };
    let refused = [
        (request(1, &prompt(1, 256), 4), InvalidArgument, "255 tokens or fewer"),
        (request(1, &[], 4), InvalidArgument, "no tokens"),
        (request(1, &[1], 0), InvalidArgument, "max_tokens"),
        (request(1, &[97], 1), InvalidArgument, "vocabulary"),
        (request(1, &[-1], 1), InvalidArgument, "vocabulary"),
        (request(2, &[1], 1), FailedPrecondition, "epoch 2"),
        (other_model, FailedPrecondition, "other"),
        (sampled(-1.0, 1.0), InvalidArgument, "temperature"),
        (sampled(f32::NAN, 1.0), InvalidArgument, "temperature"),
        (sampled(1.0, 0.0), InvalidArgument, "top_p"),
        (many_stops, InvalidArgument, "stop tokens"),
    ];
    for (request, code, part) in refused {
        let status = gateway.generate(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    }
}

#[tokio::test]
async fn a_stop_token_and_the_end_of_the_context_end_an_answer() {
    let chain = Chain::start(Realm::new(&[3, LAYERS])).await;
    let gateway = chain.gateway(1).await;
    let all = greedy(&[1, 2], 9);
    let stopping = wire::GenerateRequest {
        stop_tokens: vec![all[3]],
        ..request(1, &[1, 2], 9)
    };
    let reply = gateway.generate(stopping).await.unwrap();
    assert!(reply.tokens.len() <= 3 && all.starts_with(&reply.tokens));
    assert_eq!(reply.finished.reason(), wire::FinishReason::Stop);
    let to_the_end = gateway.generate(request(1, &prompt(1, 250), 100)).await.unwrap();
    assert_eq!(to_the_end.tokens.len(), 6);
    assert_eq!(to_the_end.finished.reason(), wire::FinishReason::Length);
}

#[tokio::test]
async fn requests_beyond_the_queue_are_turned_away_at_once() {
    let gate = Gate::default();
    let chain = Chain::start_with(Realm::new(&[LAYERS]), |_, fake| fake.gated(gate.clone())).await;
    let gateway = chain.gateway(1).await;
    gate.shut();
    let turned_away = AtomicUsize::new(0);
    // Those that are turned away let the others run.
    let all = (0..120).map(|_| async {
        match gateway.generate(request(1, &[5], 2)).await {
            Ok(reply) => assert_eq!(reply.tokens, greedy(&[5], 2)),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                let count = turned_away.fetch_add(1, Ordering::Relaxed) + 1;
                // What has a sequence, and what waits for one.
                if count == 120 - (3 + MAX_WAITING) {
                    gate.open();
                }
            }
        }
    });
    within_limit("all outcomes", join_all(all)).await;
    assert_eq!(turned_away.into_inner(), 120 - (3 + MAX_WAITING));
}

#[tokio::test]
async fn a_client_that_goes_frees_its_sequence_on_every_stage_and_disturbs_nobody() {
    let gate = Gate::default();
    let chain = Chain::start_with(Realm::new(&[2, 4, LAYERS]), |stage, fake| {
        if stage == 1 { fake.gated(gate.clone()) } else { fake }
    })
    .await;
    let gateway = chain.gateway(1).await;
    let staying = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.generate(request(1, &prompt(2, 9), 100)).await }
    });
    for round in 0..6 {
        gate.shut();
        let going = tokio::spawn({
            let gateway = gateway.clone();
            async move {
                let mut stream = gateway.start(request(1, &prompt(round, 7), 200)).await.unwrap();
                next(&mut stream).await.unwrap();
            }
        });
        gate.permit(6);
        within_limit("the first token", async {
            gate.open();
            going.await
        })
        .await
        .unwrap();
    }
    assert_eq!(
        within_limit("the answer", staying).await.unwrap().unwrap().tokens,
        greedy(&prompt(2, 9), 100)
    );
    for worker in &chain.workers {
        worker.agent.idle().await;
    }
}

#[tokio::test]
async fn a_sequence_that_cannot_be_computed_fails_alone() {
    let chain = Chain::start_with(Realm::new(&[2, 4, LAYERS]), |stage, fake| {
        if stage == 1 { fake.poisoned() } else { fake }
    })
    .await;
    let gateway = chain.gateway(1).await;
    let poisoned = [prompt(3, 11), vec![POISON], prompt(1, 3)].concat();
    let (bad, good, other) = within_limit("three answers", async {
        futures::join!(
            gateway.generate(request(1, &poisoned, 60)),
            gateway.generate(request(1, &prompt(4, 30), 3)),
            gateway.generate(request(1, &prompt(5, 12), 5)),
        )
    })
    .await;
    let status = bad.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("stage 1: Compute"), "{status:?}");
    // Their own tokens could be poisonous; these answers are known to be clean.
    for (reply, prompt, count) in [(good, prompt(4, 30), 3), (other, prompt(5, 12), 5)] {
        let expected = greedy(&prompt, count);
        assert!(!expected.contains(&POISON));
        assert_eq!(reply.unwrap().tokens, expected);
    }
    let metrics = chain.workers[1].agent.metrics().await;
    assert!(
        metrics.contains("shardwright_worker_steps_total{outcome=\"Compute\"}"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_new_epoch_ends_the_streams_of_the_old_and_serves_anew() {
    let gate = Gate::default();
    let chain = Chain::start_with(Realm::new(&[3, LAYERS]), |_, fake| fake.gated(gate.clone())).await;
    let gateway = chain.gateway(1).await;
    gate.shut();
    let mut stream = gateway.start(request(1, &[4], 50)).await.unwrap();
    gate.permit(4);
    assert!(matches!(next(&mut stream).await.unwrap(), Event::Token(_)));
    within_limit("the installation", chain.install(2)).await;
    let status = within_limit("the end of the stream", until_error(&mut stream)).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    gate.open();
    let reply = gateway.generate_when_ready(request(2, &prompt(1, 9), 20)).await;
    assert_eq!(reply.tokens, greedy(&prompt(1, 9), 20));
    assert_eq!(
        gateway.generate(request(1, &[1], 1)).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn a_lost_stage_ends_its_streams_with_an_error_and_its_successor_serves_again() {
    let gate = Gate::default();
    let mut chain = Chain::start_with(Realm::new(&[2, 4, LAYERS]), |stage, fake| {
        if stage == 2 { fake.gated(gate.clone()) } else { fake }
    })
    .await;
    let gateway = chain.gateway(1).await;
    for lost in [2, 1] {
        gate.shut();
        let mut stream = if lost == 2 {
            let mut stream = gateway.start(request(1, &[4], 50)).await.unwrap();
            gate.permit(1);
            assert!(matches!(next(&mut stream).await.unwrap(), Event::Token(_)));
            Some(stream)
        } else {
            None
        };
        chain.workers[lost].kill();
        if let Some(stream) = &mut stream {
            let status = within_limit("an error", until_error(stream)).await;
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(status.message().contains("stage 2"), "{status:?}");
        }
        gate.open();
        wait_for("requests are refused", || async {
            let refused = gateway.generate(request(1, &[1], 1)).await.err()?;
            (refused.code() == Code::Unavailable).then_some(())
        })
        .await;
        chain.replace(lost, &format!("b{lost}")).await;
        chain.install(1).await;
        let reply = gateway.generate_when_ready(request(1, &prompt(6, 20), 30)).await;
        assert_eq!(reply.tokens, greedy(&prompt(6, 20), 30));
    }
}

#[tokio::test]
async fn a_draining_worker_finishes_what_runs_and_takes_nothing_new() {
    let gate = Gate::default();
    let chain = Chain::start_with(Realm::new(&[LAYERS]), |_, fake| fake.gated(gate.clone())).await;
    let gateway = chain.gateway(1).await;
    gate.shut();
    let running = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.generate(request(1, &[4], 30)).await }
    });
    gate.permit(1);
    let worker = &chain.workers[0];
    wait_for("the request runs", || async {
        (worker.agent.status().await?.active_sequences == 1).then_some(())
    })
    .await;
    worker.agent.request(&Request::Drain).await.unwrap();
    wait_for("the drain", || async {
        (worker.agent.status().await?.phase == Phase::Draining).then_some(())
    })
    .await;
    // While a step is under way: with the last one the worker ends, and its connections with it.
    let refused = within_limit("a refusal", gateway.generate(request(1, &[1], 1))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    gate.open();
    assert_eq!(
        within_limit("the answer", running).await.unwrap().unwrap().tokens,
        greedy(&[4], 30)
    );
    assert_eq!(worker.exited().await, Exit::Drained);
}

#[tokio::test]
async fn the_metrics_tell_what_happened() {
    let chain = Chain::start(Realm::new(&[3, LAYERS])).await;
    let gateway: Gateway = chain.gateway(1).await;
    gateway.generate(request(1, &[7, 8, 9], 10)).await.unwrap();
    let (head, tail) = (
        chain.workers[0].agent.metrics().await,
        chain.workers[1].agent.metrics().await,
    );
    assert!(head.contains("shardwright_worker_tokens_total 11"), "{head}");
    assert!(tail.contains("shardwright_worker_rows_total 13"), "{tail}");
    for name in [
        "steps_total",
        "compute_seconds_sum",
        "hop_seconds_count",
        "active_sequences",
        "queue_length",
    ] {
        assert!(head.contains(&format!("shardwright_worker_{name}")), "{name} in {head}");
    }
}

#[tokio::test]
async fn while_the_engine_is_still_at_a_step_of_an_older_placement_requests_are_refused_at_once() {
    let gate = Gate::default();
    let gated = gate.clone();
    let chain = Chain::start_with(Realm::new(&[LAYERS]), move |_, fake| fake.gated(gated.clone())).await;
    let gateway = chain.gateway(1).await;
    gate.shut();
    let mut stream = gateway.start(request(1, &[1], 4)).await.unwrap();
    gate.permit(1);
    within_limit("a token", next(&mut stream)).await.unwrap();

    chain.install(2).await;
    let status = within_limit("the end", until_error(&mut stream)).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let status = within_limit("an answer", gateway.generate(request(2, &[1], 1))).await;
    assert_eq!(status.unwrap_err().code(), Code::Unavailable);
    gate.open();
    gateway.ready(2).await;
}

#[tokio::test]
async fn a_head_that_dials_a_silent_address_goes_on_as_soon_as_it_learns_a_better_one() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = silent.local_addr().unwrap().to_string();
    let chain = Chain::start(Realm::new(&[3, LAYERS])).await;
    chain.gateway(1).await;
    let (envelope, head) = (chain.realm.envelope(2), &chain.workers[0].agent);
    chain.workers[1].agent.install(&envelope, None).await.unwrap();
    head.install(&envelope, Some(&nowhere)).await.unwrap();
    within_limit("the head dials", silent.accept()).await.unwrap();

    head.install(&envelope, Some(&chain.endpoint(1).await)).await.unwrap();
    let gateway = Gateway::dial(&chain.realm, 0, &chain.endpoint(0).await).await;
    wait_for("the pipeline stands", || async {
        let status = match gateway.generate(request(2, &[1], 1)).await {
            Ok(_) => return Some(()),
            Err(status) => status,
        };
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        // What it would say had it waited for the silent one to the end.
        assert!(!status.message().contains("cannot be reached"), "{status:?}");
        None
    })
    .await;
}
