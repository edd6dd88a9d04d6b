//! Who else has the memory that a worker was short of. Pure.

use super::observed::Fault;
use crate::devices::Devices;
use crds::conditions::reason;
use crds::names::members;

/// What a worker left on the device of that name, or on the group. Where it was short of memory, it does not know who has it; readings of
/// the device do, where the driver tells.
pub(super) fn told(mut fault: Fault, node: &str, device: &str, devices: &Devices) -> Fault {
    if fault.reason != reason::INSUFFICIENT_MEMORY {
        return fault;
    }
    for member in members(device) {
        let state = devices.named(node, member);
        if let Some(stranger) = state.and_then(|state| state.stranger.as_ref()) {
            fault.message = format!("{}; of {member}: {stranger}", fault.message);
        }
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::{Backend, GpuDevice, Kind};

    const CARD: &str = "n-cuda0";

    fn devices(stranger: Option<&str>) -> Devices {
        let mut devices = Devices::of([GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)]);
        devices.states[0].stranger = stranger.map(str::to_owned);
        devices
    }

    fn short() -> Fault {
        Fault::new(reason::INSUFFICIENT_MEMORY, "2 MiB are missing")
    }

    #[test]
    fn a_worker_that_was_short_of_memory_is_told_with_the_process_outside_that_has_it() {
        let stranger = "process 4121, which is not ours, uses 3174 MiB of its memory";
        let fault = told(short(), "n", CARD, &devices(Some(stranger)));
        assert_eq!(
            fault.message,
            "2 MiB are missing; of n-cuda0: process 4121, which is not ours, uses 3174 MiB of its memory"
        );
        assert_eq!(fault.reason, reason::INSUFFICIENT_MEMORY);
    }

    #[test]
    fn of_a_group_the_member_is_named_that_somebody_else_uses() {
        let mut devices = Devices::of([0, 1].map(|index| GpuDevice::new(Backend::Cuda, index, Kind::Discrete)));
        devices.states[1].stranger = Some("process 4121, which is not ours, uses it".to_owned());
        let fault = told(short(), "n", "n-cuda0+n-cuda1", &devices);
        assert_eq!(
            fault.message,
            "2 MiB are missing; of n-cuda1: process 4121, which is not ours, uses it"
        );
    }

    #[test]
    fn nothing_is_added_where_nobody_is_known_or_memory_was_not_what_was_missing() {
        assert_eq!(told(short(), "n", CARD, &devices(None)), short());
        assert_eq!(told(short(), "n", "n-cuda1", &devices(Some("a process"))), short());
        let crashed = Fault::new("Crashed", "signal 6");
        assert_eq!(told(crashed.clone(), "n", CARD, &devices(Some("a process"))), crashed);
    }
}
