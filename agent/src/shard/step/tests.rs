mod crashes;
mod suspects;

use super::super::observed::{Event, UNREACHABLE};
use super::*;
use crate::shard::{Place, Purpose, Slice};
use proptest::prelude::*;
use proto::placement::v1::Runtime;
use std::sync::Arc;

fn slice(first_layer: u32, end_layer: u32, device: &str) -> Slice {
    Slice {
        index: gguf::Digest([7; 32]),
        first_layer,
        end_layer,
        total_layers: 30,
        device: device.to_owned(),
        backend: "cpu".to_owned(),
        runtime: Runtime {
            context_length: 128,
            parallel_sequences: 1,
            kv_type: 1,
            max_step_rows: 32,
            ..Runtime::default()
        },
        weight_root: [1; 32],
    }
}

fn slot_of(slice: &Slice) -> Slot {
    Slot::of("uid", slice)
}

/// Of the slice that most of the tests are about.
fn slot() -> Slot {
    slot_of(&slice(0, 10, "cpu0"))
}

fn wanted_for(purpose: Purpose, epoch: u64, slice: Slice, next: Option<&str>) -> Desired {
    let in_force = (purpose == Purpose::Serve).then(|| InForce {
        epoch,
        pipeline_epoch: epoch,
        envelope: Arc::new(vec![epoch as u8]),
        next: next.map(str::to_owned),
    });
    Desired {
        slice,
        places: vec![Place {
            epoch,
            pipeline: 0,
            stage: 0,
            purpose,
        }],
        in_force,
        uri: "file:///m.gguf".to_owned(),
        access: crate::source::Access::default(),
        peers: vec![],
        model: ("ns".to_owned(), "m".to_owned()),
        memory_budget_bytes: 1,
    }
}

fn wanted(epoch: u64, slice: Slice, next: Option<&str>) -> Desired {
    wanted_for(Purpose::Serve, epoch, slice, next)
}

fn installed(epoch: u64, next: Option<&str>) -> Installed {
    Installed {
        epoch,
        pipeline_epoch: epoch,
        next: next.map(str::to_owned),
    }
}

fn suspicion(device: &str) -> Fault {
    Fault::new(DEVICE_SUSPECT, format!("{device}: UncorrectableEcc"))
}

/// One slot under test, with a clock.
struct Bench {
    desired: DesiredShards,
    observed: ObservedShards,
    departed: Departed,
    suspects: Suspects,
    now_ms: u64,
}

impl Bench {
    fn new(desired: impl IntoIterator<Item = Desired>) -> Self {
        let desired = desired.into_iter();
        Self {
            desired: desired.map(|desired| (slot_of(&desired.slice), desired)).collect(),
            observed: BTreeMap::new(),
            departed: Departed::default(),
            suspects: Suspects::new(),
            now_ms: 1_000,
        }
    }

    fn one(epoch: u64) -> Self {
        Self::new([wanted(epoch, slice(0, 10, "cpu0"), None)])
    }

    /// The actions of this moment, begun.
    fn step(&mut self) -> Vec<Action> {
        let actions = step(&self.desired, &self.observed, &self.suspects, self.now_ms);
        for (slot, action) in &actions {
            let (observed, departed) = (&mut self.observed, &mut self.departed);
            begin(observed, departed, &self.desired, (slot, action), self.now_ms);
        }
        actions.into_iter().map(|(_, action)| action).collect()
    }

    fn event(&mut self, event: Event) {
        self.event_of(&slot(), event);
    }

    fn event_of(&mut self, slot: &Slot, event: Event) {
        let now_ms = self.now_ms;
        self.observed.get_mut(slot).unwrap().apply(event, now_ms, 1.0);
    }

    fn status(&mut self, phase: WorkerPhase) {
        self.event(Event::Status {
            phase,
            endpoint: Some("a:1".to_owned()),
        });
    }

    /// Through all work, to a worker that is heard.
    fn running(mut self) -> Self {
        self.step();
        for work in [Work::Fetch, Work::Verify, Work::Prepare, Work::Spawn] {
            assert_eq!(self.step(), [Action::Start(work)]);
            assert!(self.step().is_empty(), "one thing at a time");
            self.event(Event::Done(work));
        }
        self.status(WorkerPhase::Loading);
        self
    }

