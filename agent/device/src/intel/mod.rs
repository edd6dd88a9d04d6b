//! Intel's cards, described: what the kernel's i915 or xe and Level Zero say of them. Layers are computed on them by
//! Vulkan, which finds the same cards at the same bus addresses.

mod call;
mod card;
mod cards;
mod parse;
mod sample;

pub use cards::{Model, known, models};
pub use sample::IntelSampler;

use crate::{Answer, Backend, GpuDevice, Verification};
use std::path::Path;

/// The cards below `root`. None is verified here: Vulkan does that.
pub fn describe(root: &Path) -> Answer {
    let found = card::driven(root);
    if found.is_empty() {
        return Answer::nothing(
            Backend::Intel,
            "no Intel GPU that i915 or xe drives; load its driver, or mount /sys into the container",
        );
    }
    let host = crate::cpu::memory(root)
        .ok()
        .map(|memory| (memory.total_bytes, memory.free_bytes));
    let mut devices: Vec<GpuDevice> = found
        .iter()
        .zip(0..)
        .map(|(card, index)| GpuDevice {
            verification: Verification::CouldNotMeasure {
                reason: "Intel's cards are verified by Vulkan; install the Vulkan driver (mesa-vulkan-drivers)"
                    .to_owned(),
            },
            ..card::device(root, card, host, index)
        })
        .collect();
    let note = match call::devices() {
        Ok(facts) => {
            devices.iter_mut().for_each(|device| complete(device, &facts));
            None
        }
        Err(reason) => Some(reason),
    };
    // What is missing matters only where something is unknown without it.
    let unknown = devices.iter().any(|device| device.memory_total_bytes == 0);
    Answer {
        backend: Backend::Intel,
        devices,
        note: note.filter(|_| unknown),
    }
}

/// What Level Zero knows better: the memory of a card whose driver shows none, the name of one that no table has.
fn complete(device: &mut GpuDevice, facts: &[call::Facts]) {
    let Some(facts) = facts
        .iter()
        .find(|facts| Some(&facts.pci_address) == device.pci_address.as_ref())
    else {
        return;
    };
    if device.memory_total_bytes == 0 {
        device.memory_total_bytes = facts.memory_bytes;
        device.memory_free_bytes = facts.memory_bytes;
        device.memory_usable_bytes = facts.memory_bytes;
    }
    if let (None, Some(name)) = (&device.architecture, &facts.name) {
        device.model.clone_from(name);
    }
}
