//! Carries out what [`super::step`] decides, and tells it what came of it. No decision is made here.

use super::crowded;
use super::departed::Departed;
use super::launch;
use super::observed::{Event, Fault, Installed, NOT_PREPARED, Observed, Running, State, Work};
use super::report::{self, Done, Holding, Serving};
use super::step::{self, Action, DesiredShards, ObservedShards};
use super::suspects::{self, Suspects};
use super::take_over::{self, Taken};
use super::weights::{Gauge, Prepared, Weights};
use super::{Desired, Slot};
use crate::devices::Devices;
use crate::discovery::report::object_name;
use crate::leaves::WorkerLeaves;
use crate::models::{Models, Wanted};
use crate::trust::Trust;
use crate::worker::leftovers::{self, Left};
use crate::worker::places::Places;
use crate::worker::process::{self, Order, Worker};
use lifecycle::backoff::jitter;
use proto::control::v1::ShardStatus;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events under way: each shard has at most a few.
const EVENTS_MAX: usize = 256;
/// Deadlines and retries are looked at this often, when nothing else happens.
const TICK: Duration = Duration::from_millis(250);
/// Leaves live for hours and are renewed from half of their life. What could not be renewed for long is renewed soon after the operator
/// is back.
const RENEW_LEAVES_EVERY: Duration = Duration::from_secs(30);
/// A leaf that is not there by then is left to the next turn. Turns wait for each other: with the seconds that a worker has to take its
/// leaf, one ends before the next.
const RENEW_LEAF_WITHIN: Duration = Duration::from_secs(20);
/// What was held last is known at once, or with the operator's first word. Less than a worker lives by itself.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(15);
/// Actions that follow from each other at once; more would be a loop.
const ROUNDS_MAX: usize = 16;

/// What the drive must know of the node.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Name of the Kubernetes node.
    pub node: String,
    /// Root of what is kept on disk.
    pub state_dir: PathBuf,
    /// Executable of the workers.
    pub worker: PathBuf,
    /// Trust domain.
    pub trust_domain: String,
    /// Where workers bind.
    pub listen_ip: IpAddr,
    /// Where workers are reached.
    pub advertise_ip: IpAddr,
    /// Compute threads of a CPU worker.
    pub threads: u32,
    /// The node's devices at this moment: a worker is started with the index that its device has then.
    pub devices: watch::Receiver<Arc<Devices>>,
}

/// What others see of the shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// For the operator.
    pub statuses: Vec<ShardStatus>,
    /// For the devices' objects.
    pub holdings: Vec<Holding>,
    /// Devices onto which layers are about to be loaded, or are being loaded.
    pub loading: BTreeSet<String>,
    /// Devices on which something is that is not desired any more.
    pub leaving: BTreeSet<String>,
    /// Whose workers serve.
    pub serving: Vec<Serving>,
    /// Ends of workers that nobody asked for, since the start.
    pub worker_failures: u64,
}

/// The inputs and outputs of a drive.
pub struct Lines {
    /// What shall be held.
    pub desired: watch::Receiver<Arc<DesiredShards>>,
    /// Once cancelled, nothing shall be held any more: everything is drained, and the drive ends.
    pub unload: CancellationToken,
    /// What is held.
    pub view: watch::Sender<Arc<View>>,
    /// Workers of an earlier life: those that are desired are watched on once that is known, the others ended.
    pub left: Vec<Left>,
}

/// Runs until `unload` is cancelled and every worker has ended.
pub async fn run<L: WorkerLeaves>(setting: Setting, leaves: Arc<L>, models: Arc<Models>, lines: Lines) {
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let trust = leaves.trust();
    let mut drive = Drive {
        setting,
        leaves,
        models,
        events,
        desired: Arc::default(),
        observed: BTreeMap::new(),
        departed: Departed::default(),
        held: BTreeMap::new(),
        started: Instant::now(),
        worker_failures: 0,
        restarts_heeded: BTreeMap::new(),
        suspects: Suspects::new(),
        trust,
        renewing: Arc::default(),
        view: lines.view,
    };
    let (mut desired, unload) = (lines.desired, lines.unload);
    if !lines.left.is_empty() {
        drive.take_over(lines.left, &mut desired, &unload).await;
    }
    drive.run(inbox, desired, unload).await;
}

