//! From the backends' answers to the devices of the node. Pure.
//!
//! One card seen by several backends is one device; memory that is shared is counted once; a reserve is kept back.

use crate::{Answer, Backend, GpuDevice, Kind, Pool, Reach, Unverified, Verification};

/// Kept back of main memory, for the kernel, the kubelet and this agent: the larger of a fixed part and a share.
const HOST_RESERVE_BYTES: u64 = 512 << 20;
const HOST_RESERVE_PERCENT: u64 = 5;
/// Kept back of a card's memory: drivers round allocations up and keep some for themselves.
const CARD_RESERVE_PERCENT: u64 = 5;

/// The devices of the node in the order of backends and indices, each with its usable memory.
/// `host_limit_bytes` is the most that shards may take of main memory, where the node's owner set one.
///
/// Of the backends that reach one card the one that layers are computed with is chosen: among those that hold layers one
/// that verified the card, then the maker's own before Vulkan. The others become [`GpuDevice::also`] and give what the
/// chosen one does not know; those that failed, or could not be asked, are in [`GpuDevice::unverified`]. A card that is only
/// described stays in the list, is not verified, and says what to install.
pub fn merge(answers: &[Answer], host_limit_bytes: Option<u64>) -> Vec<GpuDevice> {
    merge_keeping(answers, host_limit_bytes, |_| false)
}

/// As [`merge`], but that a view which `leads` is chosen before all others that hold layers, whatever was proved of it: what computes on
/// the card does so by way of it.
pub fn merge_keeping(
    answers: &[Answer],
    host_limit_bytes: Option<u64>,
    leads: impl Fn(&GpuDevice) -> bool,
) -> Vec<GpuDevice> {
    let mut cards: Vec<Vec<&GpuDevice>> = Vec::new();
    for device in answers.iter().flat_map(|answer| &answer.devices) {
        let is_of = |card: &mut Vec<&GpuDevice>| card.iter().any(|known| same_card(known, device));
        // Two views that had nothing in common may each have something in common with a third.
        let mut card: Vec<&GpuDevice> = cards.extract_if(.., is_of).flatten().collect();
        card.push(device);
        cards.push(card);
    }
    let slices: Vec<&GpuDevice> = cards.iter().flatten().copied().filter(|view| is_slice(view)).collect();
    cards.retain(|card| !card.iter().any(|view| is_cut_up(view, &slices)));
    let mut devices: Vec<GpuDevice> = cards.iter().filter_map(|card| one_of(card, &leads)).collect();
    devices.sort_by_key(|device| (device.backend, device.index));
    share_memory(&mut devices, host_limit_bytes);
    devices
}

/// One device of the views of one card.
fn one_of(card: &[&GpuDevice], leads: &impl Fn(&GpuDevice) -> bool) -> Option<GpuDevice> {
    // The first of the best: the order of answers decides between equals.
    let best = card.iter().rev().max_by_key(|view| {
        let view: &GpuDevice = view;
        let verified = view.verification == Verification::Verified;
        (view.backend.holds_layers(), leads(view), verified, rank(view.backend))
    })?;
    let mut device = (*best).clone();
    device.unverified.clear();
    let mut others: Vec<&GpuDevice> = card
        .iter()
        .copied()
        .filter(|view| !std::ptr::eq(*view, *best))
        .collect();
    others.sort_by_key(|other| std::cmp::Reverse(rank(other.backend)));
    for other in others {
        let reach = Reach {
            backend: other.backend,
            index: other.index,
        };
        if !device.also.contains(&reach) {
            device.also.push(reach);
        }
        let unverified = Unverified {
            backend: other.backend,
            verification: other.verification.clone(),
        };
        let failed = other.backend.holds_layers() && other.verification != Verification::Verified;
        if failed && !device.unverified.contains(&unverified) {
            device.unverified.push(unverified);
        }
        learn(&mut device, other);
    }
    if !device.backend.holds_layers() && !matches!(device.verification, Verification::Failed { .. }) {
        device.verification = Verification::CouldNotMeasure {
            reason: format!(
                "the {} backend only describes it; install a Vulkan driver for it, such as mesa-vulkan-drivers, and \
                 the Vulkan loader, libvulkan1",
                device.backend.name()
            ),
        };
    }
    Some(device)
}

