//! What the kernel says of this process's memory limit, and how much of it is in use.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::ladder::Usage;
use crate::cgroup::{HIERARCHIES, groups};

/// Files of `/proc` and of a control group have some kilobytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where memory is limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A control group of the unified hierarchy: its folder.
    Unified(PathBuf),
    /// A control group of the older memory controller: its folder.
    Memory(PathBuf),
    /// No control group: the whole node.
    Node,
}

/// Finds the limit that this process has: the folder that was configured, or its own control group.
pub fn find(configured: Option<&Path>) -> Source {
    if let Some(folder) = configured {
        return by_files(folder).unwrap_or(Source::Node);
    }
    let membership = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    candidates(&membership, Path::new(HIERARCHIES))
        .iter()
        .find_map(|folder| by_files(folder).filter(|source| usage(source).is_some()))
        .unwrap_or(Source::Node)
}

/// Folders that may be this process's, most likely first. Inside a container the group is mounted as the root.
fn candidates(membership: &str, hierarchies: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (root, own) in groups(membership, hierarchies, "memory") {
        folders.push(root.join(own));
        folders.push(root);
    }
    folders
}

fn by_files(folder: &Path) -> Option<Source> {
    if folder.join("memory.current").exists() {
        return Some(Source::Unified(folder.to_path_buf()));
    }
    let older = folder.join("memory.usage_in_bytes").exists();
    older.then(|| Source::Memory(folder.to_path_buf()))
}

/// What is in use, without file pages that the kernel gives back on demand, and what may be. `None` where no limit is
/// set or the files cannot be read.
pub fn usage(source: &Source) -> Option<Usage> {
    let (folder, current, limit, reclaimable) = match source {
        Source::Node => return node_usage(&read(Path::new("/proc/meminfo"))?),
        Source::Unified(folder) => (folder, "memory.current", "memory.max", "inactive_file"),
        Source::Memory(folder) => (
            folder,
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            "total_inactive_file",
        ),
    };
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    let limit_bytes = number(limit).filter(|limit| *limit < UNLIMITED_BYTES)?;
    let stat = read(&folder.join("memory.stat")).unwrap_or_default();
    let reclaimable = field(&stat, reclaimable).unwrap_or(0);
    Some(Usage {
        used_bytes: number(current)?.saturating_sub(reclaimable),
        limit_bytes,
    })
}

/// The older controller says "no limit" by a number near the largest.
const UNLIMITED_BYTES: u64 = 1 << 60;

fn node_usage(meminfo: &str) -> Option<Usage> {
    let kibibytes = |name: &str| field(meminfo, name).map(|kibibytes| kibibytes * 1024);
    let limit_bytes = kibibytes("MemTotal:")?;
    Some(Usage {
        used_bytes: limit_bytes.saturating_sub(kibibytes("MemAvailable:")?),
        limit_bytes,
    })
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| {
        let found = words.next() == Some(name);
        found.then(|| words.next()?.parse().ok()).flatten()
    })
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}
