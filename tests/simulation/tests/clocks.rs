//! Operators whose dates differ, jump and stand still: who leads, and for how long, is a matter of what was seen change.

use std::time::{Duration, SystemTime};

use simulation::clocks::Clock;
use simulation::invariants;
use simulation::objects::INSTALLATION;
use simulation::world::{Shape, World};

const LEASE: &str = "coordination.k8s.io/v1/leases";
/// Just below what certificates allow for.
const MINUTES: i64 = 290;
/// A shard that is let go and loaded again is away for longer.
const LOOK: Duration = Duration::from_millis(500);
/// A lease that nobody renews lapses, and then some.
const LEADS_AGAIN: Duration = Duration::from_secs(20);
/// Several leases.
const LONG: Duration = Duration::from_secs(120);

/// A model that serves under one of two operators with these clocks.
async fn one_model(clocks: [Clock; 2]) -> World {
    let world = World::kept(&Shape {
        operators: 2,
        ..Shape::default()
    });
    for (place, clock) in clocks.into_iter().enumerate() {
        world.set_clock(place, clock);
    }
    world.ask_for("m", 1, 1);
    world.settle().await.expect("it settles");
    world
}

fn leaders(world: &World) -> Vec<usize> {
    let leads = |place: &usize| world.operator(*place, |process| process.leads()) == Some(true);
    (0..2).filter(leads).collect()
}

/// For so long one leads, and nothing is placed.
async fn is_led_by(world: &World, leads: &[usize], time: Duration) {
    let (end, before) = (world.now() + time, world.epoch("m"));
    while world.now() < end {
        tokio::time::sleep(LOOK).await;
        assert_eq!((leaders(world).as_slice(), world.epoch("m")), (leads, before));
    }
}

fn assert_sound(world: &World) {
    let mut broken = invariants::of_history(world);
    broken.extend(invariants::of_end(world, true));
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_leader_is_followed_as_soon_and_no_sooner_whichever_of_the_two_has_the_later_date() {
    for ahead in [MINUTES, -MINUTES] {
        let world = one_model([Clock::Ahead(ahead), Clock::Ahead(-ahead)]).await;
        let (before, serves) = (world.epoch("m"), world.serving());
        for _ in 0..4 {
            let leads = leaders(&world);
            assert_eq!(leads.len(), 1);
            is_led_by(&world, &leads, LONG).await;
            // It stands still, and the other one takes over.
            world.operator(leads[0], |process| process.freeze(true));
            let frozen = world.now();
            let other = 1 - leads[0];
            let leads = |world: &World| world.operator(other, |process| process.leads()) == Some(true);
            world.until("the other one leads", leads).await;
            assert!(world.now() - frozen < LEADS_AGAIN, "{:?}", world.now() - frozen);
            world.operator(1 - other, |process| process.freeze(false));
            world.settle().await.expect("it settles");
        }
        assert_eq!((world.epoch("m"), world.serving()), (before, serves));
        assert_sound(&world);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_date_jumps_by_hours_to_and_fro_leads_on_and_moves_nothing() {
    let world = one_model([Clock::Ahead(0); 2]).await;
    let leads = leaders(&world);
    for ahead in [3600, -7200, 5, 0, -5, 43_000, 0] {
        world.set_clock(leads[0], Clock::Ahead(ahead));
        is_led_by(&world, &leads, LONG).await;
    }
    world.settle().await.expect("it settles");
    assert_sound(&world);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_stands_still_leads_on_for_every_renewal_is_a_change() {
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let world = one_model([Clock::StandsAt(noon); 2]).await;
    let leads = leaders(&world);
    assert_eq!(leads.len(), 1);
    let renewed = || {
        let lease = world.object(LEASE, INSTALLATION, crds::names::LEADER_LEASE);
        let lease = lease.expect("a lease");
        lease["spec"]["renewTime"].as_str().expect("a date").to_owned()
    };
    let mut last = renewed();
    for _ in 0..10 {
        // Two renewals.
        is_led_by(&world, &leads, Duration::from_secs(10)).await;
        let next = renewed();
        assert!(next > last, "{next} after {last}");
        last = next;
    }
    assert_sound(&world);
}
