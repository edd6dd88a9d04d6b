//! Shards that crashed on a device and left it: whoever moved them away mended nothing, so where layers of their model come back in time
//! the count of crashes goes on, and so do the waits. Pure.

use super::crashes::Crashes;
use super::observed::Observed;
use super::{Slice, Slot};
use std::collections::BTreeMap;

/// Twice the longest time for which the operator leaves out a device on which a model's shards keep failing: moving there and back takes
/// its time as well.
pub const REMEMBERED_MS: u64 = 30 * 60 * 1000;
/// More than a node has devices, times models that crash there. The oldest goes first.
const REMEMBERED_MAX: usize = 256;

/// What is remembered, by model and device. A model whose weights are others now begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departed {
    left: BTreeMap<Key, Left>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    model_uid: String,
    index: gguf::Digest,
    device: String,
}

impl Key {
    /// Another cut of the same layers crashes alike. One for each device: what crashed on a group may be what comes back on one of them.
    fn all(slot: &Slot, slice: &Slice) -> Vec<Self> {
        let on = |device: &str| Self {
            model_uid: slot.model_uid.clone(),
            index: slice.index,
            device: device.to_owned(),
        };
        slice.devices().map(on).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    failures: u32,
    crashes: Crashes,
    at_ms: u64,
}

impl Left {
    fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.at_ms) < REMEMBERED_MS
    }
}

impl Departed {
    /// A shard is forgotten. One of which no crash is counted leaves nothing behind.
    pub(super) fn leaves(&mut self, slot: &Slot, seen: &Observed, now_ms: u64) {
        self.left.retain(|_, left| left.is_fresh(now_ms));
        if seen.crashes.are_none() {
            return;
        }
        let left = Left {
            failures: seen.failures,
            crashes: seen.crashes,
            at_ms: now_ms,
        };
        for key in Key::all(slot, &seen.slice) {
            self.left.insert(key, left);
        }
        while self.left.len() > REMEMBERED_MAX {
            let oldest = self.left.iter().min_by_key(|(_, left)| left.at_ms);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.left.remove(&key);
        }
    }

    /// A shard of which nothing was done yet goes on with the count of the one that left, if one did.
    pub(super) fn comes_back(&mut self, slot: &Slot, seen: &mut Observed, now_ms: u64) {
        let keys = Key::all(slot, &seen.slice).into_iter();
        let left: Vec<Left> = keys.filter_map(|key| self.left.remove(&key)).collect();
        let fresh = left.iter().filter(|left| left.is_fresh(now_ms));
        if let Some(left) = fresh.max_by_key(|left| left.failures) {
            (seen.failures, seen.crashes) = (left.failures, left.crashes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::observed::{Fault, Progress, State};
    use crate::shard::{Place, Purpose};
    use proto::placement::v1::Runtime;

    /// A shard at rest on a device with that number, of which nothing is counted.
    fn calm(device: u64) -> (Slot, Observed) {
        calm_on(&format!("cpu{device}"))
    }

    fn calm_on(device: &str) -> (Slot, Observed) {
        let slice = Slice {
            index: gguf::Digest([7; 32]),
            first_layer: 0,
            end_layer: 10,
            total_layers: 30,
            device: device.to_owned(),
            backend: "cpu".to_owned(),
            runtime: Runtime::default(),
            weight_root: [1; 32],
        };
        let seen = Observed {
            slice: slice.clone(),
            epoch: 1,
            place: Place {
                epoch: 1,
                pipeline: 0,
                stage: 0,
                purpose: Purpose::Serve,
            },
            state: State::Idle(Progress::New),
            failures: 0,
            crashes: Crashes::default(),
        };
        (Slot::of("uid", &slice), seen)
    }

    fn crashed(device: u64) -> (Slot, Observed) {
        let (slot, mut seen) = calm(device);
        seen.failures = 1;
        seen.crashes.count(Fault::new("Crashed", ""), 0);
        (slot, seen)
    }

    #[test]
    fn of_more_than_can_be_remembered_the_oldest_is_forgotten_first() {
        let mut departed = Departed::default();
        let devices = REMEMBERED_MAX as u64 + 1;
        for device in 0..devices {
            let (slot, seen) = crashed(device);
            departed.leaves(&slot, &seen, device);
        }
        assert_eq!(departed.left.len(), REMEMBERED_MAX);
        let failures_of = |departed: &mut Departed, device: u64| {
            let (slot, mut seen) = calm(device);
            departed.comes_back(&slot, &mut seen, devices);
            seen.failures
        };
        assert_eq!([0, 1].map(|device| failures_of(&mut departed, device)), [0, 1]);
    }

    #[test]
    fn a_crash_on_a_group_counts_for_each_of_its_devices_and_one_on_a_device_for_its_group() {
        let failures = |crashed_on: &str, device: &str| {
            let mut departed = Departed::default();
            let (slot, mut seen) = calm_on(crashed_on);
            seen.failures = 1;
            seen.crashes.count(Fault::new("Crashed", ""), 0);
            departed.leaves(&slot, &seen, 0);
            let (slot, mut seen) = calm_on(device);
            departed.comes_back(&slot, &mut seen, 1);
            seen.failures
        };
        let back_on = ["cuda0", "cuda1", "cuda2", "cuda0+cuda1", "cuda1+cuda2"];
        assert_eq!(back_on.map(|device| failures("cuda0+cuda1", device)), [1, 1, 0, 1, 1]);
        assert_eq!(back_on.map(|device| failures("cuda0", device)), [1, 0, 0, 1, 0]);
    }

    #[test]
    fn what_is_too_old_goes_with_the_next_that_leaves_and_what_never_crashed_leaves_nothing() {
        let mut departed = Departed::default();
        let (slot, seen) = crashed(0);
        departed.leaves(&slot, &seen, 0);
        let (slot, seen) = calm(1);
        departed.leaves(&slot, &seen, REMEMBERED_MS);
        assert_eq!(departed, Departed::default());
    }
}
