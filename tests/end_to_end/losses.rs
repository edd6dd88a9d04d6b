//! Most nodes are lost at once.

use std::time::{Duration, Instant};

use localplane::Error;
use localplane::stack::Part;
use serde_json::Value;

use super::serving::Serving;
use super::{LIMIT, PROMPTS, Seen, condition_of, until};

/// What the gateway waits where nothing is left that could hold the model, and what it takes to hear of that.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(25);
/// Nothing was begun: the client need not wait to be told.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

impl Serving {
    /// Agents and workers of both nodes that hold a stage, as a power cut ends them.
    fn loses_both_nodes(&mut self) {
        for node in [&self.head, &self.tail] {
            let part = Part::Agent(node.clone());
            self.here.stack.kill_all_of(&part).expect("killed");
        }
    }

    fn both_come_back(&mut self) {
        let mut agents = [&self.head, &self.tail].map(|node| format!("agent-{node}"));
        agents.sort();
        assert_eq!(self.here.stack.restart_ended().expect("restarted"), agents);
    }

    /// `Placed`, once it says that there is no place. Unlike the other waits, this one does not mind that processes have ended.
    async fn has_no_place(&self) -> Value {
        let look = || -> localplane::Result<Seen<Value>> {
            let placed = condition_of(&self.here.stack.model("default", "m")?, "Placed");
            Ok(if placed["status"] == "False" {
                Seen::Done(placed)
            } else {
                Seen::Not(placed.to_string())
            })
        };
        let told = until("there is no place for the model", LIMIT, || std::future::ready(look()));
        told.await.expect("told")
    }
}

#[tokio::test]
#[ignore = "make test-long: 70 s"]
async fn streams_outlive_the_loss_of_two_of_three_nodes_that_come_back_and_end_with_an_error_where_none_does() {
    let mut serving = Serving::start(3).await;
    // The node that is left alone is no place for two stages.
    let stories = [serving.story().await, serving.story().await];
    serving.loses_both_nodes();
    serving.both_come_back();
    for story in stories {
        serving.expect(story).await;
    }
    serving.here.ready("m").await;

    let story = serving.story().await;
    let lost = Instant::now();
    serving.loses_both_nodes();
    let (answer, _) = story.end().await;
    println!("given up after {:?}: {:?}", lost.elapsed(), answer.error);
    assert!(lost.elapsed() <= GIVEN_UP_WITHIN, "{:?}", lost.elapsed());
    let error = answer.error.clone().expect("an error");
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("service_unavailable"), Some("model_not_ready")),
        "{error}"
    );
    serving.expect_beginning(&answer);
    serving.both_come_back();
    serving.here.ready("m").await;
    serving.answers().await;
}

#[tokio::test]
#[ignore = "make test-long: 50 s"]
async fn while_too_few_nodes_are_left_people_are_told_why_and_new_requests_are_told_at_once_when_to_ask_again() {
    let mut serving = Serving::start(3).await;
    serving.loses_both_nodes();
    let placed = serving.has_no_place().await;
    let reason = placed["reason"].as_str().unwrap_or_default();
    assert!(["InsufficientMemory", "TooFewDevices"].contains(&reason), "{placed}");
    let chat = serving.here.chat();
    let asked = Instant::now();
    let refused = chat.stream("m", PROMPTS[0], 4, &mut |_| {}).await;
    let (refused, after) = (refused.expect_err("a refusal"), asked.elapsed());
    println!("after {after:?}: {refused}");
    assert!(after <= REFUSED_WITHIN, "refused after {after:?}");
    let Error::Refused {
        status: 503,
        retry_after_s: Some(1..),
        text,
    } = &refused
    else {
        panic!("{refused:?}")
    };
    assert!(text.contains("model_not_ready"), "{text}");

    serving.both_come_back();
    serving.here.ready("m").await;
    serving.answers().await;
}
