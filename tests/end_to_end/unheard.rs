//! The operator hears most agents no more.

use localplane::service::Service;
use localplane::stack::{AgentSpec, Part};

use super::serving::Serving;
use super::{LIMIT, Story, condition_of, installation, stages};

/// Nodes that the operator always hears, and those behind a link of its own each.
const NEAR: [&str; 2] = ["node-0", "node-1"];
const FAR: [&str; 3] = ["far-0", "far-1", "far-2"];

/// A model on two of the far nodes, and the links between these and the operator.
async fn far() -> (Serving, Vec<Service>) {
    let mut here = installation(&["cpu"; NEAR.len()]).await;
    let control = here.stack.control_endpoint().parse().expect("an address");
    let mut links = Vec::new();
    for node in FAR {
        let link = Service::start(std::net::Ipv4Addr::LOCALHOST.into(), vec![control]).expect("a link");
        let agent = AgentSpec::new(node, "cpu");
        here.stack
            .start_agent_through(&agent, link.port())
            .await
            .expect("an agent");
        links.push(link);
    }
    here.stack
        .wait_for_devices(NEAR.len() + FAR.len())
        .await
        .expect("devices");
    // Placed while nothing else is to be had.
    here.stack.kubectl(&["cordon", NEAR[0], NEAR[1]]).expect("cordoned");
    let serving = Serving::on(here).await;
    serving
        .here
        .stack
        .kubectl(&["uncordon", NEAR[0], NEAR[1]])
        .expect("uncordoned");
    (serving, links)
}

/// The operator hears none of the far agents: what they serve goes on for longer than one that is lost would be waited for, and is the
/// same when they are heard again.
async fn goes_on_unheard(serving: &mut Serving, links: &[Service], (workers, story): ([Vec<u32>; 2], Story)) {
    let degraded = serving
        .here
        .stack
        .wait_for_condition("default", "m", "Degraded", "True", LIMIT);
    let degraded = degraded.await.expect("Degraded");
    let told = condition_of(&degraded, "Degraded");
    assert_eq!(told["reason"], "AgentsUnheard", "{told}");
    let message = told["message"].as_str().unwrap_or_default();
    assert!(message.contains("hears 3 of 5 agents no more"), "{message}");
    assert_eq!(condition_of(&degraded, "Ready")["status"], "True");
    assert_eq!(
        serving.operator_counts("shardwright_operator_agents_unheard").await,
        3.0
    );
    serving.expect(story).await;
    // Who comes now is answered as well.
    for _ in 0..2 {
        let story = serving.story().await;
        serving.expect(story).await;
    }
    let model = serving.here.stack.model("default", "m").expect("the model");
    assert_eq!(condition_of(&model, "Degraded")["reason"], "AgentsUnheard");
    links.iter().for_each(|link| link.cut(false));
    let healed = serving
        .here
        .stack
        .wait_for_condition("default", "m", "Degraded", "False", LIMIT);
    let healed = healed.await.expect("healed");
    assert_eq!(healed["status"]["placement"]["epoch"].as_i64(), Some(serving.epoch));
    assert_eq!(serving.workers(), workers, "the same processes serve on");
}

#[tokio::test]
#[ignore = "make test-long: 120 s"]
async fn an_operator_that_begins_cut_off_from_most_agents_moves_nothing_either() {
    let (mut serving, links) = far().await;
    let before = (serving.workers(), serving.story().await);
    links.iter().for_each(|link| link.cut(true));
    // Before the last one heard that nothing comes any more.
    let operator = Part::Operator(0);
    serving.here.stack.kill(&operator).expect("killed");
    serving.here.stack.start_again(&operator).expect("started");
    goes_on_unheard(&mut serving, &links, before).await;
}

#[tokio::test]
#[ignore = "make test-long: 170 s"]
async fn an_operator_that_is_cut_off_from_most_agents_moves_nothing_and_one_that_lost_them_moves_all() {
    let (mut serving, links) = far().await;
    let before = (serving.workers(), serving.story().await);
    links.iter().for_each(|link| link.cut(true));
    goes_on_unheard(&mut serving, &links, before).await;

    // The same agents, lost with all that they run.
    let story = serving.story().await;
    for node in FAR {
        let agent = Part::Agent(node.to_owned());
        serving.here.stack.kill_all_of(&agent).expect("killed");
    }
    serving.expect(story).await;
    let model = serving.here.stack.model("default", "m").expect("the model");
    assert!(model["status"]["placement"]["epoch"].as_i64() > Some(serving.epoch));
    let is_near = |node: &str| NEAR.contains(&node);
    assert!(
        stages(&model)
            .iter()
            .all(|stage| stage["node"].as_str().is_some_and(is_near))
    );
}
