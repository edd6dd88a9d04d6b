//! What the kernel says of a process and its children (proc(5)).

use crate::error::{Result, failed, trying};

/// Fields of /proc/<pid>/stat after the name in parentheses: state is the first.
const UTIME: usize = 11;
const CSTIME: usize = 14;

/// Processor time of a process, of its children that have ended, and of those that have not, in seconds.
///
/// # Errors
/// The process is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let own: f64 = times(pid)?.iter().sum();
    let mut sum = own;
    for child in children(pid)? {
        // A child that has just ended is counted with its parent the next time.
        sum += cpu_seconds(child).unwrap_or(0.0);
    }
    Ok(sum)
}

/// User and system time, own and of children that were waited for, in seconds.
fn times(pid: u32) -> Result<[f64; 4]> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(trying(&path))?;
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(UTIME)
        .take(CSTIME - UTIME + 1)
        .filter_map(|field| field.parse().ok())
        .collect();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let ticks: [f64; 4] = ticks
        .try_into()
        .map_err(|_| failed(&path, "reads otherwise than proc(5) says"))?;
    Ok(ticks.map(|ticks| ticks / per_second))
}

/// Children that have not ended.
///
/// # Errors
/// The process is gone.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let tasks = format!("/proc/{pid}/task");
    let mut children = Vec::new();
    for task in std::fs::read_dir(&tasks).map_err(trying(&tasks))?.flatten() {
        // A thread may end while it is asked.
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// The command line; empty once the process has ended.
pub fn arguments(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// Memory that is resident, in MiB.
///
/// # Errors
/// The process is gone.
pub fn rss_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(trying(&path))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| failed(path, "names no VmRSS"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_very_process_has_used_time_and_memory() {
        let pid = std::process::id();
        // The kernel counts in ticks, some of which pass unseen: work goes on until one is counted.
        let counted = (0..1_000).any(|_| {
            let spun: u64 = (0..20_000_000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i));
            std::hint::black_box(spun);
            super::cpu_seconds(pid).expect("we are alive") > 0.0
        });
        assert!(counted);
        assert!(super::rss_mib(pid).expect("we are alive") > 1.0);
    }
}
