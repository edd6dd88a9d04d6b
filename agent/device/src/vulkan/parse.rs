//! What a Vulkan driver's facts mean. Pure.

use crate::text::clean;
use crate::{Backend, GpuDevice, Kind, SupportLevel};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What the driver said of one physical device, uninterpreted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Position in `vkEnumeratePhysicalDevices`.
    pub index: u32,
    /// `deviceName`.
    pub name: String,
    /// `VkPhysicalDeviceType`.
    pub device_type: i32,
    /// PCI vendor, or a Khronos number above 0xFFFF.
    pub vendor_id: u32,
    /// PCI device.
    pub device_id: u32,
    /// `VK_MAKE_API_VERSION` of what the device supports.
    pub api_version: u32,
    /// Vendor's own encoding.
    pub driver_version: u32,
    /// `driverName`, since Vulkan 1.2.
    pub driver_name: Option<String>,
    /// `driverInfo`, since Vulkan 1.2.
    pub driver_info: Option<String>,
    /// `deviceUUID`.
    pub uuid: Option<[u8; 16]>,
    /// Domain, bus, device, function.
    pub pci: Option<[u32; 4]>,
    /// Memory heaps in the driver's order.
    pub heaps: Vec<Heap>,
}

/// One memory heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heap {
    /// Its size.
    pub size_bytes: u64,
    /// VK_MEMORY_HEAP_DEVICE_LOCAL_BIT.
    pub device_local: bool,
    /// What this process could take now, use by others subtracted; from VK_EXT_memory_budget.
    pub budget_bytes: Option<u64>,
}

const TYPE_INTEGRATED: i32 = 1;
const TYPE_DISCRETE: i32 = 2;
const TYPE_VIRTUAL: i32 = 3;
const TYPE_CPU: i32 = 4;

/// Software renderers that some versions report as another type.
const SOFTWARE_NAMES: [&str; 3] = ["llvmpipe", "lavapipe", "swiftshader"];

/// The device that the facts describe, neither verified nor measured.
pub fn device(facts: &Facts) -> GpuDevice {
    let kind = kind(facts);
    let heap = main_heap(&facts.heaps);
    let total_bytes = heap.map_or(0, |heap| heap.size_bytes);
    let free_bytes = heap.map_or(0, |heap| free_bytes(heap, 0));
    GpuDevice {
        vendor: vendor(facts.vendor_id),
        model: clean(&facts.name),
        driver: driver(facts).map(|driver| clean(&driver)),
        pci_address: facts.pci.map(pci_address),
        uuid: facts
            .uuid
            .filter(|uuid| uuid != &[0; 16])
            .map(|uuid| Uuid::from_bytes(uuid).to_string()),
        memory_total_bytes: total_bytes,
        memory_free_bytes: free_bytes,
        memory_usable_bytes: free_bytes,
        support: match kind {
            Kind::Software => SupportLevel::Tried,
            _ => SupportLevel::Untried,
        },
        ..GpuDevice::new(Backend::Vulkan, facts.index, kind)
    }
}

/// Tells a card from an integrated GPU from a renderer on the processors.
pub fn kind(facts: &Facts) -> Kind {
    let name = facts.name.to_lowercase();
    if facts.device_type == TYPE_CPU || SOFTWARE_NAMES.iter().any(|software| name.contains(software)) {
        return Kind::Software;
    }
    match facts.device_type {
        // A virtual GPU has its slice of a card's memory for itself.
        TYPE_DISCRETE | TYPE_VIRTUAL => Kind::Discrete,
        TYPE_INTEGRATED => Kind::Integrated,
        // Unknown: count its memory as the host's, which never promises the same byte twice.
        _ => Kind::Integrated,
    }
}

/// The heap that weights go to: the largest local one. Cards also show a small local heap that the host can write.
pub fn main_heap(heaps: &[Heap]) -> Option<&Heap> {
    main_heap_index(heaps).and_then(|index| heaps.get(index))
}

/// Its number.
pub fn main_heap_index(heaps: &[Heap]) -> Option<usize> {
    (0..heaps.len()).max_by_key(|index| (heaps[*index].device_local, heaps[*index].size_bytes))
}

/// What is free of a heap of which this process took `own_bytes`. Without the budget extension that is all that is
/// known; with it, the driver has subtracted them already.
pub fn free_bytes(heap: &Heap, own_bytes: u64) -> u64 {
    let left_bytes = heap.size_bytes.saturating_sub(own_bytes);
    heap.budget_bytes.unwrap_or(left_bytes).min(left_bytes)
}

fn vendor(vendor_id: u32) -> String {
    match vendor_id {
        0x10DE => "nvidia".to_owned(),
        0x1002 | 0x1022 => "amd".to_owned(),
        0x8086 => "intel".to_owned(),
        0x106B => "apple".to_owned(),
        0x13B5 => "arm".to_owned(),
        0x5143 => "qualcomm".to_owned(),
        0x1_0005 => "mesa".to_owned(),
        other => format!("{other:#06x}"),
    }
}

fn driver(facts: &Facts) -> Option<String> {
    match (&facts.driver_name, &facts.driver_info) {
        (Some(name), Some(info)) if !info.is_empty() => Some(format!("{name} {info}")),
        (Some(name), _) if !name.is_empty() => Some(name.clone()),
        _ => Some(version(facts.vendor_id, facts.driver_version)),
    }
}

/// NVIDIA packs its version its own way; most others as Vulkan does.
fn version(vendor_id: u32, packed: u32) -> String {
    if vendor_id == 0x10DE {
        format!("{}.{}.{}", packed >> 22, (packed >> 14) & 0xFF, (packed >> 6) & 0xFF)
    } else {
        format!("{}.{}.{}", packed >> 22, (packed >> 12) & 0x3FF, packed & 0xFFF)
    }
}

fn pci_address([domain, bus, device, function]: [u32; 4]) -> String {
    format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
}

#[cfg(test)]
mod tests;
