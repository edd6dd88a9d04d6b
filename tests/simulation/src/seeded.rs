//! A world under the faults of a seed, and what must hold then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apimodel::{Failure, Moment, Snapshot, Verdict};
use serde_json::json;
use tokio::time::Instant;

use crate::clocks::Clock;
use crate::host::Life;
use crate::invariants;
use crate::objects::{MODELS, uri};
use crate::schedule::{Edit, Event, Step, of_seed};
use crate::world::{MODEL, NODE_BYTES, Shape, World};
use linkemu::random::Random;

/// Operators of such a world.
const OPERATORS: usize = 2;
/// The names of its models: together they take all of its nodes.
const NAMES: [&str; 2] = ["m", "n"];
/// The dates of operators differ from the API server's by so many seconds at most: just below what certificates allow for.
const CLOCKS_DIFFER_S: u32 = 290;
/// After the last fault everything serves again within this time: the longest that a device is left out after a shard failed
/// on it, and what loading takes.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20 * 60);
/// Status writes that a world may take for each fault, and beside them: as many as the stages' phases, for each model.
const WRITES_PER_FAULT: usize = 30;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// What must never be; empty where all is well.
    pub broken: Vec<String>,
    /// What happened, for people.
    pub trace: Vec<String>,
    /// How long the world lasted, by its own clock.
    pub lasted: Duration,
    /// How long it took from the end of the last fault until all models served.
    pub recovered: Duration,
    /// How often the operators wrote a status.
    pub writes: usize,
}

/// What requests meet at present.
#[derive(Debug, Default)]
struct Weather {
    fails: Option<(u32, Instant)>,
    slow: Option<(Duration, Instant)>,
    random: Option<Random>,
    broken: Vec<String>,
}

struct Seeded {
    world: World,
    weather: Arc<Mutex<Weather>>,
    /// What clocks show follows from the seed, too.
    clocks: Random,
    nodes: Vec<String>,
    saved: Option<Snapshot>,
    /// What ends by itself.
    healing: Vec<(Instant, Event)>,
    trace: Vec<String>,
}

/// Runs the world of a seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing of the system");
    runtime.block_on(live(seed))
}

async fn live(seed: u64) -> Report {
    let mut seeded = Seeded::begin(seed);
    for Step { after, event } in of_seed(seed) {
        seeded.pass(after).await;
        seeded.clock_jumps();
        seeded.strike(event);
    }
    seeded.heal_all().await;
    let healed = Instant::now();
    let recovered = seeded.recover().await;
    let mut broken = Vec::new();
    let recovered = recovered.unwrap_or_else(|why| {
        broken.extend(why);
        healed.elapsed()
    });
    broken.extend(seeded.world.settle().await.err());
    broken.extend(invariants::of_history(&seeded.world));
    broken.extend(invariants::of_end(&seeded.world, true));
    let mut weather = seeded.weather.lock().unwrap_or_else(PoisonError::into_inner);
    broken.append(&mut weather.broken);
    let writes = seeded.world.status_writes();
    let most = WRITES_PER_FAULT * (seeded.trace.len() + 2) * NAMES.len();
    if writes > most {
        broken.push(format!("I10: {writes} status writes for {} faults", seeded.trace.len()));
    }
    Report {
        broken,
        trace: seeded.trace.clone(),
        lasted: seeded.world.now(),
        recovered,
        writes,
    }
}

impl Seeded {
    fn begin(seed: u64) -> Self {
        let mut world = World::new(&Shape {
            operators: OPERATORS,
            ..Shape::default()
        });
        let weather: Arc<Mutex<Weather>> = Arc::default();
        weather.lock().unwrap_or_else(PoisonError::into_inner).random = Some(Random::new(!seed));
        world.api.set_hook(hook(weather.clone()));
        for place in 0..OPERATORS {
            world.keep_operator(place, &format!("operator-{place}"));
        }
        for (name, weights) in NAMES.into_iter().zip(1..) {
            world.ask_for(name, weights, 1);
        }
        let nodes = world.hosts.keys().cloned().collect();
        let mut seeded = Self {
            world,
            weather,
            clocks: Random::new(seed.rotate_left(32)),
            nodes,
            saved: None,
            healing: Vec::new(),
            trace: Vec::new(),
        };
        (0..OPERATORS).for_each(|place| seeded.set_clock(place));
        seeded
    }

