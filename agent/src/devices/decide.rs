//! From what children answered and read to what is known of each device, and to what is to be asked next. Pure but for the
//! registry, which remembers; times are the caller's, in milliseconds since the Unix epoch.
//!
//! * A backend is asked when the agent starts, when a card came or went, when its reader lists other devices than it
//!   answered, and when a device's health wants another verification: then one backend at a time.
//! * A device in order is verified once more beside the loading of layers onto it, and now and then while nothing is on it.
//! * What a device lacks of figures is measured when nobody else is asked anything: measurements disturb each other.
//! * A question that is not answered is asked again of each card alone: the one that hangs or crashes is condemned, and
//!   all only where none answers. A question that is answered badly condemns none, nor does one for which the node had no time.
//! * A card that fails by way of one backend is used by way of another one that verifies it, once nothing computes there any more.

mod apart;
mod check;
mod desk;
pub(in crate::devices) mod evidence;
mod read;
mod settle;

use super::bus::Card;
use super::state::{Availability, Counters, DeviceState, Devices, TURNS_MAX, Turn};
use super::temperatures::Temperatures;
use super::watcher::Told;
use crate::neighbours::Neighbours;
use crate::neighbours::vendor::Vendor;
use apart::Weighed;
use desk::{Desk, Running};
use device::child::parts::Part;
use device::child::probe::ProbeFault;
use device::health::{Fault, Health, Observation, Transition};
use device::registry::Registry;
use device::telemetry::Sample;
use device::{Backend, GpuDevice, Platform, Pool, Selection, Verification};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use check::{InUse, ProofAges};

/// Placement starts on what is known by then.
pub const READY_LIMIT_MS: u64 = 2_500;
/// What measuring may take before the devices are first told of.
const FIRST_MEASURE: Duration = Duration::from_millis(1_500);
/// What measuring one backend may take later.
const LATER_MEASURE: Duration = Duration::from_secs(10);
/// Less than that measures nothing.
const MEASURE_MIN: Duration = Duration::from_millis(100);
/// Readings that are older are not believed.
const SAMPLE_STALE_MS: u64 = 15_000;
/// A device that is gone is told of as gone for so long.
const GONE_KEPT_MS: u64 = 600_000;
/// More devices than any node has; what a driver lists beyond them is not looked at.
const DEVICES_MAX: usize = 256;

/// What the decider must know of the node.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which backends are asked at all.
    pub backends: Vec<Backend>,
    /// Most of main memory that shards may take.
    pub memory_limit_bytes: Option<u64>,
    /// Of the running kernel; empty where it does not say.
    pub boot_id: String,
    /// Name of the Kubernetes node.
    pub node: String,
    /// When devices in order are verified once more.
    pub proof_ages: ProofAges,
}

/// A question to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whom.
    pub backend: Backend,
    /// How long it may measure.
    pub measure: Duration,
    /// Which devices, one child each.
    pub parts: Vec<Selection>,
    /// For the log.
    pub why: &'static str,
}

/// See the module.
#[derive(Debug)]
pub struct Decider {
    rules: Rules,
    registry: Registry,
    /// The best backend first.
    desks: Vec<(Backend, Desk)>,
    /// By identity.
    known: BTreeMap<String, Known>,
    /// Backends whose last answer is not taken up yet.
    unsettled: BTreeSet<Backend>,
    /// Which backend leads to a device may be another one now, though no answer came.
    remerge: bool,
    /// Identity of each device as its backend gave it, to the identity of the device that it became.
    became: BTreeMap<String, String>,
    /// What is to be told of the devices of a backend at a place when its answer is taken up.
    verdicts: BTreeMap<(Backend, String), Observation>,
    neighbours: Option<Arc<Neighbours>>,
    in_use: InUse,
    counters: Counters,
    turns: VecDeque<Turn>,
    turns_told: u64,
    bus: Option<BTreeSet<Card>>,
    started_ms: u64,
    /// What is left of [`FIRST_MEASURE`].
    first_measure: Duration,
    measuring_since_ms: Option<u64>,
    ready: bool,
}

/// A device that was listed since the agent's start.
#[derive(Debug)]
struct Known {
    device: GpuDevice,
    /// Since when it is not listed any more.
    gone_ms: Option<u64>,
    health: Health,
    sample: Option<(Sample, u64)>,
    temperatures: Temperatures,
    last_fault: Option<Fault>,
}

