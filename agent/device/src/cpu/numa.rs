//! Which memory is near which processors.

use super::{names, read};
use std::path::Path;

/// A group of processors and the memory next to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The kernel's number.
    pub id: u32,
    /// Processors by the kernel's numbers, ascending.
    pub cpus: Vec<u32>,
    /// Memory there is.
    pub total_bytes: u64,
    /// Memory that nothing uses, page cache not counted as free.
    pub free_bytes: u64,
}

/// A list of the kernel names fewer processors than this.
const CPUS_MAX: usize = 8192;

/// The nodes of the machine below `root` ("/" but in tests), ascending; none where the kernel does not tell.
pub fn nodes(root: &Path) -> Vec<Node> {
    let folder = Path::new("sys/devices/system/node");
    let mut nodes: Vec<Node> = names(root, folder)
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .filter_map(|id: u32| {
            let file = |file: &str| read(root, folder.join(format!("node{id}")).join(file));
            node(id, &file("cpulist")?, &file("meminfo")?)
        })
        .collect();
    nodes.sort_unstable_by_key(|node| node.id);
    nodes
}

/// One node from its files `cpulist` and `meminfo`. Pure.
pub fn node(id: u32, cpulist: &str, meminfo: &str) -> Option<Node> {
    let bytes = |key: &str| {
        meminfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.split_whitespace().last() == Some(key))
            .and_then(|(_, value)| value.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .and_then(|kibibytes| kibibytes.checked_mul(1024))
    };
    Some(Node {
        id,
        cpus: cpus(cpulist)?,
        total_bytes: bytes("MemTotal")?,
        free_bytes: bytes("MemFree")?,
    })
}

/// Reads lists such as `0-3,8,10-11`; an empty one is a node of memory alone.
fn cpus(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || (last - first) as usize >= CPUS_MAX - cpus.len().min(CPUS_MAX) {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests;