    fn serving(self, epoch: u64) -> Self {
        let mut bench = self.running();
        let offer = installed(epoch, None);
        assert_eq!(bench.step(), [Action::Install(offer.clone())]);
        bench.event(Event::Accepted(offer));
        bench.status(WorkerPhase::Serving);
        assert!(bench.step().is_empty());
        bench
    }

    /// From now on nothing that the device computes can be trusted.
    fn suspect(&mut self, device: &str) {
        self.suspects.insert(device.to_owned(), suspicion(device));
    }

    fn want(&mut self, desired: Desired) {
        self.desired.insert(slot_of(&desired.slice), desired);
    }

    fn want_only(&mut self, desired: Desired) {
        self.desired.clear();
        self.want(desired);
    }
}

#[test]
fn a_shard_is_fetched_verified_prepared_spawned_and_told_its_placement() {
    Bench::one(1).serving(1);
}

#[test]
fn a_worker_that_is_not_heard_yet_is_told_nothing() {
    let mut bench = Bench::one(1);
    bench.step();
    for work in [Work::Fetch, Work::Verify, Work::Prepare, Work::Spawn] {
        bench.step();
        bench.event(Event::Done(work));
    }
    assert!(bench.step().is_empty());
}

#[test]
fn the_same_slice_in_a_newer_epoch_keeps_the_worker_and_installs_anew() {
    let mut bench = Bench::one(1).serving(1);
    bench.want(wanted(2, slice(0, 10, "cpu0"), None));
    let offer = installed(2, None);
    assert_eq!(bench.step(), [Action::Install(offer.clone())]);
    assert!(bench.step().is_empty(), "asked once");
    bench.event(Event::Accepted(offer));
    assert!(bench.step().is_empty());
    assert_eq!(bench.observed[&slot()].epoch, 2);
}

#[test]
fn a_new_route_is_installed_and_a_route_that_is_not_known_is_no_news() {
    let mut bench = Bench::one(1).serving(1);
    bench.want(wanted(1, slice(0, 10, "cpu0"), Some("b:2")));
    let offer = installed(1, Some("b:2"));
    assert_eq!(bench.step(), [Action::Install(offer.clone())]);
    bench.event(Event::Accepted(offer));
    bench.want(wanted(1, slice(0, 10, "cpu0"), None));
    assert!(bench.step().is_empty());
}

#[test]
fn a_newer_placement_keeps_the_route_where_the_pipeline_stays_and_forgets_it_where_not() {
    for (pipeline_epoch, next) in [(1, Some("b:2")), (2, None)] {
        let mut bench = Bench::one(1).serving(1);
        bench.want(wanted(1, slice(0, 10, "cpu0"), Some("b:2")));
        bench.step();
        bench.event(Event::Accepted(installed(1, Some("b:2"))));
        let mut newer = wanted(2, slice(0, 10, "cpu0"), None);
        newer.in_force.as_mut().unwrap().pipeline_epoch = pipeline_epoch;
        bench.want(newer);
        let offer = Installed {
            pipeline_epoch,
            ..installed(2, next)
        };
        assert_eq!(bench.step(), [Action::Install(offer)]);
    }
}

#[test]
fn a_lower_epoch_moves_nothing() {
    let mut bench = Bench::one(5).serving(5);
    bench.want(wanted(4, slice(0, 10, "cpu0"), Some("b:2")));
    assert!(bench.step().is_empty());
}

#[test]
fn another_slice_of_the_device_is_fetched_at_once_and_loaded_when_the_first_is_gone() {
    let mut bench = Bench::one(1).serving(1);
    let other = slice(0, 15, "cpu0");
    bench.want_only(wanted(2, other.clone(), None));
    let drain = Action::Drain {
        limit_ms: REPLACE_LIMIT_MS,
    };
    assert_eq!(bench.step(), [drain, Action::Adopt]);
    for work in [Work::Fetch, Work::Verify, Work::Prepare] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event_of(&slot_of(&other), Event::Done(work));
    }
    bench.now_ms += REPLACE_LIMIT_MS;
    assert_eq!(bench.step(), [Action::Kill]);
    assert!(bench.step().is_empty(), "the device is full");
    bench.event(Event::Exited(Fault::new("Exited", "")));
    assert_eq!(bench.step(), [Action::Start(Work::Spawn), Action::Forget]);
}

