//! A model moves while it serves, and what its clients read is what they would have read.

use std::process::Command;

use localplane::stack::Part;

use super::{LIMIT, Story, condition_of, installation, run, stages, strict_over_two};

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
    let after = here.stack.model("default", "m").expect("the model");
    assert!(after["status"]["placement"]["epoch"].as_i64() > epoch, "it has moved");
    assert!(stages(&after).iter().all(|stage| stage["node"] != leaving.as_str()));
}
