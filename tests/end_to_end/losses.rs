//! Most nodes are lost at once, or all of them.

use std::time::{Duration, Instant};

use localplane::Error;
use localplane::stack::Part;
use serde_json::Value;

use super::serving::Serving;
use super::{Answer, Here, LIMIT, PROMPTS, Seen, Story, condition_of, until};

/// The 20 s that the gateway waits where nothing is left that could hold the model, and what it takes to hear of that on a machine that
/// has much else to do.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(60);
/// Nothing was begun: the client need not wait to be told, as who has begun waits.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);
/// The numbers of three nodes, in the order in which they come back: another order each time.
const ORDERS: [[usize; 3]; 2] = [[2, 1, 0], [0, 2, 1]];
const ATTACHED: &str = "shardwright_operator_agents_attached";

impl Here {
    /// People were told since when a stage on this device is lost, and where its layers are loaded, before all serve again.
    pub(super) fn has_told_of_the_loss_of(&self, device: &str) {
        let log = self.stack.log(&Part::Operator(0)).expect("a log");
        let lost = format!("on {device}: the node's agent is not attached since ");
        let told = |line: &str| line.contains(&lost) && line.contains("its layers are loaded in epoch ");
        assert!(log.lines().any(told), "{log}");
    }
}

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

    /// Waits until the operator hears of so many agents.
    async fn hears_of(&self, agents: usize) {
        let look = async || -> localplane::Result<Seen<()>> {
            let attached = self.operator_counts(ATTACHED).await;
            Ok(if attached == agents as f64 {
                Seen::Done(())
            } else {
                Seen::Not(format!("of {attached}"))
            })
        };
        let what = format!("the operator hears of {agents} agents");
        until(&what, LIMIT, look).await.expect("heard");
    }

    /// What the model is asked to be, and the epoch of its placement.
    fn spec_and_epoch(&self) -> (Value, i64) {
        let model = self.here.stack.model("default", "m").expect("the model");
        let epoch = model["status"]["placement"]["epoch"].as_i64();
        (model["spec"].clone(), epoch.expect("an epoch"))
    }

    /// An answer that was given up for want of nodes says so, and the beginning of what it would have said.
    fn expect_given_up(&self, answer: &Answer) {
        let error = answer.error.clone().expect("an error");
        assert_eq!(
            (error["type"].as_str(), error["code"].as_str()),
            (Some("service_unavailable"), Some("model_not_ready")),
            "{error}"
        );
        self.expect_beginning(answer);
    }
}

/// The end of a story, and when it came.
async fn end(story: Story) -> (Answer, Instant) {
    let (answer, _) = story.end().await;
    (answer, Instant::now())
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
    serving.expect_given_up(&answer);
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

#[tokio::test]
#[ignore = "make test-long: 120 s"]
async fn after_the_loss_of_all_nodes_at_once_the_model_serves_again_by_itself_in_whatever_order_they_come_back() {
    let mut serving = Serving::start(3).await;
    let (asked, mut epoch) = serving.spec_and_epoch();
    for order in ORDERS {
        let nodes = order.map(|number| Part::Agent(format!("node-{number}")));
        let told = tokio::spawn(end(serving.story().await));
        let lost = Instant::now();
        for node in &nodes {
            serving.here.stack.kill_all_of(node).expect("killed");
        }
        serving.hears_of(0).await;
        serving.here.not_ready_while_a_process_is_down("m").await;
        for (back, node) in (1..).zip(&nodes) {
            serving.here.stack.start_again(node).expect("started");
            serving.hears_of(back).await;
            let (spec, now) = serving.spec_and_epoch();
            assert_eq!(spec, asked, "nobody touches what people asked for");
            assert!(now >= epoch, "epoch {now} after {epoch}");
            epoch = now;
        }
        serving.here.ready("m").await;
        let serves = Instant::now();
        println!("{order:?}: Ready again {:?} after the loss", lost.elapsed());

        // Whoever reads waits for as long as there may be nothing to wait for, and is not given up once the model serves.
        let (answer, ended) = told.await.expect("no panic");
        println!("the stream ended {:?} after the loss: {:?}", ended - lost, answer.error);
        if answer.error.is_some() {
            serving.expect_given_up(&answer);
            assert!(ended <= serves, "given up though the model serves");
        } else {
            serving.expect_answer(&answer);
        }
        let again = serving.story().await;
        serving.expect(again).await;
        let (spec, now) = serving.spec_and_epoch();
        assert_eq!(spec, asked, "nobody touches what people asked for");
        assert!(now >= epoch, "epoch {now} after {epoch}");
        epoch = now;
    }
}