#[test]
fn a_group_is_loaded_when_every_of_its_devices_is_free_and_whoever_is_on_one_of_them_has_little_time() {
    for (before, after) in [("cpu0", "cpu0+cpu1"), ("cpu0+cpu1", "cpu1"), ("cpu0+cpu1", "cpu1+cpu2")] {
        let (first, other) = (slice(0, 10, before), slice(0, 15, after));
        let mut bench = Bench::new([wanted(1, first.clone(), None)]);
        bench.step();
        for work in [Work::Fetch, Work::Verify, Work::Prepare, Work::Spawn] {
            bench.step();
            bench.event_of(&slot_of(&first), Event::Done(work));
        }
        bench.want_only(wanted(2, other.clone(), None));
        let drain = Action::Drain {
            limit_ms: REPLACE_LIMIT_MS,
        };
        assert_eq!(bench.step(), [drain, Action::Adopt], "{before} to {after}");
        for work in [Work::Fetch, Work::Verify, Work::Prepare] {
            assert_eq!(bench.step(), [Action::Start(work)]);
            bench.event_of(&slot_of(&other), Event::Done(work));
        }
        assert!(bench.step().is_empty(), "{before} is full");
        bench.event_of(&slot_of(&first), Event::Exited(Fault::new("Exited", "")));
        assert!(
            bench.step().contains(&Action::Start(Work::Spawn)),
            "{before} to {after}"
        );
    }
}

#[test]
fn a_shard_in_whose_place_nothing_waits_may_finish_what_it_serves() {
    let elsewhere = slice(10, 20, "vulkan0");
    let mut bench = Bench::one(1).serving(1);
    bench.want_only(wanted(2, elsewhere, None));
    let drain = Action::Drain {
        limit_ms: DRAIN_LIMIT_MS,
    };
    assert!(bench.step().contains(&drain));
}

#[test]
fn what_nobody_wants_is_drained_killed_after_the_limit_and_forgotten() {
    let mut bench = Bench::one(1).serving(1);
    bench.desired.clear();
    assert_eq!(
        bench.step(),
        [Action::Drain {
            limit_ms: DRAIN_LIMIT_MS
        }]
    );
    bench.now_ms += DRAIN_LIMIT_MS - 1;
    assert!(bench.step().is_empty());
    bench.now_ms += 1;
    assert_eq!(bench.step(), [Action::Kill]);
    assert!(bench.step().is_empty());
    bench.event(Event::Exited(Fault::new("Crashed", "")));
    assert_eq!(bench.step(), [Action::Forget]);
    assert!(bench.observed.is_empty());
}

#[test]
fn a_drain_that_was_begun_is_finished_even_if_the_shard_is_wanted_again() {
    let mut bench = Bench::one(1).serving(1);
    let desired = bench.desired.clone();
    bench.desired.clear();
    bench.step();
    bench.desired = desired;
    assert!(bench.step().is_empty());
    bench.event(Event::Exited(Fault::new("Exited", "")));
    assert_eq!(
        bench.step(),
        [Action::Start(Work::Spawn)],
        "its files are still prepared"
    );
}

#[test]
fn a_piece_that_is_gone_when_files_are_prepared_is_fetched_again() {
    let mut bench = Bench::one(1);
    bench.step();
    for work in [Work::Fetch, Work::Verify] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event(Event::Done(work));
    }
    assert_eq!(bench.step(), [Action::Start(Work::Prepare)]);
    bench.event(Event::WorkFailed(Work::Prepare, Fault::new("BadSlice", "")));
    bench.now_ms += 120_000;
    assert_eq!(bench.step(), [Action::Retry]);
    assert_eq!(bench.step(), [Action::Start(Work::Fetch)]);
}

