//! Devices, agents and operators that go and come back, once or hundreds of times: what serves stays, and nothing grows.
//!
//! `HOURS=24` says for how long operators are killed.

use std::time::Duration;

use linkemu::random::Random;
use serde_json::Value;
use simulation::host::Life;
use simulation::invariants;
use simulation::objects::{MODELS, device_name, node};
use simulation::world::{DEVICE, MODEL, NODE_BYTES, Shape, World};

/// The Nodes of the cluster.
const NODE: &str = "/v1/nodes";
/// A shard that is let go and loaded again is away for longer.
const LOOK: Duration = Duration::from_millis(500);
/// Longer than a new leader waits for agents that hold placements.
const AWAITED: Duration = Duration::from_secs(15);
/// Somebody leads again within this time: a lease that nobody renews lapses, and then some.
const LEADS_AGAIN: Duration = Duration::from_secs(30);
/// Between two things that happen to nodes: a model that can be placed is, and serves, within this time.
const PAUSE: Duration = Duration::from_secs(3);
/// How long operators are killed where nobody says how long.
const HOURS: u64 = 3;
/// How often a node goes.
const CYCLES: u64 = 500;
/// A sixth of what etcd takes of one object.
const OBJECT_BYTES_MAX: usize = 256 << 10;

fn two_operators() -> World {
    World::kept(&Shape {
        operators: 2,
        ..Shape::default()
    })
}

async fn one_model() -> World {
    let world = two_operators();
    world.ask_for("m", 1, 1);
    world.settle().await.expect("it settles");
    world
}

fn epoch(world: &World) -> u64 {
    world.epoch("m")
}

fn spec(world: &World) -> Value {
    let model = world.object(MODEL, MODELS, "m").expect("the model is there");
    model["spec"].clone()
}

/// Nodes with a stage of the model, in the order of its layers, and those without.
fn used_and_spare(world: &World) -> (Vec<String>, Vec<String>) {
    let model = world.object(MODEL, MODELS, "m").expect("the model is there");
    let stages = model["status"]["placement"]["stages"].as_array().cloned();
    let node = |stage: &Value| stage["node"].as_str().expect("a node").to_owned();
    let used: Vec<String> = stages.unwrap_or_default().iter().map(node).collect();
    let spare = world.hosts.keys().filter(|node| !used.contains(node)).cloned();
    let spare = spare.collect();
    (used, spare)
}

fn leaders(world: &World) -> Vec<usize> {
    let leads = |place: &usize| world.operator(*place, |process| process.leads()) == Some(true);
    (0..2).filter(leads).collect()
}

/// What every host serves, whatever else lies on the disks for a loss.
fn serving(world: &World) -> Vec<String> {
    let held = world.hosts.values().flat_map(|host| host.agent().holds());
    let serving = held.filter(|line| line.contains("SERVE"));
    let shard = |line: String| line.split('{').next().map(str::to_owned);
    serving.filter_map(shard).collect()
}

/// Every host serves this for so long.
async fn serve_on(world: &World, time: Duration, serves: &[String]) {
    let end = world.now() + time;
    while world.now() < end {
        tokio::time::sleep(LOOK).await;
        assert_eq!(serving(world), serves, "at {:?}", world.now());
    }
}

