//! How fast each device runs steps: a worker that holds no shard measures it, while the node holds nothing.
//!
//! What else runs on the machine only ever makes a step longer, so a few measurements are made with pauses between them, and of each
//! figure the least counts. They are kept on disk: a restart of the agent measures nothing again.

use crate::devices::{DeviceState, Devices};
use crate::discovery::report::object_name;
use crate::shard::drive::View;
use device::Backend;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

/// Measurements of one device, at most.
const ROUNDS_MAX: u32 = 16;
/// So many in a row that found nothing better: it is known.
const IN_VAIN_MAX: u32 = 2;
/// Between two of them, and half as much again by chance: agents that start together do not stay together.
const PAUSE: Duration = Duration::from_secs(4);
/// Some drivers compile for many seconds; one that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(90);
/// An answer has a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Devices that are remembered; nodes have fewer.
const KNOWN_MAX: usize = 256;
/// What is measured, and how: figures of another way are measured anew.
const METHOD: u32 = 5;
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

/// What was measured of a device, under which conditions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Known {
    rounds: u32,
    /// Of these the last ones, as far as they found nothing better.
    in_vain: u32,
    rates: Option<Rates>,
    /// What the worker wants to be given again: the least times so far.
    times: Option<serde_json::Value>,
}

/// What a worker prints.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(flatten)]
    rates: Rates,
    times: serde_json::Value,
    /// Anything is better than before.
    improved: bool,
}

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
}

/// Measures whatever is ready and not known, for as long as it is polled.
pub async fn run(
    setting: Setting,
    mut devices: watch::Receiver<Arc<Devices>>,
    mut view: watch::Receiver<Arc<View>>,
    told: watch::Sender<Arc<ByDevice>>,
) {
    let file = setting.state_dir.join("step-rates.json");
    let mut known = read(&file);
    let mut not_before = Instant::now();
    loop {
        let present = Arc::clone(&devices.borrow_and_update());
        tell(&setting, &present, &known, &told);
        let idle = view.borrow_and_update().holdings.is_empty();
        let next = next(&setting, &present, &known).filter(|_| idle);
        let Some((key, state)) = next else {
            tokio::select! {
                Ok(()) = devices.changed() => {}
                Ok(()) = view.changed() => {}
                else => return,
            }
            continue;
        };
        tokio::time::sleep_until(not_before).await;
        let before = known.get(&key).and_then(|known| known.times.clone());
        // A shard that comes meanwhile has the device for itself: the measurement ends with its process.
        let measured = tokio::select! {
            measured = measure(&setting, &state, before.as_ref()) => measured,
            () = holds(&mut view) => continue,
        };
        let entry = known.entry(key).or_default();
        entry.rounds += 1;
        match measured {
            Ok(answer) => {
                entry.rates = Some(answer.rates);
                entry.times = Some(answer.times);
                entry.in_vain = if answer.improved { 0 } else { entry.in_vain + 1 };
            }
            Err(cause) => {
                // Without any of them, what was promised or copied has to do.
                entry.in_vain += 1;
                let device = state.device.short_name();
                tracing::info!(device, cause, "how fast steps are on the device is not known");
            }
        }
        while known.len() > KNOWN_MAX {
            known.pop_first();
        }
        if let Err(error) = write(&file, &known) {
            tracing::debug!(path = %file.display(), %error, "rates are not saved; a restart measures again");
        }
        not_before = Instant::now() + PAUSE.mul_f64(1.0 + lifecycle::backoff::jitter() / 2.0);
    }
}

async fn holds(view: &mut watch::Receiver<Arc<View>>) {
    if view.wait_for(|view| !view.holdings.is_empty()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The device that was measured least, if one is to be measured.
fn next(setting: &Setting, devices: &Devices, known: &BTreeMap<String, Known>) -> Option<(String, DeviceState)> {
    let rounds = |state: &DeviceState| known.get(&key(setting, state)).map_or(0, |known| known.rounds);
    let is_known = |state: &DeviceState| {
        known
            .get(&key(setting, state))
            .is_some_and(|known| known.in_vain >= IN_VAIN_MAX || known.rounds >= ROUNDS_MAX)
    };
    let candidates = devices.states.iter().filter(|state| state.takes_layers());
    let least = candidates
        .filter(|state| !is_known(state))
        .min_by_key(|state| rounds(state))?;
    Some((key(setting, least), least.clone()))
}

/// What the rates of a device hold for: another driver, number of threads or build of ours is measured anew.
fn key(setting: &Setting, state: &DeviceState) -> String {
    let device = &state.device;
    let driver = device.driver.as_deref().unwrap_or_default();
    let threads = if device.backend == Backend::Cpu {
        setting.threads
    } else {
        0
    };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{}|{}|{driver}|{threads}|{version}|{METHOD}",
        device.identity(),
        device.model
    )
}

fn tell(setting: &Setting, devices: &Devices, known: &BTreeMap<String, Known>, told: &watch::Sender<Arc<ByDevice>>) {
    let named = devices.states.iter().filter_map(|state| {
        let rates = known.get(&key(setting, state))?.rates.clone()?;
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

/// Runs a worker that measures the device; its process ends when this is dropped.
async fn measure(setting: &Setting, state: &DeviceState, before: Option<&serde_json::Value>) -> Result<Answer, String> {
    let device = &state.device;
    let folder = setting.state_dir.join("run").join("rates");
    tokio::fs::create_dir_all(&folder)
        .await
        .map_err(|error| error.to_string())?;
    let mut command = Command::new(&setting.worker);
    command
        .args(["--measure", device.backend.engine_name()])
        .args(["--device-index", &device.index.to_string()])
        .args(["--threads", &setting.threads.to_string()])
        .arg("--folder")
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(before) = before {
        command.arg("--before").arg(before.to_string());
    }
    match device.backend {
        Backend::Vulkan => command.env("GGML_VK_VISIBLE_DEVICES", device.index.to_string()),
        _ => command.env_remove("GGML_VK_VISIBLE_DEVICES"),
    };
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))?;
    let output = output.map_err(|error| format!("{}: {error}", setting.worker.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim_end().lines().next_back().unwrap_or_default();
        return Err(format!("{}: {last}", output.status));
    }
    let text = output.stdout.get(..ANSWER_BYTES_MAX).unwrap_or(&output.stdout);
    let now_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    parse(text, now_unix_s)
}

fn parse(text: &[u8], now_unix_s: u64) -> Result<Answer, String> {
    let mut answer: Answer =
        serde_json::from_slice(text).map_err(|error| format!("its answer cannot be read: {error}"))?;
    if !answer.rates.is_sound() {
        return Err("its answer has no figures".to_owned());
    }
    answer.rates.measured_unix_s = now_unix_s;
    Ok(answer)
}

/// What cannot be read is measured again.
fn read(file: &Path) -> BTreeMap<String, Known> {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn write(file: &Path, known: &BTreeMap<String, Known>) -> Result<(), identity::store::StoreError> {
    let text = serde_json::to_vec_pretty(known).unwrap_or_default();
    identity::store::write_private(file, &text)
}

#[cfg(test)]
mod tests;