/// The maker's own before what all have; what describes knows the card better than Vulkan does.
fn rank(backend: Backend) -> u8 {
    match backend {
        Backend::Cuda => 4,
        Backend::Rocm => 3,
        Backend::Intel => 2,
        Backend::Vulkan => 1,
        Backend::Cpu => 0,
    }
}

/// Takes what is not known yet. Not what was measured: that holds for the way it was measured.
fn learn(device: &mut GpuDevice, other: &GpuDevice) {
    fn fill<T: Clone>(known: &mut Option<T>, other: &Option<T>) {
        if known.is_none() {
            known.clone_from(other);
        }
    }
    for (known, other) in [(&mut device.vendor, &other.vendor), (&mut device.model, &other.model)] {
        if known == "unknown" {
            known.clone_from(other);
        }
    }
    fill(&mut device.pci_address, &other.pci_address);
    // A UUID of Vulkan's may be another with the next driver: where the card is plugged in tells it better.
    if other.backend != Backend::Vulkan || device.pci_address.is_none() {
        fill(&mut device.uuid, &other.uuid);
    }
    fill(&mut device.architecture, &other.architecture);
    fill(&mut device.driver, &other.driver);
    fill(&mut device.compute_units, &other.compute_units);
    fill(&mut device.clock_mhz, &other.clock_mhz);
    fill(&mut device.power_limit_watts, &other.power_limit_watts);
    fill(&mut device.prior, &other.prior);
}

fn share_memory(devices: &mut [GpuDevice], host_limit_bytes: Option<u64>) {
    let host_usable_bytes = devices
        .iter()
        .find(|device| device.backend == Backend::Cpu)
        .map(|cpu| host_usable(cpu, host_limit_bytes));
    for device in devices {
        device.memory_usable_bytes = match (&device.pool, host_usable_bytes) {
            (Pool::Host, Some(host)) => host.min(device.memory_free_bytes),
            // The CPU was not asked: what the driver says, under the owner's limit.
            (Pool::Host, None) => host_usable(device, host_limit_bytes),
            (Pool::Own | Pool::Named(_), _) => {
                let reserve = device.memory_total_bytes / 100 * CARD_RESERVE_PERCENT;
                device.memory_free_bytes.saturating_sub(reserve)
            }
        };
    }
}

fn host_usable(device: &GpuDevice, limit_bytes: Option<u64>) -> u64 {
    let reserve = HOST_RESERVE_BYTES.max(device.memory_total_bytes / 100 * HOST_RESERVE_PERCENT);
    let usable = device.memory_free_bytes.saturating_sub(reserve);
    limit_bytes.map_or(usable, |limit| usable.min(limit))
}

/// Two views of one device: told by its bus address, or by its UUID within one backend. Slices of one card have one
/// address and are not one device.
fn same_card(a: &GpuDevice, b: &GpuDevice) -> bool {
    let equal = |x: &Option<String>, y: &Option<String>| x.is_some() && x == y;
    let one_uuid = a.backend == b.backend && a.kind != Kind::Software && equal(&a.uuid, &b.uuid);
    let whole = !is_slice(a) && !is_slice(b);
    one_uuid || whole && equal(&a.pci_address, &b.pci_address)
}

fn is_slice(device: &GpuDevice) -> bool {
    matches!(device.pool, Pool::Named(_))
}

/// The whole card of which there are slices: what it has is theirs. A slice names its card by the address, or by its
/// pool's name.
fn is_cut_up(card: &GpuDevice, slices: &[&GpuDevice]) -> bool {
    let Some(address) = &card.pci_address else {
        return false;
    };
    let of_card =
        |slice: &&GpuDevice| slice.pci_address.as_ref() == Some(address) || slice.pool == Pool::Named(address.clone());
    !is_slice(card) && slices.iter().any(of_card)
}

#[cfg(test)]
mod tests;
