//! Faults whose moment chance seldom hits.

use std::sync::Arc;
use std::time::Duration;

use apimodel::{Moment, Verb, Verdict};
use serde_json::json;
use simulation::host::Life;
use simulation::invariants;
use simulation::objects::{MODELS, uri};
use simulation::world::{MODEL, Shape, World};
use tokio::sync::watch;

/// Longer than a lease and what follows its end.
const FROZEN: Duration = Duration::from_secs(60);

fn two_operators() -> World {
    let mut world = World::new(&Shape {
        operators: 2,
        ..Shape::default()
    });
    for place in 0..2 {
        world.keep_operator(place, &format!("operator-{place}"));
    }
    world
}

fn epoch(world: &World) -> u64 {
    let model = world.object(MODEL, MODELS, "m").expect("the model is there");
    model["status"]["placement"]["epoch"].as_u64().expect("it is placed")
}

fn leader(world: &World) -> usize {
    let leads = |place: &usize| world.operator(*place, |process| process.leads()) == Some(true);
    (0..2).find(leads).expect("one leads")
}

fn assert_sound(world: &World) {
    let mut broken = invariants::of_history(world);
    broken.extend(invariants::of_end(world, true));
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stood_still_with_a_decision_in_its_hand_takes_nothing_back_of_what_its_successor_decided() {
    let world = two_operators();
    world.ask_for("m", 1, 1);
    world.settle().await.unwrap();
    let (strikes, mut struck) = watch::channel(false);
    world.api.set_hook(Arc::new(move |seen, moment| {
        let decides = seen.request.verb == Verb::Apply && seen.request.subresource == "status";
        if decides && moment == Moment::Before && !strikes.send_replace(true) {
            return Verdict::Delay(Duration::from_millis(100));
        }
        Verdict::Continue
    }));
    let frozen = leader(&world);
    world.patch(MODEL, MODELS, "m", &json!({ "spec": { "contextLength": 128 } }));
    struck.wait_for(|struck| *struck).await.unwrap();
    world.operator(frozen, |process| process.freeze(true));
    tokio::time::sleep(FROZEN).await;
    let other = world.operator(1 - frozen, |process| process.leads());
    assert_eq!(other, Some(true), "the other one took over");
    for weights in [2, 3] {
        world.patch(
            MODEL,
            MODELS,
            "m",
            &json!({ "spec": { "source": { "uri": uri(weights) } } }),
        );
        world.settle().await.unwrap();
    }
    let decided = epoch(&world);
    world.operator(frozen, |process| process.freeze(false));
    world.settle().await.unwrap();
    assert_eq!(epoch(&world), decided);
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn after_the_restore_of_a_snapshot_epochs_go_on_above_all_that_agents_hold_and_changes_are_seen_again() {
    let world = two_operators();
    world.ask_for("m", 1, 1);
    world.settle().await.unwrap();
    let snapshot = world.api.with(|store| store.snapshot());
    for weights in [2, 3, 2] {
        world.patch(
            MODEL,
            MODELS,
            "m",
            &json!({ "spec": { "source": { "uri": uri(weights) } } }),
        );
        world.settle().await.unwrap();
    }
    let before = epoch(&world);
    world.api.restore(&snapshot);
    assert!(epoch(&world) < before);
    world.settle().await.unwrap();
    assert!(epoch(&world) > before, "{} after {before}", epoch(&world));
    assert_sound(&world);

    // A watch that stood over the restore would not tell of this for a long time.
    world.patch(MODEL, MODELS, "m", &json!({ "spec": { "contextLength": 128 } }));
    let changed = world.now();
    let served = world.object(MODEL, MODELS, "m").unwrap()["metadata"]["generation"].clone();
    while world.object(MODEL, MODELS, "m").unwrap()["status"]["observedGeneration"] != served {
        assert!(
            world.now() - changed < Duration::from_secs(10),
            "nobody sees the change"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_finds_no_agents_for_a_moment_keeps_what_is_placed() {
    let world = two_operators();
    world.ask_for("m", 1, 1);
    world.settle().await.unwrap();
    let before = epoch(&world);
    // The agents need longer to come back than the other operator to lead.
    for host in world.hosts.values() {
        host.link.send_modify(|link| link.silent = true);
    }
    world.operator(leader(&world), |process| process.connection.kill());
    tokio::time::sleep(Duration::from_secs(6)).await;
    for host in world.hosts.values() {
        host.link.send_modify(|link| link.silent = false);
    }
    world.settle().await.unwrap();
    assert_eq!(epoch(&world), before);
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_slept_through_other_placements_serves_in_the_latest_or_not_at_all() {
    let world = two_operators();
    world.ask_for("m", 1, 1);
    world.settle().await.unwrap();
    for node in ["node-a", "node-b"] {
        world.set_life(node, Life::Frozen);
    }
    world.settle().await.unwrap();
    let moved = epoch(&world);
    for node in ["node-a", "node-b"] {
        world.set_life(node, Life::Up);
    }
    world.settle().await.unwrap();
    assert_eq!(epoch(&world), moved);
    assert_sound(&world);
}
