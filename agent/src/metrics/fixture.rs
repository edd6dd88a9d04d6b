//! A node with a card that tells everything, a software renderer that tells nothing, and the CPU.

use crate::devices::{DeviceState, Devices};
use device::health::{Action, Fault, Standing};
use device::telemetry::{Sample, Throttle};
use device::{Backend, GpuDevice, Kind, Pool, Verification};

/// A card of NVIDIA's with every reading that there is.
pub fn card() -> DeviceState {
    let device = GpuDevice {
        vendor: "nvidia".into(),
        model: "NVIDIA \"H100\"\\80GB".into(),
        uuid: Some("GPU-1".into()),
        pci_address: Some("0000:0a:00.0".into()),
        memory_total_bytes: 80 << 30,
        memory_usable_bytes: 70 << 30,
        power_limit_watts: Some(700),
        pool: Pool::Own,
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
    };
    let sample = Sample {
        device: device.identity(),
        memory_total_bytes: Some(80 << 30),
        memory_used_bytes: Some(20 << 30),
        utilisation_ratio: Some(0.5),
        memory_utilisation_ratio: Some(0.25),
        temperature_celsius: Some(71.0),
        memory_temperature_celsius: Some(80.0),
        power_watts: Some(350.0),
        power_limit_watts: Some(600.0),
        energy_joules: Some(12.5),
        clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        throttled_by: Some(vec![Throttle::Thermal]),
        ecc_corrected: Some(3),
        ecc_uncorrected: Some(1),
        pcie_replays: Some(2),
        ..Sample::default()
    };
    DeviceState {
        sample: Some(sample),
        sampled_unix_ms: 1,
        ..DeviceState::new(device, Standing::Ready)
    }
}

/// A fault as the driver's Xid 79 makes it.
pub fn off_the_bus() -> Fault {
    Fault {
        xid: Some(79),
        ..Fault::new("FellOffBus", "the GPU has fallen off the bus", Action::RebootNode)
    }
}

/// [`card`], a renderer and a CPU.
pub fn devices() -> Devices {
    let renderer = GpuDevice {
        vendor: "mesa".into(),
        model: "llvmpipe".into(),
        memory_total_bytes: 16 << 30,
        ..GpuDevice::new(Backend::Vulkan, 0, Kind::Software)
    };
    let mut devices = Devices::of([renderer, GpuDevice::new(Backend::Cpu, 0, Kind::Cpu)]);
    devices.states.push(card());
    let identity = card().device.identity();
    devices.counters.xids.insert((identity, 79), 4);
    devices.counters.xids.insert((String::new(), 13), 1);
    devices
}
