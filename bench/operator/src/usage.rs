//! What the kernel says of the processes (proc(5)), and what that comes to between two looks.

use std::time::Instant;

use localplane::process::{descendants, executable};
use localplane::{Error, Result};

/// Fields of /proc/<pid>/stat after the name in parentheses: state is the first.
const UTIME: usize = 11;

/// Whose time is told.
pub const PROCESSES: [&str; 4] = ["shardwright-operator", "kube-apiserver", "etcd", "bench-operator"];

/// Processor time of every process at one moment, in the order of [`PROCESSES`], seconds.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: Instant,
    cpu_s: [f64; 4],
}

impl Usage {
    /// # Errors
    /// A process is gone.
    pub fn look() -> Result<Self> {
        let mut cpu_s = [0.0; 4];
        for (place, name) in PROCESSES.iter().enumerate() {
            cpu_s[place] = cpu_seconds(pid(name)?)?;
        }
        Ok(Self {
            at: Instant::now(),
            cpu_s,
        })
    }

    /// Cores that each process had on average since.
    pub fn cores_since(&self, before: &Self) -> [f64; 4] {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
        std::array::from_fn(|place| (self.cpu_s[place] - before.cpu_s[place]).max(0.0) / seconds)
    }
}

/// The process of a name: ourselves, or one that we started.
fn pid(name: &str) -> Result<u32> {
    let own = std::process::id();
    let mut known = descendants(own).into_iter().chain([own]);
    let found = known.find(|pid| executable(*pid).as_deref() == Some(name));
    found.ok_or_else(|| Error::Other(format!("{name} does not run")))
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::Other(format!("{path}: {error}")))?;
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 = fields
        .split_whitespace()
        .skip(UTIME)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory of the operator, MiB: resident now, and at most since its start.
///
/// # Errors
/// It is gone.
pub fn operator_mib() -> Result<(f64, f64)> {
    let path = format!("/proc/{}/status", pid(PROCESSES[0])?);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::Other(format!("{path}: {error}")))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib = line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()?;
        Some(kib / 1024.0)
    };
    let both = field("VmRSS:").zip(field("VmHWM:"));
    both.ok_or_else(|| Error::Other(format!("{path} names no VmRSS")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_very_process_has_used_time() {
        let counted = (0..1_000).any(|_| {
            let spun: u64 = (0..20_000_000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i));
            std::hint::black_box(spun);
            super::cpu_seconds(std::process::id()).expect("we are alive") > 0.0
        });
        assert!(counted);
    }
}
