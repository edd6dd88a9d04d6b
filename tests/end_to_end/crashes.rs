//! Processes of a node that end and come back.

use std::time::Instant;

use localplane::stack::Part;

use super::{
    Here, LIMIT, PROMPTS, RECOVERY_LIMIT, Seen, Story, condition_of, installation, stages, strict_over_two, until,
};

impl Here {
    /// Unlike the other waits, this one does not mind that a process has ended.
    pub(super) async fn not_ready_while_a_process_is_down(&self, name: &str) {
        let look = || -> localplane::Result<Seen<()>> {
            let ready = condition_of(&self.stack.model("default", name)?, "Ready");
            Ok(if ready["status"] == "False" {
                Seen::Done(())
            } else {
                Seen::Not(ready.to_string())
            })
        };
        until("the model is not Ready", LIMIT, || std::future::ready(look()))
            .await
            .expect("not Ready");
    }
}

#[tokio::test]
async fn a_stream_does_not_notice_that_an_agent_crashes_and_comes_back() {
    let mut here = installation(&["cpu", "cpu"]).await;
    here.apply("m", &strict_over_two());
    let before = here.ready("m").await;
    let victim = stages(&before)[1]["node"].as_str().expect("a node").to_owned();
    let chat = here.chat();
    let (undisturbed, _) = Story::begin(&chat).end().await;
    let workers = here.stack.workers(&victim);
    assert_eq!(workers.len(), 1);

    let mut story = Story::begin(&chat);
    story.under_way().await;
    here.stack.crash_agent(&victim).expect("killed");
    assert_eq!(
        here.stack.restart_ended().expect("restarted"),
        [format!("agent-{victim}")]
    );
    let (answer, pause) = story.end().await;
    println!("the longest time between two tokens was {pause:?}");
    assert_eq!((answer.error, answer.text), (None, undisturbed.text));
    let after = here.ready("m").await;
    assert_eq!(stages(&after)[1]["node"], victim.as_str());
    assert_eq!(here.stack.workers(&victim), workers, "the same process serves on");
    let agent = Part::Agent(victim);
    let look = async || -> localplane::Result<Seen<()>> {
        // It may have yet to open its port.
        let scraped = here.stack.metrics(&agent).await;
        let rows = scraped.map_or(0.0, |scraped| scraped.value("shardwright_worker_rows_total"));
        Ok(if rows > 0.0 {
            Seen::Done(())
        } else {
            Seen::Not(format!("{rows} rows"))
        })
    };
    until("what the worker counts stands on its agent's port", LIMIT, look)
        .await
        .expect("counted");
}

#[tokio::test]
async fn a_node_that_lost_all_its_processes_serves_again_once_they_are_back() {
    let mut here = installation(&["cpu", "cpu"]).await;
    here.apply("m", &strict_over_two());
    here.ready("m").await;
    here.stack
        .kill_all_of(&Part::Agent("node-1".to_owned()))
        .expect("killed");
    // Neither device is spare: the model waits for the node.
    here.not_ready_while_a_process_is_down("m").await;
    let restarted = Instant::now();
    assert_eq!(here.stack.restart_ended().expect("restarted"), ["agent-node-1"]);
    here.ready("m").await;
    assert!(
        restarted.elapsed() <= RECOVERY_LIMIT,
        "Ready again after {:?}",
        restarted.elapsed()
    );
    let answer = here
        .chat()
        .stream("m", PROMPTS[0], 32, &mut |_| {})
        .await
        .expect("an answer");
    assert!(answer.text.contains("Paris"), "{}", answer.text);
}
