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
    world.head.expect(Script::then("half an ", Last::Wait));
    other.expect(Script::text("answer"));
    let mut open = world.client.ask_open(json!({ "stream": true })).await;
    open.wait_for("\"n\"").await;
    let mut route = world.operator.route(&world.trust, MODEL, 2, &other);
    route.ready = false;
    world.operator.publish(vec![route]);
    world.head.kill();
    open.wait_for("\" \"").await;
    world
        .operator
        .publish(vec![world.operator.route(&world.trust, MODEL, 3, &other)]);
    let answer = open.finish().await;
    assert_eq!(answer.streamed_text(), "half an answer", "{}", answer.body);
    assert_eq!(other.requests()[0].epoch, 3);
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
