//! What processes hold: memory, descriptors, threads; and whether that grows.
//!
//! Killed processes begin anew, so growth is judged within one life. What a process holds goes up and down with what it does; a leak raises
//! the least that it holds. So the least of the second half of a life, from [`SETTLED`] on, is held against the least of the first. A life
//! that is not longer than [`TELLING`] says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::history::Moment;

/// Caches are warm and pools are filled by then.
pub const SETTLED: Duration = Duration::from_secs(60);
/// The shortest life that is judged.
pub const TELLING: Duration = Duration::from_secs(180);
/// Allocators keep what was free once: as much is no leak.
const RSS_GROWTH_MIB: f64 = 8.0;
/// For processes that hold much.
const RSS_GROWTH_RATIO: f64 = 0.10;
/// Connections to a part that was not there in the first half.
const DESCRIPTOR_GROWTH: u64 = 8;
/// Threads for blocking calls end after ten seconds without one.
const THREAD_GROWTH: u64 = 4;

/// What one process holds now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// Memory that is resident.
    pub rss_mib: f64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Figures {
    /// Reads them; `None` when the process is gone.
    pub fn of(id: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
        Some(Self {
            rss_mib: field("VmRSS:")? as f64 / 1024.0,
            descriptors: u64::try_from(descriptors).unwrap_or(u64::MAX),
            threads: field("Threads:")?,
        })
    }
}

impl Figures {
    /// The lesser of each.
    fn floor(self, other: Self) -> Self {
        Self {
            rss_mib: self.rss_mib.min(other.rss_mib),
            descriptors: self.descriptors.min(other.descriptors),
            threads: self.threads.min(other.threads),
        }
    }
}

/// One life of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// Which part of the stack.
    pub name: String,
    /// At every look, with its time.
    looks: Vec<(Moment, Figures)>,
}

/// Where a process holds more and more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth(String);

impl std::fmt::Display for Growth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Life {
    /// What grew within this life, if it was long enough to tell.
    pub fn growth(&self) -> Option<Growth> {
        let (born, seen) = (self.looks.first()?.0, self.looks.last()?.0);
        if seen.saturating_sub(born) < TELLING {
            return None;
        }
        let middle = (born + SETTLED + seen) / 2;
        let floor = |from: Moment, to: Moment| {
            let within = self.looks.iter().filter(|(at, _)| *at >= from && *at <= to);
            within.map(|(_, figures)| *figures).reduce(Figures::floor)
        };
        let (before, after) = (floor(born + SETTLED, middle)?, floor(middle, seen)?);
        let grown = after.rss_mib > before.rss_mib + RSS_GROWTH_MIB.max(before.rss_mib * RSS_GROWTH_RATIO)
            || after.descriptors > before.descriptors + DESCRIPTOR_GROWTH
            || after.threads > before.threads + THREAD_GROWTH;
        grown.then(|| {
            Growth(format!(
                "{}: at least {:.0}, then {:.0} MiB; {}, then {} descriptors; {}, then {} threads; in halves of {:.0} s",
                self.name,
                before.rss_mib,
                after.rss_mib,
                before.descriptors,
                after.descriptors,
                before.threads,
                after.threads,
                (seen - middle).as_secs_f64(),
            ))
        })
    }
}

/// All lives of a run.
#[derive(Debug, Clone, Default)]
pub struct Lives {
    living: BTreeMap<(String, u32), Life>,
}

impl Lives {
    /// Looks at a process.
    pub fn look(&mut self, name: &str, id: u32, now: Moment) {
        if let Some(figures) = Figures::of(id) {
            self.note(name, id, now, figures);
        }
    }

    fn note(&mut self, name: &str, id: u32, now: Moment, figures: Figures) {
        let life = self.living.entry((name.to_owned(), id)).or_insert_with(|| Life {
            name: name.to_owned(),
            looks: Vec::new(),
        });
        life.looks.push((now, figures));
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Life> {
        self.living.values()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Figures, Lives};

    fn figures(rss_mib: f64, descriptors: u64) -> Figures {
        Figures {
            rss_mib,
            descriptors,
            threads: 4,
        }
    }

    /// Of a process that is looked at every ten seconds.
    fn growth(seconds: u64, at: impl Fn(u64) -> Figures) -> Option<String> {
        let mut lives = Lives::default();
        for second in (0..=seconds).step_by(10) {
            lives.note("gateway", 1, Duration::from_secs(second), at(second));
        }
        let life = lives.all().next()?;
        life.growth().map(|growth| growth.to_string())
    }

    #[test]
    fn what_goes_up_and_down_does_not_grow_and_what_rises_does() {
        let busy = |second: u64| {
            figures(
                30.0 + if second.is_multiple_of(30) { 60.0 } else { 0.0 },
                40 + second % 7,
            )
        };
        assert_eq!(growth(600, busy), None);
        let leaking = growth(600, |second| figures(30.0 + second as f64 / 20.0, 40)).unwrap();
        assert!(leaking.starts_with("gateway: at least 33, then 4"), "{leaking}");
        assert!(growth(600, |second| figures(30.0, 40 + second / 20)).is_some());
    }

    #[test]
    fn warming_up_is_no_growth() {
        assert_eq!(
            growth(600, |second| figures(if second < 60 { 10.0 } else { 90.0 }, 40)),
            None
        );
    }

    #[test]
    fn a_short_life_says_nothing() {
        assert_eq!(growth(170, |second| figures(second as f64, 40)), None);
    }

    #[test]
    fn a_process_that_was_started_again_is_another_life() {
        let mut lives = Lives::default();
        lives.note("agent", 1, Duration::ZERO, figures(10.0, 10));
        lives.note("agent", 2, Duration::from_secs(600), figures(100.0, 100));
        assert!(lives.all().all(|life| life.growth().is_none()));
        assert_eq!(lives.all().count(), 2);
    }

    #[test]
    fn this_very_process_has_figures() {
        let own = Figures::of(std::process::id()).unwrap();
        assert!(own.rss_mib > 0.0 && own.descriptors > 2 && own.threads > 0);
    }
}
