//! The gateway as its users meet it: real TLS, a real child process, an operator and a head that do as they are told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use fakes::client::{Answer, body};
use fakes::head::{CACHED_TOKENS, Last, Script};
use fakes::{CONTEXT_LENGTH, KEY, World};
use gateway::args::Args;
use gateway::run::RunError;
use proto::shard::v1::FinishReason;
use serde_json::{Value, json};

#[tokio::test]
async fn a_port_that_is_taken_ends_the_start_and_flag_and_address_are_named() {
    let world = World::start_unready().await;
    let taken = world.gateway.addresses;
    let users = Args {
        listen: taken.user,
        ..world.args()
    };
    let probes = Args {
        admin_listen: taken.admin,
        ..world.args()
    };
    for (args, named) in [
        (users, format!("--listen {}", taken.user)),
        (probes, format!("--admin-listen {}", taken.admin)),
    ] {
        let refused = gateway::run::run(args, std::future::pending(), |_| ()).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, RunError::System { .. }), "{error}");
        let told = format!("{named}: Address already in use");
        assert!(error.to_string().starts_with(&told), "{error}");
    }
}

#[tokio::test]
async fn models_are_listed_and_found_by_either_id() {
    let world = World::start().await;
    let listed = world.client.get("/v1/models").await;
    let expected = json!({ "id": "chat", "object": "model", "created": 1_700_000_000, "owned_by": "default" });
    assert_eq!(listed.json(), json!({ "object": "list", "data": [expected] }));
    for id in ["chat", "default/chat", "default%2Fchat"] {
        assert_eq!(
            world.client.get(&format!("/v1/models/{id}")).await.json(),
            expected,
            "{id}"
        );
    }
    let unknown = world.client.get("/v1/models/nothing").await;
    assert_eq!(
        (unknown.status, unknown.error("code").as_str()),
        (404, "model_not_found")
    );
}

#[tokio::test]
async fn a_chat_is_templated_tokenised_asked_and_counted() {
    let world = World::start().await;
    world.head.expect(Script::text("Paris, naïvely 🙂."));
    let answer = world
        .client
        .ask(json!({ "temperature": 0.5, "top_p": 0.9, "seed": 42 }))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let whole = answer.json();
    assert_eq!(
        whole["choices"][0]["message"],
        json!({ "role": "assistant", "content": "Paris, naïvely 🙂.", "refusal": null })
    );
    assert_eq!(
        (&whole["choices"][0]["finish_reason"], &whole["model"]),
        (&json!("stop"), &json!("chat"))
    );

    let asked = &world.head.requests()[0];
    // The template wrote BOS, so none was added; special tokens are tokens and not text.
    let mut prompt = vec![256, 257];
    prompt.extend(b"user\nHi".map(i32::from));
    prompt.extend([258, 10, 257]);
    prompt.extend(b"assistant\n".map(i32::from));
    assert_eq!(asked.prompt_tokens, prompt);
    assert_eq!((asked.epoch, asked.stop_tokens.as_slice()), (1, &[258][..]));
    assert_eq!(asked.max_tokens as usize, CONTEXT_LENGTH as usize - prompt.len());
    assert!(
        asked.max_wait_ms > 20_000 && asked.max_wait_ms <= 30_000,
        "{}",
        asked.max_wait_ms
    );
    assert_eq!(asked.prefix_scope.len(), 16);
    let sampling = asked.sampling.unwrap();
    assert_eq!((sampling.temperature, sampling.top_p, sampling.seed), (0.5, 0.9, 42));
    let (prompt, emitted) = (prompt.len(), "Paris, naïvely 🙂.".len());
    let usage = json!({
        "prompt_tokens": prompt,
        "completion_tokens": emitted,
        "total_tokens": prompt + emitted,
        "prompt_tokens_details": { "cached_tokens": CACHED_TOKENS },
    });
    assert_eq!(whole["usage"], usage);
}

#[tokio::test]
async fn a_streamed_chat_comes_in_chunks_of_one_kind_and_ends_with_its_usage() {
    let world = World::start().await;
    world.head.expect(Script::text("Grüße 🙂"));
    let fields = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let answer = world.client.ask(fields).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(answer.streamed_text(), "Grüße 🙂");
    assert_eq!(answer.events().last().unwrap(), "[DONE]");
    let chunks = answer.chunks();
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    let same = |chunk: &Value| ["id", "created", "model", "object"].map(|name| chunk[name].clone());
    assert!(chunks.iter().all(|chunk| same(chunk) == same(&chunks[0])));
    let (last, before) = chunks.split_last().unwrap();
    assert!(
        before
            .iter()
            .all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some())
    );
    assert_eq!(
        (&last["choices"], &last["usage"]["completion_tokens"]),
        (&json!([]), &json!("Grüße 🙂".len()))
    );
    assert_eq!(before.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stop_string_over_several_tokens_ends_the_answer_and_the_work() {
    let world = World::start().await;
    world.head.expect(Script::then("One. Two. Three.", Last::Wait));
    let answer = world.client.ask(json!({ "stop": ["Four", "o. T"] })).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "One. Tw");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    fakes::until("a cancelled request", || async { world.head.open() == 0 }).await;
}

