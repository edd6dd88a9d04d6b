//! Calls into Vulkan: the loader, an instance, and what physical devices say of themselves.
#![allow(unsafe_code)]

pub(super) mod session;

use self::session::Limits;
use super::parse::{Facts, Heap};
use ash::vk;
use std::ffi::CStr;

/// More devices than any machine has; a driver that reports more is not believed.
const DEVICE_LIMIT: usize = 64;
/// Of one allocation and one buffer: many drivers end at 2 or 4 GiB, whatever they say of allocations alone.
const ALLOCATION_BYTES: u64 = 1 << 31;

/// Why Vulkan cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No libvulkan.
    #[error("no Vulkan loader: {0}; install libvulkan1 where a GPU should be used by Vulkan")]
    NoLoader(ash::LoadingError),
    /// The loader is here and no driver works.
    #[error("no Vulkan driver: {0}; install the card's Vulkan driver (or mesa-vulkan-drivers)")]
    NoDriver(vk::Result),
    /// A call failed.
    #[error("{call} failed: {result}")]
    Failed {
        /// The function called.
        call: &'static str,
        /// What it returned.
        result: vk::Result,
    },
}

/// The loader and one instance.
pub struct Loader {
    instance: ash::Instance,
    // Dropped after the instance, whose functions live in the library.
    _entry: ash::Entry,
}

impl Drop for Loader {
    fn drop(&mut self) {
        // SAFETY: everything made from the instance borrows self and is gone.
        unsafe { self.instance.destroy_instance(None) };
    }
}

impl Loader {
    /// Opens libvulkan and makes an instance of at most Vulkan 1.2, which has every query used here.
    pub fn open() -> Result<Self, CallError> {
        // SAFETY: loading libvulkan runs its initialisers; that is why probing has a process of its own.
        let entry = unsafe { ash::Entry::load() }.map_err(CallError::NoLoader)?;
        // SAFETY: a plain query of the loader.
        let offered = unsafe { entry.try_enumerate_instance_version() }
            .ok()
            .flatten()
            .unwrap_or(vk::API_VERSION_1_0);
        let application = vk::ApplicationInfo::default()
            .application_name(c"shardwright-agent")
            .api_version(offered.min(vk::API_VERSION_1_2));
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `info` and what it points to outlive the call.
        let instance = unsafe { entry.create_instance(&info, None) }.map_err(CallError::NoDriver)?;
        Ok(Self {
            instance,
            _entry: entry,
        })
    }

    pub(super) fn instance(&self) -> &ash::Instance {
        &self.instance
    }

    /// The handle at a raw enumeration index.
    pub(super) fn handle(&self, index: u32) -> Result<vk::PhysicalDevice, CallError> {
        self.handles()?.get(index as usize).copied().ok_or(CallError::Failed {
            call: "vkEnumeratePhysicalDevices",
            result: vk::Result::ERROR_DEVICE_LOST,
        })
    }

    fn handles(&self) -> Result<Vec<vk::PhysicalDevice>, CallError> {
        // SAFETY: the instance is alive.
        let mut handles =
            unsafe { self.instance.enumerate_physical_devices() }.map_err(|result| CallError::Failed {
                call: "vkEnumeratePhysicalDevices",
                result,
            })?;
        handles.truncate(DEVICE_LIMIT);
        Ok(handles)
    }

    /// What each device says of itself, in enumeration order.
    pub fn physical_devices(&self) -> Result<Vec<Facts>, CallError> {
        Ok(self
            .handles()?
            .into_iter()
            .enumerate()
            .map(|(index, handle)| self.facts(index as u32, handle))
            .collect())
    }

    fn facts(&self, index: u32, handle: vk::PhysicalDevice) -> Facts {
        // SAFETY: `handle` came from this instance.
        let basic = unsafe { self.instance.get_physical_device_properties(handle) };
        let mut facts = Facts {
            index,
            name: text(basic.device_name_as_c_str().ok()).unwrap_or_default(),
            device_type: basic.device_type.as_raw(),
            vendor_id: basic.vendor_id,
            device_id: basic.device_id,
            api_version: basic.api_version,
            driver_version: basic.driver_version,
            driver_name: None,
            driver_info: None,
            uuid: None,
            pci: None,
            heaps: self.heaps(handle, basic.api_version),
        };
        if basic.api_version >= vk::API_VERSION_1_1 {
            self.extended_facts(handle, basic.api_version, &mut facts);
        }
        facts
    }

