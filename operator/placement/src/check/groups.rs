//! What holds of several devices that work as one: they are devices of the cluster, alike, measured together, and each has its part.

use std::collections::BTreeSet;

use topology::{Device, Origin};

use super::Violation;
use crate::{Problem, Stage};

/// The devices that take part in a stage, by name.
pub(super) fn names_of<'p>(stage: &'p Stage, device: Option<&'p Device>) -> Vec<&'p str> {
    match device {
        Some(device) if !device.members.is_empty() => {
            let mut names = Vec::new();
            for member in &device.members {
                names.push(member.device.as_str());
            }
            names
        }
        _ => vec![stage.device.as_str()],
    }
}

/// The memory pools that a device works in.
pub(super) fn pools_of(device: &Device) -> BTreeSet<usize> {
    if device.members.is_empty() {
        BTreeSet::from([device.pool])
    } else {
        device.members.iter().map(|member| member.pool).collect()
    }
}

/// What a stage of so many bytes takes of each pool, a device after the other.
pub(super) fn bytes_of(device: &Device, needed_bytes: u128) -> Vec<(usize, u128)> {
    if device.members.is_empty() {
        return vec![(device.pool, needed_bytes)];
    }
    let each = needed_bytes.div_ceil(device.members.len() as u128);
    device.members.iter().map(|member| (member.pool, each)).collect()
}

/// That the devices of a group are there, and that it was measured.
pub(super) fn check_group(problem: &Problem, stage: usize, group: &Device, found: &mut Vec<Violation>) {
    if group.members.is_empty() {
        return;
    }
    if group.steps.is_none() || group.bandwidth.origin != Origin::Measured {
        found.push(Violation::GroupNotMeasured {
            device: group.name.clone(),
        });
    }
    for member in &group.members {
        let mut devices = problem.topology.devices.iter();
        match devices.find(|device| device.name == member.device) {
            None => found.push(Violation::UnknownDevice {
                stage,
                device: member.device.clone(),
            }),
            Some(device) => {
                let is_alike = device.node == group.node && device.backend == group.backend;
                if !is_alike || !device.members.is_empty() || device.pool != member.pool {
                    found.push(Violation::WrongIdentity {
                        stage,
                        device: member.device.clone(),
                    });
                }
            }
        }
    }
}

/// That no member is given more than it has.
pub(super) fn check_members(problem: &Problem, group: &Device, needed_bytes: u128, found: &mut Vec<Violation>) {
    let each = needed_bytes.div_ceil(group.members.len().max(1) as u128);
    for member in &group.members {
        let mut devices = problem.topology.devices.iter();
        let usable_bytes = devices
            .find(|device| device.name == member.device)
            .map_or(0, |device| device.usable_bytes);
        if each > u128::from(usable_bytes) {
            found.push(Violation::DeviceMemory {
                device: member.device.clone(),
                needed_bytes: each,
                usable_bytes,
            });
        }
    }
}

/// That devices that work as one have their memory pools for themselves, as far as one plan is concerned.
pub(super) fn check_own_pools(problem: &Problem, devices: &[(&Stage, &Device)], found: &mut Vec<Violation>) {
    for (at, (_, group)) in devices.iter().enumerate() {
        if group.members.is_empty() {
            continue;
        }
        let own = pools_of(group);
        for (other, (_, device)) in devices.iter().enumerate() {
            let shared = pools_of(device).intersection(&own).next().copied();
            if let Some(pool) = shared.filter(|_| other != at) {
                let pool = problem.topology.pools.get(pool);
                found.push(Violation::PoolShared {
                    pool: pool.map_or_else(|| "?".to_owned(), |pool| pool.name.clone()),
                    device: group.name.clone(),
                });
            }
        }
    }
}
