//! Which workers of an earlier life are what is desired now: decided by what they were started with.

use super::drive::Setting;
use super::launch;
use super::observed::{Observed, State, Work};
use super::step::DesiredShards;
use super::weights::Prepared;
use super::{Desired, Slot};
use crate::worker::leftovers::Left;
use crate::worker::process::Launch;
use gguf::cache::SliceFiles;
use proto::worker::WorkerConfig;
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;

/// A worker that is to be watched on.
pub(super) struct Taken {
    pub(super) slot: Slot,
    pub(super) seen: Observed,
    pub(super) launch: Launch,
    pub(super) left: Left,
}

/// Tells those that are desired, and would be started just as they were, from the others.
pub(super) fn sort(setting: &Setting, desired: &DesiredShards, left: Vec<Left>) -> (Vec<Taken>, Vec<Left>) {
    let (mut taken, mut others) = (Vec::new(), Vec::new());
    for left in left {
        let key = left.key();
        let wanted = desired
            .iter()
            .find(|(slot, wanted)| slot.key() == key && wanted.loads());
        let known = wanted.and_then(|(slot, wanted)| {
            let seen = taken_over(wanted);
            let launch = same_launch(setting, slot, &seen, wanted, &left.config()?)?;
            Some((slot.clone(), seen, launch))
        });
        match known {
            Some((slot, seen, launch)) => taken.push(Taken {
                slot,
                seen,
                launch,
                left,
            }),
            None => others.push(left),
        }
    }
    (taken, others)
}

/// Its worker is on its way to be watched.
fn taken_over(wanted: &Desired) -> Observed {
    Observed {
        state: State::Busy(Work::Spawn),
        ..Observed::new(wanted)
    }
}

/// How the worker would be started now, from the files that it was started with; `None` where that is any different. What an earlier
/// version did not write is what the worker took in its place.
fn same_launch(setting: &Setting, slot: &Slot, seen: &Observed, wanted: &Desired, config: &Value) -> Option<Launch> {
    let launch = launch::launch(setting, slot, seen, wanted, prepared(config)?).ok()?;
    let started = WorkerConfig::deserialize(config).ok()?;
    (launch.config == started).then_some(launch)
}

/// The files that a worker's configuration names.
fn prepared(config: &Value) -> Option<Prepared> {
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    let parts = config["slice"]["parts"].as_array()?;
    Some(Prepared {
        files: SliceFiles {
            header: path(&config["slice"]["header"])?,
            parts: parts.iter().map(path).collect::<Option<_>>()?,
            embedding: path(&config["embedding"]),
        },
        embedding_length: u32::try_from(config["embedding_length"].as_u64()?).ok()?,
    })
}
