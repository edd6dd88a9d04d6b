//! Processes of a node that stand still and go on, as on a machine that swaps or is moved by its hypervisor.

use std::time::Duration;

use localplane::process::{freeze, thaw};
use localplane::stack::Part;

use super::serving::Serving;
use super::{nodes, stages};

/// Twice what it takes to notice.
const STANDS_STILL: Duration = Duration::from_secs(5);

#[tokio::test]
#[ignore = "make test-long: 90 s"]
async fn a_story_goes_on_elsewhere_while_agent_and_worker_of_its_tail_stand_still_and_thawed_they_let_go() {
    let mut serving = Serving::start(3).await;
    let tail = serving.tail.clone();
    let agent = serving.here.stack.id(&Part::Agent(tail.clone())).expect("it runs");
    let mut frozen = serving.here.stack.workers(&tail);
    frozen.push(agent);
    let story = serving.story().await;
    frozen.iter().copied().for_each(freeze);
    serving.expect(story).await;
    let moved = serving.here.ready_in_epoch_above("m", serving.epoch).await;
    let found = nodes(&moved);
    assert!(!found.contains(&tail), "{tail} holds nothing");

    // What wakes up is a stage of an epoch that is over.
    frozen.into_iter().for_each(thaw);
    serving.everybody_is_heard().await;
    let holders: Vec<&str> = found.iter().map(String::as_str).collect();
    serving.has_workers_on(&holders).await;
    let story = serving.story().await;
    serving.expect(story).await;

    // Without another node there is no place but the one that stood still.
    serving.here.stack.wait_for_devices(3).await.expect("devices");
    let stood_in = found.iter().find(|node| **node != serving.head).expect("another node");
    serving.here.stack.kubectl(&["cordon", stood_in]).expect("cordoned");
    let epoch = moved["status"]["placement"]["epoch"].as_i64().expect("an epoch");
    let after = serving.here.ready_in_epoch_above("m", epoch).await;
    assert!(nodes(&after).contains(&tail), "{:?}", stages(&after));
    let story = serving.story().await;
    serving.expect(story).await;
}

#[tokio::test]
#[ignore = "make test-long: 60 s"]
async fn an_agent_alone_that_stands_still_for_seconds_changes_no_word_and_its_node_goes_on() {
    let mut serving = Serving::start(3).await;
    let agent = Part::Agent(serving.tail.clone());
    let agent = serving.here.stack.id(&agent).expect("it runs");
    let story = serving.story().await;
    freeze(agent);
    tokio::time::sleep(STANDS_STILL).await;
    thaw(agent);
    serving.expect(story).await;
    serving.everybody_is_heard().await;
    let after = serving.here.ready("m").await;
    let found = nodes(&after);
    println!("it was on {} and {}, and is on {found:?}", serving.head, serving.tail);
    let holders: Vec<&str> = found.iter().map(String::as_str).collect();
    serving.has_workers_on(&holders).await;
    let story = serving.story().await;
    serving.expect(story).await;
}
