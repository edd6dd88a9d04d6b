//! AMD's cards.
//!
//! ```text
//!  libamdhip64, libhiprtc ──call, rtc──▶ driver ──▶ devices that are verified, measured and used
//!  /sys/class/{drm,kfd}   ──parse──▶ card ──┬──▶ the same devices, completed
//!                                           ├──▶ describe: cards that HIP does not reach
//!  librocm_smi64          ──smi──▶ sample ◀─┘──▶ readings
//! ```
//!
//! A node without ROCm describes its cards all the same: Vulkan may reach them, and the bus address tells that they are
//! the same.

mod bandwidth;
mod call;
mod card;
mod driver;
mod failure;
mod generation;
pub(crate) mod library;
mod names;
mod parse;
mod product;
mod rtc;
mod sample;
mod smi;

pub use bandwidth::{prior, priors};
pub use driver::RocmDriver;
pub use generation::{Generation, generation, generations};
pub use sample::RocmSampler;

use crate::{Answer, Backend, GpuDevice, Verification};
use std::path::Path;

/// The cards that amdgpu drives and that are not among `listed`, with why they were not asked. Their indices follow
/// those of `listed`.
pub fn describe(root: &Path, listed: &[GpuDevice], because: &str) -> Vec<GpuDevice> {
    let nodes = card::nodes(root);
    let known = |address: &String| {
        listed.iter().any(|device| {
            device.pci_address.as_ref() == Some(address) || device.pool == crate::Pool::Named(address.clone())
        })
    };
    card::driven(root)
        .iter()
        .filter(|card| !known(&card.pci_address))
        .zip(listed.len() as u32..)
        .map(|(card, index)| {
            let node = nodes.iter().find(|node| node.pci_address == card.pci_address);
            GpuDevice {
                verification: Verification::CouldNotMeasure {
                    reason: because.to_owned(),
                },
                ..card::device(root, card, node, index)
            }
        })
        .collect()
}

/// The group of cards that a card is joined to by xGMI; nothing for one that is alone. Cards of one hive reach each other's
/// memory without the host's bus.
pub fn hive(root: &Path, pci_address: &str) -> Option<u64> {
    card::nodes(root)
        .into_iter()
        .find(|node| node.pci_address == pci_address)?
        .hive
}

/// The answer of this backend: the devices that HIP listed (or why it did not), and the cards that it does not reach.
pub fn answer(root: &Path, listed: Result<Vec<GpuDevice>, String>) -> Answer {
    let (mut devices, note) = match listed {
        Ok(devices) => (devices, None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    let because = note
        .as_deref()
        .unwrap_or("HIP does not list it: this container was not given it, or ROCm does not support it");
    devices.extend(describe(root, &devices, because));
    let note = match (note, devices.is_empty()) {
        (Some(reason), true) => Some(format!("no AMD card that amdgpu drives, and {reason}")),
        (note, _) => note,
    };
    Answer {
        backend: Backend::Rocm,
        devices,
        note,
    }
}