#[tokio::test]
async fn an_answer_cut_by_its_limit_says_so() {
    let world = World::start().await;
    world
        .head
        .expect(Script::then("abcdef", Last::Finish(FinishReason::Length)));
    let answer = world.client.ask(json!({ "max_tokens": 3 })).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "abc");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn a_stop_string_that_the_very_end_completes_is_a_stop() {
    let world = World::start().await;
    // The first byte of a character that never comes: it is shown as U+FFFD, and only at the end.
    let cut_short = [&b"ab"[..], &[0xC3]].concat();
    world
        .head
        .expect(Script::Send(cut_short, Last::Finish(FinishReason::Length)));
    let answer = world.client.ask(json!({ "stop": "b\u{FFFD}" })).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "a");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn prefixes_are_shared_within_a_key_and_with_no_other() {
    let world = World::start().await;
    std::fs::write(world.keys_file(), format!("{KEY}\nanother\n")).unwrap();
    let ask = async |key: &str| {
        world.head.expect(Script::text("ok"));
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let body = body(json!({}));
        let asked = world
            .client
            .open("POST", "/v1/chat/completions", &headers, body.as_bytes());
        asked.await.finish().await.status
    };
    fakes::until("the second key", || async { ask("another").await == 200 }).await;
    world.head.forget();
    for key in [KEY, KEY, "another"] {
        assert_eq!(ask(key).await, 200);
    }
    let scopes: Vec<Vec<u8>> = world
        .head
        .requests()
        .into_iter()
        .map(|asked| asked.prefix_scope)
        .collect();
    assert_eq!(scopes[0], scopes[1]);
    assert_ne!(scopes[0], scopes[2]);
}

#[tokio::test]
async fn text_completions_go_without_a_template_and_with_one_bos() {
    let world = World::start().await;
    world.head.expect(Script::text(" more"));
    world.head.expect(Script::text(" more"));
    let request = json!({ "model": "default/chat", "prompt": "Once" });
    let answer = world
        .client
        .post("/v1/completions", request.to_string().as_bytes())
        .await
        .json();
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["text"]),
        (&json!("text_completion"), &json!(" more"))
    );
    assert_eq!(world.head.requests()[0].prompt_tokens, [256, 79, 110, 99, 101]);
    let request = json!({ "model": "default/chat", "prompt": "Once", "stream": true });
    let streamed = world
        .client
        .post("/v1/completions", request.to_string().as_bytes())
        .await;
    let text: String = streamed
        .chunks()
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(text, " more");
}

