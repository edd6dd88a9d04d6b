//! Answers outlive the workers that began them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use fakes::head::{FakeHead, Last, Script};
use fakes::{MODEL, World};
use gateway::generate::BARREN_RESUMES_MAX;
use proto::shard::v1::FinishReason;
use serde_json::{Value, json};
use tonic::Code;

fn done(events: &[String]) -> bool {
    events.last().is_some_and(|last| last == "[DONE]")
}

#[tokio::test]
async fn an_answer_goes_on_after_the_loss_of_its_head_and_nothing_is_changed_or_said_twice() {
    let world = World::start().await;
    for loss in [
        Code::Unavailable,
        Code::FailedPrecondition,
        Code::Internal,
        Code::ResourceExhausted,
    ] {
        world.head.forget();
        world.head.expect(Script::then("half an ", Last::Fail(loss)));
        world.head.expect(Script::text("answer"));
        let fields =
            json!({ "stream": true, "temperature": 0.7, "seed": 5, "stream_options": { "include_usage": true } });
        let answer = world.client.ask(fields).await;
        assert_eq!(
            (answer.status, answer.streamed_text().as_str()),
            (200, "half an answer")
        );
        assert!(done(&answer.events()), "{}", answer.body);
        let [first, second] = &world.head.requests()[..] else {
            panic!("it was asked {} times", world.head.requests().len());
        };
        let emitted: Vec<i32> = b"half an ".iter().map(|byte| i32::from(*byte)).collect();
        assert_eq!(second.prompt_tokens, [first.prompt_tokens.clone(), emitted].concat());
        assert_eq!(second.max_tokens, first.max_tokens - 8);
        assert_eq!(
            (second.sampling, second.request_id.as_str()),
            (first.sampling, first.request_id.as_str())
        );
        assert_eq!((first.resumed, second.resumed), (false, true));
        let usage = &answer.chunks().pop().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], 14, "{usage}");
        assert_eq!(usage["prompt_tokens"], first.prompt_tokens.len(), "{usage}");
    }
    let metrics = world.admin().get("/metrics").await.body;
    assert!(
        metrics.contains("shardwright_gateway_resumed_streams_total 4"),
        "{metrics}"
    );
    assert!(
        metrics.contains("shardwright_gateway_standstill_seconds_count 4"),
        "{metrics}"
    );
    assert!(
        metrics.contains("shardwright_gateway_interrupted_streams_total 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_is_whole_all_the_same() {
    let world = World::start().await;
    world.head.expect(Script::then("half ", Last::Fail(Code::Unavailable)));
    world.head.expect(Script::then("an ans", Last::Fail(Code::Unavailable)));
    world.head.expect(Script::text("wer"));
    let answer = world.client.ask(json!({})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "half an answer");
}

#[tokio::test]
async fn an_answer_follows_its_model_to_another_head_and_epoch_over_a_time_without_any() {
    let world = World::start().await;
    let other = FakeHead::start(&world.trust, "node-b").await;
    world.head.expect(Script::then("half an answ", Last::Wait));
    other.expect(Script::text("er"));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    // All that the first one says.
    open.wait_for("\"w\"").await;
    let mut route = world.operator.route(&world.trust, MODEL, 2, &other);
    route.ready = false;
    world.operator.publish(vec![route]);
    world.head.kill();
    fakes::until("a time without any", || async {
        world.client.chat("Hi").await.error("code") == "model_not_ready"
    })
    .await;
    world
        .operator
        .publish(vec![world.operator.route(&world.trust, MODEL, 3, &other)]);
    let answer = open.finish().await;
    assert_eq!(answer.streamed_text(), "half an answer", "{}", answer.body);
    assert_eq!(other.requests()[0].epoch, 3);
}

#[tokio::test]
async fn a_head_that_says_nothing_is_left_as_soon_as_another_has_its_place() {
    let world = World::start().await;
    let other = FakeHead::start(&world.trust, "node-b").await;
    world.head.expect(Script::Ignore);
    other.expect(Script::text("answer"));
    let replace = async {
        fakes::until("the request is there", || async { world.head.requests().len() == 1 }).await;
        let route = world.operator.route(&world.trust, MODEL, 2, &other);
        world.operator.publish(vec![route]);
    };
    let (answer, ()) = tokio::join!(world.client.ask(json!({ "stream": true })), replace);
    assert_eq!(answer.streamed_text(), "answer", "{}", answer.body);
    assert_eq!(world.head.requests().len(), 1);
}

#[tokio::test]
async fn other_weights_do_not_go_on_with_what_was_begun() {
    let world = World::start().await;
    let other = FakeHead::start(&world.trust, "node-b").await;
    world.head.expect(Script::then("half", Last::Wait));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    open.wait_for("\"f\"").await;
    let route = world.operator.route_of_weights(&world.trust, MODEL, 2, &other, [2; 32]);
    world.operator.publish(vec![route]);
    world.head.kill();
    let answer = open.finish().await;
    assert_eq!(answer.streamed_text(), "half");
    let error = &answer.chunks().pop().unwrap()["error"];
    assert_eq!(error["code"], "model_changed", "{error}");
    assert!(!done(&answer.events()), "an answer that broke off is not done");
    assert!(other.requests().is_empty(), "other weights were asked");
}

#[tokio::test]
async fn an_answer_that_breaks_every_head_is_given_up_with_a_typed_error() {
    let world = World::start().await;
    world.head.expect(Script::then("half", Last::Fail(Code::Unavailable)));
    for _ in 0..BARREN_RESUMES_MAX {
        world.head.expect(Script::then("", Last::Fail(Code::Unavailable)));
    }
    let answer = world.client.ask(json!({ "stream": true })).await;
    assert_eq!((answer.status, answer.streamed_text().as_str()), (200, "half"));
    let error = &answer.chunks().pop().unwrap()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("workers_lost"), &json!("service_unavailable"))
    );
    assert_eq!(world.head.requests().len(), 1 + BARREN_RESUMES_MAX as usize);
}

