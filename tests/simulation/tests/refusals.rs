//! What is refused for minutes is asked again seldom, and once it is granted everything comes to its end by itself.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apimodel::{Failure, Moment, Seen, Verb, Verdict};
use simulation::objects::INSTALLATION;
use simulation::world::{Shape, World};

/// How long it is refused.
const REFUSED_MINUTES: usize = 12;
/// The lease is looked at every two seconds, so that somebody leads soon again. All else has pauses that grow to half a minute.
const ATTEMPTS_PER_MINUTE_MAX: usize = 40;
/// Of statuses alone.
const STATUSES_PER_MINUTE_MAX: usize = 8;
/// A shard that is let go and loaded again is away for longer.
const LOOK: Duration = Duration::from_millis(500);
const MINUTE: Duration = Duration::from_secs(60);

/// What a rule of a role gives: a verb on a kind, or on a part of its objects.
type Right = (Verb, &'static str, String);

fn right(seen: &Seen<'_>) -> Right {
    let request = seen.request;
    (request.verb, request.kind.plural, request.subresource.clone())
}

/// Refuses what operators ask of this kind from now on, and counts it.
fn refuse(
    world: &World,
    (code, reason): (u16, &'static str),
    which: impl Fn(&Seen<'_>) -> bool + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    world.api.set_hook(Arc::new(move |seen: &Seen<'_>, moment: Moment| {
        if moment != Moment::Before || !seen.client.starts_with("operator") || !which(seen) {
            return Verdict::Continue;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        Verdict::Answer(Failure::new(code, reason, "not for now"))
    }));
    attempts
}

fn grant_everything(world: &World) {
    world
        .api
        .set_hook(Arc::new(|_: &Seen<'_>, _: Moment| Verdict::Continue));
}

/// Nodes with a card each, which the operator reserves.
fn shape() -> Shape {
    Shape {
        cards: 1,
        ..Shape::default()
    }
}

/// All that an operator does: it begins, places a model, reserves cards and gives one back.
async fn work(world: &mut World) {
    world.keep_operator(0, "operator-0");
    world.ask_for("m", 1, 1);
    tokio::time::sleep(MINUTE).await;
    assert!(world.delete("/v1/pods", INSTALLATION, "shardwright-agent-node-d"));
    tokio::time::sleep(MINUTE * (REFUSED_MINUTES as u32 - 1)).await;
}

fn in_simulated_time<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime
        .expect("a runtime without IO needs nothing of the system")
        .block_on(story)
}

/// The rights that an operator makes use of.
fn rights() -> BTreeSet<Right> {
    in_simulated_time(async {
        let mut world = World::new(&shape());
        let used: Arc<Mutex<BTreeSet<Right>>> = Arc::default();
        let noted = Arc::clone(&used);
        world.api.set_hook(Arc::new(move |seen: &Seen<'_>, _: Moment| {
            if seen.client.starts_with("operator") {
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(right(seen));
            }
            Verdict::Continue
        }));
        work(&mut world).await;
        std::mem::take(&mut *used.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// An operator that begins without this right, and gets it later.
async fn begin_without(missing: Right) {
    let mut world = World::new(&shape());
    let refused = missing.clone();
    let attempts = refuse(&world, (403, "Forbidden"), move |seen| right(seen) == refused);
    work(&mut world).await;
    let attempts = attempts.load(Ordering::Relaxed);
    println!("{missing:?}: {attempts} attempts in {REFUSED_MINUTES} minutes");
    assert!(
        attempts > 0 && attempts <= REFUSED_MINUTES * ATTEMPTS_PER_MINUTE_MAX,
        "{missing:?}: {attempts} attempts"
    );
    grant_everything(&world);
    let what = format!("it serves once the right to {missing:?} is there");
    world.until(&what, |world| world.is_ready("m")).await;
    world.settle().await.expect("it settles");
    world.assert_sound();
}

#[test]
fn whichever_right_is_missing_the_operator_asks_seldom_and_serves_once_it_has_it() {
    let rights = rights();
    // Models, devices, links, nodes and pods listed and watched; keys, trust and the lease read and made; statuses, pods and events.
    assert!(rights.len() >= 18, "{rights:?}");
    for missing in rights {
        in_simulated_time(begin_without(missing));
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_may_do_nothing_any_more_asks_seldom_and_what_serves_serves_on() {
    let world = World::kept(&Shape::default());
    world.ask_for("m", 1, 1);
    world.settle().await.expect("it settles");
    let (epoch, serving) = (world.epoch("m"), world.serving());
    assert_eq!(serving.len(), 2);
    let attempts = refuse(&world, (403, "Forbidden"), |_| true);
    // Watches that stand would go on for minutes.
    world.api.break_connections();
    let end = world.now() + MINUTE * REFUSED_MINUTES as u32;
    while world.now() < end {
        tokio::time::sleep(LOOK).await;
        assert_eq!(world.serving(), serving, "at {:?}", world.now());
    }
    let attempts = attempts.load(Ordering::Relaxed);
    println!("{attempts} attempts in {REFUSED_MINUTES} minutes");
    assert!(attempts <= REFUSED_MINUTES * ATTEMPTS_PER_MINUTE_MAX, "{attempts}");
    grant_everything(&world);
    let leads = |world: &World| world.operator(0, |process| process.leads()) == Some(true);
    world.until("it leads again", leads).await;
    world.settle().await.expect("it settles");
    assert_eq!((world.epoch("m"), world.serving()), (epoch, serving));
    world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_refused_as_a_conflict_for_minutes_is_written_seldom_and_placed_once_it_is_taken() {
    let world = World::kept(&Shape::default());
    let attempts = refuse(&world, (409, "Conflict"), |seen| {
        seen.request.verb == Verb::Apply && seen.request.subresource == "status"
    });
    world.ask_for("m", 1, 1);
    tokio::time::sleep(MINUTE * REFUSED_MINUTES as u32).await;
    let attempts = attempts.load(Ordering::Relaxed);
    println!("{attempts} attempts in {REFUSED_MINUTES} minutes");
    let allowed = REFUSED_MINUTES..=REFUSED_MINUTES * STATUSES_PER_MINUTE_MAX;
    assert!(allowed.contains(&attempts), "{attempts}");
    assert_eq!(
        world.serving(),
        Vec::<String>::new(),
        "what is in no status is in force nowhere"
    );
    grant_everything(&world);
    world.until("it serves", |world| world.is_ready("m")).await;
    world.settle().await.expect("it settles");
    assert_eq!(world.epoch("m"), 1, "it was placed once");
    world.assert_sound();
}
