//! An API server that is away, silent, slow, or has objects that cannot be read: what serves goes on, and nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use apimodel::{Change, Key, Moment, Seen, Store, Verdict, kinds};
use serde_json::{Value, json};
use simulation::invariants;
use simulation::objects::{self, MODELS};
use simulation::world::{MODEL, Shape, World, is_birth_or_death, is_state};

/// A shard that is let go and loaded again is away for longer.
const LOOK: Duration = Duration::from_millis(500);
/// What does not come to pass within this time never will.
const LIMIT: Duration = Duration::from_secs(120);
/// A leader that cannot renew its lease acts for ten seconds after the begin of the last renewal.
const LEADS_AT_MOST: Duration = Duration::from_secs(11);
/// Longer than it takes until somebody leads again and has decided.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// A new leader has the layers for the loss of a node fetched anew, and tells how far that is: two stages for each of two nodes.
const WRITES_OF_A_NEW_LEADER: usize = 10;

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

fn leaders(world: &World) -> Vec<usize> {
    let leads = |place: &usize| world.operator(*place, |process| process.leads()) == Some(true);
    (0..2).filter(leads).collect()
}

fn says_ready(status: &Value) -> bool {
    let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|conditions| conditions.iter().any(is_ready))
}

fn placed(model: &Value) -> Value {
    let conditions = model["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let placed = conditions.find(|condition| condition["type"] == "Placed");
    placed.cloned().unwrap_or_default()
}

/// People are told what of a spec cannot be read, and what to do about it.
fn assert_told(model: &Value, unknown: &str) {
    let placed = placed(model);
    let message = placed["message"].as_str().unwrap_or_default();
    assert_eq!(placed["reason"], "InvalidSpec", "{placed:#}");
    assert!(
        message.contains(unknown) && message.contains("upgrade the operator"),
        "{placed:#}"
    );
}

/// What every host holds.
fn held(world: &World) -> Vec<String> {
    world.hosts.values().flat_map(|host| host.agent().holds()).collect()
}

/// Every host serves this for so long.
async fn serve_on(world: &World, time: Duration, serves: &[String]) {
    let end = world.now() + time;
    while world.now() < end {
        tokio::time::sleep(LOOK).await;
        assert_eq!(world.serving(), serves, "at {:?}", world.now());
    }
}

async fn until_one_leads(world: &World) {
    world.until("one leads", |world| leaders(world).len() == 1).await;
}

/// The statuses that operators wrote after so many.
fn written_after(world: &World, count: usize) -> Vec<Value> {
    world.api.with(|store| {
        let ours =
            |change: &&Arc<Change>| change.key.kind().plural == "inferencemodels" && change.by.starts_with("operator");
        let later = store.log().iter().filter(ours).skip(count);
        later.map(|change| change.object["status"].clone()).collect()
    })
}

/// Since so many writes, people saw the model ready all the time, and little else.
fn assert_calm(world: &World, count: usize) {
    let written = written_after(world, count);
    assert!(written.iter().all(says_ready), "{written:#?}");
    assert!(
        written.len() <= WRITES_OF_A_NEW_LEADER,
        "{}: {written:#?}",
        written.len()
    );
}

fn assert_sound(world: &World) {
    let mut broken = invariants::of_history(world);
    broken.extend(invariants::of_end(world, true));
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_every_host_serves_on_and_afterwards_nothing_was_placed_anew() {
    let world = one_model().await;
    let (before, serves) = (epoch(&world), world.serving());
    assert_eq!(serves.len(), 2);
    for away in [Duration::from_secs(30), Duration::from_secs(600)] {
        let written = world.status_writes();
        world.api.set_available(false);
        serve_on(&world, away, &serves).await;
        assert!(leaders(&world).is_empty(), "nobody can renew the lease");
        world.api.set_available(true);
        until_one_leads(&world).await;
        serve_on(&world, AFTERWARDS, &serves).await;
        world.settle().await.unwrap();
        assert_eq!(epoch(&world), before);
        assert_calm(&world, written);
    }
    assert_sound(&world);
}

/// Requests and watches of all operators stand still, and the operators themselves do not.
fn silence(world: &World, silent: bool) {
    for place in 0..2 {
        world.operator(place, |process| process.connection.freeze(silent));
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_silent_nobody_leads_for_long_and_agents_hold_what_they_held() {
    let world = one_model().await;
    let (before, serves) = (epoch(&world), world.serving());
    let (changes, written) = (world.api.with(|store| store.log().len()), world.status_writes());
    silence(&world, true);
    serve_on(&world, LEADS_AT_MOST, &serves).await;
    nobody_leads(&world, Duration::from_secs(60) - LEADS_AT_MOST, &serves).await;
    silence(&world, false);
    until_one_leads(&world).await;
    serve_on(&world, AFTERWARDS, &serves).await;
    world.settle().await.unwrap();
    assert_eq!((leaders(&world).len(), epoch(&world)), (1, before));
    assert_calm(&world, written);
    let made: Vec<String> = world.api.with(|store| {
        let new = store.log()[changes..].iter();
        let made = new.filter(|change| is_state(&change.key) && is_birth_or_death(change.happened));
        made.map(|change| change.key.to_string()).collect()
    });
    assert_eq!(made, Vec::<String>::new());
    assert_sound(&world);
}

/// Nobody leads for so long, and every host serves this.
async fn nobody_leads(world: &World, time: Duration, serves: &[String]) {
    let end = world.now() + time;
    while world.now() < end {
        assert!(leaders(world).is_empty(), "at {:?}", world.now());
        serve_on(world, LOOK, serves).await;
    }
}

/// Something happens that the leader is not told of, and that the store has forgotten when the leader asks for it.
async fn unheard(world: &World, happens: impl FnOnce()) {
    let (leading, serves) = (leaders(world), world.serving());
    let revision = world.api.with(|store| store.revision());
    world.operator(leading[0], |process| process.connection.hold_events(Some(revision)));
    happens();
    serve_on(world, Duration::from_secs(5), &serves).await;
    assert_eq!(leaders(world), leading, "it leads, and has heard nothing");
    world.api.with(Store::compact);
    world.api.break_connections();
    world.operator(leading[0], |process| process.connection.hold_events(None));
}

#[tokio::test(start_paused = true)]
async fn of_a_model_whose_end_no_watch_tells_nothing_is_held() {
    let world = one_model().await;
    unheard(&world, || assert!(world.delete(MODEL, MODELS, "m"))).await;
    world
        .until("everything is let go", |world| held(world).is_empty())
        .await;
    world.settle().await.unwrap();
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_made_anew_while_no_watch_told_of_it_is_served_and_of_the_old_one_nothing_is_held() {
    let world = one_model().await;
    unheard(&world, || {
        assert!(world.delete(MODEL, MODELS, "m"));
        world.ask_for("m", 1, 1);
    })
    .await;
    world.until("the new one is ready", |world| world.is_ready("m")).await;
    world.settle().await.unwrap();
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_somebody_else_applied_is_there_after_the_operator_wrote_the_status_again() {
    let world = one_model().await;
    let foreign = json!({
        "type": "Audited", "status": "True", "reason": "Seen", "message": "by hand",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let kind = kinds::find("shardwright.dev", "v1alpha1", "inferencemodels").unwrap();
    let key = Key::new(kind, MODELS, "m");
    let status = json!({ "status": { "conditions": [foreign] } });
    let auditor = world.api.caller("auditor");
    world.api.apply(&key, "status", &status, &auditor).unwrap();
    world.settle().await.unwrap();
    let written = world.status_writes();
    assert!(world.patch(MODEL, MODELS, "m", &json!({ "spec": { "contextLength": 128 } })));
    world.settle().await.unwrap();
    assert!(world.status_writes() > written);
    let model = world.object(MODEL, MODELS, "m").unwrap();
    let conditions = model["status"]["conditions"].as_array().unwrap();
    let audited = conditions.iter().filter(|condition| condition["type"] == "Audited");
    assert_eq!(audited.collect::<Vec<_>>(), [&foreign]);
    let written = world.status_writes();
    tokio::time::sleep(AFTERWARDS).await;
    assert_eq!(
        world.status_writes(),
        written,
        "what others wrote is no reason to write"
    );
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_takes_two_seconds_for_every_answer_is_fast_enough_to_lead_and_to_place() {
    let world = two_operators();
    world.api.set_hook(Arc::new(|seen: &Seen<'_>, moment: Moment| {
        if moment == Moment::Before && seen.client.starts_with("operator") {
            return Verdict::Delay(Duration::from_secs(2));
        }
        Verdict::Continue
    }));
    world.ask_for("m", 1, 1);
    until_one_leads(&world).await;
    let (leading, began) = (leaders(&world), world.now());
    let mut ready_after = None;
    // Everything is listed anew meanwhile.
    while world.now() - began < Duration::from_secs(600) {
        tokio::time::sleep(LOOK).await;
        assert_eq!(leaders(&world), leading, "{:?} after it began", world.now() - began);
        if ready_after.is_none() && world.is_ready("m") {
            ready_after = Some(world.now() - began);
        }
    }
    assert!(ready_after.is_some_and(|took| took < LIMIT), "{ready_after:?}");
    world.settle().await.unwrap();
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_keeps_no_other_from_being_placed_by_this_leader_or_the_next() {
    let world = two_operators();
    // A leader is there, and has listed what there is.
    world.settle().await.unwrap();
    let mut later = objects::model("later", 3, 1);
    later["spec"]["determinism"] = json!("Later");
    world.create(MODEL, MODELS, later);
    world.ask_for("m", 1, 1);
    world.until("m is ready", |world| world.is_ready("m")).await;
    let before = epoch(&world);
    for place in 0..2 {
        world.operator(place, |process| process.connection.kill());
    }
    world.ask_for("n", 2, 1);
    world.until("n is ready", |world| world.is_ready("n")).await;
    world.settle().await.unwrap();
    assert_eq!(epoch(&world), before);
    assert!(world.is_ready("m"));
    let later = world.object(MODEL, MODELS, "later").unwrap();
    assert!(later["status"]["placement"].is_null(), "{later:#}");
    assert_told(&later, "Later");
    assert_eq!(invariants::of_history(&world), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_serves_and_comes_to_ask_for_something_unknown_serves_on_and_is_told_why() {
    let world = one_model().await;
    let (before, serves) = (epoch(&world), world.serving());
    assert!(world.patch(MODEL, MODELS, "m", &json!({ "spec": { "determinism": "Later" } })));
    serve_on(&world, AFTERWARDS, &serves).await;
    assert_told(&world.object(MODEL, MODELS, "m").unwrap(), "Later");
    for place in 0..2 {
        world.operator(place, |process| process.connection.kill());
    }
    serve_on(&world, AFTERWARDS, &serves).await;
    assert!(world.patch(MODEL, MODELS, "m", &json!({ "spec": { "determinism": "Strict" } })));
    world
        .until("it is read again", |world| {
            let model = world.object(MODEL, MODELS, "m").unwrap();
            placed(&model)["status"] == "True" && world.is_ready("m")
        })
        .await;
    assert!(epoch(&world) >= before);
    assert_sound(&world);
}