impl Decider {
    /// Nothing is known yet but what the registry remembers; every backend is to be asked.
    pub fn new(rules: Rules, registry: Registry, now_ms: u64) -> Self {
        let desks = Platform::current()
            .order()
            .iter()
            .filter(|backend| rules.backends.contains(backend))
            .map(|backend| (*backend, Desk::new(*backend)))
            .collect();
        Self {
            rules,
            registry,
            desks,
            known: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            remerge: false,
            became: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            neighbours: None,
            in_use: InUse::default(),
            counters: Counters::default(),
            turns: VecDeque::new(),
            turns_told: 0,
            bus: None,
            started_ms: now_ms,
            first_measure: FIRST_MEASURE,
            measuring_since_ms: None,
            ready: false,
        }
    }

    /// What the registry has to be asked to save.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Who else holds devices, once that is known.
    pub fn neighbours(&mut self, neighbours: Option<Arc<Neighbours>>) {
        self.neighbours = neighbours;
    }

    /// The cards on the bus. Whether they are others than before, in which case every backend is to be asked again.
    pub fn bus(&mut self, cards: BTreeSet<Card>, now_ms: u64) -> bool {
        let changed = self.bus.as_ref().is_some_and(|before| *before != cards);
        self.bus = Some(cards);
        if changed {
            for (backend, desk) in &mut self.desks {
                if *backend != Backend::Cpu {
                    desk.want_twice("a card came or went", now_ms);
                }
            }
        }
        changed
    }

    /// What probe children answered, one for each part of the question. `idle`: this node holds no layers, so that free memory is what shards may take.
    pub fn answered(&mut self, backend: Backend, parts: &[Part], idle: bool, now_ms: u64) {
        let Some(desk) = self.desk(backend) else {
            return;
        };
        if matches!(desk.running, Some(Running::Measure(_)))
            && let Some(since) = self.measuring_since_ms.take()
        {
            let took = Duration::from_millis(now_ms.saturating_sub(since));
            self.first_measure = self.first_measure.saturating_sub(took);
        }
        let failed = parts.iter().filter(|(_, outcome)| outcome.is_err()).count() as u64;
        if failed > 0 {
            *self.counters.probes_failed.entry(backend).or_default() += failed;
        }
        if self
            .desk_of(backend)
            .is_some_and(|desk| desk.running == Some(Running::Check))
        {
            self.checked(backend, parts, now_ms);
            return;
        }
        let weighed = self.weigh(backend, parts);
        let Some(desk) = self.desk(backend) else {
            return;
        };
        match weighed {
            Weighed::Took(mut taken) => {
                taken.answer.devices.truncate(DEVICES_MAX);
                desk.took(taken.answer, now_ms);
                desk.apart = taken.apart;
                desk.probe_fault = taken.note;
                if parts
                    .iter()
                    .any(|(_, outcome)| matches!(outcome, Err(ProbeFault::Starved(_))))
                {
                    desk.was_starved(now_ms);
                }
                for (place, verdict) in taken.verdicts {
                    self.verdicts.insert((backend, place), verdict);
                }
                self.unsettled.insert(backend);
            }
            Weighed::Divide(fault) => desk.divide(&fault),
            Weighed::Failed(fault) => {
                desk.failed(&fault, now_ms);
                let seen = match fault {
                    ProbeFault::Hung(_) => Observation::ProbeHung,
                    ProbeFault::Crashed(reason) | ProbeFault::Starved(reason) | ProbeFault::Broken(reason) => {
                        Observation::CouldNotMeasure { reason }
                    }
                };
                for identity in self.of_backend(backend) {
                    self.observe(&identity, &seen, now_ms);
                }
            }
        }
        self.settle(idle, now_ms);
    }

    /// What a watcher told.
    pub fn told(&mut self, backend: Backend, told: Told, now_ms: u64) {
        match told {
            Told::Reading(reading) => self.read(backend, reading, now_ms),
            Told::Nothing => {}
            Told::Hung => {
                self.watcher_failed(
                    backend,
                    format!("the {} driver did not answer its reader", backend.name()),
                );
                if self.divisible(backend) {
                    self.want_culprit(backend, "its reader hangs");
                } else if backend != Backend::Cpu {
                    // The kernel's files do not hang; a machine that is starved does.
                    for identity in self.of_backend(backend) {
                        self.observe(&identity, &Observation::ProbeHung, now_ms);
                    }
                }
            }
            Told::Broken(reason) => self.watcher_failed(backend, reason),
        }
    }

