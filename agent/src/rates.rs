//! How fast each device runs steps: a worker that holds no shard measures it, while the node holds nothing. Then each group of equal
//! devices that may work as one.
//!
//! ```text
//!  Devices, groups ─▶ turn (pure: which is next) ─▶ child (a worker) ─▶ known (pure: how often, how well) ─▶ disk, everybody else
//! ```
//!
//! What else runs on the machine only ever makes a step longer, so a few measurements are made with pauses between them, and of each
//! figure the least counts. They are kept on disk: a restart of the agent measures nothing again, but for groups that failed.

mod child;
mod known;
mod turn;

use crate::devices::Devices;
use crate::discovery::report::object_name;
use crate::groups;
use crate::shard::drive::View;
use known::Known;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;
use turn::Unit;

/// Between two measurements, and half as much again by chance: agents that start together do not stay together.
pub const PAUSE: Duration = Duration::from_secs(4);

/// How fast steps are on a device; see the worker's `--measure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Each step, whatever its layers.
    pub step_ns: u64,
    /// Each layer beside reading its weights.
    pub layer_ns: u64,
    /// Each row of a matrix beside reading it, picoseconds.
    #[serde(default)]
    pub row_ps: u64,
    /// By the number format of the weights.
    pub reading: Vec<Reading>,
    /// Arithmetic of one row's attention; absent where it was not measured.
    #[serde(default)]
    pub attention_flops_per_second: Option<u64>,
    /// A strict step of one row in percent of any; absent where it was not measured.
    #[serde(default)]
    pub strict_percent: Option<u32>,
    /// Arithmetic of large steps; absent where it was not measured.
    #[serde(default)]
    pub flops_per_second: Option<u64>,
    /// Operators of unusual architectures that the device has no kernel for; absent where its backend was not asked.
    #[serde(default)]
    pub missing_operators: Option<Vec<String>>,
    /// Steps behind it.
    pub samples: u32,
    /// When, in seconds since the Unix epoch.
    #[serde(default)]
    pub measured_unix_s: u64,
}

/// How fast weights of one format are read and multiplied with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Bits of each weight.
    pub bits: u32,
    /// Bytes of such weights.
    pub bytes_per_second: u64,
}

impl Rates {
    /// Whether it can be believed at all.
    fn is_sound(&self) -> bool {
        self.samples > 0 && !self.reading.is_empty() && self.reading.iter().all(|reading| reading.bytes_per_second > 0)
    }
}

/// The rates of the node's devices, by the names of their objects.
pub type ByDevice = BTreeMap<String, Rates>;

/// What must be known of the node.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Name of the Kubernetes node.
    pub node: String,
    /// Executable of the workers.
    pub worker: PathBuf,
    /// Compute threads of a CPU worker.
    pub threads: u32,
    /// Root of what is kept on disk.
    pub state_dir: PathBuf,
    /// [`PAUSE`], but in tests.
    pub pause: Duration,
}

/// The inputs and outputs.
#[derive(Debug)]
pub struct Lines {
    /// The node's devices.
    pub devices: watch::Receiver<Arc<Devices>>,
    /// What they hold.
    pub view: watch::Receiver<Arc<View>>,
    /// How fast each device is.
    pub told: watch::Sender<Arc<ByDevice>>,
    /// How fast groups of them are.
    pub groups: watch::Sender<groups::Told>,
}

/// Measures whatever is ready and not known, for as long as it is polled.
pub async fn run(setting: Setting, mut lines: Lines) {
    let file = setting.state_dir.join("step-rates.json");
    let mut known = read(&file);
    let mut not_before = Instant::now();
    loop {
        let present = Arc::clone(&lines.devices.borrow_and_update());
        tell(&setting, &present, &known, &lines.told);
        tell_groups(&setting, &present, &known, &lines.groups);
        let view = Arc::clone(&lines.view.borrow_and_update());
        let Some(unit) = turn::next(&setting, &present, &known, &view) else {
            tokio::select! {
                Ok(()) = lines.devices.changed() => {}
                Ok(()) = lines.view.changed() => {}
                else => return,
            }
            continue;
        };
        tokio::time::sleep_until(not_before).await;
        let before = known.get(&unit.key).and_then(|known| known.times.clone());
        // A shard that comes meanwhile has the device for itself: the measurement ends with its process.
        let measured = tokio::select! {
            measured = child::measure(&setting, &unit, before.as_ref()) => measured,
            () = taken(&mut lines.view, &unit) => continue,
        };
        if let Err(cause) = &measured {
            // Without any of them, what was promised or copied has to do; a group is not used.
            let device = unit.name();
            tracing::info!(device, cause, "how fast steps are on the device is not known");
        }
        let entry = known.entry(unit.key.clone()).or_default();
        entry.take(measured, unit.is_group(), unix_s());
        known::bound(&mut known, &turn::keys(&setting, &present));
        if let Err(error) = write(&file, &known) {
            tracing::debug!(path = %file.display(), %error, "rates are not saved; a restart measures again");
        }
        not_before = Instant::now() + setting.pause.mul_f64(1.0 + lifecycle::backoff::jitter() / 2.0);
    }
}

async fn taken(view: &mut watch::Receiver<Arc<View>>, unit: &Unit<'_>) {
    if view.wait_for(|view| !unit.is_free(view)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn tell(setting: &Setting, devices: &Devices, known: &BTreeMap<String, Known>, told: &watch::Sender<Arc<ByDevice>>) {
    let named = devices.states.iter().filter_map(|state| {
        let rates = known.get(&turn::key(setting, &state.device))?.rates.clone()?;
        Some((object_name(&setting.node, &state.device), rates))
    });
    let by_device: ByDevice = named.collect();
    told.send_if_modified(|current| {
        let changed = **current != by_device;
        if changed {
            *current = Arc::new(by_device);
        }
        changed
    });
}

fn tell_groups(
    setting: &Setting,
    devices: &Devices,
    known: &BTreeMap<String, Known>,
    told: &watch::Sender<groups::Told>,
) {
    // A device of a backend that has yet to answer is missing in its groups.
    if !devices.complete {
        return;
    }
    let found = groups::of(&setting.node, devices).into_iter();
    let seen: Vec<groups::Seen> = found.filter_map(|group| seen(setting, group, known)).collect();
    told.send_if_modified(|current| {
        let changed = current.as_deref() != Some(&seen);
        if changed {
            *current = Some(Arc::new(seen));
        }
        changed
    });
}

/// What is known of a group, which is never without members.
fn seen(setting: &Setting, group: groups::Group<'_>, known: &BTreeMap<String, Known>) -> Option<groups::Seen> {
    let backend = group.members.first()?.state.device.backend;
    let unit = Unit::of(setting, group.members);
    Some(groups::Seen {
        measured: known.get(&unit.key).and_then(Known::outcome),
        devices: unit.members.into_iter().map(|member| member.name).collect(),
        backend,
    })
}

/// What cannot be read is measured again.
fn read(file: &Path) -> BTreeMap<String, Known> {
    let text = std::fs::read(file).unwrap_or_default();
    let mut known: BTreeMap<String, Known> = serde_json::from_slice(&text).unwrap_or_default();
    known.values_mut().for_each(Known::begin_life);
    known
}

fn write(file: &Path, known: &BTreeMap<String, Known>) -> Result<(), identity::store::StoreError> {
    let text = serde_json::to_vec_pretty(known).unwrap_or_default();
    identity::store::write_private(file, &text)
}

fn unix_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
