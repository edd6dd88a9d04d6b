//! Carries out what [`super::decide`] asks for, and tells it what came of it. No decision is made here.

use super::bus;
use super::decide::{Ask, Decider, InUse, ProofAges, Rules};
use super::state::{Devices, Turn};
use super::watcher::{Patience, Told, Watcher};
use crate::neighbours::Neighbours;
use crate::shard::drive::View;
use device::child::Quota;
use device::child::parts::{self, Part};
use device::child::probe;
use device::health::Transition;
use device::registry::Registry;
use device::{Backend, Selection};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// What children tell and nobody has heard yet: a few of each backend.
const TOLD_MAX: usize = 64;
/// Deadlines are looked at this often, when nothing else happens.
const TICK: Duration = Duration::from_millis(500);

/// What the drive must know of the node.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Name of the Kubernetes node.
    pub node: String,
    /// For the children: the agent's own, as a rule.
    pub executable: PathBuf,
    /// Which backends are asked.
    pub backends: Vec<Backend>,
    /// "/" but in tests.
    pub root: PathBuf,
    /// From one reading to the next.
    pub poll: Duration,
    /// Most of main memory that shards may take.
    pub memory_limit_bytes: Option<u64>,
    /// File of the registry.
    pub registry: PathBuf,
    /// With a silent driver.
    pub patience: Patience,
    /// When devices in order are verified once more.
    pub proof_ages: ProofAges,
}

/// The inputs and outputs of a drive.
#[derive(Debug)]
pub struct Lines {
    /// What is known.
    pub devices: watch::Sender<Arc<Devices>>,
    /// What the node holds.
    pub view: watch::Receiver<Arc<View>>,
    /// Who else holds devices.
    pub neighbours: watch::Receiver<Option<Arc<Neighbours>>>,
}

