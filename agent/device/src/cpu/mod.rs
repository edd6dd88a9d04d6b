//! The processors and main memory of the node, as one device.

mod call;
mod copy;
mod driver;
pub mod isa;
pub mod numa;
pub mod parse;
mod product;
mod sampler;
mod sensors;

pub use copy::copy_vs_memcpy;

use crate::driver::Driver;
use crate::telemetry::Sampler;
use parse::CgroupVersion;
use std::path::{Path, PathBuf};

/// Files of the kernel are small; a longer one is not what it claims to be.
const FILE_LIMIT_BYTES: u64 = 4 << 20;
/// More than any machine has processors.
const NAMES_MAX: usize = 8192;

/// Main memory and the processors below `root` ("/" but in tests).
pub fn driver(root: &Path) -> Box<dyn Driver> {
    Box::new(driver::Main::new(root))
}

/// What the processors say of themselves while they work.
pub fn sampler(root: &Path) -> Box<dyn Sampler> {
    Box::new(sampler::Processors::new(root))
}

/// Main memory as this process may use it: the machine's, or its control group's where that is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What there is.
    pub total_bytes: u64,
    /// What could be taken without pushing anybody out.
    pub free_bytes: u64,
}

/// Reads memory below `root`. Cheap enough to be asked again and again.
///
/// # Errors
/// A sentence, when /proc/meminfo is absent or says nothing usable.
pub fn memory(root: &Path) -> Result<Memory, String> {
    let text = read(root, "proc/meminfo").ok_or("/proc/meminfo cannot be read; mount /proc into the container")?;
    let machine = parse::meminfo(&text).ok_or("/proc/meminfo names no MemTotal and MemAvailable")?;
    Ok(group_limits(root).into_iter().fold(machine, |memory, group| Memory {
        total_bytes: memory.total_bytes.min(group.limit_bytes),
        free_bytes: memory
            .free_bytes
            .min(group.limit_bytes.saturating_sub(group.used_bytes)),
    }))
}

/// The limit of this process's memory control group and of each of its ancestors that can be seen.
fn group_limits(root: &Path) -> Vec<parse::GroupMemory> {
    let Some(membership) = read(root, "proc/self/cgroup") else {
        return Vec::new();
    };
    let mut limits = Vec::new();
    for (version, path) in parse::memory_groups(&membership) {
        // Within a container the path is often that of the host, and only the mount's root is ours.
        for directory in Path::new(&path).ancestors() {
            let relative = directory.strip_prefix("/").unwrap_or(directory);
            for mount in version.mounts() {
                let group = root.join(mount).join(relative);
                limits.extend(group_memory(version, &group));
            }
        }
    }
    limits
}

fn group_memory(version: CgroupVersion, group: &Path) -> Option<parse::GroupMemory> {
    let [limit, usage, inactive_key] = match version {
        CgroupVersion::V1 => ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
        CgroupVersion::V2 => ["memory.max", "memory.current", "inactive_file"],
    };
    let text = |file: &str| read(group, file);
    parse::group_memory(
        &text(limit)?,
        &text(usage)?,
        &text("memory.stat").unwrap_or_default(),
        inactive_key,
    )
}

/// A small file of the kernel; nothing where it is absent or may not be read.
fn read(root: &Path, relative: impl AsRef<Path>) -> Option<String> {
    use std::io::Read;
    let path: PathBuf = root.join(relative);
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(FILE_LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Names in a folder of the kernel, sorted; none where it is absent.
fn names(root: &Path, relative: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(relative)).into_iter().flatten();
    let mut names: Vec<String> = entries
        .flatten()
        .take(NAMES_MAX)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests;
