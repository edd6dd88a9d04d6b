//! What is known of this node's devices at this moment: the one thing that everybody else reads.

use crate::discovery::report::object_name;
use crate::neighbours::Claim;
use device::health::{Fault, Standing, Transition};
use device::telemetry::Sample;
use device::{Backend, GpuDevice};
use std::collections::BTreeMap;

/// Whose a device is.
pub type Availability = Claim;

/// One device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceState {
    /// What it is. Of a device that is lost: what it was.
    pub device: GpuDevice,
    /// Whether it can be trusted with layers.
    pub standing: Standing,
    /// Its last readings; nothing where nobody reads it, or they are too old to be believed. Temperatures in it may be a few seconds older
    /// than the rest: the last good ones, where the sensors cannot be believed.
    pub sample: Option<Sample>,
    /// When they were taken, in milliseconds since the Unix epoch; 0 without readings.
    pub sampled_unix_ms: u64,
    /// Whose it is.
    pub availability: Availability,
    /// A weaker sign that somebody else uses it: memory of processes that are not ours.
    pub stranger: Option<String>,
    /// The last thing that went wrong with it, which it may have overcome.
    pub last_fault: Option<Fault>,
    /// What a person should know of it although it stays in use.
    pub note: Option<Fault>,
    /// How often what computes on it had to be started again.
    pub restart_shards: u32,
    /// The fault since which nothing that it computes can be trusted, until it is ready again.
    pub spoiled_by: Option<Fault>,
}

impl DeviceState {
    /// Of a device that nothing was heard of since it was found.
    pub fn new(device: GpuDevice, standing: Standing) -> Self {
        Self {
            device,
            standing,
            sample: None,
            sampled_unix_ms: 0,
            availability: Availability::Ours,
            stranger: None,
            last_fault: None,
            note: None,
            restart_shards: 0,
            spoiled_by: None,
        }
    }

    /// Why the layers that were placed on it cannot be there, for a person.
    pub fn obstacle(&self) -> Option<String> {
        let fault = match &self.standing {
            Standing::Ready | Standing::Unproven { .. } => None,
            Standing::Failed { fault } | Standing::Recovering { fault, .. } | Standing::HeldDown { fault, .. } => {
                Some(fault.to_string())
            }
        };
        let claim = match &self.availability {
            Claim::Ours | Claim::Shared => None,
            Claim::Foreign { by } => Some(format!("it was given to {by}")),
            Claim::Unclaimed { reason } => Some(reason.clone()),
        };
        fault.or(claim)
    }

    /// Whether new layers may be put on it.
    pub fn takes_layers(&self) -> bool {
        self.standing == Standing::Ready && self.availability.allows_layers() && self.device.backend.holds_layers()
    }
}

/// A turn in a device's health, for events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Counts up from 1 within the agent's life.
    pub number: u64,
    /// [`GpuDevice::identity`] of the device.
    pub identity: String,
    /// In milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What changed.
    pub transition: Transition,
}

/// What happened since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Probe children that were started, by backend.
    pub probes: BTreeMap<Backend, u64>,
    /// Probe children that did not answer, or ended badly.
    pub probes_failed: BTreeMap<Backend, u64>,
    /// Watchers that had to be started again.
    pub watchers_restarted: BTreeMap<Backend, u64>,
    /// Readings that came.
    pub readings: u64,
    /// Xid events by the device's identity (empty where the event named no device of ours) and number.
    pub xids: BTreeMap<(String, u32), u64>,
    /// Lines in the kernel's log that read like a driver's and were written by a process. Each backend's reader counts.
    pub spoofed_events: u64,
}

/// All devices of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Devices {
    /// The first look is done: what stands below may be published.
    pub ready: bool,
    /// Every backend has answered once. Until then a device that is not below may yet be found, so its object stays.
    pub complete: bool,
    /// In the order of backends and ordinals.
    pub states: Vec<DeviceState>,
    /// Why a backend has no devices, or fewer than expected.
    pub notes: Vec<(Backend, String)>,
    /// Since the start.
    pub counters: Counters,
    /// The last turns, oldest first, at most [`TURNS_MAX`].
    pub turns: Vec<Turn>,
}

/// See [`Devices::turns`].
pub const TURNS_MAX: usize = 64;

impl Devices {
    /// Verified devices that nobody looks at again, for tests.
    pub fn of(devices: impl IntoIterator<Item = GpuDevice>) -> Self {
        Self {
            ready: true,
            complete: true,
            states: devices
                .into_iter()
                .map(|device| DeviceState::new(device, Standing::Ready))
                .collect(),
            ..Self::default()
        }
    }

    /// The device whose `DeviceGPUState` has that name.
    pub fn named(&self, node: &str, object: &str) -> Option<&DeviceState> {
        self.states
            .iter()
            .find(|state| object_name(node, &state.device) == object)
    }
}
