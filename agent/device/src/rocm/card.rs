//! An AMD card as amdgpu's and KFD's files show it.

use super::generation::generation;
use super::parse::{self, Node};
use super::{bandwidth, names};
use crate::sysfs::{Card, Folder, cards};
use crate::{Backend, GpuDevice, Kind, Pool, Verification};
use std::path::Path;

/// PCI's number of AMD's graphics.
pub(super) const VENDOR: u32 = 0x1002;
/// Nodes of one machine: sockets, and cards of up to eight partitions each.
const NODE_LIMIT: usize = 256;

/// The cards that amdgpu drives. Those that a virtual machine was given belong to vfio and are not here to use.
pub(super) fn driven(root: &Path) -> Vec<Card> {
    let mut found = cards(root, VENDOR);
    found.retain(|card| card.driver.as_deref().is_none_or(|driver| driver == "amdgpu"));
    found
}

/// The compute driver's nodes that are cards. Those that this container may not see cannot be read, and are left out.
pub(super) fn nodes(root: &Path) -> Vec<Node> {
    Folder::new(root.join("sys/class/kfd/kfd/topology/nodes"))
        .numbered("")
        .into_iter()
        .take(NODE_LIMIT)
        .filter_map(|(_, folder)| parse::node(&folder.lines("properties")?, folder.number("gpu_id").unwrap_or(0)))
        .filter(|node| node.architecture.is_some())
        .collect()
}

/// The card as a device that was neither verified nor measured.
pub(super) fn device(root: &Path, card: &Card, node: Option<&Node>, index: u32) -> GpuDevice {
    let model = card
        .device
        .text("product_name")
        .unwrap_or_else(|| names::name(card.device_id, card.revision));
    let architecture = node.and_then(|node| node.architecture.clone());
    let memory = memory(card, architecture.as_deref());
    let clock_mhz = node.and_then(|node| node.clock_mhz).or_else(|| {
        let levels = card.device.lines("pp_dpm_sclk")?;
        parse::highest_clock_mhz(&levels)
    });
    GpuDevice {
        vendor: "amd".to_owned(),
        prior: bandwidth::prior(&model),
        model,
        driver: driver(root),
        pci_address: Some(card.pci_address.clone()),
        uuid: uuid(card),
        compute_units: node.and_then(|node| node.compute_units),
        clock_mhz,
        power_limit_watts: power_limit_watts(card),
        pool: memory.pool,
        memory_total_bytes: memory.total_bytes,
        memory_free_bytes: memory.free_bytes,
        memory_usable_bytes: memory.free_bytes,
        verification: Verification::CouldNotMeasure {
            reason: "it was not asked".to_owned(),
        },
        architecture,
        ..GpuDevice::new(Backend::Rocm, index, memory.kind)
    }
}

/// What tells the card from every other, as ROCm writes it. Older cards and most integrated ones have none.
pub(super) fn uuid(card: &Card) -> Option<String> {
    let id = card.device.text("unique_id")?.to_ascii_lowercase();
    let plain =
        id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0');
    plain.then(|| format!("GPU-{id}"))
}

/// [`GpuDevice::identity`] of the card.
pub(super) fn identity(card: &Card) -> String {
    GpuDevice {
        uuid: uuid(card),
        pci_address: Some(card.pci_address.clone()),
        ..GpuDevice::new(Backend::Rocm, 0, Kind::Discrete)
    }
    .identity()
}

/// The memory that work goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) kind: Kind,
    pub(super) pool: Pool,
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
}

/// A card's memory is its own. An integrated GPU has a piece that the firmware cut off main memory, and what it may map
/// of the rest; the kernel places work in the larger (`apu_prefer_gtt` in amdgpu_ttm.c), and so do the libraries.
pub(super) fn memory(card: &Card, architecture: Option<&str>) -> Memory {
    let bytes = |name: &str| card.device.number(name);
    let own = bytes("mem_info_vram_total").unwrap_or(0);
    let own_free = own.saturating_sub(bytes("mem_info_vram_used").unwrap_or(0));
    let mapped = bytes("mem_info_gtt_total").unwrap_or(0);
    let mapped_free = mapped.saturating_sub(bytes("mem_info_gtt_used").unwrap_or(0));
    let integrated = architecture
        .and_then(|name| generation(name, card.device_id))
        .map_or_else(|| looks_integrated(own, mapped), |generation| generation.shares_memory);
    let (kind, pool, total_bytes, free_bytes) = match (integrated, own < mapped) {
        (false, _) => (Kind::Discrete, Pool::Own, own, own_free),
        (true, false) => (Kind::Integrated, Pool::Own, own, own_free),
        (true, true) => (Kind::Integrated, Pool::Host, mapped, mapped_free),
    };
    Memory {
        kind,
        pool,
        total_bytes,
        free_bytes,
    }
}

/// Without the compute driver nothing names the processors. No card of its own has less than 2 GiB and works for a
/// language model, and counting one as the host's memory never promises the same byte twice.
fn looks_integrated(own_bytes: u64, mapped_bytes: u64) -> bool {
    own_bytes < 2 << 30 && own_bytes < mapped_bytes
}

fn power_limit_watts(card: &Card) -> Option<u32> {
    let microwatts = card.hwmon()?.number("power1_cap")?;
    u32::try_from(microwatts / 1_000_000).ok().filter(|watts| *watts > 0)
}

/// The driver's own version where it was installed beside the kernel, else the kernel's.
fn driver(root: &Path) -> Option<String> {
    let module = Folder::new(root.join("sys/module/amdgpu")).text("version");
    let kernel = || Folder::new(root.join("proc/sys/kernel")).text("osrelease");
    module
        .map(|version| format!("amdgpu {version}"))
        .or_else(|| Some(format!("amdgpu of Linux {}", kernel()?)))
}
