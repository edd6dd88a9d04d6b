//! Devices of one node that work as one: each of them computes its part of every layer.
//!
//! In the graph a group is one more [`Device`], after all single ones: what asks for a device's speed, its node or its taints need not
//! know what it is. Only who counts memory, and who asks which devices are taken, looks at its parts. These are named, not numbered, so
//! that they stay right when devices are taken out of the graph.

use crds::names::{MAX_GROUP_DEVICES, group_name};
use crds::{DeviceGroup, NodeLinkState};
use serde::{Deserialize, Serialize};

use crate::{Device, Origin, Pool, Rate, Steps, Taint, Topology, prior};

/// A group that was measured, as its agent describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupReport {
    /// Names of the devices.
    pub devices: Vec<String>,
    pub backend: String,
    /// How fast steps of a model are on all of them together.
    pub steps: Steps,
}

/// One of the devices that work as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of a single device of the graph.
    pub device: String,
    /// Index into [`Topology::pools`].
    pub pool: usize,
}

impl GroupReport {
    /// The groups of a node that an object tells of. Those that were not measured yet, or cannot work as one, are none.
    pub fn from_state(state: &NodeLinkState) -> Vec<Self> {
        let groups = state.status.iter().flat_map(|status| &status.groups);
        groups.filter_map(Self::measured).collect()
    }

    fn measured(group: &DeviceGroup) -> Option<Self> {
        let rates = group.step_rates.as_ref().filter(|_| group.error.is_none())?;
        Some(Self {
            devices: group.devices.clone(),
            backend: group.backend.clone(),
            steps: Steps::from_state(rates)?,
        })
    }
}

/// The groups all of whose members are among these devices, which are in the order of their names; in that order too.
pub(crate) fn groups(reports: &[&GroupReport], devices: &[Device], pools: &[Pool]) -> Vec<Device> {
    let groups = reports.iter().filter_map(|report| group(report, devices, pools));
    let mut groups: Vec<Device> = groups.collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups.dedup_by(|later, first| later.name == first.name);
    groups
}

/// `None` where a member takes no layers, or they are not alike.
fn group(report: &GroupReport, devices: &[Device], pools: &[Pool]) -> Option<Device> {
    let mut names: Vec<&str> = report.devices.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != report.devices.len() || !(2..=MAX_GROUP_DEVICES).contains(&names.len()) {
        return None;
    }
    let find = |name: &&str| {
        let at = devices.binary_search_by(|device| device.name.as_str().cmp(name));
        at.ok().map(|at| &devices[at])
    };
    let members: Vec<&Device> = names.iter().map(find).collect::<Option<_>>()?;
    let (first, others) = members.split_first()?;
    let is_like_first = |other: &&Device| {
        other.node == first.node
            && other.backend == first.backend
            && other.vendor == first.vendor
            && other.kind == first.kind
    };
    if first.backend != report.backend || !others.iter().all(is_like_first) {
        return None;
    }
    let thermal_headroom_percent = members.iter().filter_map(|m| m.thermal_headroom_percent).min();
    let mut taints: Vec<Taint> = Vec::new();
    for taint in members.iter().flat_map(|member| &member.taints) {
        if !taints.contains(taint) {
            taints.push(taint.clone());
        }
    }
    let member_bytes = members.iter().map(|member| member.usable_bytes).min()?;
    let mut group = Device {
        name: group_name(names.iter().copied()),
        usable_bytes: member_bytes.saturating_mul(members.len() as u64),
        bandwidth: bandwidth(&report.steps, thermal_headroom_percent)?,
        launch_us: report.steps.step_ns.div_ceil(1000),
        steps: Some(report.steps.clone()),
        flops_per_second: report.steps.flops_per_second,
        thermal_headroom_percent,
        taints,
        members: members.iter().map(|member| as_member(member)).collect(),
        ..(*first).clone()
    };
    group.usable_bytes = group.usable_bytes.min(group.room_bytes(pools));
    (group.usable_bytes > 0).then_some(group)
}

fn as_member(device: &Device) -> Member {
    Member {
        device: device.name.clone(),
        pool: device.pool,
    }
}

/// As long as it is not known what model it is for, the slowest format counts.
fn bandwidth(steps: &Steps, thermal_headroom_percent: Option<u8>) -> Option<Rate> {
    let rate = steps.reading.iter().map(|reading| reading.bytes_per_second).min()?;
    let percent = match thermal_headroom_percent {
        Some(0) => prior::THROTTLED_PERCENT,
        _ => 100,
    };
    Some(Rate {
        bytes_per_second: crate::build::hundredths(rate, percent),
        origin: Origin::Measured,
    })
}

impl Device {
    /// Whether it is several devices that work as one.
    pub fn is_group(&self) -> bool {
        !self.members.is_empty()
    }

    /// How many devices it is.
    pub fn size(&self) -> usize {
        self.members.len().max(1)
    }

    /// Names of the single devices that it is: a group's members, else itself.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        let itself = (!self.is_group()).then_some(self.name.as_str());
        let members = self.members.iter().map(|member| member.device.as_str());
        itself.into_iter().chain(members)
    }

    /// The pools that it works in, each once, and how many of its parts are there.
    pub fn pools(&self) -> impl Iterator<Item = (usize, u64)> {
        let itself = (!self.is_group()).then_some((self.pool, 1_u64));
        let in_pool = move |pool: usize| self.members.iter().filter(|member| member.pool == pool).count() as u64;
        let is_first = move |at: usize, pool: usize| self.members[..at].iter().all(|before| before.pool != pool);
        let members = self.members.iter().enumerate();
        let pools = members
            .filter(move |(at, member)| is_first(*at, member.pool))
            .map(move |(_, member)| (member.pool, in_pool(member.pool)));
        itself.into_iter().chain(pools)
    }

    /// Of so many bytes on it, those in each of its pools: every part takes the same, rounded up.
    pub fn bytes_in_pools(&self, bytes: u64) -> impl Iterator<Item = (usize, u64)> {
        let part_bytes = bytes.div_ceil(self.size() as u64);
        self.pools()
            .map(move |(pool, parts)| (pool, part_bytes.saturating_mul(parts)))
    }

    /// What its pools leave to it. No part can take more than another.
    pub fn room_bytes(&self, pools: &[Pool]) -> u64 {
        let part_bytes = |(pool, parts): (usize, u64)| pools.get(pool).map_or(0, |pool| pool.usable_bytes) / parts;
        let least = self.pools().map(part_bytes).min().unwrap_or(0);
        least.saturating_mul(self.size() as u64)
    }
}

impl Topology {
    /// The devices without the groups of them.
    pub fn single_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| !device.is_group())
    }
}

#[cfg(test)]
mod tests;
