//! What the kernel's text files mean. Pure.

use super::Memory;
use crate::text::clean;

/// The x86-64 level that the engine is built for.
pub const BASELINE_LEVEL: u8 = 3;

/// Instruction sets a program may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// x86-64-v1 to v4.
    X86(u8),
    /// Another architecture, by its Rust name.
    Other(&'static str),
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Level::X86(level) => write!(f, "x86-64-v{level}"),
            Level::Other(name) => f.write_str(name),
        }
    }
}

/// What /proc/cpuinfo says of the first processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// "intel", "amd", or as found, in lower case.
    pub vendor: String,
    /// The model name without trademark signs.
    pub model: String,
    /// What its flags amount to.
    pub level: Level,
    /// What it claims, as the kernel names it.
    pub flags: Vec<String>,
    /// What it claims and does not have.
    pub broken: Vec<&'static str>,
}

impl Processor {
    /// The same processor, told that some of what it claims does not work.
    pub fn without(mut self, broken: &[&'static str]) -> Self {
        self.flags.retain(|flag| !super::isa::is_void(flag, broken));
        self.broken.extend(broken);
        if let Level::X86(_) = self.level {
            self.level = Level::X86(x86_level(&self.flags));
        }
        self
    }
}

/// Flags beyond those of the level below. /proc/cpuinfo calls LZCNT `abm` and SSE3 `pni`.
const LEVELS: [(u8, &[&str]); 3] = [
    (2, &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    (
        3,
        &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
    ),
    (4, &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

/// Reads the first processor of /proc/cpuinfo.
pub fn cpuinfo(text: &str) -> Processor {
    let field = |names: &[&str]| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| names.contains(&key.trim()))
            .map(|(_, value)| value.trim().to_owned())
    };
    let flags: Option<Vec<String>> =
        field(&["flags"]).map(|flags| flags.split_whitespace().map(str::to_owned).collect());
    let vendor = match field(&["vendor_id"]).as_deref() {
        Some("GenuineIntel") => "intel".to_owned(),
        Some("AuthenticAMD") => "amd".to_owned(),
        Some(other) => clean(other).to_lowercase(),
        None => "unknown".to_owned(),
    };
    let model = field(&["model name", "Model", "cpu model"])
        .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
        .replace("(R)", "")
        .replace("(TM)", "");
    Processor {
        vendor,
        model: clean(&model.split_whitespace().collect::<Vec<_>>().join(" ")),
        level: match &flags {
            Some(flags) => Level::X86(x86_level(flags)),
            None => Level::Other(std::env::consts::ARCH),
        },
        flags: flags.unwrap_or_default(),
        broken: Vec::new(),
    }
}

fn x86_level(flags: &[String]) -> u8 {
    let present: std::collections::HashSet<&str> = flags.iter().map(String::as_str).collect();
    LEVELS
        .iter()
        .take_while(|(_, wanted)| wanted.iter().all(|flag| present.contains(flag)))
        .last()
        .map_or(1, |(level, _)| *level)
}

/// Reads MemTotal and MemAvailable.
pub fn meminfo(text: &str) -> Option<Memory> {
    let kibibytes = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .and_then(|number| number.checked_mul(1024))
    };
    Some(Memory {
        total_bytes: kibibytes("MemTotal")?,
        free_bytes: kibibytes("MemAvailable")?,
    })
}

/// The two generations of control groups; a machine may mount both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
}

impl CgroupVersion {
    /// Where the memory controller is mounted, relative to the root.
    pub fn mounts(self) -> &'static [&'static str] {
        match self {
            CgroupVersion::V1 => &["sys/fs/cgroup/memory"],
            CgroupVersion::V2 => &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
        }
    }
}

/// Paths of the groups of /proc/self/cgroup that may limit memory.
pub fn memory_groups(text: &str) -> Vec<(CgroupVersion, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            if hierarchy == "0" && controllers.is_empty() {
                Some((CgroupVersion::V2, path.to_owned()))
            } else if controllers.split(',').any(|controller| controller == "memory") {
                Some((CgroupVersion::V1, path.to_owned()))
            } else {
                None
            }
        })
        .collect()
}

/// A group's limit and use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMemory {
    /// The kernel kills beyond it.
    pub limit_bytes: u64,
    /// In use, without page cache that can be dropped.
    pub used_bytes: u64,
}

/// Reads a group. Nothing where it sets no limit: version 2 says `max`, version 1 a number near 2^63.
pub fn group_memory(limit: &str, usage: &str, stat: &str, inactive_key: &str) -> Option<GroupMemory> {
    const NO_LIMIT_BYTES: u64 = 1 << 60;
    let limit_bytes = limit
        .trim()
        .parse::<u64>()
        .ok()
        .filter(|limit| *limit < NO_LIMIT_BYTES)?;
    let usage_bytes = usage.trim().parse::<u64>().ok()?;
    let inactive_bytes = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == inactive_key)
        .and_then(|(_, value)| value.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(GroupMemory {
        limit_bytes,
        used_bytes: usage_bytes.saturating_sub(inactive_bytes),
    })
}
