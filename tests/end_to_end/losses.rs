//! Most nodes are lost at once.

use std::time::{Duration, Instant};

use localplane::stack::Part;

use super::serving::Serving;

/// What the gateway waits where nothing is left that could hold the model, and what it takes to hear of that.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(25);

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