#[test]
fn a_worker_that_served_and_crashed_is_started_again_at_once_and_then_later_and_later() {
    let mut bench = Bench::one(1).serving(1);
    let mut waits = Vec::new();
    for _ in 0..9 {
        bench.event(Event::Exited(Fault::new("Crashed", "")));
        let State::Failed { retry_at_ms, .. } = bench.observed[&slot()].state else {
            panic!("failed")
        };
        let wait_ms = retry_at_ms - bench.now_ms;
        waits.push(wait_ms);
        if wait_ms > 0 {
            assert!(bench.step().is_empty());
        }
        bench.now_ms = retry_at_ms;
        assert_eq!(bench.step(), [Action::Retry]);
        assert_eq!(bench.step(), [Action::Start(Work::Spawn)]);
        bench.event(Event::Done(Work::Spawn));
    }
    assert_eq!(waits, [0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
}

#[test]
fn a_worker_that_serves_for_some_seconds_each_time_is_started_again_at_once_and_its_crashes_are_told() {
    let mut bench = Bench::one(1).serving(1);
    bench.observed.get_mut(&slot()).unwrap().failures = 9;
    for (served_ms, waits) in [(5_000, false), (5_000, false), (5_000, false), (4_999, true)] {
        bench.now_ms += served_ms;
        bench.event(Event::Exited(Fault::new("Crashed", "")));
        let State::Failed { retry_at_ms, .. } = bench.observed[&slot()].state else {
            panic!("failed")
        };
        assert_eq!(retry_at_ms > bench.now_ms, waits, "after {served_ms} ms");
        bench.now_ms = retry_at_ms;
        assert_eq!(bench.step(), [Action::Retry]);
        assert_eq!(bench.step(), [Action::Start(Work::Spawn)]);
        bench.event(Event::Done(Work::Spawn));
        bench.status(WorkerPhase::Serving);
    }
    assert_eq!(bench.observed[&slot()].failures, 13);
}

#[test]
fn a_worker_that_served_for_long_starts_again_at_once_after_a_crash() {
    let mut bench = Bench::one(1).serving(1);
    bench.observed.get_mut(&slot()).unwrap().failures = 9;
    bench.now_ms += 120_000;
    bench.event(Event::Exited(Fault::new("Crashed", "")));
    assert_eq!(bench.observed[&slot()].failures, 1);
}

#[test]
fn weights_that_proved_wrong_are_fetched_again_and_never_loaded() {
    let mut bench = Bench::one(1);
    bench.step();
    bench.step();
    bench.event(Event::Done(Work::Fetch));
    assert_eq!(bench.step(), [Action::Start(Work::Verify)]);
    bench.event(Event::WorkFailed(Work::Verify, Fault::new("DigestMismatch", "")));
    bench.now_ms += 60_000;
    assert_eq!(bench.step(), [Action::Retry]);
    assert_eq!(bench.step(), [Action::Start(Work::Fetch)]);
}

#[test]
fn weights_that_a_worker_refuses_are_fetched_and_verified_again() {
    let mut bench = Bench::one(1).running();
    bench.event(Event::Exited(Fault::new(crate::worker::exit::BAD_WEIGHTS, "")));
    bench.now_ms += 60_000;
    bench.step();
    assert_eq!(bench.step(), [Action::Start(Work::Fetch)]);
}

#[test]
fn a_refused_placement_is_offered_again_but_not_at_once() {
    for (reason, soonest_ms) in [("Expired", 4000), (UNREACHABLE, 500)] {
        let mut bench = Bench::one(1).running();
        let Some(Action::Install(offer)) = bench.step().pop() else {
            panic!("install")
        };
        bench.event(Event::Refused(offer.clone(), Fault::new(reason, "")));
        bench.now_ms += soonest_ms - 1;
        assert!(bench.step().is_empty(), "{reason}");
        bench.now_ms += 1;
        assert_eq!(bench.step(), [Action::Install(offer)], "{reason}");
    }
}

#[test]
fn loading_for_ever_ends_the_worker() {
    let mut bench = Bench::one(1).running();
    bench.step();
    bench.now_ms += LOAD_LIMIT_MS + 1;
    assert_eq!(bench.step(), [Action::Kill]);
}

#[test]
fn a_worker_that_is_ended_for_loading_for_ever_counts_as_a_failure_and_is_not_started_again_at_once() {
    let mut bench = Bench::one(1).running();
    bench.step();
    bench.now_ms += LOAD_LIMIT_MS + 1;
    assert_eq!(bench.step(), [Action::Kill]);
    bench.now_ms += KILL_AGAIN_MS;
    assert_eq!(bench.step(), [Action::Kill], "its end was not heard");
    bench.event(Event::Exited(Fault::new("Crashed", "")));
    let seen = &bench.observed[&slot()];
    assert!(matches!(seen.state, State::Failed { .. }), "{seen:?}");
    assert!(bench.step().is_empty(), "the operator sees it before it is tried again");
}

#[test]
fn loading_may_take_a_quarter_of_an_hour() {
    let mut bench = Bench::one(1).running();
    bench.step();
    bench.now_ms += 15 * 60_000;
    assert!(bench.step().is_empty());
    bench.now_ms += 1;
    assert_eq!(bench.step(), [Action::Kill]);
}

#[test]
fn a_worker_that_says_it_failed_may_end_by_itself_and_is_killed_if_it_does_not() {
    let mut bench = Bench::one(1).running();
    bench.step();
    bench.status(WorkerPhase::Failed);
    bench.now_ms += FAILED_LIMIT_MS;
    assert!(bench.step().is_empty());
    bench.now_ms += 1;
    assert_eq!(bench.step(), [Action::Kill]);
    bench.event(Event::Exited(Fault::new("Crashed", "")));
    assert!(matches!(bench.observed[&slot()].state, State::Failed { .. }));
}

#[test]
fn a_worker_that_ends_by_itself_is_told_nothing_more() {
    let mut bench = Bench::one(1).serving(1);
    bench.status(WorkerPhase::Draining);
    bench.want(wanted(2, slice(0, 10, "cpu0"), None));
    bench.now_ms += LOAD_LIMIT_MS + 1;
    assert!(bench.step().is_empty());
}

#[test]
fn a_shard_makes_way_quickly_only_for_one_of_its_model_on_its_device_that_is_not_loaded_yet() {
    let leaving = slice(0, 10, "cpu0");
    let limit_ms = |other: Desired, other_slot: Slot, is_loaded: bool| {
        let mut bench = Bench::one(1).serving(1);
        bench.desired = BTreeMap::from([(other_slot.clone(), other)]);
        if is_loaded {
            let mut seen = Observed::new(&bench.desired[&other_slot]);
            seen.state = State::Busy(Work::Spawn);
            bench.observed.insert(other_slot, seen);
        }
        let drains = bench.step().into_iter().find_map(|action| match action {
            Action::Drain { limit_ms } => Some(limit_ms),
            _ => None,
        });
        drains.expect("nobody wants the shard")
    };
    let successor = slice(0, 15, "cpu0");
    let of_model = |slice: &Slice| slot_of(slice);
    let wants = |slice: &Slice| wanted(2, slice.clone(), None);
    assert_eq!(
        limit_ms(wants(&successor), of_model(&successor), false),
        REPLACE_LIMIT_MS
    );
    assert_eq!(limit_ms(wants(&successor), of_model(&successor), true), DRAIN_LIMIT_MS);
    let elsewhere = slice(0, 15, "vulkan0");
    assert_eq!(limit_ms(wants(&elsewhere), of_model(&elsewhere), false), DRAIN_LIMIT_MS);
    let of_another = Slot::of("another", &leaving);
    assert_eq!(limit_ms(wants(&leaving), of_another, false), DRAIN_LIMIT_MS);
    let stands_by = wanted_for(Purpose::Fetch, 2, successor.clone(), None);
    assert_eq!(limit_ms(stands_by, of_model(&successor), false), DRAIN_LIMIT_MS);
}

#[test]
fn a_shard_that_leaves_is_told_by_the_place_that_it_had_last() {
    let mut bench = Bench::one(1).serving(1);
    let mut moved = wanted(2, slice(0, 10, "cpu0"), None);
    moved.places[0].stage = 3;
    bench.want(moved);
    remember(&mut bench.observed, &bench.desired);
    bench.desired.clear();
    remember(&mut bench.observed, &bench.desired);
    let place = bench.observed[&slot()].place;
    assert_eq!((place.epoch, place.stage), (2, 3));
}

#[test]
fn two_shards_of_one_model_are_begun_side_by_side() {
    let mut bench = Bench::new([
        wanted(1, slice(0, 10, "cpu0"), None),
        wanted(1, slice(10, 20, "vulkan0"), None),
    ]);
    assert_eq!(bench.step(), [Action::Adopt, Action::Adopt]);
}

#[test]
fn what_is_proposed_is_loaded_beside_what_serves_and_handed_nothing_until_it_is_in_force() {
    let proposed = slice(0, 15, "cpu0");
    let other = slot_of(&proposed);
    let mut bench = Bench::one(1).serving(1);
    bench.want(wanted_for(Purpose::Load, 2, proposed.clone(), None));
    assert_eq!(bench.step(), [Action::Adopt]);
    for work in [Work::Fetch, Work::Verify, Work::Prepare, Work::Spawn] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event_of(&other, Event::Done(work));
    }
    let serving = Event::Status {
        phase: WorkerPhase::Serving,
        endpoint: Some("a:2".to_owned()),
    };
    bench.event_of(&other, serving);
    assert!(bench.step().is_empty());

    bench.want_only(wanted(2, proposed, None));
    let cut_over = bench.step();
    assert!(cut_over.contains(&Action::Install(installed(2, None))), "{cut_over:?}");
    let drain = Action::Drain {
        limit_ms: DRAIN_LIMIT_MS,
    };
    assert!(cut_over.contains(&drain), "{cut_over:?}");
}

#[test]
fn a_proposal_that_is_withdrawn_leaves_what_it_alone_wanted_and_nothing_else() {
    let mut bench = Bench::one(1).serving(1);
    let mut both = wanted(1, slice(0, 10, "cpu0"), None);
    both.join(wanted_for(Purpose::Load, 2, slice(0, 10, "cpu0"), None));
    bench.want(both);
    assert!(bench.step().is_empty(), "it is loaded already");
    bench.want(wanted(1, slice(0, 10, "cpu0"), None));
    assert!(bench.step().is_empty());
    bench.want_only(wanted_for(Purpose::Load, 2, slice(0, 10, "cpu0"), None));
    assert!(bench.step().is_empty(), "a worker that is proposed is kept");
    bench.desired.clear();
    assert!(matches!(bench.step()[..], [Action::Drain { .. }]));
}

#[test]
fn what_stands_by_is_fetched_and_verified_and_no_worker_is_started() {
    let mut bench = Bench::new([wanted_for(Purpose::Fetch, 2, slice(0, 10, "cpu0"), None)]);
    assert_eq!(bench.step(), [Action::Adopt]);
    for work in [Work::Fetch, Work::Verify] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event(Event::Done(work));
    }
    assert!(bench.step().is_empty());
    bench.want(wanted(3, slice(0, 10, "cpu0"), None));
    assert_eq!(bench.step(), [Action::Start(Work::Prepare)]);
}