    fn extended_facts(&self, handle: vk::PhysicalDevice, api_version: u32, facts: &mut Facts) {
        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut pci = vk::PhysicalDevicePCIBusInfoPropertiesEXT::default();
        let has_driver = api_version >= vk::API_VERSION_1_2 || self.has(handle, ash::khr::driver_properties::NAME);
        let has_pci = self.has(handle, ash::ext::pci_bus_info::NAME);
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut id);
        if has_driver {
            properties = properties.push_next(&mut driver);
        }
        if has_pci {
            properties = properties.push_next(&mut pci);
        }
        // SAFETY: the device has Vulkan 1.1, and each chained structure is of a version or extension it supports.
        unsafe { self.instance.get_physical_device_properties2(handle, &mut properties) };
        facts.uuid = Some(id.device_uuid);
        if has_driver {
            facts.driver_name = text(driver.driver_name_as_c_str().ok());
            facts.driver_info = text(driver.driver_info_as_c_str().ok());
        }
        if has_pci {
            facts.pci = Some([pci.pci_domain, pci.pci_bus, pci.pci_device, pci.pci_function]);
        }
    }

    /// What a device allows. Features are those that this instance may ask for.
    fn limits(&self, handle: vk::PhysicalDevice) -> Limits {
        // SAFETY: `handle` came from this instance.
        let basic = unsafe { self.instance.get_physical_device_properties(handle) };
        let mut limits = Limits {
            allocation_bytes: ALLOCATION_BYTES,
            storage_bytes: u64::from(basic.limits.max_storage_buffer_range),
            kernels: basic.api_version >= vk::API_VERSION_1_1,
            halves: false,
        };
        if basic.api_version >= vk::API_VERSION_1_1 {
            let mut maintenance = vk::PhysicalDeviceMaintenance3Properties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut maintenance);
            // SAFETY: the device has Vulkan 1.1, whose structure is chained.
            unsafe { self.instance.get_physical_device_properties2(handle, &mut properties) };
            limits.allocation_bytes = ALLOCATION_BYTES
                .min(maintenance.max_memory_allocation_size)
                .max(1 << 20);
        }
        if basic.api_version >= vk::API_VERSION_1_2 {
            let mut storage = vk::PhysicalDevice16BitStorageFeatures::default();
            let mut float = vk::PhysicalDeviceShaderFloat16Int8Features::default();
            let mut features = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut storage)
                .push_next(&mut float);
            // SAFETY: the device has Vulkan 1.2, whose structures are chained.
            unsafe { self.instance.get_physical_device_features2(handle, &mut features) };
            limits.halves = storage.storage_buffer16_bit_access == vk::TRUE && float.shader_float16 == vk::TRUE;
        }
        limits
    }

    /// The memory heaps of the device at `index`, with what is free of them now.
    pub(super) fn heaps_of(&self, index: u32) -> Result<Vec<Heap>, CallError> {
        let handle = self.handle(index)?;
        // SAFETY: `handle` came from this instance.
        let basic = unsafe { self.instance.get_physical_device_properties(handle) };
        Ok(self.heaps(handle, basic.api_version))
    }

    fn heaps(&self, handle: vk::PhysicalDevice, api_version: u32) -> Vec<Heap> {
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let has_budget = api_version >= vk::API_VERSION_1_1 && self.has(handle, ash::ext::memory_budget::NAME);
        let memory = if has_budget {
            let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
            // SAFETY: the device has Vulkan 1.1 and the extension whose structure is chained.
            unsafe {
                self.instance
                    .get_physical_device_memory_properties2(handle, &mut properties)
            };
            properties.memory_properties
        } else {
            // SAFETY: `handle` came from this instance.
            unsafe { self.instance.get_physical_device_memory_properties(handle) }
        };
        memory
            .memory_heaps_as_slice()
            .iter()
            .enumerate()
            .map(|(index, heap)| Heap {
                size_bytes: heap.size,
                device_local: heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL),
                budget_bytes: has_budget.then(|| budget.heap_budget[index].saturating_sub(budget.heap_usage[index])),
            })
            .collect()
    }

    fn has(&self, handle: vk::PhysicalDevice, extension: &CStr) -> bool {
        // SAFETY: `handle` came from this instance.
        let offered = unsafe { self.instance.enumerate_device_extension_properties(handle) };
        offered.is_ok_and(|offered| {
            offered
                .iter()
                .any(|one| one.extension_name_as_c_str().is_ok_and(|name| name == extension))
        })
    }
}

fn text(name: Option<&CStr>) -> Option<String> {
    name.map(|name| name.to_string_lossy().into_owned())
}
