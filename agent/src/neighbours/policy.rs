//! From who holds what to what we may do. Pure.

use super::interpret::Holders;
use super::vendor::Vendor;
use super::{Claim, Seen, Sharing};
use std::collections::{BTreeMap, BTreeSet};

/// How much the kubelet has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge<'a> {
    /// It answered, now or before.
    Told,
    /// There is none here: nobody but this agent gives devices out, unless the cluster says otherwise.
    NoKubelet,
    /// It is there and has not answered since this agent began.
    Silent(&'a str),
}

/// What is decided upon.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the node's owner wants.
    pub sharing: Sharing,
    /// What the kubelet said.
    pub knowledge: Knowledge<'a>,
    /// Makers whose devices a plugin or a driver gives out here, now or since this agent began.
    pub managed: &'a BTreeSet<Vendor>,
    /// Reservation pods that are being ended.
    pub ending: &'a BTreeSet<String>,
}

/// Whose each device is, by its identity.
pub fn claims(devices: &[Seen], holders: &[Holders], facts: Facts<'_>) -> BTreeMap<String, Claim> {
    devices
        .iter()
        .zip(holders)
        .map(|(seen, holders)| {
            let claim = match Vendor::of_device(&seen.device) {
                Some(vendor) => claim(vendor, holders, facts),
                None => Claim::Ours,
            };
            (seen.device.identity(), claim)
        })
        .collect()
}

fn claim(vendor: Vendor, holders: &Holders, facts: Facts<'_>) -> Claim {
    // Before anything of ours: of a device that is cut in time, a replica may be another's.
    if let Some(by) = &holders.foreign {
        return Claim::Foreign { by: by.clone() };
    }
    let managed = facts.managed.contains(&vendor);
    match (facts.knowledge, facts.sharing) {
        (Knowledge::Silent(why), _) => unclaimed(format!(
            "it is not known which pods hold {} devices: {why}",
            vendor.name()
        )),
        (_, Sharing::Reserve) if managed => match &holders.ours {
            Some(pod) if facts.ending.contains(pod) => unclaimed(format!(
                "the pod {pod}, which holds it for us, is being ended: another pod was given its place"
            )),
            Some(_) => Claim::Ours,
            None => unclaimed(nobodys(vendor, facts.knowledge)),
        },
        _ if holders.ours.is_some() => Claim::Ours,
        _ => match &holders.perhaps {
            Some(by) => Claim::Foreign {
                by: format!(
                    "{by} (it holds some {} device, and which one cannot be told)",
                    vendor.name()
                ),
            },
            None if managed => Claim::Shared,
            None => Claim::Ours,
        },
    }
}

fn nobodys(vendor: Vendor, knowledge: Knowledge<'_>) -> String {
    let name = vendor.name();
    if knowledge == Knowledge::NoKubelet {
        return format!(
            "the cluster gives {name} devices of this node to pods, and the kubelet's socket, which tells to which, is not here; \
             check --pod-resources-socket (the chart's agent.kubeletDir)"
        );
    }
    format!(
        "the cluster gives {name} devices of this node to pods, and this one was not given to ours; it is used once a reservation pod \
         is given it, or with devices.sharing=share"
    )
}

fn unclaimed(reason: String) -> Claim {
    Claim::Unclaimed { reason }
}

#[cfg(test)]
mod tests;