    /// One of the backend's devices hangs or crashes, and which is to be found out.
    fn want_culprit(&mut self, backend: Backend, why: &'static str) {
        let divisible = self.divisible(backend);
        let Some(desk) = self.desk(backend) else {
            return;
        };
        if divisible {
            desk.want_divided(why);
        } else {
            desk.want(why);
        }
    }

    fn watcher_failed(&mut self, backend: Backend, reason: String) {
        *self.counters.watchers_restarted.entry(backend).or_default() += 1;
        if let Some(desk) = self.desk(backend) {
            desk.watch_fault = Some(reason);
        }
    }

    fn desk(&mut self, backend: Backend) -> Option<&mut Desk> {
        self.desks
            .iter_mut()
            .find_map(|(of, desk)| (*of == backend).then_some(desk))
    }

    fn desk_of(&self, backend: Backend) -> Option<&Desk> {
        self.desks
            .iter()
            .find_map(|(of, desk)| (*of == backend).then_some(desk))
    }

    fn of_backend(&self, backend: Backend) -> Vec<String> {
        self.known
            .iter()
            .filter(|(_, known)| known.device.backend == backend)
            .map(|(identity, _)| identity.clone())
            .collect()
    }

    fn observe(&mut self, identity: &str, seen: &Observation, now_ms: u64) {
        let Some(known) = self.known.get_mut(identity) else {
            return;
        };
        let before = known.health.clone();
        let transition = known.health.observe(seen, now_ms);
        if !before.same_story(&known.health) {
            self.registry.set_health(identity, &known.health);
        }
        let Some(transition) = transition else {
            return;
        };
        if let Transition::Failed { fault, .. } | Transition::RestartShards { fault } | Transition::Noted { fault } =
            &transition
        {
            known.last_fault = Some(fault.clone());
        }
        self.turns_told += 1;
        self.turns.push_back(Turn {
            number: self.turns_told,
            identity: identity.to_owned(),
            unix_ms: now_ms,
            transition,
        });
        if self.turns.len() > TURNS_MAX {
            self.turns.pop_front();
        }
    }
}