#[test]
fn a_shard_that_is_only_to_stand_by_from_now_on_is_drained_and_its_files_stay() {
    let mut bench = Bench::one(1).serving(1);
    bench.want(wanted_for(Purpose::Fetch, 2, slice(0, 10, "cpu0"), None));
    assert!(matches!(bench.step()[..], [Action::Drain { .. }]));
    bench.event(Event::Exited(Fault::new("Exited", "")));
    assert!(bench.step().is_empty());
    assert!(bench.observed[&slot()].is_on_disk());
}

/// What may happen to a model whose layers are cut in several ways, as a random walk over [`slices`].
#[derive(Clone, Debug)]
enum Move {
    /// Another placement comes into force: of the slices that begin alike, it has this one.
    Want(usize),
    /// What is in force, asked for by something else, too.
    Ahead(usize, Purpose),
    Withdraw(usize),
    Unwant(usize),
    Route(usize, u32),
    Finish(usize, bool),
    Answer(usize, bool),
    Heard(usize),
    Crash(usize),
    /// What its device computes can be trusted, or cannot.
    Suspect(usize, bool),
    Wait(u32),
}

/// Three cuts of the three thirds of a model, each on two devices.
fn slices() -> Vec<Slice> {
    let cuts = (0..3).flat_map(|third| (0..3).map(move |cut| (third * 10, third * 10 + 8 + cut)));
    cuts.flat_map(|(first, end)| ["cpu0", "vulkan0"].map(|device| slice(first, end, device)))
        .collect()
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let which = 0..slices().len();
    let purpose = prop_oneof![Just(Purpose::Load), Just(Purpose::Fetch)];
    let one = prop_oneof![
        3 => which.clone().prop_map(Move::Want),
        3 => (which.clone(), purpose).prop_map(|(at, purpose)| Move::Ahead(at, purpose)),
        2 => which.clone().prop_map(Move::Withdraw),
        1 => which.clone().prop_map(Move::Unwant),
        2 => (which.clone(), 0..3_u32).prop_map(|(at, port)| Move::Route(at, port)),
        8 => (which.clone(), prop::bool::weighted(0.8)).prop_map(|(at, well)| Move::Finish(at, well)),
        4 => (which.clone(), prop::bool::weighted(0.8)).prop_map(|(at, well)| Move::Answer(at, well)),
        4 => which.clone().prop_map(Move::Heard),
        2 => which.clone().prop_map(Move::Crash),
        2 => (which, prop::bool::weighted(0.3)).prop_map(|(at, is)| Move::Suspect(at, is)),
        2 => (1..40_000_u32).prop_map(Move::Wait),
    ];
    prop::collection::vec(one, 1..160)
}

