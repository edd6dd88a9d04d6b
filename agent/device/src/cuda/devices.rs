//! From what both libraries say to the list of devices. Pure. CUDA reaches devices and NVML describes them; they number
//! cards differently, so they are joined by identity, else by bus address.

use super::bandwidth;
use super::call::Facts;
use super::nvml::parse::{RawFacts, believable_memory, megahertz, watts};
use super::text::identity_of;
use crate::{Backend, GpuDevice, Kind, Pool};

/// A card or slice in NVML's list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    /// As answered; nothing of a card that is lost.
    pub(super) facts: RawFacts,
    /// Of the card that a slice is part of.
    pub(super) card: Option<RawFacts>,
    /// Why the card does not answer.
    pub(super) lost: Option<String>,
}

/// Why a device that exists cannot be used from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreached {
    /// The card does not answer.
    Lost(String),
    /// CUDA gives a process one slice of a divided card, and it is another.
    OtherSlice,
    /// It was not asked for.
    LeftAlone,
    /// CUDA does not show it, whatever the reason.
    Hidden(String),
}

/// A device, how CUDA reaches it, and where in NVML's list it is.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    pub(super) device: GpuDevice,
    pub(super) ordinal: Result<i32, Unreached>,
    pub(super) described: Option<usize>,
}

/// What else belongs to the list.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// Of the kernel's driver.
    pub(super) driver: Option<String>,
    /// Somebody chose which cards CUDA shows: the others are nobody's concern.
    pub(super) chosen: bool,
    /// Why CUDA shows nothing.
    pub(super) no_cuda: Option<String>,
}

/// The devices: those that CUDA reaches, in its order; then slices, and cards that are lost or that CUDA does not show.
pub(super) fn join(reached: &[Facts], described: &[Described], around: &Surroundings) -> Vec<Joined> {
    let mut joined: Vec<Joined> = Vec::new();
    for facts in reached {
        let place = described.iter().position(|candidate| same(facts, candidate));
        let device = reached_device(joined.len() as u32, facts, place.map(|place| &described[place]), around);
        joined.push(Joined {
            device,
            ordinal: if facts.left_alone {
                Err(Unreached::LeftAlone)
            } else {
                Ok(facts.ordinal)
            },
            described: place,
        });
    }
    for (place, candidate) in described.iter().enumerate() {
        if joined.iter().any(|known| known.described == Some(place)) {
            continue;
        }
        let Some(why) = unreached(candidate, around) else {
            continue;
        };
        joined.push(Joined {
            device: described_device(joined.len() as u32, candidate, around),
            ordinal: Err(why),
            described: Some(place),
        });
    }
    joined
}

fn unreached(candidate: &Described, around: &Surroundings) -> Option<Unreached> {
    if let Some(reason) = &candidate.lost {
        return Some(Unreached::Lost(reason.clone()));
    }
    if around.chosen {
        return None;
    }
    if candidate.card.is_some() && around.no_cuda.is_none() {
        return Some(Unreached::OtherSlice);
    }
    let reason = around.no_cuda.as_deref().unwrap_or("CUDA does not show it");
    Some(Unreached::Hidden(reason.to_owned()))
}

fn cuda_identity(facts: &Facts) -> Option<String> {
    match (facts.uuid, facts.slice_uuid) {
        (Some(card), Some(slice)) if card != slice => identity_of("MIG-", slice),
        (Some(card), _) => identity_of("GPU-", card),
        (None, _) => None,
    }
}

fn same(facts: &Facts, candidate: &Described) -> bool {
    if let (Some(reached), Some(described)) = (cuda_identity(facts), &candidate.facts.uuid) {
        return reached.eq_ignore_ascii_case(described);
    }
    let address = |facts: &RawFacts| facts.pci_address.clone();
    candidate.card.is_none() && facts.pci_address.is_some() && facts.pci_address == address(&candidate.facts)
}

