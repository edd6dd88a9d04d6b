//! A model moves while it serves, and what its clients read is what they would have read.

use std::process::Command;

use localplane::stack::Part;
use serde_json::{Value, json};

use super::serving::Serving;
use super::{LIMIT, Seen, Story, condition_of, installation, nodes, run, stages, strict_over_two, until};

#[tokio::test]
async fn a_model_on_a_cordoned_node_is_loaded_elsewhere_first_and_its_stream_goes_on() {
    let mut here = installation(&["cpu", "cpu", "cpu"]).await;
    here.apply("m", &strict_over_two());
    let before = here.ready("m").await;
    let epoch = before["status"]["placement"]["epoch"].as_i64().expect("an epoch");
    let leaving = stages(&before)[1]["node"].as_str().expect("a node").to_owned();
    let chat = here.chat();
    let (undisturbed, usual) = Story::begin(&chat).end().await;
    let prepared = here
        .stack
        .wait_for_condition("default", "m", "RecoveryReady", "True", LIMIT)
        .await
        .expect("the loss of a node is prepared for");
    println!("{}", condition_of(&prepared, "RecoveryReady")["message"]);

    let mut story = Story::begin(&chat);
    story.under_way().await;
    here.stack.kubectl(&["cordon", &leaving]).expect("cordoned");
    let after = here.ready_in_epoch_above("m", epoch).await;
    assert!(
        stages(&after).iter().all(|stage| stage["node"] != leaving.as_str()),
        "the cordoned node holds nothing"
    );
    let (answer, pause) = story.end().await;
    println!("the stream stood still for {pause:?}, and for {usual:?} when nothing moved");
    assert_eq!((answer.error, answer.text), (None, undisturbed.text));
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_leaves_once_its_layers_are_elsewhere_and_the_stream_goes_on() {
    let mut here = installation(&["cpu", "cpu", "cpu"]).await;
    here.apply("m", &strict_over_two());
    let before = here.ready("m").await;
    let epoch = before["status"]["placement"]["epoch"].as_i64();
    let leaving = stages(&before)[1]["node"].as_str().expect("a node").to_owned();
    let chat = here.chat();
    let (undisturbed, _) = Story::begin(&chat).end().await;
    let mut story = Story::begin(&chat);
    story.under_way().await;
    let agent = here.stack.id(&Part::Agent(leaving.clone())).expect("it runs");
    run(Command::new("kill").arg("-TERM").arg(agent.to_string())).expect("told");
    let (answer, pause) = story.end().await;
    println!("the stream stood still for {pause:?}");
    assert_eq!((answer.error, answer.text), (None, undisturbed.text));
    // Unlike other waits, this one does not mind that a process has ended.
    let look = || -> localplane::Result<Seen<Value>> {
        let model = here.stack.model("default", "m")?;
        Ok(if model["status"]["placement"]["epoch"].as_i64() > epoch {
            Seen::Done(model)
        } else {
            Seen::Not(model["status"].to_string())
        })
    };
    let after = until("it has moved", LIMIT, || std::future::ready(look())).await;
    let after = after.expect("moved");
    assert!(stages(&after).iter().all(|stage| stage["node"] != leaving.as_str()));
}

#[tokio::test]
#[ignore = "make test-long: 120 s"]
async fn a_node_that_is_deleted_while_its_agent_runs_is_left_for_what_is_loaded_elsewhere_and_used_again_when_back() {
    let mut serving = Serving::start(3).await;
    let deleted = serving.tail.clone();
    let before = serving.here.ready("m").await;
    let device = stages(&before)[1]["device"].as_str().expect("a device").to_owned();
    let story = serving.story().await;
    serving
        .here
        .stack
        .kubectl(&["delete", "node", &deleted])
        .expect("deleted");
    // What a Node owns goes with it: no garbage collector runs here.
    let owned = ["delete", "devicegpustate", &device];
    serving.here.stack.kubectl(&owned).expect("deleted");
    serving.expect(story).await;
    let moved = serving.here.ready_in_epoch_above("m", serving.epoch).await;
    let found = nodes(&moved);
    assert!(!found.contains(&deleted), "{deleted} holds nothing");
    let holders: Vec<&str> = found.iter().map(String::as_str).collect();
    serving.has_workers_on(&holders).await;
    let log = serving.here.stack.log(&Part::Operator(0)).expect("a log");
    assert!(!log.contains("StageLost"), "nothing was lost: {log}");
    // Its agent has nowhere to tell of its devices.
    let said = ["devices are not published", "not found"];
    serving.says(&Part::Agent(deleted.clone()), &said).await;

    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": deleted } });
    serving.here.stack.apply(&node).expect("applied");
    serving.here.stack.wait_for_devices(3).await.expect("devices");
    let other = found.iter().find(|node| **node != serving.head).expect("another node");
    serving.here.stack.kubectl(&["cordon", other]).expect("cordoned");
    let epoch = moved["status"]["placement"]["epoch"].as_i64().expect("an epoch");
    let after = serving.here.ready_in_epoch_above("m", epoch).await;
    assert!(nodes(&after).contains(&deleted), "{:?}", stages(&after));
    let story = serving.story().await;
    serving.expect(story).await;
}
