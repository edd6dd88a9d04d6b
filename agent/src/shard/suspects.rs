//! Devices whose workers may compute what is wrong and tell nobody. Pure.

use super::observed::Fault;
use crate::devices::{DeviceState, Devices};
use crate::discovery::report::object_name;
use std::collections::BTreeMap;

/// By name of the DeviceGPUState: what is said of a shard there.
pub type Suspects = BTreeMap<String, Fault>;

/// The reason of a worker that was ended, or not started, for what its device computes.
pub const DEVICE_SUSPECT: &str = "DeviceSuspect";

/// The devices of the node on which no worker may be until they are ready again.
pub fn of(node: &str, devices: &Devices) -> Suspects {
    let suspect = |state: &DeviceState| {
        let fault = state.spoiled_by.as_ref()?;
        let device = object_name(node, &state.device);
        let message = format!(
            "what {device} computes cannot be trusted, so no worker is on it until it is ready again; waiting for that, or \
             for another place: {fault}"
        );
        Some((device, Fault::new(DEVICE_SUSPECT, message)))
    };
    devices.states.iter().filter_map(suspect).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::health::{Action, Fault as DeviceFault};
    use device::{Backend, GpuDevice, Kind};

    fn state(reason: Option<&str>) -> Devices {
        let mut devices = Devices::of([GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)]);
        devices.states[0].spoiled_by = reason.map(|reason| DeviceFault {
            xid: Some(48),
            ..DeviceFault::new(reason, "double-bit ECC error", Action::ResetDevice)
        });
        devices
    }

    #[test]
    fn a_suspect_device_is_named_with_its_fault_and_what_is_waited_for() {
        let suspects = of("n", &state(Some("UncorrectableEcc")));
        let fault = &suspects["n-cuda0"];
        assert_eq!(fault.reason, DEVICE_SUSPECT);
        assert_eq!(
            fault.message,
            "what n-cuda0 computes cannot be trusted, so no worker is on it until it is ready again; waiting for that, or for \
             another place: UncorrectableEcc: Xid 48: double-bit ECC error"
        );
        assert!(of("n", &state(None)).is_empty());
    }
}
