//! Whose resources, drivers and devices are whose. Pure.

use device::{GpuDevice, Kind};

/// A maker whose devices clusters give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vendor {
    Nvidia,
    Amd,
    Intel,
}

/// Resources of Intel's plugin that give nobody a device: they are for monitoring, or count parts.
const INTEL_DEVICES: [&str; 2] = ["i915", "xe"];

impl Vendor {
    /// As [`GpuDevice::vendor`] has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
            Self::Intel => "intel",
        }
    }

    /// The maker of a device that can be given out; nothing for processors and software.
    pub fn of_device(device: &GpuDevice) -> Option<Self> {
        if matches!(device.kind, Kind::Cpu | Kind::Software) {
            return None;
        }
        [Self::Nvidia, Self::Amd, Self::Intel]
            .into_iter()
            .find(|vendor| vendor.name() == device.vendor)
    }

    /// The maker whose devices an extended resource stands for: `nvidia.com/gpu`, `nvidia.com/mig-1g.5gb`, `amd.com/gpu`,
    /// `amd.com/cpx_nps4`, `gpu.intel.com/xe`.
    pub fn of_resource(name: &str) -> Option<Self> {
        match name.split_once('/')? {
            ("nvidia.com", resource) if resource.starts_with("gpu") || resource.starts_with("mig-") => {
                Some(Self::Nvidia)
            }
            ("amd.com", _) => Some(Self::Amd),
            ("gpu.intel.com", resource) if INTEL_DEVICES.contains(&resource) => Some(Self::Intel),
            _ => None,
        }
    }

    /// The maker whose devices a DRA driver gives out.
    pub fn of_driver(name: &str) -> Option<Self> {
        match name {
            "gpu.nvidia.com" => Some(Self::Nvidia),
            "gpu.amd.com" => Some(Self::Amd),
            "gpu.intel.com" => Some(Self::Intel),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::Backend;

    #[test]
    fn a_resource_that_gives_no_device_has_no_vendor() {
        let vendor = Vendor::of_resource;
        assert_eq!(vendor("nvidia.com/gpu"), Some(Vendor::Nvidia));
        assert_eq!(vendor("nvidia.com/gpu.shared"), Some(Vendor::Nvidia));
        assert_eq!(vendor("nvidia.com/mig-1g.5gb"), Some(Vendor::Nvidia));
        assert_eq!(vendor("amd.com/cpx_nps4"), Some(Vendor::Amd));
        assert_eq!(vendor("gpu.intel.com/xe"), Some(Vendor::Intel));
        for other in [
            "gpu.intel.com/i915_monitoring",
            "gpu.intel.com/memory.max",
            "nvidia.com/hostdev",
            "cpu",
            "example.com/gpu",
            "",
        ] {
            assert_eq!(vendor(other), None, "{other}");
        }
    }

    #[test]
    fn a_processor_of_amd_is_no_device_that_amds_plugin_gives_out() {
        let of = |kind| {
            Vendor::of_device(&GpuDevice {
                vendor: "amd".to_owned(),
                ..GpuDevice::new(Backend::Cpu, 0, kind)
            })
        };
        assert_eq!(of(Kind::Cpu), None);
        assert_eq!(of(Kind::Software), None);
        assert_eq!(of(Kind::Integrated), Some(Vendor::Amd));
    }
}
