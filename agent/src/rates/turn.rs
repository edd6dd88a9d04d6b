//! What is measured next. Pure.
//!
//! * Devices by themselves come first, and groups once all their members are known: whoever does not ask for groups waits for none.
//! * A device is measured while the node holds nothing; a group as well, and while others of its cards hold layers, where the group's
//!   have memory of their own.

use super::Setting;
use super::known::Known;
use crate::devices::Devices;
use crate::discovery::report::object_name;
use crate::groups::{self, Member};
use crate::shard::drive::View;
use device::{Backend, GpuDevice, Pool};
use std::collections::{BTreeMap, BTreeSet};

/// What is measured of a device, and how: figures of another way are measured anew.
const METHOD: u32 = 5;
/// The same of groups, beside that of their members.
const GROUP_METHOD: u32 = 1;

/// What is measured as one.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    /// What its rates hold for.
    pub(super) key: String,
    /// A device, or those of a group.
    pub(super) members: Vec<Member<'a>>,
}

impl<'a> Unit<'a> {
    pub(super) fn of(setting: &Setting, members: Vec<Member<'a>>) -> Self {
        let mut keys: Vec<String> = members
            .iter()
            .map(|member| key(setting, &member.state.device))
            .collect();
        if members.len() > 1 {
            keys.push(format!("group {GROUP_METHOD}"));
        }
        Self {
            key: keys.join(" + "),
            members,
        }
    }

    pub(super) fn is_group(&self) -> bool {
        self.members.len() > 1
    }

    /// For log lines.
    pub(super) fn name(&self) -> String {
        let names = self.members.iter().map(|member| member.state.device.short_name());
        names.collect::<Vec<_>>().join("+")
    }

    /// Whether it may be measured as far as shards go.
    pub(super) fn is_free(&self, view: &View) -> bool {
        if !self.is_group() {
            return view.holdings.is_empty();
        }
        let mut members = self.members.iter();
        if members.clone().all(|member| member.state.device.pool == Pool::Own) {
            return !members.any(|member| view.uses(&member.name));
        }
        view.holdings.is_empty() && view.loading.is_empty()
    }

    fn takes_layers(&self) -> bool {
        self.members.iter().all(|member| member.state.takes_layers())
    }
}

/// Of what is free and not known, what was measured least: a device, and where there is none a group.
pub(super) fn next<'a>(
    setting: &Setting,
    devices: &'a Devices,
    known: &BTreeMap<String, Known>,
    view: &View,
) -> Option<Unit<'a>> {
    let is_settled = |key: &str| known.get(key).is_some_and(Known::is_settled);
    let rounds = |unit: &Unit<'_>| known.get(&unit.key).map_or(0, |known| known.rounds);
    let is_wanted = |unit: &Unit<'_>| !is_settled(&unit.key) && unit.takes_layers() && unit.is_free(view);
    let alone = devices.states.iter().map(|state| Member {
        name: object_name(&setting.node, &state.device),
        state,
    });
    let devices_alone = alone.map(|member| Unit::of(setting, vec![member]));
    let device = devices_alone.filter(is_wanted).min_by_key(rounds);
    device.or_else(|| {
        let are_known = |unit: &Unit<'_>| {
            let mut members = unit.members.iter();
            members.all(|member| is_settled(&key(setting, &member.state.device)))
        };
        let groups = groups::of(&setting.node, devices).into_iter();
        let units = groups.map(|group| Unit::of(setting, group.members));
        units
            .filter(|unit| is_wanted(unit) && are_known(unit))
            .min_by_key(rounds)
    })
}

/// What all that there is to measure is known by.
pub(super) fn keys(setting: &Setting, devices: &Devices) -> BTreeSet<String> {
    let alone = devices.states.iter().map(|state| key(setting, &state.device));
    let groups = groups::of(&setting.node, devices).into_iter();
    let groups = groups.map(|group| Unit::of(setting, group.members).key);
    alone.chain(groups).collect()
}

/// What the rates of a device hold for: another driver, number of threads or build of ours is measured anew.
pub(super) fn key(setting: &Setting, device: &GpuDevice) -> String {
    let driver = device.driver.as_deref().unwrap_or_default();
    let threads = if device.backend == Backend::Cpu {
        setting.threads
    } else {
        0
    };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{}|{}|{driver}|{threads}|{version}|{METHOD}",
        device.identity(),
        device.model
    )
}

#[cfg(test)]
mod tests;
