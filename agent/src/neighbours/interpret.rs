//! From the kubelet's list to who holds which device. Pure.

use super::Seen;
use super::aliases::Aliases;
use super::identity::{Identity, Match};
use super::inventory::Inventory;
use super::kubelet::{Held, Listing, Name, Pod};
use super::vendor::Vendor;
use std::collections::BTreeSet;

/// Which pods are ours.
#[derive(Clone, Debug)]
pub struct Own {
    /// Namespace of the installation.
    pub namespace: String,
    /// This agent's own pod: whoever gives it a device gives it to us.
    pub pod: String,
}

impl Own {
    /// Whether what the pod holds is held for us.
    pub fn holds_for_us(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace
            && (pod.name == self.pod || pod.name.starts_with(crds::names::RESERVATION_PREFIX))
    }
}

/// Who holds one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// A pod of ours; its name.
    pub ours: Option<String>,
    /// Another's, as `namespace/pod`.
    pub foreign: Option<String>,
    /// Another's that holds some device of this maker which may be this one.
    pub perhaps: Option<String>,
}

/// The holders of each device in its order, and names that stand for no device that is known.
pub fn interpret(
    listing: &Listing,
    own: &Own,
    devices: &[Seen],
    aliases: &Aliases,
    inventory: &Inventory,
) -> (Vec<Holders>, BTreeSet<String>) {
    let ours: Vec<(Option<Vendor>, Identity)> = devices
        .iter()
        .map(|seen| (Vendor::of_device(&seen.device), Identity::of_device(&seen.device)))
        .collect();
    let mut holders = vec![Holders::default(); devices.len()];
    let mut unknown = BTreeSet::new();
    for held in &listing.held {
        let identity = identify(held, aliases, inventory);
        if identity.is_none() {
            unknown.insert(held.to_string());
        }
        let matches: Vec<Match> = ours
            .iter()
            .map(|(vendor, device)| match &identity {
                _ if *vendor != Some(held.vendor) => Match::Different,
                Some(identity) => identity.matches(device),
                None => Match::CannotTell,
            })
            .collect();
        let found = matches.contains(&Match::Same);
        for (holder, matched) in holders.iter_mut().zip(matches) {
            match matched {
                Match::Same => note(holder, own, &held.pod),
                // Whoever it is, it is not a device that is known to be another.
                Match::CannotTell if !found && !own.holds_for_us(&held.pod) => {
                    holder.perhaps.get_or_insert_with(|| held.pod.to_string());
                }
                Match::CannotTell | Match::Different => {}
            }
        }
    }
    (holders, unknown)
}

fn identify(held: &Held, aliases: &Aliases, inventory: &Inventory) -> Option<Identity> {
    match &held.name {
        Name::Plugin(name) => Identity::of_plugin(held.vendor, name, aliases),
        Name::Claim { driver, pool, device } => inventory.slice_device(driver, pool, device).cloned(),
    }
}

/// The first of each kind is told: one is enough, and the order is the kubelet's.
fn note(holders: &mut Holders, own: &Own, pod: &Pod) {
    if own.holds_for_us(pod) {
        holders.ours.get_or_insert_with(|| pod.name.clone());
    } else {
        holders.foreign.get_or_insert_with(|| pod.to_string());
    }
}

#[cfg(test)]
mod tests;