/// A node outside of `step`: which processes there really are, and what each was told.
#[derive(Default)]
struct Node {
    processes: BTreeMap<Slot, Vec<u64>>,
}

struct Walk {
    bench: Bench,
    node: Node,
    slices: Vec<(Slot, Slice)>,
    /// What is in force, and what else is asked for, by slice.
    in_force: BTreeMap<usize, Option<String>>,
    ahead: BTreeMap<usize, Purpose>,
    epoch: u64,
}

impl Walk {
    fn new() -> Self {
        Self {
            bench: Bench::new([]),
            node: Node::default(),
            slices: slices().into_iter().map(|slice| (slot_of(&slice), slice)).collect(),
            in_force: BTreeMap::new(),
            ahead: BTreeMap::new(),
            epoch: 1,
        }
    }

    fn slot(&self, at: usize) -> Slot {
        self.slices[at].0.clone()
    }

    /// Whether a worker that must end is on the device.
    fn is_leaving(&self, device: &str) -> bool {
        self.slices.iter().any(|(slot, slice)| {
            slice.device == device
                && self.node.processes.contains_key(slot)
                && !self.bench.desired.get(slot).is_some_and(Desired::loads)
        })
    }

    fn advance(&mut self) {
        for _ in 0..20 {
            remember(&mut self.bench.observed, &self.bench.desired);
            let Bench {
                desired,
                observed,
                suspects,
                now_ms,
                ..
            } = &self.bench;
            let actions = step(desired, observed, suspects, *now_ms);
            if actions.is_empty() {
                self.check_suspects();
                return;
            }
            for (slot, action) in actions {
                self.check(&slot, &action);
                let Bench {
                    desired,
                    observed,
                    departed,
                    now_ms,
                    ..
                } = &mut self.bench;
                begin(observed, departed, desired, (&slot, &action), *now_ms);
            }
        }
        panic!("step does not come to rest");
    }

