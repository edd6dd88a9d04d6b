//! From a backend's driver to its answer: list, verify each, measure those that the budget lasts for.

use crate::driver::Driver;
use crate::measure::{self, DEVICE_BUDGET};
use crate::verify::verify;
use crate::{
    Answer, Backend, BackendError, GpuDevice, Measured, Selection, Verification, factory, intel, rocm, telemetry,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a probe may cost, and what is known already.
#[derive(Clone, Debug, Default)]
pub struct ProbeRequest {
    /// For the measurements of all devices together; zero measures nothing.
    pub measure_budget: Duration,
    /// Devices as they were found and measured earlier. Their figures hold for the same device with the same driver
    /// under the same power limit.
    pub known: Vec<GpuDevice>,
    /// Which devices; the others are not in the answer. A device that is asked alone is read once as well, because a
    /// card may hang in its readings only.
    pub only: Selection,
}

/// Less than this measures start-up costs and nothing else.
const BUDGET_MIN: Duration = Duration::from_millis(20);
/// Of a device's budget, what copies to other devices take.
const PEER_SHARE: u32 = 4;

/// Asks one backend in this process: lists, verifies and measures. Takes a few milliseconds per device and the budget,
/// and as long as a wedged driver likes; use [`crate::child::probe::ask`] where that matters.
/// `root` is "/" but in tests and where a recorded tree is shown.
pub fn probe(backend: Backend, root: &Path, request: &ProbeRequest, now_unix_s: u64) -> Answer {
    let mut answer = answer(backend, root, request, now_unix_s);
    answer.devices.retain(|device| request.only.picks(device.place()));
    if request.only.alone().is_some()
        && let Ok(Some(mut sampler)) = telemetry::sampler(backend, root, &request.only)
    {
        // What it says is the reader's to tell; here it matters that it says something.
        let _ = sampler.sample();
    }
    answer
}

fn answer(backend: Backend, root: &Path, request: &ProbeRequest, now_unix_s: u64) -> Answer {
    let Some(mut driver) = factory::driver(backend, root) else {
        return intel::describe(root);
    };
    driver.restrict(&request.only);
    let asked = ask(driver.as_mut(), request, now_unix_s).map_err(reason);
    // What it answered holds; this process has no more use for it.
    let _ = driver.close();
    if backend == Backend::Rocm {
        // Cards that the runtime does not reach are described by the kernel.
        return rocm::answer(root, asked);
    }
    match asked {
        Ok(devices) => Answer {
            backend,
            note: devices
                .is_empty()
                .then(|| "its library is here, and finds no device".to_owned()),
            devices,
        },
        Err(reason) => Answer::nothing(backend, reason),
    }
}

/// The table of notes names the backend already.
fn reason(error: BackendError) -> String {
    match error {
        BackendError::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    }
}

fn ask(driver: &mut dyn Driver, request: &ProbeRequest, now_unix_s: u64) -> Result<Vec<GpuDevice>, BackendError> {
    driver.open()?;
    let mut devices = driver.devices()?;
    devices.retain(|device| request.only.picks(device.place()));
    for device in &mut devices {
        // A driver that knows its device to be unfit has said why.
        if !matches!(device.verification, Verification::Failed { .. }) {
            device.verification = verify(driver, device.index);
        }
    }
    measure_all(driver, &mut devices, request, now_unix_s);
    Ok(devices)
}

fn measure_all(driver: &mut dyn Driver, devices: &mut [GpuDevice], request: &ProbeRequest, now_unix_s: u64) {
    let start = Instant::now();
    for device in devices.iter_mut() {
        device.measured = known_figures(device, &request.known).unwrap_or_default();
    }
    let others: Vec<GpuDevice> = devices
        .iter()
        .filter(|device| device.verification == Verification::Verified)
        .cloned()
        .collect();
    let wanting = |device: &GpuDevice| {
        let measurable = device.verification == Verification::Verified;
        measurable && (!complete(&device.measured) || !knows_peers(device, &others))
    };
    let mut waiting = devices.iter().filter(|device| wanting(device)).count() as u32;
    for device in devices.iter_mut().filter(|device| wanting(device)) {
        let left = request.measure_budget.saturating_sub(start.elapsed());
        let budget = (left / waiting.max(1)).min(DEVICE_BUDGET);
        waiting = waiting.saturating_sub(1);
        if budget < BUDGET_MIN {
            continue;
        }
        let for_peers = if others.len() > 1 {
            budget / PEER_SHARE
        } else {
            Duration::ZERO
        };
        if !complete(&device.measured) {
            let known_peers = std::mem::take(&mut device.measured.peers);
            device.measured = measure::measure_within(driver, device.index, budget - for_peers, now_unix_s);
            device.measured.peers = known_peers;
        }
        if !knows_peers(device, &others) {
            device.measured.peers = measure::peers(driver, device.index, &others, for_peers, now_unix_s);
        }
    }
}

/// The figures of the same device under the same driver and power limit.
fn known_figures(device: &GpuDevice, known: &[GpuDevice]) -> Option<Measured> {
    known
        .iter()
        .find(|known| {
            known.identity() == device.identity()
                && known.backend == device.backend
                && known.model == device.model
                && known.architecture == device.architecture
                && known.driver == device.driver
                && known.power_limit_watts == device.power_limit_watts
        })
        .map(|known| known.measured.clone())
}

/// Whether all was measured that every device has. Half precision is not: some do without.
fn complete(measured: &Measured) -> bool {
    measured.bandwidth_bytes_per_second.is_some()
        && measured.launch_ns.is_some()
        && measured.f32_flops_per_second.is_some()
        && measured.to_device_bytes_per_second.is_some()
        && measured.from_device_bytes_per_second.is_some()
}

fn knows_peers(device: &GpuDevice, verified: &[GpuDevice]) -> bool {
    let known = |other: &GpuDevice| device.measured.peers.iter().any(|peer| peer.to == other.identity());
    verified.iter().filter(|other| other.index != device.index).all(known)
}

#[cfg(test)]
mod tests;
