//! From what is known of groups to what the node's `NodeLinkState` says of them, and what of that is news. Pure.

use super::{Failed, Seen};
use crate::discovery::report::step_rates;
use crds::{DeviceGroup, NodeLinkStateStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The schema's own limits.
pub const GROUPS_MAX: usize = 16;
const ERROR_CHARACTERS_MAX: usize = 512;

/// What is to be said of the node's groups; what was written `before` while it is not known which there are.
pub fn told(seen: Option<&[Seen]>, before: Option<&NodeLinkStateStatus>) -> Vec<DeviceGroup> {
    match seen {
        Some(seen) => seen.iter().take(GROUPS_MAX).map(group).collect(),
        None => before.map(|before| before.groups.clone()).unwrap_or_default(),
    }
}

fn group(seen: &Seen) -> DeviceGroup {
    let (step_rates, failed) = match &seen.measured {
        Some(Ok(rates)) => (step_rates(rates), None),
        Some(Err(failed)) => (None, Some(failed)),
        None => (None, None),
    };
    let measured_at = step_rates.as_ref().map(|rates| rates.measured_at.clone());
    DeviceGroup {
        devices: seen.devices.clone(),
        backend: seen.backend.name().to_owned(),
        measured_at: measured_at.or_else(|| found_at(failed?)),
        step_rates,
        error: failed.map(|failed| shown(&failed.cause)),
    }
}

fn found_at(failed: &Failed) -> Option<Time> {
    let second = i64::try_from(failed.at_unix_s).ok()?;
    Timestamp::from_second(second).ok().map(Time)
}

/// The last line of a process that ended: whatever stands there.
fn shown(cause: &str) -> String {
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    cause.chars().map(printable).take(ERROR_CHARACTERS_MAX).collect()
}

/// What placement waits for: which groups there are, and whether they can be used.
pub fn standing(groups: &[DeviceGroup]) -> Vec<(&[String], bool, bool)> {
    let mut standing = Vec::new();
    for group in groups {
        let (is_measured, has_failed) = (group.step_rates.is_some(), group.error.is_some());
        standing.push((group.devices.as_slice(), is_measured, has_failed));
    }
    standing
}

/// Leaves those as they were written that were measured once more with the same outcome.
pub fn calm(groups: &mut [DeviceGroup], written: &[DeviceGroup]) {
    for group in groups {
        let before = written.iter().find(|before| before.devices == group.devices);
        if let Some(before) = before.filter(|before| timeless(before) == timeless(group)) {
            group.clone_from(before);
        }
    }
}

fn timeless(group: &DeviceGroup) -> DeviceGroup {
    let mut group = group.clone();
    group.measured_at = None;
    if let Some(rates) = &mut group.step_rates {
        (rates.measured_at, rates.samples) = (Time(Timestamp::UNIX_EPOCH), 1);
    }
    group
}

#[cfg(test)]
mod tests;
