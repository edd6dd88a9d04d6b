//! What a worker is started with: a pure function of the placement, the node and the prepared files.

use super::drive::Setting;
use super::observed::{Fault, Observed};
use super::weights::Prepared;
use super::{Desired, Slice, Slot};
use crate::devices::Devices;
use crate::worker::places::Places;
use crate::worker::process::{Launch, Patience};
use device::Backend;
use proto::worker::{self, PressureConfig, RuntimeConfig, SliceFiles, WorkerConfig};

/// How long a worker lives without us: longer than a restart of the agent, which takes it over.
const ORPHAN_GRACE_S: u64 = 30;

/// The worker of a slot whose files are prepared.
///
/// # Errors
/// The device is not what the placement says, or nothing computes on it.
pub(super) fn launch(
    setting: &Setting,
    slot: &Slot,
    seen: &Observed,
    wanted: &Desired,
    prepared: Prepared,
) -> Result<Launch, Fault> {
    let slice = &seen.slice;
    let reached = reached(setting, slice)?;
    let vulkan_indices = reached.vulkan_indices();
    let places = Places::new(&setting.state_dir, slot);
    let config = WorkerConfig {
        model_uid: slot.model_uid.clone(),
        node: setting.node.clone(),
        device: slice.device.clone(),
        first_layer: slice.first_layer,
        end_layer: slice.end_layer,
        total_layers: slice.total_layers,
        backend: engine(reached.backend)?,
        device_index: reached.index,
        group_indices: reached.group_indices,
        threads: setting.threads,
        memory_budget_bytes: wanted.memory_budget_bytes,
        slice: SliceFiles {
            header: prepared.files.header,
            parts: prepared.files.parts,
        },
        embedding: prepared.files.embedding,
        embedding_length: prepared.embedding_length,
        runtime: RuntimeConfig {
            context_length: slice.runtime.context_length,
            parallel_sequences: slice.runtime.parallel_sequences,
            kv_type: slice.runtime.kv_type().into(),
            max_step_rows: slice.runtime.max_step_rows,
            kv_cells: slice.runtime.kv_cells,
            prefix_sequences: slice.runtime.prefix_sequences,
        },
        listen: std::net::SocketAddr::new(setting.listen_ip, 0).to_string(),
        advertise_ip: setting.advertise_ip.to_string(),
        control_socket: places.socket.clone(),
        identity_dir: places.identity.clone(),
        trust_domain: setting.trust_domain.clone(),
        orphan_grace_s: ORPHAN_GRACE_S,
        pressure: PressureConfig {
            allow_kv_quantisation: slice.runtime.allow_kv_quantisation,
            allow_host_layers: slice.runtime.allow_host_layers,
            cgroup_dir: None,
        },
        // Whoever runs the node can switch them off: a worker has the agent's environment.
        keep_awake: true,
        speculate: true,
    };
    let (namespace, name) = &wanted.model;
    Ok(Launch {
        slot: slot.clone(),
        name: format!("{namespace}/{name}:{}-{}", slice.first_layer, slice.end_layer - 1),
        executable: setting.worker.clone(),
        places,
        config,
        vulkan_indices,
        patience: Patience::default(),
    })
}

/// What computes on devices that are reached so.
fn engine(backend: Backend) -> Result<worker::Backend, Fault> {
    let name = backend.engine_name();
    worker::Backend::named(name).ok_or_else(|| Fault::new("BadConfiguration", format!("no worker computes by {name}")))
}

/// Where a shard computes, as it is reached now.
struct Reached {
    backend: Backend,
    /// Of its device, or of the first of its group.
    index: u32,
    /// Of the others of its group.
    group_indices: Vec<u32>,
}

impl Reached {
    /// What of Vulkan's devices the worker shall see.
    fn vulkan_indices(&self) -> Vec<u32> {
        match self.backend {
            Backend::Vulkan => std::iter::once(self.index)
                .chain(self.group_indices.iter().copied())
                .collect(),
            _ => Vec::new(),
        }
    }
}

fn reached(setting: &Setting, slice: &Slice) -> Result<Reached, Fault> {
    let devices = setting.devices.borrow();
    let mut found = Vec::new();
    for device in slice.devices() {
        found.push(one(&devices, &setting.node, slice, device)?);
    }
    let Some(((backend, index), others)) = found.split_first() else {
        return Err(missing(slice, &slice.device, "no device"));
    };
    Ok(Reached {
        backend: *backend,
        index: *index,
        group_indices: others.iter().map(|(_, index)| *index).collect(),
    })
}

/// A device of the shard: its backend and index.
fn one(devices: &Devices, node: &str, slice: &Slice, device: &str) -> Result<(Backend, u32), Fault> {
    let state = devices
        .named(node, device)
        .ok_or_else(|| missing(slice, device, "not on this node any more"))?;
    let found = &state.device;
    if found.backend.name() != slice.backend {
        let (now, then) = (found.backend.name(), &slice.backend);
        let what = format!("reached by {now}, the placement says {then}");
        return Err(missing(slice, device, &what));
    }
    match state.obstacle() {
        Some(why) => Err(Fault::new(
            "DeviceNotReady",
            format!("device {} takes no layers: {why}", called(slice, device)),
        )),
        None => Ok((found.backend, found.index)),
    }
}

fn missing(slice: &Slice, device: &str, what: &str) -> Fault {
    Fault::new("DeviceMissing", format!("device {} is {what}", called(slice, device)))
}

/// A device of the shard, for a person.
fn called(slice: &Slice, device: &str) -> String {
    if device == slice.device {
        device.to_owned()
    } else {
        format!("{device} of the group {}", slice.device)
    }
}

#[cfg(test)]
mod tests;
