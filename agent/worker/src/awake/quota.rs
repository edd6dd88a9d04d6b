//! The CPU limit that the kernel enforces on this process by taking all cores away once it is used up.

use std::path::{Path, PathBuf};

use crate::cgroup::{HIERARCHIES, groups};

/// Whether so many cores' worth of time is less than all cores that the process may run on could use.
pub(super) fn binds(limit: f64, cores: u32) -> bool {
    limit < f64::from(cores)
}

/// The least limit of this process's control group and those around it, in cores; `None` without one.
pub(super) fn least() -> Option<f64> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    least_of(&membership, Path::new(HIERARCHIES))
}

fn least_of(membership: &str, hierarchies: &Path) -> Option<f64> {
    let limits = folders(membership, hierarchies)
        .into_iter()
        .filter_map(|folder| limit_of(&folder));
    limits.reduce(f64::min)
}

/// Folders of the groups that may limit this process: its own, and those around it. Inside a container the group is mounted as
/// the root, under whatever name it has outside.
fn folders(membership: &str, hierarchies: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (root, own) in groups(membership, hierarchies, "cpu") {
        folders.extend(Path::new(own).ancestors().map(|group| root.join(group)));
    }
    folders
}

/// The limit of one group, by either generation of files.
fn limit_of(folder: &Path) -> Option<f64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    if let Some(text) = read("cpu.max") {
        let (quota, period) = text.trim().split_once(' ')?;
        return cores(quota, period);
    }
    cores(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
}

/// `None` where there is no limit, which is `max` or a negative number.
fn cores(quota: &str, period: &str) -> Option<f64> {
    let quota = quota.trim().parse::<u64>().ok()?;
    let period = period.trim().parse::<u64>().ok().filter(|period| *period > 0)?;
    Some(quota as f64 / period as f64)
}

#[cfg(test)]
mod tests;