#[tokio::test]
async fn nobody_asks_without_a_key_of_the_file_as_it_is_now() {
    let world = World::start().await;
    let ask = async |header: Option<&str>| -> Answer {
        let headers: Vec<(&str, &str)> = header.map(|value| ("authorization", value)).into_iter().collect();
        world
            .client
            .open("GET", "/v1/models", &headers, b"")
            .await
            .finish()
            .await
    };
    let bearer = format!("Bearer {KEY}");
    let long = format!("Bearer {}", "x".repeat(8000));
    for wrong in [
        None,
        Some("Bearer wrong"),
        Some(KEY),
        Some("Basic x"),
        Some("Bearer "),
        Some(&long),
    ] {
        let answer = ask(wrong).await;
        assert_eq!(
            (answer.status, answer.error("code").as_str()),
            (401, "invalid_api_key"),
            "{wrong:?}"
        );
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(ask(Some(&bearer)).await.status, 200);
    std::fs::write(world.keys_file(), "another\n").unwrap();
    fakes::until("the changed keys", || async { ask(Some(&bearer)).await.status == 401 }).await;
    assert_eq!(ask(Some("bearer another")).await.status, 200);
}

#[tokio::test]
async fn wrong_requests_are_answered_each_by_its_own_error() {
    let world = World::start().await;
    let post = async |body: &str| world.client.post("/v1/chat/completions", body.as_bytes()).await;
    for (request, status, param, code) in [
        ("{\"model\":".to_owned(), 400, "", "invalid_json"),
        ("[]".to_owned(), 400, "", "invalid_json"),
        (String::new(), 400, "", "invalid_json"),
        (body(json!({ "model": "nothing" })), 404, "model", "model_not_found"),
        (body(json!({ "n": 1_000_000_000_000_u64 })), 400, "n", ""),
        (body(json!({ "tools": [{}] })), 400, "tools", "unsupported_parameter"),
        (body(json!({ "temperature": 9 })), 400, "temperature", ""),
        (body(json!({ "messages": [] })), 400, "messages", ""),
        (
            body(json!({ "messages": [{ "role": "user", "content": "RAISE" }] })),
            400,
            "messages",
            "",
        ),
        (
            body(json!({ "messages": [{ "role": "user", "content": "REFUSE" }] })),
            400,
            "messages",
            "",
        ),
    ] {
        let answer = post(&request).await;
        assert_eq!(answer.status, status, "{request}: {}", answer.body);
        assert_eq!(
            (answer.error("param").as_str(), answer.error("code").as_str()),
            (param, code),
            "{request}"
        );
    }
    let raised = post(&body(json!({ "messages": [{ "role": "user", "content": "RAISE" }] }))).await;
    assert!(
        raised.error("message").contains("this template will not have it"),
        "{}",
        raised.body
    );
    let undecodable = world.client.get("/v1/models/%FF").await;
    assert_eq!(
        (undecodable.status, undecodable.error("code").as_str()),
        (400, "unknown_url")
    );
    let nowhere = world.client.get("/v1/embeddings").await;
    assert_eq!((nowhere.status, nowhere.error("code").as_str()), (404, "unknown_url"));
    let wrong_method = world.client.get("/v1/chat/completions").await;
    assert_eq!(
        (wrong_method.status, wrong_method.error("code").as_str()),
        (405, "unknown_url")
    );
    assert!(world.head.requests().is_empty(), "none of it reached the head");
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_names_both_numbers() {
    let world = World::start().await;
    for length in [190, 5_000, 2_000_000] {
        let answer = world.client.chat(&"x".repeat(length)).await;
        assert_eq!(
            (answer.status, answer.error("code").as_str()),
            (400, "context_length_exceeded")
        );
        let message = answer.error("message");
        let tokens = (length + 21).to_string();
        assert!(message.contains("200 tokens"), "{message}");
        assert!(message.contains(&tokens) || message.contains("at least"), "{message}");
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_and_read_to_its_end() {
    let world = World::start().await;
    let answer = world.client.chat(&"x".repeat(5 * 1024 * 1024)).await;
    assert_eq!(
        (answer.status, answer.error("code").as_str()),
        (413, "request_too_large")
    );
}

#[tokio::test]
async fn a_request_id_is_kept_when_harmless_and_made_when_not() {
    let world = World::start().await;
    let bearer = format!("Bearer {KEY}");
    for (offered, kept) in [("job-17.a", true), ("a b", false), ("\"x\"", false)] {
        let headers = [("authorization", bearer.as_str()), ("x-request-id", offered)];
        let answer = world
            .client
            .open("GET", "/v1/models", &headers, b"")
            .await
            .finish()
            .await;
        assert_eq!(answer.header("x-request-id") == Some(offered), kept, "{offered}");
        assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()));
    }
}

#[tokio::test]
async fn probes_and_metrics_have_a_port_of_their_own() {
    let world = World::start().await;
    world.head.expect(Script::text("abc"));
    assert_eq!(world.client.chat("Hi").await.status, 200);
    assert_eq!(world.client.get("/nothing").await.status, 404);
    let admin = world.admin();
    assert_eq!(
        (admin.get("/healthz").await.status, admin.get("/readyz").await.status),
        (200, 200)
    );
    let active = "shardwright_gateway_active_streams 0";
    fakes::until("the end of what was answered", || async {
        admin.get("/metrics").await.body.contains(active)
    })
    .await;
    let metrics = admin.get("/metrics").await.body;
    for line in [
        "shardwright_gateway_requests_total{code=\"404\"} 1",
        "shardwright_gateway_operator_connected 1",
        "shardwright_gateway_time_to_first_token_seconds_bucket{le=\"0.001\"}",
        "shardwright_gateway_inter_token_seconds_count",
        "shardwright_gateway_request_duration_seconds_count",
        "shardwright_gateway_prompt_tokens_total",
        "shardwright_gateway_completion_tokens_total",
    ] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    assert_eq!(world.client.get("/metrics").await.status, 404, "not on the users' port");
}
