//! PURE: devices on which shards of a model keep failing, and for how long they are left out.
//!
//! The agent tries a failed shard again by itself. Only when that does not help is the device left out of the model's
//! placement, for a period that doubles each time; if the model fits nowhere else the device stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::retry;

/// Failures in a row before a device is left out: one may be chance.
const FAILURES_BEFORE_EXCLUSION: u32 = 2;
/// A failure that stands this long counts again: the agent could not mend it.
const STANDING_FAILURE: Duration = Duration::from_secs(15);
/// The same of a stage that is not reached: the stage before it has tried for seconds when it says so, and whoever mends such a link is
/// not on a node. What the other end has to say of it, that it is ending, say, is heard within this. Once the device is left out, it counts
/// like any failure: what is in force stays so until something else is loaded.
const STANDING_UNREACHED: Duration = Duration::from_millis(500);
/// A shard that served for this long is well, and earlier failures are forgotten.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// What one shard does at present, as far as failures matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It failed.
    Failed,
    /// It serves, and the stage before it does not reach it.
    Unreached,
    /// Anything between.
    Working,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    health: Health,
    since: Instant,
    excluded_until: Option<Instant>,
}

impl Record {
    /// After how long what it is counts as one failure more; `None` of what is no failure.
    fn standing(&self) -> Option<Duration> {
        match self.health {
            Health::Unreached if self.failures < FAILURES_BEFORE_EXCLUSION => Some(STANDING_UNREACHED),
            Health::Failed | Health::Unreached => Some(STANDING_FAILURE),
            Health::Serving | Health::Working => None,
        }
    }
}

/// The failures of one model, by device.
#[derive(Debug, Default)]
pub struct Failures {
    by_device: BTreeMap<String, Record>,
}

impl Failures {
    /// Takes over what the shard on `device` does at present.
    pub fn observe(&mut self, device: &str, health: Health, now: Instant) {
        let is_failure = matches!(health, Health::Failed | Health::Unreached);
        if !is_failure && !self.by_device.contains_key(device) {
            return;
        }
        let fresh = Record {
            failures: 0,
            health: Health::Working,
            since: now,
            excluded_until: None,
        };
        let record = self.by_device.entry(device.to_owned()).or_insert(fresh);
        let stood = now.saturating_duration_since(record.since);
        let changed = record.health != health;
        if changed {
            (record.health, record.since) = (health, now);
        }
        match health {
            Health::Failed | Health::Unreached if changed || record.standing().is_some_and(|limit| stood >= limit) => {
                record.since = now;
                record.failures = record.failures.saturating_add(1);
                if record.failures >= FAILURES_BEFORE_EXCLUSION {
                    let beyond = record.failures - FAILURES_BEFORE_EXCLUSION + 1;
                    record.excluded_until = Some(now + retry::DEVICE.wait(beyond, 1.0));
                }
            }
            Health::Serving if !changed && stood >= WELL_AFTER => {
                self.by_device.remove(device);
            }
            Health::Failed | Health::Unreached | Health::Serving | Health::Working => {}
        }
    }

    /// Devices to leave out now.
    #[must_use]
    pub fn excluded(&self, now: Instant) -> BTreeSet<String> {
        let out = |record: &Record| record.excluded_until.is_some_and(|until| now < until);
        self.by_device
            .iter()
            .filter(|(_, record)| out(record))
            .map(|(device, _)| device.clone())
            .collect()
    }

    /// When something changes by itself.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.by_device
            .values()
            .filter_map(|record| match record.health {
                Health::Serving => Some(record.since + WELL_AFTER),
                _ => record.standing().map(|limit| record.since + limit),
            })
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn one_failure_is_chance_and_two_exclude_the_device_for_a_while() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        failures.observe("a", Health::Failed, start);
        assert!(failures.excluded(start).is_empty());
        failures.observe("a", Health::Working, start + seconds(1));
        failures.observe("a", Health::Failed, start + seconds(2));
        assert!(failures.excluded(start + seconds(31)).contains("a"));
        assert!(failures.excluded(start + seconds(33)).is_empty());
    }

    #[test]
    fn the_period_doubles_up_to_a_bound() {
        let (mut failures, mut now) = (Failures::default(), Instant::now());
        for _ in 0..40 {
            failures.observe("a", Health::Failed, now);
            failures.observe("a", Health::Working, now);
            now += seconds(1);
        }
        assert!(failures.excluded(now + seconds(890)).contains("a"));
        assert!(failures.excluded(now + retry::DEVICE.cap).is_empty());
    }

    #[test]
    fn a_failure_that_the_agent_cannot_mend_counts_again() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        failures.observe("a", Health::Failed, start);
        assert_eq!(failures.wakes_at(), Some(start + STANDING_FAILURE));
        failures.observe("a", Health::Failed, start + seconds(14));
        assert!(failures.excluded(start + seconds(14)).is_empty());
        failures.observe("a", Health::Failed, start + seconds(15));
        assert!(failures.excluded(start + seconds(15)).contains("a"));
    }

    #[test]
    fn a_stage_that_is_still_not_reached_once_its_own_node_was_heard_is_left() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        failures.observe("a", Health::Unreached, start);
        failures.observe("b", Health::Unreached, start);
        assert_eq!(failures.wakes_at(), Some(start + STANDING_UNREACHED));
        let within = start + STANDING_UNREACHED / 2;
        failures.observe("a", Health::Unreached, within);
        failures.observe("b", Health::Serving, within);
        assert!(failures.excluded(within).is_empty());
        let after = start + STANDING_UNREACHED;
        failures.observe("a", Health::Unreached, after);
        failures.observe("b", Health::Serving, after);
        assert_eq!(failures.excluded(after).into_iter().collect::<Vec<_>>(), ["a"]);
        // While something else is loaded.
        for half_seconds in 1..20 {
            failures.observe("a", Health::Unreached, after + STANDING_UNREACHED * half_seconds);
        }
        assert!(
            failures.excluded(after + seconds(31)).is_empty(),
            "one cut is one failure"
        );
    }

    #[test]
    fn a_shard_that_serves_and_dies_again_does_not_count_as_well() {
        let (mut failures, mut now) = (Failures::default(), Instant::now());
        for _ in 0..2 {
            failures.observe("a", Health::Failed, now);
            failures.observe("a", Health::Serving, now + seconds(5));
            now += seconds(10);
        }
        assert!(failures.excluded(now).contains("a"));
        failures.observe("a", Health::Serving, now);
        failures.observe("a", Health::Serving, now + WELL_AFTER);
        assert_eq!(failures.wakes_at(), None, "it has been forgotten");
    }

    #[test]
    fn devices_without_failures_cost_nothing() {
        let mut failures = Failures::default();
        failures.observe("a", Health::Serving, Instant::now());
        assert!(failures.by_device.is_empty());
    }
}