fn assert_sound(world: &World) {
    let mut broken = invariants::of_history(world);
    broken.extend(invariants::of_end(world, true));
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_fails_and_recovers_before_the_leader_hears_of_it_changes_nothing() {
    let world = one_model().await;
    let (before, written) = (epoch(&world), world.status_writes());
    let (used, _) = used_and_spare(&world);
    let leading = leaders(&world)[0];
    let revision = world.api.with(|store| store.revision());
    world.operator(leading, |process| process.connection.hold_events(Some(revision)));
    world.report_device(&used[0], NODE_BYTES, false);
    tokio::time::sleep(PAUSE).await;
    world.report_device(&used[0], NODE_BYTES, true);
    world.operator(leading, |process| process.connection.hold_events(None));
    world.settle().await.unwrap();
    assert_eq!((epoch(&world), world.status_writes()), (before, written));
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn what_serves_stays_under_a_leader_that_finds_no_device_and_is_told_of_the_spare_ones_first() {
    let world = one_model().await;
    let (before, serves) = (epoch(&world), serving(&world));
    assert_eq!(serves.len(), 2);
    let (used, spare) = used_and_spare(&world);
    for node in used.iter().chain(&spare) {
        assert!(world.delete(DEVICE, "", &device_name(node)));
    }
    world.operator(leaders(&world)[0], |process| process.connection.kill());
    let killed = world.now();
    while leaders(&world).is_empty() {
        assert!(world.now() - killed < LEADS_AGAIN, "nobody leads again");
        tokio::time::sleep(LOOK).await;
    }
    serve_on(&world, AWAITED, &serves).await;
    for nodes in [&spare, &used] {
        for node in nodes {
            world.report_device(node, NODE_BYTES, true);
        }
        serve_on(&world, AWAITED, &serves).await;
    }
    world.settle().await.unwrap();
    assert_eq!((epoch(&world), used_and_spare(&world).0), (before, used));
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_whose_agent_runs_is_left_for_what_is_loaded_elsewhere_first_and_used_again_when_it_is_back() {
    let world = one_model().await;
    let (before, serves) = (epoch(&world), serving(&world));
    let (used, _) = used_and_spare(&world);
    let deleted = used[1].clone();
    assert!(world.delete(NODE, "", &deleted));
    // As the garbage collector does with what a Node owns.
    assert!(world.delete(DEVICE, "", &device_name(&deleted)));
    let moves = |world: &World| {
        let moved = epoch(world) > before;
        assert!(moved || serving(world) == serves, "{:?}", serving(world));
        moved
    };
    world.until("it has moved", moves).await;
    let (now, _) = used_and_spare(&world);
    assert!(!now.contains(&deleted), "{now:?}");
    for node in now.iter().filter(|node| !used.contains(node)) {
        let holds = world.hosts[node].agent().holds();
        assert!(holds.iter().any(|line| line.contains("Loaded")), "{node}: {holds:?}");
    }
    world.settle().await.unwrap();
    assert_eq!(world.hosts[&deleted].agent().holds(), Vec::<String>::new());
    assert_sound(&world);

    world.create(NODE, "", node(&deleted, 0));
    world.report_device(&deleted, NODE_BYTES, true);
    // Any two nodes hold the model: with one other it is needed.
    let others = world.hosts.keys().filter(|node| **node != deleted).skip(1);
    let others: Vec<String> = others.cloned().collect();
    for node in &others {
        world.set_life(node, Life::Down);
    }
    world.settle().await.unwrap();
    assert!(used_and_spare(&world).0.contains(&deleted), "it is used again");
    for node in &others {
        world.set_life(node, Life::Up);
    }
    world.settle().await.unwrap();
    assert_sound(&world);
}

/// Every order of four.
fn orders() -> Vec<[usize; 4]> {
    let four = (0..256).map(|code| [code / 64, code / 16 % 4, code / 4 % 4, code % 4]);
    four.filter(|order| (0..4).all(|place| order.contains(&place)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn after_the_loss_of_all_nodes_a_model_serves_again_in_whatever_order_they_come_back() {
    let world = one_model().await;
    let asked = spec(&world);
    assert_eq!(orders().len(), 24);
    for order in orders() {
        // What an order means depends on where the model was.
        let (used, spare) = used_and_spare(&world);
        let nodes = [used, spare].concat();
        for node in &nodes {
            world.set_life(node, Life::Down);
        }
        world.settle().await.unwrap();
        for place in order {
            world.set_life(&nodes[place], Life::Up);
            tokio::time::sleep(PAUSE).await;
        }
        world.settle().await.unwrap();
        let broken = invariants::of_end(&world, true);
        assert_eq!(broken, Vec::<String>::new(), "{order:?} of {nodes:?}");
        assert_eq!(spec(&world), asked);
    }
    assert_sound(&world);
}

fn hours() -> u64 {
    match std::env::var("HOURS") {
        Ok(text) => text.parse().expect("HOURS is a number"),
        Err(_) => HOURS,
    }
}

#[tokio::test(start_paused = true)]
async fn operators_that_are_killed_every_few_seconds_for_hours_disturb_nothing_that_serves() {
    let world = one_model().await;
    let (before, serves) = (epoch(&world), serving(&world));
    assert_eq!(serves.len(), 2);
    let (mut random, mut leaders_killed) = (Random::new(17), 0);
    let began = world.now();
    while world.now() - began < Duration::from_secs(hours() * 3600) {
        serve_on(&world, Duration::from_secs(random.between(5, 20)), &serves).await;
        let place = random.below(2);
        leaders_killed += u64::from(leaders(&world).contains(&place));
        world.operator(place, |process| process.connection.kill());
    }
    assert!(leaders_killed >= 50 * hours(), "only {leaders_killed} led");
    world.settle().await.unwrap();
    assert_eq!((epoch(&world), serving(&world)), (before, serves));
    assert_sound(&world);
}

/// Bytes of every object of our kinds.
fn sizes(world: &World) -> Vec<(String, usize)> {
    world.api.with(|store| {
        let ours = store.all().filter(|(key, _)| key.kind().group == "shardwright.dev");
        ours.map(|(key, object)| (key.to_string(), object.to_string().len()))
            .collect()
    })
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_and_comes_back_hundreds_of_times_lets_no_object_grow_and_costs_few_epochs() {
    let world = one_model().await;
    let mut moves = 0;
    for cycle in 0..CYCLES {
        let before = epoch(&world);
        let lost = used_and_spare(&world).0.swap_remove(0);
        world.set_life(&lost, Life::Down);
        tokio::time::sleep(PAUSE).await;
        world.set_life(&lost, Life::Up);
        // As an agent does that begins.
        world.report_device(&lost, NODE_BYTES, true);
        tokio::time::sleep(PAUSE).await;
        let grown = epoch(&world) - before;
        assert!(grown <= 2, "cycle {cycle}: {grown} epochs");
        moves += u64::from(grown > 0);
        for (object, bytes) in sizes(&world) {
            assert!(bytes < OBJECT_BYTES_MAX, "cycle {cycle}: {object} has {bytes} bytes");
        }
    }
    assert!(moves > CYCLES / 2, "the node that goes has a stage: {moves} moves");
    world.settle().await.unwrap();
    assert_sound(&world);
}