#[tokio::test]
async fn an_answer_that_lost_nothing_but_its_last_word_asks_nobody_again() {
    let world = World::start().await;
    world.head.expect(Script::then("four", Last::Fail(Code::Unavailable)));
    let answer = world.client.ask(json!({ "stream": true, "max_tokens": 4 })).await;
    let finish: Vec<Value> = answer
        .chunks()
        .iter()
        .map(|chunk| chunk["choices"][0]["finish_reason"].clone())
        .collect();
    assert_eq!(answer.streamed_text(), "four");
    assert!(finish.contains(&json!("length")), "{}", answer.body);
    assert_eq!(world.head.requests().len(), 1);
}

#[tokio::test]
async fn who_has_begun_waits_for_a_seat_where_others_are_sent_away() {
    let world = World::start().await;
    world
        .head
        .expect(Script::then("half an ", Last::Fail(Code::Unavailable)));
    for _ in 0..3 {
        world.head.expect(Script::Refuse(Code::ResourceExhausted));
    }
    world
        .head
        .expect(Script::then("answer", Last::Finish(FinishReason::Stop)));
    let answer = world.client.ask(json!({ "stream": true })).await;
    assert_eq!(answer.streamed_text(), "half an answer", "{}", answer.body);
}

/// Asks with the last event that was seen of an earlier answer.
async fn ask_after(world: &World, fields: Value, last_event_id: &str) -> fakes::client::Answer {
    let authorization = format!("Bearer {}", fakes::KEY);
    let headers = [
        ("authorization", authorization.as_str()),
        ("last-event-id", last_event_id),
    ];
    let body = fakes::client::body(fields);
    let asked = world
        .client
        .open("POST", "/v1/chat/completions", &headers, body.as_bytes());
    asked.await.finish().await
}

/// Events with their ids, in order.
fn with_ids(answer: &fakes::client::Answer) -> Vec<(String, String)> {
    let mut events = Vec::new();
    let (mut id, mut data) = (String::new(), String::new());
    for line in answer.body.lines() {
        if let Some(value) = line.strip_prefix("id: ") {
            id = value.to_owned();
        } else if let Some(value) = line.strip_prefix("data: ") {
            data = value.to_owned();
        } else if line.is_empty() && !data.is_empty() {
            events.push((id.clone(), std::mem::take(&mut data)));
        }
    }
    events
}

