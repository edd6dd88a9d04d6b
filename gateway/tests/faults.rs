//! What users see when something else fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use fakes::client::Client;
use fakes::head::{FakeHead, Last, RETRY_AFTER_S, Script};
use fakes::{MODEL, MODEL_UID, STREAMS_PER_KEY, World, until};
use identity::Role;
use serde_json::json;
use tonic::Code;

#[tokio::test]
async fn a_model_that_is_not_ready_says_why_and_when_to_ask_again() {
    let world = World::start().await;
    let mut route = world.operator.route(&world.trust, MODEL, 2, &world.head);
    route.ready = false;
    route.message = "stage 1 of 2 is loading".into();
    world.operator.publish(vec![route]);
    until("the new route", || async {
        world.client.chat("Hi").await.status == 503
    })
    .await;
    let answer = world.client.chat("Hi").await;
    assert_eq!(answer.error("code"), "model_not_ready");
    assert!(
        answer.error("message").contains("stage 1 of 2 is loading"),
        "{}",
        answer.body
    );
    assert!(
        answer
            .header("retry-after")
            .is_some_and(|seconds| seconds.parse::<u32>().is_ok())
    );
    assert_eq!(
        world.client.get("/v1/models/chat").await.status,
        200,
        "it is listed all the same"
    );
}