fn reached_device(index: u32, facts: &Facts, described: Option<&Described>, around: &Surroundings) -> GpuDevice {
    let mut device = match described {
        Some(described) => described_device(index, described, around),
        None => blank(index, facts.integrated, around),
    };
    if facts.integrated {
        device.kind = Kind::Integrated;
        device.pool = Pool::Host;
    }
    if device.model == UNNAMED
        && let Some(name) = &facts.name
    {
        device.model.clone_from(name);
    }
    device.uuid = device.uuid.or_else(|| cuda_identity(facts));
    let slice = matches!((facts.uuid, facts.slice_uuid), (Some(card), Some(slice)) if card != slice);
    if slice && device.pool == Pool::Own {
        // Without NVML nothing tells which slices share: it has a pool of its own name.
        device.pool = Pool::Named(format!("mig {}", device.uuid.as_deref().unwrap_or("slice")));
    }
    // Slices of one card have one address, which is an identity for none of them.
    device.pci_address = if matches!(device.pool, Pool::Named(_)) && device.uuid.is_none() {
        None
    } else {
        device.pci_address.or_else(|| facts.pci_address.clone())
    };
    device.architecture = facts.capability.map(|(major, minor)| format!("sm_{major}{minor}"));
    device.compute_units = facts.multiprocessors;
    device.clock_mhz = device
        .clock_mhz
        .or(megahertz(facts.clock_khz.map(|clock| clock / 1000)));
    // What CUDA can allocate from; NVML counts what firmware and driver keep for themselves as well.
    device.memory_total_bytes = facts.memory_bytes;
    device.memory_free_bytes = device.memory_free_bytes.min(facts.memory_bytes);
    device.prior = bandwidth::prior(&device.model);
    device
}

const UNNAMED: &str = "unknown";

fn blank(index: u32, integrated: bool, around: &Surroundings) -> GpuDevice {
    let kind = if integrated { Kind::Integrated } else { Kind::Discrete };
    let mut device = GpuDevice::new(Backend::Cuda, index, kind);
    device.vendor = "nvidia".to_owned();
    UNNAMED.clone_into(&mut device.model);
    device.driver = around.driver.as_ref().map(|version| format!("NVIDIA {version}"));
    device
}

fn described_device(index: u32, described: &Described, around: &Surroundings) -> GpuDevice {
    let facts = &described.facts;
    let mut device = blank(index, false, around);
    if let Some(name) = &facts.name {
        device.model.clone_from(name);
    }
    device.uuid.clone_from(&facts.uuid);
    device.pci_address.clone_from(&facts.pci_address);
    let sensors = described.card.as_ref().unwrap_or(facts);
    device.clock_mhz = megahertz(sensors.clock_mhz);
    device.power_limit_watts = watts(sensors.power_limit_mw).map(|watts| watts as u32);
    if let Some((total, free)) = believable_memory(facts.memory) {
        device.memory_total_bytes = total;
        device.memory_free_bytes = free;
    }
    if let Some(card) = &described.card {
        device.pool = Pool::Named(slice_pool(card, facts));
        device.pci_address = card.pci_address.clone().filter(|_| device.uuid.is_some());
    }
    device.prior = bandwidth::prior(&device.model);
    device
}

/// The name of a slice's memory. A GPU instance has memory, cache and paths to them of its own, set apart by hardware;
/// only the compute instances within one instance share them. So the pool is the instance's, and neither the card's
/// (its slices take nothing from one another) nor the slice's own (a neighbour within the instance would be counted
/// twice).
fn slice_pool(card: &RawFacts, slice: &RawFacts) -> String {
    let card = card.uuid.as_deref().or(card.pci_address.as_deref()).unwrap_or("card");
    match slice.slice {
        Some(instance) => format!("mig {card} instance {instance}"),
        None => format!("mig {}", slice.uuid.as_deref().unwrap_or(card)),
    }
}

#[cfg(test)]
mod tests;