#[tokio::test]
async fn a_client_that_lost_its_gateway_gets_the_rest_from_another_after_any_event() {
    let (world, fields) = (World::start().await, json!({ "stream": true, "temperature": 0.9 }));
    world.head.expect(Script::text("an answer"));
    let whole = world.client.ask(fields.clone()).await;
    let events = with_ids(&whole);
    assert_eq!(
        events.len(),
        1 + 9 + 1 + 1,
        "opening, pieces, end, last word: {}",
        whole.body
    );
    let first = world.head.requests()[0].clone();
    for seen in 1..=events.len() {
        world.head.forget();
        world.head.expect(Script::text("an answer"));
        let rest = ask_after(&world, fields.clone(), &events[seen - 1].0).await;
        assert_eq!(rest.status, 200, "{}", rest.body);
        let rest: Vec<String> = with_ids(&rest).into_iter().map(|(_, data)| data).collect();
        let expected: Vec<String> = events[seen.min(events.len() - 1)..]
            .iter()
            .map(|(_, data)| data.clone())
            .collect();
        assert_eq!(rest, expected, "after {seen}");
        if let [again] = &world.head.requests()[..] {
            assert_eq!(again.sampling, first.sampling, "it is drawn as it was");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_resumed_is_refused_with_the_reason() {
    let (world, fields) = (World::start().await, json!({ "stream": true }));
    world.head.expect(Script::text("an answer"));
    let whole = world.client.ask(fields.clone()).await;
    let (id, _) = with_ids(&whole).swap_remove(4);
    for (other, why) in [
        (json!({ "stream": true, "max_tokens": 3 }), "not the request"),
        (json!({ "stream": true, "seed": 3 }), "another seed"),
        (json!({ "stream": false }), "only streams"),
        (json!({ "stream": true, "n": 2 }), "only streams"),
    ] {
        let refused = ask_after(&world, other, &id).await;
        assert_eq!(
            (refused.status, refused.error("param").as_str()),
            (400, "last-event-id")
        );
        assert!(refused.error("message").contains(why), "{}", refused.body);
    }
    let refused = ask_after(&world, fields.clone(), "nonsense").await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    // Whoever computes otherwise is found out.
    world.head.expect(Script::text("another answer"));
    let diverged = ask_after(&world, fields, &id).await;
    let error = &diverged.chunks().pop().unwrap()["error"];
    assert_eq!(error["code"], "resume_diverged", "{}", diverged.body);
    assert_eq!(diverged.streamed_text(), "", "nothing is sent that would not fit");
}

#[tokio::test]
async fn several_answers_to_one_prompt_are_drawn_apart_and_each_outlives_its_head() {
    let world = World::start().await;
    world.head.expect(Script::then("on", Last::Fail(Code::Unavailable)));
    world.head.expect(Script::then("on", Last::Fail(Code::Unavailable)));
    world.head.expect(Script::text("e"));
    world.head.expect(Script::text("e"));
    let answer = world.client.ask(json!({ "n": 2, "seed": 7 })).await;
    let choices = answer.json()["choices"].as_array().cloned().unwrap();
    let texts: Vec<&Value> = choices.iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(texts, ["one", "one"], "{}", answer.body);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 6);
    let seeds: Vec<u64> = world.head.requests()[..2]
        .iter()
        .map(|asked| asked.sampling.unwrap().seed)
        .collect();
    assert_eq!(seeds.iter().sum::<u64>(), 7 + 8, "{seeds:?}");

    world.head.forget();
    world.head.expect(Script::text("a"));
    world.head.expect(Script::text("a"));
    let streamed = world
        .client
        .ask(json!({ "n": 2, "stream": true, "stream_options": { "include_usage": true } }))
        .await;
    let mut indices: Vec<i64> = streamed
        .chunks()
        .iter()
        .filter(|chunk| chunk["choices"][0]["finish_reason"] == "stop")
        .filter_map(|chunk| chunk["choices"][0]["index"].as_i64())
        .collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1], "{}", streamed.body);
    assert!(done(&streamed.events()));
    assert_eq!(streamed.chunks().pop().unwrap()["usage"]["completion_tokens"], 2);
}