    /// Whatever lives on a device that is not trusted was killed.
    fn check_suspects(&self) {
        for seen in self.bench.observed.values() {
            let running = seen
                .running()
                .filter(|_| self.bench.suspects.contains_key(&seen.slice.device));
            let killed = running.is_none_or(|running| running.stop.is_some_and(|stop| stop.killed));
            assert!(killed, "{seen:?} computes on");
        }
    }

    fn check(&mut self, slot: &Slot, action: &Action) {
        let seen = self.bench.observed.get(slot);
        let wanted = self.bench.desired.get(slot);
        match action {
            Action::Start(Work::Spawn) => {
                let seen = seen.expect("only what is tracked is spawned");
                assert!(wanted.is_some_and(Desired::loads), "{slot} is not to be loaded");
                assert!(!self.is_leaving(&seen.slice.device), "the device is filled twice");
                let suspects = &self.bench.suspects;
                assert!(
                    !suspects.contains_key(&seen.slice.device),
                    "{slot} would not be trusted"
                );
                let before = self.node.processes.insert(slot.clone(), Vec::new());
                assert!(before.is_none(), "two workers for {slot}");
            }
            Action::Start(Work::Prepare) => {
                let lives = self.node.processes.contains_key(slot);
                assert!(!lives, "{slot}: links of a living worker");
            }
            Action::Install(offer) => {
                let in_force = wanted.and_then(|wanted| wanted.in_force.as_ref());
                assert_eq!(
                    in_force.map(|in_force| in_force.epoch),
                    Some(offer.epoch),
                    "{slot} is told what is not in force"
                );
                let told = self.node.processes.get_mut(slot).expect("only a living worker is told");
                assert!(
                    told.last().is_none_or(|last| *last <= offer.epoch),
                    "{slot} is told a lower epoch"
                );
                told.push(offer.epoch);
            }
            _ => {}
        }
    }

    fn apply(&mut self, event: Event, at: usize) {
        let (slot, now_ms) = (self.slot(at), self.bench.now_ms);
        if let Some(seen) = self.bench.observed.get_mut(&slot) {
            seen.apply(event, now_ms, 0.5);
        }
    }

    /// What the ledger would make of the present assignments.
    fn desire(&mut self) {
        self.bench.desired.clear();
        for (at, next) in &self.in_force {
            let (slot, slice) = self.slices[*at].clone();
            let wanted = wanted(self.epoch, slice, next.as_deref());
            self.bench.desired.insert(slot, wanted);
        }
        for (at, purpose) in &self.ahead {
            let (slot, slice) = self.slices[*at].clone();
            let wanted = wanted_for(*purpose, self.epoch + 1, slice, None);
            match self.bench.desired.get_mut(&slot) {
                Some(known) => known.join(wanted),
                None => drop(self.bench.desired.insert(slot, wanted)),
            }
        }
    }

