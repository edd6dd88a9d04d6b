//! One authority takes another's place: who is waited for, who is not, and what a rotation costs when there is none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use apimodel::{Moment, Verdict};
use crds::names::{
    AUTHORITY_ACTIVE, AUTHORITY_PHASE, AUTHORITY_PREPARED, AUTHORITY_ROTATED_FOR, AUTHORITY_STEADY, AUTHORITY_WAITS_FOR,
};
use operator::authority::decide::{LAGGARD_MAX, PREPARED_MIN};
use serde_json::Value;
use simulation::host::Life;
use simulation::world::{Shape, World};

const WISH: &str = "2026-01-01T12:00:00Z";
const ANOTHER: &str = "2026-01-02T12:00:00Z";
/// What is not so by then never will be.
const LIMIT: Duration = Duration::from_secs(20 * 60);

async fn installed(operators: usize) -> World {
    let world = World::kept(&Shape {
        operators,
        ..Shape::default()
    });
    world.ask_for("m", 1, 1);
    world.settle().await.expect("it settles");
    world
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_is_asked_for_leaves_one_authority_that_all_trust_and_is_done_once() {
    let world = installed(1).await;
    world.rotate_authority(WISH).await.unwrap();
    assert_eq!(world.told_of_the_authority(AUTHORITY_WAITS_FOR), Value::Null);
    let before = world.api.with(|store| store.revision());
    world.wish_for_another_authority(WISH);
    tokio::time::sleep(LIMIT).await;
    world.until_authority_is(AUTHORITY_STEADY, WISH, LIMIT).await.unwrap();
    let keys = |change: &&Arc<apimodel::Change>| change.key.kind().plural == "secrets" && change.revision > before;
    let written = world.api.with(|store| store.log().iter().filter(keys).count());
    assert_eq!(written, 0, "the same wish is honoured once");
    world.rotate_authority(ANOTHER).await.unwrap();
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_say_whom_it_trusts_is_named_and_waited_for_no_longer_than_ten_minutes() {
    let world = installed(1).await;
    world.hosts["node-b"].agent().is_older = true;
    world.wish_for_another_authority(WISH);
    let prepared = world.until_authority_is(AUTHORITY_PREPARED, WISH, LIMIT);
    prepared.await.unwrap();
    tokio::time::sleep(PREPARED_MIN * 2).await;
    assert_eq!(world.told_of_the_authority(AUTHORITY_WAITS_FOR), "agent node-b");
    assert_eq!(world.told_of_the_authority(AUTHORITY_PHASE), AUTHORITY_PREPARED);
    tokio::time::sleep(LAGGARD_MAX - PREPARED_MIN * 2).await;
    world.set_life("node-b", Life::Down);
    world.until_authority_is(AUTHORITY_ACTIVE, WISH, LIMIT).await.unwrap();
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_away_for_a_moment_is_waited_for() {
    let world = installed(1).await;
    world.wish_for_another_authority(WISH);
    world.until_authority_is(AUTHORITY_PREPARED, WISH, LIMIT).await.unwrap();
    for _ in 0..4 {
        world.set_life("node-c", Life::Down);
        tokio::time::sleep(PREPARED_MIN / 4).await;
        world.set_life("node-c", Life::Up);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    world.until_authority_is(AUTHORITY_STEADY, WISH, LIMIT).await.unwrap();
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_started_again_in_the_middle_of_a_rotation_is_waited_for_while_it_is_away_for_minutes() {
    let world = installed(1).await;
    world.wish_for_another_authority(WISH);
    world.until_authority_is(AUTHORITY_PREPARED, WISH, LIMIT).await.unwrap();
    world.set_life("node-c", Life::Down);
    tokio::time::sleep(LAGGARD_MAX / 2).await;
    let phase = world.told_of_the_authority(AUTHORITY_PHASE);
    assert_ne!(phase, AUTHORITY_STEADY, "the old authority is trusted still");
    world.set_life("node-c", Life::Up);
    world.until_authority_is(AUTHORITY_STEADY, WISH, LIMIT).await.unwrap();
    world.settle().await.expect("it settles");
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn whichever_replica_leads_in_each_phase_one_new_authority_is_made() {
    let world = installed(2).await;
    world.wish_for_another_authority(WISH);
    for phase in [AUTHORITY_PREPARED, AUTHORITY_ACTIVE, AUTHORITY_STEADY] {
        world.until_authority_is(phase, WISH, LIMIT).await.unwrap();
        let leads = |place: &usize| world.operator(*place, |process| process.leads()) == Some(true);
        let leader = (0..2).find(leads).expect("one leads");
        // It is started again, and the other one leads by then.
        world.operator(leader, |process| process.kill());
    }
    world.until_authority_is(AUTHORITY_STEADY, WISH, LIMIT).await.unwrap();
    world.settle().await.expect("it settles");
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_wish_during_a_rotation_is_honoured_when_that_is_over_and_one_that_is_no_moment_never() {
    let world = installed(1).await;
    world.wish_for_another_authority(WISH);
    world.until_authority_is(AUTHORITY_PREPARED, WISH, LIMIT).await.unwrap();
    world.wish_for_another_authority(ANOTHER);
    world.until_authority_is(AUTHORITY_ACTIVE, WISH, LIMIT).await.unwrap();
    world
        .until_authority_is(AUTHORITY_STEADY, ANOTHER, LIMIT)
        .await
        .unwrap();
    world.wish_for_another_authority("now, please");
    tokio::time::sleep(LIMIT).await;
    assert_eq!(world.told_of_the_authority(AUTHORITY_ROTATED_FOR), ANOTHER);
    assert_eq!(world.told_of_the_authority(AUTHORITY_PHASE), AUTHORITY_STEADY);
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn while_nobody_asks_the_authority_costs_no_write_and_no_read_but_that_of_its_map() {
    let world = installed(2).await;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    world.api.set_hook(Arc::new(move |request, moment| {
        let kind = request.request.kind.plural;
        if moment == Moment::Before && matches!(kind, "secrets" | "configmaps") {
            seen.lock().unwrap().push(request.request.text());
        }
        Verdict::Continue
    }));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asked = asked.lock().unwrap();
    let reads = ["List configmaps", "Watch configmaps"];
    let others: Vec<&String> = asked
        .iter()
        .filter(|text| !reads.iter().any(|read| text.starts_with(read)))
        .collect();
    assert_eq!(others, Vec::<&String>::new());
    // Each replica begins its watch anew every five minutes, and lists then.
    assert!(!asked.is_empty() && asked.len() <= 2 * 40, "{}", asked.len());
}
