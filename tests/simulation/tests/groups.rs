//! Cards of one node that work as one, in a world in which one of them is lost, its node is drained, or nobody tells of them.

use serde_json::{Value, json};
use simulation::invariants;
use simulation::objects::{self, MODELS, card_name};
use simulation::world::{LINKS, MODEL, Shape, World, nodes};

/// A card holds the model by itself; a node's other device holds half of it.
const CARD_BYTES: i64 = 2 << 30;
const PAIR: &str = "node-a-cuda0+node-a-cuda1";

/// Where the model is, as its status says.
fn devices(world: &World) -> Vec<String> {
    let model = world.object(MODEL, MODELS, "m").expect("the model is there");
    let stages = model["status"]["placement"]["stages"].as_array().cloned();
    let device = |stage: &Value| stage["device"].as_str().expect("a device").to_owned();
    stages.unwrap_or_default().iter().map(device).collect()
}

fn assert_sound(world: &World) {
    world.assert_sound();
    assert_eq!(invariants::of_end(world, true), Vec::<String>::new());
}

/// The model serves on two cards that work as one.
async fn on_a_pair() -> World {
    let world = World::kept(&Shape {
        nodes: nodes(&["node-a", "node-b"]),
        ..Shape::default()
    });
    for index in [0, 1] {
        world.report_card("node-a", index, CARD_BYTES, true);
    }
    world.report_groups("node-a", &[&[0, 1]]);
    let mut model = objects::model("m", 1, 1);
    model["spec"]["placement"]["maxGroupDevices"] = json!(2);
    world.create(MODEL, MODELS, model);
    world.settle().await.expect("it settles");
    assert_eq!(devices(&world), [PAIR]);
    assert_sound(&world);
    world
}

#[tokio::test(start_paused = true)]
async fn a_model_on_two_cards_leaves_both_when_one_is_lost_and_serves_on_the_other() {
    let world = on_a_pair().await;
    let before = world.epoch("m");
    world.report_card("node-a", 1, CARD_BYTES, false);
    world.settle().await.expect("it settles");
    let left = card_name("node-a", 0);
    assert_eq!(devices(&world), [left.as_str()]);
    assert!(world.epoch("m") > before);
    let serving = world.serving();
    let on_it = |shard: &String| shard.contains(&format!(" on {left}: "));
    assert!(serving.len() == 1 && serving.iter().all(on_it), "{serving:?}");
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn a_model_on_two_cards_stays_through_a_new_leader_and_while_nobody_tells_of_the_cards_together() {
    let world = on_a_pair().await;
    let before = world.epoch("m");
    world.operator(0, |process| process.connection.kill());
    world.settle().await.expect("it settles");
    assert_eq!((devices(&world), world.epoch("m")), (vec![PAIR.to_owned()], before));
    assert!(world.delete(LINKS, "", "node-a"));
    world.settle().await.expect("it settles");
    assert_eq!((devices(&world), world.epoch("m")), (vec![PAIR.to_owned()], before));
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn a_model_on_two_cards_of_a_node_that_is_drained_is_loaded_elsewhere_first() {
    let world = on_a_pair().await;
    world.report_card("node-b", 0, CARD_BYTES, true);
    world.settle().await.expect("it settles");
    assert_eq!(devices(&world), [PAIR]);
    world.patch("/v1/nodes", "", "node-a", &json!({ "spec": { "unschedulable": true } }));
    world.settle().await.expect("it settles");
    assert_eq!(devices(&world), [card_name("node-b", 0)]);
    assert_sound(&world);
}
