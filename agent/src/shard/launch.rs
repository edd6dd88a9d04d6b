//! What a worker is started with: a pure function of the placement, the node and the prepared files.

use super::drive::Setting;
use super::observed::{Fault, Observed};
use super::weights::Prepared;
use super::{Desired, Slice, Slot};
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
    let (backend, index) = device_of(setting, slice)?;
    let places = Places::new(&setting.state_dir, slot);
    let config = WorkerConfig {
        model_uid: slot.model_uid.clone(),
        node: setting.node.clone(),
        device: slice.device.clone(),
        first_layer: slice.first_layer,
        end_layer: slice.end_layer,
        total_layers: slice.total_layers,
        backend: engine(backend)?,
        device_index: index,
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
        vulkan_index: (backend == Backend::Vulkan).then_some(index),
        patience: Patience::default(),
    })
}

/// What computes on devices that are reached so.
fn engine(backend: Backend) -> Result<worker::Backend, Fault> {
    let name = backend.engine_name();
    worker::Backend::named(name).ok_or_else(|| Fault::new("BadConfiguration", format!("no worker computes by {name}")))
}

/// The device as it is reached now.
fn device_of(setting: &Setting, slice: &Slice) -> Result<(Backend, u32), Fault> {
    let missing = |what: &str| Fault::new("DeviceMissing", format!("device {} is {what}", slice.device));
    let devices = setting.devices.borrow();
    let state = devices
        .named(&setting.node, &slice.device)
        .ok_or_else(|| missing("not on this node any more"))?;
    let device = &state.device;
    if device.backend.name() != slice.backend {
        let (now, then) = (device.backend.name(), &slice.backend);
        return Err(missing(&format!("reached by {now}, the placement says {then}")));
    }
    match state.obstacle() {
        Some(why) => Err(Fault::new(
            "DeviceNotReady",
            format!("device {} takes no layers: {why}", slice.device),
        )),
        None => Ok((device.backend, device.index)),
    }
}
