//! From the backends' answers to the devices of the node. Pure.
//!
//! One card seen by two drivers is one device; memory that is shared is counted once; a reserve is kept back.

use crate::{Answer, Backend, GpuDevice, Kind, Pool, Verification};

/// Kept back of main memory, for the kernel, the kubelet and this agent: the larger of a fixed part and a share.
const HOST_RESERVE_BYTES: u64 = 512 << 20;
const HOST_RESERVE_PERCENT: u64 = 5;
/// Kept back of a card's memory: drivers round allocations up and keep some for themselves.
const CARD_RESERVE_PERCENT: u64 = 5;

/// The devices of the node in the order of backends and indices, each with its usable memory.
/// `host_limit_bytes` is the most that shards may take of main memory, where the node's owner set one.
pub fn merge(answers: &[Answer], host_limit_bytes: Option<u64>) -> Vec<GpuDevice> {
    let mut devices: Vec<GpuDevice> = Vec::new();
    for device in answers.iter().flat_map(|answer| &answer.devices) {
        match devices.iter_mut().find(|known| same_card(known, device)) {
            Some(known) if preferred(device, known) => *known = device.clone(),
            Some(_) => {}
            None => devices.push(device.clone()),
        }
    }
    devices.sort_by_key(|device| (device.backend, device.index));
    let host_usable_bytes = devices
        .iter()
        .find(|device| device.backend == Backend::Cpu)
        .map(|cpu| host_usable(cpu, host_limit_bytes));
    for device in &mut devices {
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
    devices
}

fn host_usable(device: &GpuDevice, limit_bytes: Option<u64>) -> u64 {
    let reserve = HOST_RESERVE_BYTES.max(device.memory_total_bytes / 100 * HOST_RESERVE_PERCENT);
    let usable = device.memory_free_bytes.saturating_sub(reserve);
    limit_bytes.map_or(usable, |limit| usable.min(limit))
}

/// Two entries of one physical device: told by its bus address, or by its UUID within one backend.
fn same_card(a: &GpuDevice, b: &GpuDevice) -> bool {
    let equal = |x: &Option<String>, y: &Option<String>| x.is_some() && x == y;
    equal(&a.pci_address, &b.pci_address)
        || (a.backend == b.backend && a.kind != Kind::Software && equal(&a.uuid, &b.uuid))
}

/// A verified entry before one that is not; else the first stays.
fn preferred(new: &GpuDevice, known: &GpuDevice) -> bool {
    let verified = |device: &GpuDevice| device.verification == Verification::Verified;
    verified(new) && !verified(known)
}

#[cfg(test)]
mod tests;