    fn make(&mut self, one: &Move) {
        match one {
            Move::Want(at) => {
                self.epoch += 1;
                self.in_force.retain(|known, _| known / 6 != at / 6);
                self.in_force.insert(*at, None);
            }
            Move::Ahead(at, purpose) => drop(self.ahead.insert(*at, *purpose)),
            Move::Withdraw(at) => drop(self.ahead.remove(at)),
            Move::Unwant(at) => drop(self.in_force.remove(at)),
            Move::Route(at, port) => {
                if let Some(next) = self.in_force.get_mut(at) {
                    *next = (*port > 0).then(|| format!("b:{port}"));
                }
            }
            Move::Finish(at, well) => self.finish(*at, *well),
            Move::Answer(at, well) => self.answer(*at, *well),
            Move::Heard(at) => self.heard(*at),
            Move::Crash(at) => self.end(*at),
            Move::Suspect(at, true) => self.bench.suspect(&self.slices[*at].1.device),
            Move::Suspect(at, false) => drop(self.bench.suspects.remove(&self.slices[*at].1.device)),
            Move::Wait(ms) => self.bench.now_ms += u64::from(*ms),
        }
        self.desire();
    }

    fn heard(&mut self, at: usize) {
        let (phase, endpoint) = (WorkerPhase::Serving, Some("a:1".to_owned()));
        self.apply(Event::Status { phase, endpoint }, at);
    }

    fn finish(&mut self, at: usize, well: bool) {
        let slot = self.slot(at);
        let Some(State::Busy(work)) = self.bench.observed.get(&slot).map(|seen| seen.state.clone()) else {
            return;
        };
        if well {
            self.apply(Event::Done(work), at);
        } else {
            if work == Work::Spawn {
                self.node.processes.remove(&slot);
            }
            self.apply(Event::WorkFailed(work, Fault::new("Any", "")), at);
        }
    }

    fn answer(&mut self, at: usize, well: bool) {
        let seen = self.bench.observed.get(&self.slot(at));
        let running = seen.and_then(Observed::running).cloned();
        let Some(offer) = running.and_then(|running| running.installing) else {
            return;
        };
        let event = if well {
            Event::Accepted(offer)
        } else {
            Event::Refused(offer, Fault::new("Any", ""))
        };
        self.apply(event, at);
    }

    fn end(&mut self, at: usize) {
        let slot = self.slot(at);
        let seen = self.bench.observed.get(&slot);
        if seen.is_some_and(|seen| seen.running().is_some()) {
            self.node.processes.remove(&slot);
            self.apply(Event::Exited(Fault::new("Crashed", "")), at);
        }
    }

    /// From now on everything works.
    fn settle(&mut self) {
        self.bench.suspects.clear();
        for _ in 0..200 {
            self.advance();
            for at in 0..self.slices.len() {
                self.finish(at, true);
                self.heard(at);
                self.answer(at, true);
                let seen = self.bench.observed.get(&self.slot(at));
                let running = seen.and_then(Observed::running);
                if running.is_some_and(|running| running.stop.is_some()) {
                    self.end(at);
                }
            }
            self.bench.now_ms += 1_000;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_guarantees_hold_and_the_node_comes_to_what_is_desired(moves in moves()) {
        let mut walk = Walk::new();
        for one in &moves {
            walk.make(one);
            walk.advance();
        }
        walk.settle();
        let Bench { desired, observed, .. } = &walk.bench;
        prop_assert_eq!(observed.keys().collect::<Vec<_>>(), desired.keys().collect::<Vec<_>>());
        let loaded = desired.iter().filter(|(_, desired)| desired.loads());
        prop_assert_eq!(
            walk.node.processes.keys().collect::<Vec<_>>(),
            loaded.map(|(slot, _)| slot).collect::<Vec<_>>()
        );
        for (slot, desired) in desired {
            let seen = &observed[slot];
            prop_assert_eq!(&seen.slice, &desired.slice);
            prop_assert!(seen.is_on_disk());
            let Some(in_force) = &desired.in_force else { continue };
            let running = seen.running().expect("running");
            let held = running.installed.as_ref().expect("installed");
            prop_assert_eq!(held.epoch, in_force.epoch);
            prop_assert!(in_force.next.is_none() || held.next == in_force.next);
        }
    }
}
