//! What is in the registry, and how it changes. Pure.

use crate::health::Health;
use crate::{Backend, GpuDevice, Measured};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Devices that are not there any more, of which this many are remembered: more than any node had in its life.
const ABSENT_LIMIT: usize = 256;

/// The devices seen last come first, so that the longest unseen are at the end; no clock is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entries {
    entries: Vec<Entry>,
    /// The lowest number that a new device may have, where devices with numbers below were forgotten.
    #[serde(default)]
    floors: BTreeMap<Backend, u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    identity: String,
    /// One card has a number with each backend that it was ever named after.
    ordinals: BTreeMap<Backend, u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<GpuDevice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
}

impl Entries {
    /// Whether no two devices have one identity or one name.
    pub(super) fn consistent(&self) -> bool {
        let mut names = BTreeSet::new();
        let mut identities = BTreeSet::new();
        self.entries.iter().all(|entry| {
            let mut ordinals = entry.ordinals.iter();
            identities.insert(&entry.identity) && ordinals.all(|name| names.insert(name))
        })
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = &GpuDevice> {
        self.entries.iter().filter_map(|entry| entry.device.as_ref())
    }

    pub(super) fn health(&self, identity: &str) -> Option<&Health> {
        self.find(identity)?.health.as_ref()
    }

    /// Each of these gives whether there is something to write.
    pub(super) fn set_health(&mut self, identity: &str, health: &Health) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.identity == identity) else {
            return false;
        };
        let changed = entry.health.as_ref().is_none_or(|known| !known.same_story(health));
        entry.health = Some(health.clone());
        changed
    }

    pub(super) fn assign_ordinals(&mut self, devices: &mut [GpuDevice]) -> bool {
        let keys = keys(devices);
        let mut changed = self.bring_forward(&keys);
        let mut order: Vec<usize> = (0..devices.len()).collect();
        order.sort_by_key(|&at| {
            let device = &devices[at];
            (
                device.backend,
                is_index(device),
                device.pci_address.clone(),
                device.index,
            )
        });
        for at in order {
            let (device, key) = (&mut devices[at], &keys[at]);
            let known = self.find(key).and_then(|entry| entry.ordinals.get(&device.backend));
            device.ordinal = match known {
                Some(ordinal) => *ordinal,
                None => {
                    changed = true;
                    let ordinal = self.free_ordinal(device);
                    if let Some(entry) = self.entries.iter_mut().find(|entry| entry.identity == *key) {
                        entry.ordinals.insert(device.backend, ordinal);
                    }
                    ordinal
                }
            };
        }
        changed
    }

    pub(super) fn remember(&mut self, devices: &[GpuDevice]) -> bool {
        let keys = keys(devices);
        let mut changed = self.bring_forward(&keys);
        for (entry, device) in self.entries.iter_mut().zip(devices) {
            let mut device = device.clone();
            if let Some(known) = &entry.device {
                keep_figures(&mut device, known);
            }
            if !entry
                .device
                .as_ref()
                .is_some_and(|known| same_but_free_memory(known, &device))
            {
                entry.device = Some(device);
                changed = true;
            }
        }
        changed
    }

    pub(super) fn recall(&self, devices: &mut [GpuDevice]) {
        for (key, device) in keys(devices).iter().zip(devices) {
            if let Some(known) = self.find(key).and_then(|entry| entry.device.as_ref()) {
                keep_figures(device, known);
            }
        }
    }

    /// The device goes by another identity from now on. Where that one is known already, the first is forgotten.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.identity == from) else {
            return false;
        };
        if self.find(to).is_some() {
            self.entries.remove(at);
        } else {
            to.clone_into(&mut self.entries[at].identity);
        }
        true
    }

    fn find(&self, identity: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.identity == identity)
    }

    /// Brings the entries of these to the front, in this order, makes those that there are not, and forgets the longest
    /// unseen of the others.
    fn bring_forward(&mut self, keys: &[String]) -> bool {
        let as_it_is = self.entries.iter().map(|entry| &entry.identity).take(keys.len());
        if as_it_is.eq(keys) {
            return false;
        }
        let mut others: Vec<Entry> = std::mem::take(&mut self.entries);
        for key in keys {
            let known = others.iter().position(|entry| entry.identity == *key);
            self.entries.push(known.map_or_else(
                || Entry {
                    identity: key.clone(),
                    ordinals: BTreeMap::new(),
                    device: None,
                    health: None,
                },
                |at| others.remove(at),
            ));
        }
        for forgotten in others.drain(ABSENT_LIMIT.min(others.len())..) {
            for (backend, ordinal) in forgotten.ordinals {
                let floor = self.floors.entry(backend).or_default();
                *floor = (*floor).max(ordinal.saturating_add(1));
            }
        }
        self.entries.append(&mut others);
        true
    }

    fn free_ordinal(&self, device: &GpuDevice) -> u32 {
        let ordinals = self
            .entries
            .iter()
            .filter_map(|entry| entry.ordinals.get(&device.backend));
        let taken: BTreeSet<u32> = ordinals.copied().collect();
        let floor = self.floors.get(&device.backend).copied().unwrap_or_default();
        let free = |number: &u32| *number >= floor && !taken.contains(number);
        let wish = Some(device.index).filter(|_| is_index(device)).filter(free);
        // There are fewer devices than numbers.
        wish.unwrap_or_else(|| (floor..=u32::MAX).find(free).unwrap_or(u32::MAX))
    }
}

/// Whether the device is told from others by nothing but its index.
fn is_index(device: &GpuDevice) -> bool {
    device.identity() == format!("{}:{}", device.backend.name(), device.index)
}

/// The identity of each. Where two give the same one, as cards of careless makers do, they are told apart by their index
/// too: two devices never have one name.
fn keys(devices: &[GpuDevice]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let key = |device: &GpuDevice| {
        let identity = device.identity();
        if seen.insert(identity.clone()) {
            return identity;
        }
        let key = format!("{identity}#{}:{}", device.backend.name(), device.index);
        seen.insert(key.clone());
        key
    };
    devices.iter().map(key).collect()
}

/// A measurement holds for the same card under the same driver with the same power limit.
fn keep_figures(new: &mut GpuDevice, known: &GpuDevice) {
    let conditions = |device: &GpuDevice| {
        let model = device.model.clone();
        (device.backend, model, device.driver.clone(), device.power_limit_watts)
    };
    if conditions(new) != conditions(known) {
        return;
    }
    let (own, kept) = (std::mem::take(&mut new.measured), &known.measured);
    new.measured = Measured {
        bandwidth_bytes_per_second: own.bandwidth_bytes_per_second.or(kept.bandwidth_bytes_per_second),
        f32_flops_per_second: own.f32_flops_per_second.or(kept.f32_flops_per_second),
        f16_flops_per_second: own.f16_flops_per_second.or(kept.f16_flops_per_second),
        to_device_bytes_per_second: own.to_device_bytes_per_second.or(kept.to_device_bytes_per_second),
        from_device_bytes_per_second: own.from_device_bytes_per_second.or(kept.from_device_bytes_per_second),
        launch_ns: own.launch_ns.or(kept.launch_ns),
        peers: if own.peers.is_empty() {
            kept.peers.clone()
        } else {
            own.peers
        },
    };
}

fn same_but_free_memory(a: &GpuDevice, b: &GpuDevice) -> bool {
    let timeless = |device: &GpuDevice| GpuDevice {
        memory_free_bytes: 0,
        memory_usable_bytes: 0,
        ..device.clone()
    };
    timeless(a) == timeless(b)
}