/// Runs for as long as it is polled. When it is dropped every child is ended.
pub async fn run(setting: Setting, lines: Lines) {
    let (registry, complaint) = Registry::open(&setting.registry);
    if let Some(complaint) = complaint {
        tracing::warn!(path = %setting.registry.display(), complaint, "the registry of devices is begun anew");
    }
    let boot_id = std::fs::read_to_string(setting.root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let rules = Rules {
        backends: setting.backends.clone(),
        memory_limit_bytes: setting.memory_limit_bytes,
        boot_id: boot_id.trim().to_owned(),
        node: setting.node.clone(),
        proof_ages: setting.proof_ages,
    };
    let clock = Clock::start();
    let decider = Decider::new(rules, registry, clock.unix_ms());
    let quotas = setting
        .backends
        .iter()
        .map(|backend| (*backend, Quota::new(*backend)))
        .collect();
    let drive = Drive {
        setting,
        lines,
        decider,
        quotas,
        watchers: JoinSet::new(),
        watched: BTreeMap::new(),
        wake: Arc::new(Notify::new()),
        probes: JoinSet::new(),
        told_notes: BTreeMap::new(),
        unsaved: false,
        clock,
    };
    drive.run().await;
}

struct Drive {
    setting: Setting,
    lines: Lines,
    decider: Decider,
    quotas: BTreeMap<Backend, Quota>,
    watchers: JoinSet<()>,
    /// What each of them reads.
    watched: BTreeMap<Backend, watch::Sender<Selection>>,
    /// Of all watchers that rest.
    wake: Arc<Notify>,
    probes: JoinSet<(Backend, Vec<Part>)>,
    /// The notes that the log has already.
    told_notes: BTreeMap<Backend, Vec<String>>,
    /// The registry could not be saved the last time, and the log has it.
    unsaved: bool,
    clock: Clock,
}

impl Drive {
    async fn run(mut self) {
        let (tell, mut told) = mpsc::channel(TOLD_MAX);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at_bus = Instant::now();
        loop {
            if Instant::now() >= look_at_bus {
                look_at_bus += self.setting.poll;
                self.look_at_bus();
            }
            let neighbours = self.lines.neighbours.borrow_and_update().clone();
            self.decider.neighbours(neighbours);
            let in_use = in_use(&self.lines.view.borrow_and_update());
            self.decider.in_use(in_use);
            for ask in self.decider.due(self.idle(), self.clock.unix_ms()) {
                self.ask(ask);
            }
            self.publish(&tell);
            tokio::select! {
                Some(outcome) = self.probes.join_next() => self.answered(outcome),
                Some((backend, told)) = told.recv() => self.take(backend, told),
                // Whoever tells may have ended; the last word stands.
                Ok(()) = self.lines.neighbours.changed() => {}
                Ok(()) = self.lines.view.changed() => {}
                _ = tick.tick() => {}
            }
        }
    }

    fn idle(&self) -> bool {
        self.lines.view.borrow().holdings.is_empty()
    }

    fn look_at_bus(&mut self) {
        if self.decider.bus(bus::cards(&self.setting.root), self.clock.unix_ms()) {
            tracing::info!("a card came or went; asking every backend");
            self.wake.notify_waiters();
        }
    }

    fn ask(&mut self, ask: Ask) {
        let Some(quota) = self.quotas.get(&ask.backend).cloned() else {
            return;
        };
        tracing::debug!(
            backend = ask.backend.name(),
            measure_ms = ask.measure.as_millis() as u64,
            parts = ask.parts.len(),
            ask.why,
            "probing"
        );
        let order = probe::Order {
            measure_budget: ask.measure,
            known: Some(self.setting.registry.clone()).filter(|path| path.exists()),
            only: Selection::All,
            root: self.setting.root.clone(),
            limit: self.setting.patience.answer,
        };
        let executable = self.setting.executable.clone();
        self.probes.spawn(async move {
            let outcomes = parts::ask(&executable, ask.backend, &order, ask.parts, &quota).await;
            (ask.backend, outcomes)
        });
    }

    fn answered(&mut self, outcome: Result<(Backend, Vec<Part>), tokio::task::JoinError>) {
        match outcome {
            Ok((backend, parts)) => self
                .decider
                .answered(backend, &parts, self.idle(), self.clock.unix_ms()),
            Err(error) => tracing::error!(%error, "a probe ended without an answer"),
        }
    }

    fn take(&mut self, backend: Backend, told: Told) {
        if let Told::Broken(reason) = &told {
            tracing::debug!(backend = backend.name(), reason, "the watcher is started again");
        }
        self.decider.told(backend, told, self.clock.unix_ms());
    }

    fn publish(&mut self, tell: &mpsc::Sender<(Backend, Told)>) {
        self.save();
        let devices = self.decider.view(self.clock.unix_ms());
        if devices.ready && self.watchers.is_empty() {
            self.watch(tell);
        }
        for (backend, watched) in &self.watched {
            let now = self.decider.watched(*backend);
            watched.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
        self.log(&devices);
        self.lines.devices.send_if_modified(|current| {
            let changed = **current != devices;
            if changed {
                *current = Arc::new(devices);
            }
            changed
        });
    }

    /// It is tried again at every turn, and told when it begins to fail and when it succeeds again.
    fn save(&mut self) {
        let path = self.setting.registry.display();
        let outcome = self.decider.registry().save();
        let failed_before = std::mem::replace(&mut self.unsaved, outcome.is_err());
        match outcome {
            Err(error) if !failed_before => tracing::warn!(
                %path,
                %error,
                "the registry of devices cannot be saved: after a restart they may have other names, and are measured anew; trying again"
            ),
            Ok(()) if failed_before => tracing::info!(%path, "the registry of devices is saved again"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Watchers start when the devices are known, so that they do not take the probes' time.
    fn watch(&mut self, tell: &mpsc::Sender<(Backend, Told)>) {
        for (backend, quota) in &self.quotas {
            let watched = watch::Sender::new(self.decider.watched(*backend));
            let watcher = Watcher {
                executable: self.setting.executable.clone(),
                backend: *backend,
                order: device::child::watch::Order {
                    interval: self.setting.poll,
                    only: Selection::All,
                    root: self.setting.root.clone(),
                },
                only: watched.subscribe(),
                patience: self.setting.patience,
                quota: quota.clone(),
                wake: Arc::clone(&self.wake),
            };
            self.watched.insert(*backend, watched);
            self.watchers.spawn(watcher.run(tell.clone()));
        }
    }

    /// What is new since the last time, for people.
    fn log(&mut self, devices: &Devices) {
        let before = self.lines.devices.borrow().clone();
        let told = before.turns.last().map_or(0, |turn| turn.number);
        for turn in devices.turns.iter().filter(|turn| turn.number > told) {
            log_turn(turn);
        }
        if devices.ready {
            if !before.ready {
                tracing::info!(count = devices.states.len(), "devices are ready");
            }
            for state in &devices.states {
                let known = |known: &super::DeviceState| known.device.identity() == state.device.identity();
                if !before.ready || !before.states.iter().any(known) {
                    let device = &state.device;
                    tracing::info!(device = device.short_name(), model = device.model, kind = ?device.kind, verification = ?device.verification, "device");
                }
            }
        }
        for backend in &self.setting.backends {
            let notes: Vec<String> = devices
                .notes
                .iter()
                .filter(|(of, _)| of == backend)
                .map(|(_, note)| note.clone())
                .collect();
            if self.told_notes.get(backend).is_some_and(|told| *told == notes) {
                continue;
            }
            let has_devices = devices.states.iter().any(|state| state.device.backend == *backend);
            for note in &notes {
                if has_devices {
                    tracing::warn!(
                        backend = backend.name(),
                        note,
                        "a backend with devices is not as it should be"
                    );
                } else {
                    tracing::debug!(backend = backend.name(), note, "no devices");
                }
            }
            self.told_notes.insert(*backend, notes);
        }
    }
}

fn in_use(view: &View) -> InUse {
    InUse {
        held: view
            .holdings
            .iter()
            .flat_map(|holding| holding.devices().map(str::to_owned))
            .collect(),
        loading: view.loading.clone(),
        leaving: view.leaving.clone(),
    }
}

fn log_turn(turn: &Turn) {
    let device = turn.identity.as_str();
    match &turn.transition {
        Transition::Proven => tracing::debug!(device, "the device passed its first verification"),
        Transition::Passed { .. } => tracing::info!(device, "the device passed a verification and is watched"),
        Transition::Recovered { fault } => tracing::info!(device, from = fault.reason, "the device is ready again"),
        Transition::Failed { fault, relapses } => {
            let (reason, message) = (&fault.reason, &fault.message);
            tracing::warn!(device, reason, fault.xid, message, relapses, "the device failed");
        }
        Transition::RestartShards { fault } => {
            tracing::warn!(
                device,
                fault.reason,
                fault.xid,
                fault.message,
                "an application failed on the device"
            );
        }
        Transition::Noted { fault } => {
            tracing::warn!(device, fault.reason, fault.xid, fault.message, "about a device");
        }
    }
}

/// The time of day at the start, and what passed since: it never jumps.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started: Instant,
    started_unix: Duration,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    fn unix_ms(self) -> u64 {
        let now = self.started_unix + self.started.elapsed();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }
}