#[tokio::test]
async fn before_the_first_table_everything_is_503_and_the_probe_says_so() {
    let world = World::start_unready().await;
    let answer = world.client.get("/v1/models").await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
    let probe = world.admin().get("/readyz").await;
    assert_eq!(probe.status, 503);
    assert!(probe.body.contains("no routes"), "{}", probe.body);
    assert_eq!(world.admin().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_full_head_is_429_with_a_time_to_ask_again() {
    let world = World::start().await;
    world.head.expect(Script::Refuse(Code::ResourceExhausted));
    let answer = world.client.chat("Hi").await;
    assert_eq!((answer.status, answer.error("code").as_str()), (429, "queue_full"));
    assert_eq!(answer.header("retry-after"), Some(RETRY_AFTER_S));
}

#[tokio::test]
async fn a_request_that_found_no_place_in_time_is_429_even_when_it_is_streamed() {
    let world = World::start().await;
    for stream in [true, false] {
        world.head.expect(Script::then("", Last::Fail(Code::ResourceExhausted)));
        let answer = world.client.ask(json!({ "stream": stream })).await;
        assert_eq!((answer.status, answer.error("code").as_str()), (429, "queue_full"));
        assert_eq!(answer.error("type"), "rate_limit_exceeded");
        assert!(answer.error("message").contains("as told"), "{}", answer.body);
        assert_eq!(answer.header("retry-after"), Some(RETRY_AFTER_S));
    }
}

#[tokio::test]
async fn a_key_has_so_many_answers_in_progress_and_no_more() {
    let world = World::start().await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_PER_KEY {
        world.head.expect(Script::then("a", Last::Wait));
        open.push(world.client.ask_open(json!({ "stream": true })).await);
    }
    let refused = world.client.chat("Hi").await;
    assert_eq!(
        (refused.status, refused.error("code").as_str()),
        (429, "concurrency_limit")
    );
    assert!(
        refused.error("message").contains(&STREAMS_PER_KEY.to_string()),
        "{}",
        refused.body
    );
    assert!(refused.header("retry-after").is_some());
    assert_eq!(
        world.client.get("/v1/models").await.status,
        200,
        "only answers are counted"
    );
    drop(open.pop());
    until("a place", || async {
        world.head.expect(Script::text("ok"));
        world.client.chat("Hi").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn an_answer_ends_when_its_client_said_it_must() {
    let world = World::start().await;
    let authorization = format!("Bearer {}", fakes::KEY);
    // One that is streamed has begun by then, on a machine that has much else to do.
    for (stream, status, timeout_ms) in [(true, 200, "10000"), (false, 504, "1500")] {
        world.head.expect(Script::then("begun", Last::Wait));
        let headers = [
            ("authorization", authorization.as_str()),
            ("x-request-timeout-ms", timeout_ms),
        ];
        let body = fakes::client::body(json!({ "stream": stream }));
        let asked = world
            .client
            .open("POST", "/v1/chat/completions", &headers, body.as_bytes());
        let answer = asked.await.finish().await;
        assert_eq!(answer.status, status);
        let error = match stream {
            true => answer.chunks().pop().unwrap(),
            false => answer.json(),
        };
        assert_eq!(error["error"]["code"], "deadline_exceeded", "{}", answer.body);
        until("a cancelled request", || async { world.head.open() == 0 }).await;
    }
    let headers = [("authorization", authorization.as_str()), ("x-max-wait-ms", "soon")];
    let body = fakes::client::body(json!({}));
    let asked = world
        .client
        .open("POST", "/v1/chat/completions", &headers, body.as_bytes());
    let answer = asked.await.finish().await;
    assert_eq!((answer.status, answer.error("param").as_str()), (400, "x-max-wait-ms"));
}

#[tokio::test]
async fn a_template_without_measure_ends_its_own_process_and_nothing_else() {
    let world = World::start().await;
    for _ in 0..2 {
        let answer = world.client.chat("DOUBLE").await;
        assert_eq!((answer.status, answer.error("param").as_str()), (400, "messages"));
        assert!(answer.error("message").contains("more memory"), "{}", answer.body);
        world.head.expect(Script::text("still here"));
        assert_eq!(world.client.chat("Hi").await.status, 200);
    }
}

#[tokio::test]
async fn a_head_that_is_lost_before_the_first_token_is_replaced_unnoticed() {
    let world = World::start().await;
    for loss in [
        Script::Refuse(Code::Unavailable),
        Script::Refuse(Code::FailedPrecondition),
        Script::then("", Last::Fail(Code::Unavailable)),
    ] {
        world.head.expect(loss);
        world.head.expect(Script::text("after all"));
        let answer = world.client.ask(json!({ "stream": true })).await;
        assert_eq!((answer.status, answer.streamed_text().as_str()), (200, "after all"));
    }
}

#[tokio::test]
async fn a_request_follows_its_model_to_another_head_and_epoch() {
    let world = World::start().await;
    let other = FakeHead::start(&world.trust, "node-b").await;
    world.head.kill();
    other.expect(Script::text("from node-b"));
    let asked = world.client.chat("Hi");
    let moved = async {
        world
            .operator
            .publish(vec![world.operator.route(&world.trust, MODEL, 2, &other)])
    };
    let (answer, ()) = tokio::join!(asked, moved);
    assert_eq!(
        answer.json()["choices"][0]["message"]["content"],
        "from node-b",
        "{}",
        answer.body
    );
    assert_eq!(other.requests()[0].epoch, 2);
}

#[tokio::test]
async fn a_head_that_stays_lost_is_a_typed_error_in_the_end() {
    let world = World::start().await;
    world.head.kill();
    let answer = world.client.chat("Hi").await;
    assert_eq!((answer.status, answer.error("code").as_str()), (503, "workers_lost"));
    let address = world.head.address.to_string();
    assert!(
        !answer.body.contains(&address),
        "addresses stay inside: {}",
        answer.body
    );
}

#[tokio::test]
async fn a_head_without_the_identity_of_the_placement_gets_no_prompt() {
    let world = World::start().await;
    let role = Role::Worker {
        node: "node-z".into(),
        model_uid: MODEL_UID.into(),
    };
    let mut impostor = FakeHead::start_as(&world.trust, "node-z", role).await;
    impostor.node = "node-b".into();
    impostor.expect(Script::text("stolen"));
    world
        .operator
        .publish(vec![world.operator.route(&world.trust, MODEL, 2, &impostor)]);
    until("the new route", || async {
        world.head.forget();
        world.client.chat("Hi").await.status == 503
    })
    .await;
    assert!(impostor.requests().is_empty());
}

#[tokio::test]
async fn a_placement_signed_by_someone_else_changes_nothing() {
    let world = World::start().await;
    let stranger = FakeHead::start(&world.trust, "node-b").await;
    let mut route = world.operator.route(&world.trust, "other", 1, &stranger);
    route.model_uid = "uid-2".into();
    let forged = identity::PlacementSigner::generate().unwrap();
    let mut placement = world.operator.route(&world.trust, MODEL, 9, &stranger);
    if let Some(envelope) = &mut placement.envelope {
        envelope.signature = forged.sign(&proto::placement::v1::Placement::default()).signature;
    }
    // The second model only shows when the table has arrived.
    world.operator.publish(vec![placement, route]);
    until("the new table", || async {
        world.client.get("/v1/models/other").await.status == 200
    })
    .await;
    world.head.expect(Script::text("still here"));
    assert_eq!(
        world.client.chat("Hi").await.json()["choices"][0]["message"]["content"],
        "still here"
    );
    assert!(stranger.requests().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_at_the_workers() {
    let world = World::start().await;
    for stream in [true, false] {
        world.head.expect(Script::then("abc", Last::Wait));
        let request = fakes::client::body(json!({ "stream": stream }));
        let raw = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{request}",
            fakes::KEY,
            request.len()
        );
        let asking = world.client.raw(raw.as_bytes());
        let begun = until("a begun request", || async { world.head.open() == 1 });
        if stream {
            let (mut open, ()) = tokio::join!(asking, begun);
            open.wait_for("\"c\"").await;
        } else {
            // Its answer would come only at the end: the connection is dropped while it is waited for.
            tokio::select! {
                _ = asking => panic!("an answer before its end"),
                () = begun => {}
            }
        }
        until("a cancelled request", || async { world.head.open() == 0 }).await;
    }
}

#[tokio::test]
async fn without_its_operator_a_gateway_serves_on_and_even_starts() {
    let mut world = World::start().await;
    world.operator.kill();
    until("the loss to be noticed", || async {
        world
            .admin()
            .get("/metrics")
            .await
            .body
            .contains("shardwright_gateway_operator_connected 0")
    })
    .await;
    world.head.expect(Script::text("alone"));
    assert_eq!(world.client.chat("Hi").await.status, 200);
    world.restart_gateway().await;
    world.ready().await;
    assert_eq!(world.admin().get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_tokeniser_that_dies_fails_one_request_and_comes_back() {
    let world = World::start().await;
    let answer = world.client.chat("CRASH").await;
    assert_eq!(
        (answer.status, answer.header("retry-after").is_some()),
        (503, true),
        "{}",
        answer.body
    );
    assert!(answer.error("message").contains("tokeniser"), "{}", answer.body);
    world.ready().await;
    let metrics = world.admin().get("/metrics").await.body;
    assert!(
        metrics.contains("shardwright_gateway_tokenizer_restarts_total 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_vocabulary_with_the_wrong_digest_is_never_used() {
    let world = World::start_unready().await;
    world.operator.corrupt_vocabulary();
    world.serve_model(1);
    until("the reason", || async {
        world
            .client
            .chat("Hi")
            .await
            .error("message")
            .contains("could not be fetched")
    })
    .await;
}

#[tokio::test]
async fn a_vocabulary_that_is_no_file_of_its_kind_is_never_used_and_that_is_said() {
    let mut world = World::start_unready().await;
    world
        .operator
        .use_vocabulary(b"GGUF, and nothing that follows".to_vec());
    world.serve_model(1);
    until("the reason", || async {
        world
            .client
            .chat("Hi")
            .await
            .error("message")
            .contains("its file cannot be read")
    })
    .await;
}

#[tokio::test]
async fn a_model_without_a_chat_template_says_so_and_completes_text() {
    let mut world = World::start_unready().await;
    world.operator.use_vocabulary(fakes::operator::vocabulary(None));
    world.serve_model(1);
    until("a ready vocabulary", || async {
        world.client.chat("Hi").await.status == 400
    })
    .await;
    let answer = world.client.chat("Hi").await;
    assert!(answer.error("message").contains("no chat template"), "{}", answer.body);
    world.head.expect(Script::text(" upon"));
    let request = json!({ "model": MODEL, "prompt": "Once" }).to_string();
    assert_eq!(
        world.client.post("/v1/completions", request.as_bytes()).await.status,
        200
    );
}

#[tokio::test]
async fn a_gateway_that_ends_lets_answers_finish_and_takes_no_new_ones() {
    let mut world = World::start().await;
    world.head.expect(Script::then("begun ", Last::Wait));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    open.wait_for("\"n\"").await;
    world.gateway.stop();
    until("a closed port", || async {
        tokio::net::TcpStream::connect(world.gateway.addresses.user)
            .await
            .is_err()
    })
    .await;
    assert_eq!(world.admin().get("/readyz").await.status, 503);
    world.head.release();
    let answer = open.finish().await;
    assert_eq!(answer.events().last().unwrap(), "[DONE]");
    world.gateway.ended().await;
}

#[tokio::test]
async fn strangers_to_http_get_no_further() {
    let world = World::start().await;
    let mut plain = tokio::net::TcpStream::connect(world.gateway.addresses.user)
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /v1/models HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "no plaintext answer");
    let stranger = identity::Authority::generate("shardwright", std::time::SystemTime::now()).unwrap();
    let client = Client::new(world.gateway.addresses.user, &stranger.bundle_pem());
    assert!(
        tokio::spawn(async move { client.get("/v1/models").await })
            .await
            .is_err(),
        "the handshake fails"
    );
    let garbage = world.client.raw(b"NONSENSE\r\n\r\n").await;
    assert_eq!(garbage.status, 400);
}
