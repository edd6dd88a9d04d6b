//! A line on standard error while something takes long.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What is done sooner shows no progress.
const QUIET: Duration = Duration::from_secs(5);
/// Between two lines on a terminal, where each replaces the one before.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);
/// Between two lines elsewhere, where all remain.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Progress of one piece of work.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total_bytes: u64,
    done_bytes: u64,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Begins now.
    pub fn new(what: &'static str, total_bytes: u64) -> Self {
        Self {
            what,
            total_bytes,
            done_bytes: 0,
            began: Instant::now(),
            shown: None,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// More bytes are done.
    pub fn advance(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        let interval = if self.terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
        let due = match self.shown {
            None => self.began.elapsed() >= QUIET,
            Some(shown) => shown.elapsed() >= interval,
        };
        if due {
            self.shown = Some(Instant::now());
            let line = line(self.what, self.done_bytes, self.total_bytes, self.began.elapsed());
            let (before, after) = if self.terminal { ("\r", "\x1b[K") } else { ("", "\n") };
            // Whether anyone sees it does not matter.
            let _ = write!(std::io::stderr(), "{before}{line}{after}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn line(what: &str, done_bytes: u64, total_bytes: u64, elapsed: Duration) -> String {
    let percent = done_bytes.saturating_mul(100) / total_bytes.max(1);
    let per_second = done_bytes as f64 / elapsed.as_secs_f64().max(1e-3);
    let left = total_bytes.saturating_sub(done_bytes) as f64 / per_second.max(1.0);
    format!(
        "{what}: {percent} % of {}, {}/s, {} left",
        size(total_bytes),
        size(per_second as u64),
        duration(left as u64)
    )
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A number of bytes as people read it: `85.3 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests;
