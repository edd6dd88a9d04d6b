//! Faults whose moment chance seldom hits.

use std::sync::Arc;
use std::time::Duration;

use apimodel::{Moment, Verb, Verdict};
use serde_json::{Value, json};
use simulation::host::Life;
use simulation::invariants;
use simulation::objects::{MODELS, Measured, uri};
use simulation::world::{DEVICE, MODEL, NODE_BYTES, Shape, World, nodes};
use tokio::sync::watch;

/// Longer than a lease and what follows its end.
const FROZEN: Duration = Duration::from_secs(60);

fn two_operators() -> World {
    World::kept(&Shape {
        operators: 2,
        ..Shape::default()
    })
}

fn epoch(world: &World) -> u64 {
    world.epoch("m")
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

/// Where a model is, as its status says.
fn devices(world: &World, model: &str) -> Vec<String> {
    let model = world.object(MODEL, MODELS, model).expect("the model is there");
    let stages = model["status"]["placement"]["stages"].as_array().cloned();
    let device = |stage: &Value| stage["device"].as_str().expect("a device").to_owned();
    stages.unwrap_or_default().iter().map(device).collect()
}

/// Status, reason and message of a condition.
fn condition(world: &World, model: &str, kind: &str) -> [String; 3] {
    let model = world.object(MODEL, MODELS, model).expect("the model is there");
    let conditions = model["status"]["conditions"].as_array().expect("conditions").clone();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    let found = found.expect("it is set");
    ["status", "reason", "message"].map(|field| found[field].as_str().expect("text").to_owned())
}

fn assert_held(world: &World, model: &str, on: &[String]) {
    assert_eq!(devices(world, model), on);
    assert_eq!(condition(world, model, "Ready")[0], "True");
    let [status, reason, message] = condition(world, model, "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "QuarantineLimitReached"));
    assert!(message.contains("left or lost within 5 minutes"), "{message}");
    let names_one = |device: &String| message.contains(&format!("kubectl patch gpu {device} "));
    assert!(on.iter().any(names_one), "{message}");
}

#[tokio::test(start_paused = true)]
async fn where_most_devices_are_condemned_at_once_what_serves_stays_until_a_person_decides() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(|name| format!("node-{name}"));
    let mut world = World::new(&Shape {
        nodes: nodes(&names.each_ref().map(String::as_str)),
        operators: 2,
        ..Shape::default()
    });
    for place in 0..2 {
        world.keep_operator(place, &format!("operator-{place}"));
    }
    world.ask_for("m", 1, 1);
    world.ask_for("n", 2, 1);
    world.settle().await.unwrap();
    let (m, n) = (devices(&world, "m"), devices(&world, "n"));
    let epochs = (m.len(), n.len(), epoch(&world));
    assert_eq!((epochs.0, epochs.1), (2, 2));
    let node_of = |device: &String| device.trim_end_matches("-cpu0").to_owned();
    let used: Vec<String> = m.iter().chain(&n).map(node_of).collect();
    let spare: Vec<&String> = names.iter().filter(|node| !used.contains(node)).collect();

    // A driver that was rolled out everywhere but to one node.
    for node in used.iter().chain(spare.iter().copied().skip(1)) {
        world.report_device(node, NODE_BYTES, false);
    }
    world.settle().await.unwrap();
    assert_held(&world, "m", &m);
    assert_held(&world, "n", &n);

    // Neither time nor another leader releases it.
    world.operator(leader(&world), |process| process.connection.kill());
    tokio::time::sleep(Duration::from_secs(900)).await;
    world.settle().await.unwrap();
    assert_held(&world, "m", &m);
    assert_held(&world, "n", &n);
    assert_eq!(epoch(&world), epochs.2);

    // There is room again, and a person has one of the models leave.
    for node in spare.iter().take(3) {
        world.report_device(node, NODE_BYTES, true);
    }
    world.settle().await.unwrap();
    assert_held(&world, "m", &m);
    for device in &m {
        assert!(world.patch(DEVICE, "", device, &json!({ "spec": { "cordoned": true } })));
    }
    world.settle().await.unwrap();
    let moved = devices(&world, "m");
    assert!(
        moved.iter().all(|device| !m.contains(device) && !n.contains(device)),
        "{moved:?}"
    );
    assert_eq!(condition(&world, "m", "Ready")[0], "True");
    assert_eq!(condition(&world, "m", "Degraded")[1], "AsExpected");
    assert_held(&world, "n", &n);

    // The driver is put right.
    for node in &names {
        world.report_device(node, NODE_BYTES, true);
    }
    world.settle().await.unwrap();
    assert_eq!(devices(&world, "n"), n);
    assert_eq!(condition(&world, "n", "Degraded")[1], "AsExpected");
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_ends_on_a_held_device_is_placed_anew() {
    let names = ["node-a", "node-b", "node-c", "node-d", "node-e"];
    let mut world = World::new(&Shape {
        nodes: nodes(&names),
        ..Shape::default()
    });
    world.keep_operator(0, "operator-0");
    world.ask_for("m", 1, 1);
    world.settle().await.unwrap();
    let m = devices(&world, "m");
    // The limit is two of five, and one spare device is the first of three.
    let spare = names.iter().find(|node| !m.contains(&format!("{node}-cpu0"))).unwrap();
    world.report_device(spare, NODE_BYTES, false);
    for device in &m {
        world.report_device(device.trim_end_matches("-cpu0"), NODE_BYTES, false);
    }
    world.settle().await.unwrap();
    assert_held(&world, "m", &m);
    let lost = m[0].trim_end_matches("-cpu0");
    world.set_life(lost, Life::Down);
    world.settle().await.unwrap();
    let moved = devices(&world, "m");
    assert!(moved.iter().all(|device| !m.contains(device)), "{moved:?}");
    assert_eq!(condition(&world, "m", "Ready")[0], "True");
    assert_eq!(condition(&world, "m", "Degraded")[1], "AsExpected");
}

#[tokio::test(start_paused = true)]
async fn devices_whose_objects_are_all_deleted_keep_what_serves_on_them_until_the_objects_are_back() {
    let world = two_operators();
    world.ask_for("m", 1, 1);
    world.settle().await.unwrap();
    let (m, before) = (devices(&world, "m"), epoch(&world));
    let names: Vec<String> = world.hosts.keys().cloned().collect();
    // One after the other, as with the end of their kind: those that serve first, while others are still there.
    let (used, spare): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|node| m.contains(&format!("{node}-cpu0")));
    for node in used.iter().chain(&spare) {
        assert!(world.delete(DEVICE, "", &format!("{node}-cpu0")));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    world.settle().await.unwrap();
    assert_eq!((devices(&world, "m"), epoch(&world)), (m.clone(), before));
    assert_eq!(condition(&world, "m", "Ready")[0], "True");
    let [status, _, message] = condition(&world, "m", "Placed");
    assert_eq!(status, "True");
    assert!(
        message.contains(&format!("no DeviceGPUState tells of {}", m.join(", "))),
        "{message}"
    );

    for node in &names {
        world.report_device(node, NODE_BYTES, true);
    }
    world.settle().await.unwrap();
    assert_eq!(epoch(&world), before);
    let told = &condition(&world, "m", "Placed")[2];
    assert!(!told.contains("DeviceGPUState"), "{told}");
    assert_sound(&world);
}

/// Of a gigabit link, bytes per second.
const GIGABIT: i64 = 117_500_000;
/// A hop of the model takes as long as computing a token.
const SLOW: i64 = 50_000;

/// Every agent tells that its links carry a gigabit, but for what these nodes carry to each other, if that is less.
fn report_links(world: &World, between: &[String], less: Option<i64>) {
    for node in world.hosts.keys() {
        let measured = |peer: &String| {
            let less = less.filter(|_| between.contains(node) && between.contains(peer));
            Measured {
                peer: peer.clone(),
                rate: less.unwrap_or(GIGABIT),
                before: less.map(|_| GIGABIT),
            }
        };
        let peers = world.hosts.keys().filter(|peer| *peer != node);
        world.report_links(node, &peers.map(measured).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_is_told_and_left_once_that_gained_for_ten_minutes_and_one_that_comes_and_goes_moves_nothing() {
    let names = ["node-a", "node-b", "node-c", "node-d"];
    // Each has room for what serves and what is loaded beside it.
    let mut world = World::new(&Shape {
        nodes: names.map(|name| (name.to_owned(), 4 * NODE_BYTES)).to_vec(),
        ..Shape::default()
    });
    report_links(&world, &[], None);
    world.keep_operator(0, "operator-0");
    world.ask_for("m", 1, 1);
    let over_two = json!({ "spec": { "placement": { "minDevices": 2, "maxDevices": 2 } } });
    world.patch(MODEL, MODELS, "m", &over_two);
    world.settle().await.unwrap();
    let before = epoch(&world);
    let used: Vec<String> = devices(&world, "m")
        .iter()
        .map(|device| device.trim_end_matches("-cpu0").to_owned())
        .collect();
    assert_eq!(used.len(), 2, "{used:?}");

    for _ in 0..5 {
        report_links(&world, &used, Some(SLOW));
        tokio::time::sleep(Duration::from_secs(8 * 60)).await;
        report_links(&world, &used, None);
        tokio::time::sleep(Duration::from_secs(2 * 60)).await;
        assert_eq!(epoch(&world), before);
    }

    report_links(&world, &used, Some(SLOW));
    let told = format!("LinkSlow 0.400 Mbit/s (was 940) from {} to {}", used[0], used[1]);
    let placed = |world: &World| condition(world, "m", "Placed")[2].clone();
    world
        .until("people are told", |world| placed(world).contains(&told))
        .await;
    assert_eq!(epoch(&world), before, "nobody moves at once");
    tokio::time::sleep(Duration::from_secs(13 * 60)).await;
    world.settle().await.unwrap();
    assert!(epoch(&world) > before, "{}", placed(&world));
    let moved = devices(&world, "m");
    let is_used = |device: &String| used.contains(&device.trim_end_matches("-cpu0").to_owned());
    assert!(!moved.iter().all(is_used), "{moved:?}");
    assert!(!placed(&world).contains("LinkSlow"), "{}", placed(&world));
    assert_eq!(condition(&world, "m", "Ready")[0], "True");
    world.assert_sound();
}

/// Three models of which a link carries one in each direction.
#[tokio::test(start_paused = true)]
async fn a_model_of_higher_priority_takes_a_link_and_who_yielded_it_has_it_back_once_that_model_is_gone() {
    let world = World::kept(&Shape {
        nodes: ["node-a", "node-b"]
            .map(|name| (name.to_owned(), 4 * NODE_BYTES))
            .to_vec(),
        ..Shape::default()
    });
    for (node, peer) in [("node-a", "node-b"), ("node-b", "node-a")] {
        let measured = Measured {
            peer: peer.to_owned(),
            rate: 1_000_000,
            before: None,
        };
        world.report_links(node, &[measured]);
    }
    // A hop is 2.5 kB/s at the rate, one stream some 49 kB/s, and 30 kB/s may be used.
    let ask = |name: &str, weights: u32, priority: i32| {
        let placement = json!({ "minDevices": 2, "maxDevices": 2, "minTokensPerSecond": 10, "maxLinkPercent": 3 });
        world.ask_for(name, weights, 1);
        world.patch(
            MODEL,
            MODELS,
            name,
            &json!({ "spec": { "priority": priority, "placement": placement } }),
        );
    };
    ask("m", 1, 0);
    world.settle().await.unwrap();
    ask("n", 2, 0);
    world.settle().await.unwrap();
    let (m, n) = (devices(&world, "m"), devices(&world, "n"));
    assert_eq!(n, [m[1].clone(), m[0].clone()]);

    ask("o", 3, 10);
    world.settle().await.unwrap();
    assert_eq!((devices(&world, "m"), devices(&world, "o")), (m, n.clone()));
    let [from, to] = [&n[0], &n[1]].map(|device| device.trim_end_matches("-cpu0"));
    let [_, reason, message] = condition(&world, "n", "Placed");
    assert_eq!(reason, "Yielded");
    let yielded = format!("yielded the link {from} -> {to} to default/o (priority 10 > 0); ");
    assert!(message.starts_with(&yielded), "{message}");
    let [_, _, message] = condition(&world, "o", "Placed");
    let took = format!("took the link {from} -> {to} from default/n (priority 0)");
    assert!(message.contains(&took), "{message}");
    let rests = (world.epoch("m"), world.epoch("o"));
    tokio::time::sleep(Duration::from_secs(20 * 60)).await;
    assert_eq!((world.epoch("m"), world.epoch("o")), rests);

    world.delete(MODEL, MODELS, "o");
    world.settle().await.unwrap();
    assert_eq!(devices(&world, "n"), n);
    assert_sound(&world);
}