/// What belongs to a shard and is no part of its state.
#[derive(Default)]
struct Held {
    gauge: Arc<Gauge>,
    prepared: Arc<Mutex<Option<Prepared>>>,
    worker: Option<Worker>,
    /// The envelope that the worker has: one epoch is one envelope, even when the operator signs it again.
    installed: Option<(u64, Arc<Vec<u8>>)>,
    /// Handed over and not confirmed.
    offered: Option<(u64, Arc<Vec<u8>>)>,
}

struct Drive<L> {
    setting: Setting,
    leaves: Arc<L>,
    models: Arc<Models>,
    events: mpsc::Sender<(Slot, Event)>,
    desired: Arc<DesiredShards>,
    observed: ObservedShards,
    departed: Departed,
    held: BTreeMap<Slot, Held>,
    started: Instant,
    worker_failures: u64,
    /// By device, of how many requests to start its workers again we know.
    restarts_heeded: BTreeMap<String, u32>,
    suspects: Suspects,
    /// Whom the workers trust, and that the agent's own leaf is another.
    trust: Trust,
    /// Two renewals at once would write the same files.
    renewing: Arc<tokio::sync::Mutex<()>>,
    view: watch::Sender<Arc<View>>,
}

impl<L: WorkerLeaves> Drive<L> {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<(Slot, Event)>,
        mut desires: watch::Receiver<Arc<DesiredShards>>,
        unload: CancellationToken,
    ) {
        let mut ending = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewal = tokio::time::interval(RENEW_LEAVES_EVERY);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut own = self.trust.wishes.renewals();
        self.desired = Arc::clone(&desires.borrow_and_update());
        self.heed_devices();
        loop {
            self.advance();
            self.publish();
            if ending && self.observed.is_empty() {
                return;
            }
            tokio::select! {
                () = unload.cancelled(), if !ending => {
                    ending = true;
                    self.desired = Arc::default();
                }
                Ok(()) = desires.changed(), if !ending => self.desired = desires.borrow_and_update().clone(),
                Some((slot, event)) = inbox.recv() => self.take(&slot, event),
                Ok(()) = self.setting.devices.changed() => self.heed_devices(),
                _ = tick.tick(), if !self.observed.is_empty() => {}
                _ = renewal.tick() => self.renew_leaves(),
                Ok(()) = own.changed() => self.renew_leaves(),
            }
        }
    }

    /// Goes on with workers of an earlier life, as soon as it is known what shall be held. What is not wanted ends before anything
    /// is started: its memory must be free again.
    async fn take_over(
        &mut self,
        left: Vec<Left>,
        desires: &mut watch::Receiver<Arc<DesiredShards>>,
        unload: &CancellationToken,
    ) {
        tokio::select! {
            // Without a sender the agent is ending, and nothing is desired.
            _ = tokio::time::timeout(TAKE_OVER_WITHIN, desires.changed()) => {}
            () = unload.cancelled() => {}
        }
        let desired = Arc::clone(&desires.borrow_and_update());
        let (taken, others) = take_over::sort(&self.setting, &desired, left);
        for Taken {
            slot,
            seen,
            launch,
            left,
        } in taken
        {
            let (worker, inbox) = process::orders();
            let held = Held {
                worker: Some(worker),
                ..Held::default()
            };
            self.observed.insert(slot.clone(), seen);
            self.held.insert(slot, held);
            tokio::spawn(process::take_over(launch, left, inbox, self.events.clone()));
        }
        // A task that panicked has ended what it could; the others end by themselves.
        let _ = tokio::task::spawn_blocking(move || leftovers::end(others)).await;
    }

    /// Ends the workers of devices on which an application failed; they are started again as after any other failure. What
    /// follows for devices whose results cannot be trusted is decided with the next step.
    fn heed_devices(&mut self) {
        let devices = Arc::clone(&self.setting.devices.borrow_and_update());
        self.suspects = suspects::of(&self.setting.node, &devices);
        for state in &devices.states {
            let name = object_name(&self.setting.node, &state.device);
            let asked = state.restart_shards;
            let heeded = self.restarts_heeded.insert(name.clone(), asked).unwrap_or(asked);
            if asked <= heeded {
                continue;
            }
            for (slot, seen) in &self.observed {
                if seen.slice.devices().any(|device| device == name) && seen.running().is_some() {
                    tracing::warn!(shard = %slot, device = name, "an application failed on the device; starting the worker again");
                    self.order(slot, Order::Kill);
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn take(&mut self, slot: &Slot, event: Event) {
        let Some(seen) = self.observed.get_mut(slot) else {
            return;
        };
        let event = match event {
            Event::Exited(fault) => {
                let devices = self.setting.devices.borrow();
                Event::Exited(crowded::told(fault, &self.setting.node, &seen.slice.device, &devices))
            }
            event => event,
        };
        match &event {
            Event::WorkFailed(work, fault) => {
                tracing::warn!(shard = %slot, ?work, reason = fault.reason, message = fault.message, "the shard failed");
            }
            Event::Refused(offered, fault) => {
                tracing::warn!(shard = %slot, epoch = offered.epoch, reason = fault.reason, message = fault.message, "the worker refuses the placement");
            }
            Event::Exited(_) => {
                if seen.running().is_some_and(Running::ends_by_failing) {
                    self.worker_failures += 1;
                }
                if let Some(held) = self.held.get_mut(slot) {
                    held.worker = None;
                    (held.installed, held.offered) = (None, None);
                }
            }
            Event::Accepted(_) => {
                if let Some(held) = self.held.get_mut(slot) {
                    held.installed = held.offered.take();
                }
            }
            Event::Done(_) | Event::Status { .. } | Event::Measured(_) => {}
        }
        seen.apply(event, self.started.elapsed().as_millis() as u64, jitter());
    }

    /// Steps until nothing more is to be done at this moment.
    fn advance(&mut self) {
        let desired = Arc::clone(&self.desired);
        step::remember(&mut self.observed, &desired);
        for _ in 0..ROUNDS_MAX {
            let actions = step::step(&desired, &self.observed, &self.suspects, self.now_ms());
            if actions.is_empty() {
                break;
            }
            for (slot, action) in actions {
                tracing::debug!(shard = %slot, ?action, "step");
                let now_ms = self.now_ms();
                let (observed, departed) = (&mut self.observed, &mut self.departed);
                step::begin(observed, departed, &desired, (&slot, &action), now_ms);
                self.carry_out(&slot, action);
            }
        }
        for (slot, seen) in &self.observed {
            if !desired.contains_key(slot)
                && matches!(seen.state, State::Busy(_))
                && let Some(held) = self.held.get(slot)
            {
                held.gauge.cancel();
            }
        }
    }

    fn carry_out(&mut self, slot: &Slot, action: Action) {
        match action {
            Action::Adopt => {
                self.models.release(&slot.key());
                self.held.insert(slot.clone(), Held::default());
            }
            Action::Start(work) => self.start(slot, work),
            Action::Install(offered) => self.install(slot, offered),
            Action::Drain { .. } => self.order(slot, Order::Drain),
            Action::Kill => self.order(slot, Order::Kill),
            Action::Condemn(fault) => {
                tracing::warn!(shard = %slot, reason = fault.reason, why = fault.message, "no worker may be there");
                self.order(slot, Order::Kill);
            }
            Action::Retry => {}
            Action::Forget => {
                self.held.remove(slot);
                Places::new(&self.setting.state_dir, slot).remove();
                self.models.release(&slot.key());
                self.prune();
            }
        }
    }

    fn order(&self, slot: &Slot, order: Order) {
        if let Some(worker) = self.held.get(slot).and_then(|held| held.worker.as_ref()) {
            worker.order(order);
        }
    }

    fn install(&mut self, slot: &Slot, offered: Installed) {
        let in_force = self.desired.get(slot).and_then(|wanted| wanted.in_force.as_ref());
        let (Some(held), Some(in_force)) = (self.held.get_mut(slot), in_force) else {
            return;
        };
        let envelope = match &held.installed {
            Some((epoch, envelope)) if *epoch == offered.epoch => Arc::clone(envelope),
            _ => Arc::clone(&in_force.envelope),
        };
        held.offered = Some((offered.epoch, Arc::clone(&envelope)));
        if let Some(worker) = &held.worker {
            worker.order(Order::Install { offered, envelope });
        }
    }

    fn start(&mut self, slot: &Slot, work: Work) {
        let (Some(seen), Some(wanted)) = (self.observed.get(slot).cloned(), self.desired.get(slot).cloned()) else {
            return;
        };
        if work == Work::Spawn {
            self.spawn(slot.clone(), &seen, &wanted);
            return;
        }
        self.models.keep(self.in_use());
        let files = Weights {
            models: Arc::clone(&self.models),
            slot: slot.clone(),
            wanted: Wanted {
                index: seen.slice.index,
                uri: wanted.uri,
                access: wanted.access,
                peers: wanted.peers,
            },
            slice: seen.slice,
        };
        let held = self.held.entry(slot.clone()).or_default();
        held.gauge = Arc::new(Gauge::default());
        let (gauge, kept) = (Arc::clone(&held.gauge), Arc::clone(&held.prepared));
        let (slot, events) = (slot.clone(), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let outcome = match work {
                Work::Fetch => files.fetch(&gauge),
                Work::Verify => files.verify(&gauge),
                Work::Prepare | Work::Spawn => files.prepare().map(|prepared| {
                    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
                }),
            };
            let event = match outcome {
                Ok(()) => Event::Done(work),
                Err(fault) => Event::WorkFailed(work, fault),
            };
            // Without a receiver the agent is ending.
            let _ = events.blocking_send((slot, event));
        });
    }

    /// Identity first, then the process, which from then on reports by itself.
    fn spawn(&mut self, slot: Slot, seen: &Observed, wanted: &Desired) {
        let (worker, inbox) = process::orders();
        let held = self.held.entry(slot.clone()).or_default();
        held.worker = Some(worker);
        let prepared = held.prepared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let launch = prepared
            .ok_or_else(|| Fault::new(NOT_PREPARED, "the shard's files have to be prepared again"))
            .and_then(|prepared| launch::launch(&self.setting, &slot, seen, wanted, prepared));
        let (leaves, events) = (Arc::clone(&self.leaves), self.events.clone());
        tokio::spawn(async move {
            let ready = match launch {
                Ok(launch) => leaves
                    .ensure(&slot.model_uid, &launch.places.identity)
                    .await
                    .map(|()| launch),
                Err(fault) => Err(fault),
            };
            match ready {
                Ok(launch) => process::run(launch, inbox, events).await,
                Err(fault) => {
                    // Without a receiver the agent is ending.
                    let _ = events.send((slot, Event::WorkFailed(Work::Spawn, fault))).await;
                }
            }
        });
    }

    /// Has every worker that runs take a leaf that is not half way through, of whom the agent's own is.
    fn renew_leaves(&self) {
        let running = self.observed.iter().filter(|(_, seen)| seen.running().is_some());
        let running: Vec<(Slot, Places)> = running
            .map(|(slot, _)| (slot.clone(), Places::new(&self.setting.state_dir, slot)))
            .collect();
        let (leaves, trust, renewing) = (Arc::clone(&self.leaves), self.trust.clone(), Arc::clone(&self.renewing));
        tokio::spawn(async move {
            let _alone = renewing.lock().await;
            trust.keep(running.iter().map(|(_, places)| &*places.identity));
            let mut each = JoinSet::new();
            for (slot, places) in running {
                each.spawn(renew_leaf(Arc::clone(&leaves), trust.clone(), slot, places));
            }
            each.join_all().await;
        });
    }

    fn in_use(&self) -> HashSet<gguf::Digest> {
        let observed = self.observed.values().map(|seen| seen.slice.index);
        observed
            .chain(self.desired.values().map(|wanted| wanted.slice.index))
            .collect()
    }

    fn prune(&self) {
        self.models.keep(self.in_use());
        let models = Arc::clone(&self.models);
        tokio::task::spawn_blocking(move || models.prune());
    }

    fn publish(&self) {
        let progress = |slot: &Slot| {
            let Some(gauge) = self.held.get(slot).map(|held| &held.gauge) else {
                return Done::default();
            };
            let (bytes, total_bytes) = gauge.read();
            Done {
                bytes,
                total_bytes,
                note: gauge.note(),
            }
        };
        let view = View {
            statuses: report::statuses(&self.desired, &self.observed, progress),
            holdings: report::holdings(&self.desired, &self.observed),
            loading: report::loading(&self.desired, &self.observed),
            leaving: report::leaving(&self.desired, &self.observed),
            serving: report::serving(&self.desired, &self.observed),
            worker_failures: self.worker_failures,
        };
        self.view.send_if_modified(|current| {
            let changed = **current != view;
            if changed {
                *current = Arc::new(view);
            }
            changed
        });
    }
}

async fn renew_leaf<L: WorkerLeaves>(leaves: Arc<L>, trust: Trust, slot: Slot, places: Places) {
    let ensured = leaves.ensure(&slot.model_uid, &places.identity);
    let message = match tokio::time::timeout(RENEW_LEAF_WITHIN, ensured).await {
        Ok(ensured) => ensured.err().map(|fault| fault.message),
        Err(_) => Some(format!("none within {} s", RENEW_LEAF_WITHIN.as_secs())),
    };
    if let Some(message) = message {
        tracing::warn!(shard = %slot, message, "the worker's leaf is not renewed; trying again");
    }
    trust.hand_over(&places).await;
}

#[cfg(test)]
mod tests;
