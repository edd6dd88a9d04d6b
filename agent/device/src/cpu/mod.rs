//! The processors and main memory of the node, as one device.

pub mod measure;
pub mod parse;

use crate::{Answer, Backend, GpuDevice, Kind, Measured};
use parse::{CgroupVersion, Level};
use std::path::{Path, PathBuf};

/// Files of the kernel are small; a longer one is not what it claims to be.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// Reads the machine below `root` ("/" but in tests), verifies and measures.
pub fn probe(root: &Path, now_unix_s: u64) -> Answer {
    let memory = match memory(root) {
        Ok(memory) => memory,
        Err(note) => return Answer::nothing(Backend::Cpu, note),
    };
    let processor = parse::cpuinfo(&read(root, "proc/cpuinfo").unwrap_or_default());
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let verification = match processor.level {
        Level::X86(level) if level < parse::BASELINE_LEVEL => crate::Verification::Failed {
            reason: format!(
                "UnsupportedCPU: {} is x86-64-v{level}; llama.cpp is built for x86-64-v{} (AVX2, FMA, F16C)",
                processor.model,
                parse::BASELINE_LEVEL
            ),
        },
        _ => measure::verify(),
    };
    let bandwidth = measure::bandwidth(cores, memory.free_bytes, now_unix_s);
    Answer {
        backend: Backend::Cpu,
        devices: vec![GpuDevice {
            vendor: processor.vendor,
            model: processor.model,
            architecture: Some(processor.level.to_string()),
            compute_units: Some(cores),
            memory_total_bytes: memory.total_bytes,
            memory_free_bytes: memory.free_bytes,
            memory_usable_bytes: memory.free_bytes,
            verification,
            measured: Measured {
                bandwidth_bytes_per_second: bandwidth,
                ..Measured::default()
            },
            ..GpuDevice::new(Backend::Cpu, 0, Kind::Cpu)
        }],
        note: None,
    }
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

fn read(root: &Path, relative: &str) -> Option<String> {
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

#[cfg(test)]
mod tests;
