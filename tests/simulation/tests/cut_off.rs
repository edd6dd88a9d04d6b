//! A leader that begins and hears few agents: where it has no way to them it moves nothing, and where they are lost it is as quick as ever.

use std::time::Duration;

use serde_json::Value;
use simulation::host::Life;
use simulation::invariants;
use simulation::objects::MODELS;
use simulation::world::{MODEL, Shape, World, nodes};

/// Any two of them hold the model.
const NODES: [&str; 6] = ["node-a", "node-b", "node-c", "node-d", "node-e", "node-f"];
/// As many of them as are most.
const MOST: usize = 4;
/// A shard that is let go and loaded again is away for longer.
const LOOK: Duration = Duration::from_millis(500);
/// Longer than a lease, what a new leader waits for, and what it does then.
const AFTERWARDS: Duration = Duration::from_secs(90);
/// Agents that hold placements have ten seconds to attach to a new leader; then the layers are loaded.
const PLACED_WITHIN: Duration = Duration::from_secs(15);
/// Agents that said before it that they are apart have four seconds more than that to say it anew, with what it takes to read it.
const WAITED: Duration = Duration::from_secs(13);
const PLACED_AT_LAST: Duration = Duration::from_secs(20);

/// A world whose model serves; it, and the nodes that something happens to, those with the model first.
async fn one_model() -> (World, Vec<String>) {
    let world = World::kept(&Shape {
        nodes: nodes(&NODES),
        operators: 2,
        ..Shape::default()
    });
    world.ask_for("m", 1, 1);
    world.settle().await.expect("it settles");
    let model = world.object(MODEL, MODELS, "m").expect("the model is there");
    let stages = model["status"]["placement"]["stages"].as_array().cloned();
    let node = |stage: &Value| stage["node"].as_str().expect("a node").to_owned();
    let mut most: Vec<String> = stages.unwrap_or_default().iter().map(node).collect();
    assert_eq!(most.len(), 2, "{most:?}");
    let spare = world.hosts.keys().filter(|node| !most.contains(node));
    let spare: Vec<String> = spare.take(MOST - 2).cloned().collect();
    most.extend(spare);
    (world, most)
}

fn leader(world: &World) -> Option<usize> {
    (0..2).find(|place| world.operator(*place, |process| process.leads()) == Some(true))
}

/// The leader is no more, and nobody starts it again: the other one begins once the lease has lapsed.
fn kill_the_leader(world: &World) {
    world.kill_operator(leader(world).expect("one leads"));
}

/// Status, reason and message.
fn degraded(world: &World) -> [String; 3] {
    let model = world.object(MODEL, MODELS, "m").expect("the model is there");
    let conditions = model["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == "Degraded");
    let found = found.expect("it is said");
    ["status", "reason", "message"].map(|field| found[field].as_str().expect("text").to_owned())
}

/// How long it takes from when somebody leads until the model serves in a higher epoch.
async fn placed_after(world: &World, before: u64) -> Duration {
    world.until("one leads", |world| leader(world).is_some()).await;
    let leads = world.now();
    let serves = |world: &World| world.epoch("m") > before && world.is_ready("m");
    world.until("it serves elsewhere", serves).await;
    world.now() - leads
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_begins_cut_off_from_most_agents_moves_nothing_and_says_so_until_they_are_heard() {
    let (world, most) = one_model().await;
    let (before, serves) = (world.epoch("m"), world.serving());
    assert_eq!(serves.len(), 2);
    let silence = |silent: bool| {
        for node in &most {
            world.hosts[node].link.send_modify(|link| link.silent = silent);
        }
    };
    kill_the_leader(&world);
    silence(true);
    let began = world.now();
    while world.now() - began < AFTERWARDS {
        tokio::time::sleep(LOOK).await;
        assert_eq!((world.epoch("m"), world.serving()), (before, serves.clone()));
    }
    assert!(leader(&world).is_some());
    let [status, reason, message] = degraded(&world);
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("True", "AgentsUnheard"),
        "{message}"
    );
    assert!(message.contains("4 of 6 agents"), "{message}");
    assert!(world.is_ready("m"), "it serves");

    silence(false);
    world
        .until("all are heard", |world| degraded(world)[1] == "AsExpected")
        .await;
    world.settle().await.expect("it settles");
    assert_eq!((world.epoch("m"), world.serving()), (before, serves));
    let mut broken = invariants::of_history(&world);
    broken.extend(invariants::of_end(&world, true));
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_most_nodes_held_that_were_lost_with_the_leader_is_placed_by_the_next_as_soon_as_after_a_restart() {
    let (world, most) = one_model().await;
    let before = world.epoch("m");
    for node in &most {
        world.set_life(node, Life::Down);
    }
    kill_the_leader(&world);
    let took = placed_after(&world, before).await;
    assert!(took < PLACED_WITHIN, "{took:?}");
    world.settle().await.expect("it settles");
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn agents_that_said_that_they_are_there_and_are_lost_since_are_waited_for_only_as_long_as_it_takes_to_say_so() {
    let (world, most) = one_model().await;
    let before = world.epoch("m");
    kill_the_leader(&world);
    // They have missed it, and nobody leads yet.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(leader(&world), None);
    for node in &most {
        world.set_life(node, Life::Down);
    }
    let took = placed_after(&world, before).await;
    assert!(WAITED < took && took < PLACED_AT_LAST, "{took:?}");
    world.settle().await.expect("it settles");
    world.assert_sound();
}
