//! Devices of the node that may work as one on each layer: equal ones, in a few sets. Pure.
//!
//! ```text
//!  Devices ─▶ of ─▶ Group ─▶ rates (measured by a worker) ─▶ Seen ─▶ report ─▶ NodeLinkState
//! ```
//!
//! Which sets there are depends on what the devices are, and not on how they stand: one that fails for a while changes no name. Whether
//! a set works is found out by measuring it.

pub mod report;

use crate::devices::{DeviceState, Devices};
use crate::discovery::report::object_name;
use crate::rates::Rates;
use crds::names::MAX_GROUP_DEVICES;
use device::{Backend, GpuDevice, Kind, Pool};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How many devices a group may have.
const SIZES: [usize; 3] = [2, 4, MAX_GROUP_DEVICES];
/// Devices that groups are made of: sixteen equal ones have fourteen groups, and the API has room for as many.
const DEVICES_MAX: usize = 16;
/// By how much of the larger one the memory of two equal devices may differ: drivers keep some of it for themselves.
const MEMORY_PERCENT: u64 = 5;

/// A device of a group.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Name of its DeviceGPUState.
    pub name: String,
    /// What is known of it.
    pub state: &'a DeviceState,
}

/// Devices that may work as one.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Two and more, by name.
    pub members: Vec<Member<'a>>,
}

/// A group, and what came of measuring it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Names of its members' DeviceGPUStates, in ascending order.
    pub devices: Vec<String>,
    /// What reaches all of them.
    pub backend: Backend,
    /// `None` before it was measured.
    pub measured: Option<Result<Rates, Failed>>,
}

/// That devices cannot work as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// For a person.
    pub cause: String,
    /// When it was last found, in seconds since the Unix epoch.
    pub at_unix_s: u64,
}

/// All groups of the node; `None` until it is known which there are.
pub type Told = Option<Arc<Vec<Seen>>>;

/// The groups of a node, the smallest first: of equal devices in the order of their names the first two, the next two and so on, and
/// the same in fours and eights.
pub fn of<'a>(node: &str, devices: &'a Devices) -> Vec<Group<'a>> {
    let fit = devices.states.iter().filter(|state| may_be_member(&state.device));
    let named = fit.map(|state| Member {
        name: object_name(node, &state.device),
        state,
    });
    let mut members: Vec<Member<'a>> = named.collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let mut sets: Vec<Vec<Member<'a>>> = Vec::new();
    for member in members.into_iter().take(DEVICES_MAX) {
        let device = &member.state.device;
        let equals_all = |set: &&mut Vec<Member<'a>>| set.iter().all(|other| are_equal(&other.state.device, device));
        match sets.iter_mut().find(equals_all) {
            Some(set) => set.push(member),
            None => sets.push(vec![member]),
        }
    }
    let mut groups = Vec::new();
    for size in SIZES {
        let runs = sets.iter().flat_map(|set| set.chunks_exact(size));
        groups.extend(runs.map(|run| Group { members: run.to_vec() }));
    }
    groups
}

fn may_be_member(device: &GpuDevice) -> bool {
    // Slices of a card stay alone: CUDA gives a process one of them at most, and the card as a whole would be faster.
    let is_slice = matches!(device.pool, Pool::Named(_));
    device.kind != Kind::Cpu && device.backend.holds_layers() && !is_slice
}

fn are_equal(a: &GpuDevice, b: &GpuDevice) -> bool {
    let (one, other) = (a.memory_total_bytes, b.memory_total_bytes);
    (a.backend, a.kind, &a.vendor, &a.model) == (b.backend, b.kind, &b.vendor, &b.model)
        && one.abs_diff(other) <= one.max(other) / 100 * MEMORY_PERCENT
}

#[cfg(test)]
mod tests;