/// What to do, and what to tell.
impl Decider {
    /// The questions to ask now; each counts as asked.
    pub fn due(&mut self, idle: bool, now_ms: u64) -> Vec<Ask> {
        self.settle(idle, now_ms);
        self.forget(now_ms);
        self.recheck(now_ms);
        let mut asks = Vec::new();
        let due = self.desks.iter_mut();
        let due = due.filter_map(|(backend, desk)| Some((*backend, desk.due(now_ms)?)));
        let due: Vec<(Backend, &'static str)> = due.collect();
        for (backend, why) in due {
            let parts = self.parts(backend, false);
            if let Some(desk) = self.desk(backend) {
                desk.begin(Running::Verify);
            }
            asks.push(Ask {
                backend,
                measure: Duration::ZERO,
                parts,
                why,
            });
        }
        asks.extend(self.measure(idle, now_ms));
        asks.extend(self.checks(now_ms));
        for ask in &asks {
            *self.counters.probes.entry(ask.backend).or_default() += ask.parts.len() as u64;
        }
        self.judge_readiness(now_ms);
        asks
    }

    /// Devices that want to be verified again get their backend asked, one backend at a time.
    fn recheck(&mut self, now_ms: u64) {
        if self
            .desks
            .iter()
            .any(|(_, desk)| desk.running.is_some() || desk.is_wanted())
        {
            return;
        }
        let wanting = self
            .known
            .values()
            .filter(|known| known.device.backend.holds_layers() && known.health.wants_verification(now_ms))
            .map(|known| known.device.backend);
        let wanting: BTreeSet<Backend> = wanting.collect();
        let mut free = self.desks.iter_mut().filter(|(_, desk)| desk.free(now_ms));
        if let Some((_, desk)) = free.find(|(backend, _)| wanting.contains(backend)) {
            desk.want("a device is to be verified again");
        }
    }

    /// One backend at a time, and only while no other is asked anything.
    fn measure(&mut self, idle: bool, now_ms: u64) -> Option<Ask> {
        let busy = |(_, desk): &(Backend, Desk)| desk.running.is_some() || desk.is_wanted() || !desk.answered;
        if self.desks.iter().any(busy) {
            return None;
        }
        let measure = if self.ready { LATER_MEASURE } else { self.first_measure };
        if measure < MEASURE_MIN {
            return None;
        }
        let lacking = |backend: Backend, desk: &Desk| {
            let own = self.known.values().filter(|known| known.device.backend == backend);
            let mut lacking = own
                .filter(|known| known.gone_ms.is_none() && desk.lacks_figures(&known.device))
                .peekable();
            // What computes beside it would be slowed, and falsify the figures.
            lacking.peek().is_some() && (idle || lacking.all(|known| known.device.pool == Pool::Own))
        };
        let index = self
            .desks
            .iter()
            .position(|(backend, desk)| desk.free(now_ms) && lacking(*backend, desk))?;
        let (backend, desk) = self.desks.get_mut(index)?;
        let backend = *backend;
        desk.begin(Running::Measure(measure));
        self.measuring_since_ms = Some(now_ms);
        Some(Ask {
            backend,
            measure,
            parts: self.parts(backend, true),
            why: "figures are missing",
        })
    }

    fn judge_readiness(&mut self, now_ms: u64) {
        if self.ready {
            return;
        }
        let quiet = self
            .desks
            .iter()
            .all(|(_, desk)| desk.answered && desk.running.is_none() && !desk.is_wanted());
        let late = self.is_late(now_ms);
        let some = self
            .known
            .values()
            .any(|known| known.device.verification == Verification::Verified);
        let claimed = self
            .known
            .iter()
            .all(|(identity, known)| self.claim(identity, &known.device).is_some());
        self.ready = (quiet && claimed) || (late && some);
    }

    /// What does not come out of a maker's plugin is nobody's but ours.
    fn claim(&self, identity: &str, device: &GpuDevice) -> Option<Availability> {
        let told = self
            .neighbours
            .as_ref()
            .and_then(|all| all.claims.get(identity).cloned());
        told.or_else(|| Vendor::of_device(device).is_none().then_some(Availability::Ours))
    }

    fn availability(&self, identity: &str, device: &GpuDevice) -> Availability {
        self.claim(identity, device).unwrap_or_else(|| Availability::Unclaimed {
            reason: "it is not known yet which pods hold it".to_owned(),
        })
    }

    fn is_late(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.started_ms) >= READY_LIMIT_MS
    }

    fn forget(&mut self, now_ms: u64) {
        self.known.retain(|_, known| {
            known
                .gone_ms
                .is_none_or(|gone| now_ms.saturating_sub(gone) < GONE_KEPT_MS)
        });
    }

    /// All that is known at `now_ms`.
    pub fn view(&self, now_ms: u64) -> Devices {
        let mut states: Vec<DeviceState> = self
            .known
            .iter()
            .map(|(identity, known)| self.state(identity, known, now_ms))
            .collect();
        states.sort_by_key(|state| (state.device.backend, state.device.ordinal));
        let notes = self
            .desks
            .iter()
            .flat_map(|(backend, desk)| desk.notes().map(|note| (*backend, note)));
        Devices {
            ready: self.ready,
            complete: self.desks.iter().all(|(_, desk)| desk.answered),
            states,
            notes: notes.collect(),
            counters: self.counters.clone(),
            turns: self.turns.iter().cloned().collect(),
        }
    }

    fn state(&self, identity: &str, known: &Known, now_ms: u64) -> DeviceState {
        let fresh = |at: &u64| now_ms.saturating_sub(*at) < SAMPLE_STALE_MS;
        let sample = known.sample.as_ref().filter(|(_, at)| fresh(at));
        DeviceState {
            device: known.device.clone(),
            standing: known.health.standing(now_ms),
            sample: sample.map(|(sample, _)| known.temperatures.filled(sample, now_ms)),
            sampled_unix_ms: sample.map_or(0, |(_, at)| *at),
            availability: self.availability(identity, &known.device),
            stranger: self
                .neighbours
                .as_ref()
                .and_then(|all| all.strangers.get(identity).cloned()),
            last_fault: known.last_fault.clone(),
            note: known.health.note().cloned(),
            restart_shards: known.health.restart_shards(),
            spoiled_by: known.health.spoiled_by(now_ms).cloned(),
        }
    }
}

#[cfg(test)]
mod tests;
