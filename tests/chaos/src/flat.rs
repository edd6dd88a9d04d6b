//! What processes hold: memory, descriptors, threads; and whether that grows.
//!
//! Killed processes begin anew, so growth is judged within one life: from its figures at [`SETTLED`] to its last ones. A life that is not
//! longer than [`TELLING`] says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::history::Moment;

/// Caches are warm and pools are filled by then.
pub const SETTLED: Duration = Duration::from_secs(60);
/// The shortest life that is judged.
pub const TELLING: Duration = Duration::from_secs(180);
/// Allocators return memory late, and what clients ask for varies: as much is no leak.
const RSS_GROWTH_MIB: f64 = 16.0;
/// For processes that hold much.
const RSS_GROWTH_RATIO: f64 = 0.10;
/// Connections that are being closed or opened.
const DESCRIPTOR_GROWTH: u64 = 16;
/// Blocking calls that are under way have a thread each.
const THREAD_GROWTH: u64 = 8;

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

/// One life of a process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Life {
    /// Which part of the stack.
    pub name: String,
    /// When it was first seen.
    #[serde(skip)]
    pub born: Moment,
    /// When it was last seen.
    #[serde(skip)]
    pub seen: Moment,
    /// At first sight.
    pub first: Figures,
    /// When it had settled.
    pub settled: Option<Figures>,
    /// At last sight.
    pub last: Figures,
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
        let settled = self.settled?;
        if self.seen.saturating_sub(self.born) < TELLING {
            return None;
        }
        let rss_limit = settled.rss_mib + RSS_GROWTH_MIB.max(settled.rss_mib * RSS_GROWTH_RATIO);
        let grown = self.last.rss_mib > rss_limit
            || self.last.descriptors > settled.descriptors + DESCRIPTOR_GROWTH
            || self.last.threads > settled.threads + THREAD_GROWTH;
        grown.then(|| {
            Growth(format!(
                "{}: {:.0} -> {:.0} MiB, {} -> {} descriptors, {} -> {} threads within {:.0} s",
                self.name,
                settled.rss_mib,
                self.last.rss_mib,
                settled.descriptors,
                self.last.descriptors,
                settled.threads,
                self.last.threads,
                (self.seen - self.born).as_secs_f64() - SETTLED.as_secs_f64(),
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
            born: now,
            seen: now,
            first: figures,
            settled: None,
            last: figures,
        });
        life.seen = now;
        life.last = figures;
        if life.settled.is_none() && now.saturating_sub(life.born) >= SETTLED {
            life.settled = Some(figures);
        }
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

    fn growth(last: Figures, seconds: u64) -> Option<String> {
        let mut lives = Lives::default();
        for (at, figures) in [(0, figures(20.0, 30)), (60, figures(40.0, 40)), (seconds, last)] {
            lives.note("gateway", 1, Duration::from_secs(at), figures);
        }
        let life = lives.all().next()?;
        life.growth().map(|growth| growth.to_string())
    }

    #[test]
    fn growth_counts_from_where_a_process_had_settled() {
        assert_eq!(growth(figures(55.0, 50), 600), None);
        let told = growth(figures(57.0, 50), 600).unwrap();
        assert!(told.starts_with("gateway: 40 -> 57 MiB"), "{told}");
        assert!(growth(figures(40.0, 57), 600).is_some());
    }

    #[test]
    fn a_short_life_says_nothing() {
        assert_eq!(growth(figures(400.0, 500), 179), None);
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