    /// Every operator has a date of its own.
    fn set_clock(&mut self, place: usize) {
        let most = i64::from(CLOCKS_DIFFER_S);
        let ahead = self.clocks.between(0, 2 * u64::from(CLOCKS_DIFFER_S));
        let ahead = i64::try_from(ahead).map_or(0, |ahead| ahead - most);
        self.world.set_clock(place, Clock::Ahead(ahead));
    }

    /// Of one of them it is another now and then.
    fn clock_jumps(&mut self) {
        if self.clocks.below(2) == 0 {
            self.set_clock(OPERATORS - 1);
        }
    }

    /// Lets time pass; what ends by itself meanwhile ends at its time.
    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let due = self.healing.iter().map(|(at, _)| *at).min().filter(|at| *at <= until);
            tokio::time::sleep_until(due.unwrap_or(until)).await;
            if due.is_none() {
                return;
            }
            let now = Instant::now();
            let (over, rest) = self.healing.drain(..).partition(|(at, _)| *at <= now);
            self.healing = rest;
            for (_, event) in over {
                self.heal(event);
            }
        }
    }

    /// Waits until everything that ends by itself has ended.
    async fn heal_all(&mut self) {
        let last = self.healing.iter().map(|(at, _)| *at).max();
        if let Some(last) = last {
            self.pass(last.saturating_duration_since(Instant::now())).await;
        }
        // A restored store may say again what was true before.
        for node in &self.nodes {
            let free = json!({ "spec": { "unschedulable": null } });
            self.world.patch("/v1/nodes", "", node, &free);
            self.world.report_device(node, NODE_BYTES, true);
        }
        for (name, weights) in NAMES.into_iter().zip(1..) {
            if self.world.object(MODEL, MODELS, name).is_none() {
                self.world.ask_for(name, weights, 1);
            }
        }
    }

    fn node(&self, place: usize) -> String {
        self.nodes[place % self.nodes.len()].clone()
    }

    fn strike(&mut self, event: Event) {
        let at = self.world.now();
        self.trace.push(format!("{at:?} {event:?}"));
        let lasts = self.strike_process(event).or_else(|| self.strike_api(event));
        if let Some(time) = lasts {
            self.healing.push((Instant::now() + time, event));
        }
    }

    /// What happens to operators, agents and what is between them; how long it lasts, where it ends by itself.
    fn strike_process(&self, event: Event) -> Option<Duration> {
        let world = &self.world;
        match event {
            Event::KillOperator(place) => {
                // Its keeper starts another.
                world.operator(place % OPERATORS, |process| process.connection.kill());
                return None;
            }
            Event::ResetLink(place) => {
                self.link(place, |link| link.resets += 1);
                return None;
            }
            Event::FreezeOperator(place, _) => {
                world.operator(place % OPERATORS, |process| process.freeze(true));
            }
            Event::KillAgent(place, _) => world.set_life(&self.node(place), Life::Down),
            Event::FreezeAgent(place, _) => world.set_life(&self.node(place), Life::Frozen),
            Event::SilenceLink(place, _) => self.link(place, |link| link.silent = true),
            Event::SlowLink(place, delay, _) => self.link(place, |link| link.delay = delay),
            _ => return None,
        }
        event.lasts()
    }

    /// What happens to the API server, what it tells, and what people and agents write there.
    fn strike_api(&mut self, event: Event) -> Option<Duration> {
        let world = &self.world;
        match event {
            Event::HoldWatches(place, _) => {
                let revision = world.api.with(|store| store.revision());
                world.operator(place % OPERATORS, |process| {
                    process.connection.hold_events(Some(revision));
                });
            }
            Event::RepeatWatches(place, _) => {
                world.operator(place % OPERATORS, |process| process.connection.repeat_events(true));
            }
            Event::LoseApi(_) => world.api.set_available(false),
            Event::FailDevice(place, _) => world.report_device(&self.node(place), NODE_BYTES, false),
            Event::Cordon(place, _) => {
                let cordoned = json!({ "spec": { "unschedulable": true } });
                world.patch("/v1/nodes", "", &self.node(place), &cordoned);
            }
            Event::BreakWatches => world.api.break_connections(),
            Event::Compact => {
                world.api.with(apimodel::Store::compact);
                world.api.break_connections();
            }
            Event::FailRequests(one_in, time) => self.weather().fails = Some((one_in, Instant::now() + time)),
            Event::SlowApi(delay, time) => self.weather().slow = Some((delay, Instant::now() + time)),
            Event::Save => self.saved = Some(world.api.with(|store| store.snapshot())),
            Event::Restore => {
                if let Some(saved) = &self.saved {
                    world.api.restore(saved);
                }
            }
            Event::Edit(place, edit) => self.edit(NAMES[place % NAMES.len()], edit),
            _ => return None,
        }
        event.lasts()
    }

    fn heal(&self, event: Event) {
        let world = &self.world;
        match event {
            Event::FreezeOperator(place, _) => {
                world.operator(place % OPERATORS, |process| process.freeze(false));
            }
            Event::KillAgent(place, _) | Event::FreezeAgent(place, _) => world.set_life(&self.node(place), Life::Up),
            Event::SilenceLink(place, _) => self.link(place, |link| link.silent = false),
            Event::SlowLink(place, ..) => self.link(place, |link| link.delay = Duration::ZERO),
            Event::HoldWatches(place, _) => {
                world.operator(place % OPERATORS, |process| process.connection.hold_events(None));
            }
            Event::RepeatWatches(place, _) => {
                world.operator(place % OPERATORS, |process| process.connection.repeat_events(false));
            }
            Event::LoseApi(_) => world.api.set_available(true),
            Event::FailDevice(place, _) => world.report_device(&self.node(place), NODE_BYTES, true),
            Event::Cordon(place, _) => {
                let free = json!({ "spec": { "unschedulable": null } });
                world.patch("/v1/nodes", "", &self.node(place), &free);
            }
            _ => {}
        }
    }

    fn link(&self, place: usize, change: impl FnOnce(&mut crate::link::Link)) {
        if let Some(host) = self.world.hosts.get(&self.node(place)) {
            host.link.send_modify(change);
        }
    }

    fn weather(&self) -> std::sync::MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit(&self, name: &str, edit: Edit) {
        let world = &self.world;
        let there = world.object(MODEL, MODELS, name).is_some();
        match edit {
            Edit::Create if there => {}
            Edit::Create => world.ask_for(name, 1, 1),
            Edit::Delete => {
                world.delete(MODEL, MODELS, name);
            }
            Edit::Recreate => {
                world.delete(MODEL, MODELS, name);
                world.ask_for(name, 1, 1);
            }
            Edit::Weights(weights) => {
                let source = json!({ "spec": { "source": { "uri": uri(weights) } } });
                world.patch(MODEL, MODELS, name, &source);
            }
            Edit::Context(tokens) => {
                world.patch(MODEL, MODELS, name, &json!({ "spec": { "contextLength": tokens } }));
            }
        }
    }

    /// Waits until nothing is broken any more; what still is, otherwise.
    async fn recover(&self) -> Result<Duration, Vec<String>> {
        let began = Instant::now();
        loop {
            let broken = invariants::of_end(&self.world, true);
            if broken.is_empty() {
                return Ok(began.elapsed());
            }
            if began.elapsed() >= RECOVERY_LIMIT {
                return Err(broken);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn hook(weather: Arc<Mutex<Weather>>) -> apimodel::Hook {
    Arc::new(move |seen, moment| {
        if !seen.client.starts_with("operator") {
            return Verdict::Continue;
        }
        let mut weather = weather.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if moment == Moment::Before {
            weather.broken.extend(invariants::of_request(seen));
            if let Some((delay, _)) = weather.slow.filter(|(_, until)| now < *until) {
                return Verdict::Delay(delay);
            }
        }
        let Some((one_in, _)) = weather.fails.filter(|(_, until)| now < *until) else {
            return Verdict::Continue;
        };
        let Some(random) = &mut weather.random else {
            return Verdict::Continue;
        };
        if random.below(one_in as usize * 2) != 0 {
            return Verdict::Continue;
        }
        let (code, reason) = match (moment, random.below(3)) {
            (Moment::Before, 0) => (429, "TooManyRequests"),
            (Moment::After, 0) => (504, "Timeout"),
            (_, 1) => return Verdict::Drop,
            _ => (500, "InternalError"),
        };
        Verdict::Answer(Failure::new(code, reason, "injected"))
    })
}
