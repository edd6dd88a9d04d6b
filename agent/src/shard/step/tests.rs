use super::super::observed::{Event, Fault, UNREACHABLE};
use super::*;
use crate::shard::Slice;
use proptest::prelude::*;
use proto::placement::v1::Runtime;
use std::sync::Arc;

fn slice(first_layer: u32, end_layer: u32, device: &str) -> Slice {
    Slice {
        index: gguf::Digest([7; 32]),
        first_layer,
        end_layer,
        total_layers: 30,
        stages: 3,
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

fn slot(stage: u32) -> Slot {
    Slot {
        model_uid: "uid".to_owned(),
        pipeline: 0,
        stage,
    }
}

fn wanted(epoch: u64, slice: Slice, next: Option<&str>) -> Desired {
    Desired {
        slice,
        epoch,
        envelope: Arc::new(vec![epoch as u8]),
        uri: "file:///m.gguf".to_owned(),
        access: crate::source::Access::default(),
        peers: vec![],
        model: ("ns".to_owned(), "m".to_owned()),
        memory_budget_bytes: 1,
        next: next.map(str::to_owned),
    }
}

/// One slot under test, with a clock.
struct Bench {
    desired: DesiredShards,
    observed: ObservedShards,
    now_ms: u64,
}

impl Bench {
    fn new(desired: impl IntoIterator<Item = (Slot, Desired)>) -> Self {
        Self {
            desired: desired.into_iter().collect(),
            observed: BTreeMap::new(),
            now_ms: 1_000,
        }
    }

    fn one(epoch: u64) -> Self {
        Self::new([(slot(0), wanted(epoch, slice(0, 10, "cpu0"), None))])
    }

    /// The actions of this moment, begun.
    fn step(&mut self) -> Vec<Action> {
        let actions = step(&self.desired, &self.observed, self.now_ms);
        for (slot, action) in &actions {
            begin(&mut self.observed, &self.desired, slot, action, self.now_ms);
        }
        actions.into_iter().map(|(_, action)| action).collect()
    }

    fn event(&mut self, event: Event) {
        self.event_of(0, event);
    }

    fn event_of(&mut self, stage: u32, event: Event) {
        let now_ms = self.now_ms;
        self.observed.get_mut(&slot(stage)).unwrap().apply(event, now_ms, 1.0);
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
        let offer = Installed { epoch, next: None };
        assert_eq!(bench.step(), [Action::Install(offer.clone())]);
        bench.event(Event::Accepted(offer));
        bench.status(WorkerPhase::Serving);
        assert!(bench.step().is_empty());
        bench
    }

    fn want(&mut self, desired: Desired) {
        self.desired.insert(slot(0), desired);
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
    let offer = Installed { epoch: 2, next: None };
    assert_eq!(bench.step(), [Action::Install(offer.clone())]);
    assert!(bench.step().is_empty(), "asked once");
    bench.event(Event::Accepted(offer));
    assert!(bench.step().is_empty());
    assert_eq!(bench.observed[&slot(0)].epoch, 2);
}

#[test]
fn a_new_route_is_installed_and_a_route_that_is_not_known_is_no_news() {
    let mut bench = Bench::one(1).serving(1);
    bench.want(wanted(1, slice(0, 10, "cpu0"), Some("b:2")));
    let offer = Installed {
        epoch: 1,
        next: Some("b:2".to_owned()),
    };
    assert_eq!(bench.step(), [Action::Install(offer.clone())]);
    bench.event(Event::Accepted(offer));
    bench.want(wanted(1, slice(0, 10, "cpu0"), None));
    assert!(bench.step().is_empty());
}

#[test]
fn a_lower_epoch_moves_nothing() {
    let mut bench = Bench::one(5).serving(5);
    bench.want(wanted(4, slice(0, 10, "cpu0"), Some("b:2")));
    assert!(bench.step().is_empty());
    bench.want(wanted(4, slice(0, 20, "cpu0"), None));
    assert!(bench.step().is_empty(), "not even another slice");
}

#[test]
fn another_slice_stops_the_worker_before_anything_is_fetched_or_loaded() {
    let mut bench = Bench::one(1).serving(1);
    bench.want(wanted(2, slice(0, 15, "cpu0"), None));
    assert_eq!(
        bench.step(),
        [Action::Drain {
            limit_ms: REPLACE_LIMIT_MS
        }]
    );
    bench.now_ms += REPLACE_LIMIT_MS;
    assert_eq!(bench.step(), [Action::Kill]);
    bench.event(Event::Exited(Fault::new("Exited", "")));
    assert_eq!(bench.step(), [Action::Adopt]);
    assert_eq!(bench.step(), [Action::Start(Work::Fetch)]);
    assert_eq!(bench.observed[&slot(0)].slice.end_layer, 15);
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
fn a_crashed_worker_is_started_again_later_and_later() {
    let mut bench = Bench::one(1).serving(1);
    let mut waits = Vec::new();
    for _ in 0..9 {
        bench.event(Event::Exited(Fault::new("Crashed", "")));
        let State::Failed { retry_at_ms, .. } = bench.observed[&slot(0)].state else {
            panic!("failed")
        };
        waits.push(retry_at_ms - bench.now_ms);
        assert!(bench.step().is_empty());
        bench.now_ms = retry_at_ms;
        assert_eq!(bench.step(), [Action::Retry]);
        assert_eq!(bench.step(), [Action::Start(Work::Spawn)]);
        bench.event(Event::Done(Work::Spawn));
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
}

#[test]
fn a_worker_that_served_for_long_starts_again_at_once_after_a_crash() {
    let mut bench = Bench::one(1).serving(1);
    bench.observed.get_mut(&slot(0)).unwrap().failures = 9;
    bench.now_ms += 120_000;
    bench.event(Event::Exited(Fault::new("Crashed", "")));
    assert_eq!(bench.observed[&slot(0)].failures, 1);
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
    let seen = &bench.observed[&slot(0)];
    assert!(matches!(seen.state, State::Failed { .. }), "{seen:?}");
    assert!(bench.step().is_empty(), "the operator sees it before it is tried again");
}

#[test]
fn a_device_takes_the_next_shard_only_when_the_last_has_left_it() {
    let mut bench = Bench::one(1).serving(1);
    bench.desired = [(slot(1), wanted(2, slice(10, 20, "cpu0"), None))].into();
    let actions = bench.step();
    assert!(
        actions.contains(&Action::Drain {
            limit_ms: DRAIN_LIMIT_MS
        }),
        "{actions:?}"
    );
    for work in [Work::Fetch, Work::Verify, Work::Prepare] {
        assert_eq!(bench.step(), [Action::Start(work)]);
        bench.event_of(1, Event::Done(work));
    }
    assert!(bench.step().is_empty(), "the device is full");
    bench.event(Event::Exited(Fault::new("Exited", "")));
    assert!(bench.step().contains(&Action::Start(Work::Spawn)));
}

#[test]
fn two_shards_of_one_model_are_begun_side_by_side() {
    let mut bench = Bench::new([
        (slot(0), wanted(1, slice(0, 10, "cpu0"), None)),
        (slot(1), wanted(1, slice(10, 20, "vulkan0"), None)),
    ]);
    assert_eq!(bench.step(), [Action::Adopt, Action::Adopt]);
}

/// What may happen to a model of three slots, as a random walk.
#[derive(Clone, Debug)]
enum Move {
    Want(u32, u32, u32),
    Unwant(u32),
    Route(u32, u32),
    Finish(u32, bool),
    Answer(u32, bool),
    Heard(u32),
    Crash(u32),
    Wait(u32),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let stage = 0..3_u32;
    let one = prop_oneof![
        3 => (stage.clone(), 0..3_u32, 0..2_u32).prop_map(|(s, cut, device)| Move::Want(s, cut, device)),
        1 => stage.clone().prop_map(Move::Unwant),
        2 => (stage.clone(), 0..3_u32).prop_map(|(s, port)| Move::Route(s, port)),
        8 => (stage.clone(), prop::bool::weighted(0.8)).prop_map(|(s, well)| Move::Finish(s, well)),
        4 => (stage.clone(), prop::bool::weighted(0.8)).prop_map(|(s, well)| Move::Answer(s, well)),
        4 => stage.clone().prop_map(Move::Heard),
        2 => stage.prop_map(Move::Crash),
        2 => (1..40_000_u32).prop_map(Move::Wait),
    ];
    prop::collection::vec(one, 1..120)
}

/// A node outside of `step`: which processes there really are, and what each was told.
#[derive(Default)]
struct Node {
    processes: BTreeMap<Slot, (Slice, Vec<u64>)>,
}

struct Walk {
    bench: Bench,
    node: Node,
    epoch: u64,
}

impl Walk {
    fn new() -> Self {
        Self {
            bench: Bench::new([]),
            node: Node::default(),
            epoch: 0,
        }
    }

    fn advance(&mut self) {
        for _ in 0..20 {
            let actions = step(&self.bench.desired, &self.bench.observed, self.bench.now_ms);
            if actions.is_empty() {
                return;
            }
            for (slot, action) in actions {
                self.check(&slot, &action);
                begin(
                    &mut self.bench.observed,
                    &self.bench.desired,
                    &slot,
                    &action,
                    self.bench.now_ms,
                );
            }
        }
        panic!("step does not come to rest");
    }

    fn check(&mut self, slot: &Slot, action: &Action) {
        let seen = self.bench.observed.get(slot);
        match action {
            Action::Start(Work::Spawn) => {
                let seen = seen.expect("only what is tracked is spawned");
                assert!(!self.node.processes.contains_key(slot), "two workers for {slot}");
                self.node
                    .processes
                    .insert(slot.clone(), (seen.slice.clone(), Vec::new()));
            }
            Action::Start(Work::Prepare) => {
                let seen = seen.expect("only what is tracked is prepared");
                let lives = self.node.processes.contains_key(slot);
                assert!(!lives, "{slot}: links of a living worker, {}", seen.slice.device);
            }
            Action::Install(offer) => {
                let (.., told) = self.node.processes.get_mut(slot).expect("only a living worker is told");
                assert!(
                    told.last().is_none_or(|last| *last <= offer.epoch),
                    "{slot} is told a lower epoch"
                );
                told.push(offer.epoch);
            }
            _ => {}
        }
    }

    fn apply(&mut self, event: Event, stage: u32) {
        let now_ms = self.bench.now_ms;
        if let Some(seen) = self.bench.observed.get_mut(&slot(stage)) {
            seen.apply(event, now_ms, 0.5);
        }
    }

    fn make(&mut self, one: &Move) {
        match one {
            Move::Want(stage, cut, device) => {
                self.epoch += 1;
                let device = ["cpu0", "vulkan0"][*device as usize];
                let slice = slice(stage * 10, stage * 10 + 8 + cut, device);
                self.bench.desired.insert(slot(*stage), wanted(self.epoch, slice, None));
                for desired in self.bench.desired.values_mut() {
                    desired.epoch = self.epoch;
                }
            }
            Move::Unwant(stage) => {
                self.bench.desired.remove(&slot(*stage));
            }
            Move::Route(stage, port) => {
                if let Some(desired) = self.bench.desired.get_mut(&slot(*stage)) {
                    desired.next = (*port > 0).then(|| format!("b:{port}"));
                }
            }
            Move::Finish(stage, well) => self.finish(*stage, *well),
            Move::Answer(stage, well) => self.answer(*stage, *well),
            Move::Heard(stage) => {
                self.apply(
                    Event::Status {
                        phase: WorkerPhase::Serving,
                        endpoint: Some("a:1".to_owned()),
                    },
                    *stage,
                );
            }
            Move::Crash(stage) => self.end(*stage),
            Move::Wait(ms) => self.bench.now_ms += u64::from(*ms),
        }
    }

    fn finish(&mut self, stage: u32, well: bool) {
        let Some(State::Busy(work)) = self.bench.observed.get(&slot(stage)).map(|seen| seen.state.clone()) else {
            return;
        };
        if well {
            self.apply(Event::Done(work), stage);
        } else {
            if work == Work::Spawn {
                self.node.processes.remove(&slot(stage));
            }
            self.apply(Event::WorkFailed(work, Fault::new("Any", "")), stage);
        }
    }

    fn answer(&mut self, stage: u32, well: bool) {
        let running = self
            .bench
            .observed
            .get(&slot(stage))
            .and_then(Observed::running)
            .cloned();
        let Some(offer) = running.and_then(|running| running.installing) else {
            return;
        };
        let event = if well {
            Event::Accepted(offer)
        } else {
            Event::Refused(offer, Fault::new("Any", ""))
        };
        self.apply(event, stage);
    }

    fn end(&mut self, stage: u32) {
        if self
            .bench
            .observed
            .get(&slot(stage))
            .is_some_and(|seen| seen.running().is_some())
        {
            self.node.processes.remove(&slot(stage));
            self.apply(Event::Exited(Fault::new("Crashed", "")), stage);
        }
    }

    /// From now on everything works.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.advance();
            for stage in 0..3 {
                self.finish(stage, true);
                self.make(&Move::Heard(stage));
                self.answer(stage, true);
                let seen = self.bench.observed.get(&slot(stage));
                if seen
                    .and_then(Observed::running)
                    .is_some_and(|running| running.stop.is_some())
                {
                    self.end(stage);
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
        let slots: Vec<&Slot> = walk.bench.desired.keys().collect();
        prop_assert_eq!(walk.bench.observed.keys().collect::<Vec<_>>(), slots.clone());
        prop_assert_eq!(walk.node.processes.keys().collect::<Vec<_>>(), slots);
        for (slot, desired) in &walk.bench.desired {
            let seen = &walk.bench.observed[slot];
            prop_assert_eq!(&seen.slice, &desired.slice);
            let running = seen.running().expect("running");
            let held = running.installed.as_ref().expect("installed");
            prop_assert_eq!(held.epoch, desired.epoch);
            prop_assert!(desired.next.is_none() || held.next == desired.next);
        }
    }
}
